//! Discovery of a few devices: one in the attacker's hands, one of a nation that the others do not trust.

use std::net::SocketAddr;
use std::time::Duration;

use muster_certs::{Author, TrustStore};
use muster_discovery::{Config, Discovery, Event};
use muster_sim::Input;
use muster_sim::forge::Insider;
use muster_wire::idp::GroupState;
use muster_wire::{Hash, Instance, MemberId, Time, Transmit};

use crate::devices::{GROUP, STRANGER, UNIX, at, is_stranger, trust, with_crls};
use crate::network::{Datagram, Machine, Network};

const HELLO: Duration = Duration::from_secs(1);
/// Operations of one input.
const MAX_OPERATIONS: usize = 60;
const INSIDER: usize = STRANGER - 1;

/// Devices 0 to the insider trust each other; the stranger trusts all.
pub(crate) fn operations(data: &[u8]) {
    let mut input = Input::new(data);
    let now = Time(1_000_000);
    let mut network = Network::new(now, (0..=STRANGER).map(|index| Node::new(index, 1, now)).collect());
    (0..=STRANGER).for_each(|index| network.drain(index));
    let device = at(INSIDER);
    let mut insider = Insider { key: device.key.clone(), member: device.member, startup: 1, sequence: 0 };
    for _ in 0..MAX_OPERATIONS {
        if input.is_empty() {
            break;
        }
        match input.below(8) {
            0..=3 => network.operate(&mut input),
            4 => command(&mut network, &mut input),
            5 | 6 => {
                if let Some(model) = network.remembered(&mut input)
                    && let Some(bytes) = insider.forge_datagram(&model.bytes, &mut input)
                {
                    let to = input.below(STRANGER);
                    network.deliver(&Datagram { sender: INSIDER, to, bytes }, false);
                }
            }
            _ => {
                if let Some(model) = network.remembered(&mut input) {
                    let forged = (0..200).filter_map(|_| insider.forge_datagram(&model.bytes, &mut input));
                    let forged: Vec<_> = forged.collect();
                    let from = input.below(STRANGER + 2);
                    network.flood(input.below(STRANGER), from, forged.into_iter());
                }
            }
        }
        insider.startup = network.machines[INSIDER].startup;
        for node in &network.machines[..STRANGER] {
            assert!(node.neighbours().all(|(member, _)| !is_stranger(&member)), "a stranger is a neighbour");
        }
    }
}

fn command(network: &mut Network<Node>, input: &mut Input<'_>) {
    let (now, index) = (network.now, input.below(network.machines.len()));
    let node = &mut network.machines[index];
    match input.below(7) {
        0 => node.machine.set_group_state(now, group(input.byte(), at(input.below(STRANGER)).member)),
        1 => {
            let nets = ["fd00:1::/64", "10.1.0.0/16", "fd00:2::/48", "::/0", "ff00::/8", "10.1.2.0/24"];
            let announced = (0..input.below(4)).filter_map(|_| nets[input.below(nets.len())].parse().ok());
            // What may not be announced is refused.
            let _ = node.machine.set_prefixes(now, announced.collect());
        }
        2 => {
            let unix = [UNIX, 0, u64::MAX, UNIX + 3600, 4_000_000_000][input.below(5)];
            node.machine.set_wall_clock(now, unix);
        }
        3 if index < INSIDER => {
            let revoked = if input.flag() { vec![muster_sim::crl(INSIDER, &[INSIDER], 1)] } else { Vec::new() };
            node.machine.set_trust(now, with_crls(revoked));
        }
        4 => node.machine.renew_key(now),
        5 => node.machine.shutdown(now),
        // Killed, and started again.
        _ => *node = Node::new(index, node.startup + 1, now),
    }
    network.drain(index);
}

struct Node {
    machine: Discovery,
    startup: u64,
}

impl Node {
    fn new(index: usize, startup: u64, now: Time) -> Node {
        let device = at(index);
        let author = Author::new(device.key.clone(), GROUP, device.member, startup);
        let trust: TrustStore = if index == STRANGER { muster_sim::trust() } else { trust() };
        let seed = [(index as u8) << 4 ^ startup as u8; 32];
        let config = Config { hello_interval: HELLO, key_life: Duration::from_secs(3600) };
        let machine = Discovery::new(config, author, device.chain.clone(), trust, seed, now, UNIX);
        let mut machine = machine.expect("a device that may start");
        machine.set_group_state(now, group(1, device.member));
        Node { machine, startup }
    }

    /// Those that are up, and what is accepted of them.
    fn neighbours(&self) -> impl Iterator<Item = (MemberId, Vec<String>)> {
        let up = self.machine.neighbors(Time(0)).filter(|neighbour| neighbour.reason.is_none());
        up.map(|up| (up.member, up.prefixes.iter().map(ToString::to_string).collect()))
    }
}

impl Machine for Node {
    /// Not who is suspect: whatever else a neighbour says, that it has signed something shows that it is there.
    type View = Vec<(MemberId, Vec<String>)>;

    fn receive(&mut self, now: Time, from: SocketAddr, bytes: &[u8], vouched: bool) {
        self.machine.handle_datagram(now, from, bytes, vouched);
    }

    fn process(&mut self, now: Time) -> bool {
        self.machine.process(now)
    }

    fn handle_timeout(&mut self, now: Time) {
        self.machine.handle_timeout(now);
        let next = self.machine.poll_timeout();
        assert!(next.is_none_or(|at| at > now), "a timer at {next:?} that does nothing at {now:?}");
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.machine.poll_timeout()
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.machine.poll_transmit()
    }

    fn settle(&mut self, _now: Time) -> usize {
        let events = std::iter::from_fn(|| self.machine.poll_event());
        events.filter(|event| !is_refusal(event)).count()
    }

    fn view(&self, _now: Time) -> Self::View {
        self.neighbours().collect()
    }

    fn refused(&self) -> u64 {
        self.machine.counters().iter().map(|(_, count)| count).sum()
    }
}

fn is_refusal(event: &Event) -> bool {
    matches!(event, Event::Refused { .. } | Event::PrefixesRefused { .. } | Event::ListRefused { .. })
}

fn group(epoch: u8, tm: MemberId) -> GroupState {
    let instance = Instance { tm, startup: 1, random: 1 };
    GroupState { instance, epoch: epoch.into(), size: 1, header: Hash([epoch; 32]), installed: true, active: true }
}
