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
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use muster_certs::{Author, TrustStore};
use muster_dataplane::{EspConfig, KeyLedger, SaKind, Userspace, enable_forwarding};
use muster_wire::{MemberId, Time};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::sync::{broadcast, mpsc};
use tracing::{info, warn};

use crate::addresses::{addresses, black_address, duplicates, interface_index, red_prefixes};
use crate::alarm::Alarm;
use crate::control::{self, Asked, Request, Server};
use crate::engine::{Action, Engine, Start, StartError};
use crate::event::{EventKind, EventLine, EventLog, Record};
use crate::expiry::Expiry;
use crate::lists;
use crate::metrics;
use crate::notifier::{Notifier, alive_interval};
use crate::pace::Pace;
use crate::plane::Plane;
use crate::privileges::{drop_all_but_network, forbid_core_dumps};
use crate::rollback::Rollback;
use crate::settings::{File, Settings, SettingsError};
use crate::signals::{Signals, Told};
use crate::sockets::{Sockets, Where};
use crate::startup::next_stamp;
use crate::status::{self, Status};
use crate::trust::{Bounds, Verdict};
use crate::watch::Watch;

mod following;
mod reloading;
mod scraping;

/// How often what no event announces is looked at: the data plane's health, the wall clock.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// What the connections' tasks get to write their last lines.
const LAST_WORDS: Duration = Duration::from_millis(50);
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

/// Removes the fail-closed rules.
pub fn unblock(file: &File) -> Result<(), RunError> {
    Ok(muster_dataplane::unblock(file.dataplane.instance)?)
}

/// Runs the daemon in the foreground until it is told to leave. The block, which is to stand before, stays.
pub fn run(settings: Settings, set_level: SetLevel) -> Result<(), RunError> {
    forbid_core_dumps().map_err(io_error("prctl(PR_SET_DUMPABLE)"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(io_error("cannot start the event loop"))?;
    runtime.block_on(async {
        let mut signals = Signals::listen().map_err(io_error("cannot listen for signals"))?;
        let watch = Watch::start().map_err(io_error("cannot watch the interfaces"))?;
        let rollback = Rollback::watch().map_err(io_error("cannot watch for a new VM generation"))?;
        let mut notifier = Notifier::default();
        notifier.status(format!("waiting for an address on {}", settings.file.black.interface));
        let Some(address) = first_address(&settings.file, &watch, &mut signals).await? else { return Ok(()) };
        let outside = Outside::open(&settings, signals, (watch, rollback), notifier, set_level).await?;
        let mut daemon = Daemon::start(settings, address, outside)?;
        // With another certificate, or after a rollback, it is another daemon, in the same process.
        while let Some((settings, mut outside)) = daemon.run().await? {
            let address = first_address(&settings.file, &outside.watch, &mut outside.signals).await?;
            let Some(address) = address else { return Ok(()) };
            daemon = Daemon::start(settings, address, outside)?;
        }
        Ok(())
    })
}

/// What stays when the device takes another certificate and becomes another member, or starts anew: what others hold on
/// to, and what must not be forgotten in a process's life.
struct Outside {
    signals: Signals,
    watch: Watch,
    rollback: Rollback,
    notifier: Notifier,
    asked: mpsc::Receiver<Asked>,
    scraped: mpsc::Receiver<metrics::Scrape>,
    scrape: mpsc::Sender<metrics::Scrape>,
    metrics: Option<metrics::Server>,
    report: Report,
    set_level: SetLevel,
    ledger: KeyLedger,
    begun: Instant,
}

impl Outside {
    /// Opens what others ask at, and gives up what is not needed after that.
    async fn open(
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
            report: Report { log: EventLog::default(), followers, counts: BTreeMap::new() },
            set_level,
            ledger: KeyLedger::new(),
            begun: Instant::now(),
        })
    }
}

/// Where events go.
struct Report {
    log: EventLog,
    followers: broadcast::Sender<String>,
    counts: BTreeMap<EventKind, u64>,
}

impl Report {
    fn add(&mut self, record: &Record) {
        let member = record.member.map(|member| member.to_string()).unwrap_or_default();
        let short = &member[..member.len().min(12)];
        // `?`: a detail may hold what others have said, and stays one line.
        info!(event = ?record.kind, member = short, epoch = record.epoch, detail = ?record.detail);
        let line = EventLine::new(record, now().0, SystemTime::now());
        // Nobody may be following.
        let _ = self.followers.send(control::notification(&line));
        self.log.push(line);
        *self.counts.entry(record.kind).or_default() += 1;
    }
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
}

impl Daemon {
    fn start(settings: Settings, address: IpAddr, outside: Outside) -> Result<Daemon, RunError> {
        let file = &settings.file;
        let own = own_prefixes(file)?;
        let state_dir = settings.resolve(&file.device.state_dir);
        let stamp = next_stamp(&state_dir, SystemTime::now())
            .map_err(io_error(&format!("device.state_dir {}", state_dir.display())))?;
        enable_forwarding(&file.black.interface)?;
        let sockets =
            Sockets::open(&place_of(file, address)).map_err(io_error("cannot open the protocols' sockets"))?;
        let dataplane = Userspace::start(EspConfig {
            device: file.dataplane.device.clone(),
            black_interface: file.black.interface.clone(),
            black_address: address,
            group_address: file.group_address(),
            hop_limit: file.dataplane.hop_limit,
            copy_dscp: file.dataplane.copy_dscp,
            clear_df: file.red.clear_df,
            reds: file.red.interfaces.clone(),
            red_multicast: file.red.multicast.clone(),
            own_prefixes: own.clone(),
            instance: file.dataplane.instance,
            ledger: outside.ledger.clone(),
        })?;
        // The tunnel's device is there now, and the red interfaces may have come up meanwhile.
        muster_dataplane::block(&settings.file.block_config(own.clone()))?;
        let mut trust = settings.trust()?;
        lists::restore(&state_dir, &mut trust);
        let engine = Engine::new(start_of(&settings, trust, stamp, own.clone())?, now(), unix_seconds())?;
        info!(device = %settings.device.name, member = %settings.device.member, %address, "started");
        let home = engine.discovery().own_identity().organisation.clone();
        let bounds = Bounds::new(home, &settings.file.trust, own.clone());
        let plane = Plane::new(Box::new(dataplane), settings.file.group_address(), own.clone());
        let mut daemon = Daemon {
            outside,
            engine,
            plane,
            bounds,
            sockets,
            address,
            adrift: false,
            own_prefixes: own,
            expiry: Expiry::default(),
            member_since: BTreeMap::new(),
            epoch_since: unix_millis(),
            left: false,
            leaving: false,
            revoked: false,
            successor: None,
            unsent: 0,
            pace: Pace::default(),
            settings,
        };
        daemon.report(&Record { kind: EventKind::Blocked, member: None, epoch: 0, detail: String::new() });
        Ok(daemon)
    }

    /// Runs until it has left; what is to come after it, if anything.
    async fn run(mut self) -> Result<Option<(Settings, Outside)>, RunError> {
        let mut alarm = Alarm::new().map_err(io_error("timerfd"))?;
        let mut housekeeping = every(HOUSEKEEPING);
        let mut alive = alive_interval().map(every);
        let mut more = false;
        self.outside.notifier.ready();
        loop {
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
                () = self.sockets.readable() => {}
                () = std::future::ready(()), if more => {}
                rung = alarm.ring(now(), deadline) => {
                    rung.map_err(io_error("timerfd"))?;
                    self.engine.handle_timeout(now());
                }
                Some((request, answer)) = self.outside.asked.recv() => {
                    // Whoever asked may be gone.
                    let _ = answer.send(self.answer(&request));
                }
                Some(answer) = self.outside.scraped.recv() => {
                    let _ = answer.send(self.metrics());
                }
                changed = self.outside.watch.changed() => {
                    changed.map_err(io_error("watching the interfaces"))?;
                    self.follow_addresses();
                }
                noticed = self.outside.rollback.noticed() => {
                    noticed.map_err(io_error("watching for a new VM generation"))?;
                    return Ok(self.start_anew());
                }
                told = self.outside.signals.next() => match told {
                    Told::Reload => self.reload().await,
                    Told::End if self.leaving => return Ok(None),
                    Told::End => self.leave(),
                },
                _ = housekeeping.tick() => self.keep_house()?,
                () = tick(&mut alive) => self.outside.notifier.alive(),
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

    /// Does what the engine wants, until it wants nothing more.
    fn act(&mut self) {
        loop {
            if let Some(action) = self.engine.poll_action() {
                self.carry_out(action);
                self.share();
            } else if let Some((port, transmit)) = self.engine.poll_transmit() {
                if let Err(error) = self.sockets.send(port, &transmit) {
                    self.unsent += 1;
                    if self.unsent.is_power_of_two() {
                        warn!(%error, count = self.unsent, to = ?transmit.to, "a datagram could not be sent");
                    }
                }
            } else {
                return;
            }
        }
    }

    /// Two routers on one LAN: one of them carries its multicast.
    fn share(&mut self) {
        let me = self.settings.device.member;
        if let Some(left) = self.plane.share(me) {
            let list: Vec<String> = left.iter().map(IpNet::to_string).collect();
            let detail = if list.is_empty() { "nothing".into() } else { list.join(" ") };
            self.engine.record(EventKind::StandsBy, None, detail);
        }
    }

    fn carry_out(&mut self, action: Action) {
        let done = match action {
            Action::Install(keys) => {
                let (header, epoch) = (keys.header, keys.epoch);
                self.note_members(&keys);
                let engine = &self.engine;
                let address_of = |member: &MemberId| Some(engine.name(member)?.address?.ip());
                let installed = self.plane.install(keys, address_of);
                if installed.is_ok() {
                    self.report(&Record { kind: EventKind::Installed, member: None, epoch, detail: String::new() });
                    self.engine.installed(now(), header);
                }
                installed
            }
            Action::Activate { header } => self.plane.activate(&header, Some(self.address)),
            Action::Retire { header } => self.plane.retire(&header),
            Action::Prefixes { member, prefixes } => {
                let organisation = self.engine.name(&member).map(|name| name.organisation.clone()).unwrap_or_default();
                let verdict = self.bounds.judge(member, &organisation, prefixes);
                self.accept(member, verdict);
                // What it has given up may be what another was refused.
                for (member, verdict) in self.bounds.review_refused() {
                    self.accept(member, verdict);
                }
                Ok(())
            }
            Action::Reach { member, address } => {
                self.plane.reach(member, address);
                Ok(())
            }
            Action::Unicast(change) => {
                let own = (self.engine.discovery().own_identity().member, self.address);
                let changed = self.plane.unicast(change, own);
                if matches!(changed, Err(muster_dataplane::Error::KeyReused { .. })) {
                    // A neighbour that was forgotten and came back with the same key.
                    self.engine.renew_hello_key(now());
                }
                changed
            }
            Action::Record(record) => {
                self.report(&record);
                Ok(())
            }
            Action::Keep { issuer, list } => {
                let folder = self.settings.resolve(&self.settings.file.device.state_dir);
                if let Err(error) = lists::keep(&folder, &issuer, &list) {
                    // In force until this process ends; neighbours will bring it again.
                    warn!(%error, folder = %folder.display(), "a revocation list could not be kept");
                }
                Ok(())
            }
            Action::Left => {
                self.left = true;
                Ok(())
            }
            Action::Revoked => {
                self.revoked = true;
                Ok(())
            }
        };
        if let Err(error) = done {
            // Traffic under this epoch fails closed; the next one gets another chance.
            warn!(%error, "the data plane refused");
            self.engine.record(EventKind::Refused, None, format!("data plane: {error}"));
        }
    }

    /// Takes a verdict on what a member announces to the data plane.
    fn accept(&mut self, member: MemberId, (accepted, refused): Verdict) {
        if !refused.is_empty() {
            let all: Vec<String> = refused.iter().map(|(prefix, why)| format!("{prefix}: {why}")).collect();
            self.engine.record_refusal(now(), member, format!("prefixes: {}", all.join("; ")));
        }
        self.plane.accept(member, accepted);
    }

    fn leave(&mut self) {
        if !self.leaving {
            self.leaving = true;
            if self.successor.is_none() {
                self.outside.notifier.stopping();
            }
            info!("leaving the group");
            self.engine.leave(now());
        }
    }

    fn keep_house(&mut self) -> Result<(), RunError> {
        if let Some(why) = self.plane.dataplane().failure() {
            return Err(RunError::Ended(why));
        }
        if self.plane.dataplane().wants_rekey(SaKind::Group) {
            self.engine.rekey(now());
        }
        if self.plane.dataplane().wants_rekey(SaKind::Unicast) {
            self.engine.renew_hello_key(now());
        }
        self.engine.set_wall_clock(now(), unix_seconds());
        if self.adrift {
            self.follow_black();
        }
        if let Some(warning) = self.expiry.look(self.engine.discovery().own_identity().not_after, unix_seconds()) {
            warn!("{warning}; replace it and reload (pki issue, SIGHUP)");
            self.engine.record(EventKind::Expiring, None, warning);
        }
        Ok(())
    }

    fn answer(&mut self, request: &Request) -> Result<Value, String> {
        let json = |value: Result<Value, serde_json::Error>| value.map_err(|error| error.to_string());
        match request {
            Request::Status => json(serde_json::to_value(self.status())),
            Request::Members => {
                let since = |member: &MemberId| self.member_since.get(member).copied().unwrap_or_default();
                let own = (self.address, self.own_prefixes.as_slice());
                json(serde_json::to_value(status::members(&self.engine, &self.plane, own, since)))
            }
            Request::Neighbors => json(serde_json::to_value(status::neighbors(&self.engine, now()))),
            Request::Sas { show_keys } if *show_keys && !self.settings.file.dataplane.allow_key_export => {
                Err("keys are not shown: dataplane.allow_key_export is false in the configuration".into())
            }
            Request::Sas { show_keys } => Ok(status::sas(&self.plane, self.address, *show_keys)),
            Request::Routes => Ok(status::routes(&self.engine, &self.plane)),
            Request::Events => json(serde_json::to_value(self.outside.report.log.lines().collect::<Vec<_>>())),
            Request::Rekey => {
                self.engine.rekey(now());
                Ok(json!({}))
            }
            Request::Leave => {
                self.successor = None;
                self.leave();
                Ok(json!({}))
            }
        }
    }

    fn status(&self) -> Status {
        let own = self.engine.discovery().own_identity();
        let members = self.engine.keyagree().members().count();
        Status {
            device: own.name.clone(),
            organisation: own.organisation.clone(),
            member_id: own.member.to_string(),
            version: env!("CARGO_PKG_VERSION"),
            uptime_ms: self.outside.begun.elapsed().as_millis() as u64,
            state: match members {
                _ if self.engine.keyagree().is_joining() => "joining",
                1 => "alone",
                _ => "member",
            },
            black_address: self.address,
            certificate: status::certificate(own.not_after, unix_seconds()),
            group: status::group(&self.engine, &self.settings.file.group.name, self.epoch_since),
            dataplane: status::dataplane(&self.plane),
            revocation_lists: status::revocation_lists(&self.engine),
            datagrams: status::datagrams(&self.engine),
        }
    }

    fn note_members(&mut self, keys: &muster_keyagree::EpochKeys) {
        let at = unix_millis();
        self.epoch_since = at;
        let members: Vec<MemberId> = keys.members.iter().map(|(_, member)| *member).collect();
        self.member_since.retain(|member, _| members.contains(member));
        for member in members {
            self.member_since.entry(member).or_insert(at);
        }
    }

    fn report(&mut self, record: &Record) {
        self.outside.report.add(record);
    }
}

fn start_of(settings: &Settings, trust: TrustStore, stamp: u64, prefixes: Vec<IpNet>) -> Result<Start, RunError> {
    let file = &settings.file;
    let author = Author::new(
        settings.device.key.clone(),
        muster_keyagree::group_tag(&file.group.name),
        settings.device.member,
        stamp,
    );
    let mut seeds = [[0; 32]; 2];
    for seed in &mut seeds {
        // The system's own: the library's generator takes 70 ms of a core to begin with.
        getrandom::fill(seed).map_err(|error| io_error("random numbers")(error.into()))?;
    }
    let (discovery, keyagree) = times_of(file);
    Ok(Start { discovery, keyagree, author, chain: settings.device.chain.clone(), trust, seeds, prefixes })
}

fn place_of(file: &File, address: IpAddr) -> Where<'_> {
    Where {
        interface: &file.black.interface,
        address,
        group: file.discovery.group,
        port: file.discovery.port,
        hop_limit: file.dataplane.hop_limit,
    }
}

/// What the two protocols are told of the configuration.
fn times_of(file: &File) -> (muster_discovery::Config, muster_keyagree::Config) {
    let discovery =
        muster_discovery::Config { hello_interval: file.discovery.hello_interval, key_life: file.group.leaf_refresh };
    let keyagree = muster_keyagree::Config {
        name: file.group.name.clone(),
        hello_interval: file.discovery.hello_interval,
        batch_window: file.group.batch_window,
        activation_delay: file.group.activation_delay,
        deactivation_delay: file.group.deactivation_delay,
        lifetime: file.group.lifetime,
        leaf_refresh: file.group.leaf_refresh,
    };
    (discovery, keyagree)
}

/// The own red prefixes: as configured, or those of the red interfaces.
fn own_prefixes(file: &File) -> Result<Vec<IpNet>, RunError> {
    let red = &file.red;
    if !red.prefixes.is_empty() {
        return Ok(red.prefixes.iter().map(IpNet::trunc).collect());
    }
    red_prefixes(&red.interfaces).map_err(io_error("red.interfaces"))
}

/// Waits for an address on black that duplicate address detection has let through; `None`: told to end before.
async fn first_address(file: &File, watch: &Watch, signals: &mut Signals) -> Result<Option<IpAddr>, RunError> {
    let (black, ipv4) = (&file.black, file.discovery.group.is_ipv4());
    let what = || io_error(&format!("black.interface {}", black.interface));
    let mut told = None;
    loop {
        interface_index(&black.interface).map_err(what())?;
        let all = addresses(&black.interface).map_err(what())?;
        if let Some(address) = black_address(&all, black.address, ipv4, None) {
            return Ok(Some(address));
        }
        let why = duplicates(&all);
        if told.as_ref() != Some(&why) {
            let why = why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            warn!(interface = %black.interface, "waiting for a usable address{why}");
        }
        told = Some(why);
        tokio::select! {
            changed = watch.changed() => changed.map_err(io_error("watching the interfaces"))?,
            () = signals.end() => return Ok(None),
        }
    }
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}

async fn tick(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

/// CLOCK_MONOTONIC in microseconds: events of several daemons on one machine can be compared.
pub(crate) fn now() -> Time {
    // The clock exists on every Linux; the call has no other way to fail.
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC");
    Time(time.tv_sec() as u64 * 1_000_000 + time.tv_nsec() as u64 / 1000)
}

fn unix_seconds() -> u64 {
    unix_millis() / 1000
}

fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn io_error(what: &str) -> impl Fn(io::Error) -> RunError + use<> {
    let what = what.to_owned();
    move |error| RunError::Io { what: what.clone(), error }
}
