//! The key agreement of a few devices, one of them in the attacker's hands.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use muster_certs::Author;
use muster_keyagree::{Config, Event, KeyAgreement};
use muster_sim::Input;
use muster_sim::forge::{Insider, Message};
use muster_wire::idp::GroupState;
use muster_wire::mike::Chunk;
use muster_wire::{Destination, Envelope, Hash, MemberId, Nonce, Time, Transmit, codec};

use crate::devices::{GROUP, at};
use crate::network::{Datagram, Machine, Network, address};

const HELLO: Duration = Duration::from_secs(1);
/// Operations of one input.
const MAX_OPERATIONS: usize = 60;
/// Messages that a node's attacker remembers.
const MAX_MESSAGES: usize = 6;
/// Stands before what takes discovery's place here: a node's state of the group.
const HEARD: &[u8] = b"heard";

/// Two to four devices that know each other; then what the input says.
pub(crate) fn operations(data: &[u8]) {
    let mut input = Input::new(data);
    let now = Time(1_000_000);
    let count = 2 + input.below(3);
    let mut network = Network::new(now, (0..count).map(|index| Node::new(index, 1, now)).collect());
    for (index, other) in pairs(count) {
        network.machines[index].meet(now, other, 1, false);
    }
    (0..count).for_each(|index| network.drain(index));
    let insider = at(count - 1);
    let mut insider = Insider { key: insider.key.clone(), member: insider.member, startup: 1, sequence: 0 };
    let mut agreed = BTreeMap::new();
    for _ in 0..MAX_OPERATIONS {
        if input.is_empty() {
            break;
        }
        match input.below(8) {
            0..=2 => network.operate(&mut input),
            3 => command(&mut network, &mut input),
            4 => report(&mut network, &mut input),
            5 => {
                if let Some(model) = network.remembered(&mut input) {
                    let forged = insider.forge_datagram(&model.bytes, &mut input);
                    let to = input.below(count);
                    deliver(&mut network, count - 1, to, forged.into_iter().collect());
                }
            }
            6 => {
                if let Some((header, message)) = network.machines[input.below(count)].said(&mut input) {
                    let forged = insider.forge_message(&header, &message, &mut input);
                    let to = input.below(count);
                    deliver(&mut network, count - 1, to, forged);
                }
            }
            _ => lie(&mut network, &mut input),
        }
        insider.startup = network.machines[count - 1].startup;
        check(&network, &mut agreed);
    }
}

/// Whoever holds an epoch's header, holds the same key; nobody is without a slot of its own.
fn check(network: &Network<Node>, agreed: &mut BTreeMap<Hash, String>) {
    for node in &network.machines {
        let keys = node.machine.keys();
        let fingerprint = keys.fingerprint();
        let known = agreed.entry(keys.header).or_insert_with(|| fingerprint.clone());
        assert_eq!(*known, fingerprint, "two keys of one epoch");
        assert!(keys.members.contains(&(keys.slot, node.member())));
        assert!(keys.members.is_sorted_by(|a, b| a.0 < b.0));
    }
}

fn command(network: &mut Network<Node>, input: &mut Input<'_>) {
    let (now, index) = (network.now, input.below(network.machines.len()));
    match input.below(5) {
        0 | 1 => network.machines[index].machine.rekey(now),
        2 => network.machines[index].machine.leave(now),
        3 => network.machines[index].is_slow = input.flag(),
        // Killed and started again.
        _ => {
            let startup = network.machines[index].startup + 1;
            network.machines[index] = Node::new(index, startup, now);
            for other in (0..network.machines.len()).filter(|other| *other != index) {
                let their = network.machines[other].startup;
                network.machines[index].meet(now, other, their, false);
                network.machines[other].meet(now, index, startup, false);
                network.drain(other);
            }
        }
    }
    network.drain(index);
}

/// What discovery may report.
fn report(network: &mut Network<Node>, input: &mut Input<'_>) {
    let (now, count) = (network.now, network.machines.len());
    let (index, other) = (input.below(count), input.below(count));
    if index == other {
        return;
    }
    let (startup, member) = (network.machines[other].startup, at(other).member);
    let node = &mut network.machines[index];
    match input.below(5) {
        0 => node.machine.neighbour_gone(now, member, input.flag()),
        1 | 2 => node.meet(now, other, startup, input.flag()),
        3 => node.machine.certificate_refused(now, member),
        _ => node.machine.set_hello_nonces(&[]),
    }
    network.drain(index);
}

/// The insider's hello says what is not so.
fn lie(network: &mut Network<Node>, input: &mut Input<'_>) {
    let (now, liar) = (network.now, network.machines.len() - 1);
    let truth = network.machines[input.below(liar + 1)].machine.group_state();
    let mut instance = truth.instance;
    if input.flag() {
        (instance.tm, instance.random) = (at(liar).member, u64::from(input.byte()));
    }
    let epoch = match input.below(4) {
        0 => truth.epoch,
        1 => truth.epoch.wrapping_add(u64::from(input.byte())),
        2 => truth.epoch.wrapping_sub(1),
        _ => u64::MAX - u64::from(input.byte()),
    };
    let header = if input.flag() { truth.header } else { Hash([input.byte(); 32]) };
    let size = if input.flag() { u32::from(input.byte()) } else { u32::MAX };
    let group = GroupState { instance, epoch, size, header, installed: input.flag(), active: input.flag() };
    let to = input.below(liar.max(1));
    network.machines[to].machine.neighbour_heard(now, at(liar).member, address(liar), nonce(liar), HELLO, group);
    network.drain(to);
}

fn deliver(network: &mut Network<Node>, sender: usize, to: usize, forged: Vec<Vec<u8>>) {
    if forged.len() > 70 {
        return network.flood(to, sender, forged.into_iter());
    }
    for bytes in forged {
        network.deliver(&Datagram { sender, to, bytes }, false);
    }
}

/// A device with what discovery would do for it.
struct Node {
    machine: KeyAgreement,
    index: usize,
    startup: u64,
    /// The data plane takes its time: epochs are installed when the next hello is due.
    is_slow: bool,
    installing: Vec<Hash>,
    hello_at: Time,
    hello_due: bool,
    entered: BTreeSet<Hash>,
    epoch: u64,
    /// Refusals of its own doing.
    own_refusals: u64,
    has_left: bool,
    chunks: Vec<Chunk>,
    messages: VecDeque<(muster_wire::Header, Message)>,
}

impl Node {
    fn new(index: usize, startup: u64, now: Time) -> Node {
        let device = at(index);
        let config = Config {
            name: "coalition".into(),
            hello_interval: HELLO,
            batch_window: Duration::from_millis(20),
            activation_delay: Duration::from_millis(200),
            deactivation_delay: Duration::from_secs(2),
            lifetime: Duration::from_secs(30),
            leaf_refresh: Duration::from_secs(20),
        };
        let author = Author::new(device.key.clone(), GROUP, device.member, startup);
        let seed = [(index as u8) << 4 ^ startup as u8; 32];
        let mut machine = KeyAgreement::new(config, author, seed, now).expect("a device that may start");
        machine.set_hello_nonces(&[nonce(index)]);
        Node {
            machine,
            index,
            startup,
            is_slow: false,
            installing: Vec::new(),
            hello_at: now,
            hello_due: false,
            entered: BTreeSet::new(),
            epoch: 0,
            own_refusals: 0,
            has_left: false,
            chunks: Vec::new(),
            messages: VecDeque::new(),
        }
    }

    fn member(&self) -> MemberId {
        at(self.index).member
    }

    fn meet(&mut self, now: Time, other: usize, startup: u64, restored: bool) {
        let device = at(other);
        self.machine.neighbour_up(now, device.member, device.key.public(), startup, address(other), restored);
        self.hello_due = true;
    }

    /// One of the messages that it sent.
    fn said(&self, input: &mut Input<'_>) -> Option<(muster_wire::Header, Message)> {
        self.messages.get(input.below(self.messages.len())).cloned()
    }

    fn remember(&mut self, bytes: &[u8]) {
        let Ok(envelope) = Envelope::parse(bytes) else { return };
        let Ok(chunk) = envelope.decode::<Chunk>() else { return };
        if chunk.index == 0 {
            self.chunks.clear();
        }
        self.chunks.push(chunk);
        if let Some(message) = Message::of(&self.chunks) {
            if self.messages.len() >= MAX_MESSAGES {
                self.messages.pop_front();
            }
            self.messages.push_back((*envelope.header(), message));
        }
    }

    fn hello(&mut self) -> Transmit {
        // A state of the group is small.
        let state = codec::encode(&(self.index as u8, self.machine.group_state())).unwrap_or_default();
        Transmit { to: Destination::Group, bytes: [HEARD, &state].concat() }
    }
}

impl Machine for Node {
    /// Not whether it is joining: a snapshot that shows a member that it does not trust is refused, and ends the attempt.
    type View = (GroupState, Vec<(u32, MemberId)>, String, bool);

    fn receive(&mut self, now: Time, from: SocketAddr, bytes: &[u8], vouched: bool) {
        if self.has_left {
            return;
        }
        let Some(heard) = bytes.strip_prefix(HEARD) else { return self.machine.handle_datagram(from, bytes, vouched) };
        // Discovery reports no hello that somebody without a key has changed.
        if !vouched {
            return;
        }
        let Ok((other, state)) = codec::decode::<(u8, GroupState)>(heard) else { return };
        let other = usize::from(other);
        self.machine.neighbour_heard(now, at(other).member, address(other), nonce(other), HELLO, state);
    }

    fn process(&mut self, now: Time) -> bool {
        self.machine.process(now)
    }

    fn handle_timeout(&mut self, now: Time) {
        self.machine.handle_timeout(now);
        let next = self.machine.poll_timeout();
        assert!(next.is_none_or(|at| at > now), "a timer at {next:?} that does nothing at {now:?}");
        if self.hello_at <= now {
            self.hello_at = now + HELLO;
            self.hello_due = true;
            for header in std::mem::take(&mut self.installing) {
                self.machine.installed(now, header);
            }
        }
    }

    fn poll_timeout(&self) -> Option<Time> {
        let machine = self.machine.poll_timeout().unwrap_or(self.hello_at);
        (!self.has_left).then(|| machine.min(self.hello_at))
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        if std::mem::take(&mut self.hello_due) && !self.has_left {
            return Some(self.hello());
        }
        let transmit = self.machine.poll_transmit()?;
        self.remember(&transmit.bytes);
        Some(transmit)
    }

    fn settle(&mut self, now: Time) -> usize {
        let mut events = 0;
        while let Some(event) = self.machine.poll_event() {
            events += 1;
            match event {
                Event::Epoch(keys) => {
                    assert!(self.entered.insert(keys.header), "an epoch is entered twice");
                    // Who is alone and was driven far up begins again; far up is more than 2^28 (keyagree/SPEC.md 5).
                    let begins_again = keys.epoch == 1 && keys.members.len() == 1 && self.epoch > 1 << 28;
                    let rises = keys.epoch >= self.epoch || begins_again;
                    assert!(rises, "from epoch {} back to {}", self.epoch, keys.epoch);
                    self.epoch = keys.epoch;
                    if self.is_slow {
                        self.installing.push(keys.header);
                    } else {
                        self.machine.installed(now, keys.header);
                    }
                }
                Event::Activate { header, .. } => assert!(self.entered.contains(&header)),
                Event::Retire { header } => assert_ne!(header, self.machine.group_state().header),
                Event::State(_) | Event::Acknowledge => self.hello_due = true,
                Event::Refused { member, .. } => {
                    self.own_refusals += u64::from(member == self.member());
                    events -= 1;
                }
                Event::Left => self.has_left = true,
                Event::Election { .. } | Event::Excluded { .. } | Event::Exposed { .. } => {}
            }
        }
        events
    }

    fn view(&self, _now: Time) -> Self::View {
        let machine = &self.machine;
        let (members, fingerprint) = (machine.members().collect(), machine.keys().fingerprint());
        (machine.group_state(), members, fingerprint, machine.is_active())
    }

    fn refused(&self) -> u64 {
        let c = self.machine.counters();
        let all = c.malformed + c.other_group + c.reflected + c.unknown + c.replayed + c.queue_full;
        all + c.signature + c.refused - self.own_refusals
    }
}

fn nonce(index: usize) -> Nonce {
    Nonce([index as u8 + 1; 16])
}

fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).flat_map(move |index| (0..count).filter(move |other| *other != index).map(move |other| (index, other)))
}
