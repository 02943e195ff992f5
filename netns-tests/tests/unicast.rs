//! Unicast between the LANs: every host to every other, while routers come, go and change their keys.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use muster_netlab::Sender;
use muster_netns_tests::{Family, Lab, carry, carry_unicast, host, skip, unicast_flow, wait_for_unicast, wait_until};
use serde_json::Value;

/// Datagrams of a flow that lasts until it is stopped.
const ENDLESS: u64 = 1 << 20;

/// Ends an endless flow, but not before it has so many datagrams; gives their number.
fn stop_after(lab: &Lab, sender: Sender, least: u64) -> u64 {
    lab.wait(Duration::from_secs(20), "enough of the flow", || sender.sent() >= least);
    sender.stop()
}

/// Unicast SAs of a router: received on, sent on.
fn unicast_sas(lab: &Lab, router: usize) -> (Vec<Value>, Vec<Value>) {
    let sas = lab.get(router, "sas").as_array().unwrap().clone();
    sas.into_iter().filter(|sa| sa["kind"] == "unicast").partition(|sa| sa["direction"] == "in")
}

fn routes(lab: &Lab, router: usize) -> usize {
    lab.get(router, "routes").as_array().unwrap().len()
}

fn assert_no_clear_text(lab: &Lab) {
    assert!(lab.capture.settle(Duration::from_secs(5)));
    assert_eq!(lab.capture.stats().cleartext, 0, "{:?}", lab.capture.examples());
}

/// Nothing was dropped, but for what the sky repeated.
fn assert_no_drops(lab: &Lab, router: usize) {
    let dropped = lab.get(router, "status")["dataplane"]["dropped"].clone();
    let is_fault = |reason: &str| !(reason == "replay" && Lab::is_foul());
    for (reason, count) in dropped.as_object().unwrap().iter().filter(|(reason, _)| is_fault(reason)) {
        assert_eq!(*count, 0, "{reason} at {}", lab.name(router));
    }
}

#[test]
fn every_host_reaches_every_other_over_ipv6() {
    if !skip("every_host_reaches_every_other_over_ipv6") {
        every_host_reaches_every_other(Family::V6);
    }
}

#[test]
fn every_host_reaches_every_other_over_ipv4() {
    if !skip("every_host_reaches_every_other_over_ipv4") {
        every_host_reaches_every_other(Family::V4);
    }
}

fn every_host_reaches_every_other(black: Family) {
    let lab = Lab::group_on(black, 4);
    for router in 0..4 {
        lab.wait(Duration::from_secs(5), "SAs and routes to all", || {
            let (received, sent) = unicast_sas(&lab, router);
            received.len() == 3 && sent.len() == 3 && routes(&lab, router) == 6
        });
    }
    for from in 0..4 {
        let others: Vec<usize> = (0..4).filter(|to| *to != from).collect();
        for &to in &others {
            for ipv4 in [false, true] {
                carry_unicast(&lab, from, to, ipv4, 20);
            }
        }
        carry(&lab, from, &others, 20);
    }
    for router in 0..4 {
        assert_no_drops(&lab, router);
        let (received, sent) = unicast_sas(&lab, router);
        // 21 of each family to each.
        for sa in received.iter().chain(&sent) {
            assert_eq!(sa["packets"], 42, "{sa}");
            assert!((0x4000_0000..0x8000_0000).contains(&sa["spi"].as_u64().unwrap()));
        }
        assert!(sent.iter().all(|sa| sa["receiver"].is_string()));
    }
    assert_no_clear_text(&lab);
}

#[test]
fn the_routers_own_packets_are_bound() {
    if skip("the_routers_own_packets_are_bound") {
        return;
    }
    let mut lab = Lab::group(2);
    for ipv4 in [false, true] {
        wait_for_unicast(&lab, 0, 1, ipv4);
        let to = host(&lab, 1, ipv4);
        let host = &lab.coalition.routers()[1].host;
        let receiver = host.try_run("listen", || UdpSocket::bind(to)).unwrap();
        receiver.set_read_timeout(Some(Lab::patience(Duration::from_secs(5)))).unwrap();
        let any: SocketAddr = if ipv4 { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
        let router = &lab.coalition.routers()[0].namespace;
        let sender = router.try_run("send", || UdpSocket::bind(any)).unwrap();
        sender.send_to(b"from the router itself", to).unwrap();
        // What opened the way may still be coming in.
        let (len, from) = loop {
            let mut buffer = [0; 200];
            let (len, from) = receiver.recv_from(&mut buffer).unwrap();
            if &buffer[..len] == b"from the router itself" {
                break (len, from);
            }
        };
        let plan = &lab.coalition.routers()[0].plan;
        let red = if ipv4 { plan.router_v4().into() } else { std::net::IpAddr::from(plan.router_v6()) };
        assert_eq!((len, from.ip()), (22, red), "with an address of its red side");
    }
    // And after the daemon's death they go nowhere, though black has a default route; the kernel's own ESP goes on
    // encrypting them.
    lab.kill(0);
    for ipv4 in [false, true] {
        let any: SocketAddr = if ipv4 { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
        let router = &lab.coalition.routers()[0].namespace;
        let sender = router.try_run("send", || UdpSocket::bind(any)).unwrap();
        let sent = sender.send_to(b"from the router itself", host(&lab, 1, ipv4));
        assert_eq!(sent.is_ok(), lab.is_kernel());
    }
    assert_no_clear_text(&lab);
}

#[test]
fn who_comes_back_is_reached_again() {
    if skip("who_comes_back_is_reached_again") {
        return;
    }
    let mut lab = Lab::group(3);
    wait_for_unicast(&lab, 0, 1, false);
    carry_unicast(&lab, 0, 1, false, 20);
    wait_for_unicast(&lab, 2, 0, true);
    // Without a word and back at once, without a word and back later, in order.
    for gone in ["quick", "slow", "orderly"] {
        match gone {
            "orderly" => lab.terminate(1),
            _ => lab.kill(1),
        }
        if gone != "quick" {
            lab.wait(Lab::dead_time() * 3, "no route to who is gone", || routes(&lab, 0) == 2);
        }
        carry_unicast(&lab, 2, 0, true, 20);
        lab.start(1);
        lab.wait_for_group(&[0, 1, 2]);
        for ipv4 in [false, true] {
            wait_for_unicast(&lab, 0, 1, ipv4);
            wait_for_unicast(&lab, 1, 0, ipv4);
            wait_for_unicast(&lab, 1, 2, ipv4);
            carry_unicast(&lab, 0, 1, ipv4, 20);
            carry_unicast(&lab, 1, 2, ipv4, 20);
        }
    }
    assert_no_clear_text(&lab);
}

/// A link that fails for longer than the dead time costs no unicast key: the same SAs go on.
#[test]
fn a_link_that_fails_costs_no_unicast_keys() {
    if skip("a_link_that_fails_costs_no_unicast_keys") {
        return;
    }
    let lab = Lab::group(2);
    wait_for_unicast(&lab, 0, 1, false);
    carry_unicast(&lab, 0, 1, false, 20);
    let spis = |router| {
        let (received, sent) = unicast_sas(&lab, router);
        received.iter().chain(&sent).map(|sa| sa["spi"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let before = spis(0);
    lab.coalition.cut(1).unwrap();
    lab.wait(Lab::dead_time() * 3, "no route", || routes(&lab, 0) == 0 && routes(&lab, 1) == 0);
    assert_eq!(spis(0), before);
    lab.coalition.mend(1).unwrap();
    lab.wait_for_group(&[0, 1]);
    for (from, to) in [(0, 1), (1, 0)] {
        wait_for_unicast(&lab, from, to, false);
        carry_unicast(&lab, from, to, false, 20);
    }
    assert_eq!(spis(0), before);
}

/// The group's key changes while unicast flows; not one packet is lost.
#[test]
fn a_rekey_of_the_group_does_not_disturb() {
    if skip("a_rekey_of_the_group_does_not_disturb") {
        return;
    }
    let lab = Lab::group(3);
    carry_unicast(&lab, 0, 1, false, 20);
    let (sender, receiver) = unicast_flow(&lab, 0, 1, false, ENDLESS);
    for _ in 0..3 {
        let before = lab.state(0).unwrap().0;
        assert_eq!(lab.ask(2, &["rekey"]).status, 0);
        // In this order: below a satellite the others send under the old key for a while after the manager has the new one.
        lab.wait(Duration::from_secs(5), "a new key", || lab.state(0).unwrap().0 != before && lab.is_group(&[0, 1, 2]));
    }
    let sent = stop_after(&lab, sender, 2000);
    lab.wait(Duration::from_secs(5), "all of the flow", || receiver.unique() == sent);
    assert_eq!(receiver.tally().duplicates, 0);
    assert_no_drops(&lab, 0);
    assert_no_drops(&lab, 1);
}

/// Hello keys change every eight hello intervals, and with them all unicast SAs; not one packet is lost.
#[test]
fn fresh_hello_keys_lose_no_packet() {
    if skip("fresh_hello_keys_lose_no_packet") {
        return;
    }
    let mut lab = Lab::new(3);
    for router in 0..3 {
        lab.configure(router, |text| Lab::set_leaf_refresh(text, Lab::hello_interval() * 8));
        lab.start(router);
    }
    lab.wait_for_group(&[0, 1, 2]);
    wait_for_unicast(&lab, 0, 1, false);
    wait_for_unicast(&lab, 1, 0, false);
    let spi = |router: usize| {
        let (_, sent) = unicast_sas(&lab, router);
        sent.iter().map(|sa| sa["spi"].as_u64().unwrap()).min()
    };
    let flows = [(0, 1), (1, 0)].map(|(from, to)| unicast_flow(&lab, from, to, false, ENDLESS));
    for _ in 0..2 {
        let before = [spi(0), spi(1)];
        lab.wait(Duration::from_secs(10), "other SAs on both", || spi(0) != before[0] && spi(1) != before[1]);
    }
    for (sender, receiver) in flows {
        let sent = stop_after(&lab, sender, 8000);
        let came = wait_until(Lab::patience(Duration::from_secs(5)), || receiver.unique() == sent);
        let missing = receiver.tally().missing(sent);
        assert!(came, "of {sent} {missing:?}\n{}", lab.story(&["leave", "join", "restore", "renewed", "refused"]));
        assert_eq!(receiver.tally().duplicates, 0);
    }
    (0..2).for_each(|router| assert_no_drops(&lab, router));
    // What is old goes: at most the last life's and this one's for each of two neighbours.
    lab.wait(Duration::from_secs(10), "the old SAs to go", || unicast_sas(&lab, 0).0.len() <= 6);
    assert!(wait_until(Lab::patience(Duration::from_secs(1)), || lab.is_group(&[0, 1, 2])));
}
