//! How much goes through the tunnel between two routers: Muster beside its peers and beside no tunnel at all, in one run.
//!
//! Each contestant has two routers of its own on one bridge, over veth, with a host behind each; iperf3 runs on the hosts.
//! IPv6 in IPv6. What is not installed is left out, with the reason.
//!
//! `cargo run --release -p muster-netns-tests --bin bench-throughput` prints a table.

mod contestant;
mod measure;

use std::process::ExitCode;

use clap::Parser;
use contestant::{Contestant, NAMES};
use measure::Measured;
use muster_netns_tests::skip;

#[derive(Parser)]
#[command(about = "Measures the throughput of the tunnel, beside others")]
struct Arguments {
    /// Who takes part.
    #[arg(long, value_delimiter = ',', default_values_t = NAMES.map(String::from))]
    contestants: Vec<String>,
    /// Seconds of each measurement of TCP.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Rounds; the table has the medians.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

fn main() -> ExitCode {
    let Arguments { contestants, seconds, rounds } = Arguments::parse();
    if skip("bench-throughput") {
        return ExitCode::FAILURE;
    }
    if rounds == 0 || seconds == 0 {
        eprintln!("bench-throughput: a measurement takes a second, and a median one round");
        return ExitCode::from(2);
    }
    let mut rows: Vec<(String, Vec<Measured>)> = contestants.into_iter().map(|name| (name, Vec::new())).collect();
    // In turn, so that what else the machine does hits all alike.
    for round in 1..=rounds {
        for (name, measured) in &mut rows {
            match Contestant::start(name) {
                Ok(contestant) => measured.push(Measured::of(&contestant, seconds)),
                Err(reason) if round == 1 => eprintln!("SKIP {name}: {reason}"),
                Err(_) => {}
            }
            if let Some(last) = measured.last() {
                eprintln!("round {round}, {name}: {last:?}");
            }
        }
    }
    println!(
        "| | TCP, 1 stream, Mbit/s | TCP, 4 streams | UDP, packets of 1,400 octets, below 0.3 % lost | packets/s of 64 octets | memory before, after (MB, both routers) |"
    );
    println!("|---|---|---|---|---|---|");
    for (name, measured) in rows.iter().filter(|(_, measured)| !measured.is_empty()) {
        let median = |of: fn(&Measured) -> f64| {
            let mut all: Vec<f64> = measured.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        println!(
            "| {name} | {:.0} | {:.0} | {:.0} | {:.0} | {:.1}, {:.1} |",
            median(|one| one.tcp),
            median(|one| one.tcp_of_four),
            median(|one| one.udp),
            median(|one| one.small),
            median(|one| one.before),
            median(|one| one.after),
        );
    }
    ExitCode::SUCCESS
}
