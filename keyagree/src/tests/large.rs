//! Two full groups of 512 become one of 1,024: hand-over, commit and snapshot are hundreds of kilobytes, in chunks.
//!
//! Six devices run; of the others only their leaves and hellos are there, as when they are slow to answer.

use std::collections::VecDeque;

use muster_wire::mike::{Handover, Leaf, MessageKind};
use muster_wire::{Instance, List, Transmit, codec};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use super::*;
use crate::message::Message;
use crate::secret::Secret;

const SIDE: usize = 512;
const GROUP: GroupTag = GroupTag([9; 16]);
/// The devices that run: each side's transaction manager first.
const RUNNING: [usize; 6] = [0, 1, 2, SIDE, SIDE + 1, SIDE + 2];

fn id(device: usize) -> MemberId {
    let mut id = [0x40; 32];
    id[..8].copy_from_slice(&(device as u64).to_be_bytes());
    MemberId(id)
}

fn key(device: usize) -> SigningKey {
    let mut seed = [3; 32];
    seed[..8].copy_from_slice(&(device as u64).to_be_bytes());
    SigningKey::from_seed(&seed)
}

fn at(device: usize) -> SocketAddr {
    SocketAddr::new(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 1, device as u16 + 1).into(), 4861)
}

struct Crowd {
    now: Time,
    machines: BTreeMap<usize, KeyAgreement>,
    wire: VecDeque<(Time, usize, usize, Vec<u8>)>,
    /// Percent of all datagrams.
    loss: u64,
    rng: ChaCha20Rng,
}

impl Crowd {
    fn new(loss: u64) -> Crowd {
        let now = Time(1_000_000);
        let machine = |device: usize| {
            let author = Author::new(key(device), GROUP, id(device), 1);
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&(device as u64).to_be_bytes());
            KeyAgreement::new(config(), author, seed, now).unwrap()
        };
        let machines = RUNNING.into_iter().map(|device| (device, machine(device))).collect();
        Crowd { now, machines, wire: VecDeque::new(), loss, rng: ChaCha20Rng::from_seed([5; 32]) }
    }

    fn state(&self, device: usize) -> GroupState {
        self.machines[&device].group_state()
    }

    /// All of a side hear all of the same side; those that do not run say what their transaction manager says.
    fn hello(&mut self, who: &[usize]) {
        for &reader in RUNNING.iter().filter(|reader| who.contains(reader)) {
            for &device in who.iter().filter(|device| **device != reader) {
                let speaker = if RUNNING.contains(&device) { device } else { device / SIDE * SIDE };
                let state = self.state(speaker);
                let machine = self.machines.get_mut(&reader).unwrap();
                machine.set_hello_nonces(&[nonce(reader)]);
                machine.neighbour_heard(self.now, id(device), at(device), nonce(device), HELLO, state);
            }
        }
        self.drain();
    }

    fn meet(&mut self, who: &[usize]) {
        for &reader in RUNNING.iter().filter(|reader| who.contains(reader)) {
            let machine = self.machines.get_mut(&reader).unwrap();
            for &device in who.iter().filter(|device| **device != reader) {
                machine.neighbour_up(self.now, id(device), key(device).public(), 1, at(device), false);
            }
        }
        self.hello(who);
    }

    /// Devices that do not run join the group of `tm`, many at a time.
    fn crowd(&mut self, tm: usize, devices: impl Iterator<Item = usize>) {
        let state = self.state(tm);
        let target = state.instance;
        for device in devices {
            let public =
                Secret::from_bytes([device as u8 ^ 0x5a; 32]).derive("test", &[&device.to_be_bytes()]).public();
            let leaf = Leaf { mode: 1, group: GROUP, member: id(device), startup: 1, generation: 1, public };
            let from = Instance { tm: id(device), startup: 1, random: 7 };
            let handover = Handover {
                group: GROUP,
                from,
                epoch: 1,
                header: Hash([1; 32]),
                target,
                tags: List::default(),
                leaves: List::new(vec![key(device).sign_value(&leaf).unwrap()]).unwrap(),
            };
            let signed = key(device).sign_value(&handover).unwrap();
            let message = Message::new(MessageKind::Handover, Hash([1; 32]), codec::encode(&signed).unwrap());
            let alone = GroupState { instance: from, size: 1, ..state };
            let machine = self.machines.get_mut(&tm).unwrap();
            machine.neighbour_heard(self.now, id(device), at(device), nonce(device), HELLO, alone);
            machine.handle_message(self.now, id(device), message);
        }
        self.drain();
    }

    fn drain(&mut self) {
        let running: Vec<usize> = self.machines.keys().copied().collect();
        for device in running {
            let machine = self.machines.get_mut(&device).unwrap();
            loop {
                if let Some(event) = machine.poll_event() {
                    if let Event::Epoch(keys) = event {
                        machine.installed(self.now, keys.header);
                    }
                } else if let Some(Transmit { to, bytes }) = machine.poll_transmit() {
                    for other in RUNNING.into_iter().filter(|other| *other != device) {
                        let reaches = match to {
                            Destination::Group => true,
                            Destination::Unicast(address) => address == at(other),
                        };
                        if reaches && self.rng.next_u64() % 100 >= self.loss {
                            self.wire.push_back((self.now + DELAY, device, other, bytes.clone()));
                        }
                    }
                } else {
                    break;
                }
            }
        }
    }

    fn run_until(&mut self, limit: Duration, done: impl Fn(&Crowd) -> bool) -> Duration {
        let begun = self.now;
        while !done(self) {
            assert!(self.now.since(begun) < limit, "not within {limit:?}{}", self.describe());
            let timer = self.machines.iter().filter_map(|(device, m)| Some((m.poll_timeout()?, *device))).min();
            match (self.wire.front().map(|first| first.0), timer) {
                (Some(arrival), timer) if timer.is_none_or(|(at, _)| arrival <= at) => {
                    let (at_, from, to, bytes) = self.wire.pop_front().unwrap();
                    self.now = self.now.max(at_);
                    let machine = self.machines.get_mut(&to).unwrap();
                    machine.handle_datagram(at(from), &bytes, false);
                    while machine.process(self.now) {}
                }
                (_, Some((due, device))) => {
                    self.now = self.now.max(due);
                    self.machines.get_mut(&device).unwrap().handle_timeout(self.now);
                }
                _ => return begun.since(begun),
            }
            self.drain();
        }
        self.now.since(begun)
    }

    fn describe(&self) -> String {
        let one = |(device, machine): (&usize, &KeyAgreement)| {
            let (state, counters) = (machine.group_state(), machine.counters());
            format!("\n{device}: epoch {} size {} active {} {counters:?}", state.epoch, state.size, state.active)
        };
        self.machines.iter().map(one).collect()
    }

    fn is_group(&self, running: &[usize], size: usize) -> bool {
        let key = self.machines[&running[0]].keys().fingerprint();
        running.iter().all(|device| {
            let machine = &self.machines[device];
            machine.members().count() == size && machine.keys().fingerprint() == key && machine.is_active()
        })
    }
}

fn merge(loss: u64) {
    let mut crowd = Crowd::new(0);
    for first in [0, SIDE] {
        let all: Vec<usize> = (first..first + SIDE).collect();
        let running = [first, first + 1, first + 2];
        crowd.meet(&all);
        crowd.run_until(Duration::from_secs(5), |crowd| crowd.is_group(&running, 3));
        crowd.crowd(first, first + 3..first + SIDE);
        crowd.run_until(Duration::from_secs(30), |crowd| crowd.is_group(&running, SIDE));
        crowd.hello(&all);
    }
    crowd.loss = loss;
    crowd.meet(&(0..2 * SIDE).collect::<Vec<_>>());
    let took = crowd.run_until(Duration::from_secs(20), |crowd| crowd.is_group(&RUNNING, 2 * SIDE));
    assert_eq!(crowd.state(SIDE).instance.tm, id(0), "of equals the lower id stays");
    let bytes = crowd.machines.get_mut(&0).unwrap().snapshot_message().unwrap().bytes.len();
    assert!(bytes > 250_000, "{bytes} bytes");
    assert!(took < Duration::from_secs(3), "{took:?} at {loss} % loss");
    assert!(crowd.machines.values().all(|machine| machine.counters().commits <= 12));
}

#[test]
fn five_hundred_and_twelve_join_as_many() {
    merge(0);
}

#[test]
fn five_hundred_and_twelve_join_as_many_over_a_network_that_loses() {
    merge(10);
}
