//! Invariant 8: a message that fails a check changes no state and triggers no message larger than itself.

use muster_wire::{Envelope, Kind, Voucher};

use super::{Check, Verdict};
use crate::{Dice, NodeView};

/// What was done to a datagram that was on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// One bit is another.
    Flip,
    /// The end is missing.
    Truncate,
    /// Something is behind the end.
    Extend,
    /// It names another group.
    OtherGroup,
    /// It names another sender.
    OtherSender,
    /// Its sender gets it back.
    Reflect,
    /// It comes again without its voucher.
    Unvouched,
    /// It comes again.
    Replay,
}

/// What a node did about it.
#[derive(Clone, Debug)]
pub struct Reaction {
    /// Before.
    pub before: NodeView,
    /// And after.
    pub after: NodeView,
    /// What the data plane was told.
    pub facts: usize,
    /// The datagram's kind, if it shows one, and length.
    pub datagram: (Option<Kind>, usize),
    /// The lengths of those that it sent.
    pub sent: Vec<usize>,
}

impl Attack {
    /// All.
    pub const ALL: [Attack; 8] = [
        Attack::Flip,
        Attack::Truncate,
        Attack::Extend,
        Attack::OtherGroup,
        Attack::OtherSender,
        Attack::Reflect,
        Attack::Unvouched,
        Attack::Replay,
    ];

    /// The datagram after the attack.
    pub fn forge(self, mut bytes: Vec<u8>, dice: &mut Dice) -> Vec<u8> {
        let start = bytes.len() - Voucher::split(&bytes).1.len();
        match self {
            Attack::Flip => {
                let bit = dice.below(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            Attack::Truncate => bytes.truncate(dice.below(bytes.len())),
            Attack::Extend => bytes.extend(&dice.seed()[..1 + dice.below(32)]),
            Attack::OtherGroup => bytes[start + 6..start + 22].copy_from_slice(&dice.seed()[..16]),
            Attack::OtherSender => bytes[start + 22..start + 54].copy_from_slice(&dice.seed()),
            Attack::Unvouched => drop(bytes.drain(..start)),
            Attack::Reflect | Attack::Replay => {}
        }
        bytes
    }
}

impl Reaction {
    /// The kind and length of a datagram.
    pub fn describe(bytes: &[u8]) -> (Option<Kind>, usize) {
        (Envelope::parse(Voucher::split(bytes).1).ok().map(|envelope| envelope.header().kind), bytes.len())
    }
}

/// Compares a node before and after each attack.
pub struct Silence;

impl Check for Silence {
    fn name(&self) -> &'static str {
        "silence"
    }

    fn attack(&mut self, attack: &Attack, reaction: &Reaction) -> Verdict {
        let Reaction { before, after, facts, datagram: (kind, length), sent } = reaction;
        let what = format!("{attack:?} of {kind:?} at node {}", before.node);
        if before != after || *facts > 0 {
            return Err(format!("{what} changes state: {before:?} to {after:?}"));
        }
        // These are answered whoever sent them, if they repeat the nonce of a recent hello; there is a limit to that.
        let answered = matches!(kind, Some(Kind::Probe | Kind::CrlRequest));
        match sent.iter().find(|sent| *sent > length && !answered) {
            Some(larger) => Err(format!("{what}, {length} bytes, makes it send {larger} bytes")),
            None => Ok(()),
        }
    }
}
