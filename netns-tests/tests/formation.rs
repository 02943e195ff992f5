//! Routers find each other, agree on a key, carry red multicast encrypted.

use std::time::Duration;

use muster_netlab::{Frame, Kind};
use muster_netns_tests::{Family, Lab, carry, skip};

fn forms(family: Family, routers: usize) {
    let lab = Lab::group_on(family, routers);
    let all: Vec<usize> = (0..routers).collect();
    for from in [0, routers - 1] {
        let others: Vec<usize> = all.iter().copied().filter(|other| *other != from).collect();
        carry(&lab, from, &others, 100);
    }
    // The operator's picture is the same everywhere.
    let tag = |router: usize| lab.get(router, "status")["group"]["state_tag"].clone();
    assert!(all.iter().all(|router| tag(*router) == tag(0)));
    for router in all {
        let members = lab.get(router, "members");
        let members = members.as_array().unwrap();
        assert_eq!(members.iter().filter(|member| member["is_transaction_manager"] == true).count(), 1);
        assert_eq!(members.iter().filter(|member| member["self"] == true).count(), 1);
        let sas = lab.get(router, "sas");
        let sas = sas.as_array().unwrap();
        let sends = |sa: &&serde_json::Value| sa["direction"] == "out" && sa["kind"] == "group";
        assert_eq!(sas.iter().filter(sends).count(), 1);
        assert!(sas.iter().all(|sa| sa.get("key").is_none()), "keys only on demand");
        assert_eq!(lab.get(router, "neighbors").as_array().unwrap().len(), routers - 1);
    }
    assert!(lab.capture.settle(Duration::from_secs(5)));
    let seen = lab.capture.stats();
    assert!(seen.esp >= 400, "{seen:?}");
    assert_eq!(seen.cleartext, 0, "{:?}", lab.capture.examples());
    // Everything of ours is of the family that was asked for, and of no other.
    let version = |frame: &Frame| if frame.bytes[12..14] == [0x08, 0x00] { Family::V4 } else { Family::V6 };
    let frames = lab.capture.frames();
    let ours = frames.iter().filter(|frame| matches!(frame.kind, Kind::Esp | Kind::Own));
    assert!(ours.into_iter().all(|frame| version(frame) == family));
}

#[test]
fn two() {
    if !skip("two") {
        forms(Family::V6, 2);
    }
}

#[test]
fn five() {
    if !skip("five") {
        forms(Family::V6, 5);
    }
}

#[test]
fn ten() {
    if !skip("ten") {
        forms(Family::V6, 10);
    }
}

#[test]
fn two_on_ipv4() {
    if !skip("two_on_ipv4") {
        forms(Family::V4, 2);
    }
}

#[test]
fn five_on_ipv4() {
    if !skip("five_on_ipv4") {
        forms(Family::V4, 5);
    }
}

#[test]
fn a_device_alone_is_a_group_of_one() {
    if skip("a_device_alone_is_a_group_of_one") {
        return;
    }
    let mut lab = Lab::new(1);
    lab.start(0);
    lab.wait_for_group(&[0]);
    let status = lab.get(0, "status");
    assert_eq!(status["state"], "alone");
    assert_eq!(status["group"]["key_fingerprint"].as_str().unwrap().len(), 16);
}

#[test]
fn every_change_brings_a_new_key() {
    if skip("every_change_brings_a_new_key") {
        return;
    }
    let mut lab = Lab::new(4);
    let mut keys = Vec::new();
    for router in 0..4 {
        lab.start(router);
        keys.push(lab.wait_for_group(&(0..=router).collect::<Vec<_>>()));
    }
    assert_eq!(lab.ask(2, &["rekey"]).status, 0);
    lab.wait(Duration::from_secs(5), "a new key on command", || {
        !keys.contains(&lab.state(0).unwrap().0) && lab.is_group(&[0, 1, 2, 3])
    });
    keys.push(lab.state(0).unwrap().0);
    lab.terminate(1);
    keys.push(lab.wait_for_group(&[0, 2, 3]));
    let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!(distinct.len(), keys.len(), "{keys:?}");
    carry(&lab, 0, &[2, 3], 50);
}

#[test]
fn events_tell_the_story_of_a_join() {
    if skip("events_tell_the_story_of_a_join") {
        return;
    }
    let lab = Lab::group(2);
    let events = lab.ask(1, &["events", "--json"]);
    let kinds: Vec<String> = events
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["event"].as_str().unwrap().to_owned())
        .collect();
    for kind in ["started", "blocked", "hello_sent", "join", "epoch", "installed", "activated"] {
        assert!(kinds.iter().any(|seen| seen == kind), "{kind} in {kinds:?}");
    }
}
