//! Leaves do not grow old, and what could be captured is gone.

use std::collections::BTreeMap;

use muster_wire::mike::Leaf;

use super::agreement::group;
use super::*;
use crate::tree::LeafNode;

const REFRESH: Duration = Duration::from_secs(3600);

/// Every member's public key in the tree.
fn publics(net: &Net) -> BTreeMap<MemberId, [u8; 32]> {
    net.devices[0].machine.epoch.tree().members().map(|(_, node)| (node.leaf.member, node.leaf.public)).collect()
}

#[test]
fn no_leaf_grows_older_than_the_refresh_and_the_batches_are_few() {
    let mut net = group(10);
    let commits = |net: &Net| net.devices.iter().map(|device| device.machine.counters().commits).sum::<u64>();
    let (begun, before) = (net.now, commits(&net));
    let mut since: BTreeMap<[u8; 32], Time> = publics(&net).values().map(|public| (*public, begun)).collect();
    while net.now < begun + REFRESH * 3 {
        net.run_for(Duration::from_secs(10));
        assert!(net.is_one_group());
        for public in publics(&net).values() {
            let age = net.now.since(*since.entry(*public).or_insert(net.now));
            assert!(age <= REFRESH, "a leaf of {age:?}");
        }
    }
    let made = commits(&net) - before;
    assert!((4..=8 * 3 + 3).contains(&made), "{made} commits in three periods");
    assert!(net.devices[0].machine.counters().refreshes >= 9 * 3);
}

#[test]
fn superseded_secrets_are_erased_and_not_too_soon() {
    let mut net = group(4);
    let device = 2;
    let old = publics(&net)[&member(device)];
    net.command(device, |machine, now| machine.offer_leaf(now, true));
    net.run_until_true(Duration::from_secs(1), |net| publics(net)[&member(device)] != old);
    let holds = |net: &Net| net.devices[device].machine.own.secret(&old).is_some();
    // A rival claim within the dead time may rest on it.
    net.run_for(config().deactivation_delay + HELLO * 4 - Duration::from_millis(50));
    assert!(holds(&net));
    net.run_for(Duration::from_millis(100));
    assert!(!holds(&net));
}

#[test]
fn a_refresh_that_is_lost_is_said_again_and_rides_on_the_next_commit() {
    let mut net = group(5);
    let device = 3;
    let old = publics(&net)[&member(device)];
    net.filter = Box::new(move |from, _, _| from != device);
    net.command(device, |machine, now| machine.offer_leaf(now, false));
    net.filter = Box::new(|_, _, _| true);
    net.run_for(Duration::from_secs(1));
    assert_eq!(publics(&net)[&member(device)], old, "in no hurry");
    net.command(0, KeyAgreement::rekey);
    net.run_for(Duration::from_millis(300));
    assert!(net.is_one_group());
    assert_ne!(publics(&net)[&member(device)], old);
}

#[test]
fn a_wish_for_a_new_key_that_is_lost_is_said_again() {
    let mut net = group(3);
    let before = net.devices[0].machine.epoch.number();
    net.filter = Box::new(|from, _, _| from != 2);
    net.command(2, KeyAgreement::rekey);
    net.filter = Box::new(|_, _, _| true);
    net.run_for(Duration::from_secs(4));
    assert!(net.is_one_group());
    // One for it, and no more when it is there.
    assert_eq!(net.devices[0].machine.epoch.number(), before + 1);
}

/// ```text
///  device ──refresh──► TM      TM dies before it commits
///  successor ──claim──► all    on the tree with the old leaf
///  device ──refresh──► successor
/// ```
#[test]
fn a_refresh_survives_the_manager() {
    let mut net = group(5);
    let device = 3;
    let old = publics(&net)[&member(device)];
    net.command(device, |machine, now| machine.offer_leaf(now, false));
    net.run_for(Duration::from_millis(10));
    net.kill(0, Duration::from_secs(4));
    net.run_until_true(Duration::from_secs(6), Net::is_one_group);
    let tree = |net: &Net| {
        let tree = net.devices[device].machine.epoch.tree();
        let slot = tree.slot_of(&member(device)).unwrap();
        tree.leaf(slot).unwrap().leaf.public
    };
    assert_eq!(tree(&net), old, "the successor did not have it");
    net.run_for(REFRESH / 8 + Duration::from_secs(60));
    assert_ne!(tree(&net), old);
    assert!(net.is_one_group());
}

#[test]
fn an_insider_that_asks_without_end_costs_an_epoch_a_second_at_most() {
    let mut net = group(4);
    let before = net.devices[0].machine.epoch.number();
    for _ in 0..500 {
        net.command(2, KeyAgreement::rekey);
        net.run_for(Duration::from_millis(20));
    }
    let made = net.devices[0].machine.epoch.number() - before;
    assert!((4..=15).contains(&made), "{made} epochs in ten seconds");
}

/// ```text
///  newcomer ──hand-over──► TM ──commit──► newcomer      … and never a word of it again
/// ```
#[test]
fn who_joins_and_stays_silent_waits_longer_each_time() {
    let mut net = Net::new(4);
    net.connect(&[0, 1, 2]);
    net.run_until_true(Duration::from_secs(3), |net| net.devices[2].machine.members().count() == 3);
    net.connect(&[0, 1, 2, 3]);
    let before = net.devices[0].machine.epoch.number();
    for _ in 0..60_000 {
        // It forgets the key that it offers, and so is never heard of in the epoch that takes it in.
        net.devices[3].machine.own.forget_offers();
        net.run_for(Duration::from_millis(1));
    }
    let made = net.devices[0].machine.epoch.number() - before;
    assert!(made >= 2, "it was taken in and shut out");
    assert!(made <= 14, "{made} epochs in a minute");
}

/// A leaf of a device's with this public key.
fn copied(net: &Net, device: usize, public: [u8; 32]) -> LeafNode {
    let machine = &net.devices[device].machine;
    let current = machine.epoch.tree().leaf(machine.epoch.slot).unwrap().leaf.clone();
    let leaf = Leaf { generation: current.generation + 1000, public, ..current };
    LeafNode { signed: machine.author.key().sign_value(&leaf).unwrap(), leaf }
}

#[test]
fn of_two_fresh_leaves_with_one_key_one_comes_in_and_the_commit_stands() {
    let mut net = group(5);
    net.run_for(HELLO);
    let by_slot: Vec<usize> = net.devices[0].machine.members().map(|(_, id)| usize::from(id.0[0]) - 1).collect();
    let leaves = [(by_slot[1], [5; 32]), (by_slot[2], [6; 32]), (by_slot[3], [5; 32])];
    let leaves = leaves.map(|(device, public)| (member(device), copied(&net, device, public)));
    net.command(0, |machine, now| {
        machine.pending.refreshes.extend(leaves.clone());
        machine.rekey(now);
    });
    net.run_for(DELAY);
    let tree = publics(&net);
    let came_in = leaves.map(|(member, node)| tree[&member] == node.leaf.public);
    assert_eq!(came_in, [true, true, false]);
}

#[test]
fn whose_fresh_key_somebody_has_copied_offers_another() {
    let mut net = group(4);
    let (device, thief) = (2, 1);
    let old = publics(&net)[&member(device)];
    net.command(device, |machine, now| machine.offer_leaf(now, false));
    net.run_for(DELAY * 2);
    let offered = net.devices[0].machine.pending.refreshes.remove(&member(device)).unwrap();
    let copy = copied(&net, thief, offered.leaf.public);
    net.command(0, |machine, now| {
        machine.pending.refreshes.insert(member(thief), copy);
        machine.rekey(now);
    });
    net.run_for(DELAY * 10);
    net.command(0, KeyAgreement::rekey);
    net.run_for(Duration::from_millis(300));
    assert_ne!(publics(&net)[&member(device)], old);
}
