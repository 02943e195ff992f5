//! Red prefixes reach the neighbours, and nobody else.

use ipnet::IpNet;
use muster_wire::idp;

use super::*;
use crate::PrefixError;

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

/// The list that a node has last been told of.
fn told(net: &Net, node: usize) -> Option<Vec<IpNet>> {
    net.nodes[node].events.iter().rev().find_map(|(_, event)| match event {
        Event::PrefixesChanged { prefixes, .. } => Some(prefixes.clone()),
        _ => None,
    })
}

#[test]
fn they_arrive_are_acknowledged_and_change() {
    let mut net = Net::of(&[1000]);
    net.with(0, |machine, now| machine.set_prefixes(now, nets(&["2001:db8:a::/64", "192.0.2.0/24"]))).unwrap();
    let other = net.add(device(2), 1000);
    net.start(other, 100);
    net.run(ms(50));
    assert_eq!(told(&net, 1), Some(nets(&["192.0.2.0/24", "2001:db8:a::/64"])));
    let settled = net.now;
    net.run(ms(20_000));
    for node in [0, 1] {
        assert_eq!(net.count(node, Kind::Prefixes, settled), 0, "acknowledged, so silent");
    }
    net.with(0, |machine, now| machine.set_prefixes(now, nets(&["2001:db8:a::/64"]))).unwrap();
    net.run(ms(2));
    assert_eq!(told(&net, 1), Some(nets(&["2001:db8:a::/64"])));
    assert_eq!(net.status(1)[0].prefixes, nets(&["2001:db8:a::/64"]));
    net.with(0, |machine, now| machine.set_prefixes(now, nets(&[]))).unwrap();
    net.run(ms(2));
    assert_eq!(told(&net, 1), Some(vec![]));
}

#[test]
fn they_are_repeated_until_acknowledged_ever_more_rarely() {
    let mut net = Net::of(&[1000, 1000]);
    net.run(ms(1000));
    let (a, b) = (net.member(0), net.member(1));
    assert!(net.machine(0).certificate_key(&b).is_some() && net.machine(1).certificate_key(&a).is_some());
    let since = net.now;
    net.with(0, |machine, now| machine.set_prefixes(now, nets(&["2001:db8:a::/64"]))).unwrap();
    let first = net.last(0, Kind::Prefixes);
    net.wire.clear();
    net.run(ms(190));
    assert_eq!(told(&net, 1), Some(vec![]));
    net.run(ms(20));
    assert_eq!(told(&net, 1), Some(nets(&["2001:db8:a::/64"])));
    assert_eq!(net.count(0, Kind::Prefixes, since), 2);
    // The lost one comes late: nothing new, but acknowledged once more.
    let acks = net.count(1, Kind::PrefixesAck, since);
    net.nodes[1].events.clear();
    net.deliver(1, address(0), &first.bytes);
    assert_eq!(told(&net, 1), None);
    assert_eq!(net.count(1, Kind::PrefixesAck, since), acks + 1);
    // A second time it is a replay.
    net.deliver(1, address(0), &first.bytes);
    assert_eq!(net.count(1, Kind::PrefixesAck, since), acks + 1);
    assert_eq!(net.dropped(1, Dropped::Replayed), 1);
}

#[test]
fn the_first_repetitions_are_prompt() {
    let mut net = Net::of(&[1000, 1000]);
    net.run(ms(1000));
    net.cut(0, 1);
    let since = net.now;
    net.with(0, |machine, now| machine.set_prefixes(now, nets(&["2001:db8:a::/64"]))).unwrap();
    // At 0, 200, 400, 600, 800, then 1,200 and 2,000 ms.
    for (time, sent) in [(190, 1), (700, 5), (290, 5), (100, 6), (800, 7)] {
        net.run(ms(time));
        assert_eq!(net.count(0, Kind::Prefixes, since), sent);
    }
}

#[test]
fn an_overtaken_version_does_not_come_back() {
    let mut net = Net::of(&[1000, 1000]);
    net.run(ms(300));
    let versions: Vec<Sent> = ["10.1.0.0/16", "10.2.0.0/16"]
        .map(|text| {
            net.with(0, |machine, now| machine.set_prefixes(now, nets(&[text]))).unwrap();
            net.last(0, Kind::Prefixes)
        })
        .to_vec();
    net.wire.clear();
    net.deliver(1, address(0), &versions[1].bytes);
    net.deliver(1, address(0), &versions[0].bytes);
    assert_eq!(told(&net, 1), Some(nets(&["10.2.0.0/16"])));
    assert_eq!(net.status(1)[0].prefixes, nets(&["10.2.0.0/16"]));
}

#[test]
fn a_neighbour_that_did_not_notice_its_absence_is_still_believed() {
    let mut net = Net::of(&[200, 200]);
    net.with(1, |machine, now| machine.set_prefixes(now, nets(&["2001:db8:b::/64"]))).unwrap();
    net.run(ms(1000));
    net.cut.insert((1, 0));
    net.run(ms(1000));
    net.heal();
    net.nodes[0].events.retain(|(_, event)| !matches!(event, Event::PrefixesChanged { .. }));
    net.run(ms(1000));
    assert_eq!(net.news(1), ["join 0"]);
    assert_eq!(net.news(0), ["join 1", "gone 1 silent", "restore 1"]);
    assert_eq!(net.status(0)[0].prefixes, nets(&["2001:db8:b::/64"]));
}

/// Who may have what beside whom is not discovery's business.
#[test]
fn lists_change_and_may_overlap() {
    let mut net = Net::of(&[1000, 1000]);
    net.run(ms(100));
    net.with(0, |machine, now| machine.set_prefixes(now, nets(&["2001:db8:a::/64"]))).unwrap();
    net.with(1, |machine, now| machine.set_prefixes(now, nets(&["10.0.0.0/8", "2001:db8::/32"]))).unwrap();
    net.run(ms(10));
    assert_eq!(told(&net, 0), Some(nets(&["10.0.0.0/8", "2001:db8::/32"])));
    assert_eq!(told(&net, 1), Some(nets(&["2001:db8:a::/64"])));
    net.with(1, |machine, now| machine.set_prefixes(now, nets(&[]))).unwrap();
    net.run(ms(10));
    assert_eq!(told(&net, 0), Some(vec![]), "withdrawn");
    let error = net.with(0, |machine, now| machine.set_prefixes(now, nets(&["0.0.0.0/0"])));
    assert!(matches!(error, Err(PrefixError::Forbidden(_))));
}

#[test]
fn nobody_else_can_read_or_use_them() {
    let mut net = Net::of(&[1000, 1000, 1000]);
    net.run(ms(300));
    net.with(0, |machine, now| machine.set_prefixes(now, nets(&["2001:db8:a::/64"]))).unwrap();
    let sent: Vec<Sent> = net.sent.iter().filter(|s| s.from == 0 && s.kind == Kind::Prefixes).cloned().collect();
    net.run(ms(100));
    let address_bytes = [0x20, 0x01, 0x0d, 0xb8, 0, 0x0a];
    assert!(sent.iter().all(|s| !s.bytes.windows(6).any(|w| w == address_bytes)));
    let to_one = sent.iter().rfind(|s| s.to == Destination::Unicast(address(1))).unwrap();
    net.nodes[2].events.clear();
    net.deliver(2, address(0), &to_one.bytes);
    assert_eq!(told(&net, 2), None);
    let envelope = Envelope::parse(&to_one.bytes).unwrap();
    let sealed = envelope.decode::<idp::Prefixes>().unwrap().sealed.into_vec();
    let (third, first) = (net.machine(2), envelope.header());
    let opened = third.peers.up(&first.sender).unwrap().pair.open(first.sequence, 1, sealed.clone());
    assert!(opened.is_err());
    let own = net.machine(1).peers.up(&first.sender).unwrap().pair.open(first.sequence, 1, sealed);
    assert!(own.is_ok());
}
