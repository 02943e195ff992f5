//! Blank parents are keyed again, liars do not get in, and nobody is locked out for long.

use std::sync::Arc;

use muster_wire::mike::{Fill, Fills, FillsWanted, Objection, Parent, ParentKind, Side};
use muster_wire::{Body, Envelope, Kind, List, Signature};

use super::agreement::group;
use super::*;
use crate::secret::Secret;
use crate::tree::{Node, ParentIndex, ParentNode, Slot, Tree};

/// The ciphertexts of the current epoch's commit.
fn ciphertexts(tree: &Tree) -> usize {
    tree.keyed_parents().filter_map(|(_, node)| node.sealed.as_ref()).map(|sealed| sealed.ciphertexts.len()).sum()
}

fn tm(net: &Net) -> usize {
    let tm = net.devices[0].machine.instance().tm;
    (0..net.devices.len()).find(|device| member(*device) == tm).unwrap()
}

fn quiet(net: &mut Net) {
    net.run_for(Duration::from_secs(5));
}

fn kind_of(bytes: &[u8]) -> Kind {
    Envelope::parse(bytes).unwrap().header().kind
}

#[test]
fn after_quiet_no_parent_is_left_that_could_be_keyed_and_a_commit_needs_no_ciphertext() {
    for count in 2..=20 {
        let mut net = group(count);
        quiet(&mut net);
        for device in &net.devices {
            assert_eq!(device.machine.fillable_parents(), 0, "of {count}");
        }
        net.command(tm(&net), KeyAgreement::rekey);
        net.run_for(Duration::from_millis(300));
        assert!(net.is_one_group());
        let tree = net.devices[0].machine.epoch.tree();
        assert_eq!(ciphertexts(tree), 0, "of {count}: every parent is keyed from its children");
        assert!(tree.parents().all(|index| tree.parent(index).is_some() || !tree.is_occupied(Node::Parent(index))));
    }
}

/// What the paths of the newcomer and of the manager leave blank is filled, so that the next change costs a logarithm,
/// though nobody but the manager ever commits.
#[test]
fn an_exclusion_costs_a_logarithm_though_only_one_ever_commits() {
    const COUNT: usize = 33;
    let mut net = Net::new(COUNT);
    for count in 2..=COUNT {
        net.connect(&(0..count).collect::<Vec<_>>());
        net.run_until_true(Duration::from_secs(3), |net| net.devices[0].machine.members().count() == count);
        net.run_for(Duration::from_millis(600));
        let needed = ciphertexts(net.devices[0].machine.epoch.tree());
        assert!(needed <= 6, "{needed} ciphertexts for {count} members");
    }
    net.kill(20, Duration::from_secs(4));
    net.run_until_true(Duration::from_secs(5), Net::is_one_group);
    let needed = ciphertexts(net.devices[0].machine.epoch.tree());
    assert!(needed <= 6, "{needed} ciphertexts for an exclusion");
}

#[test]
fn another_fills_when_the_leftmost_is_silent() {
    let mut net = group(12);
    // Whoever is leftmost below a lowest parent.
    let tree = net.devices[0].machine.epoch.tree();
    let silent: Vec<usize> = (0..12).filter(|d| tree.slot_of(&member(*d)).unwrap().0.is_multiple_of(2)).collect();
    net.filter = Box::new(move |from, _, bytes| !(silent.contains(&from) && kind_of(bytes) == Kind::Fills));
    // Fresh leaves blank their owners' paths.
    for device in [3, 6, 9] {
        net.command(device, |machine, now| machine.offer_leaf(now, true));
        net.run_for(Duration::from_millis(300));
    }
    quiet(&mut net);
    assert!(net.is_one_group());
    assert_eq!(net.devices[tm(&net)].machine.fillable_parents(), 0);
}

#[test]
fn the_manager_asks_for_fills_that_it_missed() {
    // However long it has been deaf: seed 29958 of the simulator.
    for deaf in [Duration::from_millis(400), Duration::from_secs(13)] {
        let mut net = Net::new(12);
        let manager = 0;
        net.filter = Box::new(move |_, to, bytes| to != manager || kind_of(bytes) != Kind::Fills);
        net.connect(&(0..12).collect::<Vec<_>>());
        net.run_until_true(Duration::from_secs(3), Net::is_one_group);
        assert_eq!(tm(&net), manager);
        net.run_for(deaf);
        assert!(net.devices[manager].machine.fillable_parents() > 0, "all fills were lost on the way to it");
        net.filter = Box::new(|_, _, _| true);
        net.run_until_true(Duration::from_secs(4), |net| net.devices[manager].machine.fillable_parents() == 0);
    }
}

// Seed 1454 of the simulator.
#[test]
fn what_a_fill_rests_on_is_told_again_to_members_that_missed_it() {
    let mut net = Net::new(12);
    let manager = 0;
    net.filter = Box::new(move |_, to, bytes| to == manager || kind_of(bytes) != Kind::Fills);
    net.connect(&(0..12).collect::<Vec<_>>());
    net.run_until_true(Duration::from_secs(3), Net::is_one_group);
    assert_eq!(tm(&net), manager);
    net.run_for(Duration::from_millis(590));
    assert!(net.devices[manager].machine.fillable_parents() > 0, "what rests on another's fill lacks it");
    net.filter = Box::new(|_, _, _| true);
    net.run_until_true(Duration::from_secs(10), |net| net.devices[manager].machine.fillable_parents() == 0);
}

#[test]
fn a_snapshot_carries_fills() {
    let mut net = group(9);
    quiet(&mut net);
    let reader = (0..9).find(|device| *device != tm(&net)).unwrap();
    net.filter = Box::new(move |_, to, _| to != reader);
    net.command(tm(&net), KeyAgreement::rekey);
    net.run_for(Duration::from_millis(250));
    let manager = tm(&net);
    let fills = net.devices[manager].machine.filling.list();
    net.filter = Box::new(|_, _, _| true);
    net.run_until_true(Duration::from_secs(5), Net::is_one_group);
    net.run_for(Duration::from_millis(50));
    let read = net.devices[reader].machine.filling.list();
    assert!(fills.iter().all(|fill| read.contains(fill)));
}

/// A group of eight and a parent that device `liar` is below, blank and fillable, whose honest fill nobody has seen.
struct Lie {
    net: Net,
    liar: usize,
    index: ParentIndex,
    /// Somebody else below.
    victim: usize,
}

impl Lie {
    fn new() -> Lie {
        let mut net = group(8);
        quiet(&mut net);
        // A fresh leaf blanks the path of its owner; the fills that would follow are lost.
        let manager = tm(&net);
        let tree = net.devices[manager].machine.epoch.tree();
        let slot_of = |device: usize| tree.slot_of(&member(device)).unwrap();
        let refreshed = (0..8).find(|device| slot_of(*device) == Slot(7)).unwrap();
        let (liar, victim) = ((0..8).find(|d| slot_of(*d) == Slot(6)).unwrap(), refreshed);
        assert!(manager != liar && manager != victim);
        net.filter = Box::new(|_, _, bytes| kind_of(bytes) != Kind::Fills);
        net.command(refreshed, |machine, now| machine.offer_leaf(now, true));
        net.run_for(Duration::from_millis(100));
        assert!(net.is_one_group());
        let index = ParentIndex::new(13, 8).unwrap();
        assert!(net.devices[manager].machine.filling.missing().any(|missing| missing == index));
        net.filter = Box::new(|_, _, _| true);
        Lie { net, liar, index, victim }
    }

    /// A signed record of the liar's with a key of its own.
    fn fill(&self, seed: u8) -> Fill {
        let machine = &self.net.devices[self.liar].machine;
        let mut tree = machine.epoch.tree().clone();
        let secret = Secret::from_bytes([seed; 32]);
        let slot = machine.epoch.slot;
        let (kind, source) = tree.kind_of(self.index, slot);
        assert_eq!((kind, source), (ParentKind::Agreed, Side::Left));
        let epoch = machine.epoch.number();
        let (public, signature) = (secret.public(), Signature([0; 64]));
        let mut parent = Parent { kind, epoch, source, public, author: slot.0, signature };
        parent.signature = tree.sign_parent(self.index, &parent, machine.author.key()).unwrap();
        tree.set_parent(self.index, Arc::new(ParentNode { record: parent.clone(), sealed: None }));
        Fill { node: self.index.number(), parent }
    }

    fn say<T: Body>(&mut self, body: &T) -> Vec<u8> {
        self.net.devices[self.liar].machine.author.seal(body).unwrap()
    }

    fn tell(&mut self, fill: Fill, to: &[usize]) {
        let header = self.net.devices[self.liar].machine.epoch.public.hash;
        let bytes = self.say(&Fills { header, fills: List::new(vec![fill]).unwrap() });
        to.iter().for_each(|to| self.net.inject(*to, &bytes));
    }

    fn others(&self) -> Vec<usize> {
        (0..8).filter(|device| *device != self.liar).collect()
    }

    fn is_blank_at(&self, device: usize) -> bool {
        let filling = &self.net.devices[device].machine.filling;
        filling.list().iter().all(|fill| fill.node != self.index.number())
    }
}

#[test]
fn who_is_below_objects_to_a_lie_and_it_stays_blank_until_a_leaf_changes() {
    let mut lie = Lie::new();
    // The victim's own fill must not come first: only the liar's is on its way.
    let fill = lie.fill(1);
    let others = lie.others();
    lie.tell(fill, &others);
    lie.net.run_for(Duration::from_millis(3));
    assert!(others.iter().all(|device| lie.is_blank_at(*device)), "all have heard the objection");
    assert_eq!(lie.net.devices[lie.victim].machine.counters().disputes, 1);
    quiet(&mut lie.net);
    assert!(others.iter().all(|device| lie.is_blank_at(*device)), "and nobody fills it again");

    // The next commit seals there, and everybody is still in.
    let manager = tm(&lie.net);
    lie.net.command(manager, KeyAgreement::rekey);
    lie.net.run_for(Duration::from_millis(300));
    assert!(lie.net.is_one_group());
    assert!(ciphertexts(lie.net.devices[manager].machine.epoch.tree()) > 0);
    assert!(others.iter().all(|device| lie.is_blank_at(*device)), "also over a commit that changes nothing below");

    let victim = lie.victim;
    lie.net.command(victim, |machine, now| machine.offer_leaf(now, true));
    quiet(&mut lie.net);
    assert!(lie.net.is_one_group());
    assert_eq!(lie.net.devices[tm(&lie.net)].machine.fillable_parents(), 0, "a leaf below has changed");
}

#[test]
fn two_different_fills_leave_a_parent_blank() {
    let mut lie = Lie::new();
    let (one, two, victim) = (lie.fill(1), lie.fill(2), lie.victim);
    let others: Vec<usize> = lie.others().into_iter().filter(|device| *device != victim).collect();
    lie.tell(one.clone(), &others);
    assert!(others.iter().all(|device| !lie.is_blank_at(*device)), "who is not below cannot know");
    lie.tell(one, &others);
    assert!(others.iter().all(|device| !lie.is_blank_at(*device)), "the same once more changes nothing");
    lie.tell(two, &others);
    assert!(others.iter().all(|device| lie.is_blank_at(*device)));
}

/// ```text
///  liar ──fill (wrong)──► TM          the victim hears nothing of it
///  TM   ──commit on that fill──► all  the victim cannot compute the key
///  victim ──refresh, urgent──► TM
///  TM   ──commit──► all               the victim's path is blank, and it is in
/// ```
#[test]
fn who_is_locked_out_by_a_lie_comes_in_with_a_fresh_leaf() {
    let mut lie = Lie::new();
    let victim = lie.victim;
    let others: Vec<usize> = lie.others().into_iter().filter(|device| *device != victim).collect();
    lie.net.filter = Box::new(move |from, to, bytes| {
        let fills = matches!(kind_of(bytes), Kind::Fills | Kind::Objection | Kind::FillsWanted);
        !(fills && (from == victim || to == victim))
    });
    let fill = lie.fill(1);
    lie.tell(fill, &others);
    lie.net.run_for(Duration::from_millis(150));
    let manager = tm(&lie.net);
    assert!(!lie.is_blank_at(manager), "the lie has settled");
    let epoch = lie.net.devices[manager].machine.epoch.number();
    lie.net.command(manager, KeyAgreement::rekey);
    lie.net.run_for(Duration::from_millis(2));
    assert_eq!(lie.net.devices[victim].machine.epoch.number(), epoch, "it cannot follow");
    lie.net.run_until_true(Duration::from_secs(2), Net::is_one_group);
    assert!(lie.net.devices[victim].machine.epoch.number() >= epoch + 2);
}

#[test]
fn only_its_author_tells_a_fill_and_only_who_is_below_objects() {
    let mut lie = Lie::new();
    let manager = tm(&lie.net);
    let header = lie.net.devices[manager].machine.epoch.public.hash;
    let slot = lie.net.devices[lie.liar].machine.epoch.slot;
    let refused = |net: &Net| net.devices[manager].machine.counters().refused;
    let before = refused(&lie.net);

    // Another's name, a parent that the author is not below, a number beyond the tree, a sealed one, a wrong signature.
    let good = lie.fill(1);
    let [mut named, mut beside, mut beyond, mut sealed, mut unsigned] = std::array::from_fn(|_| good.clone());
    named.parent.author = slot.0 + 1;
    (beside.node, beyond.node) = (1, 15);
    sealed.parent.kind = ParentKind::Sealed;
    unsigned.parent.public = Secret::from_bytes([7; 32]).public();
    for (count, fill) in [named, beside, beyond, sealed, unsigned].into_iter().enumerate() {
        lie.tell(fill, &[manager]);
        let blank = lie.is_blank_at(manager);
        assert!(blank, "fill {count}");
    }
    let objection = Objection { header, node: 1, public: good.parent.public };
    let bytes = lie.say(&objection);
    lie.net.inject(manager, &bytes);
    let signature = lie.net.devices[manager].machine.counters().signature;
    // The parent beside is keyed: nothing is looked at.
    assert_eq!((refused(&lie.net) - before, signature), (4, 1));
    // Fills of another epoch, and wishes of who is not transaction manager, are passed over.
    let bytes = lie.say(&Fills { header: Hash([1; 32]), fills: List::new(vec![good]).unwrap() });
    lie.net.inject(manager, &bytes);
    let bytes = lie.say(&FillsWanted { header, nodes: List::new(vec![13]).unwrap() });
    lie.net.inject(manager, &bytes);
    assert!(lie.is_blank_at(manager));
    quiet(&mut lie.net);
    assert_eq!(lie.net.devices[manager].machine.fillable_parents(), 0);
}
