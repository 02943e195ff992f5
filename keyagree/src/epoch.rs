//! An epoch as a member holds it: header, tree, the own secrets, the group key.

use std::sync::Arc;

use muster_wire::idp::GroupState;
use muster_wire::mike::{EpochHeader, Fill, Handover, ParentKind, SealedSecrets, Snapshot};
use muster_wire::{Hash, Instance, List, MemberId, Signed, codec};
use zeroize::Zeroizing;

use crate::Refusal;
use crate::commit::handovers_hash;
use crate::roster::Roster;
use crate::secret::{Secret, hash};
use crate::tree::{Node, ParentIndex, ParentNode, PathSecrets, Slot, Tree};

/// The one cipher suite so far.
pub(crate) const SUITE: u8 = 1;
/// Epochs from here on are refused: no honest group gets there, and a number near the end would leave no room to rise.
pub(crate) const MAX_EPOCH: u64 = 1 << 63;

/// How far ahead of the own epoch another's may be: more than any group gets through in years.
pub(crate) const MAX_LEAP: u64 = 1 << 32;
/// How far ahead a hand-over may be: well within what a member that has missed a commit or two can still follow.
pub(crate) const MAX_HANDOVER_LEAP: u64 = 1 << 28;
/// Who is alone leads nobody astray by going far up: else a group that was driven up could take nobody in any more.
pub(crate) const MAX_EPOCH_JOINED: u64 = 1 << 62;

/// The hash by which a header is named.
pub(crate) fn header_hash(signed: &Signed<EpochHeader>) -> Hash {
    hash("header", &[signed.signed_bytes()])
}

/// The hash over who is in, and the tree as the commit leaves it.
pub(crate) fn transcript(name: &str, instance: &Instance, epoch: u64, tree: &mut Tree) -> Result<Hash, Refusal> {
    let instance = codec::encode(instance)?;
    let parts: [&[u8]; 5] =
        [name.as_bytes(), &instance, &epoch.to_be_bytes(), &tree.slots().to_be_bytes(), &tree.hash().0];
    Ok(hash("transcript", &parts))
}

/// What the group key is bound to: the whole header but for the confirmation, which comes from the key. So one key has
/// one header: a transaction manager that signs two for one tree makes two keys, not one key that is installed twice.
pub(crate) fn context(header: &EpochHeader) -> Result<Hash, Refusal> {
    let unconfirmed = EpochHeader { confirmation: Hash::NONE, ..header.clone() };
    Ok(hash("epoch", &[&codec::encode(&unconfirmed)?]))
}

/// The tag that proves to a reader that it computed the same key.
pub(crate) fn confirmation(key: &Secret, context: &Hash) -> Hash {
    key.derive("confirmation", &[&context.0]).to_hash()
}

/// A header and its tree, both checked, with or without the own leaf in it.
pub(crate) struct Public {
    pub(crate) signed: Signed<EpochHeader>,
    pub(crate) header: EpochHeader,
    pub(crate) hash: Hash,
    pub(crate) tree: Tree,
    pub(crate) handovers: Vec<Signed<Handover>>,
}

impl Public {
    /// Checks that a header belongs to a tree.
    pub(crate) fn check(
        name: &str,
        signed: Signed<EpochHeader>,
        handovers: Vec<Signed<Handover>>,
        mut tree: Tree,
        roster: &Roster,
    ) -> Result<Public, Refusal> {
        let header = check_header(&signed, roster)?;
        if header.group != tree.group() {
            return Err(Refusal::Rule("a header of another group"));
        }
        if header.transcript != transcript(name, &header.instance, header.epoch, &mut tree)? {
            return Err(Refusal::Rule("the transcript is of another tree"));
        }
        if header.handovers != handovers_hash(&handovers)? {
            return Err(Refusal::Rule("the hand-overs are not those of the header"));
        }
        if tree.slot_of(&header.instance.tm).is_none() {
            return Err(Refusal::Rule("the transaction manager is a member"));
        }
        let hash = header_hash(&signed);
        Ok(Public { signed, header, hash, tree, handovers })
    }

    /// Reads a snapshot: every leaf, every author's signature, the header over it all.
    pub(crate) fn read(name: &str, snapshot: &Snapshot, roster: &mut Roster) -> Result<Public, Refusal> {
        let header = check_header(&snapshot.header, roster)?;
        let mut tree = Tree::new(header.group, snapshot.slots)?;
        let rises = |numbers: &mut dyn Iterator<Item = u32>| numbers.is_sorted_by(|a, b| a < b);
        if !rises(&mut snapshot.leaves.iter().map(|(slot, _)| *slot))
            || !rises(&mut snapshot.parents.iter().map(|(node, _)| *node))
            || snapshot.leaves.last().is_some_and(|(slot, _)| *slot >= snapshot.slots)
        {
            return Err(Refusal::Rule("a snapshot's nodes rise and are in the tree"));
        }
        for (slot, leaf) in snapshot.leaves.iter() {
            let node = roster.check_leaf(leaf)?;
            if tree.slot_of(&node.leaf.member).is_some() {
                return Err(Refusal::Rule("a member has one slot"));
            }
            tree.set_leaf(Slot(*slot), node);
        }
        let mut sealed = snapshot.sealed.iter();
        for (number, record) in snapshot.parents.iter() {
            let index = ParentIndex::new(*number, snapshot.slots).ok_or(Refusal::Rule("a parent within the tree"))?;
            let sealed = match record.kind {
                ParentKind::Sealed => Some(sealed.next().ok_or(Refusal::Ciphertext)?.clone()),
                _ => None,
            };
            tree.set_parent(index, Arc::new(ParentNode { record: record.clone(), sealed }));
        }
        let public = Public::check(name, snapshot.header.clone(), snapshot.handovers.to_vec(), tree, roster)?;
        public.check_authors(roster)?;
        Ok(public)
    }

    /// The same, for another to read, with the fills since. The reader knows it by the header's hash.
    pub(crate) fn snapshot(&self, fills: Vec<Fill>) -> Result<Snapshot, Refusal> {
        const LARGE: Refusal = Refusal::Rule("larger than a snapshot may be");
        let leaves = self.tree.members().map(|(slot, node)| (slot.0, node.signed.clone())).collect();
        let parents = self.tree.keyed_parents().map(|(index, node)| (index.number(), node.record.clone())).collect();
        let sealed: Vec<SealedSecrets> =
            self.tree.keyed_parents().filter_map(|(_, node)| node.sealed.clone()).collect();
        Ok(Snapshot {
            header: self.signed.clone(),
            handovers: List::new(self.handovers.clone()).ok_or(LARGE)?,
            slots: self.tree.slots(),
            leaves: List::new(leaves).ok_or(LARGE)?,
            parents: List::new(parents).ok_or(LARGE)?,
            sealed: List::new(sealed).ok_or(LARGE)?,
            fills: List::new(fills).ok_or(LARGE)?,
        })
    }

    /// Whether the transaction manager of `from` handed that very epoch's members over into this one. Who signed is
    /// checked; an older hand-over, never used, is no licence for ever.
    pub(crate) fn took_over(&self, from: &Public, roster: &Roster) -> bool {
        let tm = &from.header.instance.tm;
        self.handovers.iter().any(|signed| {
            signed.decode().is_ok_and(|handover| {
                handover.from == from.header.instance
                    && handover.header == from.hash
                    && handover.target == self.header.instance
                    && roster.key(tm).is_ok_and(|key| key.verify(signed).is_ok())
            })
        })
    }

    /// All members are devices whose word counts.
    pub(crate) fn check_members(&self, roster: &Roster) -> Result<(), Refusal> {
        self.tree.members().try_for_each(|(_, node)| roster.key(&node.leaf.member).map(|_| ()))
    }

    /// Without a valid author a parent is nobody's word: a transaction manager could have planted it where it is not
    /// below, to read on after it has left.
    fn check_authors(&self, roster: &Roster) -> Result<(), Refusal> {
        for (index, node) in self.tree.keyed_parents() {
            self.tree.check_parent(index, &node.record, roster)?;
        }
        Ok(())
    }
}

/// Checks what a header says of itself, and that its transaction manager signed it.
pub(crate) fn check_header(signed: &Signed<EpochHeader>, roster: &Roster) -> Result<EpochHeader, Refusal> {
    let claimed = signed.decode()?;
    let header = roster.key(&claimed.instance.tm)?.verify(signed)?.into_inner();
    if header.suite != SUITE {
        return Err(Refusal::Rule("an unknown cipher suite"));
    }
    if header.epoch >= MAX_EPOCH || !(1..=4095).contains(&header.spi_tag) {
        return Err(Refusal::Rule("an epoch or SPI tag out of range"));
    }
    Ok(header)
}

/// An epoch that this device is a member of.
pub(crate) struct Epoch {
    pub(crate) public: Public,
    /// The own slot.
    pub(crate) slot: Slot,
    pub(crate) path: PathSecrets,
    pub(crate) key: Secret,
}

impl Epoch {
    /// Computes the group key from the own leaf's secret.
    pub(crate) fn enter(public: Public, slot: Slot, leaf: &Secret, known: &PathSecrets) -> Result<Epoch, Refusal> {
        let path = public.tree.path_secrets(slot, leaf, known)?;
        let context = context(&public.header)?;
        let key = group_key(&public.tree, &path, &context)?;
        if confirmation(&key, &context) != public.header.confirmation {
            return Err(Refusal::Confirmation);
        }
        Ok(Epoch { public, slot, path, key })
    }

    pub(crate) fn instance(&self) -> Instance {
        self.public.header.instance
    }

    pub(crate) fn number(&self) -> u64 {
        self.public.header.epoch
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.public.tree
    }

    pub(crate) fn tm(&self) -> MemberId {
        self.public.header.instance.tm
    }

    pub(crate) fn state(&self, installed: bool, active: bool) -> GroupState {
        GroupState {
            instance: self.instance(),
            epoch: self.number(),
            size: self.tree().len() as u32,
            header: self.public.hash,
            installed,
            active,
        }
    }

    /// What the data plane needs.
    pub(crate) fn keys(&self, name: &str) -> EpochKeys {
        EpochKeys {
            instance: self.instance(),
            epoch: self.number(),
            header: self.public.hash,
            spi_tag: self.public.header.spi_tag,
            slot: self.slot.0,
            members: self.tree().members().map(|(slot, node)| (slot.0, node.leaf.member)).collect(),
            name: name.to_owned(),
            key: self.key.clone(),
        }
    }
}

/// The group key of a tree whose root secret is in `path`.
pub(crate) fn group_key(tree: &Tree, path: &PathSecrets, context: &Hash) -> Result<Secret, Refusal> {
    let root = path.get(Node::root(tree.slots())).ok_or(Refusal::Rule("the root is keyed"))?;
    Ok(root.group_key(context))
}

/// What an epoch means for the data plane: one SA for each sender, none shared. The group key stays inside.
#[derive(Clone)]
pub struct EpochKeys {
    /// The reign.
    pub instance: Instance,
    /// The epoch in it.
    pub epoch: u64,
    /// The header's hash.
    pub header: Hash,
    /// 1 to 4095: the upper 12 bits of the SPIs.
    pub spi_tag: u16,
    /// The own slot.
    pub slot: u32,
    /// All members with their slots, rising.
    pub members: Vec<(u32, MemberId)>,
    name: String,
    key: Secret,
}

impl EpochKeys {
    /// The SPI of a sender's SA: tag << 20 | slot.
    pub fn spi(&self, slot: u32) -> u32 {
        u32::from(self.spi_tag) << 20 | slot
    }

    /// A sender's key: 32 bytes of AES-256 and 4 of salt. `address` is the black group address, as bytes.
    ///
    /// Two senders never share a key, so their counters cannot meet in one nonce (RFC 6054 lets them share it and
    /// divides the counter instead, which the kernel's generator cannot).
    pub fn sender_key(&self, address: &[u8], slot: u32) -> Zeroizing<[u8; 36]> {
        let mut key = Zeroizing::new([0; 36]);
        let context: [&[u8]; 4] = [self.name.as_bytes(), address, &self.epoch.to_be_bytes(), &slot.to_be_bytes()];
        self.key.expand("esp", &context, key.as_mut());
        key
    }

    /// Of what vouchers are made. Who knows it knows no sender's key.
    pub(crate) fn voucher_secret(&self) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        self.key.expand("voucher", &[], key.as_mut());
        key
    }

    /// 16 hex digits: equal on two devices if and only if they hold the same key; reveals nothing of it.
    pub fn fingerprint(&self) -> String {
        self.key.derive("fingerprint", &[]).to_hash().to_string()[..16].to_owned()
    }

    /// 16 hex digits over the member list and the epoch.
    pub fn state_tag(&self) -> String {
        let mut parts: Vec<Vec<u8>> = vec![self.epoch.to_be_bytes().to_vec()];
        parts.extend(self.members.iter().map(|(_, member)| member.0.to_vec()));
        hash("state", &parts.iter().map(Vec::as_slice).collect::<Vec<_>>()).to_string()[..16].to_owned()
    }
}
