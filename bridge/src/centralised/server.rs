//! The key server as a daemon: one task that owns the machine, its store and its socket.
//!
//! ```text
//!  UDP, time, control ──► Gcks ──► writes ──► Store (on the disk) ──► only then: UDP, events
//! ```

use std::path::Path;
use std::time::{Duration, Instant};

use muster_fmke::gcks::Event;
use muster_fmke::phase1::Refused;
use muster_wire::Time;
use serde_json::Value;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info, warn};

use super::misfits::Misfits;
use super::refusals::Refusals;
use super::settings::GcksSettings;
use super::socket;
use crate::alarm::Alarm;
use crate::clock::{now, unix_seconds};
use crate::control::Asked;
use crate::daemon::{
    HOUSEKEEPING, LAST_WORDS, RunError, SetLevel, WATCHING_GENERATIONS, block_on, every, io_error, tick,
};
use crate::event::{EventKind, Record};
use crate::expiry::Expiry;
use crate::metrics::Endpoint;
use crate::notifier::{Notifier, alive_interval};
use crate::report::Report;
use crate::rollback::Rollback;
use crate::signals::{Signals, Told};

mod answering;
mod reloading;
mod scraping;
mod starting;
#[cfg(test)]
mod tests;

use starting::Working;

/// So many datagrams are answered by one transaction at most.
const BURST: usize = 1024;
/// Why an order was not done.
const UNWRITABLE: &str = "the store cannot be written: see the log";
const ROLLED_BACK: &str = "this machine was rolled back to a snapshot, or copied: nothing of it was done";
/// After a transaction that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Runs the key server in the foreground until it is told to end.
///
/// # Errors
/// A configuration, a store or a socket that cannot be.
pub fn run_gcks(config: &Path, set_level: SetLevel) -> Result<(), RunError> {
    block_on(async {
        let settings = GcksSettings::load(config)?;
        settings.remarks().for_each(|remark| warn!("{remark}"));
        let signals = Signals::listen().map_err(io_error("cannot listen for signals"))?;
        match Server::start(settings, signals, set_level).await? {
            Some(server) => server.run().await,
            None => Ok(()),
        }
    })
}

struct Server {
    settings: GcksSettings,
    set_level: SetLevel,
    signals: Signals,
    rollback: Rollback,
    notifier: Notifier,
    socket: UdpSocket,
    buffer: Vec<u8>,
    asked: mpsc::Receiver<Asked>,
    report: Report,
    begun: Instant,
    /// `None` after a transaction that failed, until the store can be read again.
    working: Option<Working>,
    /// When that is tried.
    retry: Time,
    /// The machine was rolled back, and new keys for all are not stored yet.
    is_rolled_back: bool,
    expiry: Expiry,
    /// Answers to orders, given when what came of them is on the disk.
    waiting: Vec<(oneshot::Sender<Result<Value, String>>, Value)>,
    refused: Refusals,
    /// By client, why what came from its address was refused.
    misfits: Misfits<Refused>,
    unsent: u64,
    metrics: Endpoint,
    /// Transactions of the store, and those that failed.
    transactions: u64,
    failures: u64,
}

impl Server {
    async fn run(mut self) -> Result<(), RunError> {
        let mut alarm = Alarm::new().map_err(io_error("timerfd"))?;
        let mut housekeeping = every(HOUSEKEEPING);
        let mut alive = alive_interval().map(every);
        let mut more = false;
        self.notifier.ready();
        loop {
            // A process goes on where its snapshot stopped it, which may be anywhere here: what was drawn since is not for use.
            if self.rollback.has_happened().map_err(io_error(WATCHING_GENERATIONS))? {
                self.start_anew();
            }
            self.settle();
            self.tell_status();
            let deadline = match &self.working {
                Some(working) => working.machine.poll_timeout(),
                None => Some(self.retry),
            };
            if more {
                tokio::task::yield_now().await;
            }
            tokio::select! {
                _ = self.socket.readable() => {}
                () = std::future::ready(()), if more => {}
                rung = alarm.ring(now(), deadline) => rung.map_err(io_error("timerfd"))?,
                Some((request, answer)) = self.asked.recv() => self.answer(request, answer).await,
                answer = self.metrics.asked() => {
                    // Whoever asked may be gone.
                    let _ = answer.send(self.metrics());
                }
                noticed = self.rollback.noticed() => {
                    noticed.map_err(io_error(WATCHING_GENERATIONS))?;
                    self.start_anew();
                }
                told = self.signals.next() => match told {
                    Told::Reload => drop(self.reload().await),
                    Told::End => return self.finish().await,
                },
                _ = housekeeping.tick() => self.keep_house(),
                () = tick(&mut alive) => self.notifier.alive(),
            }
            more = self.take_datagrams();
            self.handle_time();
        }
    }

    /// Takes what has come; whether more waits.
    fn take_datagrams(&mut self) -> bool {
        let Server { working, settings, refused, misfits, socket, buffer, .. } = self;
        let (known, at, mut news) = (&settings.known, now(), Vec::new());
        let more = socket::receive(socket, buffer, BURST, |from, bytes| {
            // Without a machine it is lost; clients say it again.
            let Some(Working { machine, .. }) = working else { return };
            let Err(refusal) = machine.handle_datagram(at, from, bytes, known) else { return };
            refused.add(from, &refusal);
            // Of strangers nobody hears: they would say what is heard.
            if let (Some(why), Some(client)) = (refusal.of_peer(), machine.client_at(from.ip()))
                && misfits.is_news(at, client, why.reason(), why)
            {
                news.push(format!("{client}: what came from its address {from} was refused: {why}"));
            }
        });
        news.into_iter().for_each(|detail| self.tell(EventKind::Refused, detail));
        more
    }

    fn handle_time(&mut self) {
        let at = now();
        match &mut self.working {
            Some(Working { machine, .. }) if machine.poll_timeout().is_some_and(|due| due <= at) => {
                machine.handle_timeout(at)
            }
            None if self.retry <= at => self.open(),
            _ => {}
        }
    }

    /// What has come of all inputs goes to the disk at once, and only then out.
    fn settle(&mut self) {
        let Some(Working { machine, store }) = &mut self.working else { return self.refuse_waiting(UNWRITABLE) };
        let writes = machine.poll_writes();
        if !writes.is_empty() {
            if let Err(why) = store.commit(&writes) {
                // The machine is ahead of the disk. No key that is not there leaves: all of it is forgotten.
                error!("{why}; nothing of it was sent, and what is stored is read again");
                self.failures += 1;
                self.working = None;
                self.retry = now() + RETRY;
                self.tell(EventKind::Failed, format!("the store: {why}"));
                return self.refuse_waiting(UNWRITABLE);
            }
            self.transactions += 1;
        }
        self.is_rolled_back = false;
        while let Some(datagram) = machine.poll_transmit() {
            if let Err(why) = socket::send(&self.socket, datagram.to, &datagram.bytes) {
                self.unsent += 1;
                debug!(to = %datagram.to, "not sent: {why}");
            }
        }
        let events: Vec<Event> = std::iter::from_fn(|| machine.poll_event()).collect();
        for event in events {
            if let Event::Connected { client, .. } = &event {
                self.misfits.forget(client);
            }
            self.tell(kind_of(&event), event.to_string());
        }
        for (answer, value) in self.waiting.drain(..) {
            // Whoever asked may be gone.
            let _ = answer.send(Ok(value));
        }
    }

    fn keep_house(&mut self) {
        if let Some(Working { machine, .. }) = &mut self.working {
            // It may have been set since: a machine without a clock of its own starts in the past.
            machine.set_clock(now(), unix_seconds());
        }
        let end = self.settings.known.certificates.end();
        if let Some(warning) = end.and_then(|end| self.expiry.look(end, unix_seconds())) {
            warn!("{warning}; replace it and reload (muster gcks reload)");
            self.tell(EventKind::Expiring, warning);
        }
    }

    fn refuse_waiting(&mut self, why: &str) {
        for (answer, _) in self.waiting.drain(..) {
            let _ = answer.send(Err(why.to_owned()));
        }
    }

    async fn finish(mut self) -> Result<(), RunError> {
        self.notifier.stopping();
        self.tell(EventKind::Stopped, String::new());
        info!("the key server ends; clients keep what they hold");
        tokio::time::sleep(LAST_WORDS).await;
        Ok(())
    }

    /// For the service manager.
    fn tell_status(&mut self) {
        let status = match &self.working {
            Some(Working { machine, .. }) => {
                let clients = self.settings.profiles.clients.len();
                format!("{} of {clients} clients are connected", machine.connected())
            }
            None => "the store cannot be written".to_owned(),
        };
        self.notifier.status(status);
    }

    fn tell(&mut self, kind: EventKind, detail: String) {
        self.report.add(&Record { kind, member: None, epoch: 0, detail });
    }
}

fn kind_of(event: &Event) -> EventKind {
    match event {
        Event::Connected { .. } => EventKind::Connected,
        Event::Closed { .. } => EventKind::Disconnected,
        Event::Rekeyed { .. } => EventKind::Rekeyed,
        Event::Excluded { .. } | Event::Lapsed { .. } => EventKind::Excluded,
        Event::Failed { .. } => EventKind::Failed,
    }
}
