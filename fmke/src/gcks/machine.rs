//! The key server as a state machine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use muster_wire::Time;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use zeroize::Zeroizing;

use super::certificates::{Certificates, Shown};
use super::context::{Calendar, Context};
use super::event::Event;
use super::group::GroupState;
use super::lists::Lists;
use super::oneway::{Numbers, Terminal};
use super::profile::{MOST_LIFETIME, Profiles, Vpn};
use super::restore::{StoreError, Stored, damaged};
use super::session::Session;
use super::store::Write;
use super::vpn::VpnState;
use crate::Refusal;
use crate::crypto::SecretBytes;
use crate::crypto::rekey::{RekeyAlgorithm, RekeySigner};
use crate::isakmp::{Header, exchange};
use crate::phase1::{
    self, CertificateError, Clients, Datagram, Limits, Liveness, Message, Proposals, Refused, Responder, SaId,
    ShownChain,
};

/// What the key server is started with.
pub struct Settings {
    /// Of ISAKMP messages and payloads.
    pub doi: u32,
    /// Its own address and port, as clients know it.
    pub address: SocketAddr,
    /// What phase 1 offers and takes.
    pub proposals: Proposals,
    /// Who it is in phase 1.
    pub credentials: phase1::Credentials,
    /// How it finds out that a client is gone.
    pub liveness: Liveness,
    /// What strangers can make it do.
    pub limits: Limits,
    /// Clients that connect within so long after one another come into their groups together.
    pub join_window: Duration,
    /// Clients without a return channel are told all of their profile so often.
    pub one_way_period: Duration,
    /// Signs what is multicast, if the store has no key yet.
    pub signature: RekeyAlgorithm,
}

/// The key server. After its inputs, the last of which is the time, its driver takes [`poll_writes`](Self::poll_writes), stores them
/// all at once, and only then sends what [`poll_transmit`](Self::poll_transmit) gives; when they cannot be stored it starts anew from
/// what is. What is to be done in a group at once is done when the time is told: until then nothing of it is to be stored alone.
pub struct Gcks {
    pub(super) doi: u32,
    pub(super) address: SocketAddr,
    join_window: Duration,
    pub(super) one_way_period: Duration,
    pub(super) profiles: Arc<Profiles>,
    pub(super) responder: Responder,
    pub(super) sessions: BTreeMap<String, Session>,
    /// Clients without a return channel.
    pub(super) one_way: BTreeMap<String, Terminal>,
    pub(super) numbers: Numbers,
    /// By the SA of phase 1 in use.
    by_sa: BTreeMap<SaId, String>,
    /// When to look at which; it may be too early, or gone.
    pub(super) timers: BTreeSet<(Time, String)>,
    /// SAs of ESP that were taken away, and how long somebody may still hold them.
    pub(super) gone: BTreeMap<u32, Time>,
    /// Clients that have not acknowledged all.
    pub(super) behind: BTreeSet<String>,
    /// To whom something is to be sent for the first time, and since when. It is sent one after the other: when many come in at once,
    /// what goes to all of them is not in memory twice.
    pub(super) to_tell: VecDeque<(Time, String)>,
    pub(super) names: BTreeMap<IpAddr, String>,
    pub(super) certificates: Certificates,
    pub(super) lists: Lists,
    pub(super) groups: BTreeMap<String, GroupState>,
    pub(super) vpns: BTreeMap<String, VpnState>,
    pub(super) excluded: BTreeSet<String>,
    signer: RekeySigner,
    spis: BTreeSet<u32>,
    pub(super) rng: ChaCha20Rng,
    pub(super) calendar: Calendar,
    pub(super) writes: Vec<Write>,
    pub(super) out: VecDeque<Datagram>,
    pub(super) events: VecDeque<Event>,
}

impl Gcks {
    /// With what is stored; `unix` is what the wall clock shows, in seconds.
    ///
    /// # Errors
    /// A store that this program did not write, or one of an earlier or a later format.
    pub fn new(
        now: Time,
        unix: u64,
        settings: Settings,
        profiles: Profiles,
        stored: BTreeMap<String, Zeroizing<Vec<u8>>>,
        seed: &SecretBytes,
    ) -> Result<Self, StoreError> {
        let mut octets = Zeroizing::new([0; 32]);
        octets.iter_mut().zip(seed.as_bytes()).for_each(|(octet, seed)| *octet = *seed);
        let mut rng = ChaCha20Rng::from_seed(*octets);
        let stored = Stored(stored);
        let mut writes: Vec<Write> = stored.check_format()?.into_iter().collect();
        let Settings { doi, address, proposals, credentials, liveness, limits, join_window, one_way_period, signature } =
            settings;
        let signer = signer(&stored, signature, &mut rng, &mut writes)?;
        let responder = Responder::new(doi, proposals, credentials, liveness, limits, now, &mut rng);
        let mut gcks = Gcks {
            doi,
            address,
            join_window,
            one_way_period,
            profiles: Arc::default(),
            responder,
            sessions: BTreeMap::new(),
            one_way: BTreeMap::new(),
            numbers: stored.numbers()?,
            by_sa: BTreeMap::new(),
            timers: BTreeSet::new(),
            gone: BTreeMap::new(),
            behind: BTreeSet::new(),
            to_tell: VecDeque::new(),
            names: BTreeMap::new(),
            certificates: Certificates::restore(&stored)?,
            lists: stored.lists()?,
            groups: BTreeMap::new(),
            vpns: BTreeMap::new(),
            excluded: stored.below("excluded/").map(|(client, _)| client.to_owned()).collect(),
            signer,
            spis: BTreeSet::new(),
            rng,
            calendar: Calendar { started: now, unix },
            writes,
            out: VecDeque::new(),
            events: VecDeque::new(),
        };
        gcks.restore(now, &stored, &profiles)?;
        gcks.configure(now, profiles);
        Ok(gcks)
    }

    fn restore(&mut self, now: Time, stored: &Stored, profiles: &Profiles) -> Result<(), StoreError> {
        self.profiles = Arc::new(profiles.clone());
        self.gone = stored.gone(self.calendar)?;
        let (orphans, spis) = stored.orphans(profiles, self.calendar)?;
        self.writes.extend(orphans.into_iter().map(Write::no_entry));
        self.context(|_, ctx| spis.iter().for_each(|spi| ctx.bury(*spi, now + MOST_LIFETIME)));
        for name in profiles.groups.keys() {
            let state = self.context(|_, ctx| stored.group(now, name, ctx))?;
            self.groups.extend(state.map(|state| (name.clone(), state)));
        }
        for (name, vpn) in &profiles.vpns {
            let state = self.context(|_, ctx| stored.vpn(name, vpn, ctx))?;
            self.vpns.insert(name.clone(), state);
            let is_same = stored.value(&format!("vpn/{name}")) == Some(profiles.digest_of_vpn(vpn).as_slice());
            if !is_same {
                self.drop_vpn(now, name);
            }
        }
        for (client, digest) in stored.below("client/") {
            if profiles.digest_of_client(client) != digest {
                self.replaced(now, client);
            }
        }
        Ok(())
    }

    /// Other profiles, found good by [`Profiles::check`]: who is a member no longer goes, who is one now comes in.
    pub fn configure(&mut self, now: Time, profiles: Profiles) {
        let before = std::mem::replace(&mut self.profiles, Arc::new(profiles));
        let profiles = self.profiles.clone();
        // First: those between whom it was are to hear that it is no more, though one of them is another client now.
        for (name, vpn) in &before.vpns {
            let is_same = |other: &Vpn| before.digest_of_vpn(vpn) == profiles.digest_of_vpn(other);
            if !profiles.vpns.get(name).is_some_and(is_same) {
                self.drop_vpn_of(now, name, vpn);
            }
        }
        let is_other = |client: &&String| before.digest_of_client(client) != profiles.digest_of_client(client);
        for client in before.clients.keys().filter(is_other) {
            self.responder.abandon(before.clients[client].address);
            self.replaced(now, client);
        }
        self.tell_spds(now, &before);
        let orphans: Vec<String> =
            self.groups.keys().filter(|name| !profiles.groups.contains_key(*name)).cloned().collect();
        orphans.iter().for_each(|name| self.dissolve(now, name));
        self.names = profiles.clients.iter().map(|(name, client)| (client.address, name.clone())).collect();
        for name in profiles.clients.keys() {
            self.writes.push(Write::client(name, &profiles.digest_of_client(name)));
        }
        self.enlist(now);
        for (name, group) in &profiles.groups {
            let state = self.groups.entry(name.clone()).or_insert_with(GroupState::new);
            let leavers: Vec<String> =
                state.places.keys().filter(|client| !group.members.contains(*client)).cloned().collect();
            leavers.iter().for_each(|client| state.expel(now, client, Duration::ZERO));
            let one_way = self.one_way.iter().filter(|(_, terminal)| terminal.is_spoken_to()).map(|(client, _)| client);
            for client in self.sessions.keys().chain(one_way).filter(|client| group.members.contains(*client)) {
                if !state.is_in(client) {
                    state.admit(now, client, Duration::ZERO);
                }
            }
            if !state.places.is_empty() {
                state.reconsider(now);
            }
        }
        for (name, vpn) in &profiles.vpns {
            self.attend_vpn(now, name, vpn);
        }
        self.handle_timeout(now);
    }

    /// A client is no longer, or another router bears its name: what the one before knows is not to be used any longer.
    fn replaced(&mut self, now: Time, client: &str) {
        self.writes.push(self.certificates.forget(client));
        self.cast_out(now, client);
        self.one_way.remove(client);
        if !self.profiles.clients.contains_key(client) {
            self.writes.push(Write::no_entry(&format!("client/{client}")));
        }
    }

    /// A client is in no group and no VPN any longer, until it connects again.
    fn cast_out(&mut self, now: Time, client: &str) {
        self.disconnect(client);
        let of_client = |(_, vpn): &(&String, &Vpn)| vpn.ends.iter().any(|end| end.client == client);
        let profiles = self.profiles.clone();
        profiles.vpns.iter().filter(of_client).for_each(|(name, _)| self.drop_vpn(now, name));
        self.groups.values_mut().for_each(|state| state.expel(now, client, Duration::ZERO));
    }

    /// A datagram came.
    ///
    /// # Errors
    /// It was refused.
    pub fn handle_datagram(
        &mut self,
        now: Time,
        from: SocketAddr,
        datagram: &[u8],
        clients: &impl Clients,
    ) -> Result<(), Refusal> {
        let (header, first, body) = Header::parse(datagram)?;
        if header.exchange == exchange::MULTICAST_PUSH {
            return self.handle_missing(now, from, &header, first, body);
        }
        self.expected(from)?;
        let message = self.responder.handle_datagram(now, from, datagram, clients, &mut self.rng)?;
        if let Some(message) = message {
            self.handle_message(now, &message)?;
        }
        self.follow_phase1(now);
        Ok(())
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Time) {
        self.responder.handle_timeout(now, &mut self.rng);
        self.follow_phase1(now);
        while let Some(client) = self.certificates.ended(self.calendar.unix(now)) {
            self.lapse(now, client, CertificateError::Time);
        }
        while let Some((at, client)) = self.timers.pop_first() {
            if at > now {
                self.timers.insert((at, client));
                break;
            }
            if let Some(session) = self.sessions.get_mut(&client).filter(|session| session.timer == Some(at)) {
                session.timer = None;
                self.send_due(now, &client);
            } else if let Some(terminal) = self.one_way.get_mut(&client).filter(|terminal| terminal.timer == Some(at)) {
                terminal.timer = None;
                self.attend_one_way(now, &client);
            }
        }
        let groups: Vec<String> = self.groups.keys().cloned().collect();
        for name in groups {
            self.attend(now, &name);
        }
        let profiles = self.profiles.clone();
        for (name, vpn) in &profiles.vpns {
            if self.vpn_timeout(name, vpn).is_some_and(|at| at <= now) {
                self.attend_vpn(now, name, vpn);
            }
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Time> {
        let groups = self.profiles.groups.iter().filter_map(|(name, group)| self.groups.get(name)?.timeout(group));
        let vpns = self.profiles.vpns.iter().filter_map(|(name, vpn)| self.vpn_timeout(name, vpn));
        let sessions = self.timers.first().map(|(at, _)| *at);
        let certificates = self.certificates.first_end().map(|end| self.calendar.later(end.saturating_add(1)));
        groups.chain(vpns).chain(sessions).chain(certificates).chain(self.responder.poll_timeout()).min()
    }

    /// What is to be stored before anything is sent.
    pub fn poll_writes(&mut self) -> Vec<Write> {
        std::mem::take(&mut self.writes)
    }

    /// The next datagram. When there is none, ask [`poll_timeout`](Self::poll_timeout): what was sent goes again.
    pub fn poll_transmit(&mut self) -> Option<Datagram> {
        loop {
            let datagram = self.out.pop_front().or_else(|| self.responder.poll_transmit());
            if datagram.is_some() {
                return datagram;
            }
            let (now, client) = self.to_tell.pop_front()?;
            self.send_due(now, &client);
        }
    }

    /// What has happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// These clients lose access, and may not connect again until they are [admitted](Self::admit).
    pub fn exclude(&mut self, now: Time, clients: &[String]) {
        for client in clients {
            if self.excluded.insert(client.clone()) {
                self.writes.push(Write::excluded(client, true));
                self.events.push_back(Event::Excluded { client: client.clone() });
            }
            self.disconnect(client);
            let vpns: Vec<String> = self.profiles.vpns_of(client).map(|(name, _)| name.clone()).collect();
            vpns.iter().for_each(|name| self.drop_vpn(now, name));
            self.groups.values_mut().for_each(|state| state.expel(now, client, Duration::ZERO));
        }
        self.handle_timeout(now);
    }

    /// Looks again at the certificates that clients have shown: other anchors or revocation lists count now. Whose does not,
    /// connected or not, loses access until it shows another. `check` gets the client and the chain (DER), and says the last second
    /// at which that counts (Unix).
    pub fn review(&mut self, now: Time, check: impl Fn(&str, &[&[u8]]) -> Result<u64, CertificateError>) {
        let verdict = |(client, chain): (&String, &Vec<Vec<u8>>)| {
            let chain: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
            (client.clone(), check(client, &chain))
        };
        let verdicts: Vec<_> = self.certificates.iter().map(verdict).collect();
        for (client, verdict) in verdicts {
            match verdict {
                Ok(until) => self.certificates.counts_until(&client, until),
                Err(why) => self.lapse(now, client, why),
            }
        }
        self.handle_timeout(now);
    }

    /// What the wall clock shows (Unix seconds): it may have been wrong when we were started, or have been set. Numbers that are
    /// taken from it rise all the same.
    pub fn set_clock(&mut self, now: Time, unix: u64) {
        self.calendar = Calendar { started: now, unix };
    }

    fn lapse(&mut self, now: Time, client: String, why: CertificateError) {
        self.certificates.lapse(&client, why);
        self.cast_out(now, &client);
        self.events.push_back(Event::Lapsed { client, why });
    }

    /// What we show from now on in phase 1.
    pub fn present(&mut self, credentials: phase1::Credentials) {
        self.responder.present(credentials);
    }

    /// This client may connect again; one that cannot is told again.
    pub fn admit(&mut self, now: Time, client: &str) {
        if !self.excluded.remove(client) {
            return;
        }
        self.writes.push(Write::excluded(client, false));
        let Some(terminal) = self.one_way.get_mut(client) else { return };
        terminal.speak(now);
        self.set_timer(client);
        let profiles = self.profiles.clone();
        for (group, _) in profiles.groups_of(client) {
            if let Some(state) = self.groups.get_mut(group) {
                state.admit(now, client, Duration::ZERO);
            }
        }
        profiles.vpns_of(client).for_each(|(name, vpn)| _ = self.attend_vpn(now, name, vpn));
        self.handle_timeout(now);
    }

    /// New keys for a group, or for all groups and VPNs.
    pub fn rekey(&mut self, now: Time, group: Option<&str>) {
        let chosen = self.groups.iter_mut().filter(|(name, _)| group.is_none_or(|group| group == name.as_str()));
        chosen.for_each(|(_, state)| state.rekey(now));
        // Before the VPNs: to whom something is on its way, all of a group is told again when it changes.
        self.handle_timeout(now);
        if group.is_none() {
            let profiles = self.profiles.clone();
            self.context(|gcks, ctx| gcks.vpns.iter_mut().for_each(|(name, state)| state.want(name, ctx)));
            profiles.vpns.iter().for_each(|(name, vpn)| _ = self.attend_vpn(now, name, vpn));
        }
    }

    /// What was laid down.
    pub fn profiles(&self) -> &Profiles {
        &self.profiles
    }

    /// Whose datagrams are looked at. To who is excluded nothing is ever sent, as to strangers; a client without a return channel
    /// says nothing, so that what comes from its address is another's.
    fn expected(&self, from: SocketAddr) -> Result<&String, Refused> {
        let name = self.names.get(&from.ip()).ok_or(Refused::UnknownAddress)?;
        match self.excluded.contains(name) || self.one_way.contains_key(name) {
            true => Err(Refused::UnknownAddress),
            false => Ok(name),
        }
    }

    fn follow_phase1(&mut self, now: Time) {
        while let Some(event) = self.responder.poll_event() {
            match event {
                phase1::Event::Established { sa, address, certificates, began_anew, .. } => {
                    self.connect(now, sa, address, certificates, began_anew)
                }
                phase1::Event::Closed { sa, why, .. } => self.closed(sa, why),
                phase1::Event::Failed(_) => {}
            }
        }
    }

    /// A client has shown who it is: it gets all that it is entitled to.
    fn connect(
        &mut self,
        now: Time,
        sa: SaId,
        address: SocketAddr,
        certificates: Option<ShownChain>,
        began_anew: bool,
    ) {
        let Some(name) = self.names.get(&address.ip()).cloned() else { return };
        let (shown, write) = self.certificates.shown(now, &name, certificates);
        self.writes.extend(write);
        match shown {
            Shown::AsBefore => {}
            Shown::Another => self.renew(now, &name),
            // It tries again.
            Shown::TooSoon => return self.responder.close(sa, &mut self.rng),
        }
        if let Some(before) = self.sessions.insert(name.clone(), Session::new(sa)) {
            self.by_sa.remove(&before.sa);
        }
        self.by_sa.insert(sa, name.clone());
        self.events.push_back(Event::Connected { client: name.clone(), address, began_anew });
        // Who begins anew holds nothing.
        if !began_anew {
            self.tell_gone(now, &name);
        }
        // Before any SA: what has one is not to go on another's until it comes.
        let spd = self.profiles.spd_of(&name);
        if !(began_anew && spd.is_empty()) {
            self.push(now, &name, &spd.pushes());
        }
        let profiles = self.profiles.clone();
        for (group, profile) in profiles.groups_of(&name) {
            let Some(state) = self.groups.get_mut(group) else { continue };
            match began_anew && state.begin_anew(now, &name, profile, self.join_window) {
                // A crash before the change must not make it forget.
                true => self.writes.push(Write::restarted(group, &name, true)),
                false => state.admit(now, &name, self.join_window),
            }
        }
        for (vpn, profile) in profiles.vpns_of(&name) {
            self.enter_vpn(now, vpn, profile, &name, began_anew);
        }
    }

    /// A client shows another certificate than before. Whoever has the other's key may have come in with it and hold all that the
    /// client holds: none of it is of use from now on, or nobody would be cast out when it is revoked.
    fn renew(&mut self, now: Time, client: &str) {
        self.disconnect(client);
        // It comes in again in the same change.
        self.groups.values_mut().for_each(|state| state.expel(now, client, Duration::ZERO));
        let profiles = self.profiles.clone();
        self.context(|gcks, ctx| {
            for (name, _) in profiles.vpns_of(client) {
                if let Some(state) = gcks.vpns.get_mut(name) {
                    state.want(name, ctx);
                }
            }
        });
    }

    fn closed(&mut self, sa: SaId, why: phase1::Closed) {
        // The SA before one that is in use ends without a word.
        let Some(client) = self.by_sa.remove(&sa) else { return };
        self.sessions.remove(&client);
        self.behind.remove(&client);
        self.events.push_back(Event::Closed { client, why: why.to_string() });
    }

    pub(super) fn disconnect(&mut self, client: &str) {
        if let Some(terminal) = self.one_way.get_mut(client) {
            terminal.silence();
        }
        if let Some(session) = self.sessions.remove(client) {
            self.by_sa.remove(&session.sa);
            self.behind.remove(client);
            self.responder.close(session.sa, &mut self.rng);
        }
    }

    /// An acknowledgement.
    fn handle_message(&mut self, now: Time, message: &Message) -> Result<(), Refusal> {
        // "The Exchange Type field is set to "FMKE_unicast_Push"" (draft 3.3)
        if message.header.exchange != exchange::UNICAST_PUSH {
            return Err(Refusal::Exchange(message.header.exchange));
        }
        let sa = self.responder.sa(message.sa).ok_or(Refused::UnknownSa)?;
        let payloads = message.payloads()?;
        // "HASH(2) = prf(SKEYID_a, ACK [ | SACK ])" (draft 3.1)
        let (number, beyond) = super::session::read_acknowledgement(sa.check_hash(&[], &payloads)?)?;
        if let Some(client) = self.by_sa.get(&message.sa).cloned() {
            if let Some(session) = self.sessions.get_mut(&client) {
                // One that says nothing new may be a replay.
                if session.sender.acknowledge(now, number, &beyond) {
                    self.responder.heard(now, message.sa);
                }
                if session.is_done() {
                    self.behind.remove(&client);
                }
            }
            self.send_due(now, &client);
        }
        Ok(())
    }

    /// A negative acknowledgement.
    fn handle_missing(
        &mut self,
        now: Time,
        from: SocketAddr,
        header: &Header,
        first: u8,
        body: &[u8],
    ) -> Result<(), Refusal> {
        // "a message with invalid cookies will be discarded" (draft 9.2.5)
        let client = self.expected(from)?.clone();
        let found = self.groups.iter_mut().find(|(_, state)| state.knows(header));
        let (name, state) = found.ok_or(Refused::UnknownSa)?;
        let missed = state.missed(now, header, first, body)?;
        let profiles = self.profiles.clone();
        let Some((name, profile)) = profiles.groups.get_key_value(name) else { return Ok(()) };
        let to = SocketAddr::from(profile.rekey);
        self.out.extend(missed.again.into_iter().map(|bytes| Datagram { to, bytes }));
        // What is on its way to it tells it as much; and this may be a replay.
        if missed.is_behind && !self.behind.contains(&client) {
            self.tell_gone(now, &client);
            self.tell_group(now, &client, name, profile);
        }
        Ok(())
    }

    /// Does what is due in a group.
    fn attend(&mut self, now: Time, name: &str) {
        let profiles = self.profiles.clone();
        let Some(profile) = profiles.groups.get(name) else { return };
        let outcome = self.context(|gcks, ctx| {
            let state = gcks.groups.get_mut(name)?;
            state.timeout(profile).filter(|at| *at <= now)?;
            Some(state.due(now, name, profile, ctx))
        });
        match outcome {
            Some(Ok(outcome)) => self.tell(now, name, profile, outcome),
            Some(Err(error)) => self.events.push_back(Event::Failed { group: name.to_owned(), why: error.to_string() }),
            None => {}
        }
    }

    /// A group is no more: its members forget it.
    fn dissolve(&mut self, now: Time, name: &str) {
        let Some(mut state) = self.groups.remove(name) else { return };
        let members: Vec<String> = state.places.keys().cloned().collect();
        let pushes = self.context(|_, ctx| state.dissolve(now + MOST_LIFETIME, name, ctx));
        members.iter().for_each(|client| self.push(now, client, &pushes));
    }

    /// Lends out what the parts share.
    pub(super) fn context<T>(&mut self, run: impl FnOnce(&mut Parts<'_>, &mut Context<'_>) -> T) -> T {
        let mut ctx = Context {
            doi: self.doi,
            server: self.address,
            signer: &self.signer,
            clients: &self.profiles.clients,
            one_way: &self.one_way,
            spis: &mut self.spis,
            rng: &mut self.rng,
            calendar: self.calendar,
            gone: &mut self.gone,
            writes: &mut self.writes,
        };
        run(&mut Parts { groups: &mut self.groups, vpns: &mut self.vpns }, &mut ctx)
    }
}

pub(super) struct Parts<'a> {
    pub(super) groups: &'a mut BTreeMap<String, GroupState>,
    pub(super) vpns: &'a mut BTreeMap<String, VpnState>,
}

fn signer(
    stored: &Stored,
    algorithm: RekeyAlgorithm,
    rng: &mut ChaCha20Rng,
    writes: &mut Vec<Write>,
) -> Result<RekeySigner, StoreError> {
    if let Some(value) = stored.0.get("signer") {
        let read = || {
            let (algorithm, secret) = value.split_first_chunk::<2>()?;
            let algorithm = RekeyAlgorithm::from_number(u16::from_be_bytes(*algorithm))?;
            RekeySigner::from_secret(algorithm, &SecretBytes::from(secret)).ok()
        };
        return read().ok_or_else(|| damaged("signer", "its form"));
    }
    let signer = RekeySigner::generate(algorithm, rng).map_err(|error| damaged("signer", error))?;
    writes.push(Write::signer(algorithm.number(), signer.secret().as_bytes()));
    Ok(signer)
}
