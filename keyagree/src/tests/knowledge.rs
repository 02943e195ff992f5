//! Random histories of commits on real keys: everybody agrees, and who is not in cannot know.
//!
//! What a set of outsiders can derive follows from the public tree alone: whoever holds the secret of a node's public
//! key holds those of the parents that come from it. Outsiders collude, and keep all that they ever held.

use std::collections::{BTreeMap, BTreeSet};

use muster_certs::{Author, SigningKey};
use muster_wire::mike::{CommitBody, Fill, Parent, ParentKind};
use muster_wire::{GroupTag, List, MemberId, Signature};
use proptest::prelude::*;

use crate::commit::{Changes, apply_fill, key_path, put_path};
use crate::own::OwnLeaves;
use crate::roster::Roster;
use crate::secret::{Secret, SecretSource, agreed, lifted};
use crate::tree::{LeafNode, Node, PathSecrets, Slot, Tree, child};

type Public = [u8; 32];

struct Device {
    author: Author,
    own: OwnLeaves,
    /// The newest leaf secret.
    secret: Option<Secret>,
    /// Public keys whose secrets it ever held.
    held: BTreeSet<Public>,
}

struct History {
    source: SecretSource,
    roster: Roster,
    devices: Vec<Device>,
    tree: Tree,
    epoch: u64,
    /// Every epoch: the tree and who was in.
    past: Vec<(Tree, BTreeSet<usize>)>,
    /// Since the last commit, children first.
    fills: Vec<Fill>,
    sealed: usize,
}

const DEVICES: usize = 14;

fn id(device: usize) -> MemberId {
    MemberId([device as u8 + 1; 32])
}

impl History {
    fn new(seed: u64) -> History {
        let group = GroupTag([3; 16]);
        let keys: Vec<SigningKey> = (0..DEVICES).map(|n| SigningKey::from_seed(&[n as u8 + 1; 32])).collect();
        let mut roster = Roster::new(group, id(0), keys[0].public());
        for (device, key) in keys.iter().enumerate().skip(1) {
            roster.up(id(device), key.public(), 1, super::address(device));
        }
        let devices = keys
            .into_iter()
            .enumerate()
            .map(|(n, key)| Device {
                author: Author::new(key, group, id(n), 1),
                own: OwnLeaves::default(),
                secret: None,
                held: BTreeSet::new(),
            })
            .collect();
        let mut seed_bytes = [0; 32];
        seed_bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let tree = Tree::new(group, 1).unwrap();
        let mut history = History {
            source: SecretSource::new(Secret::from_bytes(seed_bytes)),
            roster,
            devices,
            tree,
            epoch: 1,
            past: vec![],
            fills: vec![],
            sealed: 0,
        };
        let leaf = history.fresh(0);
        history.tree.set_leaf(Slot(0), leaf);
        history.record();
        history
    }

    fn fresh(&mut self, device: usize) -> LeafNode {
        let Device { author, own, secret, held, .. } = &mut self.devices[device];
        let (leaf, new) = own.fresh(author, &mut self.source).unwrap();
        held.insert(leaf.leaf.public);
        *secret = Some(new);
        leaf
    }

    fn members(&self) -> BTreeSet<usize> {
        (0..DEVICES).filter(|device| self.tree.slot_of(&id(*device)).is_some()).collect()
    }

    /// Members key blank parents, each with the chance of `some` in 256; they learn what they compute.
    fn fill(&mut self, mut some: impl FnMut() -> bool) {
        let mut tree = self.tree.clone();
        for level in 1..=tree.slots().trailing_zeros() {
            let blank: Vec<_> = tree.parents().filter(|p| p.level() == level && tree.is_fillable(*p)).collect();
            for index in blank.into_iter().filter(|_| some()) {
                let below: Vec<Slot> =
                    tree.members().map(|(slot, _)| slot).filter(|slot| slot.is_below(Node::Parent(index))).collect();
                let mut records = BTreeSet::new();
                for slot in &below {
                    let device = (0..DEVICES).find(|d| tree.slot_of(&id(*d)) == Some(*slot)).unwrap();
                    let secret = self.devices[device].secret.clone().unwrap();
                    let path = tree.path_secrets(*slot, &secret, &PathSecrets::default()).unwrap();
                    let (kind, source) = tree.kind_of(index, *slot);
                    let own = path.get(child(index, source)).unwrap();
                    let secret = match kind {
                        ParentKind::Agreed => {
                            let (left, right) =
                                (tree.public(index.left()).unwrap(), tree.public(index.right()).unwrap());
                            agreed(tree.group(), index, own, slot.is_below(index.left()), left, right).unwrap()
                        }
                        ParentKind::Lifted => lifted(tree.group(), index, own),
                        ParentKind::Sealed => panic!("fills need no ciphertext"),
                    };
                    let public = secret.public();
                    self.devices[device].held.insert(public);
                    records.insert((kind, public));
                }
                assert_eq!(records.len(), 1, "all below compute the same");
                let (kind, public) = records.pop_first().unwrap();
                let author = below[0];
                let source = tree.kind_of(index, author).1;
                let signature = Signature([0; 64]);
                let mut parent = Parent { kind, epoch: self.epoch, source, public, author: author.0, signature };
                let device = (0..DEVICES).find(|d| tree.slot_of(&id(*d)) == Some(author)).unwrap();
                parent.signature = tree.sign_parent(index, &parent, self.devices[device].author.key()).unwrap();
                let fill = Fill { node: index.number(), parent };
                apply_fill(&mut tree, &fill, &self.roster).unwrap();
                self.fills.push(fill);
            }
        }
    }

    /// What the next commit knows of the fills: some, closed downwards.
    fn take_fills(&mut self, mut knows: impl FnMut() -> bool) -> Vec<Fill> {
        let mut tree = self.tree.clone();
        let known = std::mem::take(&mut self.fills).into_iter().filter(|_| knows());
        known.filter(|fill| apply_fill(&mut tree, fill, &self.roster).is_ok()).collect()
    }

    fn commit(&mut self, tm: usize, removed: &[usize], joined: &[usize]) {
        self.commit_all(tm, removed, &[], joined, vec![]);
    }

    fn commit_all(&mut self, tm: usize, removed: &[usize], refreshed: &[usize], joined: &[usize], fills: Vec<Fill>) {
        self.epoch += 1;
        self.fills.clear();
        let base = self.tree.clone();
        let mut removed: Vec<Slot> = removed.iter().map(|device| base.slot_of(&id(*device)).unwrap()).collect();
        removed.sort();
        let refreshed = refreshed.iter().map(|device| self.fresh(*device)).collect();
        let joined = joined.iter().map(|device| self.fresh(*device)).collect();
        let leaf = self.fresh(tm);
        let changes = Changes { fills, removed, refreshed, joined, leaf };
        let (mut tree, slot) = changes.apply(&base, &self.roster).unwrap();
        let secret = self.devices[tm].secret.clone().unwrap();
        let key = self.devices[tm].author.key().clone();
        let keyed = key_path(&mut tree, slot, &secret, self.epoch, &key, &mut self.source).unwrap();
        self.sealed += keyed.ciphertexts.len();

        // A reader gets the same tree from what is sent.
        let body = CommitBody {
            path: keyed.path,
            ephemeral: keyed.ephemeral,
            ciphertexts: List::new(keyed.ciphertexts).unwrap(),
            ..CommitBody::default()
        };
        let (mut read, read_slot) = changes.apply(&base, &self.roster).unwrap();
        put_path(&mut read, read_slot, &body, self.epoch, &self.roster).unwrap();
        assert_eq!(read.hash(), tree.hash());
        assert_eq!(read, tree);
        self.tree = tree;
        self.record();
    }

    /// Everybody computes the secrets above its leaf, from nothing but the tree and the leaf's secret.
    fn record(&mut self) {
        let members = self.members();
        let mut roots = BTreeSet::new();
        for device in &members {
            let slot = self.tree.slot_of(&id(*device)).unwrap();
            let secret = self.devices[*device].secret.clone().unwrap();
            let path = self.tree.path_secrets(slot, &secret, &PathSecrets::default()).unwrap();
            let nodes = std::iter::once(Node::Leaf(slot)).chain(slot.path(self.tree.slots()).map(Node::Parent));
            for node in nodes.filter(|node| path.get(*node).is_some()) {
                self.devices[*device].held.insert(*self.tree.public(node).unwrap());
            }
            roots.insert(path.get(Node::root(self.tree.slots())).unwrap().to_hash());
        }
        assert_eq!(roots.len(), 1, "members disagree");
        let slots = self.tree.slots();
        assert!(slots == 1 || self.tree.members().last().unwrap().0.0 >= slots / 2, "larger than it need be");
        self.past.push((self.tree.clone(), members));
    }

    /// Whoever captures a device now learns no epoch before its last fresh leaf.
    fn check_capture(&self, fresh_since: &[usize]) {
        for (device, since) in fresh_since.iter().enumerate() {
            let Some(slot) = self.tree.slot_of(&id(device)) else { continue };
            let secret = self.devices[device].secret.clone().unwrap();
            let path = self.tree.path_secrets(slot, &secret, &PathSecrets::default()).unwrap();
            let nodes = std::iter::once(Node::Leaf(slot)).chain(slot.path(self.tree.slots()).map(Node::Parent));
            let now: BTreeSet<Public> =
                nodes.filter(|node| path.get(*node).is_some()).map(|node| *self.tree.public(node).unwrap()).collect();
            for (tree, _) in &self.past[..*since] {
                assert!(!reachable(tree, &now).contains(&Node::root(tree.slots())), "a capture reveals the past");
            }
        }
    }

    /// Nobody outside an epoch, with all others outside it, all they ever held, later too, reaches its root.
    fn check_secrecy(&self) {
        let mut outsiders: BTreeMap<BTreeSet<usize>, BTreeSet<Public>> = BTreeMap::new();
        for (tree, members) in &self.past {
            let held = outsiders.entry(members.clone()).or_insert_with(|| {
                (0..DEVICES).filter(|d| !members.contains(d)).flat_map(|d| self.devices[d].held.clone()).collect()
            });
            let reach = reachable(tree, held);
            assert!(!reach.contains(&Node::root(tree.slots())), "outsiders reach the root");
        }
    }
}

/// The nodes whose secrets follow from those of `held`.
fn reachable(tree: &Tree, held: &BTreeSet<Public>) -> BTreeSet<Node> {
    let knows = |node: Node, found: &BTreeSet<Node>| {
        found.contains(&node) || tree.public(node).is_some_and(|public| held.contains(public))
    };
    let mut found: BTreeSet<Node> =
        tree.members().map(|(slot, _)| Node::Leaf(slot)).filter(|leaf| knows(*leaf, &BTreeSet::new())).collect();
    // Parents have higher levels than their children, so as many rounds as levels suffice.
    for _ in 0..=tree.slots().trailing_zeros() {
        for (index, node) in tree.keyed_parents() {
            let record = &node.record;
            let from_children = match record.kind {
                ParentKind::Agreed => knows(index.left(), &found) || knows(index.right(), &found),
                ParentKind::Lifted | ParentKind::Sealed => knows(child(index, record.source), &found),
            };
            let opened = node
                .sealed
                .iter()
                .flat_map(|sealed| sealed.ciphertexts.iter())
                .any(|ciphertext| knows(Node::from_number(ciphertext.recipient), &found));
            if from_children || opened || knows(Node::Parent(index), &found) {
                found.insert(Node::Parent(index));
            }
        }
    }
    found
}

#[derive(Clone, Debug)]
struct Step {
    tm: prop::sample::Index,
    removed: Vec<prop::sample::Index>,
    refreshed: Vec<prop::sample::Index>,
    joined: Vec<prop::sample::Index>,
    /// Which blank parents are filled, and which fills the next commit knows: one bit each, over and over.
    fills: (u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let some = || prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    (any::<prop::sample::Index>(), some(), some(), some(), any::<(u64, u64)>())
        .prop_map(|(tm, removed, refreshed, joined, fills)| Step { tm, removed, refreshed, joined, fills })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn members_agree_and_outsiders_never_know(seed in any::<u64>(), steps in prop::collection::vec(step(), 1..18)) {
        let mut history = History::new(seed);
        // The epoch (by its place in the past) since when each device has had its leaf.
        let mut fresh_since = vec![0; DEVICES];
        let bits = |mut pattern: u64| move || {
            pattern = pattern.rotate_left(1);
            pattern & 1 == 1
        };
        for step in steps {
            history.fill(bits(step.fills.0));
            let fills = history.take_fills(bits(step.fills.1));
            let members: Vec<usize> = history.members().into_iter().collect();
            let tm = *step.tm.get(&members);
            let removed: BTreeSet<usize> =
                step.removed.iter().map(|index| *index.get(&members)).filter(|device| *device != tm).collect();
            let outside: Vec<usize> = (0..DEVICES).filter(|device| !members.contains(device)).collect();
            let joined: BTreeSet<usize> = match outside.is_empty() {
                true => BTreeSet::new(),
                false => step.joined.iter().map(|index| *index.get(&outside)).collect(),
            };
            let refreshed: BTreeSet<usize> = step
                .refreshed
                .iter()
                .map(|index| *index.get(&members))
                .filter(|device| *device != tm && !removed.contains(device))
                .collect();
            for device in refreshed.iter().chain(&joined).chain([&tm]) {
                fresh_since[*device] = history.past.len();
            }
            let all = |set: BTreeSet<usize>| set.into_iter().collect::<Vec<_>>();
            history.commit_all(tm, &all(removed), &all(refreshed), &all(joined), fills);
            history.check_capture(&fresh_since);
        }
        history.check_secrecy();
    }
}

#[test]
fn the_check_of_secrecy_sees_a_leak() {
    let mut history = History::new(1);
    history.commit(0, &[], &[1, 2, 3]);
    history.commit(0, &[3], &[]);
    history.check_secrecy();
    // What a member holds, leaked to the excluded one.
    let leaked = history.devices[1].held.clone();
    history.devices[3].held.extend(leaked);
    let leak = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| history.check_secrecy()));
    assert!(leak.is_err());
}

#[test]
fn all_three_kinds_of_parents_occur() {
    let mut history = History::new(2);
    history.commit(0, &[], &[1, 2, 3, 4]);
    history.commit(3, &[1], &[]);
    history.commit(4, &[], &[]);
    let kinds: BTreeSet<ParentKind> = history
        .past
        .iter()
        .flat_map(|(tree, _)| tree.keyed_parents().map(|(_, n)| n.record.kind).collect::<Vec<_>>())
        .collect();
    assert_eq!(kinds.len(), 3, "{kinds:?}");
    assert!(history.sealed > 0);
}
