//! Who may take part, as discovery reports it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use muster_certs::{PublicKey, SequenceWindow};
use muster_wire::idp::GroupState;
use muster_wire::mike::Leaf;
use muster_wire::{GroupTag, Hash, MemberId, Nonce, Signed, Time};

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
    /// Since when its hellos have named another instance than ours.
    pub(crate) astray_since: Option<Time>,
    /// When it last got a whole snapshot from us.
    pub(crate) served: Option<Time>,
    /// Chunks sent to it again: since when they are counted, and how many.
    pub(crate) repaired: (Time, usize),
    pub(crate) window: SequenceWindow,
}

/// The devices with valid certificates that discovery has met, neighbours now or not.
pub(crate) struct Roster {
    group: GroupTag,
    peers: BTreeMap<MemberId, Peer>,
    own: (MemberId, PublicKey),
    /// Leaves whose signature was found right, by hash; emptied when full.
    checked: BTreeSet<Hash>,
}

const MAX_CHECKED: usize = 8192;
const MAX_PEERS: usize = 4096;

impl Roster {
    pub(crate) fn new(group: GroupTag, own: MemberId, key: PublicKey) -> Self {
        Self { group, peers: BTreeMap::new(), own: (own, key), checked: BTreeSet::new() }
    }

    /// A neighbour came up. Forgets those long gone when there is no room.
    pub(crate) fn up(&mut self, member: MemberId, key: PublicKey, startup: u64, address: SocketAddr) {
        if self.peers.len() >= MAX_PEERS {
            self.peers.retain(|_, peer| peer.up);
        }
        let window = match self.peers.get(&member) {
            // A link that came back: what was seen stays seen.
            Some(peer) if peer.startup == startup => peer.window,
            _ => SequenceWindow::default(),
        };
        let peer = Peer {
            key,
            startup,
            address,
            up: true,
            nonce: Nonce([0; 16]),
            interval: Duration::from_secs(60),
            group: None,
            astray_since: None,
            served: None,
            repaired: (Time(0), 0),
            window,
        };
        self.peers.insert(member, peer);
    }

    /// Its certificate is not valid any more: nothing that it signed is.
    pub(crate) fn remove(&mut self, member: &MemberId) {
        self.peers.remove(member);
        self.checked.clear();
    }

    pub(crate) fn get(&self, member: &MemberId) -> Option<&Peer> {
        self.peers.get(member)
    }

    pub(crate) fn get_mut(&mut self, member: &MemberId) -> Option<&mut Peer> {
        self.peers.get_mut(member)
    }

    /// The neighbours that are up.
    pub(crate) fn neighbours(&self) -> impl Iterator<Item = (&MemberId, &Peer)> {
        self.peers.iter().filter(|(_, peer)| peer.up)
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

    /// The key of a member's certificate, the own one's too.
    pub(crate) fn key(&self, member: &MemberId) -> Result<PublicKey, Refusal> {
        if *member == self.own.0 {
            return Ok(self.own.1);
        }
        self.peers.get(member).map(|peer| peer.key).ok_or(Refusal::UnknownMember(*member))
    }

    /// Checks a leaf: its group, its mode, its owner's signature, its public key.
    pub(crate) fn check_leaf(&mut self, signed: &Signed<Leaf>) -> Result<LeafNode, Refusal> {
        let leaf = signed.decode()?;
        let key = self.key(&leaf.member)?;
        let known = hash("checked leaf", &[&key.to_bytes(), signed.signed_bytes(), &signed.signature().0]);
        if !self.checked.contains(&known) {
            key.verify(signed)?;
            if leaf.group != self.group || leaf.mode != AGREEMENT {
                return Err(Refusal::Rule("a leaf of another group or mode"));
            }
            if Secret::is_low_order(&leaf.public) {
                return Err(Refusal::LowOrderKey);
            }
            if self.checked.len() >= MAX_CHECKED {
                self.checked.clear();
            }
            self.checked.insert(known);
        }
        Ok(LeafNode { signed: signed.clone(), leaf })
    }
}
