//! What follows from what in the trees: who holds a node's secret holds those of the parents that come from it.
//! Symbolic; the cryptography itself is taken for perfect.

use std::collections::BTreeSet;

use muster_keyagree::TreeView;
use muster_wire::MemberId;
use muster_wire::mike::{ParentKind, Side};

/// A node's public key stands for its secret.
pub(crate) type Held = BTreeSet<[u8; 32]>;

/// The public keys whose secrets a member holds: its leaf's, and those of the keyed parents above.
pub(crate) fn path(tree: &TreeView, member: &MemberId) -> Vec<[u8; 32]> {
    let Some((slot, _, leaf)) = tree.leaves.iter().find(|(_, who, _)| who == member) else { return Vec::new() };
    let above = tree.parents.iter().filter(|parent| is_below(2 * slot, parent.node));
    std::iter::once(*leaf).chain(above.map(|parent| parent.public)).collect()
}

/// Whether the root's secret follows from what is held.
pub(crate) fn reaches_root(tree: &TreeView, held: &Held) -> bool {
    let root = tree.slots - 1;
    let mut known: BTreeSet<u32> = publics(tree).filter(|(_, key)| held.contains(key)).map(|(node, _)| node).collect();
    // What comes from a node lies above it: as many rounds as levels suffice.
    for _ in 0..tree.slots.trailing_zeros() {
        for parent in &tree.parents {
            let (left, right) = children(parent.node);
            let from_below = match (parent.kind, parent.source) {
                (ParentKind::Agreed, _) => known.contains(&left) || known.contains(&right),
                (_, Side::Left) => known.contains(&left),
                (_, Side::Right) => known.contains(&right),
            };
            if from_below || parent.recipients.iter().any(|recipient| known.contains(recipient)) {
                known.insert(parent.node);
            }
        }
    }
    known.contains(&root)
}

/// The blank parents that a member below could key now.
pub(crate) fn fillable(tree: &TreeView) -> Vec<u32> {
    let keyed: BTreeSet<u32> = publics(tree).map(|(node, _)| node).collect();
    let occupied = |node| tree.leaves.iter().any(|(slot, ..)| is_below(2 * slot, node));
    let can = |node: &u32| {
        let (left, right) = children(*node);
        let ready = |child| keyed.contains(&child) || !occupied(child);
        !keyed.contains(node) && ready(left) && ready(right) && (keyed.contains(&left) || keyed.contains(&right))
    };
    (1..2 * tree.slots - 1).step_by(2).filter(can).collect()
}

fn publics(tree: &TreeView) -> impl Iterator<Item = (u32, [u8; 32])> {
    let leaves = tree.leaves.iter().map(|(slot, _, key)| (2 * slot, *key));
    leaves.chain(tree.parents.iter().map(|parent| (parent.node, parent.public)))
}

fn children(parent: u32) -> (u32, u32) {
    let level = parent.trailing_ones();
    (parent ^ (1 << (level - 1)), parent ^ (3 << (level - 1)))
}

fn is_below(node: u32, parent: u32) -> bool {
    let reach = (1 << parent.trailing_ones()) - 1;
    (parent - reach..=parent + reach).contains(&node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_keyagree::ParentView;

    /// Four slots, three members; the root sealed from the left to slot 2.
    fn tree() -> TreeView {
        let member = |n| MemberId([n; 32]);
        let parent = |node, kind, public, recipients| ParentView {
            node,
            kind,
            source: Side::Left,
            public: [public; 32],
            recipients,
        };
        TreeView {
            slots: 4,
            leaves: (0..3).map(|n| (n, member(n as u8), [n as u8; 32])).collect(),
            parents: vec![parent(1, ParentKind::Agreed, 11, vec![]), parent(3, ParentKind::Sealed, 13, vec![4])],
        }
    }

    #[test]
    fn secrets_follow_upwards_only() {
        let reaches = |held: &[u8]| reaches_root(&tree(), &held.iter().map(|key| [*key; 32]).collect());
        assert!(reaches(&[0]) && reaches(&[1]) && reaches(&[2]) && reaches(&[11]) && reaches(&[13]));
        assert!(!reaches(&[]) && !reaches(&[3, 5, 12]));
        let mut lifted = tree();
        lifted.parents[1] = ParentView { source: Side::Right, recipients: vec![], ..lifted.parents[1].clone() };
        assert!(!reaches_root(&lifted, &Held::from([[0; 32]])), "not its source");
    }

    #[test]
    fn what_lies_above_a_member() {
        assert_eq!(path(&tree(), &MemberId([2; 32])), [[2; 32], [13; 32]]);
        assert_eq!(path(&tree(), &MemberId([9; 32])), [[0; 32]; 0]);
    }

    #[test]
    fn blank_parents_that_can_be_keyed() {
        assert_eq!(fillable(&tree()), [5], "above slots 2 and 3, of which one is occupied");
        let mut blank = tree();
        blank.parents.clear();
        assert_eq!(fillable(&blank), [1, 5], "the root's children are blank");
        blank.leaves.clear();
        assert_eq!(fillable(&blank), [0; 0]);
    }
}
