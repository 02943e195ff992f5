//! Every race, with every winner, by hand.
//!
//! The network holds chosen messages back and lets them go in the order that the test wants.

use std::cell::RefCell;
use std::rc::Rc;

use muster_wire::mike::{Chunk, MessageKind};
use muster_wire::{Envelope, Kind};

use super::*;

/// Datagrams held back: from, to, bytes.
type Held = Rc<RefCell<Vec<(usize, usize, Vec<u8>)>>>;

/// Holds back what `which` names; all else passes.
fn hold(net: &mut Net, which: impl Fn(usize, usize, &[u8]) -> bool + 'static) -> Held {
    let held = Held::default();
    let keep = held.clone();
    net.filter = Box::new(move |from, to, bytes| {
        let holds = which(from, to, bytes);
        if holds {
            keep.borrow_mut().push((from, to, bytes.to_vec()));
        }
        !holds
    });
    held
}

fn is(bytes: &[u8], kind: MessageKind) -> bool {
    Envelope::parse(bytes).unwrap().decode::<Chunk>().is_ok_and(|chunk| chunk.kind == kind)
}

/// Lets what `from` sent to `to` go.
fn release(net: &mut Net, held: &Held, from: usize, to: usize) {
    let all = held.borrow().clone();
    for (_, _, bytes) in all.iter().filter(|(f, t, _)| (*f, *t) == (from, to)) {
        net.inject(to, bytes);
    }
}

fn hash(net: &Net, device: usize) -> Hash {
    net.devices[device].machine.epoch.public.hash
}

fn tm(net: &Net, device: usize) -> MemberId {
    net.devices[device].machine.instance().tm
}

/// A quiet group of five in which device n sits in slot n.
fn five() -> Net {
    let mut net = Net::new(5);
    for count in 2..=5 {
        net.connect(&(0..count).collect::<Vec<_>>());
        net.run_until_true(Duration::from_secs(3), |net| net.devices[0].machine.members().count() == count);
    }
    net.run_for(Duration::from_secs(3));
    let slots: Vec<MemberId> = net.devices[0].machine.members().map(|(_, member)| member).collect();
    assert_eq!(slots, (0..5).map(member).collect::<Vec<_>>());
    net
}

/// The transaction manager dies, and devices 1 and 2 claim before either hears the other.
fn two_claims() -> (Net, Held) {
    let mut net = five();
    let held = hold(&mut net, |_, _, bytes| is(bytes, MessageKind::Commit) || is(bytes, MessageKind::Snapshot));
    net.devices[0].up = false;
    for claimant in [1, 2] {
        net.command(claimant, |machine, now| {
            machine.neighbour_gone(now, member(0), false);
            machine.claim.as_mut().unwrap().at = now;
            machine.handle_timeout(now);
        });
        assert_eq!(net.devices[claimant].machine.counters().claims, 1);
    }
    for other in [3, 4] {
        net.command(other, |machine, now| machine.neighbour_gone(now, member(0), false));
    }
    (net, held)
}

/// ```text
///  1 ──claim──► 3        first
///  2 ──claim──► 3        second: a higher slot does not win
///  2 hears 1's and gives its own up
/// ```
#[test]
fn of_two_claims_the_lower_slot_wins_though_it_is_heard_first() {
    let (mut net, held) = two_claims();
    release(&mut net, &held, 1, 3);
    assert_eq!(tm(&net, 3), member(1));
    release(&mut net, &held, 2, 3);
    assert_eq!(tm(&net, 3), member(1));
    settle_under_one(&mut net);
}

/// ```text
///  2 ──claim──► 3        first: it follows, for all it knows
///  1 ──claim──► 3        second: the lower slot wins after all
/// ```
#[test]
fn of_two_claims_the_lower_slot_wins_though_it_is_heard_second() {
    let (mut net, held) = two_claims();
    release(&mut net, &held, 2, 3);
    assert_eq!(tm(&net, 3), member(2));
    release(&mut net, &held, 1, 3);
    net.filter = Box::new(|_, _, _| true);
    net.run_until_true(Duration::from_secs(1), |net| tm(net, 3) == member(1));
    settle_under_one(&mut net);
}

fn settle_under_one(net: &mut Net) {
    net.filter = Box::new(|_, _, _| true);
    net.run_until_true(Duration::from_secs(3), Net::is_one_group);
    assert_eq!(tm(net, 4), member(1));
    assert!((1..5).all(|device| net.devices[device].excluded == 0), "nobody was shut out");
}

/// ```text
///  2 ──hand-over──► 1        late: by then 1 is a member of 0's group
///  1 ──refused──► 2          it need not wait for the expiry
/// ```
#[test]
fn a_hand_over_for_a_reign_that_is_over_is_refused_at_once() {
    let mut net = Net::new(3);
    let held = hold(&mut net, |from, to, bytes| (from, to) == (2, 1) && is(bytes, MessageKind::Handover));
    net.connect(&[1, 2]);
    net.run_until_true(Duration::from_secs(1), |_| !held.borrow().is_empty());
    net.connect(&[0, 1]);
    net.run_until_true(Duration::from_secs(1), |net| tm(net, 1) == member(0));
    assert!(net.devices[2].machine.is_joining(), "it waits for an answer");
    release(&mut net, &held, 2, 1);
    net.run_until_true(Duration::from_millis(20), |net| !net.devices[2].machine.is_joining());
    net.filter = Box::new(|_, _, _| true);
    net.connect(&[0, 1, 2]);
    net.run_until_true(Duration::from_secs(1), Net::is_one_group);
}

/// ```text
///  2 ──hand-over──► 1        late, as above
///  1 ──refused──► 2          lost
///  2 ──hand-over──► 1        the repetition
///  1 ──refused──► 2
/// ```
#[test]
fn a_refusal_that_is_lost_is_said_again() {
    let mut net = Net::new(3);
    let lost = Rc::new(RefCell::new(0));
    let count = lost.clone();
    let held = hold(&mut net, |from, to, bytes| (from, to) == (2, 1) && is(bytes, MessageKind::Handover));
    net.connect(&[1, 2]);
    net.run_until_true(Duration::from_secs(1), |_| !held.borrow().is_empty());
    net.connect(&[0, 1]);
    net.run_until_true(Duration::from_secs(1), |net| tm(net, 1) == member(0));
    net.filter = Box::new(move |from, to, bytes| {
        let refusal = (from, to) == (1, 2) && Envelope::parse(bytes).unwrap().header().kind == Kind::HandoverRefused;
        *count.borrow_mut() += u32::from(refusal);
        !refusal || *count.borrow() > 1
    });
    net.run_until_true(Duration::from_millis(400), |net| !net.devices[2].machine.is_joining());
    assert_eq!(*lost.borrow(), 2);
}

/// ```text
///  2 ──hand-over──► 1        before the hello that names 2's group: not yet
///  2 ──hello──► 1
///  2 ──hand-over──► 1        the repetition
/// ```
#[test]
fn a_hand_over_that_runs_ahead_of_its_hello_is_taken_at_its_repetition() {
    let mut net = Net::new(2);
    net.connect(&[0, 1]);
    let state = GroupState { instance: net.devices[0].machine.instance(), ..net.devices[1].machine.group_state() };
    net.run_for(DELAY * 2);
    net.command(0, |machine, now| machine.neighbour_heard(now, member(1), address(1), nonce(1), HELLO, state));
    net.run_for(Duration::from_millis(20));
    assert!(net.devices[1].machine.is_joining() && net.devices[0].machine.pending.handovers.is_empty());
    net.hello(1);
    net.run_until_true(Duration::from_millis(100), Net::is_one_group);
}

/// ```text
///  2 ──hand-over──► 1        taken, and the commit does not arrive
///  1 ──hand-over──► 0        with 2 in it, whose licence was for 1's group
///  2 ──hand-over──► 0        a fresh one: nobody need be excluded first
/// ```
#[test]
fn who_was_taken_along_without_knowing_hands_itself_over_anew() {
    let mut net = Net::new(4);
    net.connect(&[0, 3]);
    net.run_until_true(Duration::from_secs(1), |net| net.devices[3].machine.members().count() == 2);
    hold(&mut net, |from, to, bytes| (from, to) == (1, 2) && is(bytes, MessageKind::Commit));
    net.connect(&[1, 2]);
    net.run_until_true(Duration::from_secs(1), |net| net.devices[1].machine.members().count() == 2);
    assert_eq!(net.devices[2].machine.members().count(), 1);
    net.connect(&[0, 1, 2, 3]);
    net.run_until_true(Duration::from_secs(1), |net| tm(net, 1) == member(0));
    net.run_until_true(Duration::from_secs(2), Net::is_one_group);
    assert!((0..4).all(|device| net.devices[device].excluded == 0), "nobody was shut out");
}

/// Device 1 believes that the transaction manager is gone and claims, while the manager, which is not, makes a new key.
fn claim_against_commit() -> (Net, Held) {
    let mut net = five();
    let held = hold(&mut net, |_, to, bytes| {
        to == 3 && (is(bytes, MessageKind::Commit) || is(bytes, MessageKind::Snapshot))
            || is(bytes, MessageKind::Commit)
    });
    net.command(0, KeyAgreement::rekey);
    net.command(1, |machine, now| {
        machine.neighbour_gone(now, member(0), false);
        machine.claim.as_mut().unwrap().at = now;
        machine.handle_timeout(now);
    });
    (net, held)
}

/// ```text
///  0 (TM) ──commit──► 3
///  1      ──claim───► 3        on the epoch before: none of its business now
/// ```
#[test]
fn a_commit_that_comes_before_a_claim_stands() {
    let (mut net, held) = claim_against_commit();
    release(&mut net, &held, 0, 3);
    let committed = hash(&net, 3);
    release(&mut net, &held, 1, 3);
    assert_eq!((hash(&net, 3), tm(&net, 3)), (committed, member(0)));
    meet_again(&mut net);
}

/// ```text
///  1      ──claim───► 3        valid: 3 follows, though it hears the TM itself
///  0 (TM) ──commit──► 3        of a reign that 3 has left
/// ```
#[test]
fn a_claim_that_comes_before_a_commit_stands() {
    let (mut net, held) = claim_against_commit();
    release(&mut net, &held, 1, 3);
    assert_eq!(tm(&net, 3), member(1));
    let claimed = hash(&net, 3);
    release(&mut net, &held, 0, 3);
    assert_eq!(hash(&net, 3), claimed);
    meet_again(&mut net);
}

fn meet_again(net: &mut Net) {
    net.filter = Box::new(|_, _, _| true);
    let (key, startup) = (net.devices[0].key.public(), net.devices[0].startup);
    net.command(1, |machine, now| machine.neighbour_up(now, member(0), key, startup, address(0), true));
    net.run_until_true(Duration::from_secs(8), Net::is_one_group);
    net.run_for(Duration::from_secs(10));
    assert!(net.is_one_group());
}

/// Three groups: 0 alone, 1 alone, and 2 with 3, 4 and 5, the greatest.
fn three_groups() -> Net {
    let mut net = Net::new(6);
    net.connect(&[2, 3, 4, 5]);
    net.run_until_true(Duration::from_secs(3), |net| net.devices[5].machine.members().count() == 4);
    net.run_for(Duration::from_secs(1));
    net
}

/// ```text
///  1 ──hand-over──► 0          0 has its own out to 2: refused
///  0 ──hand-over──► 2          taken
///  1 ──hand-over──► 2          taken
/// ```
#[test]
fn who_has_handed_over_takes_nobody_in() {
    let mut net = three_groups();
    let held = hold(&mut net, |from, _, bytes| from < 2 && is(bytes, MessageKind::Handover));
    net.connect(&[0, 1]);
    net.run_until_true(Duration::from_millis(100), |net| net.devices[1].machine.join.is_some());
    net.run_until_true(Duration::from_millis(100), |_| !held.borrow().is_empty());
    assert_eq!(held.borrow()[0].0, 1, "1 is the lesser: its hand-over to 0 is on its way");
    let early = held.borrow()[0].2.clone();
    // Now 0 sees the greatest group and hands over, before 1's reaches it.
    let early_hold = held.clone();
    early_hold.borrow_mut().clear();
    net.connect(&[0, 1, 2, 3, 4, 5]);
    net.run_until_true(Duration::from_millis(300), |_| early_hold.borrow().iter().any(|(from, ..)| *from == 0));
    net.inject(0, &early);
    assert!(net.devices[0].machine.pending.handovers.is_empty(), "refused");
    net.filter = Box::new(|_, _, _| true);
    net.run_until_true(Duration::from_secs(5), Net::is_one_group);
    assert_eq!(tm(&net, 0), member(2));
}

/// ```text
///  1 ──hand-over──► 0          0 takes it
///  0 ──commit──► 1             held back
///  0 sees 2's greater group, and hands {0, 1} over
///  2 ──commit──► 0, 1          1 knows nothing of 0's reign: a snapshot tells
/// ```
#[test]
fn who_was_taken_in_without_knowing_is_taken_on() {
    let mut net = three_groups();
    let offered = std::cell::Cell::new(false);
    let held = hold(&mut net, move |from, to, bytes| {
        offered.set(offered.get() || (from == 1 && is(bytes, MessageKind::Handover)));
        let news = is(bytes, MessageKind::Commit) || is(bytes, MessageKind::Snapshot);
        offered.get() && (from, to) == (0, 1) && news
    });
    net.connect(&[0, 1]);
    net.run_until_true(Duration::from_millis(500), |net| net.devices[0].machine.members().count() == 2);
    assert!(!held.borrow().is_empty());
    assert_eq!(net.devices[1].machine.members().count(), 1);
    net.connect(&[0, 1, 2, 3, 4, 5]);
    net.run_for(Duration::from_millis(300));
    net.filter = Box::new(|_, _, _| true);
    net.run_until_true(Duration::from_secs(8), Net::is_one_group);
    assert_eq!(tm(&net, 1), member(2));
}

/// ```text
///  a commit runs, 4's acknowledgement is missing
///  new ──hand-over──► TM       waits
///  3 dies                      does not wait: the next commit shuts it out, and takes the newcomer along
/// ```
#[test]
fn an_exclusion_does_not_wait_for_a_running_transaction_and_a_join_does() {
    let mut net = Net::new(6);
    for count in 2..=5 {
        net.connect(&(0..count).collect::<Vec<_>>());
        net.run_until_true(Duration::from_secs(3), |net| net.devices[0].machine.members().count() == count);
    }
    net.run_for(Duration::from_secs(3));
    let held = hold(&mut net, |from, to, bytes| (from, to) == (5, 0) && is(bytes, MessageKind::Handover));
    net.connect(&[0, 1, 2, 3, 4, 5]);
    net.run_until_true(Duration::from_millis(100), |_| !held.borrow().is_empty());
    net.devices[4].up = false;
    net.command(0, KeyAgreement::rekey);
    net.run_for(Duration::from_millis(20));
    let epoch = net.devices[0].machine.epoch.number();
    release(&mut net, &held, 5, 0);
    assert_eq!(net.devices[0].machine.epoch.number(), epoch, "the join waits");
    assert!(!net.devices[0].machine.pending.handovers.is_empty());
    net.devices[3].up = false;
    net.command(0, |machine, now| machine.neighbour_gone(now, member(3), false));
    assert_eq!(net.devices[0].machine.epoch.number(), epoch + 1, "the exclusion does not");
    let members: Vec<MemberId> = net.devices[0].machine.members().map(|(_, member)| member).collect();
    assert!(members.contains(&member(5)) && !members.contains(&member(3)));
}

/// ```text
///  2 ──rekey──► TM, 3 ──rekey──► TM      both name the same epoch
/// ```
#[test]
fn two_wishes_for_one_epoch_make_one_epoch() {
    let mut net = five();
    let epoch = net.devices[0].machine.epoch.number();
    for asker in [2, 3] {
        net.command(asker, KeyAgreement::rekey);
    }
    net.run_for(Duration::from_secs(1));
    assert!(net.is_one_group());
    assert_eq!(net.devices[0].machine.epoch.number(), epoch + 1);
}

/// ```text
///  0 (TM) ──leave──► all       and dies at once
///  1 ──claim──► all            an announced leave needs no dead time
/// ```
#[test]
fn the_manager_says_that_it_leaves_and_dies() {
    let mut net = five();
    net.command(0, KeyAgreement::leave);
    net.run_for(Duration::from_millis(2));
    net.devices[0].up = false;
    let took = net.run_until_true(Duration::from_secs(1), Net::is_one_group);
    assert!(took < Duration::from_millis(100), "{took:?}");
    assert_eq!(tm(&net, 4), member(1));
}

/// ```text
///  0 (TM) ──leave──► all
///  new ──hand-over──► 0        refused: it goes to the successor
/// ```
#[test]
fn who_leaves_takes_nobody_in() {
    let mut net = Net::new(5);
    net.connect(&[0, 1, 2, 3]);
    net.run_until_true(Duration::from_secs(3), |net| net.devices[3].machine.members().count() == 4);
    net.run_for(Duration::from_secs(3));
    let refused = Rc::new(RefCell::new(0));
    let count = refused.clone();
    net.filter = Box::new(move |from, to, bytes| {
        let kind = Envelope::parse(bytes).unwrap().header().kind;
        *count.borrow_mut() += u32::from((from, to) == (0, 4) && kind == Kind::HandoverRefused);
        kind != Kind::Leave
    });
    net.command(0, KeyAgreement::leave);
    net.connect(&[0, 1, 2, 3, 4]);
    net.run_for(Duration::from_millis(100));
    assert!(*refused.borrow() > 0);
    assert!(net.devices[0].machine.pending.handovers.is_empty());
    net.filter = Box::new(|_, _, _| true);
    net.run_until_true(Duration::from_secs(1), |net| net.devices[0].left);
    net.devices[0].up = false;
    net.run_until_true(Duration::from_secs(8), Net::is_one_group);
    assert_eq!(tm(&net, 4), member(1));
}
