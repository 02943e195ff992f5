//! A small network of machines, with its own time.

mod certificates;
mod commands;
mod gone;
mod history;
mod hostile;
mod joining;
mod lists;
mod prefixes;
mod unicast;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use muster_certs::Author;
use muster_wire::idp::GroupState;
use muster_wire::{Destination, Envelope, GroupTag, Hash, Instance, Kind, MemberId, Time};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use self::certificates::{Device, FAR, issue, trust};
use crate::{Config, Discovery, Dropped, Event, GoneReason, JoinKind, NeighborStatus};

const GROUP: GroupTag = GroupTag([7; 16]);
const UNIX: u64 = 1_800_000_000;
const DELAY: Duration = Duration::from_micros(500);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A device of an own nation each.
fn device(seed: u8) -> Device {
    issue(seed, &format!("nation{seed}"), FAR)
}

fn group_state(epoch: u64) -> GroupState {
    GroupState {
        instance: Instance { tm: MemberId([1; 32]), startup: 1, random: 1 },
        epoch,
        size: 1,
        header: Hash([2; 32]),
        installed: true,
        active: true,
    }
}

/// A group of its own transaction manager's.
fn own_state(manager: MemberId, epoch: u64) -> GroupState {
    GroupState { instance: Instance { tm: manager, startup: 1, random: 1 }, ..group_state(epoch) }
}

fn address(index: usize) -> SocketAddr {
    SocketAddr::new(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, index as u16 + 1).into(), 4860)
}

struct Node {
    device: Device,
    machine: Option<Discovery>,
    address: SocketAddr,
    interval: Duration,
    events: Vec<(Time, Event)>,
}

/// A datagram that was sent.
#[derive(Clone)]
struct Sent {
    at: Time,
    from: usize,
    to: Destination,
    kind: Kind,
    bytes: Vec<u8>,
}

struct Net {
    now: Time,
    nodes: Vec<Node>,
    wire: BTreeMap<(Time, u64), (usize, SocketAddr, Vec<u8>)>,
    order: u64,
    /// Datagrams in hundred that are lost.
    loss: u32,
    /// Datagrams in hundred that arrive twice.
    duplicates: u32,
    delay: Duration,
    /// What comes at random to the delay; reorders.
    jitter: Duration,
    /// From, to.
    cut: BTreeSet<(usize, usize)>,
    sent: Vec<Sent>,
    record: bool,
    rng: ChaCha20Rng,
}

impl Net {
    fn new() -> Net {
        Net {
            // Time may start anywhere, also at zero.
            now: Time(0),
            nodes: Vec::new(),
            wire: BTreeMap::new(),
            order: 0,
            loss: 0,
            duplicates: 0,
            delay: DELAY,
            jitter: Duration::from_micros(200),
            cut: BTreeSet::new(),
            sent: Vec::new(),
            record: true,
            rng: ChaCha20Rng::from_seed([42; 32]),
        }
    }

    /// `intervals` in milliseconds: one running node each, of nations of their own.
    fn of(intervals: &[u64]) -> Net {
        let mut net = Net::new();
        for interval in intervals {
            let node = net.add(device(net.nodes.len() as u8 + 1), *interval);
            net.start(node, 100);
        }
        net
    }

    fn add(&mut self, device: Device, interval: u64) -> usize {
        let address = address(self.nodes.len());
        let interval = ms(interval);
        self.nodes.push(Node { device, machine: None, address, interval, events: Vec::new() });
        self.nodes.len() - 1
    }

    fn start(&mut self, node: usize, startup: u64) {
        let now = self.now;
        let Node { device, interval, machine, .. } = &mut self.nodes[node];
        let author = Author::new(device.key.clone(), GROUP, device.member, startup);
        let mut seed = [node as u8; 32];
        seed[..8].copy_from_slice(&startup.to_be_bytes());
        let unix = UNIX + now.0 / 1_000_000;
        let config = Config { hello_interval: *interval, key_life: ms(3_600_000) };
        let mut new = Discovery::new(config, author, device.chain.clone(), trust(), seed, now, unix).unwrap();
        new.set_group_state(now, group_state(1));
        *machine = Some(new);
        self.drive(node);
    }

    /// Without a word.
    fn kill(&mut self, node: usize) {
        self.nodes[node].machine = None;
    }

    fn machine(&mut self, node: usize) -> &mut Discovery {
        self.nodes[node].machine.as_mut().unwrap()
    }

    fn status(&self, node: usize) -> Vec<NeighborStatus> {
        self.nodes[node].machine.as_ref().unwrap().neighbors(self.now).collect()
    }

    fn member(&self, node: usize) -> MemberId {
        self.nodes[node].device.member
    }

    /// Calls a command and what a driver does after it.
    fn with<T>(&mut self, node: usize, command: impl FnOnce(&mut Discovery, Time) -> T) -> T {
        let now = self.now;
        let result = command(self.machine(node), now);
        self.drive(node);
        result
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let timers = self.nodes.iter().filter_map(|node| node.machine.as_ref()?.poll_timeout());
            let arrivals = self.wire.keys().next().map(|(at, _)| *at);
            let Some(next) = timers.chain(arrivals).min().filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let (to, from, bytes) = entry.remove();
                self.deliver(to, from, &bytes);
            }
            (0..self.nodes.len()).for_each(|node| self.drive(node));
        }
        self.now = end;
    }

    fn deliver(&mut self, to: usize, from: SocketAddr, bytes: &[u8]) {
        let now = self.now;
        let Some(machine) = &mut self.nodes[to].machine else { return };
        machine.handle_datagram(now, from, bytes, false);
        while machine.process(now) {}
        self.drive(to);
    }

    fn drive(&mut self, node: usize) {
        let now = self.now;
        let mut out = Vec::new();
        let Node { machine: Some(machine), events, .. } = &mut self.nodes[node] else { return };
        if machine.poll_timeout().is_some_and(|at| at <= now) {
            machine.handle_timeout(now);
            let next = machine.poll_timeout();
            assert!(next.is_none_or(|at| at > now), "a timer at {next:?} that does nothing at {now:?}");
        }
        while let Some(transmit) = machine.poll_transmit() {
            out.push(transmit);
        }
        while let Some(event) = machine.poll_event() {
            events.push((now, event));
        }
        for transmit in out {
            if self.record {
                let kind = Envelope::parse(&transmit.bytes).unwrap().header().kind;
                self.sent.push(Sent { at: now, from: node, to: transmit.to, kind, bytes: transmit.bytes.clone() });
            }
            for to in 0..self.nodes.len() {
                let heard = match transmit.to {
                    Destination::Group => to != node,
                    Destination::Unicast(address) => self.nodes[to].address == address,
                };
                let lost = self.rng.next_u32() % 100 < self.loss;
                if heard && !lost && !self.cut.contains(&(node, to)) {
                    self.put(to, self.nodes[node].address, transmit.bytes.clone());
                }
            }
        }
    }

    fn put(&mut self, to: usize, from: SocketAddr, bytes: Vec<u8>) {
        let times = if self.rng.next_u32() % 100 < self.duplicates { 2 } else { 1 };
        for _ in 0..times {
            let jitter = Duration::from_micros(self.rng.next_u64() % self.jitter.as_micros() as u64);
            self.order += 1;
            self.wire.insert((self.now + self.delay + jitter, self.order), (to, from, bytes.clone()));
        }
    }

    fn cut(&mut self, a: usize, b: usize) {
        self.cut.extend([(a, b), (b, a)]);
    }

    fn heal(&mut self) {
        self.cut.clear();
    }

    /// What was reported since the last call, without what comes all the time.
    fn news(&mut self, node: usize) -> Vec<String> {
        let names: BTreeMap<MemberId, usize> = (0..self.nodes.len()).map(|n| (self.member(n), n)).collect();
        let name = |member: &MemberId| names.get(member).map_or("?".to_owned(), |n| n.to_string());
        let events = std::mem::take(&mut self.nodes[node].events);
        let news = events.iter().filter_map(|(_, event)| match event {
            Event::Heard { .. } | Event::SelfJoined | Event::HelloSent => None,
            Event::Renewed | Event::Confirmed { .. } | Event::Assured { .. } | Event::Over { .. } => None,
            Event::PrefixesChanged { .. } => None,
            Event::Joined { member, kind: JoinKind::Join, .. } => Some(format!("join {}", name(member))),
            Event::Joined { member, kind: JoinKind::Restore, .. } => Some(format!("restore {}", name(member))),
            Event::Gone { member, reason } => Some(format!("gone {} {}", name(member), text(*reason))),
            Event::Refused { member, .. } => Some(format!("refused {}", name(member))),
            Event::PrefixesRefused { member, .. } => Some(format!("prefixes refused {}", name(member))),
            Event::ListTaken { organisation, number, .. } => Some(format!("list {organisation} {number}")),
            Event::ListRefused { from, .. } => Some(format!("list refused {}", name(from))),
            Event::SelfRevoked => Some("revoked".to_owned()),
        });
        news.collect()
    }

    fn dropped(&self, node: usize, reason: Dropped) -> u64 {
        self.nodes[node].machine.as_ref().unwrap().counters().get(reason)
    }

    /// Datagrams of a kind sent by a node since `since`.
    fn count(&self, node: usize, kind: Kind, since: Time) -> usize {
        self.sent.iter().filter(|s| s.from == node && s.kind == kind && s.at >= since).count()
    }

    /// The last datagram of a kind that a node sent.
    fn last(&self, node: usize, kind: Kind) -> Sent {
        self.sent.iter().rfind(|s| s.from == node && s.kind == kind).unwrap().clone()
    }
}

fn text(reason: GoneReason) -> &'static str {
    match reason {
        GoneReason::Silent => "silent",
        GoneReason::Goodbye => "goodbye",
        GoneReason::Restarted => "restarted",
        GoneReason::CertificateExpired => "expired",
        GoneReason::CertificateRefused => "certificate",
    }
}
