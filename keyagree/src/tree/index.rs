//! Indices of a complete binary tree laid out in an array (RFC 9420, appendix C).
//!
//! Slot s is node 2s; parents are the odd nodes; the number of trailing ones of a node is its level. Doubling the tree
//! changes no index.

/// A place for a member, 0 to 2,047.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(pub(crate) u32);

/// A node that has children.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ParentIndex(u32);

/// Any node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Node {
    /// A leaf.
    Leaf(Slot),
    /// A parent.
    Parent(ParentIndex),
}

impl Slot {
    /// The parents from here to the root of a tree of `slots` slots, bottom up.
    pub(crate) fn path(self, slots: u32) -> impl Iterator<Item = ParentIndex> {
        let levels = slots.trailing_zeros();
        (1..=levels).map(move |level| ParentIndex(((self.0 >> level) << (level + 1)) | ((1 << level) - 1)))
    }

    /// Whether this slot is below (or is) `node`.
    pub(crate) fn is_below(self, node: Node) -> bool {
        let (first, last) = node.slots();
        (first..=last).contains(&self.0)
    }
}

impl ParentIndex {
    /// From a node number off the wire: odd, and within a tree of `slots` slots.
    pub(crate) fn new(number: u32, slots: u32) -> Option<Self> {
        (number % 2 == 1 && number < 2 * slots - 1).then_some(Self(number))
    }

    /// The node's number.
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    /// Its child with the lower slots.
    pub(crate) fn left(self) -> Node {
        Node::from_number(self.0 ^ (1 << (self.level() - 1)))
    }

    /// Its child with the higher slots.
    pub(crate) fn right(self) -> Node {
        Node::from_number(self.0 ^ (3 << (self.level() - 1)))
    }

    /// Levels above the leaves; 1 is the lowest.
    pub(crate) fn level(self) -> u32 {
        self.0.trailing_ones()
    }
}

impl Node {
    /// The node with this number.
    pub(crate) fn from_number(number: u32) -> Node {
        if number.is_multiple_of(2) { Node::Leaf(Slot(number / 2)) } else { Node::Parent(ParentIndex(number)) }
    }

    /// The root of a tree of `slots` slots.
    pub(crate) fn root(slots: u32) -> Node {
        Node::from_number(slots - 1)
    }

    /// The node's number.
    pub(crate) fn number(self) -> u32 {
        match self {
            Node::Leaf(slot) => slot.0 * 2,
            Node::Parent(parent) => parent.0,
        }
    }

    /// The first and the last slot below.
    pub(crate) fn slots(self) -> (u32, u32) {
        match self {
            Node::Leaf(slot) => (slot.0, slot.0),
            Node::Parent(parent) => {
                let half = (1 << parent.level()) - 1;
                ((parent.0 - half) / 2, (parent.0 + half) / 2)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_of_eight_slots_whole() {
        let parents: Vec<_> = (1..15)
            .step_by(2)
            .map(|n| ParentIndex::new(n, 8).unwrap())
            .map(|p| (p.number(), p.left().number(), p.right().number(), Node::Parent(p).slots()))
            .collect();
        assert_eq!(
            parents,
            [
                (1, 0, 2, (0, 1)),
                (3, 1, 5, (0, 3)),
                (5, 4, 6, (2, 3)),
                (7, 3, 11, (0, 7)),
                (9, 8, 10, (4, 5)),
                (11, 9, 13, (4, 7)),
                (13, 12, 14, (6, 7)),
            ]
        );
        let path = |slot: u32| Slot(slot).path(8).map(ParentIndex::number).collect::<Vec<_>>();
        assert_eq!(path(0), [1, 3, 7]);
        assert_eq!(path(3), [5, 3, 7]);
        assert_eq!(path(6), [13, 11, 7]);
        assert_eq!(Slot(0).path(1).count(), 0);
        assert_eq!(Node::root(8).number(), 7);
        assert_eq!(Node::root(1).number(), 0);
        assert!(ParentIndex::new(2, 8).is_none());
        assert!(ParentIndex::new(15, 8).is_none());
        assert!(ParentIndex::new(1, 1).is_none());
    }

    #[test]
    fn every_path_leads_through_parents_of_the_slot_to_the_root() {
        for depth in 0..8 {
            let slots = 1 << depth;
            for slot in (0..slots).map(Slot) {
                let mut below = Node::Leaf(slot);
                for parent in slot.path(slots) {
                    assert!(parent.left() == below || parent.right() == below);
                    assert!(slot.is_below(Node::Parent(parent)));
                    below = Node::Parent(parent);
                }
                assert_eq!(below, Node::root(slots));
            }
        }
    }
}
