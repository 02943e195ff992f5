//! Where a daemon is asked for its metrics, if anywhere: the address may become another while it runs.

use std::io;
use std::net::SocketAddr;

use tokio::sync::mpsc;

use super::server::{Listener, Scrape, Server};
use crate::settings::MetricsSection;

/// The end of it in the daemon's task.
pub(crate) struct Endpoint {
    ask: mpsc::Sender<Scrape>,
    asked: mpsc::Receiver<Scrape>,
    server: Option<(SocketAddr, Server)>,
}

/// What a configuration makes of the address: what can fail has been done.
pub(crate) enum Rebind {
    /// Nothing.
    Same,
    /// Nobody is answered any longer.
    Close,
    /// Who asks at this address is.
    Move(SocketAddr, Listener),
}

impl Endpoint {
    /// Nobody is answered yet.
    pub(crate) fn closed() -> Endpoint {
        let (ask, asked) = mpsc::channel(1);
        Endpoint { ask, asked, server: None }
    }

    /// As a configuration has it.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub(crate) async fn open(section: Option<&MetricsSection>) -> io::Result<Endpoint> {
        let mut endpoint = Endpoint::closed();
        let rebind = endpoint.prepare(section).await?;
        endpoint.take(rebind);
        Ok(endpoint)
    }

    /// Binds another address than now, if the configuration has another. Until it is [taken](Self::take) all is as before.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub(crate) async fn prepare(&self, section: Option<&MetricsSection>) -> io::Result<Rebind> {
        match (section.map(|section| section.listen), self.server.as_ref().map(|(listen, _)| *listen)) {
            (wanted, now) if wanted == now => Ok(Rebind::Same),
            (None, _) => Ok(Rebind::Close),
            (Some(listen), _) => Ok(Rebind::Move(listen, Listener::bind(listen).await?)),
        }
    }

    /// Makes the change.
    pub(crate) fn take(&mut self, rebind: Rebind) {
        self.server = match rebind {
            Rebind::Same => return,
            Rebind::Close => None,
            Rebind::Move(listen, listener) => Some((listen, Server::start(listener, self.ask.clone()))),
        };
    }

    /// The next question, and where its answer goes.
    pub(crate) async fn asked(&mut self) -> Scrape {
        match self.asked.recv().await {
            Some(scrape) => scrape,
            // We hold the other end ourselves.
            None => std::future::pending().await,
        }
    }
}
