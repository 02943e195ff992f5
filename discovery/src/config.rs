//! What the operator sets, and the protocol's constants.

use std::time::Duration;

use muster_certs::CertError;
use thiserror::Error;

/// What the operator sets.
#[derive(Clone, Debug)]
pub struct Config {
    /// Between two periodic hellos, 50 ms to 60 s, whole milliseconds. A device is gone after four of its own.
    pub hello_interval: Duration,
    /// How long a hello key lives; at least eight intervals, whatever stands here.
    pub key_life: Duration,
}

/// Why a device cannot take part.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SetupError {
    /// Outside 50 ms to 60 s.
    #[error("the hello interval must be 50 ms to 60 s, not {0:?}")]
    Interval(Duration),
    /// No certificate, more than four, or one of more than 2,048 bytes.
    #[error("the certificate chain must be one to four certificates of at most 2,048 bytes each")]
    Chain,
    /// The others would refuse it too.
    #[error("the own certificate: {0}")]
    Certificate(#[from] CertError),
    /// The author's member id or key is not the certificate's.
    #[error("the private key does not belong to the certificate")]
    Key,
}

pub(crate) fn check_interval(interval: Duration) -> Result<(), SetupError> {
    match (MIN_INTERVAL..=MAX_INTERVAL).contains(&interval) {
        true => Ok(()),
        false => Err(SetupError::Interval(interval)),
    }
}

/// The shortest interval that a hello may state.
pub(crate) const MIN_INTERVAL: Duration = Duration::from_millis(50);
/// The longest.
pub(crate) const MAX_INTERVAL: Duration = Duration::from_secs(60);
/// Silence of this many of its own intervals, and a neighbour is gone (paper, section 5).
pub(crate) const DEAD_INTERVALS: u32 = 4;
/// Periodic hellos are early or late by at most this part of the interval, so that routers do not fall into step.
pub(crate) const JITTER_PART: u32 = 20;
/// Hellos for a change of the group's state keep this distance.
pub(crate) const TRIGGER_SPACING: Duration = Duration::from_millis(50);
/// A member's hello for a change of its group waits up to this for each neighbour that will check it.
pub(crate) const SPREAD: Duration = Duration::from_millis(1);
/// Own nonces that a probe may repeat. A neighbour about to give us up knows one that is four or five hellos old, and
/// must still be able to ask.
pub(crate) const RECENT_NONCES: usize = 8;
/// So many later ones make the hello that a candidate is asked about an old one: half of those recent, for at its sender it is
/// older by what is under way or was lost.
pub(crate) const OLD_NONCES: u32 = RECENT_NONCES as u32 / 2;
/// A goodbye is sent so often: a lost one costs the others four intervals.
pub(crate) const GOODBYES: usize = 3;

/// Probes for suspects are never closer than this.
pub(crate) const MIN_SUSPECT_SPACING: Duration = Duration::from_millis(6);

/// A candidate is asked again after this, doubling …
pub(crate) const FIRST_RETRY: Duration = Duration::from_millis(50);
/// … up to this …
pub(crate) const LAST_RETRY: Duration = Duration::from_secs(2);
/// … by a timer so often; after that only when it says hello again …
pub(crate) const TIMED_ASKS: u32 = 6;
/// … as if it had been asked so often before: at once, and three times more.
pub(crate) const ASKS_FOR_A_HELLO: u32 = 2;
/// A candidate that has not said hello for so long is forgotten.
pub(crate) const CANDIDATE_LIFE: Duration = Duration::from_secs(120);
/// Candidates at once.
pub(crate) const MAX_CANDIDATES: usize = 1024;

/// A refused device may try again after this.
pub(crate) const REFUSED_HOLD: Duration = Duration::from_secs(60);
/// A refused device that has not said hello for so long is forgotten.
pub(crate) const REFUSED_LIFE: Duration = Duration::from_secs(300);
/// A hello key lives for so many own intervals at least: the neighbours are to have followed before the next one comes.
pub(crate) const KEY_INTERVALS: u32 = 8;
/// Neighbours at once.
pub(crate) const MAX_UP: usize = 1024;
/// Gone neighbours remembered.
pub(crate) const MAX_GONE: usize = 1024;
/// Refused devices remembered.
pub(crate) const MAX_REFUSED: usize = 256;

/// Parts of a revocation list that one request brings a neighbour …
pub(crate) const PARTS_FOR_NEIGHBOR: usize = 16;
/// … and anybody else: less than a certificate chain may have.
pub(crate) const PARTS_FOR_STRANGER: usize = 4;

/// Prefixes not acknowledged are sent again after this or a hello interval, whichever is less, so often …
pub(crate) const PREFIX_RETRY: Duration = Duration::from_millis(200);
/// … and then after a time that doubles: what is lost delays a newcomer's traffic, and a neighbour that does not answer
/// costs nothing in the long run …
pub(crate) const PREFIX_PROMPT: u32 = 4;
/// … up to so many hello intervals.
pub(crate) const PREFIX_RETRY_INTERVALS: u32 = 8;
