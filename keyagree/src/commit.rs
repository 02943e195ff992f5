//! From one epoch's tree to the next: what a commit does, for its author and for its readers alike.

use muster_certs::SigningKey;
use muster_wire::mike::{Ciphertext, CommitBody, Fill, Handover, MAX_DEPTH, Parent, ParentKind, SealedSecrets};
use muster_wire::{Hash, List, MemberId, Signature, Signed, codec};
use std::sync::Arc;

use crate::Refusal;
use crate::roster::Roster;
use crate::secret::{SealContext, Secret, SecretSource, agreed, hash, lifted, sealed};
use crate::tree::{LeafNode, Node, ParentIndex, ParentNode, PathSecrets, Slot, Tree, child, opposite};

/// What changes, in the order of application.
pub(crate) struct Changes {
    pub(crate) fills: Vec<Fill>,
    pub(crate) removed: Vec<Slot>,
    pub(crate) refreshed: Vec<LeafNode>,
    pub(crate) joined: Vec<LeafNode>,
    /// The transaction manager's own new leaf.
    pub(crate) leaf: LeafNode,
}

impl Changes {
    /// Reads them out of a commit; checks every leaf.
    pub(crate) fn read(
        body: &CommitBody,
        handovers: &[Signed<Handover>],
        roster: &mut Roster,
    ) -> Result<Changes, Refusal> {
        let mut joined = Vec::new();
        for handover in handovers {
            joined.extend(handover_leaves(&handover.decode()?, roster)?);
        }
        let own = body.leaf.as_ref().ok_or(Refusal::Rule("a commit refreshes its author's leaf"))?;
        Ok(Changes {
            fills: body.fills.to_vec(),
            removed: body.removed.iter().copied().map(Slot).collect(),
            refreshed: body.refreshed.iter().map(|leaf| roster.check_leaf(leaf)).collect::<Result<_, _>>()?,
            joined,
            leaf: roster.check_leaf(own)?,
        })
    }

    /// Everything but the keying of the author's path, on a copy of `base`; also the author's slot.
    pub(crate) fn apply(&self, base: &Tree, roster: &Roster) -> Result<(Tree, Slot), Refusal> {
        let mut tree = base.clone();
        self.fills.iter().try_for_each(|fill| apply_fill(&mut tree, fill, roster))?;
        if !self.removed.is_sorted_by(|a, b| a < b) {
            return Err(Refusal::Rule("removed slots rise"));
        }
        for slot in &self.removed {
            if tree.leaf(*slot).is_none_or(|node| node.leaf.member == self.leaf.leaf.member) {
                return Err(Refusal::Rule("a removed slot holds another member"));
            }
            tree.remove(*slot);
        }
        for node in &self.refreshed {
            refresh(&mut tree, node)?;
        }
        let joiners = supersede(&mut tree, &self.joined, &self.leaf.leaf.member);
        tree.halve();
        for node in joiners {
            let slot = tree.free_slot()?;
            tree.set_leaf(slot, node.clone());
        }
        let slot = refresh(&mut tree, &self.leaf)?;
        Ok((tree, slot))
    }
}

/// The leaves of a hand-over, each checked.
pub(crate) fn handover_leaves(handover: &Handover, roster: &mut Roster) -> Result<Vec<LeafNode>, Refusal> {
    handover.leaves.iter().map(|leaf| roster.check_leaf(leaf)).collect()
}

/// What the author of a commit makes for the path above its leaf.
pub(crate) struct KeyedPath {
    pub(crate) path: List<Parent, MAX_DEPTH>,
    pub(crate) ephemeral: [u8; 32],
    pub(crate) ciphertexts: Vec<Ciphertext>,
    pub(crate) secrets: PathSecrets,
}

/// Keys the path above `slot` from a fresh leaf secret.
pub(crate) fn key_path(
    tree: &mut Tree,
    slot: Slot,
    leaf: &Secret,
    epoch: u64,
    key: &SigningKey,
    source: &mut SecretSource,
) -> Result<KeyedPath, Refusal> {
    let ephemeral = source.draw();
    let ephemeral_public = ephemeral.public();
    let (mut path, mut ciphertexts, mut secrets) = (Vec::new(), Vec::new(), PathSecrets::default());
    secrets.insert(Node::Leaf(slot), leaf.public(), leaf.clone());
    let mut secret = leaf.clone();
    for index in slot.path(tree.slots()) {
        let (kind, source) = tree.kind_of(index, slot);
        let mut sealed_secrets = None;
        secret = match kind {
            ParentKind::Agreed => {
                const KEYED: Refusal = Refusal::Rule("a parent is keyed from keyed children");
                let left = tree.public(index.left()).ok_or(KEYED)?;
                let right = tree.public(index.right()).ok_or(KEYED)?;
                agreed(tree.group(), index, &secret, slot.is_below(index.left()), left, right)?
            }
            ParentKind::Lifted => lifted(tree.group(), index, &secret),
            ParentKind::Sealed => {
                let secret = sealed(tree.group(), index, epoch, &secret);
                let mut own = Vec::new();
                for recipient in tree.resolution(child(index, opposite(source))) {
                    // The resolution holds keyed nodes only.
                    let public = *tree.public(recipient).ok_or(Refusal::Ciphertext)?;
                    let group = tree.group();
                    let context =
                        SealContext { group, epoch, node: index, recipient, ephemeral: ephemeral_public, public };
                    let sealed = context.seal(&ephemeral, &secret)?;
                    own.push(Ciphertext { node: index.number(), recipient: recipient.number(), sealed });
                }
                ciphertexts.extend(own.iter().cloned());
                sealed_secrets = Some(secrets_of(index, ephemeral_public, own)?);
                secret
            }
        };
        let public = secret.public();
        let mut record = Parent { kind, epoch, source, public, author: slot.0, signature: Signature([0; 64]) };
        record.signature = tree.sign_parent(index, &record, key)?;
        secrets.insert(Node::Parent(index), public, secret.clone());
        path.push(record.clone());
        tree.set_parent(index, Arc::new(ParentNode { record, sealed: sealed_secrets }));
    }
    let path = List::new(path).ok_or(Refusal::Rule("a path is no longer than the tree is deep"))?;
    let ephemeral = if ciphertexts.is_empty() { [0; 32] } else { ephemeral_public };
    Ok(KeyedPath { path, ephemeral, ciphertexts, secrets })
}

/// Puts the path of a commit into the tree: every node must be keyed as the tree demands, be signed, and carry
/// ciphertexts for exactly those who need them.
pub(crate) fn put_path(
    tree: &mut Tree,
    slot: Slot,
    body: &CommitBody,
    epoch: u64,
    roster: &Roster,
) -> Result<(), Refusal> {
    // Its word must count, not only stand in a tree.
    roster.key(&tree.leaf(slot).ok_or(Refusal::NotMember)?.leaf.member)?;
    let mut ciphertexts = body.ciphertexts.iter();
    let mut records = body.path.iter();
    for index in slot.path(tree.slots()) {
        let record = records.next().ok_or(Refusal::Rule("a path reaches the root"))?;
        if tree.kind_of(index, slot) != (record.kind, record.source) || record.epoch != epoch || record.author != slot.0
        {
            return Err(Refusal::Rule("a parent is keyed as the tree demands"));
        }
        tree.check_parent(index, record, roster)?;
        let sealed = match record.kind {
            ParentKind::Sealed => {
                let recipients = tree.resolution(child(index, opposite(record.source)));
                let own: Vec<_> = ciphertexts.by_ref().take(recipients.len()).cloned().collect();
                let secrets = secrets_of(index, body.ephemeral, own)?;
                check_recipients(&secrets, &recipients)?;
                Some(secrets)
            }
            _ => None,
        };
        tree.set_parent(index, Arc::new(ParentNode { record: record.clone(), sealed }));
    }
    if records.next().is_some() || ciphertexts.next().is_some() {
        return Err(Refusal::Rule("a commit carries nothing that is not used"));
    }
    Ok(())
}

/// The hash of a commit's hand-overs for its header.
pub(crate) fn handovers_hash(handovers: &[Signed<Handover>]) -> Result<Hash, Refusal> {
    if handovers.is_empty() {
        return Ok(Hash::NONE);
    }
    let bytes = handovers.iter().map(codec::encode).collect::<Result<Vec<_>, _>>()?;
    Ok(hash("hand-overs", &bytes.iter().map(Vec::as_slice).collect::<Vec<_>>()))
}

/// The hash of a commit's body for its header.
pub(crate) fn body_hash(body: &CommitBody) -> Result<Hash, Refusal> {
    Ok(hash("commit body", &[&codec::encode(body)?]))
}

fn secrets_of(index: ParentIndex, ephemeral: [u8; 32], ciphertexts: Vec<Ciphertext>) -> Result<SealedSecrets, Refusal> {
    let ciphertexts = List::new(ciphertexts).ok_or(Refusal::Rule("too many ciphertexts"))?;
    Ok(SealedSecrets { node: index.number(), ephemeral, ciphertexts })
}

fn check_recipients(secrets: &SealedSecrets, recipients: &[Node]) -> Result<(), Refusal> {
    let named = secrets.ciphertexts.iter().map(|ciphertext| (ciphertext.node, ciphertext.recipient));
    if named.eq(recipients.iter().map(|recipient| (secrets.node, recipient.number()))) {
        return Ok(());
    }
    Err(Refusal::Rule("a sealed secret is for those below the blank child"))
}

/// A blank parent keyed since the last commit, from what was there already.
pub(crate) fn apply_fill(tree: &mut Tree, fill: &Fill, roster: &Roster) -> Result<(), Refusal> {
    let index = ParentIndex::new(fill.node, tree.slots()).ok_or(Refusal::Rule("a fill is for a parent"))?;
    if !tree.is_fillable(index) {
        return Err(Refusal::Rule("a fill keys a blank parent whose occupied children are keyed"));
    }
    if tree.kind_of(index, Slot(fill.parent.author)) != (fill.parent.kind, fill.parent.source) {
        return Err(Refusal::Rule("a fill is keyed as the tree demands"));
    }
    tree.check_parent(index, &fill.parent, roster)?;
    tree.set_parent(index, Arc::new(ParentNode { record: fill.parent.clone(), sealed: None }));
    Ok(())
}

/// A member's newer leaf in its place.
fn refresh(tree: &mut Tree, node: &LeafNode) -> Result<Slot, Refusal> {
    let slot = tree.slot_of(&node.leaf.member).ok_or(Refusal::NotMember)?;
    let old = tree.leaf(slot).ok_or(Refusal::NotMember)?;
    if age(&old.leaf) >= age(&node.leaf) {
        return Err(Refusal::Rule("a member's generation rises"));
    }
    if tree.has_public(&node.leaf.public) {
        return Err(Refusal::Rule("every leaf has a public key of its own"));
    }
    tree.set_leaf(slot, node.clone());
    Ok(slot)
}

/// Which leaves of the hand-overs come in, in order; the same members' older ones go. What is not newer, or copies a
/// public key, or is the author's, is passed over: a hand-over may speak of a past that several remember differently.
fn supersede<'a>(tree: &mut Tree, joined: &'a [LeafNode], author: &MemberId) -> Vec<&'a LeafNode> {
    let mut coming: Vec<&LeafNode> = Vec::new();
    for node in joined {
        let leaf = &node.leaf;
        let repeats = tree.has_public(&leaf.public) || coming.iter().any(|other| other.leaf.public == leaf.public);
        if leaf.member == *author || repeats {
            continue;
        }
        let twice = coming.iter().position(|other| other.leaf.member == leaf.member);
        let slot = tree.slot_of(&leaf.member);
        let known = twice.map(|at| coming[at]).or_else(|| tree.leaf(slot?));
        if known.is_some_and(|known| age(&known.leaf) >= age(leaf)) {
            continue;
        }
        twice.map(|at| coming.remove(at));
        if let Some(slot) = slot {
            tree.remove(slot);
        }
        coming.push(node);
    }
    coming
}

fn age(leaf: &muster_wire::mike::Leaf) -> (u64, u64) {
    (leaf.startup, leaf.generation)
}
