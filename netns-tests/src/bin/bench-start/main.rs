//! How long a cold start takes: from the last of many routers' starts to one group that all of them send in.
//!
//! All daemons run on this one machine, each in its own network namespace, with the default configuration, and start
//! within a second of each other, or at once; the network may lose datagrams. All times are the daemons' own events
//! (CLOCK_MONOTONIC), read afterwards, so that looking costs nothing while it matters.
//!
//! `cargo run --release -p muster-netns-tests --bin bench-start -- --routers 20,50 --loss 0,20` prints a table.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use clap::Parser;
use muster_netlab::Weather;
use muster_netns_tests::{Lab, monotonic, skip};
use serde_json::Value;

#[derive(Parser)]
#[command(about = "Measures cold starts: the last start to one group")]
struct Arguments {
    /// Routers.
    #[arg(long, value_delimiter = ',', default_value = "5,10,20,50")]
    routers: Vec<usize>,
    /// Datagrams lost of a hundred.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    loss: Vec<u8>,
    /// All start within so many milliseconds.
    #[arg(long, default_value_t = 1000)]
    within: u64,
    /// Starts of each.
    #[arg(long, default_value_t = 5)]
    runs: u64,
}

/// Long enough for any.
const LIMIT: Duration = Duration::from_secs(120);
/// So long after the group is one, what it still changes is counted.
const AFTERWARDS: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let Arguments { routers, loss, within, runs } = Arguments::parse();
    if skip("bench-start") {
        return ExitCode::FAILURE;
    }
    if runs == 0 || routers.iter().any(|routers| *routers < 2) || loss.iter().any(|loss| *loss > 99) {
        eprintln!("bench-start: two routers, one run, and not all may be lost");
        return ExitCode::from(2);
    }
    println!("| routers | loss | one group after (ms), median / most | epochs until then | epochs afterwards |");
    println!("|---|---|---|---|---|");
    for routers in routers {
        for loss in &loss {
            let mut all: Vec<Start> = (0..runs).map(|run| measure(routers, *loss, within, run)).collect();
            all.sort_by_key(|start| start.took);
            let (median, most) = (all[all.len() / 2].took, all[all.len() - 1].took);
            let epochs = all.iter().map(|start| start.epochs).max().unwrap_or_default();
            let later = all.iter().map(|start| start.later).max().unwrap_or_default();
            println!("| {routers} | {loss} % | {} / {} | {epochs} | {later} |", median / 1000, most / 1000);
        }
    }
    ExitCode::SUCCESS
}

/// What came of a cold start.
struct Start {
    /// Microseconds from the last start until the last router sends under the group's key.
    took: u64,
    /// The most epochs that a router was in until then.
    epochs: usize,
    /// And after it.
    later: usize,
}

fn measure(routers: usize, loss: u8, within: u64, run: u64) -> Start {
    let all: Vec<usize> = (0..routers).collect();
    let mut lab = Lab::new(routers);
    lab.capture.stop();
    for router in &all {
        // As it comes: an interval of one second.
        lab.configure(*router, |text| *text = text.replace("hello_interval = \"250ms\"\n", ""));
    }
    if loss > 0 {
        let weather = Weather { loss, duplicates: 0, delay: Duration::ZERO, spares_esp: false, seed: run };
        lab.coalition.set_weather(weather).expect("a switch");
    }
    let (begun, pause) = (monotonic(), Duration::from_millis(within) / routers as u32);
    for router in &all {
        sleep((begun + pause * *router as u32).saturating_sub(monotonic()));
        lab.start(*router);
    }
    lab.wait(LIMIT, "one group", || {
        sleep(POLL);
        lab.is_group(&all)
    });
    sleep(AFTERWARDS);
    lab.wait_for_group_within(LIMIT, &all);
    read(&lab, &all)
}

fn read(lab: &Lab, routers: &[usize]) -> Start {
    let events: Vec<Vec<Value>> = routers
        .iter()
        .map(|router| match lab.call(*router, "events") {
            Some(Value::Array(events)) => events,
            other => panic!("events of {}: {other:?}", lab.name(*router)),
        })
        .collect();
    let at = |event: &Value| event["mono_us"].as_u64().expect("mono_us is a number");
    let started = |events: &Vec<Value>| events.iter().find(|event| event["event"] == "started").map(at);
    let begun = events.iter().filter_map(started).max().expect("they have started");
    // The first epoch that all were active in and that had all of them.
    let whole = format!("{} members", routers.len());
    let first = |events: &Vec<Value>| {
        let epochs = events.iter().filter(|event| event["event"] == "epoch" && event["detail"] == whole.as_str());
        epochs.filter_map(|event| event["epoch"].as_u64()).collect::<std::collections::BTreeSet<u64>>()
    };
    let common = events.iter().map(first).reduce(|all, one| &all & &one).expect("routers");
    let active = |epoch: u64| {
        let of = |events: &Vec<Value>| {
            events.iter().find(|event| event["event"] == "activated" && event["epoch"] == epoch).map(at)
        };
        events.iter().map(of).try_fold(0, |latest, one| one.map(|one| latest.max(one)))
    };
    let end = common.iter().filter_map(|epoch| active(*epoch)).min().expect("an epoch that all are active in");
    let count = |right: &dyn Fn(u64) -> bool| {
        let of =
            |events: &Vec<Value>| events.iter().filter(|event| event["event"] == "epoch" && right(at(event))).count();
        events.iter().map(of).max().unwrap_or_default()
    };
    Start { took: end.saturating_sub(begun), epochs: count(&|at| at <= end), later: count(&|at| at > end) }
}
