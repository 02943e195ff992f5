//! The machines, the disk below one of them, and the wire between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use muster_fmke::crypto::SecretBytes;
use muster_fmke::crypto::rekey::RekeyAlgorithm;
use muster_fmke::gcks::{self, Event, Gcks};
use muster_fmke::isakmp::{Chain, Identity};
use muster_fmke::member::{self, Change, FlowKey, Member};
use muster_fmke::phase1::{self, Credentials, Initiator, Limits, Liveness, Proposals, Rate, Server};
use muster_sim::Input;
use muster_wire::Time;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use zeroize::Zeroizing;

use super::profiles::{DOI, Secrets, address, expected, name, profiles, secret};

/// Clients that do as they should.
pub(super) const ROUTERS: usize = 3;
/// The client after them, in the attacker's hands.
pub(super) const INSIDER: usize = ROUTERS;
/// The key server.
pub(super) const SERVER: usize = INSIDER + 1;
/// Datagrams on their way; the oldest gets lost when there are more.
const MAX_WIRE: usize = 256;
/// Datagrams that the attacker remembers.
const MAX_HISTORY: usize = 96;
/// No single input makes a machine send more than this.
const MAX_ANSWERS: usize = 200;
const UNIX: u64 = 1_800_000_000;

/// A datagram on its way.
#[derive(Clone)]
pub(super) struct OnTheWay {
    pub(super) from: usize,
    pub(super) to: usize,
    /// Where it came to, if it is multicast: who does not listen there does not hear it.
    group: Option<(IpAddr, u16)>,
    pub(super) bytes: Vec<u8>,
}

pub(super) struct World {
    now: Time,
    rng: ChaCha20Rng,
    secrets: Secrets,
    gcks: Gcks,
    disk: BTreeMap<String, Zeroizing<Vec<u8>>>,
    routers: Vec<Router>,
    insider: Initiator,
    pub(super) wire: VecDeque<OnTheWay>,
    history: VecDeque<OnTheWay>,
    /// With all that every client who is out may know.
    excluded: BTreeMap<usize, BTreeSet<Vec<u8>>>,
    /// All keys of ESP that the disk ever held.
    issued: BTreeSet<Vec<u8>>,
    /// All keys that anybody ever sent under.
    sent_under: BTreeSet<Vec<u8>>,
}

/// A client, and what its data plane holds.
struct Router {
    member: Member,
    /// By SPI.
    receives: BTreeMap<u32, (FlowKey, Vec<u8>)>,
    sends: BTreeMap<FlowKey, (u32, Vec<u8>)>,
    /// All keys it was ever told.
    keys: BTreeSet<Vec<u8>>,
}

/// What a refused message must not change: of the key server, who is connected, who is in each group, SAs; of a client,
/// whether it is connected, SAs, groups.
#[derive(Debug, PartialEq)]
enum View {
    Server(Vec<bool>, Vec<(Vec<String>, usize)>, Vec<usize>),
    Client(bool, usize, Vec<(IpAddr, u16)>),
    Insider(bool),
}

impl World {
    /// All begin.
    pub(super) fn new() -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let now = Time(1_000_000_000);
        let insider = Initiator::new(
            DOI,
            Proposals::default(),
            Credentials { identity: Identity::Address(address(INSIDER).ip()), certificates: Vec::new() },
            server(INSIDER),
            Liveness::default(),
            now,
        );
        let mut world = World {
            now,
            secrets: Secrets::all(),
            gcks: key_server(now, true, BTreeMap::new(), &mut rng),
            rng,
            disk: BTreeMap::new(),
            routers: Vec::new(),
            insider,
            wire: VecDeque::new(),
            history: VecDeque::new(),
            excluded: BTreeMap::new(),
            issued: BTreeSet::new(),
            sent_under: BTreeSet::new(),
        };
        world.drain(SERVER);
        for router in 0..ROUTERS {
            let router = world.begin(router);
            world.routers.push(router);
        }
        world
    }

    fn begin(&mut self, router: usize) -> Router {
        let settings = member::Settings {
            doi: DOI,
            address: address(router).ip(),
            proposals: Proposals::default(),
            credentials: Credentials { identity: Identity::Address(address(router).ip()), certificates: Vec::new() },
            server: server(router),
            liveness: Liveness::default(),
        };
        let member = Member::new(self.now, settings, &SecretBytes::generate(32, &mut self.rng));
        Router { member, receives: BTreeMap::new(), sends: BTreeMap::new(), keys: BTreeSet::new() }
    }

    /// A client's process ends, and another begins, with nothing.
    pub(super) fn restart(&mut self, router: usize) {
        let keys = std::mem::take(&mut self.routers[router].keys);
        self.routers[router] = Router { keys, ..self.begin(router) };
    }

    /// The key server dies, and is made anew from its disk.
    pub(super) fn kill(&mut self) {
        let more = self.gcks.profiles().groups.len() > 1;
        self.gcks = key_server(self.now, more, self.disk.clone(), &mut self.rng);
        self.drain(SERVER);
    }

    /// New keys are made, and nothing of it is stored: nothing of it is sent.
    pub(super) fn kill_at_a_rekey(&mut self) {
        self.gcks.rekey(self.now, None);
        self.kill();
    }

    /// New keys for all.
    pub(super) fn rekey(&mut self) {
        self.gcks.rekey(self.now, None);
        self.drain(SERVER);
    }

    /// Other profiles.
    pub(super) fn configure(&mut self, more: bool) {
        self.gcks.configure(self.now, profiles(more));
        self.drain(SERVER);
    }

    /// A client loses access: what it may know is what was made until now.
    pub(super) fn exclude(&mut self, client: usize) {
        self.excluded.entry(client).or_insert_with(|| self.issued.clone());
        self.gcks.exclude(self.now, &[name(client)]);
        self.drain(SERVER);
    }

    /// It may connect again.
    pub(super) fn admit(&mut self, client: usize) {
        self.excluded.remove(&client);
        self.gcks.admit(self.now, &name(client));
        self.drain(SERVER);
    }

    /// The cookies of the insider's SA, as an SPI.
    pub(super) fn insider_sa(&self) -> Option<[u8; 16]> {
        self.insider.current().map(|sa| sa.id().octets())
    }

    /// The insider says this under its SA, with a hash as it is to be.
    pub(super) fn insider_says(&mut self, exchange: u8, mut chain: Chain, is_hashed_with_id: bool) {
        let Some(sa) = self.insider.current() else { return };
        let message_id = self.rng.next_u32().max(1);
        let prefix = message_id.to_be_bytes();
        sa.add_hash(if is_hashed_with_id { &prefix } else { &[] }, &mut chain);
        let bytes = sa.seal(exchange, message_id, &chain);
        let honest: Vec<bool> = self.connected();
        self.deliver(&OnTheWay { from: INSIDER, to: SERVER, group: None, bytes }, false);
        assert_eq!(honest, self.connected(), "a client's word disconnects another");
    }

    fn connected(&self) -> Vec<bool> {
        (0..ROUTERS).map(|router| self.gcks.is_connected(&name(router))).collect()
    }

    /// A datagram of the past.
    pub(super) fn remembered(&self, input: &mut Input<'_>) -> Option<OnTheWay> {
        self.history.get(input.below(self.history.len())).cloned()
    }

    /// Time passes, and datagrams take a millisecond each.
    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            for datagram in std::mem::take(&mut self.wire) {
                self.deliver(&datagram, false);
            }
            let step = if self.wire.is_empty() { self.next_timer() } else { Some(self.now) };
            let step = step.map_or(end, |at| at.max(self.now) + Duration::from_millis(1)).min(end);
            self.pass(step.since(self.now));
        }
    }

    /// Time passes, and nothing arrives.
    pub(super) fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.next_timer().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            (0..=SERVER).for_each(|machine| self.serve(machine));
        }
        self.now = self.now.max(end);
    }

    /// A datagram reaches a machine. One that `is_forged` changes nothing; nor does one that the machine refuses.
    pub(super) fn deliver(&mut self, datagram: &OnTheWay, is_forged: bool) {
        let OnTheWay { from, to, group, bytes } = datagram;
        if let (Some(router), Some(group)) = (self.routers.get(*to), group)
            && !router.member.listens_to().any(|place| place == *group)
        {
            return;
        }
        self.serve(*to);
        let (before, now, from) = (self.view(*to), self.now, address(*from));
        let is_refused = match *to {
            SERVER => self.gcks.handle_datagram(now, from, bytes, &self.secrets).is_err(),
            INSIDER => self.insider.handle_datagram(now, from, bytes, &(), &mut self.rng).is_err(),
            router => self.routers[router].member.handle_datagram(now, from, bytes, &()).is_err(),
        };
        let outputs = self.drain(*to);
        if is_refused {
            assert_eq!(outputs, Outputs::default(), "a refused datagram at {to} has consequences: {bytes:02x?}");
        }
        if is_refused || is_forged {
            assert_eq!(before, self.view(*to), "a refused or forged datagram at {to} changes state: {bytes:02x?}");
            assert_eq!((outputs.events, outputs.writes, outputs.changes), (0, 0, 0), "it has consequences at {to}");
        }
    }

    fn view(&self, machine: usize) -> View {
        match machine {
            SERVER => {
                let profiles = self.gcks.profiles();
                let group = |group: &String| {
                    let members = self.gcks.members(group).map(str::to_owned).collect();
                    (members, self.gcks.group_sas(self.now, group).0)
                };
                View::Server(
                    (0..=INSIDER).map(|client| self.gcks.is_connected(&name(client))).collect(),
                    profiles.groups.keys().map(group).collect(),
                    profiles.vpns.keys().map(|vpn| self.gcks.vpn_sas(self.now, vpn).0).collect(),
                )
            }
            INSIDER => View::Insider(self.insider.current().is_some()),
            router => {
                let member = &self.routers[router].member;
                View::Client(member.is_connected(), member.sas(), member.listens_to().collect())
            }
        }
    }

    fn next_timer(&self) -> Option<Time> {
        let routers = self.routers.iter().filter_map(|router| router.member.poll_timeout());
        routers.chain(self.gcks.poll_timeout()).chain(self.insider.poll_timeout()).min()
    }

    /// Does what is due at a machine; its timers must go away.
    fn serve(&mut self, machine: usize) {
        let mut rounds = 0;
        let timer = |world: &Self| match machine {
            SERVER => world.gcks.poll_timeout(),
            INSIDER => world.insider.poll_timeout(),
            router => world.routers[router].member.poll_timeout(),
        };
        while timer(self).is_some_and(|at| at <= self.now) {
            match machine {
                SERVER => self.gcks.handle_timeout(self.now),
                INSIDER => self.insider.handle_timeout(self.now, &mut self.rng),
                router => self.routers[router].member.handle_timeout(self.now),
            }
            self.drain(machine);
            rounds += 1;
            assert!(rounds < 20, "a timer of {machine} that does not go away");
        }
    }

    /// Carries out what a machine wants: stores, then sends.
    fn drain(&mut self, machine: usize) -> Outputs {
        let mut outputs = Outputs::default();
        match machine {
            SERVER => {
                for write in self.gcks.poll_writes() {
                    outputs.writes += 1;
                    // Key and salt stand first.
                    if let Some(value) = write.value.as_ref().filter(|_| write.key.starts_with("tek/")) {
                        self.issued.insert(value[..36].to_vec());
                    }
                    match write.value {
                        Some(value) => drop(self.disk.insert(write.key, value)),
                        None => drop(self.disk.remove(&write.key)),
                    }
                }
            }
            INSIDER => while self.insider.poll_event().is_some() {},
            router => {
                let router = &mut self.routers[router];
                while router.member.poll_event().is_some() {
                    outputs.events += 1;
                }
                while let Some(change) = router.member.poll_change() {
                    outputs.changes += 1;
                    router.apply(change, &mut self.sent_under);
                }
            }
        }
        while let Some(phase1::Datagram { to, bytes }) = match machine {
            SERVER => self.gcks.poll_transmit(),
            INSIDER => self.insider.poll_transmit(),
            router => self.routers[router].member.poll_transmit(),
        } {
            outputs.datagrams += 1;
            assert!(outputs.datagrams <= MAX_ANSWERS, "one input makes more than {MAX_ANSWERS} datagrams");
            let place = (to.ip(), to.port());
            let group = to.ip().is_multicast().then_some(place);
            let receivers: Vec<usize> = match group {
                Some(_) => (0..ROUTERS).collect(),
                None => (0..=SERVER).filter(|machine| address(*machine) == to).collect(),
            };
            assert!(!receivers.is_empty(), "something goes to {to}, which is nobody's");
            for to in receivers {
                let datagram = OnTheWay { from: machine, to, group, bytes: bytes.clone() };
                push(&mut self.wire, MAX_WIRE, datagram.clone());
                push(&mut self.history, MAX_HISTORY, datagram);
            }
        }
        if machine == SERVER {
            while let Some(event) = self.gcks.poll_event() {
                assert!(!matches!(event, Event::Failed { .. }), "{event}");
                outputs.events += 1;
            }
        }
        outputs
    }

    /// Whoever is out learns no key that was made since; an SPI has one key.
    pub(super) fn check(&self) {
        for (client, known) in self.excluded.iter().filter(|(client, _)| **client < ROUTERS) {
            assert!(self.routers[*client].keys.is_subset(known), "{} is out and has learnt a key", name(*client));
        }
        let mut keys = BTreeMap::new();
        for router in &self.routers {
            let received = router.receives.iter().map(|(spi, (_, key))| (spi, key));
            let sent = router.sends.values().map(|(spi, key)| (spi, key));
            for (spi, key) in received.chain(sent) {
                assert_eq!(*keys.entry(*spi).or_insert(key), key, "two keys of SA {spi}");
            }
        }
    }

    /// The network is good from now on: all who may hold what they are to hold, and read each other.
    pub(super) fn settle(&mut self, patience: Duration) {
        let end = self.now + patience;
        while let Some(amiss) = self.amiss() {
            assert!(self.now < end, "{patience:?} later {amiss}");
            self.run(Duration::from_secs(1));
            self.check();
        }
    }

    fn amiss(&self) -> Option<String> {
        let excluded: BTreeSet<usize> = self.excluded.keys().copied().collect();
        for (number, router) in self.routers.iter().enumerate().filter(|(number, _)| !excluded.contains(number)) {
            let received = router.receives.values().map(|(flow, _)| (*flow, false));
            let held: BTreeSet<_> = received.chain(router.sends.keys().map(|flow| (*flow, true))).collect();
            let expected = expected(self.gcks.profiles(), number, &excluded);
            if held != expected || !router.member.is_connected() {
                return Some(format!("{} holds {held:?} instead of {expected:?}", name(number)));
            }
            for (flow, key) in router.receives.values() {
                // Under a key before the one that is received, it still is.
                let sender = self.routers.iter().find_map(|other| other.sends.get(flow));
                let is_read = |sent: &(u32, Vec<u8>)| {
                    sent.1 == *key || router.receives.get(&sent.0).is_some_and(|(_, received)| *received == sent.1)
                };
                if sender.is_some_and(|sent| !is_read(sent)) {
                    return Some(format!("{} cannot read {flow:?}", name(number)));
                }
            }
        }
        None
    }
}

/// What came of an input.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Outputs {
    writes: usize,
    events: usize,
    changes: usize,
    datagrams: usize,
}

impl Router {
    fn apply(&mut self, change: Change, sent_under: &mut BTreeSet<Vec<u8>>) {
        match change {
            Change::Receive { flow, spi, key } => {
                self.keys.insert(key.as_bytes().to_vec());
                self.receives.insert(spi, (flow, key.as_bytes().to_vec()));
            }
            Change::Send { flow, spi, key } => {
                let key = key.as_bytes().to_vec();
                self.keys.insert(key.clone());
                assert!(sent_under.insert(key.clone()), "a key is sent under from its beginning twice");
                self.sends.insert(flow, (spi, key));
            }
            Change::Follow(_) => {}
            Change::Stop { flow } => drop(self.sends.remove(&flow)),
            Change::Forget { spi, .. } => drop(self.receives.remove(&spi)),
        }
    }
}

fn server(client: usize) -> Server {
    Server { address: address(SERVER), secret: Some(secret(client)), identity: None }
}

fn key_server(now: Time, more: bool, disk: BTreeMap<String, Zeroizing<Vec<u8>>>, rng: &mut ChaCha20Rng) -> Gcks {
    let rate = Rate { per_second: 1000, burst: 1000 };
    let settings = gcks::Settings {
        doi: DOI,
        address: address(SERVER),
        proposals: Proposals::default(),
        credentials: Credentials { identity: Identity::Address(address(SERVER).ip()), certificates: Vec::new() },
        liveness: Liveness::default(),
        limits: Limits { computations: rate, ..Limits::default() },
        join_window: Duration::from_millis(20),
        one_way_period: Duration::from_secs(60),
        signature: RekeyAlgorithm::Ed25519,
    };
    let (unix, seed) = (UNIX + now.0 / 1_000_000, SecretBytes::generate(32, rng));
    Gcks::new(now, unix, settings, profiles(more), disk, &seed).expect("a store that it wrote itself")
}

fn push<T>(queue: &mut VecDeque<T>, most: usize, item: T) {
    if queue.len() >= most {
        queue.pop_front();
    }
    queue.push_back(item);
}
