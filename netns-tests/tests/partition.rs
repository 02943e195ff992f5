//! The black network falls into parts and heals.

use std::time::Duration;

use muster_netns_tests::{Family, Lab, carry, carry_past, monotonic, say, skip};

/// All that are in `all` and not in `part`.
fn beyond(all: &[usize], part: &[usize]) -> Vec<usize> {
    all.iter().copied().filter(|router| !part.contains(router)).collect()
}

/// Each part becomes a group of its own with its own key and traffic, and after healing there is one again.
fn falls_apart_and_heals(family: Family, parts: &[&[usize]]) {
    let all: Vec<usize> = parts.concat();
    let mut lab = Lab::group_on(family, all.len());
    let whole = lab.state(0).expect("it answers").0;
    // The last part stays where the gateway is.
    lab.coalition.partition(&parts[..parts.len() - 1]).unwrap();
    let mut keys = vec![whole];
    for part in parts {
        let key = lab.wait_for_group(part);
        assert!(!keys.contains(&key), "another key in {part:?}");
        keys.push(key);
    }
    for part in parts {
        carry_past(&lab, part[0], &part[1..], &beyond(&all, part), 100);
    }
    for part in parts {
        lab.stays_one(part, 1);
    }

    // By the daemons' own clock, from when the first port is moved back: to move all takes some milliseconds, and to
    // clear away the parts' bridges more.
    let healed = monotonic();
    lab.coalition.heal().unwrap();
    lab.wait_for_group(&all);
    let activated = |router: &usize| lab.events_of(*router, "activated").last()?["mono_us"].as_u64();
    let last = all.iter().filter_map(activated).max().expect("all have");
    let took = Duration::from_micros(last).saturating_sub(healed);
    let intervals = took.as_secs_f64() / Lab::hello_interval().as_secs_f64();
    say(&format!(
        "{} parts over {family:?}: one group {took:?} after healing, {intervals:.1} hello intervals",
        parts.len()
    ));
    let key = lab.state(0).expect("it answers").0;
    assert!(!keys.contains(&key), "a key that nobody had before");
    for part in parts {
        carry(&lab, part[0], &beyond(&all, &part[..1]), 100);
    }
    lab.stays_one(&all, 2);
    lab.assert_keys_used_once(&all);
    assert!(lab.capture.settle(Duration::from_secs(5)));
    assert_eq!(lab.capture.stats().cleartext, 0, "{:?}", lab.capture.examples());
}

#[test]
fn two_parts() {
    if !skip("two_parts") {
        falls_apart_and_heals(Family::V6, &[&[0, 1, 2], &[3, 4, 5]]);
    }
}

#[test]
fn two_parts_on_ipv4() {
    if !skip("two_parts_on_ipv4") {
        falls_apart_and_heals(Family::V4, &[&[0, 4], &[1, 2, 3]]);
    }
}

#[test]
fn three_parts() {
    if !skip("three_parts") {
        falls_apart_and_heals(Family::V6, &[&[0, 3], &[1, 4], &[2, 5, 6]]);
    }
}

#[test]
fn three_parts_on_ipv4() {
    if !skip("three_parts_on_ipv4") {
        falls_apart_and_heals(Family::V4, &[&[2, 3], &[0, 1], &[4, 5]]);
    }
}
