//! What others send to harm.

use muster_certs::SigningKey;
use muster_wire::idp::{Hello, Probe, ProbeAnswer};
use muster_wire::{Header, Nonce};
use proptest::prelude::*;

use super::*;
use crate::config::MAX_CANDIDATES;

/// Two neighbours, and all the datagrams of their first seconds.
fn settled() -> Net {
    let mut net = Net::of(&[1000, 1000]);
    net.run(ms(3000));
    assert_eq!(net.news(0), ["join 1"]);
    assert_eq!(net.news(1), ["join 0"]);
    net
}

/// All that a machine would tell, and what it has queued.
fn state(net: &mut Net, node: usize) -> String {
    let now = net.now;
    let machine = net.machine(node);
    let neighbors: Vec<String> = machine.neighbors(now).map(|status| format!("{status:?}")).collect();
    format!("{neighbors:?} {:?} {}", machine.poll_timeout(), machine.candidate_count())
}

#[test]
fn what_was_sent_before_has_no_effect_when_it_is_sent_again() {
    let mut net = settled();
    net.run(ms(300));
    let (before, all) = (state(&mut net, 0), net.sent.clone());
    for sent in all.iter().filter(|s| s.from == 1) {
        net.deliver(0, address(1), &sent.bytes);
        net.deliver(0, "[fd00::99]:4860".parse().unwrap(), &sent.bytes);
    }
    assert_eq!(state(&mut net, 0), before);
    assert_eq!(net.sent.len(), all.len(), "and nothing is answered");
}

#[test]
fn wrong_signatures_other_groups_and_own_datagrams_are_counted_and_no_more() {
    let mut net = settled();
    net.run(ms(500));
    let before = state(&mut net, 0);
    let hello = net.last(1, Kind::Hello);
    let envelope = Envelope::parse(&hello.bytes).unwrap();
    let header = Header { sequence: envelope.header().sequence + 10, ..*envelope.header() };
    let thief = SigningKey::from_seed(&[99; 32]);
    let forged = thief.seal(&header, envelope.body()).unwrap();
    net.deliver(0, address(1), &forged);
    assert_eq!(net.dropped(0, Dropped::BadSignature), 1);
    let elsewhere = Header { group: GroupTag([8; 16]), ..header };
    let elsewhere = net.nodes[1].device.key.seal(&elsewhere, envelope.body()).unwrap();
    net.deliver(0, address(1), &elsewhere);
    assert_eq!(net.dropped(0, Dropped::OtherGroup), 1);
    let own = net.last(0, Kind::Hello);
    net.deliver(0, address(1), &own.bytes);
    assert_eq!(net.dropped(0, Dropped::Own), 1);
    net.deliver(0, address(1), b"MSTR");
    assert_eq!(net.dropped(0, Dropped::Malformed), 1);
    assert_eq!(state(&mut net, 0), before);
    net.run(ms(3000));
    assert!(net.news(0).is_empty());
}

#[test]
fn an_address_is_followed_only_with_a_verified_hello() {
    let mut net = settled();
    let moved: SocketAddr = "[fd00::77]:4860".parse().unwrap();
    let hello = net.last(1, Kind::Hello);
    net.deliver(0, moved, &hello.bytes);
    assert_eq!(net.status(0)[0].address, address(1), "a replay moves nobody");
    net.nodes[1].address = moved;
    net.run(ms(1100));
    assert_eq!(net.status(0)[0].address, moved);
    assert!(net.news(0).is_empty());
}

#[test]
fn a_flood_of_invented_ids_costs_few_probes_and_keeps_nobody_out() {
    for spread in [false, true] {
        let mut net = settled();
        let template = Envelope::parse(&net.last(1, Kind::Hello).bytes).unwrap();
        let since = net.now;
        let thief = SigningKey::from_seed(&[99; 32]);
        let newcomer = net.add(device(3), 1000);
        let mut started = false;
        for n in 0..10_000_u32 {
            let mut id = [0; 32];
            net.rng.fill_bytes(&mut id);
            let header = Header { sender: MemberId(id), ..*template.header() };
            let forged = thief.seal(&header, template.body()).unwrap();
            let host = if spread { n } else { 1 };
            let from = SocketAddr::new(std::net::Ipv4Addr::from(0x0a00_0000 + host).into(), 4860);
            net.deliver(0, from, &forged);
            if n % 5 == 0 {
                net.run(ms(1));
            }
            if n == 5000 {
                net.start(newcomer, 100);
                started = true;
            }
        }
        assert!(started);
        let seconds = net.now.since(since).as_secs() as usize;
        let probes = net.count(0, Kind::Probe, since);
        let most = if spread { 256 + 500 * (seconds + 1) } else { 16 + 8 * (seconds + 1) + 10 };
        assert!(probes <= most, "{probes} probes in {seconds} s");
        assert!(net.machine(0).candidate_count() <= MAX_CANDIDATES);
        net.run(ms(3000));
        assert_eq!(net.news(0), ["join 2"], "spread: {spread}");
        assert_eq!(net.news(2).len(), 2);
    }
}

/// Hellos in a stranger's name; those with another number have another nonce.
fn stranger_says_hello(net: &mut Net, number: u64) {
    let template = Envelope::parse(&net.last(1, Kind::Hello).bytes).unwrap();
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&number.to_be_bytes());
    let hello = Hello { nonce: Nonce(nonce), ..template.decode().unwrap() };
    let header = Header { sender: MemberId([99; 32]), sequence: 1000 + number, ..*template.header() };
    let forged = SigningKey::from_seed(&[99; 32]).seal(&header, &muster_wire::codec::encode(&hello).unwrap()).unwrap();
    net.deliver(0, "10.0.0.1:4860".parse().unwrap(), &forged);
}

#[test]
fn what_a_hello_of_somebody_who_does_not_answer_costs() {
    let mut net = settled();
    let mut cost = |number: u64, pause: u64| {
        let since = net.now;
        stranger_says_hello(&mut net, number);
        net.run(ms(pause));
        net.count(0, Kind::Probe, since)
    };
    assert_eq!(cost(0, 10_000), 6, "the first");
    assert_eq!(cost(0, 10_000), 1, "the same again");
    for number in 1..10 {
        assert_eq!(cost(number, 10_000), 4, "a further one");
    }
    assert!((10..30).all(|number| cost(number, 100) <= 1), "one of many");
    // And never more than the limit for the address.
    let since = net.now;
    for number in 30..250 {
        stranger_says_hello(&mut net, number);
        net.run(ms(50));
    }
    let seconds = net.now.since(since).as_secs() as usize;
    assert!(net.count(0, Kind::Probe, since) <= 16 + 8 * (seconds + 1));
}

#[test]
fn a_flood_fills_the_queue_of_its_own_address_only() {
    let mut net = settled();
    let now = net.now;
    let template = Envelope::parse(&net.last(1, Kind::Hello).bytes).unwrap();
    let thief = SigningKey::from_seed(&[99; 32]);
    let flooder: SocketAddr = "10.0.0.1:4860".parse().unwrap();
    for n in 0..1000 {
        let header = Header { sequence: n + 10_000, ..*template.header() };
        let forged = thief.seal(&header, template.body()).unwrap();
        net.machine(0).handle_datagram(now, flooder, &forged, false);
    }
    assert!(net.dropped(0, Dropped::QueueFull) >= 900);
    let manager = net.member(1);
    net.with(1, |machine, now| machine.set_group_state(now, own_state(manager, 2)));
    net.nodes[0].events.clear();
    let (_, (_, from, bytes)) = net.wire.pop_first().unwrap();
    let machine = net.machine(0);
    machine.handle_datagram(now, from, &bytes, false);
    assert!(machine.process(now) && machine.process(now));
    let heard = std::iter::from_fn(|| machine.poll_event()).any(|event| matches!(event, Event::Heard { .. }));
    assert!(heard, "the neighbour waits for one of the flood at most");
}

/// Hellos in a neighbour's name and from its address, with wrong signatures, as many as come.
fn flood_under(net: &mut Net, neighbour: usize) {
    let now = net.now;
    let template = Envelope::parse(&net.last(neighbour, Kind::Hello).bytes).unwrap();
    let thief = SigningKey::from_seed(&[99; 32]);
    for n in 0..1000 {
        let header = Header { sequence: n + 10_000, ..*template.header() };
        let forged = thief.seal(&header, template.body()).unwrap();
        net.machine(0).handle_datagram(now, address(neighbour), &forged, false);
    }
    assert!(net.dropped(0, Dropped::QueueFull) >= 900);
}

#[test]
fn a_flood_under_a_members_own_address_does_not_displace_what_is_vouched_for() {
    let mut net = settled();
    net.cut(0, 1);
    net.run(ms(1100));
    let hello = net.last(1, Kind::Hello).bytes;
    flood_under(&mut net, 1);
    let now = net.now;
    let machine = net.machine(0);
    machine.handle_datagram(now, address(1), &hello, false);
    machine.handle_datagram(now, address(1), &hello, true);
    assert!((0..3).all(|_| machine.process(now)));
    let heard = std::iter::from_fn(|| machine.poll_event()).any(|event| matches!(event, Event::Heard { .. }));
    assert!(heard, "it waits for two of the flood at most");
}

#[test]
fn copies_of_what_is_vouched_for_take_no_room_before_and_after_it_is_handled() {
    let mut net = settled();
    net.cut(0, 1);
    net.run(ms(1100));
    let hello = net.last(1, Kind::Hello).bytes;
    let (now, before) = (net.now, net.dropped(0, Dropped::Replayed));
    let machine = net.machine(0);
    (0..100).for_each(|_| machine.handle_datagram(now, address(1), &hello, true));
    assert!(machine.process(now));
    assert!(!machine.process(now), "one of them waited");
    (0..100).for_each(|_| machine.handle_datagram(now, address(1), &hello, true));
    assert!(!machine.process(now));
    assert_eq!(net.dropped(0, Dropped::Replayed), before + 199);
}

/// A member may vouch for what it says in another's name, but not take its room without its address.
#[test]
fn a_voucher_counts_from_the_neighbours_own_address_alone() {
    let mut net = settled();
    net.cut(0, 1);
    net.run(ms(1100));
    let hello = net.last(1, Kind::Hello).bytes;
    let template = Envelope::parse(&hello).unwrap();
    let traitor = SigningKey::from_seed(&[99; 32]);
    let now = net.now;
    for n in 0..5000_u32 {
        let header = Header { sequence: 10_000 + u64::from(n), ..*template.header() };
        let forged = traitor.seal(&header, template.body()).unwrap();
        let from = SocketAddr::new(std::net::Ipv4Addr::from(0x0a00_0000 + n / 64).into(), 4860);
        net.machine(0).handle_datagram(now, from, &forged, true);
    }
    let machine = net.machine(0);
    machine.handle_datagram(now, address(1), &hello, true);
    assert!((0..3).all(|_| machine.process(now)));
    assert!(std::iter::from_fn(|| machine.poll_event()).any(|event| matches!(event, Event::Heard { .. })));
}

#[test]
fn what_another_run_has_sent_does_not_go_by_its_voucher() {
    let mut net = settled();
    net.run(ms(100_000));
    let old: Vec<Vec<u8>> = net.sent.iter().filter(|sent| sent.from == 1).map(|sent| sent.bytes.clone()).collect();
    net.kill(1);
    net.start(1, 2);
    net.run(ms(1100));
    net.cut(0, 1);
    net.run(ms(1100));
    let hello = net.last(1, Kind::Hello).bytes;
    let now = net.now;
    let machine = net.machine(0);
    machine.poll_event();
    // Nothing tells whether these have been here, and there are more of them than have room.
    old.iter().for_each(|bytes| machine.handle_datagram(now, address(1), bytes, true));
    machine.handle_datagram(now, address(1), &hello, true);
    assert!((0..3).all(|_| machine.process(now)));
    let heard = std::iter::from_fn(|| machine.poll_event()).any(|event| matches!(event, Event::Heard { .. }));
    assert!(heard);
}

#[test]
fn who_asks_in_a_neighbours_name_takes_none_of_its_answers() {
    let mut net = settled();
    let hello: Hello = Envelope::parse(&net.last(0, Kind::Hello).bytes).unwrap().decode().unwrap();
    let template = *Envelope::parse(&net.last(1, Kind::Hello).bytes).unwrap().header();
    let probe = Probe { hello_nonce: hello.nonce, nonce: Nonce([1; 16]), want_chain: false };
    let probe = muster_wire::codec::encode(&probe).unwrap();
    let (thief, since) = (SigningKey::from_seed(&[99; 32]), net.now);
    for n in 0..200 {
        let header = Header { kind: Kind::Probe, sequence: n + 10_000, ..template };
        net.deliver(0, address(1), &thief.seal(&header, &probe).unwrap());
        let own = Header { kind: Kind::Probe, sender: MemberId([99; 32]), startup: 1, sequence: n, ..template };
        net.deliver(0, address(1), &thief.seal(&own, &probe).unwrap());
    }
    assert!(net.dropped(0, Dropped::RateLimited) > 100, "who is nobody here is answered so often only");
    let answered = net.count(0, Kind::ProbeAnswer, since);
    let header = Header { kind: Kind::Probe, sequence: template.sequence + 1000, ..template };
    let genuine = net.nodes[1].device.key.seal(&header, &probe).unwrap();
    net.deliver(0, address(1), &genuine);
    assert_eq!(net.count(0, Kind::ProbeAnswer, since), answered + 1);
}

#[test]
fn a_probe_is_answered_only_with_a_recent_nonce_and_not_often() {
    let mut net = settled();
    let hello: Hello = Envelope::parse(&net.last(0, Kind::Hello).bytes).unwrap().decode().unwrap();
    let mut stranger = Author::new(SigningKey::from_seed(&[99; 32]), GROUP, MemberId([99; 32]), 1);
    let from: SocketAddr = "10.0.0.1:4860".parse().unwrap();
    let stale = Probe { hello_nonce: Nonce([0; 16]), nonce: Nonce([1; 16]), want_chain: true };
    let since = net.now;
    net.deliver(0, from, &stranger.seal(&stale).unwrap());
    assert_eq!(net.count(0, Kind::ProbeAnswer, since), 0);
    assert_eq!(net.dropped(0, Dropped::StaleNonce), 1);
    let recent = Probe { hello_nonce: hello.nonce, ..stale };
    for _ in 0..100 {
        net.deliver(0, from, &stranger.seal(&recent).unwrap());
    }
    assert_eq!(net.count(0, Kind::ProbeAnswer, since), 8);
    assert_eq!(net.dropped(0, Dropped::RateLimited), 92);
    net.run(ms(10_000));
    net.deliver(0, from, &stranger.seal(&recent).unwrap());
    assert_eq!(net.count(0, Kind::ProbeAnswer, since), 8, "the nonce is too old now");
}

#[test]
fn a_nonce_in_a_forged_hello_does_not_bring_its_owner_up_nor_keep_it_down() {
    let mut net = Net::of(&[1000]);
    net.run(ms(100));
    let victim = net.add(device(2), 1000);
    net.start(victim, 100);
    // The forger is faster: same nonce, same id, another group state.
    let hello = Envelope::parse(&net.last(1, Kind::Hello).bytes).unwrap();
    let mut body: Hello = hello.decode().unwrap();
    body.group.epoch = 666;
    let forged = SigningKey::from_seed(&[99; 32]);
    let forged = forged.seal(hello.header(), &muster_wire::codec::encode(&body).unwrap()).unwrap();
    net.deliver(0, address(1), &forged);
    net.run(ms(3000));
    assert!(!net.nodes[0].events.iter().any(|(_, e)| matches!(e, Event::Heard { group, .. } if group.epoch == 666)));
    assert_eq!(net.news(0), ["join 1"]);
}

/// A stranger's hello under `member`'s id, and the probe that it gets.
fn greet(net: &mut Net, author: &mut Author, from: SocketAddr, nonce: u8) -> Option<Probe> {
    let mut hello: Hello = Envelope::parse(&net.last(0, Kind::Hello).bytes).unwrap().decode().unwrap();
    hello.nonce = Nonce([nonce; 16]);
    let count = net.sent.len();
    net.deliver(0, from, &author.seal(&hello).unwrap());
    let probe = net.sent[count..].iter().find(|s| s.kind == Kind::Probe)?;
    Some(Envelope::parse(&probe.bytes).unwrap().decode().unwrap())
}

fn answer(nonce: Nonce, chain: &[Vec<u8>]) -> ProbeAnswer {
    let chain = chain.iter().map(|der| muster_wire::Bytes::new(der.clone()).unwrap()).collect();
    ProbeAnswer { nonce, chain: muster_wire::List::new(chain).unwrap() }
}

#[test]
fn only_the_owner_of_a_certificate_comes_up_with_it() {
    let mut net = settled();
    let (victim, insider, from) = (device(3), device(4), address(5));
    let thief = SigningKey::from_seed(&[99; 32]);
    for (key, chain) in [(thief, &victim.chain), (insider.key.clone(), &insider.chain)] {
        let mut author = Author::new(key, GROUP, victim.member, 7);
        let probe = greet(&mut net, &mut author, from, 1);
        let nonce = probe.map_or(Nonce([0; 16]), |probe| probe.nonce);
        net.deliver(0, from, &author.seal(&answer(nonce, chain)).unwrap());
        net.run(ms(130_000));
        assert!(net.news(0).is_empty());
    }
    // A hello of the owner, recorded elsewhere, and a forged answer.
    let mut author = Author::new(victim.key, GROUP, victim.member, 7);
    let probe = greet(&mut net, &mut author, from, 1).unwrap();
    let mut forger = Author::new(SigningKey::from_seed(&[99; 32]), GROUP, victim.member, 7);
    net.deliver(0, from, &forger.seal(&answer(probe.nonce, &victim.chain)).unwrap());
    assert!(!net.nodes[0].events.iter().any(|(_, e)| matches!(e, Event::Joined { .. })));
    // The same by the owner is right.
    net.deliver(0, from, &author.seal(&answer(probe.nonce, &victim.chain)).unwrap());
    assert_eq!(net.nodes[0].events.iter().filter(|(_, e)| matches!(e, Event::Joined { .. })).count(), 1);
}

#[test]
fn an_answer_says_nothing_of_a_later_hello() {
    let mut net = settled();
    let (newcomer, from) = (device(3), address(5));
    let mut author = Author::new(newcomer.key, GROUP, newcomer.member, 7);
    let first = greet(&mut net, &mut author, from, 1).unwrap();
    assert!(greet(&mut net, &mut author, from, 2).is_none(), "one probe at a time");
    let asked_next = |net: &mut Net| -> Probe {
        let count = net.sent.len();
        net.run(ms(60));
        let to_it = |s: &&Sent| s.kind == Kind::Probe && s.to == Destination::Unicast(from);
        Envelope::parse(&net.sent[count..].iter().find(to_it).unwrap().bytes).unwrap().decode().unwrap()
    };
    // The answer may take longer than the next hello: it is still asked about the first.
    assert_eq!(asked_next(&mut net), first);
    for nonce in 3..=5 {
        greet(&mut net, &mut author, from, nonce);
    }
    // Now that is old.
    let second = asked_next(&mut net);
    assert_eq!(second.hello_nonce, Nonce([5; 16]));
    assert_ne!(second.nonce, first.nonce);
    net.deliver(0, from, &author.seal(&answer(first.nonce, &newcomer.chain)).unwrap());
    assert!(!net.nodes[0].events.iter().any(|(_, e)| matches!(e, Event::Joined { .. })));
    net.deliver(0, from, &author.seal(&answer(second.nonce, &newcomer.chain)).unwrap());
    assert!(net.nodes[0].events.iter().any(|(_, e)| matches!(e, Event::Joined { .. })));
}

#[test]
fn what_is_queued_twice_counts_once_and_forged_addresses_take_no_neighbours_room() {
    let mut net = settled();
    let now = net.now;
    let template = Envelope::parse(&net.last(1, Kind::Hello).bytes).unwrap();
    let thief = SigningKey::from_seed(&[99; 32]);
    for n in 0..2000_u32 {
        let header = Header { sequence: 10_000, ..*template.header() };
        let forged = thief.seal(&header, template.body()).unwrap();
        let from = SocketAddr::new(std::net::Ipv4Addr::from(0x0a00_0000 + n).into(), 4860);
        net.machine(0).handle_datagram(now, from, &forged, false);
    }
    let manager = net.member(1);
    net.with(1, |machine, now| machine.set_group_state(now, own_state(manager, 2)));
    let hello = net.last(1, Kind::Hello).bytes;
    let replayed = net.dropped(0, Dropped::Replayed);
    let machine = net.machine(0);
    machine.handle_datagram(now, address(1), &hello, false);
    machine.handle_datagram(now, address(1), &hello, false);
    while machine.process(now) {}
    let heard = std::iter::from_fn(|| machine.poll_event()).filter(|event| matches!(event, Event::Heard { .. }));
    assert_eq!(heard.count(), 1);
    assert_eq!(net.dropped(0, Dropped::Replayed), replayed + 1);
}

#[test]
fn an_answer_to_nothing_is_no_life_sign() {
    let mut net = settled();
    let mut author = Author::new(net.nodes[1].device.key.clone(), GROUP, net.member(1), 100);
    while author.next_sequence() < 1000 {}
    let before = state(&mut net, 0);
    let answer = ProbeAnswer { nonce: Nonce([5; 16]), chain: Default::default() };
    net.deliver(0, address(1), &author.seal(&answer).unwrap());
    assert_eq!(net.dropped(0, Dropped::NotAsked), 1);
    assert_eq!(state(&mut net, 0), before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_bytes_change_nothing(datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 1..20)) {
        let mut net = settled();
        let before = state(&mut net, 0);
        let count = net.sent.len();
        for mut bytes in datagrams {
            net.deliver(0, address(1), &bytes);
            // The same behind a right beginning.
            for kind in Kind::ALL {
                let header = Header {
                    kind: *kind, group: GROUP, sender: net.member(1), startup: 100, sequence: 1000,
                };
                bytes.truncate(7000);
                let bytes = Envelope::seal(&header, &bytes, |_| muster_wire::Signature([0; 64])).unwrap();
                net.deliver(0, address(1), &bytes);
            }
        }
        prop_assert_eq!(state(&mut net, 0), before);
        prop_assert_eq!(net.sent.len(), count);
    }

    #[test]
    fn a_changed_byte_changes_nothing(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), flip in 1_u8..) {
        let mut net = Net::of(&[1000, 1000]);
        net.with(1, |machine, now| machine.set_prefixes(now, vec!["10.0.0.0/8".parse().unwrap()])).unwrap();
        net.run(ms(3000));
        let from_one: Vec<Sent> = net.sent.iter().filter(|s| s.from == 1).cloned().collect();
        let mut bytes = which.get(&from_one).bytes.clone();
        // As if it had not been here yet: a sequence number that is new.
        let at = at.index(bytes.len());
        bytes[69] |= 0x80;
        bytes[at] ^= flip;
        // Another sender or another run is a stranger: that costs one probe.
        let stranger = (22..62).contains(&at);
        let (before, count) = (state(&mut net, 0), net.sent.len());
        net.deliver(0, address(1), &bytes);
        if stranger {
            prop_assert!(net.sent.len() <= count + 1);
            prop_assert!(net.sent[count..].iter().all(|s| s.kind != Kind::ProbeAnswer || s.bytes.len() < 1500));
        } else {
            prop_assert_eq!(net.sent.len(), count);
            prop_assert_eq!(state(&mut net, 0), before);
        }
        net.nodes[0].events.clear();
        net.run(ms(5000));
        prop_assert!(net.news(0).is_empty());
    }
}
