//! The screen.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Table};
use serde_json::Value;

use crate::top::figures::{COLUMNS, Figures, HEADINGS};

/// Events that are always seen, if there is room for anything.
const EVENTS: u16 = 5;
/// How wide a value at the top may be, with its name.
const HEAD_WIDTH: u16 = 38;

/// What is shown, and from which device on.
pub(super) struct View {
    figures: Figures,
    first: usize,
    /// Why the daemon does not answer any more.
    lost: Option<String>,
}

impl View {
    pub(super) fn new(figures: Figures) -> View {
        View { figures, first: 0, lost: None }
    }

    /// Another look, some time after the last.
    pub(super) fn update(&mut self, seen: Value, elapsed: Duration) {
        // What was counted before a daemon was away is another process's.
        let before = self.lost.is_none().then_some((&self.figures, elapsed));
        self.figures = Figures::new(seen, before);
        self.lost = None;
    }

    pub(super) fn lose(&mut self, why: String) {
        self.lost = Some(why);
    }

    pub(super) fn scroll(&mut self, by: isize) {
        let last = self.figures.devices.len().saturating_sub(1);
        self.first = self.first.saturating_add_signed(by).min(last);
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let abreast = usize::from((area.width / HEAD_WIDTH).max(1));
        let head: Vec<Line<'_>> = self.figures.head.chunks(abreast).map(head_line).collect();
        let devices = (self.figures.devices.len() - self.first.min(self.figures.devices.len())) as u16 + 1;
        let [top, middle, bottom, foot] = Layout::vertical([
            Constraint::Length(head.len() as u16 + 1),
            Constraint::Max(devices + 1),
            Constraint::Min(EVENTS),
            Constraint::Length(1),
        ])
        .areas(area);
        frame.render_widget(Paragraph::new(head), top);
        frame.render_widget(self.table(), middle);
        let events = self.figures.events.iter().map(|event| Line::from(event.as_str()));
        frame.render_widget(Paragraph::new(events.collect::<Vec<_>>()).dim(), bottom);
        self.foot(frame, foot);
    }

    fn table(&self) -> Table<'_> {
        let rows = self.figures.devices.iter().skip(self.first).map(|row| Row::new(row.iter().map(String::as_str)));
        Table::new(rows, self.widths()).header(Row::new(HEADINGS).style(Style::new().bold())).column_spacing(2)
    }

    /// As wide as what stands in them; the last takes what is left.
    fn widths(&self) -> [Constraint; COLUMNS] {
        let mut column = 0;
        HEADINGS.map(|heading| {
            let widest = self.figures.devices.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
            column += 1;
            match column == COLUMNS {
                true => Constraint::Fill(1),
                false => Constraint::Length(widest.max(heading.len()) as u16),
            }
        })
    }

    fn foot(&self, frame: &mut Frame<'_>, area: Rect) {
        let line = match &self.lost {
            Some(why) => Line::from(why.as_str()).red(),
            None => Line::from("q ends, arrows scroll").dim(),
        };
        frame.render_widget(line, area);
    }
}

fn head_line<'a>(fields: &'a [(&'static str, String)]) -> Line<'a> {
    let spans = fields.iter().flat_map(|(name, value)| {
        let rest = usize::from(HEAD_WIDTH) - HEAD_NAME;
        [Span::from(format!("{name:HEAD_NAME$}")).dim(), Span::from(format!("{value:rest$}"))]
    });
    Line::from_iter(spans)
}

/// How wide the names at the top are.
const HEAD_NAME: usize = 12;

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;

    fn drawn(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    fn line<'a>(screen: &'a str, with: &str) -> &'a str {
        screen.lines().find(|line| line.contains(with)).unwrap_or_else(|| panic!("no {with} in\n{screen}"))
    }

    fn seen(packets: u64) -> Value {
        let member = |slot: u64, name: &str, id: &str, manages: bool| {
            json!({"slot": slot, "name": name, "organisation": "Alpha", "member_id": id.repeat(32), "self": slot == 0,
                   "is_transaction_manager": manages, "address": "2001:db8::1", "prefixes": ["10.0.0.0/24"]})
        };
        json!({
            "status": {"device": "alpha-1", "organisation": "Alpha", "state": "member",
                "group": {"name": "coalition", "members": 2, "epoch": 7, "key_fingerprint": "00112233"},
                "dataplane": {"backend": "userspace", "sas": 2, "rx_packets": packets, "tx_packets": 1,
                    "dropped": {"auth": 2, "replay": 1}}},
            "members": [member(1, "bravo-1", "bb", true), member(0, "alpha-1", "aa", false)],
            "neighbors": [
                {"name": "bravo-1", "member_id": "bb".repeat(32), "state": "up", "last_hello_ms": 40},
                {"name": "mallory", "member_id": "cc".repeat(32), "state": "refused", "reason": "revoked\u{1b}[2J"},
            ],
            "sas": [
                {"direction": "in", "sender": "bb".repeat(32), "packets": packets / 2},
                {"direction": "in", "sender": "bb".repeat(32), "packets": packets / 2},
                {"direction": "out", "sender": "aa".repeat(32), "packets": 99},
            ],
            "events": [{"event": "join", "detail": "older"}, {"event": "epoch", "detail": "newer"}],
        })
    }

    #[test]
    fn it_shows_devices_by_slot_and_who_is_outside() {
        let view = View::new(Figures::new(seen(0), None));
        let screen = drawn(&view, 130, 24);
        assert!(line(&screen, "device").contains("alpha-1 (Alpha)"), "{screen}");
        assert!(line(&screen, "dropped").contains('3'), "{screen}");
        let at = |what: &str| screen.lines().position(|line| line.contains(what)).unwrap();
        assert!(at("self") < at("up, manager") && at("up, manager") < at("mallory"), "{screen}");
        assert!(line(&screen, "mallory").contains("revoked") && !screen.contains('\u{1b}'), "{screen}");
        assert!(at("newer") < at("older"), "{screen}");
    }

    #[test]
    fn with_a_key_server_it_shows_that() {
        let mut seen = seen(0);
        seen["status"]["gcks"] = "192.0.2.9:848".into();
        seen["status"]["group"] = json!({"mode": "centralised", "groups": [{}, {}], "flows": 4});
        let screen = drawn(&View::new(Figures::new(seen, None)), 130, 24);
        assert!(line(&screen, "key server").contains("192.0.2.9:848"), "{screen}");
        assert!(line(&screen, "groups").contains('2') && !screen.contains("manager     "), "{screen}");
    }

    #[test]
    fn rates_come_from_two_looks_and_not_across_a_restart() {
        let mut view = View::new(Figures::new(seen(100), None));
        view.update(seen(1100), Duration::from_secs(2));
        let screen = drawn(&view, 130, 24);
        assert!(line(&screen, "received").contains("1100 (500/s)"), "{screen}");
        assert!(line(&screen, "up, manager").contains(" 500 "), "{screen}");
        view.lose("control.sock: no answer".into());
        assert!(drawn(&view, 130, 24).contains("no answer"));
        view.update(seen(5), Duration::from_secs(1));
        let screen = drawn(&view, 130, 24);
        assert!(line(&screen, "received").contains("5 (-/s)") && !screen.contains("no answer"), "{screen}");
    }

    #[test]
    fn it_scrolls_within_bounds_and_fits_any_screen() {
        let mut view = View::new(Figures::new(seen(0), None));
        view.scroll(-5);
        view.scroll(2);
        assert!(!drawn(&view, 130, 24).contains("up, manager"));
        view.scroll(50);
        assert!(drawn(&view, 130, 24).contains("mallory"));
        for (width, height) in [(1, 1), (20, 3), (37, 8), (400, 100)] {
            drawn(&view, width, height);
        }
        view.update(json!({}), Duration::ZERO);
        drawn(&view, 80, 24);
    }
}
