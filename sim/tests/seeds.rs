//! A hundred networks, each with faults of several sorts, under all checkers.

use std::io::Write;
use std::time::Instant;

use muster_sim::{Plan, Scope, replay, run, run_seeds};

#[test]
fn a_hundred_seeds() {
    let begun = Instant::now();
    let seeds = 0..100;
    for seed in seeds.clone() {
        let plan = Plan::new(seed, Scope::default());
        assert!(plan.faults.len() >= 5 && plan.kinds().len() >= 2 && (2..=16).contains(&plan.devices.len()));
    }
    let (totals, failures) = run_seeds(seeds.clone(), Scope::default(), 2, || true, |_, _| {});
    // Past the test runner, which keeps what passing tests print to itself.
    let _ = writeln!(std::io::stderr(), "{totals}\nin {:.1} s", begun.elapsed().as_secs_f64());
    for failure in &failures {
        println!("{failure}\n  {}", Scope::default().replay(failure.seed));
    }
    assert!(failures.is_empty(), "{} of {} runs failed", failures.len(), totals.runs);
    assert_eq!(totals.runs, seeds.end);
    assert!(totals.seconds >= 60 * totals.runs);
    for (name, number) in totals.list() {
        assert_ne!(number, 0, "the runs contained no {name}");
    }
}

#[test]
fn a_replay_finds_what_the_run_found() {
    let report = replay(0, Scope::default());
    assert_eq!((report.failure, report.trace), (None, run(0, Scope::default()).trace));
}

/// In another process, too.
#[test]
fn a_seed_determines_everything_that_happens() {
    let [first, second, other] = [7, 7, 8].map(|seed| run(seed, Scope::default()).trace.to_string());
    assert_eq!(first, second);
    assert_ne!(first, other);
    let again = std::process::Command::new(env!("CARGO_BIN_EXE_muster-sim")).args(["--trace", "7"]).output();
    let again = String::from_utf8(again.expect("the simulator runs").stdout).expect("it prints text");
    assert_eq!(again.trim(), first);
}
