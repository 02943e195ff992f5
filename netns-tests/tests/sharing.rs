//! Two routers of one organisation on one LAN: one of them forwards, and when it is gone, the other.

use std::time::Duration;

use muster_netlab::Namespace;
use muster_netns_tests::{Lab, Lan, carry_between, red_group, red_group_v4, skip};
use serde_json::Value;

/// The shared LAN's prefixes.
const PREFIXES: [&str; 2] = ["2001:db8:5::/64", "10.77.0.0/24"];
/// The bridge that it is, which is its one host, too.
const BRIDGE: &str = "lan0";

/// A LAN with two routers, and a host on it.
fn shared_lan(lab: &Lab, routers: [usize; 2]) -> Namespace {
    let lan = Namespace::new("shared LAN").unwrap();
    lan.add_bridge(BRIDGE).unwrap();
    let assign = |namespace: &Namespace, device: &str, host: usize| {
        for address in [format!("2001:db8:5::{host}/64"), format!("10.77.0.{host}/24")] {
            namespace.add_address(device, address.parse().unwrap()).unwrap();
        }
    };
    assign(&lan, BRIDGE, 1);
    for router in routers {
        let namespace = &lab.coalition.routers()[router].namespace;
        let port = format!("to{router}");
        lan.add_port(&port.as_str().into(), BRIDGE, namespace, &"red1".into()).unwrap();
        assign(namespace, "red1", 10 + router);
        lan.wait_for_link(&port).unwrap();
        namespace.wait_for_link("red1").unwrap();
        lab.configure(router, |text| {
            let plan = &lab.coalition.routers()[router].plan;
            *text = text.replace("\"red0\"", "\"red1\"");
            *text =
                text.replace(&plan.red_v6().to_string(), PREFIXES[0]).replace(&plan.red_v4().to_string(), PREFIXES[1]);
        });
    }
    lan.wait_for_link(BRIDGE).unwrap();
    lan
}

/// For how many prefixes a router leaves the multicast to another.
fn stands_by(lab: &Lab, router: usize) -> usize {
    let answer = lab.ask(router, &["status", "--json"]);
    let status: Value = serde_json::from_str(&answer.stdout).unwrap_or_default();
    status["dataplane"]["stands_by"].as_array().map_or(0, Vec::len)
}

/// Both ways, both families; every datagram once, on black too.
fn carry_both_ways(lab: &Lab, lan: &Namespace) {
    let host = |router: usize| Lan::of(lab, router);
    let shared = Lan { namespace: lan, device: BRIDGE, router: None };
    assert!(lab.capture.settle(Duration::from_secs(5)));
    let before = lab.capture.stats().esp;
    for group in [red_group(), red_group_v4()] {
        carry_between(lab, shared, &[host(1), host(2)], &[], group, 100);
        carry_between(lab, host(1), &[shared, host(2)], &[], group, 100);
    }
    assert!(lab.capture.settle(Duration::from_secs(5)));
    // Each flow is opened by one datagram more.
    assert_eq!(lab.capture.stats().esp - before, 4 * 101, "{:?}", lab.capture.stats());
    assert_eq!(lab.capture.stats().cleartext, 0, "{:?}", lab.capture.examples());
}

#[test]
fn one_forwards_and_the_other_takes_over() {
    if skip("one_forwards_and_the_other_takes_over") {
        return;
    }
    let mut lab = Lab::new(4);
    // Of three nations, the first and the fourth router are of one.
    let lan = shared_lan(&lab, [0, 3]);
    (0..4).for_each(|router| lab.start(router));
    let all = [0, 1, 2, 3];
    lab.wait_for_group(&all);
    let id = |router: usize| lab.get(router, "status")["member_id"].as_str().unwrap().to_owned();
    let (first, second) = if id(0) < id(3) { (0, 3) } else { (3, 0) };
    let settled = |lab: &Lab| {
        lab.wait(Duration::from_secs(10), "the higher one to stand by", || stands_by(lab, second) == 2);
        assert_eq!(stands_by(lab, first), 0);
    };
    settled(&lab);
    let members = lab.get(1, "members");
    let announced = members.as_array().unwrap().iter().filter(|m| m["prefixes"].to_string().contains(PREFIXES[0]));
    assert_eq!(announced.count(), 2, "both are accepted: {members}");
    carry_both_ways(&lab, &lan);

    // Without a word, as if its power went: its kernel does not answer for it either (ICMP).
    lab.coalition.cut(first).unwrap();
    lab.kill(first);
    lab.wait_for_group(&[1, 2, second]);
    lab.wait(Duration::from_secs(5), "the other to take over", || stands_by(&lab, second) == 0);
    carry_both_ways(&lab, &lan);
    lab.coalition.mend(first).unwrap();
    lab.start(first);
    lab.wait_for_group(&all);
    settled(&lab);
    carry_both_ways(&lab, &lan);

    // The one that stands by: that changes nothing.
    lab.coalition.cut(second).unwrap();
    lab.kill(second);
    lab.wait_for_group(&[1, 2, first]);
    assert_eq!(stands_by(&lab, first), 0);
    carry_both_ways(&lab, &lan);
    lab.coalition.mend(second).unwrap();
    lab.start(second);
    lab.wait_for_group(&all);
    settled(&lab);

    // Still there, and out of reach on black.
    lab.coalition.cut(first).unwrap();
    lab.wait_for_group(&[1, 2, second]);
    lab.wait(Duration::from_secs(5), "the other to take over", || stands_by(&lab, second) == 0);
    carry_both_ways(&lab, &lan);
    lab.coalition.mend(first).unwrap();
    lab.wait_for_group(&all);
    settled(&lab);
    carry_both_ways(&lab, &lan);
    let refusals = lab.ask(second, &["events", "--json"]).stdout;
    assert!(!refusals.contains("which is ours"), "{refusals}");
}
