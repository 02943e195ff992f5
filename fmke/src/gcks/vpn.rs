//! A VPN at the key server: an SA each way between two clients.

use muster_wire::Time;

use super::context::Context;
use super::group::RENEW_AT;
use super::profile::Vpn;
use super::store::{Write, vpn_owner};
use super::tek::{Tek, delete_teks};
use crate::isakmp::Delete;
use crate::push::{Filling, Push};

/// By which end sends. Both are there, or none.
#[derive(Default)]
pub(super) struct VpnState {
    pub(super) sas: Vec<(usize, Tek)>,
    pub(super) since: Time,
}

impl VpnState {
    /// Out of the store, where changes are whole.
    pub(super) fn restore(stored: Vec<(usize, Time, Tek)>) -> Self {
        let since = stored.iter().map(|(_, since, _)| *since).min().unwrap_or_default();
        VpnState { sas: stored.into_iter().map(|(from, _, tek)| (from, tek)).collect(), since }
    }

    /// Fresh keys for what these ends send.
    pub(super) fn renew(&mut self, now: Time, name: &str, senders: &[usize], ctx: &mut Context<'_>) {
        let owner = vpn_owner(name);
        for (_, tek) in self.sas.extract_if(.., |(from, _)| senders.contains(from)) {
            tek.forget(&owner, ctx);
        }
        // Of the older one: both are renewed together.
        if self.sas.is_empty() {
            self.since = now;
        }
        for from in senders.iter().copied() {
            let tek = Tek::new(ctx);
            ctx.writes.push(Write::vpn_tek(name, from, ctx.calendar.unix(now), &tek));
            self.sas.push((from, tek));
        }
    }

    /// Takes its SAs, which somebody may hold `until`, away: what tells the two ends so.
    pub(super) fn forget(&mut self, until: Time, name: &str, ctx: &mut Context<'_>) -> Vec<Delete> {
        let owner = vpn_owner(name);
        self.sas.iter().for_each(|(_, tek)| tek.forget(&owner, ctx));
        let spis: Vec<u32> = self.sas.drain(..).map(|(_, tek)| tek.spi).collect();
        spis.iter().for_each(|spi| ctx.bury(*spi, until));
        ctx.writes.push(Write::no_vpn(name));
        delete_teks(ctx.doi, &spis)
    }

    /// What both ends are told.
    pub(super) fn push(&self, vpn: &Vpn, ctx: &Context<'_>) -> Vec<Push> {
        let mut filling = Filling::default();
        let [a, b] = [&vpn.ends[0], &vpn.ends[1]].map(|end| ctx.address(&end.client));
        let (Some(a), Some(b)) = (a, b) else { return Vec::new() };
        for (from, tek) in &self.sas {
            let tunnel = if *from == 0 { (a, b) } else { (b, a) };
            let (sa, packet) = tek.of_vpn(vpn, *from, tunnel);
            filling.add(|push| {
                push.policy.delays = Some(vpn.delays);
                push.add_traffic(sa, packet);
            });
        }
        filling.finish()
    }

    /// When its keys are to be renewed.
    pub(super) fn renewal(&self, vpn: &Vpn) -> Option<Time> {
        (!self.sas.is_empty()).then(|| self.since + vpn.lifetime.mul_f64(RENEW_AT))
    }
}
