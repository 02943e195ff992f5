//! A transaction manager whose process stands still for a while, and goes on as if nothing had been.

use std::time::Duration;

use muster_netns_tests::{Family, Lab, alone, carry, carry_past, multicast_flow, say, skip};
use nix::sys::signal::Signal;

fn stands_still_and_goes_on(family: Family) {
    let _alone = alone();
    let all = [0, 1, 2, 3, 4];
    let mut lab = Lab::group_on(family, all.len());
    let frozen = lab.manager(0);
    let rest: Vec<usize> = all.iter().copied().filter(|router| *router != frozen).collect();
    carry(&lab, frozen, &rest, 50);
    let before = lab.state(frozen).expect("it answers");

    lab.signal(frozen, Signal::SIGSTOP);
    let without = lab.wait_for_group(&rest);
    assert_ne!(without, before.0);
    assert_ne!(lab.manager(rest[0]), frozen);
    carry_past(&lab, rest[0], &rest[1..], &[frozen], 100);
    // When the others no longer receive under the old epoch, its LAN goes on sending: the kernel keeps that for it.
    lab.wait_until_quiet(Duration::from_secs(10), &rest);
    let unknown = |lab: &Lab| rest.iter().map(|router| lab.dropped(*router, "unknown_spi")).collect::<Vec<_>>();
    let bad = |lab: &Lab| -> u64 {
        let both = ["auth", "spoofed"];
        rest.iter().flat_map(|router| both.map(|reason| lab.dropped(*router, reason))).sum()
    };
    let (unknown_before, bad_before) = (unknown(&lab), bad(&lab));
    let (sender, receivers) = multicast_flow(&lab, frozen, &rest, 100);
    assert_eq!(sender.finish(), 100);

    lab.signal(frozen, Signal::SIGCONT);
    let after = lab.wait_for_group(&all);
    assert!(after != before.0 && after != without);
    for from in all {
        let to: Vec<usize> = all.iter().copied().filter(|to| *to != from).collect();
        carry(&lab, from, &to, 50);
    }
    // What it had sent under the old key nobody took: the traffic just now came after it on the same way.
    let taken: Vec<u64> = receivers.iter().map(|receiver| receiver.unique()).collect();
    let unknown_after = unknown(&lab);
    say(&format!(
        "frozen over {family:?}: of 100 under the old key {taken:?} taken; unknown SPIs {unknown_before:?}, then {unknown_after:?}"
    ));
    assert_eq!(taken, vec![0; rest.len()]);
    assert_eq!(bad(&lab), bad_before, "nothing forged, nothing under another's name");
    lab.stays_one(&all, 2);
    lab.assert_keys_used_once(&all);
}

#[test]
fn the_transaction_manager_stands_still_and_goes_on() {
    if !skip("the_transaction_manager_stands_still_and_goes_on") {
        stands_still_and_goes_on(Family::V6);
    }
}

#[test]
fn the_transaction_manager_stands_still_and_goes_on_over_ipv4() {
    if !skip("the_transaction_manager_stands_still_and_goes_on_over_ipv4") {
        stands_still_and_goes_on(Family::V4);
    }
}
