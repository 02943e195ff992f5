//! The daemon: one task that owns everything and turns inputs into actions.
//!
//! ```text
//!  UDP sockets ──► Engine (discovery + key agreement) ──► UDP sockets
//!  time        ──►        │ actions                   ──► Plane ──► Dataplane (threads of its own)
//!  control     ──►        └ records                   ──► event log, `events --follow`, log
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use muster_dataplane::SaKind;
use muster_wire::MemberId;
use thiserror::Error;
use tracing::{info, warn};

use crate::alarm::Alarm;
use crate::clock::{now, unix_seconds};
use crate::engine::{Engine, StartError};
use crate::event::{EventKind, Record};
use crate::expiry::Expiry;
use crate::notifier::alive_interval;
use crate::pace::Pace;
use crate::plane::Plane;
use crate::privileges::forbid_core_dumps;
use crate::settings::{File, Settings, SettingsError};
use crate::signals::Told;
use crate::sockets::Sockets;
use crate::trust::Bounds;
use crate::worn::Worn;
use starting::{place_of, times_of};

pub(crate) use outside::Outside;
pub(crate) use starting::{own_prefixes, start_dataplane};

mod acting;
mod answering;
mod following;
mod outside;
mod reloading;
mod scraping;
mod starting;

/// How often what no event announces is looked at: the data plane's health, the wall clock.
pub(crate) const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// What the connections' tasks get to write their last lines.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(50);
/// What was being done when it failed.
pub(crate) const WATCHING_GENERATIONS: &str = "watching for a new VM generation";

/// Why a daemon did not start, or ended.
#[derive(Debug, Error)]
pub enum RunError {
    /// A thing of the configuration that shows only now.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The own certificate, the own prefixes.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Devices, sockets, rules.
    #[error(transparent)]
    Dataplane(#[from] muster_dataplane::Error),
    /// The rest of the machine.
    #[error("{what}: {error}")]
    Io {
        /// What was being done.
        what: String,
        /// What came of it.
        error: io::Error,
    },
    /// The nation has expelled this device.
    #[error("the certificate of {device} is revoked: this device has left the group; give it another one")]
    Revoked {
        /// Its name.
        device: String,
    },
    /// The data plane has ended by itself.
    #[error("the data plane has ended: {0}")]
    Ended(String),
}

/// Changes the level of the log: error, warn, info, debug or trace.
pub type SetLevel = Box<dyn Fn(&str)>;

/// Sets the fail-closed rules.
pub fn block(file: &File) -> Result<(), RunError> {
    muster_dataplane::block(&file.block_config(own_prefixes(file)?))?;
    Ok(())
}

/// Removes the fail-closed rules of an instance.
pub fn unblock(instance: u8) -> Result<(), RunError> {
    Ok(muster_dataplane::unblock(instance)?)
}

/// Runs the daemon in the foreground until it is told to leave. The block, which is to stand before, stays.
pub fn run(settings: Settings, set_level: SetLevel) -> Result<(), RunError> {
    block_on(async {
        let control = settings.file.control(&settings.path);
        let mut outside = Outside::open(&control, &settings.file, &[], set_level).await?;
        let Some(address) = outside.next_address(&settings.file).await? else { return Ok(()) };
        let mut daemon = Daemon::start(settings, address, outside)?;
        // With another certificate, or after a rollback, it is another daemon, in the same process.
        while let Some((settings, mut outside)) = daemon.run().await? {
            let Some(address) = outside.next_address(&settings.file).await? else { return Ok(()) };
            daemon = Daemon::start(settings, address, outside)?;
        }
        Ok(())
    })
}

/// Runs a daemon on this thread, with its secrets in no core dump.
pub(crate) fn block_on(daemon: impl Future<Output = Result<(), RunError>>) -> Result<(), RunError> {
    forbid_core_dumps().map_err(io_error("prctl(PR_SET_DUMPABLE)"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(io_error("cannot start the event loop"))?;
    runtime.block_on(daemon)
}

struct Daemon {
    outside: Outside,
    settings: Settings,
    engine: Engine,
    plane: Plane,
    bounds: Bounds,
    sockets: Sockets,
    address: IpAddr,
    /// Black has no address that could be used; the last one stands in `address`.
    adrift: bool,
    own_prefixes: Vec<IpNet>,
    expiry: Expiry,
    /// When each member was first seen in the group, and the current epoch's beginning (Unix milliseconds).
    member_since: BTreeMap<MemberId, u64>,
    epoch_since: u64,
    left: bool,
    leaving: bool,
    revoked: bool,
    /// With another certificate: what comes when this member has left.
    successor: Option<Settings>,
    unsent: u64,
    pace: Pace,
    worn: Worn,
}

impl Daemon {
    /// Runs until it has left; what is to come after it, if anything.
    async fn run(mut self) -> Result<Option<(Settings, Outside)>, RunError> {
        let mut alarm = Alarm::new().map_err(io_error("timerfd"))?;
        let mut housekeeping = every(HOUSEKEEPING);
        let mut alive = alive_interval().map(every);
        let mut more = false;
        self.outside.notifier.ready();
        loop {
            // A process goes on where its snapshot stopped it, which may be anywhere here.
            if self.outside.rollback.has_happened().map_err(io_error(WATCHING_GENERATIONS))? {
                return Ok(self.start_anew());
            }
            self.act();
            if self.revoked {
                return Err(RunError::Revoked { device: self.settings.device.name.clone() });
            }
            if self.left {
                return Ok(self.finish().await);
            }
            self.tell_status();
            let mut deadline = self.engine.poll_timeout();
            // What is due comes before what others send: a flood is always readable.
            if deadline.is_some_and(|at| at <= now()) {
                self.engine.handle_timeout(now());
                self.act();
                deadline = self.engine.poll_timeout();
            }
            if more {
                // Whoever asks at the control socket is served by tasks beside this one, which would wait for as long as
                // something is readable.
                tokio::task::yield_now().await;
            }
            tokio::select! {
                // Datagrams are taken after whatever it was: who sends without end keeps nothing else from being seen.
                biased;
                noticed = self.outside.rollback.noticed() => {
                    noticed.map_err(io_error(WATCHING_GENERATIONS))?;
                    return Ok(self.start_anew());
                }
                told = self.outside.signals.next() => match told {
                    // What comes of it is in the log and an event.
                    Told::Reload => drop(self.reload().await),
                    // Again: at once. On the way to another certificate it is not again.
                    Told::End if self.leaving && self.successor.take().is_none() => return Ok(None),
                    Told::End => self.leave(),
                },
                rung = alarm.ring(now(), deadline) => {
                    rung.map_err(io_error("timerfd"))?;
                    self.engine.handle_timeout(now());
                }
                _ = housekeeping.tick() => self.keep_house()?,
                () = tick(&mut alive) => self.outside.notifier.alive(),
                changed = self.outside.watch.changed() => {
                    changed.map_err(io_error("watching the interfaces"))?;
                    self.follow_addresses();
                }
                Some((request, answer)) = self.outside.asked.recv() => {
                    // Whoever asked may be gone.
                    let _ = answer.send(self.answer(&request).await);
                }
                answer = self.outside.metrics.asked() => {
                    let _ = answer.send(self.metrics());
                }
                () = self.sockets.readable() => {}
                () = std::future::ready(()), if more => {}
            }
            more = self.take_datagrams();
        }
    }

    /// For the service manager.
    fn tell_status(&mut self) {
        let state = self.engine.keyagree().group_state();
        let members = self.engine.keyagree().members().count();
        let name = &self.settings.file.group.name;
        self.outside.notifier.status(match members {
            _ if self.leaving => format!("leaving {name:?}"),
            1 => format!("alone in {name:?}"),
            _ => format!("one of {members} members of {name:?}, epoch {}", state.epoch),
        });
    }

    /// The machine was rolled back. What this process holds may have been used since its snapshot, so nothing more goes
    /// out under it, not even a farewell: another startup stamp and other secrets join, and the others exclude these.
    fn start_anew(mut self) -> Option<(Settings, Outside)> {
        warn!("this machine was rolled back to a snapshot, or copied: starting anew");
        self.report(&Record { kind: EventKind::RolledBack, member: None, epoch: 0, detail: String::new() });
        let Daemon { outside, plane, settings, successor, leaving, .. } = self;
        drop(plane);
        (!leaving || successor.is_some()).then_some((successor.unwrap_or(settings), outside))
    }

    async fn finish(mut self) -> Option<(Settings, Outside)> {
        self.report(&Record { kind: EventKind::Stopped, member: None, epoch: 0, detail: String::new() });
        if let Some(settings) = self.successor.take() {
            return Some((settings, self.outside));
        }
        info!("left the group; the block stays");
        // Answers under way, that to `leave` itself, and the last events are still to be written.
        tokio::time::sleep(LAST_WORDS).await;
        None
    }

    /// Receives and handles a bounded number of datagrams; whether more wait.
    fn take_datagrams(&mut self) -> bool {
        let (engine, at) = (&mut self.engine, now());
        let mut taken = 0;
        let more = self.sockets.receive(self.pace.taken(), |port, from, bytes| {
            taken += 1;
            engine.handle_datagram(at, port, from, bytes);
        });
        let handled = self.pace.handled(taken);
        self.pace.note(more);
        let all = (0..handled).all(|_| {
            let waits = self.engine.process(now());
            // An answer does not wait for the work that others make.
            self.act();
            waits
        });
        all || more
    }

    fn leave(&mut self) {
        if self.successor.is_none() {
            self.outside.notifier.stopping();
        }
        if !self.leaving {
            self.leaving = true;
            info!("leaving the group");
            self.engine.leave(now());
        }
    }

    fn keep_house(&mut self) -> Result<(), RunError> {
        if let Some(why) = self.plane.dataplane().failure() {
            return Err(RunError::Ended(why));
        }
        for (kind, _) in self.worn.news(self.plane.dataplane().worn()) {
            match kind {
                SaKind::Group => self.engine.rekey(now()),
                SaKind::Unicast => self.engine.renew_hello_key(now()),
            }
        }
        self.engine.set_wall_clock(now(), unix_seconds());
        if self.adrift {
            self.follow_black();
        }
        if let Some(warning) = self.expiry.look(self.engine.discovery().own_identity().not_after, unix_seconds()) {
            warn!("{warning}; replace it and reload (muster pki issue, muster reload)");
            self.engine.record(EventKind::Expiring, None, warning);
        }
        Ok(())
    }

    fn report(&mut self, record: &Record) {
        self.outside.report.add(record);
    }
}

pub(crate) fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}

pub(crate) async fn tick(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

pub(crate) fn io_error(what: &str) -> impl Fn(io::Error) -> RunError + use<> {
    let what = what.to_owned();
    move |error| RunError::Io { what: what.clone(), error }
}
