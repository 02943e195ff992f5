//! `muster top`: what a daemon holds, live, full screen.

mod figures;
mod view;

use std::io::{IsTerminal, stdin, stdout};
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde_json::{Value, json};

use crate::args::TopArgs;
use crate::client::call;
use crate::output::{Failure, because, say};
use crate::top::figures::Figures;
use crate::top::view::View;

/// What one look at the daemon brings.
const ASKED: [&str; 5] = ["status", "members", "neighbors", "sas", "events"];

pub(crate) fn run(args: &TopArgs) -> Result<(), Failure> {
    let interval = args.interval;
    if args.read.json {
        return lines(args, interval);
    }
    if !stdout().is_terminal() || !stdin().is_terminal() {
        return Err(because("top needs a terminal; with --json it prints a line each time"));
    }
    // A daemon that is not there is told before the screen is taken.
    let first = look(args)?;
    // It restores the terminal also after a panic.
    let mut terminal = ratatui::try_init()?;
    let shown = show(&mut terminal, args, interval, first);
    ratatui::try_restore()?;
    shown
}

/// For programs: one object a line, until nobody reads or the daemon ends.
fn lines(args: &TopArgs, interval: Duration) -> Result<(), Failure> {
    loop {
        let mut seen = look(args)?;
        // `events --follow` tells them once each.
        seen.as_object_mut().map(|seen| seen.remove("events"));
        say(seen)?;
        std::thread::sleep(interval);
    }
}

fn show(terminal: &mut DefaultTerminal, args: &TopArgs, interval: Duration, first: Value) -> Result<(), Failure> {
    let mut view = View::new(Figures::new(first, None));
    let mut looked = Instant::now();
    loop {
        terminal.draw(|frame| view.draw(frame))?;
        if event::poll(interval.saturating_sub(looked.elapsed()))? {
            match event::read()? {
                Event::Key(key) if ends(&key) => return Ok(()),
                Event::Key(key) if key.kind != KeyEventKind::Release => match key.code {
                    KeyCode::Down | KeyCode::Char('j') => view.scroll(1),
                    KeyCode::Up | KeyCode::Char('k') => view.scroll(-1),
                    KeyCode::PageDown => view.scroll(10),
                    KeyCode::PageUp => view.scroll(-10),
                    _ => {}
                },
                _ => {}
            }
        }
        if looked.elapsed() >= interval {
            // A daemon that restarts is back in a moment: what it said last stays to be seen until then.
            match look(args) {
                Ok(seen) => view.update(seen, looked.elapsed()),
                Err(Failure::Because(why)) => view.lose(why),
                Err(other) => return Err(other),
            }
            looked = Instant::now();
        }
    }
}

fn ends(key: &KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) || (control && key.code == KeyCode::Char('c'))
}

/// All that there is to see at one moment, by name.
fn look(args: &TopArgs) -> Result<Value, Failure> {
    let answers = ASKED.iter().map(|what| Ok(((*what).to_owned(), call(&args.read.socket, what, json!({}))?)));
    Ok(Value::Object(answers.collect::<Result<_, Failure>>()?))
}
