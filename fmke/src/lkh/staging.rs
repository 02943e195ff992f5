//! A change of the tree before it is made.

use std::collections::{BTreeMap, BTreeSet};

use super::key::{Key, Node};
use super::node::NodeId;
use super::tree::{KeyTree, TreeError};
use super::update::Move;

/// A change that is computed and not yet made: store it, then [`KeyTree::commit`] it, then tell the members. When the
/// store fails, drop it: nothing has happened, and the next change takes its version.
pub struct Change {
    pub(super) version: u32,
    pub(super) depth: u8,
    pub(super) nodes: BTreeMap<NodeId, Option<Node>>,
    pub(super) moves: Vec<Move>,
}

impl Change {
    /// The version of the tree when the change is made.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The depth of the tree when the change is made.
    pub fn depth(&self) -> u8 {
        self.depth
    }

    /// What to store: the nodes that are set, and those that go (`None`).
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, Option<&Node>)> {
        self.nodes.iter().map(|(id, node)| (*id, node.as_ref()))
    }

    /// The members that sit elsewhere when the change is made.
    pub fn moves(&self) -> &[Move] {
        &self.moves
    }
}

/// The tree as it will be, while the change is computed.
pub(super) struct Staging<'a> {
    tree: &'a KeyTree,
    pub(super) change: Change,
    /// Inner nodes whose keys are to be renewed, by level, so that children come before parents.
    stale: BTreeSet<(u8, NodeId)>,
}

impl<'a> Staging<'a> {
    pub(super) fn new(tree: &'a KeyTree, depth: u8) -> Result<Self, TreeError> {
        let version = tree.version().checked_add(1).ok_or(TreeError::Exhausted)?;
        let change = Change { version, depth, nodes: BTreeMap::new(), moves: Vec::new() };
        let stale = BTreeSet::from([(depth, NodeId::root(depth))]);
        Ok(Self { tree, change, stale })
    }

    pub(super) fn get(&self, id: NodeId) -> Option<&Node> {
        match self.change.nodes.get(&id) {
            Some(changed) => changed.as_ref(),
            None => self.tree.node(id),
        }
    }

    pub(super) fn set(&mut self, id: NodeId, key: Key) {
        self.change.nodes.insert(id, Some(Node { key, version: self.change.version }));
    }

    pub(super) fn clear(&mut self, id: NodeId) {
        self.change.nodes.insert(id, None);
    }

    /// Everything above `id` is to be renewed.
    pub(super) fn mark_above(&mut self, id: NodeId) {
        self.stale.extend((id.level() + 1..=self.change.depth).map(|level| (level, id.ancestor(level))));
    }

    /// The nodes to renew, from the leaves up.
    pub(super) fn stale(&self) -> Vec<NodeId> {
        self.stale.iter().map(|&(_, id)| id).collect()
    }

    pub(super) fn is_stale(&self, id: NodeId) -> bool {
        self.stale.contains(&(id.level(), id))
    }
}
