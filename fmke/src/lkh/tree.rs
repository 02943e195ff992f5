//! The tree of one group, as the key server holds it.
//!
//! The tree is one array: a node has a key if and only if a member sits below it. It doubles when it is full: the old
//! root becomes the left child of the new one. It halves as soon as it is deeper than `ceil(log2(members)) + 1`: those
//! who sit in the half that goes move to free places in the other, in the update that excludes (see `exclusion`). So the
//! depth keeps within that bound after any history. (With one member it is 1: a root is never a leaf, for a leaf's key
//! is its member's alone, and the group's key is to change while it stays.)

use thiserror::Error;

use super::download::Download;
use super::key::Node;
use super::node::{MAX_DEPTH, NodeId, Place};
use super::staging::Change;

/// The keys of one group.
pub struct KeyTree {
    version: u32,
    depth: u8,
    members: usize,
    /// By number; as long as a tree of this depth.
    nodes: Vec<Option<Node>>,
}

/// Why the tree does not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TreeError {
    /// No place is left ([`MAX_MEMBERS`](super::MAX_MEMBERS)).
    #[error("the group is full")]
    Full,
    /// One announcement takes 1 to [`MAX_JOINS`](super::MAX_JOINS) newcomers.
    #[error("{0} newcomers in one announcement")]
    Newcomers(usize),
    /// Nobody sits there.
    #[error("place {} is free", .0.0)]
    Free(Place),
    /// All 2^32 versions were used.
    #[error("no version is left")]
    Exhausted,
    /// The tree changed after the change was computed.
    #[error("the change makes version {made}, and the tree has {has}")]
    Overtaken {
        /// The version that the change makes.
        made: u32,
        /// The version of the tree.
        has: u32,
    },
    /// What was stored is no tree.
    #[error("stored tree: {0}")]
    Stored(&'static str),
}

impl Default for KeyTree {
    fn default() -> Self {
        Self::new()
    }
}

impl KeyTree {
    /// A tree without members, of version 0.
    pub fn new() -> Self {
        Self { version: 0, depth: 1, members: 0, nodes: blank(1) }
    }

    /// The tree whose version, depth and nodes were stored. All nodes must be there and fit each other.
    pub fn from_nodes(
        version: u32,
        depth: u8,
        nodes: impl IntoIterator<Item = (NodeId, Node)>,
    ) -> Result<Self, TreeError> {
        if !(1..=MAX_DEPTH).contains(&depth) {
            return Err(TreeError::Stored("the depth is out of range"));
        }
        let mut tree = Self { version, depth, members: 0, nodes: blank(depth) };
        for (id, node) in nodes {
            let slot = tree.nodes.get_mut(usize::from(id.0)).ok_or(TreeError::Stored("a node outside of the tree"))?;
            if slot.replace(node).is_some() {
                return Err(TreeError::Stored("a node comes twice"));
            }
            tree.members += usize::from(id.level() == 0);
        }
        tree.check()?;
        Ok(tree)
    }

    /// What [`KeyTree::from_nodes`] expects.
    fn check(&self) -> Result<(), TreeError> {
        let root = NodeId::root(self.depth);
        for (id, node) in self.nodes() {
            if id.level() > 0 && !id.children().iter().any(|child| self.node(*child).is_some()) {
                return Err(TreeError::Stored("a node with nobody below"));
            }
            // Every change sets all keys up to the root.
            let above = if id == root { self.version } else { self.node(id.parent()).map_or(0, |node| node.version) };
            if node.version == 0 || node.version > above || (id == root && node.version < above) {
                return Err(TreeError::Stored("versions that do not fit"));
            }
        }
        Ok(())
    }

    /// The number of changes up to now.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The levels above the leaves: 1 to [`MAX_DEPTH`].
    pub fn depth(&self) -> u8 {
        self.depth
    }

    /// How many members there are.
    pub fn members(&self) -> usize {
        self.members
    }

    /// All nodes with keys, by number.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().zip(0..).filter_map(|(node, id)| Some((NodeId(id), node.as_ref()?)))
    }

    /// What all members share and nobody else; `None` without members.
    pub fn root(&self) -> Option<&Node> {
        self.node(NodeId::root(self.depth))
    }

    /// All keys that the member of this place is to hold, its own first.
    pub fn download(&self, place: Place) -> Result<Download, TreeError> {
        let leaf = place.leaf().ok_or(TreeError::Free(place))?;
        let path = (0..=self.depth).map(|level| self.node(leaf.ancestor(level)).cloned());
        Ok(Download { place, nodes: path.collect::<Option<_>>().ok_or(TreeError::Free(place))? })
    }

    /// Makes a change. It must have been computed from this tree as it is.
    pub fn commit(&mut self, change: Change) -> Result<(), TreeError> {
        if Some(change.version) != self.version.checked_add(1) {
            return Err(TreeError::Overtaken { made: change.version, has: self.version });
        }
        (self.version, self.depth) = (change.version, change.depth);
        self.nodes.resize(length_of(self.depth).max(self.nodes.len()), None);
        for (id, node) in change.nodes {
            let set = node.is_some();
            let slot = &mut self.nodes[usize::from(id.0)];
            let was = std::mem::replace(slot, node).is_some();
            if id.level() == 0 {
                self.members = self.members + usize::from(set) - usize::from(was);
            }
        }
        // When the tree halves, the change has cleared what lies beyond.
        self.nodes.truncate(length_of(self.depth));
        self.nodes.shrink_to_fit();
        Ok(())
    }

    pub(super) fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(usize::from(id.0))?.as_ref()
    }

    /// The places in order, and whether somebody sits there.
    pub(super) fn places(&self) -> impl Iterator<Item = (Place, bool)> {
        self.nodes.iter().step_by(2).zip(0..).map(|(leaf, place)| (Place(place), leaf.is_some()))
    }
}

fn length_of(depth: u8) -> usize {
    (2 << depth) - 1
}

fn blank(depth: u8) -> Vec<Option<Node>> {
    vec![None; length_of(depth)]
}
