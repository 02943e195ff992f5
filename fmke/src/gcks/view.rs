//! What an operator can look at.

use std::net::IpAddr;
use std::time::Duration;

use muster_wire::Time;

use super::life::Life;
use super::machine::Gcks;
use crate::phase1::CertificateError;

impl Gcks {
    /// Whether this client is connected.
    pub fn is_connected(&self, client: &str) -> bool {
        self.sessions.contains_key(client)
    }

    /// Of a client without a return channel: the number of what it was told last, and how long ago that was. Whether it came nobody
    /// knows.
    pub fn told(&self, now: Time, client: &str) -> Option<(u32, Duration)> {
        let (number, at) = self.one_way.get(client)?.told?;
        Some((number, now.since(at)))
    }

    /// How many clients are connected.
    pub fn connected(&self) -> usize {
        self.sessions.len()
    }

    /// Whether this client is excluded.
    pub fn is_excluded(&self, client: &str) -> bool {
        self.excluded.contains(client)
    }

    /// What is wrong with the certificate by which this client was in: it has lost access until it shows another.
    pub fn lapsed(&self, client: &str) -> Option<CertificateError> {
        self.certificates.lapsed(client)
    }

    /// Which client is expected at this address.
    pub fn client_at(&self, address: IpAddr) -> Option<&str> {
        self.names.get(&address).map(String::as_str)
    }

    /// Exchanges of phase 1 that are not complete.
    pub fn exchanges(&self) -> usize {
        self.responder.exchanges()
    }

    /// Such exchanges that had to go for others, since the start.
    pub fn displaced(&self) -> u64 {
        self.responder.displaced()
    }

    /// Who has a place in a group: connected or not, it holds its keys.
    pub fn members<'a>(&'a self, group: &str) -> impl Iterator<Item = &'a str> {
        self.groups.get(group).into_iter().flat_map(|state| state.places.keys().map(String::as_str))
    }

    /// How many SAs of ESP a group has, and how old they are.
    pub fn group_sas(&self, now: Time, group: &str) -> (usize, Duration) {
        self.groups.get(group).map_or((0, Duration::ZERO), |state| (state.teks.len(), age(now, state.teks_life)))
    }

    /// The same of a VPN.
    pub fn vpn_sas(&self, now: Time, vpn: &str) -> (usize, Duration) {
        self.vpns.get(vpn).map_or((0, Duration::ZERO), |state| (state.sas.len(), age(now, state.life)))
    }
}

fn age(now: Time, life: Option<Life>) -> Duration {
    life.map_or(Duration::ZERO, |life| now.since(life.since))
}
