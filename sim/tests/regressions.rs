//! Seeds that once failed, each with what was wrong.

use muster_sim::{Scope, run};

fn holds(seed: u64) {
    let report = run(seed, Scope::default());
    assert_eq!(report.failure, None);
}

/// A snapshot that had been read once was never read again: after a refused hand-over, no further one was possible.
#[test]
fn a_snapshot_is_read_again_when_it_is_asked_for_again() {
    holds(1);
    holds(9);
}

/// A tag reported by who joined was avoided in that commit only, not in the next, when it was still in use.
#[test]
fn a_reported_spi_tag_is_avoided_as_long_as_it_is_in_use() {
    holds(134);
}

/// A member that said that it leaves, and was astray by then, kept a timer due while a hand-over was on its way: the
/// transaction manager ran in circles.
#[test]
fn who_leaves_and_is_astray_keeps_no_timer_due() {
    holds(1557);
}
