//! Strangers become neighbours.

use super::*;

#[test]
fn two_find_each_other_in_six_datagrams_and_two_round_trips() {
    let mut net = Net::of(&[1000]);
    net.run(ms(5300));
    let (began, first) = (net.now, net.sent.len());
    let newcomer = net.add(device(2), 1000);
    net.start(newcomer, 100);
    net.run(ms(15));
    let kinds: Vec<(usize, Kind)> = net.sent[first..].iter().map(|s| (s.from, s.kind)).collect();
    let expected = [
        (1, Kind::Hello),
        (0, Kind::Probe),
        (1, Kind::ProbeAnswer),
        (0, Kind::Hello),
        (1, Kind::Probe),
        (0, Kind::ProbeAnswer),
        // The newcomer announces; that it does so shows the other that it is up, too.
        (1, Kind::Prefixes),
        (0, Kind::PrefixesAck),
        (0, Kind::Prefixes),
        (1, Kind::PrefixesAck),
    ];
    let (mut sorted, mut wanted) = (kinds.clone(), expected.to_vec());
    sorted.sort();
    wanted.sort();
    assert_eq!(sorted, wanted, "{kinds:?}");
    assert_eq!(kinds[..6], expected[..6]);

    for node in [0, 1] {
        let joined = net.nodes[node].events.iter().find(|(_, event)| matches!(event, Event::Joined { .. })).unwrap();
        assert!(joined.0.since(began) < ms(10), "{:?}", joined.0.since(began));
        let heard =
            net.nodes[node].events.iter().any(|(_, e)| matches!(e, Event::Heard { group, .. } if group.epoch == 1));
        assert!(heard, "what a newcomer says of its group comes with it");
        let starts = net.nodes[node].events.iter().filter(|(_, e)| matches!(e, Event::SelfJoined)).count();
        assert_eq!(starts, 1);
    }
    let answered = net.sent[first..].iter().find(|s| s.from == 0 && s.kind == Kind::Hello).unwrap().at;
    let up = net.nodes[0].events.iter().find(|(_, e)| matches!(e, Event::Joined { .. })).unwrap().0;
    assert!(answered.since(up) <= ms(5));
    assert_eq!((net.news(0), net.news(1)), (vec!["join 1".into()], vec!["join 0".into()]));
    let status = net.status(0);
    assert_eq!(status.len(), 1);
    assert_eq!(status[0].state.to_string(), "up");
    assert_eq!(status[0].interval, ms(1000));
}

#[test]
fn by_satellite_too_though_the_next_hello_is_faster_than_the_answer() {
    for loss in [0, 10] {
        let mut net = Net::new();
        (net.delay, net.loss) = (ms(300), loss);
        for seed in 1..=2 {
            let node = net.add(device(seed), 250);
            net.start(node, 100);
        }
        net.run(ms(4000));
        assert_eq!((net.news(0), net.news(1)), (vec!["join 1".into()], vec!["join 0".into()]), "loss {loss}");
    }
}

#[test]
fn a_cold_start_of_many_is_over_at_once() {
    let mut net = Net::of(&[1000; 12]);
    net.run(ms(300));
    for node in 0..12 {
        assert_eq!(net.news(node).len(), 11, "node {node}");
        let to_all = |s: &&Sent| s.from == node && s.kind == Kind::Hello && s.to == Destination::Group;
        assert_eq!(net.sent.iter().filter(to_all).count(), 1, "who has not heard it gets one of its own");
    }
}

#[test]
fn what_a_manager_says_of_its_group_is_told_at_once_but_not_more_than_every_50_ms() {
    let mut net = Net::of(&[1000, 1000]);
    net.run(ms(3200));
    let (since, before) = (net.now, net.count(0, Kind::Hello, Time(0)));
    let manager = net.member(0);
    for epoch in 2..102 {
        net.with(0, |machine, now| machine.set_group_state(now, own_state(manager, epoch)));
        net.run(ms(2));
    }
    let sent: Vec<_> = net.sent.iter().filter(|s| s.from == 0 && s.kind == Kind::Hello && s.at >= since).collect();
    assert_eq!(sent[0].at, since, "at once");
    assert!((3..=5).contains(&sent.len()), "{} hellos", sent.len());
    net.run(ms(60));
    let last = net.nodes[1].events.iter().rev().find_map(|(_, event)| match event {
        Event::Heard { group, .. } => Some(group.epoch),
        _ => None,
    });
    assert_eq!(last, Some(101), "the last state is told");
    assert!(net.count(0, Kind::Hello, Time(0)) > before);
}

#[test]
fn a_member_tells_soon_that_it_has_come_to_another_group_and_an_epoch_with_its_next_hello() {
    let mut net = Net::of(&[1000; 12]);
    net.run(ms(3200));
    // Just after a periodic hello of all of them.
    net.run(ms(1000));
    let since = net.now;
    let elsewhere = own_state(net.member(5), 7);
    for node in 0..5 {
        net.with(node, |machine, now| machine.set_group_state(now, elsewhere));
    }
    net.run(ms(62));
    let early = net.sent.iter().filter(|s| s.kind == Kind::Hello && s.at >= since && s.from < 5).count();
    assert!(early >= 5, "{early} hellos");
    let since = net.now;
    for node in 0..5 {
        net.with(node, |machine, now| machine.set_group_state(now, GroupState { epoch: 8, ..elsewhere }));
    }
    net.run(ms(1100));
    for node in 0..5 {
        let sent = net.count(node, Kind::Hello, since);
        assert!((1..=2).contains(&sent), "{sent} hellos of {node}");
    }
    let last = net.nodes[9].events.iter().rev().find_map(|(_, event)| match event {
        Event::Heard { member, group, .. } if *member == net.member(0) => Some(group.epoch),
        _ => None,
    });
    assert_eq!(last, Some(8));
}

#[test]
fn newcomers_one_by_one_are_answered_each_alone() {
    let mut net = Net::of(&[10_000]);
    net.run(ms(300));
    let since = net.now;
    for seed in 2..27 {
        let node = net.add(device(seed), 10_000);
        net.start(node, 100);
        net.run(ms(8));
    }
    net.run(ms(60));
    let hellos: Vec<&Sent> =
        net.sent.iter().filter(|s| s.from == 0 && s.kind == Kind::Hello && s.at >= since).collect();
    assert_eq!(hellos.len(), 25);
    assert!(hellos.iter().all(|sent| sent.to != Destination::Group));
    assert_eq!(net.news(0).len(), 25);
}

#[test]
fn hellos_do_not_overtake_each_other() {
    let mut net = Net::of(&[1000, 1000]);
    net.run(ms(500));
    let manager = net.member(1);
    let hellos = [2, 3].map(|epoch| {
        net.run(ms(60));
        net.with(1, |machine, now| machine.set_group_state(now, own_state(manager, epoch)));
        let sent = net.last(1, Kind::Hello);
        net.wire.clear();
        sent
    });
    net.nodes[0].events.clear();
    net.deliver(0, address(1), &hellos[1].bytes);
    net.deliver(0, address(1), &hellos[0].bytes);
    assert_eq!(net.nodes[0].events.len(), 1, "the older one is nothing");
}

#[test]
fn a_flap_within_the_dead_time_is_no_event() {
    let mut net = Net::of(&[1000, 1000]);
    net.run(ms(3000));
    assert_eq!((net.news(0), net.news(1)), (vec!["join 1".into()], vec!["join 0".into()]));
    for _ in 0..10 {
        net.cut(0, 1);
        net.run(ms(2500));
        net.heal();
        net.run(ms(1500));
    }
    assert!(net.news(0).is_empty());
    assert!(net.news(1).is_empty());
}

#[test]
fn back_after_the_dead_time_is_a_restore_and_a_new_start_is_a_join() {
    let mut net = Net::of(&[200, 200]);
    net.run(ms(1000));
    net.cut(0, 1);
    net.run(ms(2000));
    assert_eq!(net.news(0), ["join 1", "gone 1 silent"]);
    assert_eq!(net.news(1), ["join 0", "gone 0 silent"]);
    net.heal();
    net.run(ms(500));
    assert_eq!(net.news(0), ["restore 1"]);
    assert_eq!(net.news(1), ["restore 0"]);

    net.kill(1);
    net.run(ms(2000));
    assert_eq!(net.news(0), ["gone 1 silent"]);
    net.start(1, 101);
    let since = net.now;
    net.run(ms(500));
    assert_eq!(net.news(0), ["join 1"]);
    assert_eq!(net.news(1), ["join 0"]);
    let probe: muster_wire::idp::Probe = {
        let sent = net.sent.iter().find(|s| s.from == 0 && s.kind == Kind::Probe && s.at >= since).unwrap();
        Envelope::parse(&sent.bytes).unwrap().decode().unwrap()
    };
    assert!(!probe.want_chain, "the certificate is still known");
}

#[test]
fn a_quick_restart_is_gone_and_join_and_so_is_a_stamp_that_goes_back() {
    let mut net = Net::of(&[1000, 1000]);
    net.run(ms(3000));
    assert_eq!(net.news(0), ["join 1"]);
    for startup in [101, 50] {
        net.kill(1);
        net.start(1, startup);
        net.run(ms(20));
        assert_eq!(net.news(0), ["gone 1 restarted", "join 1"], "startup {startup}");
        assert_eq!(net.news(1).last().unwrap(), "join 0");
        net.run(ms(3000));
        assert!(net.news(0).is_empty());
    }
}

#[test]
fn a_stamp_that_goes_back_without_an_answer_changes_nothing() {
    let mut net = Net::of(&[1000, 1000]);
    net.run(ms(100));
    let old = net.last(1, Kind::Hello);
    net.kill(1);
    net.start(1, 200);
    net.run(ms(3000));
    assert_eq!(net.news(0), ["join 1", "gone 1 restarted", "join 1"]);
    let before = net.count(0, Kind::Probe, Time(0));
    for _ in 0..10 {
        net.deliver(0, net.nodes[1].address, &old.bytes);
        net.run(ms(300));
    }
    assert!(net.news(0).is_empty());
    assert!(net.count(0, Kind::Probe, Time(0)) - before <= 8, "probes back off");
}

#[test]
fn an_untrusted_device_is_refused_once_and_asked_rarely() {
    let mut net = Net::of(&[1000]);
    let evil = net.add(issue(66, "evil", FAR), 1000);
    // Its own machine would not start with such a certificate: play its part by hand.
    let Device { key, chain, member } = net.nodes[evil].device.clone();
    let mut author = Author::new(key, GROUP, member, 5);
    net.run(ms(500));
    let mut template: muster_wire::idp::Hello =
        Envelope::parse(&net.last(0, Kind::Hello).bytes).unwrap().decode().unwrap();
    let mut chains = 0;
    for second in 0..130_u64 {
        template.nonce.0[..8].copy_from_slice(&second.to_be_bytes());
        let (since, from) = (net.now, net.nodes[evil].address);
        let hello = author.seal(&template).unwrap();
        net.deliver(0, from, &hello);
        let probes: Vec<_> =
            net.sent.iter().filter(|s| s.from == 0 && s.kind == Kind::Probe && s.at >= since).cloned().collect();
        for probe in probes {
            let probe: muster_wire::idp::Probe = Envelope::parse(&probe.bytes).unwrap().decode().unwrap();
            assert!(probe.want_chain);
            let list = chain.iter().map(|c| muster_wire::Bytes::new(c.clone()).unwrap()).collect();
            let chain = muster_wire::List::new(list).unwrap();
            let answer = author.seal(&muster_wire::idp::ProbeAnswer { nonce: probe.nonce, chain }).unwrap();
            net.deliver(0, from, &answer);
            chains += 1;
        }
        net.run(ms(1000));
    }
    assert_eq!(net.news(0), ["refused 1"]);
    assert_eq!(chains, 3, "at once, after a minute, after two");
    let status = net.status(0);
    assert_eq!(status.len(), 1);
    assert_eq!(status[0].state.to_string(), "refused");
    assert!(status[0].reason.is_some());
    net.run(ms(400_000));
    assert_eq!(net.status(0).len(), 0, "forgotten");
}
