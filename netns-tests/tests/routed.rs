//! Ten border routers around a black network with three routers of its own, as in the testbed of the paper (figure 3),
//! which carried no red multicast: here it does, IPv6 and IPv4, over either.

use std::time::Duration;

use muster_netlab::{HOST_DEVICE, Marker, Receiver};
use muster_netns_tests::{
    Family, Lab, Routing, alone, carry, carry_unicast, is_kernel, multicast_flow, no_routing, red_group, red_group_v4,
    say, skip, wait_for_unicast, wait_until,
};

#[test]
fn over_ipv4_with_ospf_and_pim() {
    goes_through("over_ipv4_with_ospf_and_pim", Family::V4, "flood");
}

#[test]
fn over_ipv6_with_ospf_and_static_multicast_routes() {
    goes_through("over_ipv6_with_ospf_and_static_multicast_routes", Family::V6, "dynamic");
}

/// `membership`: of the red LANs.
fn goes_through(test: &str, family: Family, membership: &str) {
    if skip(test) || no_routing(test) {
        return;
    }
    let _alone = alone();
    let all: Vec<usize> = (0..MANY).collect();
    let mut lab = Lab::routed(family, MANY);
    let mut routing = Routing::start(&lab);
    let red = format!("[red]\nmembership = \"{membership}\"\n");
    let hello_interval = if is_kernel() { SELDOM } else { Lab::hello_interval() };
    all.iter().for_each(|router| {
        lab.configure(*router, |text| {
            *text = text.replace("[red]\n", &red);
            Lab::set_hello_interval(text, hello_interval);
        });
    });
    all.iter().for_each(|router| lab.start(*router));
    let settled = lab.settles(LIMIT, &all, hello_interval);
    say(&format!("{test}: one group of {MANY}, which stays, after {settled:?}"));
    let _listeners = listens(&lab, membership);
    carries(&lab);

    let before = lab.state(0).expect("it answers").0;
    // The link by which the first site hears the second one. Multicast on the others goes on.
    lab.coalition.cut_between([1, 2]).unwrap();
    routing.centre(&lab, 3);
    let settled = lab.settles(LIMIT, &all, hello_interval);
    carries(&lab);
    let stayed = lab.state(0).expect("it answers").0 == before;
    let what = if stayed { "kept its key" } else { "came back under another key" };
    say(&format!("{test}: after the cut the group {what}; seen after {settled:?}"));

    assert!(lab.capture.settle(Duration::from_secs(5)));
    assert_eq!(lab.capture.stats().cleartext, 0, "{:?}", lab.capture.examples());
}

/// Hosts on all LANs that listen for all of the test; returns when their routers know it.
fn listens(lab: &Lab, membership: &str) -> Vec<Receiver> {
    let groups = [red_group(), red_group_v4()];
    let routers = 0..lab.coalition.routers().len();
    let host = |router: usize| &lab.coalition.routers()[router].host;
    let listens =
        |(router, group)| Receiver::start(host(router), HOST_DEVICE, group, Marker::random().unwrap()).unwrap();
    let listeners = routers.clone().flat_map(|router| groups.map(|group| (router, group))).map(listens).collect();
    lab.wait(LIMIT, "the hosts' reports", || {
        membership != "dynamic"
            || routers.clone().all(|router| {
                let known = lab.get(router, "status")["dataplane"]["listeners"].to_string();
                groups.iter().all(|group| known.contains(&group.ip().to_string()))
            })
    });
    listeners
}

/// Multicast from each site to all others, unicast between two sites each.
fn carries(lab: &Lab) {
    let routers = lab.coalition.routers().len();
    for from in 0..3 {
        let others: Vec<usize> = (0..routers).filter(|to| *to != from).collect();
        opens(lab, from, &others);
        carry(lab, from, &others, 100);
        for ipv4 in [false, true] {
            wait_for_unicast(lab, from, (from + 1) % 3, ipv4);
            carry_unicast(lab, from, (from + 1) % 3, ipv4, 20);
        }
    }
}

/// PIM makes a way for a sender when it hears it, and what the sender says until then may be lost.
fn opens(lab: &Lab, from: usize, to: &[usize]) {
    let took = lab.wait(LIMIT, &format!("multicast from {} to all", lab.name(from)), || {
        let (sender, receivers) = multicast_flow(lab, from, to, 20);
        sender.finish();
        wait_until(Duration::from_millis(200), || receivers.iter().all(|receiver| receiver.unique() == 20))
    });
    say(&format!("  multicast from {} reaches all after {took:?}", lab.name(from)));
}

/// As in the paper.
const MANY: usize = 10;
/// Between hellos with the kernel's ESP, under an emulated processor that so many daemons share: what a daemon has by default.
const SELDOM: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(120);
