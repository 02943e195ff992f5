//! The tree: who is in, and which public keys lead to the root.

mod index;
mod path;

use std::sync::Arc;

use muster_certs::SigningKey;
use muster_wire::mike::{Leaf, MAX_SLOTS, Parent, ParentKind, SealedSecrets, Side};
use muster_wire::{GroupTag, Hash, MemberId, Signature, Signed, codec};

pub(crate) use index::{Node, ParentIndex, Slot};
pub(crate) use path::PathSecrets;

use crate::Refusal;
use crate::roster::Roster;
use crate::secret::hash;

/// Stands before what the author of a parent signs.
const PARENT_LABEL: &[u8] = b"muster 1 parent";

/// An occupied slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeafNode {
    /// As its owner signed it.
    pub(crate) signed: Signed<Leaf>,
    /// What it says.
    pub(crate) leaf: Leaf,
}

/// A keyed parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParentNode {
    /// Its record.
    pub(crate) record: Parent,
    /// Of a sealed one: its secret for the members below the blank child.
    pub(crate) sealed: Option<SealedSecrets>,
}

/// A complete binary tree of 2^d slots; every node blank or keyed. Cheap to clone: a change is staged on a clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    group: GroupTag,
    leaves: Vec<Option<Arc<LeafNode>>>,
    parents: Vec<Option<Arc<ParentNode>>>,
    /// By node number; `None` where something below has changed.
    hashes: Vec<Option<Hash>>,
}

impl Tree {
    /// `slots` empty slots; a power of two, at most [`MAX_SLOTS`].
    pub(crate) fn new(group: GroupTag, slots: u32) -> Result<Self, Refusal> {
        if !slots.is_power_of_two() || slots as usize > MAX_SLOTS {
            return Err(Refusal::Rule("a tree's size is a power of two within the limits"));
        }
        let slots = slots as usize;
        Ok(Self { group, leaves: vec![None; slots], parents: vec![None; slots - 1], hashes: vec![None; 2 * slots - 1] })
    }

    /// Slots, empty ones too.
    pub(crate) fn slots(&self) -> u32 {
        self.leaves.len() as u32
    }

    /// Which group's.
    pub(crate) fn group(&self) -> GroupTag {
        self.group
    }

    /// The occupied slots, rising.
    pub(crate) fn members(&self) -> impl Iterator<Item = (Slot, &LeafNode)> {
        self.leaves.iter().enumerate().filter_map(|(slot, leaf)| Some((Slot(slot as u32), leaf.as_deref()?)))
    }

    /// How many members.
    pub(crate) fn len(&self) -> usize {
        self.members().count()
    }

    /// A member's slot.
    pub(crate) fn slot_of(&self, member: &MemberId) -> Option<Slot> {
        self.members().find(|(_, node)| node.leaf.member == *member).map(|(slot, _)| slot)
    }

    /// Whether a member has this public key.
    pub(crate) fn has_public(&self, public: &[u8; 32]) -> bool {
        self.members().any(|(_, node)| node.leaf.public == *public)
    }

    /// What is in a slot; `None` also beyond the tree.
    pub(crate) fn leaf(&self, slot: Slot) -> Option<&LeafNode> {
        self.leaves.get(slot.0 as usize)?.as_deref()
    }

    /// A keyed parent; `None` also beyond the tree.
    pub(crate) fn parent(&self, index: ParentIndex) -> Option<&Arc<ParentNode>> {
        self.parents.get(index.number() as usize / 2)?.as_ref()
    }

    /// The keyed parents, rising.
    pub(crate) fn keyed_parents(&self) -> impl Iterator<Item = (ParentIndex, &ParentNode)> {
        let slots = self.slots();
        self.parents.iter().enumerate().filter_map(move |(position, parent)| {
            Some((ParentIndex::new(2 * position as u32 + 1, slots)?, parent.as_deref()?))
        })
    }

    /// A node's public key; `None` when blank.
    pub(crate) fn public(&self, node: Node) -> Option<&[u8; 32]> {
        match node {
            Node::Leaf(slot) => self.leaf(slot).map(|node| &node.leaf.public),
            Node::Parent(index) => self.parent(index).map(|node| &node.record.public),
        }
    }

    /// Whether there is a member below (or at) `node`.
    pub(crate) fn is_occupied(&self, node: Node) -> bool {
        let (first, last) = node.slots();
        (first..=last).any(|slot| self.leaf(Slot(slot)).is_some())
    }

    /// The keyed nodes that together cover all members below `node` (RFC 9420, 4.1.1).
    pub(crate) fn resolution(&self, node: Node) -> Vec<Node> {
        match node {
            _ if self.public(node).is_some() => vec![node],
            Node::Leaf(_) => vec![],
            Node::Parent(index) => {
                let mut nodes = self.resolution(index.left());
                nodes.extend(self.resolution(index.right()));
                nodes
            }
        }
    }

    /// Puts a leaf into a slot and blanks the path above; the tree must be large enough.
    pub(crate) fn set_leaf(&mut self, slot: Slot, node: LeafNode) {
        self.blank_path(slot);
        self.leaves[slot.0 as usize] = Some(Arc::new(node));
    }

    /// Empties a slot and blanks the path above.
    pub(crate) fn remove(&mut self, slot: Slot) {
        self.blank_path(slot);
        self.leaves[slot.0 as usize] = None;
    }

    /// Keys a parent, which must be within the tree.
    pub(crate) fn set_parent(&mut self, index: ParentIndex, node: Arc<ParentNode>) {
        self.parents[index.number() as usize / 2] = Some(node);
        let (first, _) = Node::Parent(index).slots();
        self.forget_hashes(Slot(first));
    }

    /// Blanks a parent. What is keyed from it is the caller's to blank.
    pub(crate) fn blank(&mut self, index: ParentIndex) {
        self.parents[index.number() as usize / 2] = None;
        let (first, _) = Node::Parent(index).slots();
        self.forget_hashes(Slot(first));
    }

    /// Whether a parent is blank and can be keyed without a ciphertext: every child with members below is keyed.
    pub(crate) fn is_fillable(&self, index: ParentIndex) -> bool {
        let ready = |child| self.public(child).is_some() || !self.is_occupied(child);
        self.parent(index).is_none()
            && (self.public(index.left()).is_some() || self.public(index.right()).is_some())
            && ready(index.left())
            && ready(index.right())
    }

    /// All parents of the tree, rising.
    pub(crate) fn parents(&self) -> impl Iterator<Item = ParentIndex> {
        let slots = self.slots();
        (0..slots - 1).filter_map(move |position| ParentIndex::new(2 * position + 1, slots))
    }

    /// The lowest occupied slot below a node.
    pub(crate) fn leftmost(&self, node: Node) -> Option<Slot> {
        let (first, last) = node.slots();
        (first..=last).map(Slot).find(|slot| self.leaf(*slot).is_some())
    }

    /// Halves the tree while its right half is empty.
    pub(crate) fn halve(&mut self) {
        while let Node::Parent(root) = Node::root(self.slots()) {
            if self.is_occupied(root.right()) {
                return;
            }
            let slots = self.leaves.len() / 2;
            self.leaves.truncate(slots);
            self.parents.truncate(slots - 1);
            self.hashes.truncate(2 * slots - 1);
        }
    }

    /// The leftmost empty slot; the tree doubles when there is none.
    pub(crate) fn free_slot(&mut self) -> Result<Slot, Refusal> {
        if let Some(free) = self.leaves.iter().position(Option::is_none) {
            return Ok(Slot(free as u32));
        }
        let slots = self.leaves.len();
        if slots * 2 > MAX_SLOTS {
            return Err(Refusal::Rule("the group is full"));
        }
        self.leaves.resize(slots * 2, None);
        self.parents.resize(slots * 2 - 1, None);
        self.hashes.resize(slots * 4 - 1, None);
        Ok(Slot(slots as u32))
    }

    /// How a parent on the path of the member below `child` is to be keyed, and from which side: agreed when the other
    /// child is keyed, lifted when nobody is below it, else sealed.
    pub(crate) fn kind_of(&self, index: ParentIndex, slot: Slot) -> (ParentKind, Side) {
        let side = if slot.is_below(index.left()) { Side::Left } else { Side::Right };
        let other = child(index, opposite(side));
        let kind = match self.public(other) {
            Some(_) => ParentKind::Agreed,
            None if self.is_occupied(other) => ParentKind::Sealed,
            None => ParentKind::Lifted,
        };
        (kind, side)
    }

    /// Hash over all nodes; costs only what changed since the last time.
    pub(crate) fn hash(&mut self) -> Hash {
        self.node_hash(Node::root(self.slots()))
    }

    /// The author's signature for a parent whose children are in place.
    pub(crate) fn sign_parent(
        &self,
        index: ParentIndex,
        record: &Parent,
        key: &SigningKey,
    ) -> Result<Signature, Refusal> {
        Ok(key.sign(PARENT_LABEL, &self.parent_bytes(index, record)?))
    }

    /// Checks the signature of a parent whose children are in place, and that its author is below it.
    pub(crate) fn check_parent(&self, index: ParentIndex, record: &Parent, roster: &Roster) -> Result<(), Refusal> {
        let author = self.leaf(Slot(record.author)).ok_or(Refusal::NotMember)?.leaf.member;
        if !Slot(record.author).is_below(Node::Parent(index)) {
            return Err(Refusal::Rule("the author of a parent is below it"));
        }
        let bytes = self.parent_bytes(index, record)?;
        roster.check_signature(&roster.leaf_key(&author)?, PARENT_LABEL, &bytes, &record.signature)
    }

    /// What a parent's author signs: where it is, how it was keyed, from which public keys. The other child of a
    /// lifted or sealed parent was blank when it was keyed (a fill may key it later) and counts as zero.
    fn parent_bytes(&self, index: ParentIndex, record: &Parent) -> Result<Vec<u8>, Refusal> {
        let public = |side| {
            if record.kind != ParentKind::Agreed && side != record.source {
                return Ok([0; 32]);
            }
            self.public(child(index, side)).copied().ok_or(Refusal::Rule("a parent is keyed from keyed children"))
        };
        let (left, right) = (public(Side::Left)?, public(Side::Right)?);
        let parts = (self.group, index.number(), record.kind, record.epoch, record.source);
        Ok(codec::encode(&(parts, record.author, left, right, record.public, self.below(index)))?)
    }

    /// Who is below a parent, and with which key: else a sealed parent could be carried to a place where others are
    /// below the child that was blank. Fills change nothing here.
    pub(crate) fn below(&self, index: ParentIndex) -> Hash {
        let (first, last) = Node::Parent(index).slots();
        let leaves: Vec<u8> = (first..=last)
            .filter_map(|slot| Some((slot, self.leaf(Slot(slot))?)))
            .flat_map(|(slot, node)| slot.to_be_bytes().into_iter().chain(node.leaf.public))
            .collect();
        hash("below", &[&leaves])
    }

    fn node_hash(&mut self, node: Node) -> Hash {
        if let Some(known) = self.hashes[node.number() as usize] {
            return known;
        }
        let number = node.number().to_be_bytes();
        let value = match node {
            Node::Leaf(slot) => match self.leaf(slot) {
                None => hash("blank leaf", &[&number]),
                Some(node) => hash("leaf", &[&number, node.signed.signed_bytes(), &node.signed.signature().0]),
            },
            Node::Parent(index) => {
                let (left, right) = (self.node_hash(index.left()), self.node_hash(index.right()));
                match self.parent(index) {
                    None => hash("blank parent", &[&number, &left.0, &right.0]),
                    Some(node) => {
                        // Encoding fails only for what is larger than any message, and these came out of one.
                        let record = codec::encode(&node.record).unwrap_or_default();
                        let sealed = codec::encode(&node.sealed).unwrap_or_default();
                        hash("parent", &[&number, &record, &sealed, &left.0, &right.0])
                    }
                }
            }
        };
        self.hashes[node.number() as usize] = Some(value);
        value
    }

    fn blank_path(&mut self, slot: Slot) {
        for index in slot.path(self.slots()) {
            self.parents[index.number() as usize / 2] = None;
        }
        self.forget_hashes(slot);
    }

    fn forget_hashes(&mut self, slot: Slot) {
        self.hashes[slot.0 as usize * 2] = None;
        for index in slot.path(self.slots()) {
            self.hashes[index.number() as usize] = None;
        }
    }
}

/// A parent's child on one side.
pub(crate) fn child(index: ParentIndex, side: Side) -> Node {
    match side {
        Side::Left => index.left(),
        Side::Right => index.right(),
    }
}

/// The other side.
pub(crate) fn opposite(side: Side) -> Side {
    match side {
        Side::Left => Side::Right,
        Side::Right => Side::Left,
    }
}
