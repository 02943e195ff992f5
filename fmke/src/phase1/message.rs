//! What goes in and out of the state machines.

use std::net::SocketAddr;

use zeroize::Zeroizing;

use super::Failed;
use crate::isakmp::{Cookie, Header, Identity, Malformed, Raw, payloads};

/// The two cookies that an SA of phase 1 is called by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SaId {
    /// The key server's.
    pub responder: Cookie,
    /// The member's.
    pub initiator: Cookie,
}

impl SaId {
    /// Of a message with this header.
    pub fn of(header: &Header) -> Self {
        SaId { responder: header.responder, initiator: header.initiator }
    }

    /// Both, as an SPI of ISAKMP has them (RFC 2408 3.14).
    pub fn octets(self) -> [u8; 16] {
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&self.initiator.0);
        octets[8..].copy_from_slice(&self.responder.0);
        octets
    }
}

/// To be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Where to.
    pub to: SocketAddr,
    /// The payload of UDP.
    pub bytes: Vec<u8>,
}

/// The certificates by which somebody has shown who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownChain {
    /// DER: its own first.
    pub chain: Vec<Vec<u8>>,
    /// The last second at which they count (Unix).
    pub until: u64,
}

/// What happened to SAs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is one. A member's earlier one stays for a while, for what is under way.
    Established {
        /// Which.
        sa: SaId,
        /// Whom with.
        peer: Identity,
        /// Where that peer is.
        address: SocketAddr,
        /// By what it has shown who it is; with a secret there are none.
        certificates: Option<ShownChain>,
        /// Of what was before, the member knows nothing (`INITIAL-CONTACT`).
        began_anew: bool,
    },
    /// One is no more.
    Closed {
        /// Which.
        sa: SaId,
        /// Whom it was with.
        peer: Identity,
        /// Why.
        why: Closed,
    },
    /// The server did not answer, or did not show who it is: tried again after a while.
    Failed(Failed),
}

/// Why an SA ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// Its lifetime is over.
    #[error("its lifetime is over")]
    Expired,
    /// The peer said so.
    #[error("the other end has ended it")]
    Deleted,
    /// The peer is silent.
    #[error("the other end does not answer any more")]
    Dead,
    /// A later one with the same peer took its place.
    #[error("another one took its place")]
    Replaced,
    /// The peer began anew: of what was before it knows nothing.
    #[error("the other end began anew")]
    Restarted,
    /// By command.
    #[error("by command")]
    Commanded,
    /// The peer's certificate no longer counts.
    #[error("the other end's certificate no longer counts")]
    Distrusted,
}

/// A message of another exchange than those of phase 1, decrypted. Its HASH is not checked yet.
pub struct Message {
    /// Under which SA.
    pub sa: SaId,
    /// Its header.
    pub header: Header,
    pub(super) first: u8,
    pub(super) plaintext: Zeroizing<Vec<u8>>,
}

impl Message {
    /// Its payloads.
    ///
    /// # Errors
    /// As [`payloads`]: it was changed on its way.
    pub fn payloads(&self) -> Result<Vec<Raw<'_>>, Malformed> {
        payloads(self.first, &self.plaintext, true)
    }
}
