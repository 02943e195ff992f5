//! What the machine tells its driver.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use muster_certs::{CertError, Identity};
use muster_wire::idp::GroupState;
use muster_wire::{Hash, MemberId, Nonce};
use thiserror::Error;

/// What has happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The joining device reports itself, too (paper, section 5); once, at the start.
    SelfJoined,
    /// The first hello has left.
    HelloSent,
    /// A neighbour has come up: its certificate is valid and it has signed our nonce.
    Joined {
        /// The neighbour.
        member: MemberId,
        /// Its certificate's.
        identity: Identity,
        /// Its process's.
        startup: u64,
        /// Where it was heard.
        address: SocketAddr,
        /// A new process, or one that was away.
        kind: JoinKind,
    },
    /// A neighbour is not there any more. One that is silent may be back, with all that is known of it; else
    /// [`Event::Over`] follows.
    Gone {
        /// The neighbour.
        member: MemberId,
        /// Why.
        reason: GoneReason,
    },
    /// The run of a neighbour that was up or silent is over here: what it announced and the keys shared with it count no
    /// longer.
    Over {
        /// The neighbour.
        member: MemberId,
    },
    /// An up neighbour's verified hello.
    Heard {
        /// The neighbour.
        member: MemberId,
        /// Where it was heard.
        address: SocketAddr,
        /// Its process's startup stamp.
        startup: u64,
        /// A request to it repeats this.
        nonce: Nonce,
        /// Its own hello interval.
        interval: Duration,
        /// What it says of its group.
        group: GroupState,
    },
    /// The own hello key is another: so are the keys of the unicast SAs with every neighbour.
    Renewed,
    /// A neighbour has shown that it holds our hello key: it receives what we send under keys from it.
    Confirmed {
        /// The neighbour.
        member: MemberId,
    },
    /// A neighbour knows that we hold its present hello key: it has acknowledged what we sealed under it.
    Assured {
        /// The neighbour.
        member: MemberId,
    },
    /// A device cannot be a neighbour. Once for each reason, as long as it is remembered.
    Refused {
        /// The device.
        member: MemberId,
        /// Where it was heard.
        address: SocketAddr,
        /// Why.
        reason: Refusal,
    },
    /// What a neighbour's red side is now.
    PrefixesChanged {
        /// The neighbour.
        member: MemberId,
        /// All of them; replaces the last.
        prefixes: Vec<IpNet>,
    },
    /// A neighbour's announcement is not accepted.
    PrefixesRefused {
        /// The neighbour.
        member: MemberId,
        /// Why.
        reason: PrefixError,
    },
    /// A newer revocation list has come and is in force. To be kept over restarts.
    ListTaken {
        /// Who brought it.
        from: MemberId,
        /// Whose it is; see [`muster_certs::RevocationList::issuer`].
        issuer: Hash,
        /// The same in words.
        organisation: String,
        /// Its number.
        number: u64,
        /// The list.
        der: Vec<u8>,
    },
    /// A neighbour has brought a revocation list that is none.
    ListRefused {
        /// Who brought it.
        from: MemberId,
        /// Why.
        reason: ListError,
    },
    /// The own certificate is revoked. The machine has said goodbye and does nothing more.
    SelfRevoked,
}

/// Why a revocation list is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ListError {
    /// Malformed, or not signed by a trust anchor.
    #[error("{0}")]
    Invalid(#[from] CertError),
    /// Older than its bringer's hello says.
    #[error("not the list that was named")]
    NotAsNamed,
}

/// How a neighbour came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    /// Never seen before, or its process has been started anew.
    Join,
    /// The same process was gone for at least the dead time.
    Restore,
}

/// Why a neighbour is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoneReason {
    /// No sign of life for four of its intervals.
    Silent,
    /// It said so.
    Goodbye,
    /// Its process was started anew; [`Event::Joined`] follows.
    Restarted,
    /// Its certificate has come to its end; [`Event::Refused`] follows.
    CertificateExpired,
    /// The trust anchors or revocation lists have changed; [`Event::Refused`] follows.
    CertificateRefused,
}

/// Why a device cannot be a neighbour.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// Its chain does not validate.
    #[error("{0}")]
    Certificate(#[from] CertError),
    /// Its X25519 key is of low order.
    #[error("its public key is of low order")]
    WeakKey,
}

/// Why a list of prefixes is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PrefixError {
    /// More than 64.
    #[error("more than 64 prefixes")]
    TooMany,
    /// Not sealed for us, or no list.
    #[error("does not open or decode")]
    Malformed,
    /// Family, length or host bits.
    #[error("not a prefix: family {family}, length {length}")]
    NotAPrefix {
        /// As received.
        family: u8,
        /// As received.
        length: u8,
    },
    /// Default route, multicast, loopback, link-local, unspecified.
    #[error("{0} is not a network that a router may announce")]
    Forbidden(IpNet),
}
