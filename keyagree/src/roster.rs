//! Who may take part, as discovery reports it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use muster_certs::{PublicKey, SequenceWindow};
use muster_wire::idp::GroupState;
use muster_wire::mike::Leaf;
use muster_wire::{GroupTag, Hash, Instance, MemberId, Nonce, Signature, Signed, Time};

use crate::Refusal;
use crate::secret::{Secret, hash};
use crate::tree::LeafNode;

/// The mode of a leaf: key agreement.
pub(crate) const AGREEMENT: u8 = 1;

/// A device with a valid certificate.
pub(crate) struct Peer {
    pub(crate) key: PublicKey,
    pub(crate) startup: u64,
    pub(crate) address: SocketAddr,
    /// Discovery hears it.
    pub(crate) up: bool,
    /// Its last hello's.
    pub(crate) nonce: Nonce,
    pub(crate) interval: Duration,
    /// What it said last of its group.
    pub(crate) group: Option<GroupState>,
    /// And when.
    pub(crate) heard_at: Time,
    /// Since when its certificate has not been valid any more: nothing that it says counts. Its leaf in a tree is
    /// still its own.
    pub(crate) refused_since: Option<Time>,
    /// It signed two headers for one epoch: as long as its process lives nothing that it says counts.
    pub(crate) exposed: bool,
    /// Since when its hellos have named another instance than ours, and it has acknowledged no epoch of ours.
    pub(crate) astray_since: Option<Time>,
    /// When we last asked for the header that it names in place of ours.
    pub(crate) compared: Option<Time>,
    /// When it last got a whole snapshot from us.
    pub(crate) served: Option<Time>,
    /// Chunks sent to it again: since when they are counted, and how many.
    pub(crate) repaired: (Time, usize),
    /// New keys that it may ask for, in thousandths, as of when.
    allowance: (u64, Time),
    pub(crate) window: SequenceWindow,
}

impl Peer {
    /// What it signs counts.
    pub(crate) fn is_trusted(&self) -> bool {
        self.refused_since.is_none() && !self.exposed
    }

    /// Whether two headers of this reign tell something new of it. They are shown again when it has started anew, by whoever
    /// wants it out.
    pub(crate) fn is_to_expose(&self, reign: &Instance) -> bool {
        !self.exposed && self.startup == reign.startup
    }

    /// Whether it may cost the group an epoch: four times at once, then once a second.
    pub(crate) fn may_ask_for_key(&mut self, now: Time) -> bool {
        const EACH: u64 = 1000;
        let (left, since) = self.allowance;
        let earned = now.since(since).as_millis() as u64;
        let left = left.saturating_add(earned).min(4 * EACH);
        let granted = left >= EACH;
        self.allowance = (if granted { left - EACH } else { left }, now);
        granted
    }
}

/// The devices with valid certificates that discovery has met, neighbours now or not.
pub(crate) struct Roster {
    group: GroupTag,
    peers: BTreeMap<MemberId, Peer>,
    own: (MemberId, PublicKey),
    /// Some certificate was refused once: else nobody need look for such members.
    pub(crate) has_refused: bool,
    /// Leaves and parents whose signature was found right, by hash; emptied when full. A memory of what was computed,
    /// not a state: so those who only read may add to it.
    checked: RefCell<BTreeSet<Hash>>,
}

const MAX_CHECKED: usize = 8192;
const MAX_PEERS: usize = 4096;

impl Roster {
    pub(crate) fn new(group: GroupTag, own: MemberId, key: PublicKey) -> Self {
        Self { group, peers: BTreeMap::new(), own: (own, key), has_refused: false, checked: RefCell::default() }
    }

    /// A neighbour came up. Forgets those long gone when there is no room.
    pub(crate) fn up(&mut self, member: MemberId, key: PublicKey, startup: u64, address: SocketAddr) {
        if self.peers.len() >= MAX_PEERS {
            self.peers.retain(|_, peer| peer.up);
        }
        let (window, exposed, allowance) = match self.peers.get(&member) {
            // A link that came back: what was seen stays seen.
            Some(peer) if peer.startup == startup => (peer.window, peer.exposed, peer.allowance),
            _ => (SequenceWindow::default(), false, (u64::MAX, Time(0))),
        };
        let peer = Peer {
            key,
            startup,
            address,
            up: true,
            nonce: Nonce([0; 16]),
            interval: Duration::from_secs(60),
            group: None,
            heard_at: Time(0),
            refused_since: None,
            exposed,
            astray_since: None,
            compared: None,
            served: None,
            repaired: (Time(0), 0),
            allowance,
            window,
        };
        self.peers.insert(member, peer);
    }

    /// Its certificate is not valid any more.
    pub(crate) fn refuse(&mut self, member: &MemberId, now: Time) {
        if let Some(peer) = self.peers.get_mut(member) {
            peer.up = false;
            peer.group = None;
            peer.refused_since.get_or_insert(now);
            self.has_refused = true;
        }
    }

    pub(crate) fn get(&self, member: &MemberId) -> Option<&Peer> {
        self.peers.get(member)
    }

    pub(crate) fn get_mut(&mut self, member: &MemberId) -> Option<&mut Peer> {
        self.peers.get_mut(member)
    }

    /// The neighbours that are up and trusted.
    pub(crate) fn neighbours(&self) -> impl Iterator<Item = (&MemberId, &Peer)> {
        self.peers.iter().filter(|(_, peer)| peer.up && peer.is_trusted())
    }

    /// Whether the process whose leaf this is, is a neighbour whose word counts.
    pub(crate) fn is_there(&self, leaf: &Leaf) -> bool {
        self.peers.get(&leaf.member).is_some_and(|p| p.up && p.is_trusted() && p.startup == leaf.startup)
    }

    /// Nobody has been astray from the group that begins now.
    pub(crate) fn forget_astray(&mut self) {
        self.peers.values_mut().for_each(|peer| peer.astray_since = None);
    }

    /// A member whose hellos do not name our group yet.
    pub(crate) fn astray_from(&mut self, member: &MemberId, now: Time) {
        if let Some(peer) = self.peers.get_mut(member) {
            peer.astray_since = Some(now);
        }
    }

    /// A member that has shown in another way that it is in our group.
    pub(crate) fn not_astray(&mut self, member: &MemberId) {
        if let Some(peer) = self.peers.get_mut(member) {
            peer.astray_since = None;
        }
    }

    /// The key of a member's certificate, the own one's too, for what it says now.
    pub(crate) fn key(&self, member: &MemberId) -> Result<PublicKey, Refusal> {
        match self.peers.get(member) {
            Some(peer) if !peer.is_trusted() => Err(Refusal::NotTrusted(*member)),
            _ => self.leaf_key(member),
        }
    }

    /// The same for what stands in a tree: a leaf is its owner's also when others know already that the owner is to
    /// be shut out. The transaction manager may learn it later than we.
    pub(crate) fn leaf_key(&self, member: &MemberId) -> Result<PublicKey, Refusal> {
        if *member == self.own.0 {
            return Ok(self.own.1);
        }
        self.peers.get(member).map(|peer| peer.key).ok_or(Refusal::UnknownMember(*member))
    }

    /// Checks a leaf: its group, its mode, its owner's signature, its public key.
    pub(crate) fn check_leaf(&self, signed: &Signed<Leaf>) -> Result<LeafNode, Refusal> {
        let leaf = signed.decode()?;
        let key = self.leaf_key(&leaf.member)?;
        let known = hash("checked leaf", &[&key.to_bytes(), signed.signed_bytes(), &signed.signature().0]);
        self.once(known, || {
            key.verify(signed)?;
            if leaf.group != self.group || leaf.mode != AGREEMENT {
                return Err(Refusal::Rule("a leaf of another group or mode"));
            }
            match Secret::is_low_order(&leaf.public) {
                true => Err(Refusal::LowOrderKey),
                false => Ok(()),
            }
        })?;
        Ok(LeafNode { signed: signed.clone(), leaf })
    }

    /// Checks what a parent's author has signed. The same parent comes as a fill, in the commit that lists it, in
    /// snapshots, and in every epoch that it is carried into.
    pub(crate) fn check_signature(
        &self,
        author: &PublicKey,
        label: &[u8],
        bytes: &[u8],
        signature: &Signature,
    ) -> Result<(), Refusal> {
        let known = hash("checked", &[&author.to_bytes(), label, bytes, &signature.0]);
        self.once(known, || Ok(author.check(label, bytes, signature)?))
    }

    fn once(&self, known: Hash, check: impl FnOnce() -> Result<(), Refusal>) -> Result<(), Refusal> {
        let mut checked = self.checked.borrow_mut();
        if !checked.contains(&known) {
            check()?;
            if checked.len() >= MAX_CHECKED {
                checked.clear();
            }
            checked.insert(known);
        }
        Ok(())
    }
}
