//! What the parts of the key server share while it handles one input.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use muster_wire::Time;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::oneway::Terminal;
use super::profile::Client;
use super::store::Write;
use crate::crypto::rekey::RekeySigner;

pub(crate) struct Context<'a> {
    pub(crate) doi: u32,
    /// Where the key server is, to whom negative acknowledgements go.
    pub(crate) server: SocketAddr,
    pub(crate) signer: &'a RekeySigner,
    pub(crate) clients: &'a BTreeMap<String, Client>,
    /// Of them, those without a return channel.
    pub(super) one_way: &'a BTreeMap<String, Terminal>,
    /// SPIs of all SAs of ESP.
    pub(crate) spis: &'a mut BTreeSet<u32>,
    pub(crate) rng: &'a mut ChaCha20Rng,
    pub(crate) calendar: Calendar,
    /// SAs of ESP that are taken away, and how long somebody may still hold them.
    pub(crate) gone: &'a mut BTreeMap<u32, Time>,
    /// To be stored before anything that came of the input is sent.
    pub(crate) writes: &'a mut Vec<Write>,
}

/// What the wall clock showed when the machine was started: times in the store outlive the machine's own.
#[derive(Clone, Copy)]
pub(crate) struct Calendar {
    pub(crate) started: Time,
    /// Unix seconds.
    pub(crate) unix: u64,
}

impl Calendar {
    /// Unix seconds.
    pub(crate) fn unix(&self, at: Time) -> u64 {
        self.unix.saturating_add(at.since(self.started).as_secs())
    }

    /// The time of the machine, for what is to come.
    pub(crate) fn later(&self, unix: u64) -> Time {
        self.started + Duration::from_secs(unix.saturating_sub(self.unix))
    }

    /// The time of the machine, for what has been: what is long past is its beginning, and what the clock, set back meanwhile, says
    /// is still to come is now.
    pub(crate) fn time(&self, unix: u64) -> Time {
        self.started - Duration::from_secs(self.unix.saturating_sub(unix))
    }
}

impl Context<'_> {
    /// An SPI that no SA has.
    pub(crate) fn new_spi(&mut self) -> u32 {
        loop {
            let spi = self.rng.next_u32();
            // Up to 255 they are reserved (RFC 4303 2.1).
            if spi > 255 && self.spis.insert(spi) {
                return spi;
            }
        }
    }

    /// An SA of ESP is taken away. Who does not hear of it now hears when it connects.
    pub(crate) fn bury(&mut self, spi: u32, until: Time) {
        self.gone.insert(spi, until);
        self.writes.push(Write::gone(spi, self.calendar.unix(until)));
    }

    /// 0 is phase 1's.
    pub(crate) fn new_message_id(&mut self) -> u32 {
        self.rng.next_u32().max(1)
    }

    /// Where a client is. It is one: profiles are checked as a whole.
    pub(crate) fn address(&self, client: &str) -> Option<IpAddr> {
        self.clients.get(client).map(|client| client.address)
    }
}
