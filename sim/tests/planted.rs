//! Every checker finds what it is for: a defect is planted, and the right one complains.

use std::time::Duration;

use muster_keyagree::{ParentView, TreeView};
use muster_sim::checks::{self, Attack, Check, Reaction};
use muster_sim::{
    Conditions, Defect, Disturbance, Fact, Fault, NodeView, Plan, Scheduled, Scope, View, World, run_plan,
};
use muster_wire::{Envelope, Hash, Kind, Time, Voucher};

/// Five nodes without faults, on a good network.
fn calm() -> Plan {
    calm_of(5)
}

fn calm_of(nodes: usize) -> Plan {
    let mut plan = Plan::new(1, Scope { nodes: Some(nodes), seconds: 60 });
    let ms = Duration::from_millis;
    plan.conditions = Conditions { delay: (ms(1), ms(1)), jitter: ms(1), loss: 0 };
    plan.leaf_refresh = Plan::SELDOM;
    plan.starts = vec![Time(1_000_000); nodes];
    plan.over = Time(5_000_000);
    plan.faults.clear();
    plan
}

fn with(mut plan: Plan, at: u64, lasts: Option<u64>, fault: Fault) -> Plan {
    let at = Time(at * 1_000_000);
    plan.faults.push(Scheduled { at, lasts: lasts.map(Duration::from_secs), fault });
    plan.over = plan.over.max(at + Duration::from_secs(lasts.unwrap_or_default()));
    plan
}

/// What the checkers say of a run with this defect.
fn found(plan: Plan, defect: impl Defect + 'static) -> (&'static str, String) {
    let failure = run_plan(plan, Box::new(defect)).failure.expect("a checker complains");
    (failure.check, failure.what)
}

/// Changes facts.
struct Lie<F>(F);

impl<F: FnMut(Fact) -> Vec<Fact>> Defect for Lie<F> {
    fn fact(&mut self, fact: Fact) -> Vec<Fact> {
        (self.0)(fact)
    }
}

#[test]
fn nothing_is_found_where_nothing_is_planted() {
    let report = run_plan(calm(), Box::new(()));
    assert_eq!(report.failure, None);
    assert_eq!(report.totals.exclusions, 0);
}

#[test]
fn agreement_finds_a_node_with_another_key() {
    let (check, what) = found(
        calm(),
        Lie(|mut fact: Fact| {
            if let Fact::Entered(entered) = &mut fact
                && entered.node == 3
                && entered.senders.len() == 5
            {
                entered.fingerprint = "another".into();
            }
            vec![fact]
        }),
    );
    assert_eq!(check, "agreement");
    assert!(what.contains("holds another key"), "{what}");
}

#[test]
fn agreement_finds_two_headers_of_one_epoch() {
    let mut entered_by = 0;
    let (check, what) = found(
        calm(),
        Lie(move |mut fact: Fact| {
            if let Fact::Entered(entered) = &mut fact
                && entered.senders.len() == 5
            {
                entered_by += 1;
                entered.header.0[0] ^= u8::from(entered_by == 2);
            }
            vec![fact]
        }),
    );
    assert_eq!(check, "agreement");
    assert!(what.contains("two headers"), "{what}");
}

#[test]
fn secrecy_finds_an_outsider_with_the_key() {
    let plan = with(calm(), 8, Some(20), Fault::Disturb(Disturbance::Mute(2)));
    // The excluded node computes what the others compute.
    let mut mute = None;
    let lie = Lie(move |fact: Fact| {
        let mut facts = vec![fact];
        if let Fact::Entered(entered) = &facts[0] {
            if entered.node == 2 {
                mute = Some(entered.member);
            } else if let Some(mute) = mute
                && entered.senders.len() == 4
                && entered.senders.iter().all(|sender| sender.member != mute)
            {
                let mut stolen = entered.clone();
                (stolen.node, stolen.member) = (2, mute);
                facts.push(Fact::Entered(stolen));
            }
        }
        facts
    });
    let (check, what) = found(plan, lie);
    assert_eq!(check, "secrecy");
    assert!(what.contains("is no member"), "{what}");
}

/// Changes the trees that the checkers see.
struct Gardener(fn(&mut TreeView));

impl Defect for Gardener {
    fn fact(&mut self, mut fact: Fact) -> Vec<Fact> {
        if let Fact::Entered(entered) = &mut fact {
            entered.tree.as_mut().into_iter().for_each(self.0);
        }
        vec![fact]
    }

    fn view(&mut self, view: &mut View) {
        view.nodes.iter_mut().for_each(|node| (self.0)(&mut node.tree));
    }
}

fn root(tree: &mut TreeView) -> Option<&mut ParentView> {
    tree.parents.iter_mut().find(|parent| parent.node == tree.slots - 1)
}

#[test]
fn exclusion_finds_a_secret_that_outlives_a_member() {
    // Killed for good, and every epoch has the same root.
    let plan = with(calm(), 8, None, Fault::Crash(2));
    let same_root = Gardener(|tree| root(tree).into_iter().for_each(|root| root.public = [9; 32]));
    let what = found_by(checks::Exclusion::default(), plan.clone(), same_root);
    assert!(what.contains("come to its root together"), "{what}");
    assert_eq!(run_plan(plan, Box::new(())).failure, None);
}

#[test]
fn exclusion_finds_a_sealed_secret_for_one_who_is_out() {
    let plan = with(calm(), 8, None, Fault::Crash(2));
    // All five had the same leaf key; to that the root of the other four is sealed.
    let leak = Gardener(|tree| {
        if tree.leaves.len() == 5 {
            tree.leaves.iter_mut().for_each(|(_, _, key)| *key = [7; 32]);
        } else if tree.leaves.len() == 4 && root(tree).is_some() {
            tree.leaves.push((31, muster_wire::MemberId([0; 32]), [7; 32]));
            root(tree).into_iter().for_each(|root| root.recipients.push(2 * 31));
        }
    });
    let what = found_by(checks::Exclusion::default(), plan, leak);
    assert!(what.contains("come to its root together"), "{what}");
}

#[test]
fn capture_finds_a_root_that_outlives_a_leaf() {
    let plan = with(calm(), 8, None, Fault::Rekey(0));
    let same_root = Gardener(|tree| root(tree).into_iter().for_each(|root| root.public = [9; 32]));
    let what = found_by(checks::Capture::default(), plan, same_root);
    assert!(what.contains("captured, reveals epoch"), "{what}");
}

#[test]
fn shape_finds_a_tree_that_is_too_large() {
    let (check, what) = found(calm(), Gardener(|tree| tree.slots *= 2));
    assert_eq!(check, "shape");
    assert!(what.contains("slots for slot"), "{what}");
}

#[test]
fn shape_finds_a_parent_that_stays_blank() {
    // The lowest parent of all, which the two leaves below it can key.
    let (check, what) = found(calm(), Gardener(|tree| tree.parents.retain(|parent| parent.node != 1)));
    assert_eq!(check, "shape");
    assert!(what.contains("parents [1]"), "{what}");
}

#[test]
fn freshness_finds_a_key_installed_again_after_a_restart() {
    let plan = with(calm(), 8, Some(1), Fault::Crash(1));
    let (mut last, mut restarted) = (None, false);
    let lie = Lie(move |fact: Fact| match fact {
        Fact::Entered(entered) if entered.node == 1 && !restarted => {
            last = Some(entered.clone());
            vec![Fact::Entered(entered)]
        }
        Fact::Stopped { node: 1 } => {
            restarted = true;
            vec![fact]
        }
        Fact::Started { node: 1, .. } if restarted => {
            vec![fact].into_iter().chain(last.take().map(Fact::Entered)).collect()
        }
        fact => vec![fact],
    });
    let (check, what) = found(plan, lie);
    assert_eq!(check, "freshness");
    assert!(what.contains("again"), "{what}");
}

#[test]
fn freshness_finds_two_senders_of_one_key_and_two_sas_of_one_spi() {
    let own_slot = |fact: &Fact| matches!(fact, Fact::Entered(entered) if entered.senders.len() == 5);
    let (check, what) = found(
        calm(),
        Lie(move |mut fact: Fact| {
            let wrong = own_slot(&fact);
            if let Fact::Entered(entered) = &mut fact
                && wrong
            {
                entered.slot = 0;
            }
            vec![fact]
        }),
    );
    assert_eq!(check, "freshness");
    assert!(what.contains("send under one key"), "{what}");

    let (check, what) = found(
        calm(),
        Lie(|mut fact: Fact| {
            if let Fact::Entered(entered) = &mut fact {
                entered.senders.iter_mut().for_each(|sender| sender.spi = sender.slot);
            }
            vec![fact]
        }),
    );
    assert_eq!(check, "freshness");
    assert!(what.contains("two live SAs"), "{what}");
}

#[test]
fn freshness_finds_sending_under_what_is_not_installed() {
    let (check, what) = found(
        calm(),
        Lie(|fact: Fact| match fact {
            Fact::Activated { node, .. } => vec![Fact::Activated { node, header: Hash([1; 32]) }],
            fact => vec![fact],
        }),
    );
    assert_eq!(check, "freshness");
    assert!(what.contains("does not hold"), "{what}");
}

#[test]
fn freshness_finds_who_sends_under_nothing() {
    let (mut sent, mut retired) = (None, false);
    let (check, what) = found(
        calm(),
        Lie(move |fact: Fact| match fact {
            Fact::Activated { node: 1, header } => {
                sent = Some(header);
                vec![fact]
            }
            Fact::Entered(entered) if entered.node == 1 && entered.senders.len() == 5 && !retired => {
                // As if it had the same SPIs, and its activation were forgotten.
                retired = true;
                let header = sent.take().expect("it sends from the beginning on");
                vec![Fact::Retired { node: 1, header }, Fact::Entered(entered)]
            }
            fact => vec![fact],
        }),
    );
    assert_eq!(check, "freshness");
    assert!(what.contains("has retired what it sends under"), "{what}");
}

/// From some time on no commit or snapshot gets through, without anybody having planned it; and the key is changed every
/// second.
struct Lossy(Time);

impl Defect for Lossy {
    fn view(&mut self, view: &mut View) {
        self.0 = view.at;
    }

    fn drops(&mut self, _to: usize, datagram: &[u8]) -> bool {
        let chunk =
            Envelope::parse(Voucher::split(datagram).1).is_ok_and(|envelope| envelope.header().kind == Kind::Chunk);
        chunk && self.0 > Time(4_000_000)
    }

    fn rekeys(&mut self, at: Time) -> Option<usize> {
        at.0.is_multiple_of(1_000_000).then_some(0)
    }
}

/// What one checker alone says.
fn found_by(check: impl Check + 'static, mut plan: Plan, defect: impl Defect + 'static) -> String {
    plan.over = plan.end;
    let (.., failure) = World::new(plan, vec![Box::new(check)], Box::new(defect)).run();
    failure.expect("the checker complains").what
}

#[test]
fn recovery_finds_a_member_that_does_not_come_back() {
    let what = found_by(checks::Recovery::default(), calm(), Lossy(Time(0)));
    assert!(what.contains("has been stuck"), "{what}");
}

#[test]
fn convergence_finds_a_network_that_never_heals() {
    let plan = with(calm(), 3, None, Fault::Disturb(Disturbance::Partition(vec![0, 0, 1, 1, 1])));
    let (check, what) = found(plan, ());
    assert_eq!(check, "convergence");
    assert!(what.contains("not one group"), "{what}");
}

/// An operator who cannot keep still.
struct Restless(Duration);

impl Defect for Restless {
    fn rekeys(&mut self, at: Time) -> Option<usize> {
        (at > Time(5_000_000) && at.0.is_multiple_of(self.0.as_micros() as u64)).then_some(0)
    }
}

#[test]
fn convergence_finds_a_group_that_does_not_rest() {
    let (check, what) = found(calm(), Restless(Duration::from_secs(10)));
    assert_eq!(check, "convergence");
    assert!(what.contains("makes another epoch"), "{what}");
}

/// Leaves are replaced, epochs come and go, and all the same it counts as quiet, until somebody is left behind.
#[test]
fn convergence_finds_who_is_left_behind_by_refreshes() {
    let plan = Plan { leaf_refresh: Duration::from_secs(16), ..calm() };
    let report = run_plan(plan.clone(), Box::new(()));
    assert_eq!(report.failure, None);
    assert!(report.totals.refreshes > 0);
    let what = found_by(checks::Convergence::default(), plan, LeftBehind(None));
    assert!(what.contains("falls apart"), "{what}");
}

/// Shows one node for ever as it was in the quiet.
struct LeftBehind(Option<NodeView>);

impl Defect for LeftBehind {
    fn view(&mut self, view: &mut View) {
        if view.at > Time(66_000_000)
            && let Some(node) = view.nodes.get_mut(1)
        {
            *node = self.0.get_or_insert_with(|| node.clone()).clone();
        }
    }
}

/// A network that is told of datagrams that nobody sent.
struct Chatter(u64);

impl Defect for Chatter {
    fn view(&mut self, view: &mut View) {
        self.0 += 3;
        view.sent += self.0;
    }
}

#[test]
fn convergence_finds_too_many_messages() {
    let (check, what) = found(calm(), Chatter(0));
    assert_eq!(check, "convergence");
    assert!(what.contains("datagrams in"), "{what}");
}

#[test]
fn silence_finds_a_replay_that_is_accepted() {
    // The network drops commits and snapshots, of one chunk between two, and claims to have delivered them: brought by
    // the attacker, they do something.
    let what = found_by(checks::Silence, calm_of(2), Lossy(Time(0)));
    assert!(what.contains("Replay of Some(Chunk)"), "{what}");
}

#[test]
fn silence_finds_a_changed_state_and_a_large_answer() {
    let view = NodeView {
        node: 1,
        member: muster_sim::device(1).member,
        instance: muster_wire::Instance { tm: muster_sim::device(1).member, startup: 1, random: 1 },
        epoch: 1,
        header: Hash([1; 32]),
        active: true,
        members: vec![],
        neighbours: vec![],
        tree: TreeView::default(),
    };
    let quiet = Reaction {
        before: view.clone(),
        after: view.clone(),
        facts: 0,
        datagram: (Some(Kind::Hello), 290),
        sent: vec![290],
    };
    let mut silence = checks::Silence;
    assert!(silence.attack(&Attack::Flip, &quiet).is_ok());
    let loud = Reaction { sent: vec![291], ..quiet.clone() };
    assert!(silence.attack(&Attack::Flip, &loud).unwrap_err().contains("291 bytes"));
    let moved = Reaction { after: NodeView { epoch: 2, ..view.clone() }, ..quiet.clone() };
    assert!(silence.attack(&Attack::Flip, &moved).unwrap_err().contains("changes state"));
    let installed = Reaction { facts: 1, ..quiet };
    assert!(silence.attack(&Attack::Flip, &installed).unwrap_err().contains("changes state"));
}
