//! The secrets between a member's leaf and the root.

use std::collections::BTreeMap;

use muster_wire::mike::{Ciphertext, ParentKind, Side};

use super::{Node, ParentIndex, Slot, Tree, child};
use crate::Refusal;
use crate::secret::{SealContext, Secret, agreed, lifted, sealed};

/// Secrets by node, each with the public key that it was checked against.
#[derive(Clone, Default)]
pub(crate) struct PathSecrets(BTreeMap<Node, ([u8; 32], Secret)>);

impl PathSecrets {
    pub(crate) fn insert(&mut self, node: Node, public: [u8; 32], secret: Secret) {
        self.0.insert(node, (public, secret));
    }

    pub(crate) fn get(&self, node: Node) -> Option<&Secret> {
        self.0.get(&node).map(|(_, secret)| secret)
    }

    pub(crate) fn remove(&mut self, node: Node) {
        self.0.remove(&node);
    }

    /// Takes a node's secret over from `other` if it is there with this public key; whether it was.
    pub(crate) fn copy(&mut self, node: Node, public: &[u8; 32], other: &PathSecrets) -> bool {
        let Some(secret) = other.get_if(node, public) else { return false };
        self.insert(node, *public, secret.clone());
        true
    }

    fn get_if(&self, node: Node, public: &[u8; 32]) -> Option<&Secret> {
        self.0.get(&node).filter(|(known, _)| known == public).map(|(_, secret)| secret)
    }
}

impl Tree {
    /// All secrets from the leaf in `slot` to the root, each checked against its public key.
    ///
    /// A tree and one leaf secret suffice, whatever was missed before. `known` saves computing again what has not
    /// changed.
    pub(crate) fn path_secrets(&self, slot: Slot, leaf: &Secret, known: &PathSecrets) -> Result<PathSecrets, Refusal> {
        let mut path = PathSecrets::default();
        let public = self.public(Node::Leaf(slot)).ok_or(Refusal::NotMember)?;
        if known.get_if(Node::Leaf(slot), public).is_none() && leaf.public() != *public {
            return Err(Refusal::NotMember);
        }
        path.insert(Node::Leaf(slot), *public, leaf.clone());
        for index in slot.path(self.slots()) {
            let Some(parent) = self.parent(index) else { continue };
            let public = &parent.record.public;
            let secret = match known.get_if(Node::Parent(index), public) {
                Some(secret) => secret.clone(),
                None => {
                    let secret = self.parent_secret(index, slot, &path)?;
                    if secret.public() != *public {
                        return Err(Refusal::PublicKey);
                    }
                    secret
                }
            };
            path.insert(Node::Parent(index), *public, secret);
        }
        Ok(path)
    }

    fn parent_secret(&self, index: ParentIndex, slot: Slot, path: &PathSecrets) -> Result<Secret, Refusal> {
        const CHILD: Refusal = Refusal::Rule("a parent is keyed from a keyed child");
        let record = match self.parent(index) {
            Some(parent) => &parent.record,
            None => return Err(CHILD),
        };
        let side = if slot.is_below(index.left()) { Side::Left } else { Side::Right };
        let own = path.get(child(index, side));
        match record.kind {
            ParentKind::Agreed => {
                let left = self.public(index.left()).ok_or(CHILD)?;
                let right = self.public(index.right()).ok_or(CHILD)?;
                agreed(self.group(), index, own.ok_or(CHILD)?, side == Side::Left, left, right)
            }
            ParentKind::Lifted => Ok(lifted(self.group(), index, own.ok_or(CHILD)?)),
            ParentKind::Sealed if record.source == side => {
                Ok(sealed(self.group(), index, record.epoch, own.ok_or(CHILD)?))
            }
            ParentKind::Sealed => self.open_sealed(index, path),
        }
    }

    fn open_sealed(&self, index: ParentIndex, path: &PathSecrets) -> Result<Secret, Refusal> {
        let parent = self.parent(index).ok_or(Refusal::Ciphertext)?;
        let secrets = parent.sealed.as_ref().ok_or(Refusal::Ciphertext)?;
        let own = |ciphertext: &&Ciphertext| path.get(Node::from_number(ciphertext.recipient)).is_some();
        let ciphertext = secrets.ciphertexts.iter().find(own).ok_or(Refusal::Ciphertext)?;
        let recipient = Node::from_number(ciphertext.recipient);
        let (public, secret) = path.0.get(&recipient).ok_or(Refusal::Ciphertext)?;
        let context = SealContext {
            group: self.group(),
            epoch: parent.record.epoch,
            node: index,
            recipient,
            ephemeral: secrets.ephemeral,
            public: *public,
        };
        context.open(secret, &ciphertext.sealed)
    }
}
