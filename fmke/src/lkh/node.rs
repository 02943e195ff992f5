//! The numbers of nodes. Leaves have even numbers, and a node lies between its children, as in the trees of RFC 9420
//! (appendix C): a number stays when the tree doubles, parent and children are arithmetic, and a tree of 32,768 leaves
//! needs 65,535 numbers, which fit the two octets of GDOI's LKH ID (RFC 6407, section 5.6.3.1).
//!
//! ```text
//! level 2            3
//! level 1       1         5
//! level 0     0   2     4   6        (places 0, 1, 2, 3)
//! ```

use std::fmt;

/// The most levels above the leaves.
pub const MAX_DEPTH: u8 = 15;

/// The most members of a group.
pub const MAX_MEMBERS: usize = 1 << MAX_DEPTH;

/// Where a member sits: the index of its leaf, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(pub u16);

impl Place {
    /// The member's leaf; `None` beyond the largest tree.
    pub fn leaf(self) -> Option<NodeId> {
        self.0.checked_mul(2).map(NodeId)
    }

    /// Whether a tree of this depth has the place.
    pub(super) fn is_within(self, depth: u8) -> bool {
        u32::from(self.0) < 1 << depth
    }
}

/// A node's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl NodeId {
    /// The root of a tree of this depth, of at most [`MAX_DEPTH`].
    pub(super) fn root(depth: u8) -> Self {
        Self(u16::MAX >> (16 - depth))
    }

    /// How many levels lie below: 0 for a leaf.
    pub(super) fn level(self) -> u8 {
        self.0.trailing_ones() as u8
    }

    /// Whether a tree of this depth has the node.
    pub(super) fn is_within(self, depth: u8) -> bool {
        u32::from(self.0) < (2 << depth) - 1
    }

    /// The node of that level, of at most [`MAX_DEPTH`], on the way from here to the root.
    pub(super) fn ancestor(self, level: u8) -> Self {
        Self((u32::from(self.0) >> (level + 1) << (level + 1)) as u16 | Self::root_bits(level))
    }

    /// The node above, for any but the root of the largest tree.
    pub(super) fn parent(self) -> Self {
        self.ancestor(self.level() + 1)
    }

    /// The two nodes below, left one first; for any but a leaf.
    pub(super) fn children(self) -> [Self; 2] {
        let half = 1 << (self.level() - 1);
        [Self(self.0 - half), Self(self.0 + half)]
    }

    /// Whether `other` is this node or lies below it.
    pub(super) fn covers(self, other: Self) -> bool {
        self.0.abs_diff(other.0) <= Self::root_bits(self.level())
    }

    /// The first of the nodes that this one covers: a leaf.
    pub(super) fn leftmost(self) -> Self {
        Self(self.0 - Self::root_bits(self.level()))
    }

    /// The place of a leaf.
    pub(super) fn place(self) -> Option<Place> {
        self.0.is_multiple_of(2).then_some(Place(self.0 / 2))
    }

    fn root_bits(level: u8) -> u16 {
        (1 << level) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_of_rfc_9420_appendix_c() {
        let ids = |ids: &[u16]| ids.iter().map(|&id| NodeId(id)).collect::<Vec<_>>();
        assert_eq!((1..5).map(NodeId::root).collect::<Vec<_>>(), ids(&[1, 3, 7, 15]));
        assert_eq!((0..7).map(|id| NodeId(id).parent()).collect::<Vec<_>>(), ids(&[1, 3, 1, 7, 5, 3, 5]));
        assert_eq!(NodeId(7).children(), [NodeId(3), NodeId(11)]);
        assert_eq!(NodeId(5).children(), [NodeId(4), NodeId(6)]);
        assert_eq!((0..4).map(|level| NodeId(12).ancestor(level)).collect::<Vec<_>>(), ids(&[12, 13, 11, 7]));
    }

    #[test]
    fn the_largest_tree_fits_two_octets() {
        let (root, last) = (NodeId::root(MAX_DEPTH), Place(32_767).leaf().unwrap());
        assert_eq!((root, last), (NodeId(32_767), NodeId(65_534)));
        assert!(last.is_within(MAX_DEPTH) && !NodeId(65_535).is_within(MAX_DEPTH));
        assert_eq!(last.ancestor(MAX_DEPTH), root);
        assert_eq!(Place(32_768).leaf(), None);
    }

    #[test]
    fn what_covers_is_what_is_an_ancestor() {
        for below in (0..127).map(NodeId) {
            let line: Vec<_> = (below.level()..7).map(|level| below.ancestor(level)).collect();
            for above in (0..127).map(NodeId) {
                assert_eq!(above.covers(below), line.contains(&above), "{above} {below}");
            }
            if below.level() > 0 {
                assert_eq!(below.children().map(NodeId::parent), [below; 2]);
            }
        }
    }
}
