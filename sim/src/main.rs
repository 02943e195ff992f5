//! Long runs: `cargo run -p muster-sim --release -- --seeds 0..2000`, or `--hours 2`.

use std::ops::Range;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use muster_sim::{Report, Scope, run_seeds};

/// Runs seeded networks under all invariant checkers.
#[derive(Parser)]
struct Arguments {
    /// Which seeds, the last one not included.
    #[arg(long, default_value = "0..100", value_parser = range)]
    seeds: Range<u64>,
    /// Goes on with the seeds after these for so many hours.
    #[arg(long)]
    hours: Option<f64>,
    /// Nodes in each run; 2 to 16 at random without it.
    #[arg(long)]
    nodes: Option<usize>,
    /// Virtual seconds of each run.
    #[arg(long, default_value_t = Scope::default().seconds)]
    seconds: u64,
    /// Runs at once; without it as many as there are processors.
    #[arg(long)]
    threads: Option<usize>,
    /// Fails when something that runs are to contain (merges, restarts …) did not occur.
    #[arg(long)]
    complete: bool,
    /// Runs the first seed only, and prints what happens.
    #[arg(long)]
    replay: bool,
    /// Prints the hash over all that happens in the run of this seed.
    #[arg(long)]
    trace: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let scope = Scope { nodes: arguments.nodes, seconds: arguments.seconds };
    if let Some(seed) = arguments.trace {
        println!("{}", muster_sim::run(seed, scope).trace);
        return ExitCode::SUCCESS;
    }
    if arguments.replay {
        let report = muster_sim::replay(arguments.seeds.start, scope);
        println!("{}", report.totals);
        return match report.failure {
            Some(failure) => {
                println!("FAILED {failure}");
                ExitCode::FAILURE
            }
            None => ExitCode::SUCCESS,
        };
    }
    run(&arguments, scope)
}

fn run(arguments: &Arguments, scope: Scope) -> ExitCode {
    let begun = Instant::now();
    let limit = arguments.hours.map(|hours| Duration::from_secs_f64(hours * 3600.0));
    let mut seeds = arguments.seeds.clone();
    if limit.is_some() {
        seeds.end = u64::MAX;
    }
    let threads = arguments.threads.or_else(|| std::thread::available_parallelism().ok().map(Into::into)).unwrap_or(2);
    let go_on = || limit.is_none_or(|limit| begun.elapsed() < limit);
    let progress = |seed: u64, report: &Report| {
        let done = seed - seeds.start + 1;
        let elapsed = begun.elapsed().as_secs_f64();
        match &report.failure {
            Some(failure) => println!("FAILED {failure}\n  {}", scope.replay(seed)),
            None if done.is_multiple_of(100) => {
                println!("{elapsed:7.0} s: seed {seed}, {:.2} seeds a second", done as f64 / elapsed);
            }
            None => {}
        }
    };
    let (totals, failures) = run_seeds(seeds.clone(), scope, threads, go_on, progress);
    let elapsed = begun.elapsed().as_secs_f64();
    println!("{totals}");
    let rate = totals.runs as f64 / elapsed;
    println!("{} of {} runs failed, {elapsed:.1} s, {rate:.2} seeds a second", failures.len(), totals.runs);
    let missing: Vec<_> = totals.list().into_iter().filter(|(_, number)| *number == 0).collect();
    if arguments.complete && !missing.is_empty() {
        println!("FAILED the runs contained no {missing:?}");
        return ExitCode::FAILURE;
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("A..B is wanted")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    Ok(number(from)?..number(to)?)
}
