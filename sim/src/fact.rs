//! What the checkers see: facts as they happen, and views of all nodes at regular instants. Plain data, so that a
//! test can plant a defect in it.

use muster_bridge::{Engine, Record};
use muster_keyagree::{EpochKeys, TreeView};
use muster_wire::{Hash, Instance, MemberId, Time};

/// The group's black address, which the sender keys depend on.
const GROUP_ADDRESS: [u8; 16] = [0xff, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0xfd];

/// Something that happened at a node.
#[derive(Clone, Debug)]
pub enum Fact {
    /// Its process started.
    Started {
        /// Where.
        node: usize,
        /// With which stamp.
        startup: u64,
    },
    /// It holds a new epoch's key, and the inbound SAs are in place.
    Entered(Box<Entered>),
    /// It sends under an epoch.
    Activated {
        /// Where.
        node: usize,
        /// The epoch's header.
        header: Hash,
    },
    /// It receives under an epoch no longer.
    Retired {
        /// Where.
        node: usize,
        /// The epoch's header.
        header: Hash,
    },
    /// Somebody else has its device's key.
    TakenOver {
        /// Where.
        node: usize,
        /// Whose.
        member: MemberId,
    },
    /// Something else that its operator is told.
    Recorded {
        /// Where.
        node: usize,
        /// What.
        record: Record,
    },
    /// Its process ended, with all that it held.
    Stopped {
        /// Where.
        node: usize,
    },
}

/// An epoch as a node entered it.
#[derive(Clone, Debug)]
pub struct Entered {
    /// Where.
    pub node: usize,
    /// Whose device.
    pub member: MemberId,
    /// The reign.
    pub instance: Instance,
    /// The epoch in it.
    pub epoch: u64,
    /// Its header.
    pub header: Hash,
    /// Of the key.
    pub fingerprint: String,
    /// The own slot.
    pub slot: u32,
    /// One for each member.
    pub senders: Vec<Sender>,
    /// The tree; `None` when a later epoch has been entered by now.
    pub tree: Option<TreeView>,
}

/// A sender's SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Its slot.
    pub slot: u32,
    /// Who.
    pub member: MemberId,
    /// SPI of its SA.
    pub spi: u32,
    /// Key of its SA.
    pub key: [u8; 36],
}

impl Entered {
    /// From what the data plane is given.
    pub fn new(node: usize, member: MemberId, keys: &EpochKeys, tree: Option<TreeView>) -> Self {
        let sender = |(slot, member): &(u32, MemberId)| Sender {
            slot: *slot,
            member: *member,
            spi: keys.spi(*slot),
            key: <[u8; 36]>::clone(&keys.sender_key(&GROUP_ADDRESS, *slot)),
        };
        Self {
            node,
            member,
            instance: keys.instance,
            epoch: keys.epoch,
            header: keys.header,
            fingerprint: keys.fingerprint(),
            slot: keys.slot,
            senders: keys.members.iter().map(sender).collect(),
            tree,
        }
    }
}

/// All nodes at an instant.
#[derive(Clone, Debug)]
pub struct View {
    /// When.
    pub at: Time,
    /// Since when nothing has been disturbed, stopped or frozen; `None` while something is.
    pub calm_since: Option<Time>,
    /// No fault is to come.
    pub over: bool,
    /// Datagrams in a hundred that get lost at the best of times.
    pub loss: u32,
    /// Leaves are replaced so often that there are epochs in the quiet, too.
    pub refreshes: bool,
    /// Datagrams that those whose certificates are valid have sent so far, a multicast counted once.
    pub sent: u64,
    /// The running nodes whose certificates are valid.
    pub nodes: Vec<NodeView>,
}

/// A running node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Which.
    pub node: usize,
    /// Whose device.
    pub member: MemberId,
    /// The reign that it is in.
    pub instance: Instance,
    /// The epoch in it.
    pub epoch: u64,
    /// Its header.
    pub header: Hash,
    /// It sends under it.
    pub active: bool,
    /// In the order of their slots.
    pub members: Vec<MemberId>,
    /// Whom it hears.
    pub neighbours: Vec<MemberId>,
    /// The tree of its epoch.
    pub tree: TreeView,
}

impl NodeView {
    /// How an engine looks from outside.
    pub fn new(node: usize, member: MemberId, engine: &Engine, now: Time) -> Self {
        let state = engine.keyagree().group_state();
        let neighbours = engine.discovery().neighbors(now);
        Self {
            node,
            member,
            instance: state.instance,
            epoch: state.epoch,
            header: state.header,
            active: state.active,
            members: engine.keyagree().members().map(|(_, member)| member).collect(),
            neighbours: neighbours.filter(|n| n.reason.is_none()).map(|neighbour| neighbour.member).collect(),
            tree: engine.keyagree().tree(),
        }
    }
}
