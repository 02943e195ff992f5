//! The keys of one member.

use thiserror::Error;

use super::download::Download;
use super::joining::Joins;
use super::key::{Key, Node};
use super::node::{NodeId, Place};
use super::update::Update;

/// What a member holds: the keys on the way from its leaf to the root.
pub struct MemberPath {
    place: Place,
    /// By level, the leaf first: 2 to 16.
    nodes: Vec<Node>,
}

/// Why a member's keys do not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PathError {
    /// It has this change, or a later one.
    #[error("version {got} is here or past: we hold {held}")]
    Known {
        /// The version of the keys held.
        held: u32,
        /// The version that came.
        got: u32,
    },
    /// Changes before this one are missing.
    #[error("version {got} comes too early: we hold {held}")]
    Missed {
        /// The version of the keys held.
        held: u32,
        /// The version that came.
        got: u32,
    },
    /// This part of the update is for others; another one is for us.
    #[error("for members below node {0}, of whom we are none")]
    Elsewhere(NodeId),
    /// The update is for us and has no key for us: we are excluded.
    #[error("no key for us: we are excluded")]
    Excluded,
    /// What is wrapped under this node does not open with the key that we hold.
    #[error("the key under node {0} does not open")]
    Sealed(NodeId),
    /// The tree would grow by an exclusion, or a newcomer would sit on our place.
    #[error("it contradicts the tree that we know")]
    Contradiction,
}

impl MemberPath {
    /// From what the key server sent to this member alone.
    pub fn new(download: Download) -> Self {
        let Download { place, nodes } = download;
        Self { place, nodes }
    }

    /// Where the member sits.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The version of the tree as far as this member knows.
    pub fn version(&self) -> u32 {
        self.root().version
    }

    /// What all members share and nobody else.
    pub fn root(&self) -> &Node {
        self.nodes.last().expect("a path has a root")
    }

    #[cfg(test)]
    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Takes an update, or the part of it that is for this member. On an error nothing has changed.
    pub fn apply(&mut self, update: &Update) -> Result<(), PathError> {
        self.expect_next(update.version)?;
        if update.depth > self.depth() {
            return Err(PathError::Contradiction);
        }
        let moved = update.moves.iter().find(|moved| moved.from == self.place);
        let place = moved.map_or(self.place, |moved| moved.to);
        let leaf = place.leaf().filter(|leaf| place.is_within(update.depth) && update.scope.covers(*leaf));
        let leaf = leaf.ok_or(PathError::Elsewhere(update.scope))?;
        // Who moves holds nothing of the new way but its own key.
        let held = if moved.is_some() { &self.nodes[..1] } else { &self.nodes[..] };
        let renewed = climb(update, leaf, held)?;
        if moved.is_some() {
            self.place = place;
            // As in the server's tree, where a leaf has the version since which its member sits there.
            self.nodes[0].version = update.version;
        }
        self.replace_above(update.depth, renewed, update.version);
        Ok(())
    }

    /// Takes an announcement of newcomers. On an error nothing has changed.
    pub fn apply_joins(&mut self, joins: &Joins) -> Result<(), PathError> {
        self.expect_next(joins.version)?;
        if joins.places().contains(&self.place) {
            return Err(PathError::Contradiction);
        }
        let leaf = NodeId(2 * self.place.0);
        for (level, node) in (0..).zip(&mut self.nodes).skip(1) {
            let id = leaf.ancestor(level);
            if joins.renews(id) {
                *node = Node { key: node.key.derive_joined(id, joins.version), version: joins.version };
            }
        }
        for level in self.depth() + 1..=joins.depth(self.depth()) {
            let key = self.root().key.derive_parent(leaf.ancestor(level), joins.version);
            self.nodes.push(Node { key, version: joins.version });
        }
        Ok(())
    }

    fn expect_next(&self, got: u32) -> Result<(), PathError> {
        let held = self.version();
        match held.checked_add(1) {
            Some(next) if got == next => Ok(()),
            Some(next) if got > next => Err(PathError::Missed { held, got }),
            _ => Err(PathError::Known { held, got }),
        }
    }

    fn depth(&self) -> u8 {
        self.nodes.len() as u8 - 1
    }

    /// Puts the renewed keys in, which are the topmost of a tree of this depth.
    fn replace_above(&mut self, depth: u8, renewed: Vec<Key>, version: u32) {
        self.nodes.truncate(usize::from(depth) + 1 - renewed.len());
        self.nodes.extend(renewed.into_iter().map(|key| Node { key, version }));
    }
}

/// The renewed keys above a leaf, the root's last. From the first that an item brings, each is brought by an item or
/// derived from the one below.
fn climb(update: &Update, leaf: NodeId, held: &[Node]) -> Result<Vec<Key>, PathError> {
    let mut renewed: Vec<Key> = Vec::new();
    for level in 0..update.depth {
        let id = leaf.ancestor(level);
        let own = renewed.last().or(held.get(usize::from(level)).map(|node| &node.key));
        let key = match (update.item(id), own) {
            (Some(item), Some(own)) => {
                Some(own.unwrap(id, update.version, &item.wrapped).ok_or(PathError::Sealed(id))?)
            }
            _ => renewed.last().map(|below| below.derive_parent(id.parent(), update.version)),
        };
        renewed.extend(key);
    }
    if renewed.is_empty() { Err(PathError::Excluded) } else { Ok(renewed) }
}
