//! Some machines, and a network that does what the input says: delivers, delays, drops, repeats, changes.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use muster_sim::Input;
use muster_sim::forge::scramble;
use muster_wire::{Destination, Envelope, Kind, Time, Transmit};

/// Datagrams on their way; the oldest gets lost when there are more.
const MAX_WIRE: usize = 512;
/// Datagrams that the attacker remembers.
const MAX_HISTORY: usize = 96;
/// No single input makes a machine send more than this.
const MAX_ANSWERS: usize = 400;
/// No machine queues more than this of one source: 64 of what is vouched for, 64 of a neighbour's and 32 of the rest.
const MAX_QUEUED: usize = 160;

/// A state machine as a driver sees it.
pub(crate) trait Machine {
    /// What a refused message must not change.
    type View: PartialEq + Debug;

    fn receive(&mut self, now: Time, from: SocketAddr, bytes: &[u8], vouched: bool);
    fn process(&mut self, now: Time) -> bool;
    fn handle_timeout(&mut self, now: Time);
    fn poll_timeout(&self) -> Option<Time>;
    fn poll_transmit(&mut self) -> Option<Transmit>;
    /// Handles its events; how many there were besides refusals.
    fn settle(&mut self, now: Time) -> usize;
    fn view(&self, now: Time) -> Self::View;
    /// Datagrams refused so far.
    fn refused(&self) -> u64;
}

/// A datagram on its way.
#[derive(Clone)]
pub(crate) struct Datagram {
    pub(crate) sender: usize,
    pub(crate) to: usize,
    pub(crate) bytes: Vec<u8>,
}

/// The machines and what is between them.
pub(crate) struct Network<M> {
    pub(crate) now: Time,
    pub(crate) machines: Vec<M>,
    pub(crate) wire: VecDeque<Datagram>,
    pub(crate) history: VecDeque<Datagram>,
}

pub(crate) fn address(index: usize) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, index as u16 + 1).into(), 4860)
}

impl<M: Machine> Network<M> {
    pub(crate) fn new(now: Time, machines: Vec<M>) -> Self {
        Self { now, machines, wire: VecDeque::new(), history: VecDeque::new() }
    }

    /// Carries out what a machine wants.
    pub(crate) fn drain(&mut self, index: usize) {
        let (events, sent) = self.outputs(index);
        let _ = events;
        self.send(index, sent);
    }

    /// What the network may do with honest datagrams and with time.
    pub(crate) fn operate(&mut self, input: &mut Input<'_>) {
        match input.below(8) {
            // As a good network does.
            0 | 1 => self.run(Duration::from_millis([1, 10, 60, 300, 1000, 2500][input.below(6)])),
            // Nobody hears anybody.
            2 => {
                self.wire.clear();
                self.pass(Duration::from_millis([5, 100, 1100, 4500][input.below(4)]));
            }
            3 => {
                if let Some(datagram) = self.pick(input).and_then(|place| self.wire.remove(place)) {
                    self.deliver(&datagram, false);
                }
            }
            4 => {
                let place = self.pick(input);
                place.and_then(|place| self.wire.remove(place));
            }
            5 => {
                if let Some(datagram) = self.pick(input).and_then(|place| self.wire.get(place).cloned()) {
                    self.deliver(&datagram, false);
                }
            }
            // Again, to anybody, from another address perhaps.
            6 => {
                if let Some(mut datagram) = self.remembered(input) {
                    datagram.to = input.below(self.machines.len());
                    datagram.sender = input.below(self.machines.len() + 1);
                    self.deliver(&datagram, false);
                }
            }
            // By somebody without a key: nothing may come of it.
            _ => {
                if let Some(mut datagram) = self.remembered(input) {
                    let before = datagram.bytes.clone();
                    scramble(&mut datagram.bytes, input);
                    let changed = datagram.bytes != before;
                    self.deliver(&datagram, changed);
                }
            }
        }
    }

    /// Time passes, and datagrams take a millisecond each.
    pub(crate) fn run(&mut self, duration: Duration) {
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
    pub(crate) fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.next_timer().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            (0..self.machines.len()).for_each(|index| self.serve(index));
        }
        self.now = self.now.max(end);
    }

    /// A datagram reaches a machine. One that `is_forged` changes nothing; nor does one that the machine refuses.
    pub(crate) fn deliver(&mut self, datagram: &Datagram, is_forged: bool) {
        let (to, now) = (datagram.to, self.now);
        self.serve(to);
        let machine = &mut self.machines[to];
        let (before, refused, timer) = (machine.view(now), machine.refused(), machine.poll_timeout());
        // Nobody vouches for what was changed on the way.
        machine.receive(now, address(datagram.sender), &datagram.bytes, !is_forged);
        let mut queued = 0;
        while machine.process(now) {
            queued += 1;
        }
        assert!(queued <= MAX_QUEUED, "{queued} datagrams waited");
        let (events, sent) = self.outputs(to);
        let machine = &self.machines[to];
        let kind = Envelope::parse(&datagram.bytes).ok().map(|envelope| envelope.header().kind);
        if is_forged || machine.refused() > refused {
            assert_eq!(before, machine.view(now), "a refused {kind:?} changes state");
            assert_eq!(events, 0, "a refused {kind:?} makes events");
            // These are answered whoever sent them, if they repeat the nonce of a recent hello; there is a limit to that.
            let answered = matches!(kind, Some(Kind::Probe | Kind::CrlRequest));
            let larger = sent.iter().any(|sent| sent.bytes.len() > datagram.bytes.len());
            assert!(!larger || answered, "a refused {kind:?} makes something larger");
            if is_forged && !answered && kind != Some(Kind::Hello) {
                assert_eq!(timer, machine.poll_timeout(), "a forged {kind:?} moves a timer");
            }
        }
        self.send(to, sent);
    }

    /// A burst of a member's from one address, more than any machine queues.
    pub(crate) fn flood(&mut self, to: usize, from: usize, datagrams: impl Iterator<Item = Vec<u8>>) {
        let now = self.now;
        self.serve(to);
        let machine = &mut self.machines[to];
        datagrams.for_each(|bytes| machine.receive(now, address(from), &bytes, true));
        let mut queued = 0;
        while machine.process(now) {
            queued += 1;
        }
        assert!(queued <= MAX_QUEUED, "{queued} datagrams waited");
        self.drain(to);
    }

    /// A datagram of the past.
    pub(crate) fn remembered(&self, input: &mut Input<'_>) -> Option<Datagram> {
        self.history.get(input.below(self.history.len())).cloned()
    }

    fn pick(&self, input: &mut Input<'_>) -> Option<usize> {
        (!self.wire.is_empty()).then(|| input.below(self.wire.len()))
    }

    fn next_timer(&self) -> Option<Time> {
        self.machines.iter().filter_map(Machine::poll_timeout).min()
    }

    /// Does what is due at a machine; its timers must go away.
    fn serve(&mut self, index: usize) {
        let now = self.now;
        let mut rounds = 0;
        while self.machines[index].poll_timeout().is_some_and(|at| at <= now) {
            self.machines[index].handle_timeout(now);
            self.drain(index);
            rounds += 1;
            assert!(rounds < 20, "a timer that does not go away");
        }
    }

    fn outputs(&mut self, index: usize) -> (usize, Vec<Transmit>) {
        let now = self.now;
        let machine = &mut self.machines[index];
        let events = machine.settle(now);
        let mut sent = Vec::new();
        while let Some(transmit) = machine.poll_transmit() {
            sent.push(transmit);
            assert!(sent.len() <= MAX_ANSWERS, "one input makes more than {MAX_ANSWERS} datagrams");
        }
        assert_eq!(machine.settle(now), 0, "sending makes events");
        (events, sent)
    }

    fn send(&mut self, sender: usize, transmits: Vec<Transmit>) {
        for Transmit { to, bytes } in transmits {
            for other in (0..self.machines.len()).filter(|other| *other != sender) {
                let addressed = match to {
                    Destination::Group => true,
                    Destination::Unicast(to) => to.ip() == address(other).ip(),
                };
                if addressed {
                    push(&mut self.wire, MAX_WIRE, Datagram { sender, to: other, bytes: bytes.clone() });
                }
            }
            push(&mut self.history, MAX_HISTORY, Datagram { sender, to: sender, bytes });
        }
    }
}

fn push<T>(queue: &mut VecDeque<T>, most: usize, item: T) {
    if queue.len() >= most {
        queue.pop_front();
    }
    queue.push_back(item);
}
