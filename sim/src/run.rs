//! Runs: one seed, or many.

use std::fmt;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use muster_wire::{Hash, Time};

use crate::{Defect, Plan, Scope, Totals, World, checks};

/// A checker has complained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// In the run of which seed.
    pub seed: u64,
    /// When.
    pub at: Time,
    /// Which one.
    pub check: &'static str,
    /// About what.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.at.0 as f64 / 1e6;
        write!(f, "seed {} at {seconds:.6} s, {}: {}", self.seed, self.check, self.what)
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// What it contained.
    pub totals: Totals,
    /// Hash over all that happened.
    pub trace: Hash,
    /// What was wrong.
    pub failure: Option<Failure>,
}

/// The run of a seed, under all checkers.
pub fn run(seed: u64, scope: Scope) -> Report {
    run_plan(Plan::new(seed, scope), Box::new(()))
}

/// The same, printing what is planned and what happens.
pub fn replay(seed: u64, scope: Scope) -> Report {
    let plan = Plan::new(seed, scope);
    println!("{plan:#?}");
    let mut checks = checks::all();
    checks.insert(0, Box::new(checks::Log::default()));
    let (totals, trace, failure) = World::new(plan, checks, Box::new(())).run();
    Report { totals, trace, failure }
}

/// A run with a defect planted.
pub fn run_plan(plan: Plan, defect: Box<dyn Defect>) -> Report {
    let (totals, trace, failure) = World::new(plan, checks::all(), defect).run();
    Report { totals, trace, failure }
}

/// The runs of many seeds on `threads` threads, as long as `go_on` says so; tells `progress` of each. Gives the totals,
/// and the failures by seed.
pub fn run_seeds(
    seeds: Range<u64>,
    scope: Scope,
    threads: usize,
    go_on: impl Fn() -> bool + Sync,
    progress: impl Fn(u64, &Report) + Sync,
) -> (Totals, Vec<Failure>) {
    let next = AtomicU64::new(seeds.start);
    let results = Mutex::new((Totals::default(), Vec::new()));
    let work = || {
        while go_on() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let report = run(seed, scope);
            progress(seed, &report);
            // Poisoned only if another thread panicked, and then the scope panics too.
            let mut results = results.lock().expect("no thread panicked");
            results.0 += report.totals;
            results.1.extend(report.failure);
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(work);
        }
    });
    let (totals, mut failures) = results.into_inner().expect("no thread panicked");
    failures.sort_by_key(|failure| failure.seed);
    (totals, failures)
}
