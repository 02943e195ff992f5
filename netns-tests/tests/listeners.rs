//! Dynamic membership: of the red groups only what a host listens to enters its LAN.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use muster_netlab::{Flow, HOST_DEVICE, Marker, Namespace, Receiver, Sender};
use muster_netns_tests::{Lab, multicast_flow_at, red_group, red_group_v4, skip};
use serde_json::Value;

/// Datagrams a second: an emulated processor is to keep up.
const RATE: u32 = 250;
/// Of a datagram.
const SIZE: usize = 100;
/// More than neighbour discovery and the like send by themselves in a second, far less than a flow.
const SILENCE: u64 = 5000;

fn lab(routers: usize) -> Lab {
    let mut lab = Lab::new(routers);
    for router in 0..routers {
        lab.configure(router, |text| *text = text.replace("[red]\n", "[red]\nmembership = \"dynamic\"\n"));
        lab.start(router);
    }
    lab.wait_for_group(&(0..routers).collect::<Vec<_>>());
    lab
}

fn lan(lab: &Lab, router: usize) -> &Namespace {
    &lab.coalition.routers()[router].host
}

/// Octets that have come out of the LAN at its host, wanted or not. Packets may come joined.
fn entered(lab: &Lab, router: usize) -> u64 {
    let table = lan(lab, router).try_run("counters", || fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
    let line = table.lines().find_map(|line| line.trim().strip_prefix(HOST_DEVICE)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// MLDv2 reports that the host has sent.
fn reports(lab: &Lab, router: usize) -> u64 {
    let table = lan(lab, router).try_run("counters", || fs::read_to_string("/proc/thread-self/net/snmp6")).unwrap();
    let count = table.lines().find_map(|line| line.strip_prefix("Icmp6OutMLDv2Reports"));
    count.map_or(0, |count| count.trim().parse().unwrap())
}

/// The groups that a router knows hosts to listen to.
fn groups(lab: &Lab, router: usize) -> Vec<Value> {
    let status = lab.get(router, "status");
    let listeners = status["dataplane"]["listeners"].as_array().unwrap().clone();
    listeners.iter().flat_map(|one| one["groups"].as_array().unwrap().clone()).collect()
}

fn is_known(lab: &Lab, router: usize, group: IpAddr) -> bool {
    groups(lab, router).iter().any(|one| one["group"] == group.to_string())
}

fn flow(lab: &Lab, from: usize, to: SocketAddr, count: u64) -> (Sender, Marker) {
    let marker = Marker::random().unwrap();
    lab.capture.add_marker(marker);
    let flow = Flow { to, marker, count, rate: RATE, size: SIZE };
    (Sender::start(lan(lab, from), HOST_DEVICE, flow).unwrap(), marker)
}

#[test]
fn only_where_a_host_listens() {
    if skip("only_where_a_host_listens") {
        return;
    }
    let lab = lab(3);
    lab.wait_for_prefixes(&[0, 1, 2]);
    // Nobody listens behind the third router; it gets all of it, its LAN none.
    let before = (entered(&lab, 1), entered(&lab, 2));
    for group in [red_group(), red_group_v4()] {
        let marker = Marker::random().unwrap();
        lab.capture.add_marker(marker);
        let receiver = Receiver::start(lan(&lab, 1), HOST_DEVICE, group, marker).unwrap();
        lab.wait(Duration::from_secs(10), "the host's report", || is_known(&lab, 1, group.ip()));
        // One goes ahead: of a flow that is new to it the kernel keeps four.
        let flow = |count| Flow { to: group, marker, count, rate: RATE, size: SIZE };
        assert_eq!(Sender::start(lan(&lab, 0), HOST_DEVICE, flow(1)).unwrap().finish(), 1);
        lab.wait(Duration::from_secs(10), "the first datagram", || receiver.unique() == 1);
        assert_eq!(Sender::start(lan(&lab, 0), HOST_DEVICE, flow(500)).unwrap().finish(), 500);
        // Both flows begin with number 0.
        lab.wait(Duration::from_secs(10), "the flow where somebody listens", || receiver.unique() == 500);
    }
    assert!(entered(&lab, 1) >= before.0 + 1000 * SIZE as u64);
    assert!(entered(&lab, 2) < before.1 + SILENCE, "{} octets", entered(&lab, 2) - before.1);
    let received = |router: usize| lab.get(router, "status")["dataplane"]["rx_packets"].as_u64().unwrap();
    assert!(received(1) >= 1000 && received(2) >= 1000, "black carried them to all");
    assert!(lab.capture.settle(Duration::from_secs(5)));
    assert_eq!(lab.capture.stats().cleartext, 0, "{:?}", lab.capture.examples());
}

#[test]
fn who_joins_in_the_middle_gets_the_rest_and_who_leaves_no_more() {
    if skip("who_joins_in_the_middle_gets_the_rest_and_who_leaves_no_more") {
        return;
    }
    for version in ["now", "before"] {
        let lab = lab(2);
        lab.wait_for_prefixes(&[0, 1]);
        if version == "before" {
            lan(&lab, 1).sysctl("ipv4/conf/eth0/force_igmp_version", "2").unwrap();
            lan(&lab, 1).sysctl("ipv6/conf/eth0/force_mld_version", "1").unwrap();
        }
        for group in [red_group(), red_group_v4()] {
            let (sender, marker) = flow(&lab, 0, group, 1 << 20);
            let silent = entered(&lab, 1);
            lab.wait(Duration::from_secs(10), "some of the flow at the router", || sender.sent() > 300);
            assert!(entered(&lab, 1) < silent + SILENCE, "{version}: nobody listens");

            let receiver = Receiver::start(lan(&lab, 1), HOST_DEVICE, group, marker).unwrap();
            lab.wait(Duration::from_secs(5), "the flow at who joined", || receiver.unique() > 100);
            assert!(is_known(&lab, 1, group.ip()), "{version}: {:?}", groups(&lab, 1));
            // From the first that came on, nothing is missing; but what is overtaken may have come too early, or not yet.
            let tally = receiver.tally();
            let first = (0..).find(|sequence| tally.has(*sequence)).unwrap();
            let overtaken = if Lab::is_foul() { u64::from(RATE) / 50 } else { 0 };
            let inner = first + overtaken..first + tally.unique - overtaken;
            let missing: Vec<u64> = tally.missing(inner.end).into_iter().filter(|one| inner.contains(one)).collect();
            assert!(missing.is_empty(), "{missing:?} of {inner:?}");
            assert_eq!(tally.duplicates, 0);

            drop(receiver);
            // Asked twice, a second apart; nobody answers.
            lab.wait(Duration::from_secs(10), "the router to see that nobody listens", || {
                !is_known(&lab, 1, group.ip())
            });
            let (silent, sent) = (entered(&lab, 1), sender.sent());
            lab.wait(Duration::from_secs(10), "more of the flow", || sender.sent() > sent + 300);
            assert!(entered(&lab, 1) < silent + SILENCE, "{version}: nobody listens any more");
            sender.stop();
        }
    }
}

#[test]
fn who_listened_before_the_router_came_is_asked() {
    if skip("who_listened_before_the_router_came_is_asked") {
        return;
    }
    let mut lab = lab(2);
    lab.terminate(1);
    let (sender, marker) = flow(&lab, 0, red_group(), 1 << 20);
    // It says so twice, and not again (RFC 3810 9.1).
    let silent = reports(&lab, 1);
    let receiver = Receiver::start(lan(&lab, 1), HOST_DEVICE, red_group(), marker).unwrap();
    lab.wait(Duration::from_secs(10), "the host to have said what it listens to", || reports(&lab, 1) >= silent + 2);
    lab.start(1);
    // It answers within a second.
    lab.wait(Duration::from_secs(20), "the flow at who listened before", || receiver.unique() > 100);
    sender.stop();
}

#[test]
fn one_source_of_a_group() {
    if skip("one_source_of_a_group") {
        return;
    }
    let lab = lab(3);
    lab.wait_for_prefixes(&[0, 1, 2]);
    let group = red_group_v4();
    let wanted = lab.coalition.routers()[0].plan.host_v4();
    let (sender, marker) = flow(&lab, 0, group, 1 << 20);
    let (other, _) = flow(&lab, 2, group, 1 << 20);
    let receiver = Receiver::start_of_source(lan(&lab, 1), HOST_DEVICE, group, wanted, marker).unwrap();
    lab.wait(Duration::from_secs(5), "the flow of the source", || receiver.unique() > 100);
    let one = groups(&lab, 1).into_iter().find(|one| one["group"] == group.ip().to_string()).unwrap();
    assert_eq!((&one["mode"], &one["sources"][0]), (&"include".into(), &wanted.to_string().into()));
    // As many as were sent by the one; not as by both.
    let (before, sent, other_sent) = (entered(&lab, 1), sender.sent(), other.sent());
    lab.wait(Duration::from_secs(10), "more of both", || sender.sent() > sent + 500 && other.sent() > other_sent + 400);
    let (came, sent) = (entered(&lab, 1) - before, sender.sent() - sent);
    // With the headers of Ethernet, IPv6 and UDP; both flows would be twice that.
    assert!(came < sent * (SIZE as u64 + 62) + SILENCE * 2, "{came} octets came, {sent} datagrams were sent");
    sender.stop();
    other.stop();
}

#[test]
fn without_it_every_lan_gets_everything() {
    if skip("without_it_every_lan_gets_everything") {
        return;
    }
    let lab = Lab::group(3);
    lab.wait_for_prefixes(&[0, 1, 2]);
    assert_eq!(lab.get(0, "status")["dataplane"]["listeners"], serde_json::json!([]));
    let before = entered(&lab, 2);
    let (sender, _) = multicast_flow_at(&lab, 0, &[1], 500, RATE);
    sender.finish();
    lab.wait(Duration::from_secs(10), "the flow in a LAN in which nobody listens", || {
        entered(&lab, 2) >= before + 400 * SIZE as u64
    });
}
