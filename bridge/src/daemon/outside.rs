//! What outlives a member, or a key server's client: what others hold on to while one follows another in the same process.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use caps::Capability;
use muster_dataplane::{Claim, KeyLedger};
use tokio::sync::{broadcast, mpsc};

use super::starting::first_address;
use super::{RunError, SetLevel, WATCHING_GENERATIONS, every, io_error, tick};
use crate::control::{Asked, Server};
use crate::metrics::Endpoint;
use crate::notifier::{Notifier, alive_interval};
use crate::privileges::keep_only;
use crate::report::Report;
use crate::rollback::Rollback;
use crate::settings::File;
use crate::signals::Signals;
use crate::watch::Watch;

/// What stays when the device becomes another member or client (another certificate, another address), or starts anew: what
/// others hold on to, and what must not be forgotten in a process's life.
pub(crate) struct Outside {
    pub(crate) signals: Signals,
    pub(crate) watch: Watch,
    pub(crate) rollback: Rollback,
    pub(crate) notifier: Notifier,
    pub(crate) asked: mpsc::Receiver<Asked>,
    pub(crate) metrics: Endpoint,
    pub(crate) report: Report,
    pub(crate) set_level: SetLevel,
    pub(crate) ledger: KeyLedger,
    pub(crate) begun: Instant,
}

impl Outside {
    /// Opens what others ask at, before there is an address: whoever asks is told what is waited for. Then gives up all that is not
    /// needed after that, but for NET_ADMIN (SAs, routes, rules), NET_RAW (sockets of protocol 50) and `more`.
    pub(crate) async fn open(
        control: &Path,
        file: &File,
        more: &[Capability],
        set_level: SetLevel,
    ) -> Result<Outside, RunError> {
        let signals = Signals::listen().map_err(io_error("cannot listen for signals"))?;
        let watch = Watch::start().map_err(io_error("cannot watch the interfaces"))?;
        let rollback = Rollback::watch().map_err(io_error(WATCHING_GENERATIONS))?;
        let server = Server::bind(control).map_err(io_error("control socket"))?;
        let (ask, asked) = mpsc::channel(16);
        let (followers, _) = broadcast::channel(256);
        tokio::spawn(server.serve(ask, followers.clone()));
        let metrics = Endpoint::open(file.metrics.as_ref()).await.map_err(io_error("metrics"))?;
        keep_only(&[&[Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW], more].concat())
            .map_err(|error| RunError::Io { what: "capabilities".into(), error: io::Error::other(error) })?;
        Ok(Outside {
            signals,
            watch,
            rollback,
            notifier: Notifier::default(),
            asked,
            metrics,
            report: Report::new(followers),
            set_level,
            ledger: KeyLedger::new(),
            begun: Instant::now(),
        })
    }

    /// Waits for an address on black, at first and between two members or clients, and lets nobody else wait for it meanwhile.
    /// `None`: told to end before.
    pub(crate) async fn next_address(&mut self, file: &File) -> Result<Option<IpAddr>, RunError> {
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
                    let _ = answer.send(Err(format!("not yet: waiting for an address on {interface}")));
                }
                // Dropped: there is nothing to tell.
                _ = self.metrics.asked() => {}
                () = tick(&mut alive) => self.notifier.alive(),
            }
        }
    }
}
