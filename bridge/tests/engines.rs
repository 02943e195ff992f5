//! Three engines on a network with its own time: what changes while they run, and what it costs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use muster_bridge::{Action, Engine, EventKind, Port, Record, Start, UnicastChange};
use muster_certs::{Author, Device, TrustStore, certificates_from_pem, crls_from_pem, pki};
use muster_wire::{Destination, Envelope, Hash, Kind, MemberId, Time, VOUCHER_LEN, Voucher};

const UNIX: u64 = 1_800_000_000;
const DELAY: Duration = Duration::from_micros(300);
const KEY_LIFE: Duration = Duration::from_secs(3600);

struct Node {
    engine: Option<Engine>,
    member: MemberId,
    address: SocketAddr,
    records: Vec<Record>,
    /// What it believes of the others' red sides.
    prefixes: BTreeMap<MemberId, Vec<IpNet>>,
    kept: Vec<(Hash, Vec<u8>)>,
    revoked: bool,
    /// SPIs of the unicast SAs that it receives on, and of that which it sends to each other on.
    receives: BTreeSet<u32>,
    sends: BTreeMap<MemberId, u32>,
    /// Its process gets no processor before.
    sleeps_until: Time,
}

struct Net {
    now: Time,
    nodes: Vec<Node>,
    wire: VecDeque<(Time, usize, Port, SocketAddr, Vec<u8>)>,
    /// What one sends another is lost: all of it, or discovery's of one kind.
    lost: Vec<(usize, usize, Option<Kind>)>,
    /// How the network treats the rest.
    weather: Weather,
    sent_to: Vec<SocketAddr>,
    root: pki::Root,
    devices: Vec<pki::Issued>,
}

/// Loss in hundred, and what comes at random to the delay, so that datagrams overtake each other.
struct Weather {
    loss: u64,
    jitter: Duration,
    rng: Random,
}

/// xorshift64: the same numbers at every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn net_of(node: usize) -> IpNet {
    format!("2001:db8:{node}::/64").parse().unwrap()
}

impl Net {
    /// `count` devices of one nation, one group.
    fn of(count: usize) -> Net {
        let root = pki::init("Alpha", UNIX).unwrap();
        let name = |node: usize| format!("alpha-{node}");
        let devices: Vec<pki::Issued> = (0..count)
            .map(|node| pki::issue(&root.certificate_pem, &root.key_pem, &name(node), 9, UNIX).unwrap())
            .collect();
        let mut net = Net {
            now: Time(0),
            nodes: Vec::new(),
            wire: VecDeque::new(),
            lost: Vec::new(),
            weather: Weather { loss: 0, jitter: Duration::ZERO, rng: Random(1) },
            sent_to: Vec::new(),
            root,
            devices,
        };
        for node in 0..count {
            net.start(node);
        }
        net.wait("one group", |net| net.size() == count);
        net
    }

    fn trust(&self) -> TrustStore {
        TrustStore::new(certificates_from_pem(&self.root.certificate_pem).unwrap(), Vec::new()).unwrap()
    }

    fn start(&mut self, node: usize) {
        let issued = &self.devices[node];
        let device = Device::from_pem(&issued.certificate_pem, &issued.key_pem).unwrap();
        let start = Start {
            discovery: muster_discovery::Config { hello_interval: Duration::from_secs(1), key_life: KEY_LIFE },
            keyagree: muster_keyagree::Config {
                name: "coalition".into(),
                hello_interval: Duration::from_secs(1),
                batch_window: Duration::from_millis(20),
                activation_delay: Duration::from_millis(200),
                deactivation_delay: Duration::from_secs(2),
                lifetime: Duration::from_secs(3600),
                leaf_refresh: Duration::from_secs(3600),
            },
            author: Author::new(device.key, muster_keyagree::group_tag("coalition"), device.member, 1),
            chain: device.chain,
            trust: self.trust(),
            seeds: [[node as u8 + 1; 32], [node as u8 + 101; 32]],
            prefixes: vec![net_of(node)],
        };
        self.nodes.push(Node {
            engine: Some(Engine::new(start, self.now, UNIX).unwrap()),
            member: device.member,
            address: format!("[2001:db8:ffff::{}]:4860", node + 1).parse().unwrap(),
            records: Vec::new(),
            prefixes: BTreeMap::new(),
            kept: Vec::new(),
            revoked: false,
            receives: BTreeSet::new(),
            sends: BTreeMap::new(),
            sleeps_until: Time(0),
        });
        self.drive(node);
    }

    /// The members that all running engines agree on; 0 while they do not.
    fn size(&self) -> usize {
        let mut states = self
            .nodes
            .iter()
            .filter_map(|node| node.engine.as_ref())
            .map(|engine| (engine.keyagree().keys().fingerprint(), engine.keyagree().members().count()));
        let first = states.next().unwrap();
        if states.all(|state| state == first) { first.1 } else { 0 }
    }

    fn epoch(&self) -> u64 {
        self.nodes[0].engine.as_ref().unwrap().keyagree().group_state().epoch
    }

    fn command(&mut self, node: usize, command: impl FnOnce(&mut Engine, Time)) {
        command(self.nodes[node].engine.as_mut().unwrap(), self.now);
        self.drive(node);
    }

    /// Runs until the condition holds, at most 20 seconds of the network's time.
    fn wait(&mut self, what: &str, condition: impl Fn(&Net) -> bool) {
        let end = self.now + Duration::from_secs(20);
        while !condition(self) {
            assert!(self.now < end, "{what}");
            self.run(Duration::from_millis(10));
        }
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let due = |node: &Node| Some(node.engine.as_ref()?.poll_timeout()?.max(node.sleeps_until));
            let timers = self.nodes.iter().filter_map(due);
            let arrival = self.wire.front().map(|datagram| datagram.0);
            let Some(next) = timers.chain(arrival).min().filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            while self.wire.front().is_some_and(|datagram| datagram.0 <= self.now) {
                let (_, to, port, from, bytes) = self.wire.pop_front().unwrap();
                let sleeps_until = self.nodes[to].sleeps_until;
                if sleeps_until > self.now {
                    // It waits in the socket.
                    self.put(sleeps_until, to, port, from, bytes);
                } else if let Some(engine) = &mut self.nodes[to].engine {
                    engine.handle_datagram(self.now, port, from, &bytes);
                    self.drive(to);
                }
            }
            (0..self.nodes.len()).for_each(|node| self.drive(node));
        }
        self.now = end;
    }

    fn put(&mut self, at: Time, to: usize, port: Port, from: SocketAddr, bytes: Vec<u8>) {
        let place = self.wire.partition_point(|datagram| datagram.0 <= at);
        self.wire.insert(place, (at, to, port, from, bytes));
    }

    fn is_lost(&mut self, from: usize, to: usize, bytes: &[u8]) -> bool {
        let kind = Envelope::parse(Voucher::split(bytes).1).ok().map(|envelope| envelope.header().kind);
        let falls = |lost: &(usize, usize, Option<Kind>)| {
            (lost.0, lost.1) == (from, to) && lost.2.is_none_or(|one| Some(one) == kind)
        };
        self.lost.iter().any(falls) || self.weather.rng.below(100) < self.weather.loss
    }

    fn drive(&mut self, node: usize) {
        let now = self.now;
        if self.nodes[node].sleeps_until > now {
            return;
        }
        let Node { engine: Some(engine), address, records, prefixes, kept, revoked, receives, sends, .. } =
            &mut self.nodes[node]
        else {
            return;
        };
        if engine.poll_timeout().is_some_and(|at| at <= now) {
            engine.handle_timeout(now);
        }
        let (from, mut out) = (*address, Vec::new());
        loop {
            while engine.process(now) {}
            if let Some(action) = engine.poll_action() {
                match action {
                    Action::Install(keys) => engine.installed(now, keys.header),
                    Action::Record(record) => records.push(record),
                    Action::Prefixes { member, prefixes: list } => drop(prefixes.insert(member, list)),
                    Action::Keep { issuer, list } => kept.push((issuer, list)),
                    Action::Revoked => *revoked = true,
                    Action::Unicast(UnicastChange::Receive { key, .. }) => drop(receives.insert(key.spi)),
                    Action::Unicast(UnicastChange::Forget { spi }) => drop(receives.remove(&spi)),
                    Action::Unicast(UnicastChange::Send { member, key }) => drop(sends.insert(member, key.spi)),
                    Action::Unicast(UnicastChange::Stop { member }) => drop(sends.remove(&member)),
                    _ => {}
                }
            } else if let Some(transmit) = engine.poll_transmit() {
                out.push(transmit);
            } else {
                break;
            }
        }
        if *revoked {
            self.nodes[node].engine = None;
        }
        for (port, transmit) in out {
            let at = |address: SocketAddr| {
                let mut address = address;
                address.set_port(4860 + u16::from(port == Port::KeyAgreement));
                address
            };
            for to in 0..self.nodes.len() {
                let heard = match transmit.to {
                    Destination::Group => to != node,
                    Destination::Unicast(address) => at(self.nodes[to].address) == address,
                };
                if heard && !self.is_lost(node, to, &transmit.bytes) {
                    let jitter = self.weather.rng.below(self.weather.jitter.as_micros() as u64 + 1);
                    let arrives = now + DELAY + Duration::from_micros(jitter);
                    self.put(arrives, to, port, at(from), transmit.bytes.clone());
                }
            }
            if let Destination::Unicast(address) = transmit.to {
                self.sent_to.push(address);
            }
        }
    }

    /// Whoever sends to another under an SA that this one does not have.
    fn unheard(&self) -> Option<(usize, usize)> {
        let pairs = (0..self.nodes.len()).flat_map(|from| (0..self.nodes.len()).map(move |to| (from, to)));
        let is_unheard = |(from, to): &(usize, usize)| {
            let spi = self.nodes[*from].sends.get(&self.nodes[*to].member);
            spi.is_some_and(|spi| !self.nodes[*to].receives.contains(spi))
        };
        pairs.into_iter().find(is_unheard)
    }

    /// Runs, and looks all the time whether unicast is lost.
    fn run_heard(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.run(Duration::from_millis(5));
            assert_eq!(self.unheard(), None, "at {:?}", self.now);
        }
    }

    fn spi(&self, from: usize, to: usize) -> Option<u32> {
        self.nodes[from].sends.get(&self.nodes[to].member).copied()
    }

    fn records(&self, node: usize, kind: EventKind) -> Vec<String> {
        self.nodes[node].records.iter().filter(|r| r.kind == kind).map(|r| r.detail.clone()).collect()
    }
}

#[test]
fn a_router_with_another_address_stays_a_member_under_the_same_key() {
    let mut net = Net::of(3);
    let (epoch, before) = (net.epoch(), net.nodes[1].address);
    net.nodes[1].address = "[2001:db8:ffff::77]:4860".parse().unwrap();
    let after = net.nodes[1].address;
    let member = net.nodes[1].member;
    let known = |net: &Net, node: usize| {
        let engine = net.nodes[node].engine.as_ref().unwrap();
        engine.name(&member).unwrap().address.unwrap().ip()
    };
    net.wait("the others to follow", |net| [0, 2].iter().all(|node| known(net, *node) == after.ip()));
    net.run(Duration::from_secs(10));
    assert_eq!((net.epoch(), net.size()), (epoch, 3), "no rekey for an address");
    // What is sent to one device alone goes to the new place: prefixes, and acknowledgements of the next epoch.
    net.sent_to.clear();
    net.command(0, |engine, now| engine.set_prefixes(now, vec![net_of(100)]).unwrap());
    net.wait("the prefixes", |net| net.nodes[1].prefixes.get(&net.nodes[0].member) == Some(&vec![net_of(100)]));
    net.command(0, |engine, now| engine.rekey(now));
    net.wait("a new key", |net| net.size() == 3 && net.epoch() > epoch);
    net.run(Duration::from_secs(3));
    assert!(net.sent_to.iter().any(|to| to.ip() == after.ip()));
    assert!(net.sent_to.iter().all(|to| to.ip() != before.ip()));
}

#[test]
fn other_prefixes_are_announced_anew() {
    let mut net = Net::of(3);
    let epoch = net.epoch();
    let of = |net: &Net, node: usize| net.nodes[node].prefixes.get(&net.nodes[0].member).cloned();
    net.wait("the first ones", |net| (1..3).all(|node| of(net, node) == Some(vec![net_of(0)])));
    for list in [vec![net_of(0), net_of(50)], vec![], vec![net_of(51)]] {
        net.command(0, |engine, now| engine.set_prefixes(now, list.clone()).unwrap());
        net.wait("the new ones", |net| (1..3).all(|node| of(net, node).as_ref() == Some(&list)));
    }
    let forbidden = "ff1e::/16".parse().unwrap();
    net.command(0, |engine, now| assert!(engine.set_prefixes(now, vec![forbidden]).is_err()));
    net.run(Duration::from_secs(2));
    assert_eq!(of(&net, 1), Some(vec![net_of(51)]), "nothing has changed");
    assert_eq!((net.epoch(), net.size()), (epoch, 3));
}

/// A hello of one engine on its way to another: the port, the source, the datagram.
fn hello_from(net: &mut Net, from: usize, to: usize) -> (Port, SocketAddr, Vec<u8>) {
    let source = net.nodes[from].address;
    net.command(from, |engine, now| engine.announce(now));
    loop {
        let is_hello = |bytes: &[u8]| {
            Envelope::parse(Voucher::split(bytes).1).is_ok_and(|envelope| envelope.header().kind == Kind::Hello)
        };
        let mut sent = net.wire.iter();
        if let Some((_, _, port, from, bytes)) =
            sent.find(|(_, receiver, _, from, bytes)| *receiver == to && *from == source && is_hello(bytes))
        {
            return (*port, *from, bytes.clone());
        }
        // Less than it takes to arrive.
        net.run(DELAY / 2);
    }
}

fn dropped(engine: &Engine, reason: &str) -> u64 {
    engine.discovery().counters().iter().filter(|(name, _)| name.name() == reason).map(|(_, count)| count).sum()
}

#[test]
fn members_vouch_for_what_they_send_and_a_flood_in_their_name_displaces_none_of_it() {
    let mut net = Net::of(3);
    net.run(Duration::from_secs(3));
    let (port, from, hello) = hello_from(&mut net, 1, 0);
    let now = net.now;
    let engine = net.nodes[0].engine.as_mut().unwrap();
    for n in 0..1000_u64 {
        let mut forged = hello.clone();
        forged[VOUCHER_LEN + 62..VOUCHER_LEN + 70].copy_from_slice(&(1 << 40 | n).to_be_bytes());
        *forged.last_mut().unwrap() ^= 1;
        engine.handle_datagram(now, port, from, &forged);
        engine.handle_datagram(now, port, from, &forged[VOUCHER_LEN..]);
    }
    assert!(dropped(engine, "queue_full") > 1900);
    engine.handle_datagram(now, port, from, &hello);
    (0..3).for_each(|_| assert!(engine.process(now)));
    let before = dropped(engine, "replayed");
    engine.handle_datagram(now, port, from, &hello);
    engine.handle_datagram(now, port, from, &hello[VOUCHER_LEN..]);
    assert_eq!(dropped(engine, "replayed"), before + 2, "it has been looked at, before the flood");
}

#[test]
fn vouchers_are_of_the_epoch_that_members_hold() {
    let mut net = Net::of(3);
    net.run(Duration::from_secs(3));
    let tag = |net: &Net| net.nodes[1].engine.as_ref().unwrap().keyagree().keys().spi_tag;
    let before = tag(&net);
    assert_eq!(Voucher::split(&hello_from(&mut net, 1, 0).2).0.unwrap().tag, before);
    net.command(0, |engine, now| engine.rekey(now));
    net.wait("another epoch", |net| tag(net) != before);
    let vouched = Voucher::split(&hello_from(&mut net, 1, 0).2).0.unwrap().tag;
    assert_eq!(vouched, before, "who has not heard of the new one takes this");
    net.run(Duration::from_secs(3));
    assert_eq!(Voucher::split(&hello_from(&mut net, 1, 0).2).0.unwrap().tag, tag(&net));
    // Alone there is nobody to recognise it.
    net.nodes[0].engine = None;
    net.nodes[2].engine = None;
    net.wait("it is alone", |net| net.size() == 1);
    net.run(Duration::from_secs(3));
    assert_eq!(Voucher::split(&hello_from(&mut net, 1, 0).2).0, None);
}

#[test]
fn a_list_on_one_engine_excludes_on_all() {
    // Whoever is transaction manager: one of three is.
    for revoked in 0..3 {
        let mut net = Net::of(3);
        let (epoch, loader) = (net.epoch(), (revoked + 1) % 3);
        let pki::Root { certificate_pem, key_pem, crl_pem } = &net.root;
        let list = pki::revoke(certificate_pem, key_pem, crl_pem, &net.devices[revoked].certificate_pem, UNIX).unwrap();
        let list = crls_from_pem(&list).unwrap().remove(0);
        let mut trust = net.trust();
        assert_eq!(trust.offer(&list), Ok(true));
        net.command(loader, |engine, now| engine.set_trust(now, trust));
        net.wait("its end", |net| net.nodes[revoked].revoked);
        net.wait("a group without it", |net| net.size() == 2);
        assert!(net.nodes.iter().filter_map(|n| n.engine.as_ref()).all(|e| e.keyagree().group_state().epoch > epoch));
        assert!(net.records(revoked, EventKind::Refused).contains(&"the own certificate is revoked".to_owned()));
        let last = (revoked + 2) % 3;
        assert_eq!(net.records(last, EventKind::RevocationList), ["Alpha 2"]);
        assert_eq!(net.nodes[last].kept.iter().map(|(_, kept)| kept).collect::<Vec<_>>(), [&list]);
        assert!(net.nodes[loader].kept.is_empty(), "the operator's own file");
    }
}

/// It is not there when the list comes, and nothing says that it ever will be.
#[test]
fn a_silent_device_that_is_revoked_keeps_neither_its_sa_nor_its_prefixes() {
    let mut net = Net::of(2);
    let silent = net.nodes[1].member;
    let receives = |net: &Net| net.nodes[0].receives.len();
    net.wait("unicast", |net| receives(net) == 1 && net.nodes[0].sends.contains_key(&silent));
    net.nodes[1].engine = None;
    net.run(Duration::from_secs(10));
    assert_eq!((net.size(), receives(&net)), (1, 1), "it may be back in a moment");
    assert_eq!(net.nodes[0].prefixes[&silent], [net_of(1)]);
    let pki::Root { certificate_pem, key_pem, crl_pem } = &net.root;
    let list = pki::revoke(certificate_pem, key_pem, crl_pem, &net.devices[1].certificate_pem, UNIX).unwrap();
    let mut trust = net.trust();
    assert_eq!(trust.offer(&crls_from_pem(&list).unwrap().remove(0)), Ok(true));
    net.command(0, |engine, now| engine.set_trust(now, trust));
    assert_eq!((receives(&net), net.nodes[0].sends.len()), (0, 0));
    assert!(net.nodes[0].prefixes[&silent].is_empty());
}

/// Two with unicast SAs each way, before anything changes.
fn pair() -> Net {
    let mut net = Net::of(2);
    net.wait("unicast", |net| net.spi(0, 1).is_some() && net.spi(1, 0).is_some());
    net.run_heard(Duration::from_secs(5));
    net
}

/// Renews a hello key and runs while something is lost, for longer than a dead time and a deactivation delay; then all is
/// well again, and the old SAs go.
fn a_key_changes_while(lost: (usize, usize, Option<Kind>), renewed: &[usize]) {
    let mut net = pair();
    let before = [net.spi(0, 1), net.spi(1, 0)];
    net.lost.push(lost);
    // A neighbour that is not heard at all is gone first.
    net.run_heard(Duration::from_secs(6));
    renewed.iter().for_each(|node| net.command(*node, |engine, now| engine.renew_hello_key(now)));
    net.run_heard(Duration::from_secs(20));
    net.lost.clear();
    net.run_heard(Duration::from_secs(20));
    assert_eq!(net.size(), 2);
    assert!(net.spi(0, 1) != before[0] && net.spi(1, 0) != before[1], "both have followed");
    assert!(net.nodes.iter().all(|node| node.receives.len() == 1), "nothing is kept for longer than it is of use");
}

#[test]
fn a_neighbour_that_misses_the_confirmation_is_received_from() {
    a_key_changes_while((1, 0, Some(Kind::Prefixes)), &[0]);
}

#[test]
fn a_neighbour_that_misses_the_hellos_is_received_from() {
    a_key_changes_while((1, 0, Some(Kind::Hello)), &[1]);
}

/// It hears the new key and sends under it, though nothing is heard of it.
#[test]
fn a_neighbour_that_is_gone_for_one_alone_is_received_from() {
    a_key_changes_while((0, 1, None), &[1]);
    a_key_changes_while((0, 1, None), &[0, 1]);
}

#[test]
fn links_that_fail_while_all_keys_change_cost_no_unicast() {
    let mut net = pair();
    net.lost.extend([(0, 1, None), (1, 0, None)]);
    net.run_heard(Duration::from_secs(6));
    (0..2).for_each(|node| net.command(node, |engine, now| engine.renew_hello_key(now)));
    net.run_heard(Duration::from_secs(3));
    net.lost.clear();
    net.run_heard(Duration::from_secs(20));
    assert!(net.nodes.iter().all(|node| node.receives.len() == 1));
}

/// Whoever captures the router finds no key of what was encrypted hours ago.
#[test]
fn the_keys_of_a_neighbour_that_has_lost_power_end() {
    let mut net = pair();
    let before = net.nodes[0].receives.clone();
    net.nodes[1].engine = None;
    net.run(2 * KEY_LIFE);
    assert!(net.nodes[0].sends.is_empty(), "a life after our next hello key");
    net.run(KEY_LIFE);
    assert!(net.nodes[0].receives.is_disjoint(&before), "two lives after it");
    net.run(10 * KEY_LIFE);
    assert!(net.nodes[0].receives.len() <= 4, "the last one follows our key, for it may be back");
}

/// Black lets hellos through, and neither the prefixes that show who holds them nor what acknowledges those.
#[test]
fn black_cannot_keep_a_key_in_use() {
    let mut net = pair();
    let before = [net.spi(0, 1), net.spi(1, 0)];
    for (from, to) in [(0, 1), (1, 0)] {
        net.lost.extend([(from, to, Some(Kind::Prefixes)), (from, to, Some(Kind::PrefixesAck))]);
    }
    for _ in 0..1000 {
        net.run(2 * KEY_LIFE / 1000);
        assert_eq!(net.unheard(), None, "at {:?}", net.now);
    }
    assert!([net.spi(0, 1), net.spi(1, 0)].iter().zip(before).all(|(now, before)| *now != before));
    net.lost.clear();
    net.wait("unicast again", |net| net.spi(0, 1).is_some() && net.spi(1, 0).is_some() && net.unheard().is_none());
}

/// Bad weather, links that fail one way, processes that get no processor for a while; and hello keys that change all the
/// time. No router ever sends to another under an SA that this one does not have.
#[test]
fn whatever_happens_unicast_is_received() {
    for seed in 1..=12 {
        let mut net = Net::of(3);
        net.weather = Weather { loss: 15, jitter: Duration::from_millis(80), rng: Random(seed) };
        let mut random = Random(seed << 32);
        for _ in 0..40 {
            let (one, other) = (random.below(3) as usize, random.below(3) as usize);
            match random.below(5) {
                0 => net.nodes[one].sleeps_until = net.now + Duration::from_millis(random.below(5000)),
                1 => net.lost.push((one, other, None)),
                2 => net.lost.push((one, other, Some(Kind::Prefixes))),
                3 => net.lost.clear(),
                _ => net.command(one, |engine, now| engine.renew_hello_key(now)),
            }
            net.run_heard(Duration::from_millis(random.below(3000)));
        }
        net.lost.clear();
        net.weather.loss = 0;
        net.run_heard(Duration::from_secs(40));
        let all = |net: &Net| net.nodes.iter().all(|node| node.receives.len() == 2 && node.sends.len() == 2);
        assert!(all(&net), "seed {seed}");
    }
}
