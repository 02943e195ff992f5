//! How a member makes good what it missed of phase 3.

use muster_wire::Time;
use rand_core::Rng;

use crate::isakmp::Range;
use crate::push::{NackDue, NackTimer, PatientWindow, Push, Taken, Window};

/// What has come under one re-key SA.
pub(super) enum Reception {
    /// What is missing is asked for (draft 4.2).
    Asking {
        /// Waits for it.
        window: Window<Push>,
        /// When that is done.
        nacks: NackTimer,
    },
    /// Without a return channel: it comes again by itself, or is lost (draft 6.1).
    Waiting(PatientWindow<Push>),
}

/// What is to be done now.
pub(super) enum Due {
    /// Nothing yet.
    Nothing,
    /// Say what is missing.
    Ask(Vec<Range>),
    /// Take these, though something before them is missing.
    Take(Vec<Push>),
    /// The key server does not answer.
    Lost,
}

impl Reception {
    /// Of an SA whose next message is `next`.
    pub(super) fn new(can_ask: bool, next: u32) -> Self {
        match can_ask {
            true => Reception::Asking { window: Window::new(next), nacks: NackTimer::default() },
            false => Reception::Waiting(PatientWindow::new(next)),
        }
    }

    /// The same for another SA.
    pub(super) fn restart(&self, next: u32) -> Self {
        Self::new(matches!(self, Reception::Asking { .. }), next)
    }

    /// Whether a message with this number would be taken.
    pub(super) fn wants(&self, number: u32) -> bool {
        match self {
            Reception::Asking { window, .. } => window.wants(number),
            Reception::Waiting(window) => window.wants(number),
        }
    }

    /// Takes an authentic message: what is to be done now, in order.
    pub(super) fn take(&mut self, now: Time, number: u32, push: Push) -> Vec<Push> {
        match self {
            Reception::Asking { window, .. } => match window.take(number, push) {
                Taken::InOrder(pushes) => pushes,
                Taken::Early | Taken::Repeated | Taken::Beyond => Vec::new(),
            },
            Reception::Waiting(window) => window.take(now, number, push),
        }
    }

    /// Something has come; `last` is the highest number that there is. `before` is what [`next`](Self::next) was before it came.
    pub(super) fn update(&mut self, now: Time, before: u32, last: u32, rng: &mut impl Rng) {
        if let Reception::Asking { window, nacks } = self {
            nacks.update(now, window.next() <= last, window.next() > before, rng);
        }
    }

    /// The number that is handed on next.
    pub(super) fn next(&self) -> u32 {
        match self {
            Reception::Asking { window, .. } => window.next(),
            Reception::Waiting(window) => window.next(),
        }
    }

    /// When to ask [`due`](Self::due).
    pub(super) fn timeout(&self) -> Option<Time> {
        match self {
            Reception::Asking { nacks, .. } => nacks.timeout(),
            Reception::Waiting(window) => window.timeout(),
        }
    }

    /// What is due by `now`; `last` as above.
    pub(super) fn due(&mut self, now: Time, last: u32, rng: &mut impl Rng) -> Due {
        match self {
            Reception::Asking { window, nacks } => match nacks.due(now, rng) {
                NackDue::Nothing => Due::Nothing,
                NackDue::Ask => Due::Ask(window.missing(last)),
                NackDue::Lost => Due::Lost,
            },
            Reception::Waiting(window) => match window.due(now) {
                pushes if pushes.is_empty() => Due::Nothing,
                pushes => Due::Take(pushes),
            },
        }
    }
}
