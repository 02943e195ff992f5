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

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Refusal::Push(PushError::Malformed(malformed))
    }
}
