//! Long runs: `cargo run -p muster-sim --release -- --seeds 0..1000 --seconds 600`.

use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use muster_sim::{Scope, run_seeds};

/// Runs seeded networks under all invariant checkers.
#[derive(Parser)]
struct Arguments {
    /// Which seeds, the last one not included.
    #[arg(long, default_value = "0..100", value_parser = range)]
    seeds: Range<u64>,
    /// Nodes in each run; 2 to 10 at random without it.
    #[arg(long)]
    nodes: Option<usize>,
    /// Virtual seconds of each run.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Runs the first seed only, and prints what happens.
    #[arg(long)]
    replay: bool,
    /// Prints the hash over all that happens in the run of this seed.
    #[arg(long)]
    trace: Option<u64>,
}

fn main() -> ExitCode {
    let Arguments { seeds, nodes, seconds, replay, trace } = Arguments::parse();
    if let Some(seed) = trace {
        println!("{}", muster_sim::run(seed, Scope { nodes, seconds }).trace);
        return ExitCode::SUCCESS;
    }
    if replay {
        let report = muster_sim::replay(seeds.start, Scope { nodes, seconds });
        println!("{}", report.totals);
        return match report.failure {
            Some(failure) => {
                println!("FAILED {failure}");
                ExitCode::FAILURE
            }
            None => ExitCode::SUCCESS,
        };
    }
    let begun = Instant::now();
    let (totals, failures) = run_seeds(seeds, Scope { nodes, seconds }, |seed, report| match &report.failure {
        Some(failure) => println!("FAILED {failure}"),
        None if seed % 100 == 0 => println!("{:6.1} s: seed {seed}", begun.elapsed().as_secs_f64()),
        None => {}
    });
    println!("{totals}");
    println!("{} of {} runs failed, {:.1} s", failures.len(), totals.runs, begun.elapsed().as_secs_f64());
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("A..B is wanted")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    Ok(number(from)?..number(to)?)
}
