//! What a push carries and how it arrives: phases 2 and 3.

mod message;
mod multicast;
mod nack;
mod patient;
mod rekey_sa;
mod repeater;
mod spd;
mod unicast;
mod window;

use std::time::Duration;

use thiserror::Error;

use crate::crypto::CryptoError;
use crate::isakmp::Malformed;

pub(crate) use message::{Filling, Push};
pub(crate) use multicast::MulticastSender;
pub(crate) use nack::{Due as NackDue, NackTimer};
pub(crate) use patient::PatientWindow;
pub(crate) use rekey_sa::{Opened, RekeyKeys};
pub(crate) use repeater::Repeater;
pub(crate) use spd::Gathering;
pub use spd::{MOST_SPD_ENTRIES, Spd};
pub(crate) use unicast::{Due as UnicastDue, UnicastSender};
pub(crate) use window::{Taken, Window};

/// Groups of one client, at most: it listens for each at a socket of its own, and a key server that has gone mad is not to use up
/// what the process may open.
pub(crate) const MOST_GROUPS: usize = 256;
/// A group whose last number was not told for so long, three times the period of that, is not received any longer.
pub(crate) const SILENCE: Duration = Duration::from_secs(95);
/// Between the copies of one message for members without a return channel, and of them there are so many (draft 6.1): all have
/// come before a sender takes a new SA, with the activation delay of 2 s that there is by default.
pub(crate) const SPACING: Duration = Duration::from_millis(400);
/// "e.g. 3 times" (draft 6.1).
pub(crate) const COPIES: u8 = 3;
/// A member that cannot ask waits so long for a message that later ones have overtaken: for its copies, the last of which left
/// 800 ms after the first, and half a second of what ways differ by.
pub(crate) const PATIENCE: Duration = Duration::from_millis(1300);

/// Why a message of phase 2 or 3 is refused. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PushError {
    /// Its form.
    #[error("malformed: {0}")]
    Malformed(#[from] Malformed),
    /// What it is encrypted with.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    /// A wrong hash, or a wrong signature.
    #[error("not authentic")]
    Authentication,
    /// Seen before, or too far ahead.
    #[error("its number {0} is not awaited")]
    Number(u32),
}
