//! The keys of unicast SAs: the same at both ends, other ones for every pair, direction and hello key.

use super::*;
use crate::Direction::{self, In, Out};

/// SPI and key of the SA between two nodes.
fn key(net: &mut Net, node: usize, with: usize, direction: Direction) -> (u32, [u8; 36]) {
    let with = net.member(with);
    let key = net.machine(node).unicast_key(&with, direction).unwrap();
    (key.spi, *key.key)
}

/// Both directions at both ends of a pair; they must agree.
fn pair(net: &mut Net, a: usize, b: usize) -> [(u32, [u8; 36]); 2] {
    let (there, back) = (key(net, a, b, Out), key(net, a, b, In));
    assert_eq!((key(net, b, a, In), key(net, b, a, Out)), (there, back));
    [there, back]
}

fn confirmed(net: &Net, node: usize, since: Time) -> usize {
    let is = |at: &Time, event: &Event| *at >= since && matches!(event, Event::Confirmed { .. });
    net.nodes[node].events.iter().filter(|(at, event)| is(at, event)).count()
}

#[test]
fn both_ends_have_the_same_and_nobody_else() {
    let mut net = Net::of(&[1000, 1000, 1000]);
    net.run(ms(300));
    let mut all = Vec::new();
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        all.extend(pair(&mut net, a, b));
    }
    assert!(all.iter().all(|(spi, _)| (0x4000_0000..0x8000_0000).contains(spi)));
    assert_eq!(all.iter().map(|(spi, _)| spi).collect::<BTreeSet<_>>().len(), 6);
    assert_eq!(all.iter().map(|(_, key)| key).collect::<BTreeSet<_>>().len(), 6);
}

#[test]
fn a_renewed_key_is_announced_and_confirmed() {
    let mut net = Net::of(&[1000, 1000]);
    net.run(ms(300));
    assert!(confirmed(&net, 0, Time(0)) > 0 && confirmed(&net, 1, Time(0)) > 0, "by the prefixes");
    let before = pair(&mut net, 0, 1);
    let at = net.now;
    net.with(0, |machine, now| machine.renew_key(now));
    assert_eq!(confirmed(&net, 0, at), 0, "not before the neighbour has heard it");
    net.run(ms(60));
    let after = pair(&mut net, 0, 1);
    assert!(before.iter().all(|old| after.iter().all(|new| old.0 != new.0 && old.1 != new.1)));
    assert!(confirmed(&net, 0, at) > 0);
    assert_eq!(net.news(0).iter().filter(|line| line.starts_with("gone")).count(), 0);
}

/// Prefixes sealed under the old key are lost; they are repeated under the new one.
#[test]
fn a_lost_hello_is_made_up_for() {
    let mut net = Net::of(&[1000, 1000]);
    net.run(ms(300));
    net.cut(0, 1);
    let at = net.now;
    net.with(0, |machine, now| machine.renew_key(now));
    net.run(ms(100));
    net.heal();
    net.with(1, |machine, now| machine.set_prefixes(now, vec!["2001:db8:a::/64".parse().unwrap()])).unwrap();
    net.run(ms(1100));
    pair(&mut net, 0, 1);
    assert!(confirmed(&net, 0, at) > 0);
    assert_eq!(net.status(0)[0].prefixes.len(), 1);
}

/// The hello with a new key overtakes an acknowledgement of what was sealed under the old one.
#[test]
fn a_late_acknowledgement_does_not_silence_what_is_sealed_under_the_next_key() {
    let mut net = Net::of(&[1000, 1000]);
    net.run(ms(300));
    net.with(0, |machine, now| machine.set_prefixes(now, vec!["2001:db8:a::/64".parse().unwrap()])).unwrap();
    net.run(Duration::from_micros(900));
    let late = net.last(1, Kind::PrefixesAck);
    net.wire.clear();
    net.cut.insert((0, 1));
    let at = net.now;
    net.with(1, |machine, now| machine.renew_key(now));
    net.run(ms(60));
    net.deliver(0, address(1), &late.bytes);
    net.heal();
    net.run(ms(500));
    pair(&mut net, 0, 1);
    assert!(confirmed(&net, 1, at) > 0);
    assert!(net.nodes[0].events.iter().any(|(when, event)| *when > at && matches!(event, Event::Assured { .. })));
}

/// It may hear us, though we do not hear it, and would send under what it hears.
#[test]
fn what_a_silent_neighbour_would_send_under_follows_our_key() {
    let mut net = Net::of(&[1000, 1000]);
    net.run(ms(300));
    net.cut.insert((1, 0));
    net.run(ms(6000));
    assert_eq!(net.news(0), ["join 1", "gone 1 silent"]);
    net.with(0, |machine, now| machine.renew_key(now));
    net.run(ms(100));
    assert_eq!(key(&mut net, 0, 1, In), key(&mut net, 1, 0, Out));
    let gone = net.member(1);
    assert!(net.machine(0).unicast_key(&gone, Out).is_none(), "nothing is sent to it");
    // Its goodbye is the end of it.
    net.heal();
    net.with(1, |machine, now| machine.shutdown(now));
    net.run(ms(10));
    assert!(net.machine(0).unicast_key(&gone, In).is_none());
}

#[test]
fn it_is_renewed_by_itself_within_its_life() {
    let mut net = Net::new();
    let node = net.add(device(1), 1000);
    net.start(node, 100);
    net.machine(node).config.key_life = ms(20_000);
    net.with(node, |machine, now| machine.renew_key(now));
    net.nodes[node].events.clear();
    net.run(ms(200_000));
    let renewed = net.nodes[node].events.iter().filter(|(_, event)| matches!(event, Event::Renewed)).count();
    assert!((10..=11).contains(&renewed), "{renewed}");
    // Not more often than the others can follow.
    net.machine(node).config.key_life = ms(1);
    net.with(node, |machine, now| machine.renew_key(now));
    net.nodes[node].events.clear();
    net.run(ms(80_000));
    let renewed = net.nodes[node].events.iter().filter(|(_, event)| matches!(event, Event::Renewed)).count();
    assert!((10..=11).contains(&renewed), "{renewed}");
}
