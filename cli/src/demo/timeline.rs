//! What happened when, told while it happens.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::output::{Failure, say};

/// CLOCK_MONOTONIC, the clock of the daemons' `mono_us`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(pub(crate) u64);

impl Moment {
    pub(crate) fn now() -> Result<Self, Failure> {
        let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
        // Both are positive on this clock.
        Ok(Moment(time.tv_sec() as u64 * 1_000_000 + time.tv_nsec() as u64 / 1000))
    }

    pub(crate) fn ms_since(self, earlier: Moment) -> u64 {
        self.0.saturating_sub(earlier.0) / 1000
    }
}

/// A line of the timeline.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Entry {
    at_ms: u64,
    what: String,
}

pub(crate) struct Timeline {
    start: Option<Moment>,
    aloud: bool,
    entries: Vec<Entry>,
}

impl Timeline {
    /// Its zero is the first note.
    pub(crate) fn start(aloud: bool) -> Self {
        Timeline { start: None, aloud, entries: Vec::new() }
    }

    pub(crate) fn note(&mut self, what: String) -> Result<(), Failure> {
        self.note_at(Moment::now()?, what)
    }

    /// For what is learned of only afterwards.
    pub(crate) fn note_at(&mut self, at: Moment, what: String) -> Result<(), Failure> {
        let at_ms = at.ms_since(*self.start.get_or_insert(at));
        if self.aloud {
            say(format_args!("{:7.3} s  {what}", Duration::from_millis(at_ms).as_secs_f64()))?;
        }
        self.entries.push(Entry { at_ms, what });
        Ok(())
    }

    /// In the order of time.
    pub(crate) fn entries(mut self) -> Vec<Entry> {
        self.entries.sort_by_key(|entry| entry.at_ms);
        self.entries
    }
}
