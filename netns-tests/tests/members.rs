//! Members come, go, die, come back; the transaction manager too.

use std::time::Duration;

use muster_netns_tests::{Lab, carry, carry_past, skip, wait_until};

/// Those of `count` that are not `who`.
fn others(count: usize, who: usize) -> Vec<usize> {
    (0..count).filter(|router| *router != who).collect()
}

#[test]
fn a_member_killed_without_a_word_is_excluded() {
    if skip("a_member_killed_without_a_word_is_excluded") {
        return;
    }
    let mut lab = Lab::group(5);
    let manager = lab.manager(0);
    let victim = others(5, manager)[1];
    let before = lab.state(manager).unwrap().0;
    lab.kill(victim);
    let rest = others(5, victim);
    let after = lab.wait_for_group(&rest);
    assert_ne!(before, after);
    carry(&lab, rest[0], &rest[1..], 100);

    // It comes back as a new process and receives again.
    lab.start(victim);
    lab.wait_for_group(&[0, 1, 2, 3, 4]);
    carry(&lab, rest[0], &[victim], 100);
}

#[test]
fn the_transaction_manager_killed_without_a_word_is_succeeded() {
    if skip("the_transaction_manager_killed_without_a_word_is_succeeded") {
        return;
    }
    let mut lab = Lab::group(5);
    let manager = lab.manager(0);
    lab.kill(manager);
    let rest = others(5, manager);
    lab.wait_for_group(&rest);
    assert_ne!(lab.manager(rest[0]), manager);
    carry(&lab, rest[0], &rest[1..], 100);
    lab.start(manager);
    lab.wait_for_group(&[0, 1, 2, 3, 4]);
    carry(&lab, manager, &rest, 100);
}

#[test]
fn a_restart_within_the_dead_time_is_a_join() {
    if skip("a_restart_within_the_dead_time_is_a_join") {
        return;
    }
    let mut lab = Lab::group(3);
    for router in 0..3 {
        let before = lab.state(0).unwrap().0;
        lab.kill(router);
        lab.start(router);
        let after = lab.wait_for_group(&[0, 1, 2]);
        assert_ne!(before, after, "restart of {router}");
        carry(&lab, router, &others(3, router), 50);
    }
}

#[test]
fn members_leave_in_order_down_to_one() {
    if skip("members_leave_in_order_down_to_one") {
        return;
    }
    let mut lab = Lab::group(4);
    let mut rest = vec![0, 1, 2, 3];
    while rest.len() > 1 {
        // The transaction manager and a member in turn.
        let manager = lab.manager(rest[0]);
        let leaver = if rest.len() % 2 == 0 { manager } else { *rest.iter().find(|r| **r != manager).unwrap() };
        let before = lab.state(leaver).unwrap().0;
        lab.terminate(leaver);
        rest.retain(|router| *router != leaver);
        // At once, not after the dead time: it was announced.
        lab.wait(Lab::dead_time(), "a group without it, before it could be missed", || lab.is_group(&rest));
        assert_ne!(lab.state(rest[0]).unwrap().0, before);
    }
}

#[test]
fn leave_on_command_ends_the_daemon() {
    if skip("leave_on_command_ends_the_daemon") {
        return;
    }
    let mut lab = Lab::group(3);
    assert_eq!(lab.ask(1, &["leave"]).status, 0);
    assert!(wait_until(Lab::patience(Duration::from_secs(3)), || !lab.runs(1)), "{}", lab.log(1));
    lab.wait_for_group(&[0, 2]);
}

#[test]
fn a_link_down_for_less_than_the_dead_time_is_no_event() {
    if skip("a_link_down_for_less_than_the_dead_time_is_no_event") {
        return;
    }
    // An interval that a busy machine's polling cannot miss.
    let interval = Lab::hello_interval() * 4;
    let mut lab = Lab::new(3);
    for router in 0..3 {
        lab.configure(router, |text| Lab::set_hello_interval(text, interval));
        lab.start(router);
    }
    lab.wait_for_group(&[0, 1, 2]);
    let manager = lab.manager(0);
    let victim = others(3, manager)[0];
    let (key, epoch, _) = lab.state(manager).unwrap();
    lab.coalition.cut(victim).unwrap();
    // Two intervals of silence, by the manager's own clock.
    let name = lab.name(victim);
    let silent = |least: Duration| {
        let neighbors = lab.get(manager, "neighbors");
        let neighbor = neighbors.as_array().unwrap().iter().find(|n| n["name"] == name.as_str()).unwrap();
        Duration::from_millis(neighbor["last_hello_ms"].as_u64().unwrap()) > least
    };
    lab.wait(interval * 4, "two intervals of silence", || silent(interval * 2));
    lab.coalition.mend(victim).unwrap();
    lab.wait(interval * 4, "hellos again", || !silent(interval));
    carry(&lab, manager, &others(3, manager), 50);
    assert_eq!(lab.state(manager).unwrap(), (key.clone(), epoch, 3));
    assert_eq!(lab.state(victim).unwrap(), (key, epoch, 3));
}

#[test]
fn a_link_down_for_longer_is_an_exclusion_and_a_return() {
    if skip("a_link_down_for_longer_is_an_exclusion_and_a_return") {
        return;
    }
    let lab = Lab::group(4);
    for manager_too in [false, true] {
        let manager = lab.manager(0);
        let victim = if manager_too { manager } else { others(4, manager)[0] };
        let before = lab.state(manager).unwrap().0;
        lab.coalition.cut(victim).unwrap();
        let without = lab.wait_for_group(&others(4, victim));
        assert_ne!(without, before);
        lab.wait(Duration::from_secs(10), "the victim to be alone", || lab.is_group(&[victim]));
        lab.coalition.mend(victim).unwrap();
        let again = lab.wait_for_group(&[0, 1, 2, 3]);
        assert!(again != without && again != before);
        carry(&lab, victim, &others(4, victim), 50);
    }
}

#[test]
fn a_router_of_an_untrusted_root_stays_outside() {
    if skip("a_router_of_an_untrusted_root_stays_outside") {
        return;
    }
    let mut lab = Lab::new(3);
    // Router 2 gets another root of the same name, which only it trusts besides the others.
    let rogue = lab.path("Rogue");
    let rogue = rogue.to_str().unwrap();
    let name = lab.name(2);
    lab.pki(&["init", rogue, "--name", "Charlie"]);
    lab.pki(&["issue", rogue, "--name", &name]);
    lab.configure(2, |text| {
        *text = text.replace("\"Charlie/charlie", "\"Rogue/charlie").replace("\"Charlie/ca.pem\"", "\"Rogue/ca.pem\"");
    });
    (0..3).for_each(|router| lab.start(router));
    let key = lab.wait_for_group(&[0, 1]);
    lab.wait(Duration::from_secs(5), "it to be refused", || {
        let neighbors = lab.get(0, "neighbors");
        neighbors.as_array().unwrap().iter().any(|neighbor| neighbor["state"] == "refused")
    });
    lab.wait_for_group(&[2]);
    carry_past(&lab, 0, &[1], &[2], 50);
    assert_eq!(lab.state(0).unwrap().0, key, "the stranger changed nothing");
}

#[test]
fn another_group_on_the_same_wire_stays_apart() {
    if skip("another_group_on_the_same_wire_stays_apart") {
        return;
    }
    let mut lab = Lab::new(4);
    for router in [1, 3] {
        lab.configure(router, |text| *text = text.replace("name = \"coalition\"", "name = \"another\""));
    }
    (0..4).for_each(|router| lab.start(router));
    let one = lab.wait_for_group(&[0, 2]);
    let another = lab.wait_for_group(&[1, 3]);
    assert_ne!(one, another);
    carry_past(&lab, 0, &[2], &[1, 3], 50);
}
