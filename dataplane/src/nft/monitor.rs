//! Puts our tables back: whoever loads rules of his own may flush all others before.

use std::os::fd::AsFd;

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::is_about;
use crate::Error;
use crate::netlink::batch::BatchSocket;
use crate::netlink::listener::Listener;
use crate::stop::Stop;

const NFNLGRP_NFTABLES: u32 = 7;

/// A table of ours.
pub(crate) struct Watched {
    name: String,
    /// Of the socket that we change it by: what that does is announced, too.
    port: u32,
    restore: Box<dyn FnMut() -> Result<(), Error> + Send>,
}

impl Watched {
    /// `restore` is called when somebody else may have changed it: to look what is there, and to set what is not.
    pub(crate) fn new(
        name: String,
        socket: &BatchSocket,
        restore: impl FnMut() -> Result<(), Error> + Send + 'static,
    ) -> Self {
        Watched { name, port: socket.port(), restore: Box::new(restore) }
    }
}

/// Listens to the announcements of nf_tables.
pub(crate) struct TableMonitor(Listener);

impl TableMonitor {
    /// To be opened before the tables are set: what happens from then on it hears of.
    pub(crate) fn open() -> Result<Self, Error> {
        Listener::open(NETLINK_NETFILTER, &[NFNLGRP_NFTABLES], "listening to the kernel's packet filter")
            .map(TableMonitor)
    }

    /// Until it is to stop, or a table cannot be restored. What others do with tables of their own costs a look at its name.
    pub(crate) fn run(&self, tables: &mut [Watched], stop: &Stop) -> Result<(), Error> {
        while stop.wait(self.0.as_fd()).map_err(Error::io(|| "waiting for the packet filter".into()))? {
            let mut touched = vec![false; tables.len()];
            let is_missed = self.0.take(|message| {
                for (table, touched) in tables.iter().zip(&mut touched) {
                    *touched |= message.port != table.port && is_about(&message, &table.name);
                }
            });
            if is_missed.map_err(Error::io(|| "reading the packet filter's announcements".into()))? {
                touched.fill(true);
            }
            for (table, _) in tables.iter_mut().zip(touched).filter(|(_, touched)| *touched) {
                (table.restore)()?;
            }
        }
        Ok(())
    }
}
