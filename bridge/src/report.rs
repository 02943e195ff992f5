//! What has happened: in the log, in memory for who asks later, to those who follow, and as numbers.

use std::collections::BTreeMap;
use std::time::SystemTime;

use tokio::sync::broadcast;
use tracing::{info, warn};

use crate::clock::now;
use crate::control;
use crate::event::{EventKind, EventLine, EventLog, Record};

/// Where events go.
pub(crate) struct Report {
    pub(crate) log: EventLog,
    pub(crate) followers: broadcast::Sender<String>,
    pub(crate) counts: BTreeMap<EventKind, u64>,
}

impl Report {
    pub(crate) fn new(followers: broadcast::Sender<String>) -> Self {
        Report { log: EventLog::default(), followers, counts: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, record: &Record) {
        let member = record.member.map(|member| member.to_string()).unwrap_or_default();
        let short = &member[..member.len().min(12)];
        // `?`: a detail may hold what others have said, and stays one line.
        match record.kind {
            // What an operator has to do something about, or to know.
            EventKind::Refused | EventKind::ReloadRefused | EventKind::Bypass => {
                warn!(event = record.kind.name(), member = short, epoch = record.epoch, detail = ?record.detail);
            }
            _ => info!(event = record.kind.name(), member = short, epoch = record.epoch, detail = ?record.detail),
        }
        let line = EventLine::new(record, now().0, SystemTime::now());
        // Nobody may be following.
        let _ = self.followers.send(control::notification(&line));
        self.log.push(line);
        *self.counts.entry(record.kind).or_default() += 1;
    }
}
