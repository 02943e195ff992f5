//! A VPN at the key server: an SA each way between two clients.

use std::collections::BTreeSet;
use std::time::Duration;

use muster_wire::Time;

use super::context::Context;
use super::life::Life;
use super::machine::Gcks;
use super::oneway::Terminal;
use super::profile::Vpn;
use super::restarts::Restarts;
use super::session::Subject;
use super::store::{Write, vpn_owner};
use super::tek::{Tek, delete_teks};
use crate::isakmp::Delete;
use crate::push::{Filling, Push};

/// Which of its two ends.
type End = usize;

/// Its SAs, by which end sends. There is one for each end with a return channel, or none.
#[derive(Default)]
pub(super) struct VpnState {
    pub(super) sas: Vec<(End, Tek)>,
    /// Theirs, of the oldest: they are renewed together.
    pub(super) life: Option<Life>,
    /// Ends that began anew: what they send needs keys that they never used.
    pub(super) restarts: Restarts<End>,
    /// Ends that were not there when what they send under was drawn: they have not used it.
    untold: BTreeSet<End>,
    /// New keys for both, as soon as both can be told.
    is_wanted: bool,
}

/// The ends of a VPN as they are now.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    /// Can be told.
    pub(super) here: [bool; 2],
    /// Have a return channel.
    pub(super) send: [bool; 2],
}

impl Ends {
    fn are_here(self) -> bool {
        self.here == [true; 2]
    }
}

impl VpnState {
    /// Out of the store, where changes are whole.
    pub(super) fn restore(stored: Vec<(End, Life, Tek)>, restarted: Vec<End>, is_wanted: bool) -> Self {
        let life = stored.iter().map(|(_, life, _)| *life).min_by_key(|life| life.since);
        let sas = stored.into_iter().map(|(from, _, tek)| (from, tek)).collect();
        let mut state = VpnState { sas, life, is_wanted, ..VpnState::default() };
        restarted.into_iter().for_each(|end| _ = state.restarts.add(end, Time(0)));
        state
    }

    /// This end, which sends, began anew.
    pub(super) fn restarted(&mut self, end: End, name: &str, vpn: &Vpn, ctx: &mut Context<'_>) {
        if self.sas.iter().any(|(from, _)| *from == end) && !self.untold.contains(&end) {
            self.restarts.add(end, Time(0));
            // A crash before its keys are new must not make us forget.
            ctx.writes.push(Write::restarted(&vpn_owner(name), &vpn.ends[end].client, true));
        }
    }

    /// New keys in place of those there are. They wait until both ends can be told, else one would send what the other cannot read;
    /// that may be long, and whoever is to lose those there are (a certificate's key was stolen) does not gain by a restart.
    pub(super) fn want(&mut self, name: &str, ctx: &mut Context<'_>) {
        if !self.is_wanted && !self.sas.is_empty() {
            self.is_wanted = true;
            ctx.writes.push(Write::wanted(name, true));
        }
    }

    /// Does what is due by `now`; whether there are new keys, of which both ends are to be told.
    pub(super) fn attend(&mut self, now: Time, name: &str, vpn: &Vpn, ends: Ends, ctx: &mut Context<'_>) -> bool {
        if let Some(life) = self.life.take_if(|life| life.end() <= now) {
            let owner = vpn_owner(name);
            for (_, tek) in self.sas.drain(..) {
                // An end counts the lifetime from when it was told: it may hold them still.
                tek.bury(now + life.lifetime, ctx);
                tek.forget(&owner, ctx);
            }
        }
        let has_restarted = self.restarts.timeout().is_some_and(|at| at <= now);
        let is_all = match self.sas.is_empty() {
            true => ends.here.contains(&true),
            false => {
                ends.are_here() && (self.is_wanted || has_restarted || self.renewal(vpn).is_some_and(|at| at <= now))
            }
        };
        let restarted = self.restarts.take(now, is_all, vpn.delays);
        // Those of an end that is not here stay as they are: it cannot be told others.
        let is_anew = |end: &End| is_all || restarted.contains(end);
        let senders: Vec<End> = (0..2).filter(|end| ends.send[*end] && is_anew(end)).collect();
        if senders.is_empty() {
            return false;
        }
        for end in restarted {
            ctx.writes.push(Write::restarted(&vpn_owner(name), &vpn.ends[end].client, false));
        }
        if is_all && std::mem::take(&mut self.is_wanted) {
            ctx.writes.push(Write::wanted(name, false));
        }
        self.renew(now, name, vpn, &senders, ctx);
        for end in senders {
            match ends.here[end] {
                true => self.untold.remove(&end),
                false => self.untold.insert(end),
            };
        }
        true
    }

    /// This end is told.
    pub(super) fn tell(&mut self, end: End) {
        self.untold.remove(&end);
    }

    /// When to ask [`attend`](Self::attend).
    pub(super) fn timeout(&self, vpn: &Vpn, ends: Ends) -> Option<Time> {
        let end = self.life.map(|life| life.end());
        let renewal = self.renewal(vpn).filter(|_| ends.are_here());
        end.into_iter().chain(renewal).chain(self.restarts.timeout()).min()
    }

    fn renew(&mut self, now: Time, name: &str, vpn: &Vpn, senders: &[End], ctx: &mut Context<'_>) {
        let owner = vpn_owner(name);
        let old: Vec<_> = self.sas.extract_if(.., |(from, _)| senders.contains(from)).collect();
        let fresh = Life { since: now, lifetime: vpn.lifetime };
        let before = self.life.unwrap_or(fresh);
        // Of the older one: both are renewed together.
        let life = if self.sas.is_empty() { fresh } else { before };
        self.life = Some(life);
        for from in senders.iter().copied() {
            let tek = match old.iter().find(|(other, _)| *other == from) {
                Some((_, tek)) => tek.replace(now, before.lifetime, &owner, ctx),
                None => Tek::new(ctx),
            };
            ctx.writes.push(Write::vpn_tek(name, from, life, &tek, &ctx.calendar));
            self.sas.push((from, tek));
        }
    }

    /// Takes its SAs away: what tells the two ends so. Of keys that came after each other one may have been told the first, and the
    /// others not any more.
    pub(super) fn forget(&mut self, now: Time, name: &str, vpn: &Vpn, ctx: &mut Context<'_>) -> Vec<Delete> {
        let owner = vpn_owner(name);
        let held = self.life.take().map_or(Duration::ZERO, |life| life.lifetime);
        let spis: Vec<u32> = self.sas.iter().flat_map(|(_, tek)| tek.spis()).collect();
        for (_, tek) in self.sas.drain(..) {
            tek.bury(now + held, ctx);
            tek.forget(&owner, ctx);
        }
        ctx.writes.extend([Write::no_vpn(name), Write::wanted(name, false)]);
        ctx.writes.extend(vpn.ends.iter().map(|end| Write::restarted(&owner, &end.client, false)));
        delete_teks(ctx.doi, &spis)
    }

    /// What both ends are told.
    pub(super) fn push(&self, vpn: &Vpn, ctx: &Context<'_>) -> Vec<Push> {
        let mut filling = Filling::default();
        self.fill(&mut filling, vpn, ctx);
        filling.finish()
    }

    /// The same beside other VPNs with its delays.
    pub(super) fn fill(&self, filling: &mut Filling, vpn: &Vpn, ctx: &Context<'_>) {
        let [a, b] = [&vpn.ends[0], &vpn.ends[1]].map(|end| ctx.address(&end.client));
        let (Some(a), Some(b), Some(life)) = (a, b, self.life) else { return };
        for (from, tek) in &self.sas {
            let tunnel = if *from == 0 { (a, b) } else { (b, a) };
            let (sa, packet) = tek.of_vpn(vpn, *from, tunnel, life);
            filling.add(|push| {
                push.policy.delays = Some(vpn.delays);
                push.add_traffic(sa, packet);
            });
        }
    }

    /// When its keys are to be renewed.
    fn renewal(&self, vpn: &Vpn) -> Option<Time> {
        self.life.map(|life| life.renewal(vpn.lifetime))
    }
}

impl Gcks {
    /// Does what is due of a VPN; whether there are new keys, which its ends were told.
    pub(super) fn attend_vpn(&mut self, now: Time, name: &str, vpn: &Vpn) -> bool {
        if vpn.ends.iter().any(|end| self.excluded.contains(&end.client)) {
            return false;
        }
        let (digest, ends) = (self.profiles.digest_of_vpn(vpn), self.ends(vpn));
        let pushes = self.context(|gcks, ctx| {
            let state = gcks.vpns.entry(name.to_owned()).or_default();
            let is_fresh = state.attend(now, name, vpn, ends, ctx);
            is_fresh.then(|| {
                ctx.writes.push(Write::vpn(name, &digest));
                state.push(vpn, ctx)
            })
        });
        let Some(pushes) = pushes else { return false };
        let subject = Subject::Vpn(name.to_owned());
        vpn.ends.iter().for_each(|end| self.push_all(now, &end.client, Some(&subject), &pushes));
        true
    }

    /// An end of a VPN has connected: it is told of its keys.
    pub(super) fn enter_vpn(&mut self, now: Time, name: &str, vpn: &Vpn, client: &str, began_anew: bool) {
        let Some(end) = vpn.ends.iter().position(|end| end.client == client) else { return };
        self.context(|gcks, ctx| match gcks.vpns.get_mut(name) {
            Some(state) if began_anew => state.restarted(end, name, vpn, ctx),
            _ => {}
        });
        if self.attend_vpn(now, name, vpn) {
            return;
        }
        let pushes = self.context(|gcks, ctx| {
            let state = gcks.vpns.get_mut(name).filter(|state| !state.restarts.is_waiting(&end))?;
            state.tell(end);
            Some(state.push(vpn, ctx))
        });
        self.push_all(now, client, Some(&Subject::Vpn(name.to_owned())), &pushes.unwrap_or_default());
    }

    fn ends(&self, vpn: &Vpn) -> Ends {
        let clients = vpn.ends.each_ref().map(|end| end.client.as_str());
        let is_spoken_to = |client| self.one_way.get(client).is_some_and(Terminal::is_spoken_to);
        Ends {
            here: clients.map(|client| self.sessions.contains_key(client) || is_spoken_to(client)),
            send: clients.map(|client| !self.profiles.is_one_way(client)),
        }
    }

    pub(super) fn vpn_timeout(&self, name: &str, vpn: &Vpn) -> Option<Time> {
        self.vpns.get(name)?.timeout(vpn, self.ends(vpn))
    }

    pub(super) fn drop_vpn(&mut self, now: Time, name: &str) {
        let profiles = self.profiles.clone();
        if let Some(vpn) = profiles.vpns.get(name) {
            self.drop_vpn_of(now, name, vpn);
        }
    }

    pub(super) fn drop_vpn_of(&mut self, now: Time, name: &str, vpn: &Vpn) {
        let Some(mut state) = self.vpns.remove(name) else { return };
        let deletes = self.context(|_, ctx| state.forget(now, name, vpn, ctx));
        let push = [Push { deletes, ..Push::default() }];
        vpn.ends.iter().for_each(|end| self.push(now, &end.client, &push));
    }
}
