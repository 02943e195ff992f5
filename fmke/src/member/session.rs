//! Phase 2 at the member: what comes under one SA of phase 1, and its acknowledgement (draft 3.1, 3.2).

use std::time::Duration;

use muster_wire::Time;

use crate::isakmp::{Chain, kind};
use crate::phase1::SaId;
use crate::push::{Gathering, Push, PushError, Taken, Window};

/// "the member sends periodically acknowledgement messages" (draft 1.0): one for all that comes within so long.
const DELAY: Duration = Duration::from_millis(50);

pub(super) struct Session {
    pub(super) sa: SaId,
    window: Window<Push>,
    /// What is told of traffic, in parts.
    pub(super) spd: Gathering,
    /// When the next acknowledgement goes.
    due: Option<Time>,
}

impl Session {
    pub(super) fn new(sa: SaId) -> Self {
        // "Thus the first packet sent in a phase 2 will have a Sequence Number of 1." (draft 7.5)
        Session { sa, window: Window::new(1), spd: Gathering::default(), due: None }
    }

    /// A message, found authentic: what it says, with what had waited for it, in order; and whether it was not here before.
    pub(super) fn take(&mut self, now: Time, number: u32, push: Push) -> Result<(Vec<Push>, bool), PushError> {
        let (pushes, is_new, wait) = match self.window.take(number, push) {
            Taken::InOrder(pushes) => (pushes, true, DELAY),
            // One is missing, or our acknowledgement was: the server waits for nothing else.
            Taken::Early => (Vec::new(), true, Duration::ZERO),
            Taken::Repeated => (Vec::new(), false, Duration::ZERO),
            Taken::Beyond => return Err(PushError::Number(number)),
        };
        let at = now + wait;
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
        Ok((pushes, is_new))
    }

    /// When to ask [`due`](Self::due).
    pub(super) fn timeout(&self) -> Option<Time> {
        self.due
    }

    /// `ACK [, SACK…]`, if it is due by `now`.
    pub(super) fn due(&mut self, now: Time) -> Option<Chain> {
        self.due.take_if(|due| *due <= now)?;
        let mut chain = Chain::new();
        // "the sequence number of the last correctly received message" (draft 3.2): it and all before it are here.
        chain.add(kind::ACK, &self.window.acknowledged().to_be_bytes());
        // More than these the window does not hold apart; a message of 1,280 octets takes them all.
        for range in self.window.beyond() {
            chain.add(kind::SACK, &range.to_body());
        }
        Some(chain)
    }
}
