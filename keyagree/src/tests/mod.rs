//! Machines on a small network in memory. `sim/` does the same with discovery, faults and seeds.

mod agreement;
mod collisions;
mod exposure;
mod filling;
mod hostile;
mod knowledge;
mod large;
mod oracle;
mod refresh;

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::time::Duration;

use muster_certs::{Author, SigningKey};
use muster_wire::idp::GroupState;
use muster_wire::{Destination, GroupTag, Hash, MemberId, Nonce, Time};

use crate::{Config, Event, KeyAgreement};

const HELLO: Duration = Duration::from_secs(1);
const DELAY: Duration = Duration::from_millis(1);

pub(super) fn config() -> Config {
    Config {
        name: "coalition".into(),
        hello_interval: HELLO,
        batch_window: Duration::from_millis(20),
        activation_delay: Duration::from_millis(200),
        deactivation_delay: Duration::from_secs(2),
        lifetime: Duration::from_secs(3600),
        leaf_refresh: Duration::from_secs(3600),
    }
}

/// One device with what discovery would know and what the data plane would hold.
pub(super) struct Device {
    pub(super) machine: KeyAgreement,
    key: SigningKey,
    startup: u64,
    pub(super) up: bool,
    pub(super) inbound: BTreeSet<Hash>,
    pub(super) outbound: Option<Hash>,
    pub(super) fingerprints: Vec<String>,
    pub(super) left: bool,
    pub(super) excluded: u32,
}

enum Input {
    Datagram(SocketAddr, Vec<u8>),
    Heard(usize, GroupState),
    Up(usize, bool),
    Gone(usize, bool),
}

type Filter = Box<dyn FnMut(usize, usize, &[u8]) -> bool>;

/// Devices, and what is on its way between them.
pub(super) struct Net {
    pub(super) now: Time,
    pub(super) devices: Vec<Device>,
    /// (when, order, to) → what.
    queue: BinaryHeap<std::cmp::Reverse<(Time, u64)>>,
    inputs: BTreeMap<u64, (usize, Input)>,
    order: u64,
    next_hello: Time,
    /// Sees every datagram on its way (from, to, bytes); `false` loses it.
    pub(super) filter: Filter,
}

pub(super) fn address(device: usize) -> SocketAddr {
    SocketAddr::new(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, device as u16 + 1).into(), 4861)
}

pub(super) fn member(device: usize) -> MemberId {
    MemberId([device as u8 + 1; 32])
}

fn nonce(device: usize) -> Nonce {
    Nonce([device as u8; 16])
}

impl Net {
    pub(super) fn new(count: usize) -> Net {
        let mut net = Net {
            now: Time(1_000_000),
            devices: Vec::new(),
            queue: BinaryHeap::new(),
            inputs: BTreeMap::new(),
            order: 0,
            next_hello: Time(2_000_000),
            filter: Box::new(|_, _, _| true),
        };
        for index in 0..count {
            let key = SigningKey::from_seed(&[index as u8 + 1; 32]);
            let device = Device {
                machine: machine(index, &key, 1, net.now),
                key,
                startup: 1,
                up: false,
                inbound: BTreeSet::new(),
                outbound: None,
                fingerprints: Vec::new(),
                left: false,
                excluded: 0,
            };
            net.devices.push(device);
            net.drain(index);
        }
        net
    }

    /// All devices hear each other from now on.
    pub(super) fn connect(&mut self, who: &[usize]) {
        for &a in who {
            self.devices[a].up = true;
            for &b in who {
                if a != b {
                    self.put(b, DELAY, Input::Up(a, false));
                }
            }
        }
        for &a in who {
            self.drain(a);
            self.hello(a);
        }
    }

    /// A device falls silent; the others notice after `after`.
    pub(super) fn kill(&mut self, device: usize, after: Duration) {
        self.devices[device].up = false;
        for other in 0..self.devices.len() {
            self.put(other, after, Input::Gone(device, false));
        }
    }

    /// A killed device starts again, as another process.
    pub(super) fn restart(&mut self, device: usize) {
        let old = &mut self.devices[device];
        old.startup += 1;
        old.machine = machine(device, &old.key, old.startup, self.now);
        old.inbound.clear();
        old.up = true;
        let others: Vec<usize> = (0..self.devices.len()).filter(|o| *o != device && self.devices[*o].up).collect();
        for other in others {
            self.put(other, DELAY, Input::Up(device, false));
            self.put(device, DELAY, Input::Up(other, false));
            self.hello(other);
        }
        self.drain(device);
        self.hello(device);
    }

    pub(super) fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.run_until(end, |_| false);
    }

    /// Runs until the condition holds; gives how long that took.
    pub(super) fn run_until_true(&mut self, limit: Duration, done: impl Fn(&Net) -> bool) -> Duration {
        let start = self.now;
        let end = self.now + limit;
        self.run_until(end, &done);
        assert!(done(self), "not within {limit:?}: {}", self.describe());
        self.now.since(start)
    }

    /// The devices that are up hold one key, are active, and are all members.
    pub(super) fn is_one_group(&self) -> bool {
        let up: Vec<&Device> = self.devices.iter().filter(|device| device.up).collect();
        let key = up[0].machine.keys().fingerprint();
        up.iter().all(|device| {
            device.machine.keys().fingerprint() == key
                && device.machine.members().count() == up.len()
                && device.machine.is_active()
        })
    }

    pub(super) fn describe(&self) -> String {
        let one = |(index, device): (usize, &Device)| {
            let state = device.machine.group_state();
            format!(
                "\n{index}: tm {:?} epoch {} size {} active {} {:?}",
                state.instance.tm,
                state.epoch,
                state.size,
                state.active,
                device.machine.counters()
            )
        };
        self.devices.iter().enumerate().map(one).collect()
    }

    /// Something from outside at a device, as the wire would bring it.
    pub(super) fn inject(&mut self, to: usize, bytes: &[u8]) {
        self.devices[to].machine.handle_datagram(address(99), bytes, false);
        while self.devices[to].machine.process(self.now) {}
        self.drain(to);
    }

    pub(super) fn command(&mut self, device: usize, command: impl FnOnce(&mut KeyAgreement, Time)) {
        command(&mut self.devices[device].machine, self.now);
        self.drain(device);
    }

    fn run_until(&mut self, end: Time, done: impl Fn(&Net) -> bool) {
        while !done(self) {
            let timer = self
                .devices
                .iter()
                .enumerate()
                .filter(|(_, device)| device.up)
                .filter_map(|(index, device)| Some((device.machine.poll_timeout()?, index)))
                .min();
            let queued = self.queue.peek().map(|next| next.0.0);
            let next = [timer.map(|t| t.0), queued, Some(self.next_hello)].into_iter().flatten().min().unwrap();
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            if queued == Some(next) {
                self.deliver();
            } else if timer.is_some_and(|timer| timer.0 == next) {
                let index = timer.unwrap().1;
                self.devices[index].machine.handle_timeout(self.now);
                let again = self.devices[index].machine.poll_timeout();
                assert!(again.is_none_or(|again| again > self.now), "a timer that does not go away at {index}");
                self.drain(index);
            } else {
                self.next_hello = self.next_hello + HELLO;
                (0..self.devices.len()).for_each(|index| self.hello(index));
            }
        }
    }

    fn deliver(&mut self) {
        let Some(std::cmp::Reverse((_, order))) = self.queue.pop() else { return };
        let (to, input) = self.inputs.remove(&order).unwrap();
        if !self.devices[to].up {
            return;
        }
        let (now, keys): (Time, Vec<_>) =
            (self.now, self.devices.iter().map(|d| (d.key.public(), d.startup)).collect());
        let machine = &mut self.devices[to].machine;
        match input {
            Input::Datagram(from, bytes) => {
                machine.handle_datagram(from, &bytes, false);
                while machine.process(now) {}
            }
            Input::Heard(from, group) => {
                machine.neighbour_heard(now, member(from), address(from), nonce(from), HELLO, group);
            }
            Input::Up(from, restored) => {
                machine.neighbour_up(now, member(from), keys[from].0, keys[from].1, address(from), restored);
            }
            Input::Gone(from, announced) => machine.neighbour_gone(now, member(from), announced),
        }
        self.drain(to);
    }

    fn drain(&mut self, index: usize) {
        loop {
            let device = &mut self.devices[index];
            if let Some(event) = device.machine.poll_event() {
                match event {
                    Event::Epoch(keys) => {
                        assert!(device.inbound.insert(keys.header), "installed twice");
                        device.fingerprints.push(keys.fingerprint());
                        device.machine.installed(self.now, keys.header);
                    }
                    Event::Activate { header, .. } => {
                        assert!(device.inbound.contains(&header));
                        device.outbound = Some(header);
                    }
                    Event::Retire { header } => device.outbound = device.outbound.filter(|sent| *sent != header),
                    Event::State(_) | Event::Acknowledge => self.hello(index),
                    Event::Left => device.left = true,
                    Event::Excluded { .. } => device.excluded += 1,
                    _ => {}
                }
            } else if let Some(transmit) = device.machine.poll_transmit() {
                for to in (0..self.devices.len()).filter(|to| *to != index) {
                    let addressed = match transmit.to {
                        Destination::Group => true,
                        Destination::Unicast(address_to) => address_to == address(to),
                    };
                    if addressed && self.devices[index].up && (self.filter)(index, to, &transmit.bytes) {
                        self.put(to, DELAY, Input::Datagram(address(index), transmit.bytes.clone()));
                    }
                }
            } else {
                assert!(device.outbound.is_some(), "{index} sends under nothing");
                return;
            }
        }
    }

    fn hello(&mut self, index: usize) {
        if !self.devices[index].up {
            return;
        }
        self.devices[index].machine.set_hello_nonces(&[nonce(index)]);
        let state = self.devices[index].machine.group_state();
        for to in (0..self.devices.len()).filter(|to| *to != index) {
            self.put(to, DELAY, Input::Heard(index, state));
        }
    }

    fn put(&mut self, to: usize, after: Duration, input: Input) {
        self.order += 1;
        self.queue.push(std::cmp::Reverse((self.now + after, self.order)));
        self.inputs.insert(self.order, (to, input));
    }
}

fn machine(index: usize, key: &SigningKey, startup: u64, now: Time) -> KeyAgreement {
    let author = Author::new(key.clone(), GroupTag([9; 16]), member(index), startup);
    let seed = [index as u8 ^ (startup as u8) << 5; 32];
    KeyAgreement::new(config(), author, seed, now).unwrap()
}
