//! How much goes through the tunnel between two routers: Muster beside its peers and beside no tunnel at all, in one run.
//!
//! Each contestant has two routers of its own on one bridge, over veth, with a host behind each. IPv6 in IPv6. TCP is
//! iperf3's, UDP our own (`udp.rs`). Hosts and routers share the machine's processors: what sends and receives is part of
//! what is measured, the same for all. What is not installed is left out, with the reason.
//!
//! `cargo run --release -p muster-netns-tests --bin bench-throughput` prints a table.
//! `--ratio --contestants 'muster kernel,ip xfrm'` sets two beside each other, by one stream of TCP and by UDP.

mod by_hand;
mod contestant;
mod libipsec;
mod measure;
mod udp;

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use contestant::{Contestant, NAMES};
use measure::{MEGABITS, Measured, arriving, stream};
use muster_netns_tests::skip;
use udp::{Bound, Highest};

/// Of a measurement of UDP where two are beside each other: what else the machine does lasts longer than one.
const SLICES: u32 = 8;

#[derive(Parser)]
#[command(about = "Measures the throughput of the tunnel, beside others")]
struct Arguments {
    /// Who takes part; beside these "muster kernel" and "ip xfrm", which need the kernel's ESP.
    #[arg(long, value_delimiter = ',', default_values_t = NAMES.map(String::from))]
    contestants: Vec<String>,
    /// Seconds of each measurement of TCP.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Seconds of each rate of UDP.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    udp_seconds: u64,
    /// Rounds; the table has the medians.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Two contestants, TCP of one stream and what arrives of UDP in packets of 1,400 octets when as many are sent as can be,
    /// and the medians of the first's part of the second's, round by round.
    #[arg(long)]
    ratio: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if skip("bench-throughput") {
        return ExitCode::FAILURE;
    }
    let done = match (arguments.ratio, arguments.contestants.as_slice()) {
        (false, _) => {
            table(&arguments);
            Ok(())
        }
        (true, [one, other]) => ratio(&arguments, one, other),
        (true, _) => Err("a ratio is of two contestants".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("bench-throughput: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn table(arguments: &Arguments) {
    let Arguments { contestants, seconds, udp_seconds, rounds, .. } = arguments;
    let (tcp, udp) = (Duration::from_secs(*seconds), Duration::from_secs(*udp_seconds));
    let mut rows: Vec<(&str, Vec<Measured>)> = contestants.iter().map(|name| (name.as_str(), Vec::new())).collect();
    // In turn, so that what else the machine does hits all alike.
    for round in 1..=*rounds {
        for (name, measured) in &mut rows {
            let measure = || Contestant::start(name).and_then(|contestant| Measured::of(&contestant, tcp, udp));
            // A laboratory that does not come up panics with the reason; the others go on.
            match catch_unwind(measure).unwrap_or_else(|_| Err("as the panic above says".into())) {
                Ok(one) => {
                    eprintln!("round {round}, {name}: {one:?}");
                    measured.push(one);
                }
                Err(reason) => eprintln!("SKIP round {round}, {name}: {reason}"),
            }
        }
    }
    println!(
        "| | rounds | TCP, 1 stream, Mbit/s | TCP, 4 streams | UDP, packets of 1,400 octets, below 0.3 % lost | packets/s of 64 octets, below 0.3 % lost | the same, as many as arrive | memory before, after (MB, both routers) |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (name, measured) in rows.iter().filter(|(_, measured)| !measured.is_empty()) {
        let of = |of: fn(&Measured) -> f64| median(measured.iter().map(of));
        let highest = |of: fn(&Measured) -> Highest, unit: f64| {
            let rate = median(measured.iter().map(|one| of(one).rate * unit));
            let sender = measured.iter().filter(|one| of(one).bound == Bound::Sender).count();
            let grid = measured.iter().any(|one| of(one).bound == Bound::Grid);
            let more = if 2 * sender > measured.len() || grid { "≥ " } else { "" };
            format!("{more}{rate:.0}")
        };
        println!(
            "| {name} | {} | {:.0} | {:.0} | {} | {} | {:.0} | {:.1}, {:.1} |",
            measured.len(),
            of(|one| one.tcp),
            of(|one| one.tcp_of_four),
            highest(|one| one.large, MEGABITS),
            highest(|one| one.small, 1.0),
            of(|one| one.flood),
            of(|one| one.before),
            of(|one| one.after),
        );
    }
    println!("\n≥: the sender could not send more, on the processors that all share, or no higher rate is tried.");
}

/// Both stand all the time, and are measured by turns: what else the machine does hits both alike.
fn ratio(arguments: &Arguments, one: &str, other: &str) -> Result<(), String> {
    let (tcp, udp) = (Duration::from_secs(arguments.seconds), Duration::from_secs(arguments.udp_seconds));
    let contestants = [Contestant::start(one)?, Contestant::start(other)?];
    let mut all = [const { Vec::new() }; 2];
    for round in 1..=arguments.rounds {
        let [first, second] = &contestants;
        let streams = (stream(first, tcp)?, stream(second, tcp)?);
        // Of the highest rate without loss one moment in which an emulated processor does something else makes another one,
        // and its search takes seven such moments in turn. What arrives of as much as can be sent is a mean over them all.
        let mut floods = (0.0, 0.0);
        for _ in 0..SLICES {
            floods.0 += arriving(first, udp / SLICES)? / f64::from(SLICES);
            floods.1 += arriving(second, udp / SLICES)? / f64::from(SLICES);
        }
        for ((name, pair), all) in [("TCP", streams), ("UDP", floods)].into_iter().zip(&mut all) {
            println!("round {round}, {name}: {}", beside(one, other, pair, pair.0 / pair.1));
            all.push(pair);
        }
    }
    for (name, all) in ["TCP", "UDP"].into_iter().zip(&all) {
        let of = |of: fn(&(f64, f64)) -> f64| median(all.iter().map(of));
        let pair = (of(|pair| pair.0), of(|pair| pair.1));
        println!("medians, {name}: {}", beside(one, other, pair, of(|pair| pair.0 / pair.1)));
    }
    Ok(())
}

fn beside(one: &str, other: &str, (first, second): (f64, f64), ratio: f64) -> String {
    format!("{one} {first:.1}, {other} {second:.1} Mbit/s, {ratio:.3}")
}

fn median(all: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = all.collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
