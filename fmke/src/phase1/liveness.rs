//! Whether the peer is still there (RFC 3706).

use std::time::Duration;

use muster_wire::Time;
use rand_core::CryptoRng;

use super::Refused;

/// When a silent peer is asked, and when it is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// Nothing authentic came from it for so long: it is asked whether it is there.
    pub idle: Duration,
    /// It is asked again after so long without an answer.
    pub retry: Duration,
    /// It is asked so often before it counts as dead.
    pub tries: u32,
}

impl Default for Liveness {
    /// Dead after half a minute.
    fn default() -> Self {
        Liveness { idle: Duration::from_secs(20), retry: Duration::from_secs(2), tries: 5 }
    }
}

/// One peer under observation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    heard: Time,
    /// The number of the last question, asked or not.
    number: u32,
    asked: Option<Asked>,
    /// The number of its last question.
    theirs: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    message_id: u32,
    at: Time,
    tries: u32,
}

/// What is to be done about a silent peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    /// Ask with this message id and number: the same of both when asked again.
    Ask(u32, u32),
    Dead,
}

impl Watch {
    pub(super) fn new(now: Time, rng: &mut impl CryptoRng) -> Self {
        // At random, so that nobody foresees it, and without the first bit, so that it does not overflow (RFC 3706 6.2).
        Watch { heard: now, number: rng.next_u32() >> 1, asked: None, theirs: None }
    }

    /// Something authentic came.
    pub(super) fn heard(&mut self, now: Time) {
        self.heard = self.heard.max(now);
        self.asked = None;
    }

    /// An answer came.
    pub(super) fn answered(&mut self, now: Time, number: u32) -> Result<(), Refused> {
        if self.asked.is_none() || number != self.number {
            return Err(Refused::Replay);
        }
        self.heard(now);
        Ok(())
    }

    /// A question came. The last one may come again, for its answer may be lost; an earlier one is a replay, and our own one
    /// an echo, whose answer would tell us that we live.
    pub(super) fn questioned(&mut self, now: Time, message_id: u32, number: u32) -> Result<(), Refused> {
        let is_echo = self.asked.is_some_and(|asked| asked.message_id == message_id);
        match self.theirs {
            _ if is_echo => Err(Refused::Replay),
            Some(last) if number < last => Err(Refused::Replay),
            Some(last) if number == last => Ok(()),
            _ => {
                self.theirs = Some(number);
                self.heard(now);
                Ok(())
            }
        }
    }

    /// When to ask [`Watch::step`].
    pub(super) fn due(&self, settings: &Liveness) -> Time {
        match self.asked {
            Some(asked) => asked.at + settings.retry,
            None => self.heard + settings.idle,
        }
    }

    pub(super) fn step(&mut self, now: Time, settings: &Liveness, rng: &mut impl CryptoRng) -> Step {
        if now < self.due(settings) {
            return Step::Wait;
        }
        let asked = match self.asked {
            Some(asked) if asked.tries >= settings.tries => return Step::Dead,
            Some(asked) => Asked { at: now, tries: asked.tries + 1, ..asked },
            None => {
                self.number = self.number.wrapping_add(1);
                Asked { message_id: message_id(rng), at: now, tries: 1 }
            }
        };
        self.asked = Some(asked);
        Step::Ask(asked.message_id, self.number)
    }
}

/// Not 0, which is phase 1's.
pub(super) fn message_id(rng: &mut impl CryptoRng) -> u32 {
    rng.next_u32().max(1)
}
