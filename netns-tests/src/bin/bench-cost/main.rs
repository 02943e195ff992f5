//! What a group costs: memory and processor time of its daemons, and the bytes on the wire of a join and an exclusion.
//!
//! `cargo run --release -p muster-netns-tests --bin bench-cost` prints tables for a group of fifty.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use muster_netlab::Capture;
use muster_netns_tests::{Datagram, Lab, PORTS, datagrams, monotonic, skip};

#[derive(Parser)]
#[command(about = "Measures memory, idle processor time, and bytes on the wire")]
struct Arguments {
    /// Size of the group.
    #[arg(long, default_value_t = 50)]
    routers: usize,
    /// How long the idle processor time is measured, in seconds.
    #[arg(long, default_value_t = 20)]
    idle: u64,
}

const LIMIT: Duration = Duration::from_secs(60);
const HELLO: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let Arguments { routers, idle } = Arguments::parse();
    if skip("bench-cost") {
        return ExitCode::FAILURE;
    }
    if routers < 3 || idle == 0 {
        eprintln!("bench-cost: at least three routers and one second");
        return ExitCode::from(2);
    }
    let mut lab = Lab::new(routers);
    lab.capture.stop();
    (0..routers).for_each(|router| lab.configure(router, |text| *text = text.replace("250ms", "1s")));
    let all: Vec<usize> = (0..routers).collect();
    let (joiner, rest) = (routers - 1, &all[..routers - 1]);
    rest.iter().for_each(|router| lab.start(*router));
    lab.wait_for_group_within(LIMIT, rest);
    lab.wait_until_quiet(LIMIT, rest);

    let background = measured(&lab, HELLO * 5, || {});
    let capture = Capture::start(lab.coalition.black(), lab.coalition.watch(PORTS)).expect("a capture");
    lab.start(joiner);
    lab.wait_for_group_within(LIMIT, &all);
    lab.wait_until_quiet(LIMIT, &all);
    let join = all_of(&capture);
    drop(capture);
    show(&format!("a join as number {routers}, until all is quiet"), &join, &background);

    let resident: Vec<u64> = all.iter().map(|router| lab.resident(*router)).collect();
    let most = resident.iter().max().copied().unwrap_or_default();
    let mean = resident.iter().sum::<u64>() / routers as u64;
    println!("resident memory of a daemon in a group of {routers}: {:.1} MB, at most {:.1} MB", mega(mean), mega(most));

    let (begun, before) = (monotonic(), all.iter().map(|router| lab.processor(*router)).collect::<Vec<_>>());
    sleep(Duration::from_secs(idle));
    let took = (monotonic() - begun).as_secs_f64();
    let shares: Vec<f64> =
        all.iter().zip(before).map(|(router, before)| (lab.processor(*router) - before).as_secs_f64() / took).collect();
    let (mean, most) = (shares.iter().sum::<f64>() / routers as f64, shares.iter().copied().fold(0.0, f64::max));
    println!(
        "idle processor time of a daemon with {} neighbours: {:.2} % of a core, at most {:.2} %\n",
        routers - 1,
        mean * 100.0,
        most * 100.0
    );

    let capture = Capture::start(lab.coalition.black(), lab.coalition.watch(PORTS)).expect("a capture");
    lab.kill(joiner);
    lab.wait_for_group_within(LIMIT, rest);
    lab.wait_until_quiet(LIMIT, rest);
    show(&format!("an exclusion from {routers}, from the silence until all is quiet"), &all_of(&capture), &background);
    ExitCode::SUCCESS
}

/// What was on the wire in a time, with the time.
struct Seen {
    datagrams: Vec<Datagram>,
    during: Duration,
}

fn measured(lab: &Lab, during: Duration, work: impl FnOnce()) -> Seen {
    let capture = Capture::start(lab.coalition.black(), lab.coalition.watch(PORTS)).expect("a capture");
    work();
    sleep(during);
    all_of(&capture)
}

fn all_of(capture: &Capture) -> Seen {
    assert!(capture.settle(LIMIT), "the capture does not settle");
    let datagrams = datagrams(capture, PORTS);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let during = datagrams.first().map(|first| now.saturating_sub(first.at)).unwrap_or_default();
    Seen { datagrams, during }
}

/// By kind of message; hellos less those that would have come anyway.
fn show(what: &str, seen: &Seen, background: &Seen) {
    let mut kinds: BTreeMap<&str, (f64, f64, usize)> = BTreeMap::new();
    for datagram in &seen.datagrams {
        let (count, bytes, multicast) = kinds.entry(datagram.kind()).or_default();
        (*count, *bytes) = (*count + 1.0, *bytes + datagram.on_wire as f64);
        *multicast += usize::from(datagram.multicast);
    }
    let part = seen.during.as_secs_f64() / background.during.as_secs_f64();
    for datagram in &background.datagrams {
        let (count, bytes, _) = kinds.entry(datagram.kind()).or_default();
        (*count, *bytes) = (*count - part, *bytes - part * datagram.on_wire as f64);
    }
    println!("{what} ({:.1} s; periodic hellos taken off):\n", seen.during.as_secs_f64());
    println!("| message | datagrams | to all | kB |\n|---|---|---|---|");
    for (kind, (count, bytes, multicast)) in &kinds {
        println!("| {kind} | {count:.0} | {multicast} | {:.1} |", bytes / 1000.0);
    }
    let (count, bytes) = kinds.values().fold((0.0, 0.0), |sum, kind| (sum.0 + kind.0, sum.1 + kind.1));
    println!("| all | {count:.0} | | {:.1} |\n", bytes / 1000.0);
}

fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
