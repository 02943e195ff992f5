//! Why a datagram was not taken.

use thiserror::Error;

use super::CertificateError;
use crate::isakmp::{Malformed, error_name};

/// Why a datagram was not taken. Nothing changed by it, and whoever sent it learns nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// It is no message.
    #[error("malformed: {0}")]
    Malformed(#[from] Malformed),
    /// Nobody is expected at the address that it came from.
    #[error("from an address that is nobody's")]
    UnknownAddress,
    /// Its cookies are those of no exchange and no SA.
    #[error("of no SA")]
    UnknownSa,
    /// A message that this exchange is not waiting for, or a second one with other bytes.
    #[error("out of place")]
    OutOfPlace,
    /// Nothing of what was offered is accepted; what was chosen had not been offered.
    #[error("no acceptable proposal")]
    NoProposal,
    /// More than may be computed now.
    #[error("too many at a time")]
    Busy,
    /// A key that Diffie-Hellman cannot use.
    #[error("an unusable public key")]
    Key,
    /// Not under the keys of the SA, or changed on its way; a secret that differs from ours.
    #[error("not authentic")]
    Authentication,
    /// Somebody else than expected at that address.
    #[error("another identity than expected")]
    Identity,
    /// A certificate that is not taken.
    #[error("certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// Seen before, or an echo of our own.
    #[error("a replay")]
    Replay,
    /// A notification of an error, in clear: whoever sees what passes can have sent it, so nothing comes of it.
    #[error("a notification that anybody can have sent: {}", error_name(*.0))]
    Notified(u16),
}

impl Refused {
    /// Whether the two ends do not fit together, as when their secrets differ: that stays so until somebody mends it at one of them.
    /// Who can send from the peer's address, or sees what passes, can bring it about, too.
    pub(crate) fn is_of_peer(&self) -> bool {
        match self {
            Refused::NoProposal
            | Refused::Authentication
            | Refused::Identity
            | Refused::Certificate(_)
            | Refused::Notified(_) => true,
            Refused::Malformed(_)
            | Refused::UnknownAddress
            | Refused::UnknownSa
            | Refused::OutOfPlace
            | Refused::Busy
            | Refused::Key
            | Refused::Replay => false,
        }
    }

    /// In one word, of counters and of what operators' programs read.
    pub fn reason(&self) -> &'static str {
        match self {
            Refused::Malformed(_) => "malformed",
            Refused::UnknownAddress => "unknown_address",
            Refused::UnknownSa => "unknown_sa",
            Refused::OutOfPlace => "out_of_place",
            Refused::NoProposal => "no_proposal",
            Refused::Busy => "busy",
            Refused::Key => "key",
            Refused::Authentication => "authentication",
            Refused::Identity => "identity",
            Refused::Certificate(_) => "certificate",
            Refused::Replay => "replay",
            Refused::Notified(_) => "notification",
        }
    }
}
