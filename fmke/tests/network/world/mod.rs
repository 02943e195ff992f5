//! A key server, its clients, the network between them and the disk below it, all in one process, driven by one seed.

mod figure_7;

pub(crate) use figure_7::TERMINAL;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use muster_fmke::crypto::SecretBytes;
use muster_fmke::crypto::rekey::RekeyAlgorithm;
use muster_fmke::gcks::{self, Event, Gcks, OneWay, Profiles, StoreError};
use muster_fmke::isakmp::{Identity, TrafficSelector};
use muster_fmke::member::{self, Change, FlowKey, Member, OneWaySettings, Spd};
use muster_fmke::phase1::{
    Authority, CertificateError, Client, Clients, Credentials, Datagram, Limits, Liveness, Proposals, Server, Verified,
};
use muster_wire::Time;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use zeroize::Zeroizing;

pub(crate) const DOI: u32 = 2;
pub(crate) const PORT: u16 = 848;

/// What the network does to a datagram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Weather {
    delay: (u64, u64),
    lost: u32,
    twice: u32,
}

impl Weather {
    pub(crate) const CALM: Weather = Weather { delay: (1_000, 1_000), lost: 0, twice: 0 };
    /// One in ten is lost, one in twenty comes twice, and they overtake each other.
    pub(crate) const FOUL: Weather = Weather { delay: (10_000, 60_000), lost: 10, twice: 5 };
    /// 600 ms there and back, and one in fifty is lost.
    pub(crate) const SATELLITE: Weather = Weather { delay: (295_000, 305_000), lost: 2, twice: 0 };
}

/// Secrets of the clients, by address.
struct Secrets(BTreeMap<IpAddr, SecretBytes>);

impl Authority for Secrets {
    fn check(&self, _: &[&[u8]], _: &Identity) -> Result<Verified, CertificateError> {
        Err(CertificateError::UnknownIssuer)
    }
}

impl Clients for Secrets {
    fn client(&self, address: IpAddr) -> Option<Client<'_>> {
        self.0.get(&address).map(|secret| Client { secret: Some(secret), identity: None })
    }
}

pub(crate) struct World {
    seed: u64,
    now: Time,
    rng: ChaCha20Rng,
    weather: Weather,
    profiles: Profiles,
    secrets: Secrets,
    gcks: Gcks,
    disk: BTreeMap<String, Zeroizing<Vec<u8>>>,
    pub(crate) clients: BTreeMap<String, Router>,
    /// By arrival: from whom, at which client if it is multicast, what.
    network: BTreeMap<(Time, u64), (SocketAddr, Option<String>, Datagram)>,
    pub(crate) events: Vec<Event>,
    /// Groups that clients fell out of.
    pub(crate) lost: Vec<String>,
    excluded: BTreeSet<String>,
    cut_off: BTreeSet<String>,
    /// What those without a return channel keep over a restart.
    kept: BTreeMap<String, u32>,
    /// All that was ever sent to the terminal alone, by cookies and message id.
    pub(crate) to_terminal: BTreeMap<(Vec<u8>, u32), Vec<u8>>,
}

/// A client and what its data plane holds.
pub(crate) struct Router {
    member: Member,
    address: IpAddr,
    /// By SPI: the flow and the key.
    receives: BTreeMap<u32, (FlowKey, Vec<u8>)>,
    sends: BTreeMap<FlowKey, (u32, Vec<u8>)>,
    /// What it is to protect, and what not.
    spd: Spd,
    /// All keys it was ever told.
    keys: BTreeSet<Vec<u8>>,
    /// All keys it ever sent under.
    sent_under: BTreeSet<Vec<u8>>,
}

impl World {
    pub(crate) fn new(seed: u64, weather: Weather, profiles: Profiles) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let now = Time(1_000_000_000_000);
        let secret = |client: &gcks::Client| (client.address, SecretBytes::from(client.address.to_string().as_bytes()));
        let secrets = Secrets(profiles.clients.values().map(secret).collect());
        let disk = BTreeMap::new();
        let gcks = key_server(now, &profiles, BTreeMap::new(), &mut rng).unwrap();
        let mut world = World {
            seed,
            now,
            rng,
            weather,
            profiles,
            secrets,
            gcks,
            disk,
            clients: BTreeMap::new(),
            network: BTreeMap::new(),
            events: Vec::new(),
            lost: Vec::new(),
            excluded: BTreeSet::new(),
            cut_off: BTreeSet::new(),
            kept: BTreeMap::new(),
            to_terminal: BTreeMap::new(),
        };
        for name in world.profiles.clients.keys().cloned().collect::<Vec<_>>() {
            world.restart(&name);
        }
        world
    }

    /// A client begins, with nothing.
    pub(crate) fn restart(&mut self, name: &str) {
        let address = self.profiles.clients[name].address;
        let seed = SecretBytes::generate(32, &mut self.rng);
        let member = match &self.profiles.clients[name].one_way {
            Some(OneWay { key, .. }) => {
                let next = self.kept.get(name).copied().unwrap_or(1);
                Member::one_way(&OneWaySettings { doi: DOI, address, server: server(), key: key.clone(), next }, &seed)
            }
            None => Member::new(self.now, self.settings(address), &seed),
        };
        let router = Router {
            member,
            address,
            receives: BTreeMap::new(),
            sends: BTreeMap::new(),
            spd: Spd::default(),
            keys: BTreeSet::new(),
            sent_under: BTreeSet::new(),
        };
        let before = self.clients.insert(name.to_owned(), router);
        // What the old process sent under, this one must not.
        if let Some(before) = before {
            let sent_under = before.sent_under;
            self.clients.get_mut(name).unwrap().sent_under.extend(sent_under);
        }
    }

    /// A client without a return channel takes what is said under the key that its profile has now.
    pub(crate) fn take_under(&mut self, name: &str) {
        let (client, router) = (&self.profiles.clients[name], self.clients.get_mut(name).unwrap());
        let key = client.one_way.as_ref().unwrap().key.clone();
        let settings = OneWaySettings { doi: DOI, address: client.address, server: server(), key, next: 1 };
        router.member.take_under(&settings);
    }

    /// Another router takes its place, which was never told anything.
    pub(crate) fn replace(&mut self, name: &str) {
        self.kept.remove(name);
        self.restart(name);
    }

    /// How far the numbers that the terminal was told are ahead of the key server's clock, in seconds.
    pub(crate) fn numbers_ahead(&self) -> i64 {
        let last = self.to_terminal.keys().map(|(_, number)| i64::from(*number)).max().unwrap();
        last - unix(self.now) as i64
    }

    fn settings(&self, address: IpAddr) -> member::Settings {
        member::Settings {
            doi: DOI,
            address,
            proposals: Proposals::default(),
            credentials: Credentials { identity: Identity::Address(address), certificates: Vec::new() },
            server: Server { address: server(), secret: self.secrets.0.get(&address).cloned(), identity: None },
            liveness: Liveness::default(),
        }
    }

    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let members = self.clients.values().filter_map(|router| router.member.poll_timeout());
            let arrival = self.network.first_key_value().map(|((at, _), _)| *at);
            let next = members.chain(self.gcks.poll_timeout()).chain(arrival).min().filter(|at| *at <= end);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            self.deliver();
            self.time_passes();
        }
        self.now = end;
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.network.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (from, listener, Datagram { to, bytes }) = entry.remove();
            if let Some(name) = listener {
                self.arrive(&name, from, to, &bytes);
            } else if to == server() {
                // Whatever comes of a refusal is nothing.
                let _ = self.gcks.handle_datagram(self.now, from, &bytes, &self.secrets);
                self.serve();
            } else {
                let found = self.clients.iter().find(|(_, router)| SocketAddr::new(router.address, PORT) == to);
                if let Some(name) = found.map(|(name, _)| name.clone()) {
                    self.arrive(&name, from, to, &bytes);
                }
            }
        }
    }

    fn arrive(&mut self, name: &str, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if self.cut_off.contains(name) {
            return;
        }
        let router = self.clients.get_mut(name).unwrap();
        if !to.ip().is_multicast() || router.member.listens_to().any(|place| SocketAddr::from(place) == to) {
            // Whatever comes of a refusal is nothing.
            let _ = router.member.handle_datagram(self.now, from, bytes, &());
            self.drain(name);
        }
    }

    fn time_passes(&mut self) {
        if self.gcks.poll_timeout().is_some_and(|at| at <= self.now) {
            self.gcks.handle_timeout(self.now);
            self.serve();
        }
        for name in self.clients.keys().cloned().collect::<Vec<_>>() {
            let router = self.clients.get_mut(&name).unwrap();
            if router.member.poll_timeout().is_some_and(|at| at <= self.now) {
                router.member.handle_timeout(self.now);
                self.drain(&name);
            }
        }
    }

    /// Stores, then sends.
    fn serve(&mut self) {
        self.store();
        let terminal = self.profiles.clients.get(TERMINAL).map(|client| SocketAddr::new(client.address, PORT));
        while let Some(datagram) = self.gcks.poll_transmit() {
            if Some(datagram.to) == terminal {
                let id = u32::from_be_bytes(datagram.bytes[20..24].try_into().unwrap());
                let cookies = datagram.bytes[..16].to_vec();
                let said = self.to_terminal.entry((cookies, id)).or_insert_with(|| datagram.bytes.clone());
                assert_eq!(*said, datagram.bytes, "two messages with one number under one key");
            }
            if datagram.to.ip().is_multicast() {
                // Each receiver has its own luck.
                for name in self.clients.keys().cloned().collect::<Vec<_>>() {
                    self.send(server(), Some(name), datagram.clone());
                }
            } else {
                self.send(server(), None, datagram);
            }
        }
    }

    fn store(&mut self) {
        for write in self.gcks.poll_writes() {
            match write.value {
                Some(value) => drop(self.disk.insert(write.key, value)),
                None => drop(self.disk.remove(&write.key)),
            }
        }
        while let Some(event) = self.gcks.poll_event() {
            assert!(!matches!(event, Event::Failed { .. }), "{event}");
            self.events.push(event);
        }
    }

    fn send(&mut self, from: SocketAddr, listener: Option<String>, datagram: Datagram) {
        for _ in 0..self.luck() {
            let key = self.arrival();
            self.network.insert(key, (from, listener.clone(), datagram.clone()));
        }
    }

    fn luck(&mut self) -> u32 {
        let Weather { lost, twice, .. } = self.weather;
        match self.rng.next_u32() % 100 {
            roll if roll < lost => 0,
            roll if roll < lost + twice => 2,
            _ => 1,
        }
    }

    fn arrival(&mut self) -> (Time, u64) {
        let (least, most) = self.weather.delay;
        let delay = least + self.rng.next_u64() % (most - least + 1);
        (self.now + Duration::from_micros(delay), self.rng.next_u64())
    }

    fn drain(&mut self, name: &str) {
        let router = self.clients.get_mut(name).unwrap();
        while let Some(event) = router.member.poll_event() {
            if matches!(event, member::Event::Lost { .. }) {
                self.lost.push(format!("{name}: {event}"));
            }
        }
        let mut out = Vec::new();
        while let Some(datagram) = router.member.poll_transmit() {
            out.push(datagram);
        }
        if let Some(next) = router.member.next_number() {
            assert!(out.is_empty(), "it cannot send");
            self.kept.insert(name.to_owned(), next);
        }
        while let Some(change) = router.member.poll_change() {
            router.apply(change);
        }
        let from = SocketAddr::new(router.address, PORT);
        if !self.cut_off.contains(name) {
            out.into_iter().for_each(|datagram| self.send(from, None, datagram));
        }
    }

    /// Says again all that was said to the terminal alone: how much of it is taken.
    pub(crate) fn replay_to_terminal(&mut self) -> usize {
        let said = self.to_terminal.clone();
        let router = self.clients.get_mut(TERMINAL).unwrap();
        let taken =
            said.values().filter(|bytes| router.member.handle_datagram(self.now, server(), bytes, &()).is_ok()).count();
        self.drain(TERMINAL);
        taken
    }

    /// Lets a client in again.
    pub(crate) fn admit(&mut self, name: &str) {
        self.excluded.remove(name);
        self.gcks.admit(self.now, name);
        self.serve();
    }

    /// How many SAs of ESP it holds, those that are on their way out, too.
    pub(crate) fn sas(&self, name: &str) -> usize {
        self.clients[name].member.sas()
    }

    pub(crate) fn rekey(&mut self) {
        self.gcks.rekey(self.now, None);
        self.serve();
    }

    pub(crate) fn rekey_group(&mut self, group: &str) {
        self.gcks.rekey(self.now, Some(group));
        self.serve();
    }

    pub(crate) fn exclude(&mut self, name: &str) {
        self.excluded.insert(name.to_owned());
        self.gcks.exclude(self.now, &[name.to_owned()]);
        self.serve();
    }

    /// Dies with all that is not on the disk, and comes back with these profiles.
    pub(crate) fn kill(&mut self, profiles: Profiles) {
        self.profiles = profiles;
        self.gcks = key_server(self.now, &self.profiles, self.disk.clone(), &mut self.rng).unwrap();
        self.serve();
    }

    /// What a key server makes of this disk with a change to it.
    pub(crate) fn begin_with(
        &mut self,
        change: impl FnOnce(&mut BTreeMap<String, Zeroizing<Vec<u8>>>),
    ) -> Result<(), StoreError> {
        let mut disk = self.disk.clone();
        change(&mut disk);
        key_server(self.now, &self.profiles, disk, &mut self.rng).map(drop)
    }

    pub(crate) fn profiles(&self) -> Profiles {
        self.profiles.clone()
    }

    /// Until this client is connected, and not longer.
    pub(crate) fn run_until_connected(&mut self, name: &str) {
        let begun = self.now;
        while !self.is_connected(name) {
            assert!(self.now.since(begun) < Duration::from_secs(60), "{name} does not connect");
            self.run(Duration::from_millis(1));
        }
    }

    /// A client is cut off, or is no longer.
    pub(crate) fn cut_off(&mut self, name: &str, is_cut_off: bool) {
        if is_cut_off {
            self.cut_off.insert(name.to_owned());
        } else {
            self.cut_off.remove(name);
        }
    }

    /// Stores what is to be stored, and dies before anything is sent.
    pub(crate) fn kill_before_sending(&mut self) {
        self.gcks.rekey(self.now, None);
        self.store();
        self.gcks = key_server(self.now, &self.profiles, self.disk.clone(), &mut self.rng).unwrap();
        self.serve();
    }

    /// What a client holds: (flow, whether it sends it).
    pub(crate) fn held(&self, name: &str) -> BTreeSet<(FlowKey, bool)> {
        let router = &self.clients[name];
        let receives = router.receives.values().map(|(flow, _)| (*flow, false));
        receives.chain(router.sends.keys().map(|flow| (*flow, true))).collect()
    }

    /// The keys under which a client receives multicast.
    pub(crate) fn receives(&self, name: &str) -> BTreeSet<Vec<u8>> {
        let multicast = |(flow, _): &&(FlowKey, Vec<u8>)| flow.tunnel.1.is_multicast();
        self.clients[name].receives.values().filter(multicast).map(|(_, key)| key.clone()).collect()
    }

    pub(crate) fn keys(&self, name: &str) -> BTreeSet<Vec<u8>> {
        self.clients[name].keys.clone()
    }

    /// The keys that clients who are in send under now.
    pub(crate) fn sent_under(&self) -> BTreeSet<Vec<u8>> {
        let others = self.clients.iter().filter(|(name, _)| !self.excluded.contains(*name));
        others.flat_map(|(_, router)| router.sends.values().map(|(_, key)| key.clone())).collect()
    }

    /// The keys that others than this one send under now.
    pub(crate) fn sent_under_but(&self, name: &str) -> BTreeSet<Vec<u8>> {
        let others = self.clients.iter().filter(|(other, _)| *other != name);
        others.flat_map(|(_, router)| router.sends.values().map(|(_, key)| key.clone())).collect()
    }

    /// The keys between two clients, as the first holds them.
    pub(crate) fn keys_between(&self, one: &str, other: &str) -> BTreeSet<Vec<u8>> {
        let (one, other) = (&self.clients[one], self.clients[other].address);
        let receives = one.receives.values().filter(|(flow, _)| flow.tunnel == (other, one.address));
        let sends = one.sends.iter().filter(|(flow, _)| flow.tunnel == (one.address, other));
        receives.map(|(_, key)| key.clone()).chain(sends.map(|(_, (_, key))| key.clone())).collect()
    }

    pub(crate) fn configure(&mut self, profiles: Profiles) {
        self.profiles = profiles.clone();
        self.gcks.configure(self.now, profiles);
        self.serve();
    }

    /// What a client may let go unprotected.
    pub(crate) fn bypass(&self, name: &str) -> BTreeSet<TrafficSelector> {
        self.clients[name].spd.bypass.clone()
    }

    pub(crate) fn sends(&self, name: &str) -> BTreeSet<Vec<u8>> {
        self.clients[name].sends.values().map(|(_, key)| key.clone()).collect()
    }

    /// Runs until every client who is in holds what it is to hold, and whoever sends does so under a key that those have who
    /// are to receive it.
    pub(crate) fn settle(&mut self) {
        self.settle_within(Duration::from_secs(300));
    }

    pub(crate) fn settle_within(&mut self, limit: Duration) {
        let begun = self.now;
        while let Some(amiss) = self.amiss() {
            let took = self.now.since(begun);
            assert!(took < limit, "seed {}, {:?}: {amiss}", self.seed, self.weather);
            self.run(Duration::from_secs(1));
        }
    }

    fn amiss(&self) -> Option<String> {
        for (name, router) in self.clients.iter().filter(|(name, _)| !self.excluded.contains(*name)) {
            if self.held(name) != self.expected(name) {
                return Some(format!("{name} holds {:?} instead of {:?}", self.held(name), self.expected(name)));
            }
            if router.spd != self.laid_down(name) {
                return Some(format!("{name} follows {:?} instead of {:?}", router.spd, self.laid_down(name)));
            }
            for (flow, (spi, key)) in &router.sends {
                let receivers = self.clients.iter().filter(|(other, _)| {
                    self.expected(other).contains(&(*flow, false)) && !self.excluded.contains(*other)
                });
                for (other, receiver) in receivers {
                    if receiver.receives.get(spi).is_none_or(|(_, theirs)| theirs != key) {
                        return Some(format!("{other} cannot read what {name} sends to {:?}", flow.destination));
                    }
                }
            }
        }
        None
    }

    /// No two send under one key.
    pub(crate) fn assert_one_key_each(&self) {
        let mut senders = BTreeMap::new();
        for (name, router) in &self.clients {
            for (_, key) in router.sends.values() {
                assert_eq!(senders.insert(key.clone(), name), None, "two send under one key");
            }
        }
    }

    pub(crate) fn is_connected(&self, name: &str) -> bool {
        self.clients[name].member.is_connected()
    }
}

impl Router {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Receive { flow, spi, key } => {
                self.keys.insert(key.as_bytes().to_vec());
                self.receives.insert(spi, (flow, key.as_bytes().to_vec()));
            }
            Change::Send { flow, spi, key } => {
                let key = key.as_bytes().to_vec();
                self.keys.insert(key.clone());
                // Else what it is for could have gone on a wider flow until now.
                assert!(self.spd.protect.contains(&flow.selector()), "an SA for what is not to be protected");
                assert!(self.sent_under.insert(key.clone()), "a key is sent under from its beginning twice");
                self.sends.insert(flow, (spi, key));
            }
            Change::Stop { flow } => drop(self.sends.remove(&flow)),
            Change::Forget { spi, .. } => drop(self.receives.remove(&spi)),
            Change::Follow(spd) => self.spd = spd,
        }
    }
}

pub(crate) fn server() -> SocketAddr {
    "192.0.2.1:848".parse().unwrap()
}

/// What the key server's clock shows.
fn unix(now: Time) -> u64 {
    1_700_000_000 + now.0 / 1_000_000
}

fn key_server(
    now: Time,
    profiles: &Profiles,
    disk: BTreeMap<String, Zeroizing<Vec<u8>>>,
    rng: &mut ChaCha20Rng,
) -> Result<Gcks, StoreError> {
    let settings = gcks::Settings {
        doi: DOI,
        address: server(),
        proposals: Proposals::default(),
        credentials: Credentials { identity: Identity::Address(server().ip()), certificates: Vec::new() },
        liveness: Liveness::default(),
        limits: Limits::default(),
        join_window: Duration::from_millis(20),
        one_way_period: Duration::from_secs(60),
        signature: RekeyAlgorithm::EcdsaP256,
    };
    Gcks::new(now, unix(now), settings, profiles.clone(), disk, &SecretBytes::generate(32, rng))
}
