//! What outlives a member: what others hold on to while one follows another in the same process.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use muster_dataplane::{Claim, KeyLedger};
use tokio::sync::{broadcast, mpsc};
use tracing::{info, warn};

use super::starting::first_address;
use super::{RunError, SetLevel, every, io_error, now, tick};
use crate::control::{self, Asked, Server};
use crate::event::{EventKind, EventLine, EventLog, Record};
use crate::metrics;
use crate::notifier::{Notifier, alive_interval};
use crate::privileges::drop_all_but_network;
use crate::rollback::Rollback;
use crate::settings::{File, Settings};
use crate::signals::Signals;
use crate::watch::Watch;

/// What stays when the device takes another certificate and becomes another member, or starts anew: what others hold on
/// to, and what must not be forgotten in a process's life.
pub(super) struct Outside {
    pub(super) signals: Signals,
    pub(super) watch: Watch,
    pub(super) rollback: Rollback,
    pub(super) notifier: Notifier,
    pub(super) asked: mpsc::Receiver<Asked>,
    pub(super) scraped: mpsc::Receiver<metrics::Scrape>,
    pub(super) scrape: mpsc::Sender<metrics::Scrape>,
    pub(super) metrics: Option<metrics::Server>,
    pub(super) report: Report,
    pub(super) set_level: SetLevel,
    pub(super) ledger: KeyLedger,
    pub(super) begun: Instant,
}

impl Outside {
    /// Opens what others ask at, and gives up what is not needed after that.
    pub(super) async fn open(
        settings: &Settings,
        signals: Signals,
        (watch, rollback): (Watch, Rollback),
        notifier: Notifier,
        set_level: SetLevel,
    ) -> Result<Outside, RunError> {
        let control = settings.resolve(&settings.file.device.control);
        let server = Server::bind(&control).map_err(io_error("control socket"))?;
        let (ask, asked) = mpsc::channel(16);
        let (followers, _) = broadcast::channel(256);
        tokio::spawn(server.serve(ask, followers.clone()));
        let (scrape, scraped) = mpsc::channel(1);
        let metrics = match &settings.file.metrics {
            Some(section) => Some(metrics::Listener::bind(section.listen).await.map_err(io_error("metrics"))?),
            None => None,
        };
        let metrics = metrics.map(|listener| metrics::Server::start(listener, scrape.clone()));
        drop_all_but_network()
            .map_err(|error| RunError::Io { what: "capabilities".into(), error: io::Error::other(error) })?;
        Ok(Outside {
            signals,
            watch,
            rollback,
            notifier,
            asked,
            scraped,
            scrape,
            metrics,
            report: Report::new(followers),
            set_level,
            ledger: KeyLedger::new(),
            begun: Instant::now(),
        })
    }

    /// Waits for an address on black, at first and between two members, and lets nobody else wait for it meanwhile. `None`:
    /// told to end before.
    pub(super) async fn next_address(&mut self, file: &File) -> Result<Option<IpAddr>, RunError> {
        // Until a data plane runs, which takes it: nobody unblocks meanwhile.
        let _claim = Claim::take(file.dataplane.instance)?;
        let interface = &file.black.interface;
        self.notifier.status(format!("waiting for an address on {interface}"));
        let mut address = std::pin::pin!(first_address(file, &self.watch, &mut self.signals));
        let mut alive = alive_interval().map(every);
        loop {
            tokio::select! {
                found = &mut address => return found,
                Some((_, answer)) = self.asked.recv() => {
                    // Whoever asked may be gone.
                    let _ = answer.send(Err(format!("no member now: waiting for an address on {interface}")));
                }
                // Dropped: there is nothing to tell.
                Some(_) = self.scraped.recv() => {}
                () = tick(&mut alive) => self.notifier.alive(),
            }
        }
    }
}

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
            EventKind::Refused | EventKind::Bypass => {
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
