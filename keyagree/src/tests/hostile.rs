//! Messages that lie: refused, with no change of state and no answer larger than they are.

use muster_wire::mike::{
    Ack, Activate, CHUNK_LEN, Chunk, Commit, EpochHeader, Handover, Leave, MessageKind, RekeyRequest, Request, Snapshot,
};
use muster_wire::{Envelope, Kind, List, Signed, codec};
use proptest::prelude::*;

use super::agreement::group;
use super::*;
use crate::Refusal;
use crate::epoch::{MAX_EPOCH_JOINED, MAX_HANDOVER_LEAP, MAX_LEAP};
use crate::message::Message;

/// A group of three, and everything that was sent in its making.
fn group_with_recording() -> (Net, Vec<Vec<u8>>) {
    let recording = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let mut net = Net::new(4);
    let tape = recording.clone();
    net.filter = Box::new(move |_, _, bytes| {
        tape.borrow_mut().push(bytes.to_vec());
        true
    });
    net.connect(&[0, 1, 2]);
    net.run_until_true(Duration::from_secs(3), Net::is_one_group);
    net.run_for(Duration::from_secs(3));
    net.filter = Box::new(|_, _, _| true);
    let tape = recording.take();
    (net, tape)
}

fn states(net: &Net) -> Vec<(GroupState, String)> {
    net.devices.iter().map(|d| (d.machine.group_state(), d.machine.keys().fingerprint())).collect()
}

/// Datagrams of device 1, made by the test with its key: it is a member that lies.
struct Insider(Author);

impl Insider {
    fn new(net: &Net) -> Insider {
        let mut author = Author::new(net.devices[1].key.clone(), GroupTag([9; 16]), member(1), 1);
        (0..1_000_000).for_each(|_| _ = author.next_sequence());
        Insider(author)
    }

    fn message(&mut self, kind: MessageKind, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        let message = Message::new(kind, Hash([0xaa; 32]), bytes);
        message.chunks(None).map(|chunk| self.0.seal(&chunk).unwrap()).collect()
    }
}

#[test]
fn everything_once_more_changes_nothing() {
    let (mut net, tape) = group_with_recording();
    let before = states(&net);
    for bytes in &tape {
        (0..4).for_each(|device| net.inject(device, bytes));
    }
    assert_eq!(states(&net), before);
    net.run_for(Duration::from_secs(10));
    assert_eq!(states(&net)[..3], before[..3]);
}

#[test]
fn a_member_cannot_commit_exclude_or_activate_in_anothers_reign() {
    let (mut net, _) = group_with_recording();
    let before = states(&net);
    let mut insider = Insider::new(&net);
    let current = net.devices[0].machine.epoch.public.header.clone();
    let hash = net.devices[0].machine.epoch.public.hash;
    let (instance, epoch) = (current.instance, current.epoch);

    // A header in the transaction manager's name, under the member's own signature.
    let forged = EpochHeader { epoch: epoch + 1, parent: hash, ..current.clone() };
    let signed = insider.0.key().sign_value(&forged).unwrap();
    let commit = Commit { header: signed.clone(), handovers: List::default(), body: Default::default() };
    let mut junk = insider.message(MessageKind::Commit, codec::encode(&commit).unwrap());
    // A claim while the transaction manager is there, with nothing behind it.
    let mut claim = forged.clone();
    claim.instance.tm = member(1);
    let body = muster_wire::mike::CommitBody { removed: List::new(vec![0]).unwrap(), ..Default::default() };
    claim.body = crate::commit::body_hash(&body).unwrap();
    let commit = Commit { header: insider.0.key().sign_value(&claim).unwrap(), handovers: List::default(), body };
    junk.extend(insider.message(MessageKind::Commit, codec::encode(&commit).unwrap()));
    // A snapshot of the future that leaves everybody out.
    let snapshot = Snapshot {
        header: signed,
        handovers: List::default(),
        slots: 1,
        leaves: List::default(),
        parents: List::default(),
        sealed: List::default(),
        fills: List::default(),
    };
    junk.extend(insider.message(MessageKind::Snapshot, codec::encode(&snapshot).unwrap()));
    junk.push(insider.0.seal(&Activate { instance, epoch, header: Hash([1; 32]) }).unwrap());
    junk.push(insider.0.seal(&Ack { instance, epoch, header: Hash([1; 32]) }).unwrap());
    junk.push(insider.0.seal(&RekeyRequest { instance, epoch: epoch - 1, header: Hash([1; 32]) }).unwrap());
    // A hand-over of a group that is not the member's own.
    let handover = Handover {
        group: GroupTag([9; 16]),
        from: instance,
        epoch,
        header: hash,
        target: instance,
        tags: List::default(),
        leaves: List::default(),
    };
    let signed = insider.0.key().sign_value(&handover).unwrap();
    junk.extend(insider.message(MessageKind::Handover, codec::encode(&signed).unwrap()));

    for bytes in &junk {
        net.inject(0, bytes);
        net.inject(2, bytes);
    }
    net.run_for(Duration::from_secs(5));
    assert_eq!(states(&net)[..3], before[..3]);
}

#[test]
fn an_outsider_cannot_make_another_leave() {
    let (mut net, _) = group_with_recording();
    let before = states(&net);
    let state = net.devices[0].machine.group_state();
    let leave = Leave { instance: state.instance, epoch: state.epoch, header: state.header };
    // Device 3 is known to nobody; device 2's name under device 3's signature.
    let mut unknown = Author::new(net.devices[3].key.clone(), GroupTag([9; 16]), member(3), 1);
    let mut forged = Author::new(net.devices[3].key.clone(), GroupTag([9; 16]), member(2), 1);
    (0..1_000_000).for_each(|_| _ = forged.next_sequence());
    net.inject(0, &unknown.seal(&leave).unwrap());
    net.inject(0, &forged.seal(&leave).unwrap());
    net.run_for(Duration::from_secs(5));
    assert_eq!(states(&net)[..3], before[..3]);
    assert!(net.devices[0].machine.counters().unknown > 0);
    assert!(net.devices[0].machine.counters().signature > 0);
}

#[test]
fn a_request_without_a_recent_nonce_is_not_answered() {
    let (mut net, _) = group_with_recording();
    let mut insider = Insider::new(&net);
    for (nonce, answered) in [(Nonce([0x77; 16]), false), (nonce(0), true)] {
        let request = Request { hello_nonce: nonce, message: Hash::NONE, missing: List::default() };
        let bytes = insider.0.seal(&request).unwrap();
        let machine = &mut net.devices[0].machine;
        machine.handle_datagram(address(1), &bytes, false);
        while machine.process(net.now) {}
        assert_eq!(machine.poll_transmit().is_some(), answered);
        while machine.poll_transmit().is_some() {}
        // Another at once is one too many.
        let bytes = insider.0.seal(&request).unwrap();
        machine.handle_datagram(address(1), &bytes, false);
        while machine.process(net.now) {}
        assert!(machine.poll_transmit().is_none());
    }
}

#[test]
fn a_flood_under_a_members_own_address_does_not_displace_what_is_vouched_for() {
    let (mut net, _) = group_with_recording();
    let mut insider = Insider::new(&net);
    let mut thief = Author::new(net.devices[3].key.clone(), GroupTag([9; 16]), member(1), 1);
    (0..2_000_000).for_each(|_| _ = thief.next_sequence());
    let body = RekeyRequest { instance: net.devices[0].machine.instance(), epoch: 0, header: Hash::NONE };
    let machine = &mut net.devices[0].machine;
    for _ in 0..1000 {
        machine.handle_datagram(address(1), &thief.seal(&body).unwrap(), false);
    }
    let genuine = insider.0.seal(&body).unwrap();
    machine.handle_datagram(address(1), &genuine, true);
    let before = machine.counters();
    assert!(before.queue_full >= 900);
    assert!((0..3).all(|_| machine.process(net.now)));
    // What is here already is refused without a look at its signature, vouched for or not.
    for copy in 0..100 {
        machine.handle_datagram(address(copy), &genuine, true);
    }
    assert_eq!(machine.counters().replayed, before.replayed + 100);
}

#[test]
fn copies_of_what_is_vouched_for_take_no_room() {
    let (mut net, _) = group_with_recording();
    let mut insider = Insider::new(&net);
    let body = RekeyRequest { instance: net.devices[0].machine.instance(), epoch: 0, header: Hash::NONE };
    let genuine = insider.0.seal(&body).unwrap();
    let machine = &mut net.devices[0].machine;
    for _ in 0..100 {
        machine.handle_datagram(address(1), &genuine, true);
    }
    assert!(machine.process(net.now));
    assert!(!machine.process(net.now), "one of them waited");
}

#[test]
fn a_flood_of_parts_is_bounded() {
    let (mut net, _) = group_with_recording();
    let before = states(&net);
    let mut insider = Insider::new(&net);
    for n in 0..2000_u32 {
        let mut message = [0; 32];
        message[..4].copy_from_slice(&n.to_be_bytes());
        let chunk = Chunk {
            message: Hash(message),
            kind: MessageKind::Snapshot,
            header: Hash([7; 32]),
            length: 1 << 20,
            index: 0,
            data: muster_wire::Bytes::new(vec![0; CHUNK_LEN]).unwrap(),
        };
        let bytes = insider.0.seal(&chunk).unwrap();
        net.inject(0, &bytes);
    }
    net.run_for(Duration::from_secs(10));
    assert_eq!(states(&net)[..3], before[..3]);
}

#[test]
fn what_is_not_for_this_port_is_refused_before_any_work() {
    let (mut net, _) = group_with_recording();
    let mut insider = Insider::new(&net);
    let hello = insider.0.seal(&muster_wire::idp::Goodbye {}).unwrap();
    assert!(Envelope::parse(&hello).unwrap().header().kind < Kind::Chunk);
    let malformed = net.devices[0].machine.counters().malformed;
    net.inject(0, &hello);
    net.inject(0, &[]);
    net.inject(0, &[0xff; 2000]);
    assert_eq!(net.devices[0].machine.counters().malformed, malformed + 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn mutated_datagrams_change_nothing(
        picks in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..8_u32), 50),
        cut in any::<prop::sample::Index>(),
    ) {
        let (mut net, tape) = group_with_recording();
        let before = states(&net);
        for (which, byte, bit) in picks {
            let mut bytes = which.get(&tape).clone();
            let at = byte.index(bytes.len());
            bytes[at] ^= 1 << bit;
            (0..4).for_each(|device| net.inject(device, &bytes));
            bytes.truncate(cut.index(bytes.len()));
            (0..4).for_each(|device| net.inject(device, &bytes));
        }
        prop_assert_eq!(&states(&net), &before);
        net.run_for(Duration::from_secs(4));
        prop_assert_eq!(&states(&net)[..3], &before[..3]);
    }
}

/// A commit that device 1 makes from the current tree, and the snapshot of it: whole and right but for its authority.
fn claim_of_device_one(net: &mut Net) -> (Vec<u8>, Vec<u8>) {
    let machine = &mut net.devices[1].machine;
    let tm = machine.epoch.tree().slot_of(&member(0)).unwrap();
    let instance = muster_wire::Instance { tm: member(1), startup: 1, random: 4711 };
    machine.commit(net.now, instance, vec![tm], vec![], true).unwrap();
    let snapshot = machine.snapshot_message().unwrap().bytes;
    let hash = *machine.handled.back().unwrap();
    (machine.sent.get(&hash).unwrap().bytes.clone(), snapshot)
}

#[test]
fn who_is_no_longer_trusted_cannot_take_the_group_back() {
    let (mut net, _) = group_with_recording();
    let (commit, snapshot) = claim_of_device_one(&mut net);
    let mut insider = Insider::new(&net);
    // The certificate of device 1 expires at the others.
    for other in [0, 2] {
        net.command(other, |machine, now| machine.certificate_refused(now, member(1)));
    }
    net.devices[1].up = false;
    net.run_for(Duration::from_secs(1));
    let before = states(&net);
    assert_eq!(before[0].0.size, 2, "it was excluded");
    let mut junk = insider.message(MessageKind::Commit, commit);
    junk.extend(insider.message(MessageKind::Snapshot, snapshot));
    for bytes in &junk {
        net.inject(2, bytes);
    }
    net.run_for(Duration::from_secs(3));
    assert_eq!(states(&net)[2], before[2]);
}

#[test]
fn an_epoch_far_ahead_is_refused() {
    let (mut net, _) = group_with_recording();
    let before = states(&net);
    let machine = &net.devices[0].machine;
    let mine = machine.epoch.number();
    assert!(machine.check_leap(mine + MAX_LEAP).is_ok());
    assert!(machine.check_leap(mine + MAX_LEAP + 1).is_err());
    // What one hand-over may do to a group, a member that missed ten such commits still follows; a newcomer always.
    const { assert!(MAX_HANDOVER_LEAP * 10 < MAX_LEAP) };
    let alone = Net::new(1);
    assert!(alone.devices[0].machine.check_leap(MAX_LEAP * 1000).is_ok());
    assert!(alone.devices[0].machine.check_leap(MAX_EPOCH_JOINED + 1).is_err());
    let leaf = net.devices[1].machine.epoch.tree().members().next().unwrap().1.signed.clone();
    let mut insider = Insider::new(&net);
    let from = muster_wire::Instance { tm: member(1), startup: 1, random: 1 };
    for epoch in [(1 << 63) - 2, mine + MAX_HANDOVER_LEAP + 1] {
        let handover = Handover {
            group: GroupTag([9; 16]),
            from,
            epoch,
            header: Hash([1; 32]),
            target: net.devices[0].machine.instance(),
            tags: List::default(),
            leaves: List::new(vec![leaf.clone()]).unwrap(),
        };
        let signed = insider.0.key().sign_value(&handover).unwrap();
        for bytes in insider.message(MessageKind::Handover, codec::encode(&signed).unwrap()) {
            net.inject(0, &bytes);
        }
        net.run_for(Duration::from_secs(3));
        assert_eq!(states(&net)[..3], before[..3]);
    }
}

/// What a device says that has a group of its own, by its hello and in fact, and brings it into device 0's.
fn hands_itself_over(net: &mut Net, device: usize) -> Message {
    let from = muster_wire::Instance { tm: member(device), startup: 1, random: 7 };
    let state = GroupState { instance: from, size: 1, ..net.devices[device].machine.group_state() };
    net.command(0, |machine, now| {
        machine.neighbour_heard(now, member(device), address(device), nonce(device), HELLO, state);
    });
    let target = net.devices[0].machine.instance();
    let machine = &mut net.devices[device].machine;
    let (own, _) = machine.own.fresh(&machine.author, &mut machine.secrets).unwrap();
    handover(
        machine,
        Handover {
            group: GroupTag([9; 16]),
            from,
            epoch: 1,
            header: Hash([1; 32]),
            target,
            tags: List::default(),
            leaves: List::new(vec![own.signed.clone()]).unwrap(),
        },
    )
}

fn handover(machine: &KeyAgreement, handover: Handover) -> Message {
    let signed = machine.author.key().sign_value(&handover).unwrap();
    Message::new(MessageKind::Handover, handover.header, codec::encode(&signed).unwrap())
}

#[test]
fn who_hands_itself_over_without_end_costs_an_epoch_a_second_at_most() {
    let mut net = group(4);
    net.run_for(HELLO);
    let before = net.devices[0].machine.epoch.number();
    for _ in 0..250 {
        let message = hands_itself_over(&mut net, 3);
        net.command(0, |machine, now| machine.handle_message(now, member(3), message));
        net.run_for(Duration::from_millis(20));
    }
    let made = net.devices[0].machine.epoch.number() - before;
    assert!((4..=12).contains(&made), "{made} epochs in five seconds");
}

#[test]
fn no_signature_is_checked_for_who_cannot_come_in() {
    let mut net = group(3);
    net.run_for(HELLO * 3);
    let sent = hands_itself_over(&mut net, 2);
    let signed: Signed<Handover> = codec::decode(&sent.bytes).unwrap();
    let good = signed.decode().unwrap();
    let (leaf, other) = (good.leaves.to_vec().remove(0), net.devices[1].machine.epoch.tree());
    let other = other.leaf(net.devices[1].machine.epoch.slot).unwrap().signed.clone();
    let wrong = Signed::new(&leaf.decode().unwrap(), |_, _| muster_wire::Signature([7; 64])).unwrap();
    let wrongly =
        |handover: &Handover| Handover { leaves: List::new(vec![wrong.clone()]).unwrap(), ..handover.clone() };
    let mut try_it = |handover_: Handover| {
        let message = handover(&net.devices[2].machine, handover_);
        let signed = codec::decode(&message.bytes).unwrap();
        let mut result = Ok(false);
        net.command(0, |machine, now| result = machine.handle_handover(now, member(2), signed));
        result
    };
    let stranger = muster_wire::Instance { tm: member(2), startup: 1, random: 8 };
    // For another reign, or from one that its hellos do not name: it does not matter what is in it.
    assert_eq!(try_it(Handover { target: stranger, ..wrongly(&good) }), Ok(false));
    assert_eq!(try_it(Handover { from: stranger, ..wrongly(&good) }), Ok(false));
    // The same leaf many times would be as many checks.
    let twice = List::new(vec![leaf.clone(), leaf.clone()]).unwrap();
    assert!(matches!(try_it(Handover { leaves: twice, ..good.clone() }), Err(Refusal::Rule(_))));
    let not_itself = List::new(vec![other]).unwrap();
    assert!(matches!(try_it(Handover { leaves: not_itself, ..good.clone() }), Err(Refusal::Rule(_))));
    assert!(matches!(try_it(wrongly(&good)), Err(Refusal::Signature(_))));
    assert_eq!(try_it(good), Ok(true));
}

#[test]
fn who_is_expelled_does_not_come_back_by_the_commit_that_expels_it() {
    let mut net = group(4);
    net.run_for(HELLO * 2);
    // There was a commit just now, so that what comes waits for the next.
    net.command(0, KeyAgreement::rekey);
    net.run_for(DELAY);
    let message = hands_itself_over(&mut net, 2);
    net.command(0, |machine, now| machine.handle_message(now, member(2), message));
    assert_eq!(net.devices[0].machine.pending.handovers.len(), 1);
    net.command(0, |machine, now| machine.certificate_refused(now, member(2)));
    let before = net.devices[0].machine.epoch.number();
    net.run_for(Duration::from_millis(50));
    let epoch = &net.devices[0].machine.epoch;
    assert_eq!(epoch.number(), before + 1);
    let tree = epoch.tree();
    assert_eq!((tree.len(), tree.slot_of(&member(2))), (3, None));
}

#[test]
fn drawn_secrets_are_not_drawn_again() {
    let mut source = crate::secret::SecretSource::new(crate::secret::Secret::from_bytes([1; 32]));
    let drawn: std::collections::BTreeSet<Hash> = (0..100).map(|_| source.draw().to_hash()).collect();
    assert_eq!(drawn.len(), 100);
}

/// Devices 0 and 2 are a group, and device 1 is about to join it. What 0 tells of it passes `filter`.
fn about_to_join(filter: impl FnMut(usize, usize, &[u8]) -> bool + 'static) -> Net {
    let mut net = Net::new(3);
    net.connect(&[0, 2]);
    net.run_until_true(Duration::from_secs(3), |net| net.devices[2].machine.members().count() == 2);
    net.filter = Box::new(filter);
    net
}

fn kind(bytes: &[u8]) -> Kind {
    Envelope::parse(bytes).unwrap().header().kind
}

#[test]
fn a_target_that_never_gives_its_snapshot_is_asked_less_and_less() {
    let asked = std::rc::Rc::new(std::cell::Cell::new(0));
    let count = asked.clone();
    let mut net = about_to_join(move |from, to, bytes| {
        count.set(count.get() + u32::from(from == 1 && kind(bytes) == Kind::Request));
        (from, to) != (0, 1)
    });
    net.connect(&[0, 1, 2]);
    net.run_for(Duration::from_secs(120));
    // Eight times each, and the waits double up to 25 to 50 seconds: a dozen attempts. Else there would be fifty.
    assert!((60..=120).contains(&asked.get()), "asked {} times", asked.get());
}

#[test]
fn a_target_that_does_not_answer_holds_a_hand_over_for_two_of_our_intervals_whatever_its_own_is() {
    let mut net = about_to_join(|from, to, bytes| (from, to) != (1, 0) || kind(bytes) != Kind::Chunk);
    net.connect(&[0, 1, 2]);
    let state = net.devices[0].machine.group_state();
    let minute = Duration::from_secs(60);
    net.run_for(DELAY * 2);
    net.command(1, |machine, now| machine.neighbour_heard(now, member(0), address(0), nonce(0), minute, state));
    net.run_for(HELLO);
    let offered = |net: &Net| net.devices[1].machine.join.as_ref().is_some_and(|join| join.is_offered());
    assert!(offered(&net));
    net.run_until_true(HELLO * 2, |net| !offered(net));
}

#[test]
fn a_target_that_sends_what_lacks_a_certificate_again_and_again_does_not_hold_a_join_up() {
    let mut net = about_to_join(|from, to, _| (from, to) != (0, 1));
    // Of device 2 the newcomer knows nothing.
    net.connect(&[0, 1]);
    let bytes = net.devices[0].machine.snapshot_message().unwrap().bytes;
    net.run_for(Duration::from_millis(5));
    let (start, mut last) = (net.now, net.now);
    for n in 0..100 {
        let message = Message::new(MessageKind::Snapshot, Hash([n; 32]), bytes.clone());
        net.command(1, |machine, now| machine.handle_message(now, member(0), message));
        if !net.devices[1].machine.is_joining() {
            break;
        }
        last = net.now;
        net.run_for(Duration::from_millis(100));
    }
    assert!(last > start, "it joins");
    assert!(last.since(start) < Duration::from_secs(4), "{:?}", last.since(start));
}

/// Devices as a group of their own in an epoch that only a rogue group gets to, while 0, 2 and 4 are an honest one.
fn driven_up(devices: &[usize]) -> Net {
    let mut net = Net::new(5);
    net.command(devices[0], |machine, now| machine.start_alone(now, 1 << 60));
    for group in [devices, &[0, 2, 4]] {
        net.connect(group);
        net.run_until_true(Duration::from_secs(3), |net| {
            group.iter().all(|device| net.devices[*device].machine.members().count() == group.len())
        });
    }
    net.run_for(HELLO * 3);
    assert!(devices.iter().all(|device| net.devices[*device].machine.epoch.number() >= 1 << 60));
    net
}

#[test]
fn who_was_carried_far_up_comes_back_into_an_honest_group() {
    let mut net = driven_up(&[1]);
    let old = net.devices[1].machine.epoch.tree().members().next().unwrap().1.leaf.public;
    net.connect(&[0, 1, 2, 4]);
    net.devices[3].up = false;
    net.run_until_true(HELLO, Net::is_one_group);
    assert!(net.devices[0].machine.epoch.number() < 100);
    assert!(net.devices[1].machine.own.secret(&old).is_none(), "no epoch of before is open to it");
}

#[test]
fn a_group_that_was_carried_far_up_parts_and_comes_back() {
    let mut net = driven_up(&[1, 3]);
    net.connect(&[0, 1, 2, 3, 4]);
    net.run_until_true(HELLO * 2, Net::is_one_group);
    assert!(net.devices[0].machine.epoch.number() < 100);
    assert_eq!(net.devices[0].excluded + net.devices[2].excluded + net.devices[4].excluded, 0);
}

#[test]
fn who_was_carried_to_where_nobody_follows_begins_again() {
    let mut net = Net::new(2);
    net.command(0, |machine, now| machine.start_alone(now, MAX_EPOCH_JOINED));
    net.connect(&[0, 1]);
    net.run_until_true(HELLO, Net::is_one_group);
    assert!(net.devices[0].machine.epoch.number() < 100);
}
