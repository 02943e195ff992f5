//! Nodes on a network, and time: what is next, happens; the checkers look on.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use muster_bridge::Port;
use muster_wire::{Destination, Hash, Time, Transmit};
use sha2::{Digest, Sha256};

use crate::checks::Check;
use crate::devices::{NATIONS, UNIX, crl, device};
use crate::forge::Insider;
use crate::insider::Overheard;
use crate::node::Datagram;
use crate::run::Failure;
use crate::totals::Tally;
use crate::{Dice, Fact, Fault, Network, Node, Output, Plan, Totals, View};

/// The checkers look at all nodes this often.
const LOOK: Duration = Duration::from_millis(100);
/// A timer that has been served so often at one instant does not go away.
const MAX_SERVED: u32 = 100;

/// Something planted to see that a checker finds it.
pub trait Defect {
    /// What the checkers are told in place of a fact.
    fn fact(&mut self, fact: Fact) -> Vec<Fact> {
        vec![fact]
    }

    /// Changes what they see.
    fn view(&mut self, _view: &mut View) {}

    /// Drops a datagram that has arrived at a node.
    fn drops(&mut self, _to: usize, _datagram: &[u8]) -> bool {
        false
    }

    /// Makes the operator of a node ask for a new key.
    fn rekeys(&mut self, _at: Time) -> Option<usize> {
        None
    }
}

/// None.
impl Defect for () {}

/// A run as it runs.
pub struct World {
    pub(crate) plan: Plan,
    pub(crate) now: Time,
    agenda: BTreeMap<(Time, u64), Event>,
    order: u64,
    pub(crate) nodes: Vec<Node>,
    network: Network,
    dice: Dice,
    pub(crate) attacks: Dice,
    pub(crate) captured: VecDeque<(usize, Datagram)>,
    pub(crate) mischief: Dice,
    /// Devices in hostile hands, by node.
    pub(crate) hostile: BTreeMap<usize, Insider>,
    pub(crate) overheard: Overheard,
    /// Nodes whose certificates are revoked, whether they know or not.
    revoked: Vec<usize>,
    /// Datagrams that each node has sent.
    sent: Vec<u64>,
    checks: Vec<Box<dyn Check>>,
    defect: Box<dyn Defect>,
    pub(crate) tally: Tally,
    served: u32,
    calm_since: Option<Time>,
    trace: Sha256,
    failure: Option<Failure>,
}

pub(crate) enum Event {
    Arrive(usize, Datagram),
    Start(usize),
    Begin(usize),
    End(usize),
    Look,
    Attack,
    Mischief(usize),
}

impl World {
    /// A run is over so long after its planned end at the latest.
    const PATIENCE: Duration = Duration::from_secs(120);

    /// Before the beginning of `plan`.
    pub fn new(plan: Plan, checks: Vec<Box<dyn Check>>, defect: Box<dyn Defect>) -> World {
        let count = plan.devices.len();
        let mut world = World {
            now: Time(0),
            agenda: BTreeMap::new(),
            order: 0,
            nodes: plan.devices.iter().enumerate().map(|(index, number)| Node::new(index, device(*number))).collect(),
            network: Network::new(count, plan.conditions.clone(), Dice::new(plan.seed, "network")),
            dice: Dice::new(plan.seed, "world"),
            attacks: Dice::new(plan.seed, "attacks"),
            captured: VecDeque::new(),
            mischief: Dice::new(plan.seed, "mischief"),
            hostile: BTreeMap::new(),
            overheard: Overheard::default(),
            revoked: Vec::new(),
            sent: vec![0; count],
            checks,
            defect,
            tally: Tally::new(count),
            served: 0,
            calm_since: None,
            trace: Sha256::new(),
            failure: None,
            plan,
        };
        for (node, at) in world.plan.starts.clone().into_iter().enumerate() {
            world.put(at, Event::Start(node));
        }
        for (index, fault) in world.plan.faults.clone().into_iter().enumerate() {
            world.put(fault.at, Event::Begin(index));
            if let Some(lasts) = fault.lasts {
                world.put(fault.at + lasts, Event::End(index));
            }
        }
        world.put(Time(0), Event::Look);
        world.put(Time(0), Event::Attack);
        world
    }

    /// Runs to the end, or until a checker complains.
    pub fn run(mut self) -> (Totals, Hash, Option<Failure>) {
        while self.failure.is_none() && !(self.now >= self.plan.end && self.checks.iter().all(|c| c.is_content())) {
            self.step();
            if self.now > self.plan.end + Self::PATIENCE {
                self.fail("convergence", "it does not come to rest".into());
            }
        }
        self.check(|check| check.finish());
        for node in &self.nodes {
            self.tally.process_ended(node.counters());
        }
        let totals = Totals {
            runs: 1,
            seconds: self.now.0 / 1_000_000,
            nodes: self.nodes.len() as u64,
            faults: self.plan.faults.len() as u64,
            ..self.tally.totals
        };
        (totals, Hash(self.trace.finalize().into()), self.failure)
    }

    fn step(&mut self) {
        let timers = self.nodes.iter().enumerate().filter_map(|(index, node)| Some((node.timer()?, index)));
        let timer = timers.min();
        // The checkers' looks keep the agenda from ever being empty.
        let Some(next) = self.agenda.first_key_value().map(|((at, _), _)| *at) else { return };
        if let Some((at, node)) = timer.filter(|(at, _)| *at <= next) {
            self.advance(at);
            self.served += 1;
            if self.served > MAX_SERVED {
                let timers = self.nodes[node].timers();
                return self.fail("timers", format!("node {node} has a timer that does not go away: {timers}"));
            }
            let outputs = self.nodes[node].timeout(self.now);
            return self.carry_out(node, outputs);
        }
        let Some((_, event)) = self.agenda.pop_first() else { return };
        self.advance(next);
        match event {
            Event::Arrive(node, datagram) => self.arrive(node, datagram),
            Event::Start(node) => self.start(node),
            Event::Begin(index) => self.begin(index),
            Event::End(index) => self.end(index),
            Event::Look => self.look(),
            Event::Attack => self.attack(),
            Event::Mischief(node) => self.mischief(node),
        }
    }

    fn advance(&mut self, to: Time) {
        if to > self.now {
            self.now = to;
            self.served = 0;
        }
    }

    pub(crate) fn put(&mut self, at: Time, event: Event) {
        self.order += 1;
        self.agenda.insert((at, self.order), event);
    }

    // --- What happens ---

    fn arrive(&mut self, node: usize, datagram: Datagram) {
        self.note(b"arrive", &[&(node as u64).to_be_bytes(), &datagram.2]);
        if self.defect.drops(node, &datagram.2) {
            self.capture(node, datagram);
            return;
        }
        let (awake, dropped) = (self.nodes[node].is_awake(), self.nodes[node].dropped());
        let outputs = self.nodes[node].receive(self.now, datagram.clone());
        // What it has not accepted it may accept later: to bring that again is no replay.
        if awake && self.nodes[node].dropped() == dropped {
            self.capture(node, datagram);
        }
        self.carry_out(node, outputs);
    }

    pub(crate) fn start(&mut self, node: usize) {
        if self.nodes[node].is_running() {
            return;
        }
        // A router without a clock has the last stamp only.
        let stamp = if self.dice.chance(20) { 0 } else { UNIX * 1_000_000 + self.now.0 };
        let seeds = [self.dice.seed(), self.dice.seed()];
        let outputs = self.nodes[node].start(self.now, stamp, self.plan.leaf_refresh, seeds);
        self.unsettle();
        self.carry_out(node, outputs);
    }

    fn begin(&mut self, index: usize) {
        let now = self.now;
        self.note(b"begin", &[&(index as u64).to_be_bytes()]);
        let (node, outputs) = match self.plan.faults[index].fault.clone() {
            Fault::Crash(node) => (node, vec![Output::Fact(Fact::Stopped { node })]),
            Fault::Leave(node) => (node, self.nodes[node].command(|engine| engine.leave(now), now)),
            Fault::Sleep(node) => {
                self.nodes[node].sleep();
                (node, Vec::new())
            }
            Fault::Hostile(node) => {
                self.take_over(node);
                (node, Vec::new())
            }
            Fault::Revoke(node) => self.revoke(node),
            Fault::Disturb(disturbance) => {
                self.network.disturb(index, disturbance);
                (0, Vec::new())
            }
            Fault::Rekey(node) => (node, self.nodes[node].command(|engine| engine.rekey(now), now)),
            Fault::Clock(node, by) => {
                let unix = (UNIX + now.0 / 1_000_000).saturating_add_signed(by);
                (node, self.nodes[node].command(|engine| engine.set_wall_clock(now, unix), now))
            }
        };
        self.unsettle();
        self.carry_out(node, outputs);
    }

    /// Some other node gets the list; from there it is to reach all.
    fn revoke(&mut self, node: usize) -> (usize, Vec<Output>) {
        let others = (1..self.nodes.len()).map(|step| (node + step) % self.nodes.len());
        let mut others = others.filter(|other| self.nodes[*other].is_awake() && !self.revoked.contains(other));
        let Some(loader) = others.next().filter(|_| !self.revoked.contains(&node)) else { return (node, Vec::new()) };
        self.revoked.push(node);
        self.tally.totals.revocations += 1;
        let nation = self.plan.devices[node] % NATIONS;
        let devices = self.revoked.iter().map(|revoked| self.plan.devices[*revoked]);
        let devices: Vec<usize> = devices.filter(|device| device % NATIONS == nation).collect();
        let list = crl(nation, &devices, devices.len() as u64);
        (loader, self.nodes[loader].load_list(self.now, &list))
    }

    fn end(&mut self, index: usize) {
        self.note(b"end", &[&(index as u64).to_be_bytes()]);
        match self.plan.faults[index].fault {
            Fault::Crash(node) | Fault::Leave(node) => self.start(node),
            Fault::Sleep(node) => {
                let timers_first = self.dice.chance(50);
                let outputs = self.nodes[node].wake(self.now, timers_first);
                self.carry_out(node, outputs);
            }
            Fault::Hostile(node) => self.win_back(node),
            Fault::Disturb(_) => self.network.calm(index),
            Fault::Revoke(_) | Fault::Rekey(_) | Fault::Clock(..) => {}
        }
        self.unsettle();
    }

    /// Something has changed: whether it is calm now, begins anew.
    fn unsettle(&mut self) {
        let asleep = self.nodes.iter().any(|node| node.is_running() && !node.is_awake());
        self.calm_since =
            if self.network.is_calm() && !asleep && self.hostile.is_empty() { Some(self.now) } else { None };
    }

    // --- What comes of it ---

    pub(crate) fn carry_out(&mut self, node: usize, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send(port, transmit) => self.send(node, port, transmit),
                Output::Fact(fact) => self.happened(fact),
            }
        }
    }

    pub(crate) fn send(&mut self, from: usize, port: Port, transmit: Transmit) {
        self.tally.totals.sent += 1;
        self.sent[from] += 1;
        let now = self.now;
        self.check(|check| check.sent(now, from, &transmit));
        self.overheard.listen(&transmit.bytes);
        let bytes: Rc<[u8]> = transmit.bytes.into();
        let to: Vec<usize> = match transmit.to {
            Destination::Group => (0..self.nodes.len()).filter(|to| *to != from).collect(),
            Destination::Unicast(address) => {
                Node::at(address).filter(|to| *to < self.nodes.len()).into_iter().collect()
            }
        };
        // Replies on a port go to the port that a datagram came from.
        let address = Node::address(from, port);
        for to in to {
            for delay in self.network.carry(from, to, port) {
                self.put(self.now + delay, Event::Arrive(to, (port, address, bytes.clone())));
            }
        }
    }

    pub(crate) fn happened(&mut self, fact: Fact) {
        match &fact {
            Fact::Entered(entered) => {
                self.note(b"entered", &[&(entered.node as u64).to_be_bytes(), entered.fingerprint.as_bytes()]);
                self.tally.entered(entered);
            }
            Fact::Stopped { node } => {
                if let Some(counters) = self.nodes[*node].crash() {
                    self.tally.process_ended(counters);
                }
                self.tally.stopped(*node);
                self.captured.retain(|(captured, _)| captured != node);
                self.unsettle();
            }
            Fact::Started { node, .. } => self.tally.started(*node),
            Fact::Activated { .. } | Fact::Retired { .. } | Fact::TakenOver { .. } | Fact::Recorded { .. } => {}
        }
        for fact in self.defect.fact(fact) {
            let now = self.now;
            self.check(|check| check.fact(now, &fact));
        }
    }

    fn look(&mut self) {
        let trusted: Vec<usize> = (0..self.nodes.len()).filter(|node| !self.revoked.contains(node)).collect();
        let mut view = View {
            at: self.now,
            calm_since: self.calm_since,
            over: self.now > self.plan.over,
            loss: self.plan.conditions.loss,
            refreshes: self.plan.leaf_refresh < Plan::SELDOM,
            sent: trusted.iter().map(|node| self.sent[*node]).sum(),
            nodes: trusted.iter().filter_map(|node| self.nodes[*node].view(self.now)).collect(),
        };
        self.defect.view(&mut view);
        self.check(|check| check.look(&view));
        if let Some(node) = self.defect.rekeys(self.now) {
            let now = self.now;
            let outputs = self.nodes[node].command(|engine| engine.rekey(now), now);
            self.carry_out(node, outputs);
        }
        self.put(self.now + LOOK, Event::Look);
    }

    pub(crate) fn check(&mut self, mut ask: impl FnMut(&mut dyn Check) -> Result<(), String>) {
        for check in &mut self.checks {
            if let Err(what) = ask(check.as_mut()) {
                let name = check.name();
                return self.fail(name, what);
            }
        }
    }

    fn fail(&mut self, check: &'static str, what: String) {
        let failure = Failure { seed: self.plan.seed, at: self.now, check, what };
        self.failure.get_or_insert(failure);
    }

    fn note(&mut self, what: &[u8], parts: &[&[u8]]) {
        self.trace.update(self.now.0.to_be_bytes());
        self.trace.update(what);
        parts.iter().for_each(|part| self.trace.update(part));
    }
}
