//! Why a member's attempt came to nothing.

use thiserror::Error;

use super::Refused;

/// Why an attempt came to nothing. Most of it may be the doing of whoever can send from the key server's address and sees what
/// passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Failed {
    /// Nobody answered the first message. A key server does not say why ("Errors", 3 of the specification).
    #[error(
        "no answer: the key server is down or out of reach, has excluded us, has no client at our address, or takes nothing of what \
         we offer"
    )]
    Silent,
    /// The first message was answered, and not the next.
    #[error("no answer to the second message: the key server is too busy, or gone")]
    Broken,
    /// Nor what shows who we are, the last message.
    #[error(
        "the key server does not take what shows who we are: it expects another secret, identity or certificate; which, its own \
         events say"
    )]
    NotTaken,
    /// What came in answer did not fit.
    #[error("what came from the key server's address was refused: {0}")]
    Refused(Refused),
}

impl Failed {
    /// In one word.
    pub fn reason(&self) -> &'static str {
        match self {
            Failed::Silent => "silent",
            Failed::Broken => "broken",
            Failed::NotTaken => "not_taken",
            Failed::Refused(refused) => refused.reason(),
        }
    }
}
