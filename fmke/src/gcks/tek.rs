//! SAs of ESP at the key server.

use std::net::IpAddr;
use std::time::Duration;

use muster_wire::Time;

use super::context::Context;
use super::life::Life;
use super::profile::{FlowSelector, Vpn};
use super::store::Write;
use crate::crypto::SecretBytes;
use crate::isakmp::{Delete, KeyPacket, PreservedAddress, TrafficSa, key_type, tek_key};

/// Octets of an AES-256 key and of the salt (RFC 4106 8.1).
pub(super) const KEY_LEN: usize = 36;

/// SAs that one took the place of and that are kept in mind with it, at most: what is stored of it stays below 256 octets.
const MOST_BEFORE: usize = 8;

/// SPIs of one payload, at most.
pub(super) const MOST_DELETED: usize = 200;

/// An SA of one flow and one sender.
pub(super) struct Tek {
    pub(super) spi: u32,
    pub(super) key: SecretBytes,
    /// Those that it took the place of, and how long somebody who has missed that may hold them: they go when it is taken away.
    pub(super) before: Vec<(u32, Time)>,
}

impl Tek {
    pub(super) fn new(ctx: &mut Context<'_>) -> Self {
        Tek { spi: ctx.new_spi(), key: SecretBytes::generate(KEY_LEN, ctx.rng), before: Vec::new() }
    }

    /// One that takes the place of this one, which leaves the store. It was told until now, and lives for `lifetime`.
    pub(super) fn replace(&self, now: Time, lifetime: Duration, owner: &str, ctx: &mut Context<'_>) -> Self {
        self.forget(owner, ctx);
        let mut before: Vec<_> = self.before.iter().filter(|(_, until)| *until > now).copied().collect();
        before.push((self.spi, now + lifetime));
        // Who still holds one of these does so by mistake.
        let surplus = before.len().saturating_sub(MOST_BEFORE);
        before.drain(..surplus).for_each(|(spi, until)| ctx.bury(spi, until));
        Tek { before, ..Tek::new(ctx) }
    }

    /// It is taken away, with all that it took the place of: who may hold them `until` hears of it when it connects.
    pub(super) fn bury(&self, until: Time, ctx: &mut Context<'_>) {
        self.before.iter().for_each(|(spi, until)| ctx.bury(*spi, *until));
        ctx.bury(self.spi, until);
    }

    /// It, and all that it took the place of.
    pub(super) fn spis(&self) -> impl Iterator<Item = u32> {
        self.before.iter().map(|(spi, _)| *spi).chain([self.spi])
    }

    /// Under which a member at `sender` sends a multicast flow.
    pub(super) fn of_flow(&self, flow: &FlowSelector, sender: IpAddr, life: Life) -> (TrafficSa, KeyPacket) {
        let preserved = match flow.outer == flow.destination.0 {
            true => PreservedAddress::Destination,
            false => PreservedAddress::None,
        };
        let sa = TrafficSa {
            protocol: flow.protocol,
            source: flow.source,
            destination: (flow.destination.0.into(), flow.destination.1),
            tunnel: (sender, flow.outer),
            spi: self.spi,
            lifetime: life.seconds(),
            preserved,
        };
        (sa, self.packet())
    }

    /// Under which the end `from` of a VPN, at the first of `tunnel`, sends to the other.
    pub(super) fn of_vpn(
        &self,
        vpn: &Vpn,
        from: usize,
        tunnel: (IpAddr, IpAddr),
        life: Life,
    ) -> (TrafficSa, KeyPacket) {
        let (source, destination) = (&vpn.ends[from], &vpn.ends[1 - from]);
        let sa = TrafficSa {
            protocol: vpn.protocol,
            source: (source.net, source.port),
            destination: (destination.net, destination.port),
            tunnel,
            spi: self.spi,
            lifetime: life.seconds(),
            preserved: PreservedAddress::None,
        };
        (sa, self.packet())
    }

    /// Takes it out of the store.
    pub(super) fn forget(&self, owner: &str, ctx: &mut Context<'_>) {
        ctx.spis.remove(&self.spi);
        ctx.writes.push(Write::no_tek(owner, self.spi));
    }

    fn packet(&self) -> KeyPacket {
        KeyPacket::new(key_type::TEK, &self.spi.to_be_bytes()).with(tek_key::ALGORITHM, self.key.as_bytes())
    }
}

/// What tells members that these SAs go.
pub(super) fn delete_teks(doi: u32, spis: &[u32]) -> Vec<Delete> {
    let delete =
        |spis: &[u32]| Delete { doi, protocol: 1, spis: spis.iter().map(|spi| spi.to_be_bytes().to_vec()).collect() };
    spis.chunks(MOST_DELETED).map(delete).collect()
}
