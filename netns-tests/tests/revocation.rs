//! A revocation list that is loaded on one router expels the device everywhere.

use std::time::Duration;

use muster_netns_tests::{Lab, carry, carry_past, skip};
use serde_json::Value;

/// From now on this router starts with the list of the nation of `revoked`.
fn load(lab: &Lab, router: usize, revoked: usize) {
    let crl = lab.crl(revoked);
    let key = lab.name(router);
    lab.configure(router, |text| {
        *text = text
            .replace(&format!("control = \"{key}.sock\""), &format!("control = \"{key}.sock\"\ncrls = [\"{crl}\"]"));
    });
}

/// The number of the newest list of an organisation that a router knows.
fn list_of(lab: &Lab, router: usize, organisation: &str) -> Option<u64> {
    let answer = lab.ask(router, &["status", "--json"]);
    let status: Value = serde_json::from_str(&answer.stdout).ok()?;
    let lists = status["revocation_lists"].as_array()?;
    lists.iter().find(|list| list["organisation"] == organisation)?["number"].as_u64()
}

fn others(count: usize, who: &[usize]) -> Vec<usize> {
    (0..count).filter(|router| !who.contains(router)).collect()
}

/// Revokes a running member with a list that only `loader` is given, at its restart.
fn expels(manager_is_revoked: bool) {
    let mut lab = Lab::group(5);
    let manager = lab.manager(0);
    let bystanders = others(5, &[manager]);
    let (revoked, loader) = if manager_is_revoked { (manager, bystanders[0]) } else { (bystanders[0], bystanders[1]) };
    let nation = lab.coalition.routers()[revoked].plan.nation.name;
    let rest = others(5, &[revoked]);
    let known = lab.state(revoked).unwrap().0;
    lab.revoke(revoked);
    load(&lab, loader, revoked);
    lab.kill(loader);
    lab.start(loader);
    let key = lab.wait_for_group(&rest);
    assert_ne!(key, known);
    lab.wait(Duration::from_secs(5), "the list everywhere", || {
        rest.iter().all(|router| list_of(&lab, *router, nation) == Some(2))
    });
    // The device itself learns it, says so and ends.
    lab.wait_for_end(revoked);
    assert!(lab.log(revoked).contains("is revoked"), "{}", lab.log(revoked));
    carry_past(&lab, rest[0], &rest[1..], &[revoked], 50);

    // Nobody lets it in again: it refuses to start with what it knows, and without that the others refuse it.
    lab.start(revoked);
    lab.wait_for_end(revoked);
    let state = lab.path(&format!("{}.state", lab.name(revoked))).join("crls");
    std::fs::remove_dir_all(state).unwrap();
    lab.start(revoked);
    lab.wait_for_end(revoked);
    assert!(lab.is_group(&rest));

    // A router that has forgotten the operator's file still knows the list.
    let other = rest[1];
    lab.kill(other);
    lab.start(other);
    lab.wait(Duration::from_secs(5), "the list after a restart", || list_of(&lab, other, nation) == Some(2));
}

#[test]
fn a_member_is_expelled_by_a_list_on_one_router() {
    if !skip("a_member_is_expelled_by_a_list_on_one_router") {
        expels(false);
    }
}

#[test]
fn a_transaction_manager_is_expelled_by_a_list_on_one_router() {
    if !skip("a_transaction_manager_is_expelled_by_a_list_on_one_router") {
        expels(true);
    }
}

#[test]
fn a_revoked_router_that_was_cut_off_stays_outside() {
    if skip("a_revoked_router_that_was_cut_off_stays_outside") {
        return;
    }
    let mut lab = Lab::group(4);
    let (revoked, loader) = (3, 1);
    let nation = lab.coalition.routers()[revoked].plan.nation.name;
    lab.coalition.cut(revoked).unwrap();
    lab.wait_for_group(&[0, 1, 2]);
    lab.revoke(revoked);
    // Twice: the number rises, and the list is the same.
    lab.revoke(revoked);
    load(&lab, loader, revoked);
    lab.kill(loader);
    lab.start(loader);
    lab.wait_for_group(&[0, 1, 2]);
    lab.wait(Duration::from_secs(5), "the list everywhere", || {
        [0, 1, 2].iter().all(|router| list_of(&lab, *router, nation) == Some(3))
    });
    let before = lab.state(0).unwrap();
    lab.coalition.mend(revoked).unwrap();
    lab.wait_for_end(revoked);
    assert!(lab.log(revoked).contains("is revoked"), "{}", lab.log(revoked));
    assert_eq!(lab.state(0).unwrap(), before, "nobody took it in meanwhile");
    carry(&lab, 0, &[1, 2], 50);
}
