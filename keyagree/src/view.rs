//! The tree of the current epoch, as anybody may know it: for checkers and for people.

use muster_wire::MemberId;
use muster_wire::mike::{ParentKind, Side};

use crate::KeyAgreement;

/// A tree without secrets. Nodes are numbered as in RFC 9420, appendix C: slot s is node 2s.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeView {
    /// Slots, empty ones too.
    pub slots: u32,
    /// The occupied slots, rising: who, with which public key.
    pub leaves: Vec<(u32, MemberId, [u8; 32])>,
    /// The keyed parents, rising.
    pub parents: Vec<ParentView>,
}

/// A keyed parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentView {
    /// The node.
    pub node: u32,
    /// How it was keyed.
    pub kind: ParentKind,
    /// From which child.
    pub source: Side,
    /// Its public key.
    pub public: [u8; 32],
    /// Of a sealed one: the nodes that its secret is encrypted to.
    pub recipients: Vec<u32>,
}

impl KeyAgreement {
    /// The tree of the current epoch, with what has been filled since.
    pub fn tree(&self) -> TreeView {
        let tree = self.filling.tree();
        let parents = tree.keyed_parents().map(|(index, node)| ParentView {
            node: index.number(),
            kind: node.record.kind,
            source: node.record.source,
            public: node.record.public,
            recipients: node.sealed.iter().flat_map(|s| s.ciphertexts.iter().map(|c| c.recipient)).collect(),
        });
        TreeView {
            slots: tree.slots(),
            leaves: tree.members().map(|(slot, node)| (slot.0, node.leaf.member, node.leaf.public)).collect(),
            parents: parents.collect(),
        }
    }
}
