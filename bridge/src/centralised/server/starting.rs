//! From a configuration to a key server, at the start and after what is stored was changed behind its back.

use std::io;
use std::time::{Duration, Instant};

use muster_fmke::crypto::SecretBytes;
use muster_fmke::gcks::Gcks;
use muster_fmke::phase1::CertificateError;
use muster_fmke::phase1::x509::ListError;
use muster_wire::Time;
use tokio::net::UdpSocket;
use tokio::sync::{broadcast, mpsc};
use tracing::{error, info, warn};

use super::{RETRY, ROLLED_BACK, Server};
use crate::centralised::misfits::Misfits;
use crate::centralised::refusals::Refusals;
use crate::centralised::settings::GcksSettings;
use crate::centralised::socket;
use crate::centralised::store::{Store, StoreFault};
use crate::clock::{now, unix_seconds};
use crate::control;
use crate::daemon::{RunError, SetLevel, WATCHING_GENERATIONS, io_error};
use crate::event::EventKind;
use crate::expiry::Expiry;
use crate::metrics::Endpoint;
use crate::notifier::Notifier;
use crate::privileges::keep_only;
use crate::report::Report;
use crate::rollback::Rollback;
use crate::signals::Signals;

/// While the address is not there yet.
const WAIT: Duration = Duration::from_millis(100);

/// A machine that is what its store says.
pub(super) struct Working {
    pub(super) machine: Gcks,
    pub(super) store: Store,
}

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error(transparent)]
    Store(#[from] StoreFault),
    #[error(transparent)]
    Content(#[from] muster_fmke::gcks::StoreError),
    #[error("random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// What the configuration names, by what is stored.
    #[error("gcks.crls: {0}")]
    Lists(#[from] ListError),
}

impl Server {
    /// `None`: told to end before there was an address.
    pub(super) async fn start(
        settings: GcksSettings,
        mut signals: Signals,
        set_level: SetLevel,
    ) -> Result<Option<Server>, RunError> {
        let Some(socket) = bind(&settings, &mut signals).await? else { return Ok(None) };
        let control = control::Server::bind(&settings.control()).map_err(io_error("control socket"))?;
        let rollback = Rollback::watch().map_err(io_error(WATCHING_GENERATIONS))?;
        let (ask, asked) = mpsc::channel(16);
        let (followers, _) = broadcast::channel(256);
        tokio::spawn(control.serve(ask, followers.clone()));
        let metrics = Endpoint::open(settings.metrics.as_ref()).await.map_err(io_error("metrics"))?;
        // Ports below 1024 are bound; what comes now takes nothing that any user could not do.
        keep_only(&[]).map_err(|error| RunError::Io { what: "capabilities".into(), error: io::Error::other(error) })?;
        let working = Working::open(&settings)
            .map_err(|error| RunError::Io { what: "the key server's state".into(), error: io::Error::other(error) })?;
        let address = settings.machine().address;
        info!(%address, clients = settings.profiles.clients.len(), "the key server has started");
        let mut server = Server {
            settings,
            set_level,
            signals,
            rollback,
            notifier: Notifier::default(),
            socket,
            buffer: vec![0; socket::LONGEST],
            asked,
            report: Report::new(followers),
            begun: Instant::now(),
            working: Some(working),
            retry: Time(0),
            is_rolled_back: false,
            expiry: Expiry::default(),
            waiting: Vec::new(),
            refused: Refusals::default(),
            misfits: Misfits::default(),
            unsent: 0,
            metrics,
            transactions: 0,
            failures: 0,
        };
        server.tell(EventKind::Started, String::new());
        Ok(Some(server))
    }

    /// This machine was rolled back to a snapshot, or copied: what it would draw at random, it may have drawn before.
    pub(super) fn start_anew(&mut self) {
        warn!("this machine was rolled back to a snapshot, or copied: new keys for all groups");
        self.tell(EventKind::RolledBack, String::new());
        self.refuse_waiting(ROLLED_BACK);
        self.working = None;
        self.is_rolled_back = true;
        self.open();
    }

    /// Makes a machine of what is stored.
    pub(super) fn open(&mut self) {
        match Working::open(&self.settings) {
            Ok(mut working) => {
                // What is stored others may have had from the machine that this one is a copy of.
                if self.is_rolled_back {
                    working.machine.rekey(now(), None);
                }
                info!("what is stored was read again");
                self.working = Some(working);
            }
            Err(why) => {
                error!("the store cannot be used: {why}");
                self.retry = now() + RETRY;
            }
        }
    }
}

impl Working {
    /// From what is stored; what is new at the start is stored, too.
    pub(super) fn open(settings: &GcksSettings) -> Result<Working, Unusable> {
        let store = Store::open(&settings.state_dir())?;
        let mut seed = SecretBytes::zeros(32);
        getrandom::fill(seed.as_mut_bytes())?;
        let stored = store.load()?;
        let machine = Gcks::new(now(), unix_seconds(), settings.machine(), settings.profiles.clone(), stored, &seed)?;
        let mut working = Working { machine, store };
        working.enforce(settings)?;
        working.review(settings);
        Ok(working)
    }

    /// The revocation lists of this configuration are in force from now on.
    pub(super) fn enforce(&mut self, settings: &GcksSettings) -> Result<(), ListError> {
        settings.known.certificates.anchors().map_or(Ok(()), |anchors| self.machine.enforce(anchors))
    }

    /// Who is in by a certificate that no longer counts goes.
    pub(super) fn review(&mut self, settings: &GcksSettings) {
        let GcksSettings { profiles, known, .. } = settings;
        self.machine.review(now(), |client, chain| {
            let client = profiles.clients.get(client).ok_or(CertificateError::Name)?;
            known.check_again(client.address, chain)
        });
    }
}

/// Waits for the address: duplicate address detection takes a second, an interface may come later.
async fn bind(settings: &GcksSettings, signals: &mut Signals) -> Result<Option<UdpSocket>, RunError> {
    let gcks = &settings.gcks;
    let mut told = false;
    loop {
        match socket::unicast(&gcks.interface, gcks.address, gcks.port, gcks.hop_limit) {
            Ok(socket) => return Ok(Some(socket)),
            Err(error) if error.kind() != io::ErrorKind::AddrNotAvailable => {
                return Err(io_error("gcks.address")(error));
            }
            Err(error) if !told => {
                warn!("waiting for the address: {error}");
                told = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(WAIT) => {}
            () = signals.end() => return Ok(None),
        }
    }
}
