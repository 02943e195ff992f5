//! What the operator is told, in the order in which it happened.

use std::collections::VecDeque;
use std::time::SystemTime;

use muster_wire::MemberId;
use serde::{Deserialize, Serialize};

/// Records kept for `muster events`.
const KEPT: usize = 1000;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The daemon runs.
    Started,
    /// The block stands.
    Blocked,
    /// The first hello has left.
    HelloSent,
    /// A device came up; the own one at the start. With a key server: a group was entered.
    Join,
    /// A device is gone. With a key server: a group was left.
    Leave,
    /// A device is back with the same process.
    Restore,
    /// A device's red prefixes have changed.
    Prefixes,
    /// A new epoch's key is known.
    Epoch,
    /// Its inbound SAs are in place.
    Installed,
    /// It is sent under.
    Activated,
    /// Another transaction manager.
    Election,
    /// The own device was excluded. At a key server: a client was, or its certificate lapsed.
    Excluded,
    /// The multicast of these own prefixes is carried by another router of their LAN from now on; `nothing`: all is ours.
    StandsBy,
    /// A newer revocation list has come from a neighbour; the detail is its organisation and number.
    RevocationList,
    /// A message, a certificate or an announcement was refused; with a key server also: it does not answer.
    Refused,
    /// Another address on black, or none.
    Address,
    /// The configuration was read again and is in force; what has changed.
    Reloaded,
    /// The configuration was read again and is not in force; why.
    ReloadRefused,
    /// This virtual machine was rolled back to a snapshot: the daemon starts anew.
    RolledBack,
    /// The own certificate ends soon.
    Expiring,
    /// Client and key server have shown each other who they are.
    Connected,
    /// They are connected no longer.
    Disconnected,
    /// A group of the key server has new keys.
    Rekeyed,
    /// A group of the key server is not received any longer.
    Lost,
    /// What goes unprotected by the key server's policy, from now on; `nothing`: nothing does.
    Bypass,
    /// The key server could not keep, or make, what it was to.
    Failed,
    /// The daemon ends.
    Stopped,
}

impl EventKind {
    /// As in `muster events`.
    pub(crate) fn name(self) -> String {
        // A unit variant is a text.
        serde_json::to_value(self).ok().and_then(|name| Some(name.as_str()?.to_owned())).unwrap_or_default()
    }
}

/// What happened to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What.
    pub kind: EventKind,
    /// To whom, if to one.
    pub member: Option<MemberId>,
    /// In which epoch.
    pub epoch: u64,
    /// More, in words.
    pub detail: String,
}

/// A line of `muster events --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventLine {
    /// RFC 3339, UTC, microseconds.
    pub time: String,
    /// CLOCK_MONOTONIC in microseconds.
    pub mono_us: u64,
    /// What.
    pub event: EventKind,
    /// Member id, 64 hex digits, or null.
    pub member: Option<String>,
    /// The epoch.
    pub epoch: u64,
    /// More, in words.
    pub detail: String,
}

impl EventLine {
    /// Stamps a record.
    pub fn new(record: &Record, mono_us: u64, time: SystemTime) -> Self {
        Self {
            time: humantime::format_rfc3339_micros(time).to_string(),
            mono_us,
            event: record.kind,
            member: record.member.map(|member| member.to_string()),
            epoch: record.epoch,
            detail: record.detail.clone(),
        }
    }
}

/// The last 1,000 lines.
#[derive(Default)]
pub struct EventLog(VecDeque<EventLine>);

impl EventLog {
    /// Adds a line; the oldest goes.
    pub fn push(&mut self, line: EventLine) {
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back(line);
    }

    /// All lines, the oldest first.
    pub fn lines(&self) -> impl Iterator<Item = &EventLine> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn the_log_keeps_the_last_thousand() {
        let mut log = EventLog::default();
        for epoch in 0..1500 {
            let record = Record { kind: EventKind::Epoch, member: None, epoch, detail: String::new() };
            log.push(EventLine::new(&record, epoch, UNIX_EPOCH));
        }
        assert_eq!(log.lines().count(), KEPT);
        assert_eq!(log.lines().next().unwrap().epoch, 500);
    }
}
