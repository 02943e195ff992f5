//! How long a join takes: from the joiner's first hello to a key that every router sends under.
//!
//! For each size of the group all daemons run on this one machine, each in its own network namespace, on one bridge,
//! with the default configuration but ESP in user space. One router joins and leaves, again and again, each time as a stranger: with a new
//! certificate, so that nobody has checked it before, and as a new process, which has checked nobody. Addresses are
//! used without duplicate address detection. All times are the daemons' own events (CLOCK_MONOTONIC).
//!
//! `cargo run --release -p muster-netns-tests --bin bench-join` writes `join.csv` and `join.svg` to
//! `docs/measurements` and prints a table.

mod join;
mod plot;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use muster_netns_tests::skip;

#[derive(Parser)]
#[command(about = "Measures joins: first hello to a key that every router sends under")]
struct Arguments {
    /// Sizes of the group, the joiner among them.
    #[arg(long, value_delimiter = ',', default_value = "2,5,10,20,50")]
    routers: Vec<usize>,
    /// Joins at each size.
    #[arg(long, default_value_t = 20)]
    joins: usize,
    /// Folder for join.csv and join.svg.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/measurements"))]
    out: PathBuf,
}

fn main() -> ExitCode {
    let Arguments { routers, joins, out } = Arguments::parse();
    if skip("bench-join") {
        return ExitCode::FAILURE;
    }
    if joins == 0 || routers.iter().any(|routers| *routers < 2) {
        eprintln!("bench-join: a join takes two routers, and a measurement one join");
        return ExitCode::from(2);
    }
    let measured: Vec<_> = routers.into_iter().map(|routers| (routers, join::measure(routers, joins))).collect();
    println!("{}", report::table(&measured));
    let written = std::fs::create_dir_all(&out)
        .and_then(|()| std::fs::write(out.join("join.csv"), report::csv(&measured)))
        .and_then(|()| std::fs::write(out.join("join.svg"), plot::svg(&report::summaries(&measured))));
    if let Err(error) = written {
        eprintln!("bench-join: {}: {error}", out.display());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
