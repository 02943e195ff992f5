//! What a rekey costs the traffic: nothing, if it is hitless.
//!
//! Some routers stay and send multicast to each other all the time, while the key is changed again and again and guests join
//! and leave (or are killed); key messages may be lost. Counted is what those that stay lose of each other, and what comes
//! twice.
//!
//! `cargo run --release -p muster-netns-tests --bin bench-hitless` prints a table; MUSTER_BACKEND=kernel takes the kernel's
//! ESP.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use muster_netlab::Weather;
use muster_netns_tests::{Lab, carry, multicast_flow_at, skip, wait_until};

#[derive(Parser)]
#[command(about = "Counts what rekeys lose of the traffic")]
struct Arguments {
    /// Routers that stay and send.
    #[arg(long, default_value_t = 5)]
    routers: usize,
    /// Routers that come and go.
    #[arg(long, default_value_t = 2)]
    guests: usize,
    /// Datagrams a second of each that stays.
    #[arg(long, default_value_t = 2000)]
    rate: u32,
    /// How long, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// A rekey is asked for so often, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    rekey: u64,
    /// Key messages and hellos lost of a hundred; ESP is spared.
    #[arg(long, value_delimiter = ',', default_value = "0,10")]
    loss: Vec<u8>,
    /// Guests are killed instead of ended.
    #[arg(long)]
    kill: bool,
    /// `group.activation_delay` of all.
    #[arg(long, default_value = "200ms")]
    activation_delay: String,
}

const LIMIT: Duration = Duration::from_secs(120);
/// A guest comes or goes so often, at the next rekey.
const TURN: Duration = Duration::from_millis(2500);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if skip("bench-hitless") {
        return ExitCode::FAILURE;
    }
    if arguments.routers < 2
        || arguments.rate == 0
        || arguments.seconds == 0
        || arguments.rekey == 0
        || arguments.loss.iter().any(|loss| *loss > 99)
    {
        eprintln!("bench-hitless: at least two routers, no zeros, and not all may be lost");
        return ExitCode::from(2);
    }
    println!("| key messages lost | epochs | guests' comings and goings | datagrams due | lost | twice |");
    println!("|---|---|---|---|---|---|");
    let mut whole = true;
    for loss in &arguments.loss {
        let Outcome { epochs, turns, due, lost, twice, details } = measure(&arguments, *loss);
        println!("| {loss} % | {epochs} | {turns} | {due} | {lost} | {twice} |");
        details.iter().for_each(|line| eprintln!("{line}"));
        whole &= lost + twice == 0;
    }
    // Who is killed cannot say so: what is lost then is reported.
    if whole || arguments.kill { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Outcome {
    /// Entered meanwhile by the first router.
    epochs: u64,
    /// Of guests.
    turns: u64,
    /// To be received, by all that stay together.
    due: u64,
    lost: u64,
    twice: u64,
    /// Where something was lost.
    details: Vec<String>,
}

fn measure(arguments: &Arguments, loss: u8) -> Outcome {
    let stay: Vec<usize> = (0..arguments.routers).collect();
    let mut lab = Lab::new(arguments.routers + arguments.guests);
    lab.capture.stop();
    for router in 0..arguments.routers + arguments.guests {
        let delay = format!("name = \"coalition\"\nactivation_delay = \"{}\"", arguments.activation_delay);
        lab.configure(router, |text| *text = text.replace("name = \"coalition\"", &delay));
    }
    if loss > 0 {
        let weather = Weather { loss, duplicates: 0, delay: Duration::ZERO, spares_esp: true, seed: 1 };
        lab.coalition.set_weather(weather).expect("a switch");
    }
    stay.iter().for_each(|router| lab.start(*router));
    lab.wait_for_group_within(LIMIT, &stay);
    let others = |from: usize| stay.iter().copied().filter(|to| *to != from).collect::<Vec<_>>();
    stay.iter().for_each(|from| carry(&lab, *from, &others(*from), 20));
    let first = lab.state(0).expect("it answers").1;
    // More than can be sent meanwhile.
    let count = u64::from(arguments.rate) * (arguments.seconds + LIMIT.as_secs());
    let flows: Vec<_> =
        stay.iter().map(|from| multicast_flow_at(&lab, *from, &others(*from), count, arguments.rate)).collect();

    let (begun, mut rekeys, mut turns) = (Instant::now(), 0, 0);
    while begun.elapsed() < Duration::from_secs(arguments.seconds) {
        rekeys += 1;
        let next = begun + Duration::from_millis(arguments.rekey) * rekeys;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        // By another router each time, whoever is transaction manager.
        let from = rekeys as usize % arguments.routers;
        let answer = lab.ask(from, &["rekey"]);
        assert_eq!(answer.status, 0, "{answer:?}");
        if arguments.guests > 0 && begun.elapsed() > TURN * (turns as u32 + 1) {
            turn(&mut lab, arguments, turns);
            turns += 1;
        }
    }
    let epochs = lab.state(0).expect("it answers").1.saturating_sub(first);

    let (mut due, mut lost, mut twice, mut details) = (0, 0, 0, Vec::new());
    for (from, (sender, receivers)) in stay.iter().zip(flows) {
        let sent = sender.stop();
        for (to, receiver) in others(*from).into_iter().zip(&receivers) {
            // What was sent last is on its way; what is lost does not come.
            wait_until(Duration::from_secs(3), || receiver.unique() == sent);
            let tally = receiver.tally();
            let missing = tally.missing(sent);
            (due, lost, twice) = (due + sent, lost + missing.len() as u64, twice + tally.duplicates);
            if !missing.is_empty() || tally.duplicates > 0 {
                let dropped = lab.get(to, "status")["dataplane"]["dropped"].to_string();
                let (lost, first, twice) = (missing.len(), missing.first(), tally.duplicates);
                details.push(format!("{from} → {to}: {lost} lost, from {first:?}, {twice} twice; {dropped}"));
            }
        }
    }
    Outcome { epochs, turns, due, lost, twice, details }
}

/// The next guest comes, or goes if it is there. One that is only just coming, on a slow machine, stays.
fn turn(lab: &mut Lab, arguments: &Arguments, turns: u64) {
    let guest = arguments.routers + (turns as usize / 2) % arguments.guests;
    match (lab.runs(guest), arguments.kill) {
        (false, _) => lab.start(guest),
        (true, _) if lab.call(guest, "status").is_none() => {}
        (true, false) => lab.terminate(guest),
        (true, true) => lab.kill(guest),
    }
}
