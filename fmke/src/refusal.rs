//! Why a datagram was refused.

use thiserror::Error;

use crate::isakmp::Malformed;
use crate::phase1::Refused;
use crate::push::PushError;

/// Why a datagram was refused. Nothing has changed then, unless it held what a client cannot use (see
/// [`Member::handle_datagram`](crate::member::Member::handle_datagram)).
#[derive(Debug, Error)]
pub enum Refusal {
    /// By phase 1.
    #[error(transparent)]
    Phase1(#[from] Refused),
    /// By phase 2 or 3.
    #[error(transparent)]
    Push(#[from] PushError),
    /// An exchange that is not for us.
    #[error("an exchange of type {0}")]
    Exchange(u8),
}

impl Refusal {
    /// Of what does not fit between the two ends in phase 1, the part of it: another secret, identity, certificate or proposal than
    /// expected, or a notification that says so. It stays so until somebody mends it at one of the ends, who is to hear of it; but
    /// some of it whoever forges the peer's address can bring about, too.
    pub fn of_peer(&self) -> Option<Refused> {
        match self {
            Refusal::Phase1(refused) => Some(*refused).filter(Refused::is_of_peer),
            _ => None,
        }
    }

    /// In one word, for counters.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::Phase1(refused) => refused.reason(),
            Refusal::Push(PushError::Malformed(_)) => "malformed",
            Refusal::Push(PushError::Crypto(_)) => "cipher",
            Refusal::Push(PushError::Authentication) => "authentication",
            Refusal::Push(PushError::Number(_)) => "number",
            Refusal::Exchange(_) => "exchange",
        }
    }
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Refusal::Push(PushError::Malformed(malformed))
    }
}
