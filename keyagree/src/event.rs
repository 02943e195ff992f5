//! What the key agreement tells its driver.

use muster_wire::idp::GroupState;
use muster_wire::{Hash, MemberId};

use crate::{EpochKeys, Refusal};

/// Something happened that the driver acts on.
pub enum Event {
    /// A new epoch: install its inbound SAs, then say [`crate::KeyAgreement::installed`].
    Epoch(EpochKeys),
    /// Send under this epoch from now on.
    Activate {
        /// The epoch's header.
        header: Hash,
        /// Its number.
        epoch: u64,
    },
    /// Stop receiving under this epoch and forget it. If it is the one that is sent under, the next epoch comes with the
    /// same SPIs, and [`Event::Activate`] for that at once.
    Retire {
        /// The epoch's header.
        header: Hash,
    },
    /// What hellos say of the group has changed.
    State(GroupState),
    /// Hellos are to say it soon: in this group they are the acknowledgements.
    Acknowledge,
    /// Another transaction manager.
    Election {
        /// The new one.
        tm: MemberId,
        /// The first epoch under it.
        epoch: u64,
    },
    /// The own device was excluded, and is a group of one again.
    Excluded {
        /// By whom.
        by: MemberId,
    },
    /// A transaction manager has signed two headers for one epoch.
    Exposed {
        /// Who.
        tm: MemberId,
    },
    /// A message of a known device was refused.
    Refused {
        /// Whose.
        member: MemberId,
        /// Why.
        reason: Refusal,
    },
    /// The others have excluded us, as asked (or did not in time): the process can end.
    Left,
}

/// Datagrams that led to nothing, by reason, and work done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Not of this protocol, another version, not decodable.
    pub malformed: u64,
    /// Of another group.
    pub other_group: u64,
    /// Our own, reflected.
    pub reflected: u64,
    /// From a device that discovery has not met.
    pub unknown: u64,
    /// Seen before, or of another start of the sender.
    pub replayed: u64,
    /// No room to wait for the check of the signature.
    pub queue_full: u64,
    /// A wrong signature.
    pub signature: u64,
    /// Against a rule.
    pub refused: u64,
    /// Epochs entered.
    pub epochs: u64,
    /// Commits made.
    pub commits: u64,
    /// Claims made.
    pub claims: u64,
    /// Members taken in by hand-overs.
    pub joins: u64,
    /// Snapshots that brought us back.
    pub recoveries: u64,
    /// Parts of messages asked for again.
    pub repairs: u64,
    /// Blank parents keyed between commits.
    pub fills: u64,
    /// Fills that were contradicted.
    pub disputes: u64,
    /// Members' fresh leaves that commits put into the tree.
    pub refreshes: u64,
    /// Transaction managers caught with two headers for one epoch.
    pub exposures: u64,
}
