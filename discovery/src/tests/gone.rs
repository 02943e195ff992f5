//! Neighbours go.

use super::*;
use crate::config::MAX_GONE;
use crate::pairwise::End;
use crate::peers::{Gone, Peer, Run};

#[test]
fn a_silent_neighbour_is_gone_after_four_of_its_own_intervals() {
    let mut net = Net::of(&[1000, 200, 3000]);
    net.run(ms(6500));
    (0..3).for_each(|node| drop(net.news(node)));
    for (node, interval) in [(1, 200), (2, 3000)] {
        // Its last sign of life may be up to two intervals old: it is asked after one and a half.
        net.run(ms(1));
        let killed = net.now;
        net.kill(node);
        net.run(ms(interval * 4 + 10));
        let gone = net.nodes[0].events.iter().find(|(_, event)| matches!(event, Event::Gone { .. })).unwrap().0;
        let after = gone.since(killed);
        assert!(after >= ms(interval * 5 / 2) && after <= ms(interval * 4 + 5), "{after:?} of {interval}");
        assert_eq!(net.news(0), [format!("gone {node} silent")]);
    }
}

#[test]
fn a_suspect_is_asked_and_its_answer_keeps_it() {
    let mut net = Net::of(&[1000, 1000]);
    net.run(ms(3000));
    // Only its hellos are lost: stop them by an interval that the machine believes and the device does not keep.
    let hello = net.sent.iter().rfind(|s| s.from == 1 && s.kind == Kind::Hello).unwrap().at;
    net.cut.insert((1, 0));
    net.run(hello.since(Time(0)) + ms(1600) - net.now.since(Time(0)));
    assert_eq!(net.status(0)[0].state.to_string(), "suspect");
    let probes = net.count(0, Kind::Probe, hello);
    assert!(probes >= 1);
    net.heal();
    net.run(ms(260));
    assert_eq!(net.status(0)[0].state.to_string(), "up");
    assert_eq!(net.news(0), ["join 1"]);
}

#[test]
fn a_goodbye_is_gone_at_once_and_for_good() {
    let mut net = Net::of(&[1000, 1000]);
    net.run(ms(3000));
    let hello = net.last(1, Kind::Hello);
    net.with(1, |machine, now| machine.shutdown(now));
    net.run(ms(2));
    assert_eq!(net.news(0), ["join 1", "gone 1 goodbye"]);
    assert_eq!(net.machine(1).poll_timeout(), None);
    net.deliver(0, net.nodes[1].address, &hello.bytes);
    // Nor does a hello help that was never heard, held back by somebody.
    let mut author = Author::new(net.nodes[1].device.key.clone(), GROUP, net.member(1), 100);
    while author.next_sequence() < 1000 {}
    let body: muster_wire::idp::Hello = Envelope::parse(&hello.bytes).unwrap().decode().unwrap();
    net.deliver(0, net.nodes[1].address, &author.seal(&body).unwrap());
    net.run(ms(100));
    assert!(net.news(0).is_empty());
    assert_eq!(net.count(0, Kind::Probe, hello.at), 0, "a run that has ended is not asked");
    net.start(1, 101);
    net.run(ms(100));
    assert_eq!(net.news(0), ["join 1"]);
}

#[test]
fn a_goodbye_just_behind_the_answer_that_makes_a_neighbour_counts() {
    let mut net = Net::of(&[1000, 1000]);
    while net.count(1, Kind::ProbeAnswer, Time(0)) == 0 {
        net.run(Duration::from_micros(50));
    }
    net.with(1, |machine, now| machine.shutdown(now));
    let (answer, goodbye, now) = (net.last(1, Kind::ProbeAnswer), net.last(1, Kind::Goodbye), net.now);
    net.wire.clear();
    // Both are there before the first is looked at.
    let machine = net.machine(0);
    [answer, goodbye].iter().for_each(|sent| machine.handle_datagram(now, address(1), &sent.bytes, false));
    while machine.process(now) {}
    net.drive(0);
    assert_eq!(net.news(0), ["join 1", "gone 1 goodbye"]);
}

#[test]
fn a_certificate_ends_and_its_device_with_it() {
    let mut net = Net::of(&[1000]);
    let short = net.add(issue(9, "short", UNIX + 10), 1000);
    net.start(short, 100);
    net.run(ms(9900));
    assert_eq!(net.news(0), ["join 1"]);
    let member = net.member(short);
    assert!(net.machine(0).certificate_key(&member).is_some());
    net.run(ms(1200));
    assert_eq!(net.news(0), ["gone 1 expired", "refused 1"]);
    net.run(ms(130_000));
    assert!(net.news(0).is_empty(), "and is not taken again");
}

#[test]
fn the_wall_clock_may_be_set() {
    let mut net = Net::of(&[1000]);
    let short = net.add(issue(9, "short", UNIX + 1000), 1000);
    net.start(short, 100);
    net.run(ms(500));
    net.with(0, |machine, now| machine.set_wall_clock(now, UNIX + 1001));
    net.run(ms(1));
    assert_eq!(net.news(0), ["join 1", "gone 1 expired", "refused 1"]);
}

#[test]
fn a_machine_that_slept_does_not_call_the_others_silent() {
    let mut net = Net::of(&[200, 200]);
    net.run(ms(1000));
    let asleep = net.nodes[0].machine.take();
    // Shorter than what makes the other give up, longer than what makes this one.
    net.run(ms(700));
    let before = net.now;
    net.nodes[0].machine = asleep;
    net.with(0, |machine, now| {
        machine.handle_timeout(now);
    });
    net.run(ms(600));
    assert_eq!(net.news(0), ["join 1"], "asleep until {before:?}");
}

#[test]
fn who_is_heard_after_a_sleep_is_not_pardoned_for_the_time_of_it() {
    let mut net = Net::of(&[200, 200]);
    net.run(ms(1000));
    let asleep = net.nodes[0].machine.take();
    net.run(ms(20_000));
    let hello = net.last(1, Kind::Hello).bytes;
    net.nodes[0].machine = asleep;
    net.deliver(0, address(1), &hello);
    net.with(0, |machine, now| machine.handle_timeout(now));
    net.kill(1);
    net.run(ms(1000));
    assert_eq!(net.news(0), ["join 1", "gone 1 silent"]);
}

#[test]
fn a_fifth_of_all_datagrams_may_be_lost() {
    for (interval, minutes) in [(1000, 10), (50, 1)] {
        let mut net = Net::of(&[interval; 10]);
        net.loss = 20;
        net.record = false;
        net.run(ms(20_000));
        for node in 0..10 {
            let mut news = net.news(node);
            news.sort();
            let joins: Vec<String> = (0..10).filter(|n| *n != node).map(|n| format!("join {n}")).collect();
            assert_eq!(news, joins);
        }
        for _ in 0..minutes {
            net.run(ms(60_000));
            for node in 0..10 {
                assert_eq!(net.news(node), Vec::<String>::new(), "interval {interval}");
            }
        }
    }
}

#[test]
fn who_is_no_longer_trusted_is_gone_and_comes_back_with_its_anchor() {
    let mut net = Net::of(&[1000, 1000]);
    net.run(ms(500));
    net.with(0, |machine, now| machine.set_trust(now, certificates::trust_in(&["nation1"])));
    assert_eq!(net.news(0), ["join 1", "gone 1 certificate", "refused 1"]);
    net.run(ms(5000));
    assert!(net.news(0).is_empty());
    net.with(0, |machine, now| machine.set_trust(now, trust()));
    net.run(ms(1100));
    assert_eq!(net.news(0), ["join 1"]);
}

/// Of what was kept of a node nothing is: so often this was said.
fn over(net: &Net, node: usize, of: usize) -> usize {
    let over = net.member(of);
    net.nodes[node]
        .events
        .iter()
        .filter(|(_, event)| matches!(event, Event::Over { member } if *member == over))
        .count()
}

/// Two, of which the first holds the second for silent, and is heard by it.
fn silent(devices: [Device; 2]) -> Net {
    let mut net = Net::new();
    for device in devices {
        let node = net.add(device, 1000);
        net.start(node, 100);
    }
    net.run(ms(500));
    net.cut.insert((1, 0));
    net.run(ms(5000));
    assert_eq!((over(&net, 0, 1), net.news(0)), (0, vec!["join 1".into(), "gone 1 silent".into()]));
    net
}

#[test]
fn who_is_gone_for_another_reason_than_silence_is_over() {
    let mut net = Net::of(&[1000, 1000, 1000]);
    net.run(ms(500));
    net.with(1, |machine, now| machine.shutdown(now));
    net.start(2, 101);
    net.run(ms(500));
    assert_eq!((over(&net, 0, 1), over(&net, 0, 2)), (1, 1));
    net.with(0, |machine, now| machine.set_trust(now, certificates::trust_in(&["nation1"])));
    assert_eq!((over(&net, 0, 1), over(&net, 0, 2)), (1, 2));
}

#[test]
fn a_silent_neighbour_that_is_trusted_no_longer_is_over() {
    let mut net = silent([device(1), device(2)]);
    net.with(0, |machine, now| machine.set_trust(now, certificates::trust_in(&["nation1"])));
    assert_eq!((over(&net, 0, 1), net.news(0)), (1, vec![]));
}

#[test]
fn a_silent_neighbour_that_says_goodbye_is_over_once() {
    let mut net = silent([device(1), device(2)]);
    net.heal();
    net.with(1, |machine, now| machine.shutdown(now));
    net.run(ms(10));
    assert_eq!((over(&net, 0, 1), net.news(0)), (1, vec![]));
    net.with(0, |machine, now| machine.set_trust(now, certificates::trust_in(&["nation1"])));
    assert_eq!(over(&net, 0, 1), 0, "there was nothing left");
}

#[test]
fn a_silent_neighbour_whose_certificate_ends_is_over() {
    let mut net = silent([device(1), issue(9, "short", UNIX + 10)]);
    net.run(ms(6000));
    let member = net.member(1);
    assert_eq!((over(&net, 0, 1), net.news(0)), (1, vec![]));
    assert!(net.machine(0).certificate_key(&member).is_none());
}

#[test]
fn a_silent_neighbour_that_is_back_in_another_run_is_over_before_it_is_up() {
    let mut net = silent([device(1), device(2)]);
    net.heal();
    net.start(1, 101);
    net.run(ms(500));
    assert_eq!(net.nodes[0].events.iter().filter(|(_, event)| matches!(event, Event::Joined { .. })).count(), 1);
    let order = |event: &Event| matches!(event, Event::Over { .. } | Event::Joined { .. });
    let first = net.nodes[0].events.iter().find(|(_, event)| order(event)).unwrap();
    assert!(matches!(first.1, Event::Over { .. }));
    assert_eq!((over(&net, 0, 1), net.news(0)), (1, vec!["join 1".into()]));
}

/// It comes back with a hello key that is none.
#[test]
fn a_silent_neighbour_that_is_refused_is_over() {
    let mut net = silent([device(1), device(2)]);
    let (now, member, at) = (net.now, net.member(1), address(1));
    net.with(0, |machine, _| machine.refuse(now, member, Some(at), crate::Refusal::WeakKey, GoneReason::Restarted));
    assert_eq!((over(&net, 0, 1), net.news(0)), (1, vec!["refused 1".into()]));
}

#[test]
fn a_silent_neighbour_that_others_crowd_out_is_over() {
    let mut net = silent([device(1), device(2)]);
    let member = net.member(1);
    let third = net.add(device(3), 1000);
    net.start(third, 100);
    net.run(ms(500));
    let (now, machine) = (net.now, net.machine(0));
    let (identity, public) = (machine.own.clone(), machine.key.public());
    for n in 1..MAX_GONE as u64 {
        let mut stranger = MemberId([0xee; 32]);
        stranger.0[..8].copy_from_slice(&n.to_be_bytes());
        let pair = machine.key.pair(End { member: stranger, startup: 1, public });
        let (identity, chain, run) = (identity.clone(), Vec::new(), Run::new(1));
        let gone = Gone { identity, chain, run, since: now, pair, announced: None };
        machine.peers.insert(stranger, Peer::Gone(Box::new(gone)));
    }
    assert!(machine.certificate_key(&member).is_some(), "there is room for it");
    net.kill(third);
    net.run(ms(5000));
    assert_eq!(over(&net, 0, 1), 1);
    assert!(net.machine(0).certificate_key(&member).is_none());
}
