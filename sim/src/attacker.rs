//! The attacker on the black network: brings datagrams that it has seen, as they were or changed.

use crate::checks::{Attack, Reaction};
use crate::node::Datagram;
use crate::world::Event;
use crate::{Fact, Node, Output, World};

/// Datagrams that it remembers.
const CAPTURED: usize = 100;

impl World {
    /// Puts a forged or repeated datagram to a node.
    pub(crate) fn attack(&mut self) {
        let pause = self.attacks.ms(50, 500);
        self.put(self.now + pause, Event::Attack);
        // When all is over, it is to be quiet.
        if self.captured.is_empty() || self.now > self.plan.over {
            return;
        }
        let (to, (port, from, bytes)) = self.captured[self.attacks.below(self.captured.len())].clone();
        let attack = Attack::ALL[self.attacks.below(Attack::ALL.len())];
        let to = if attack == Attack::Reflect { Node::at(from).unwrap_or(to) } else { to };
        let bytes = attack.forge(bytes.to_vec(), &mut self.attacks);
        // First what is due anyway.
        let due = self.nodes[to].timeout(self.now);
        self.carry_out(to, due);
        let Some(before) = self.nodes[to].view(self.now).filter(|_| self.nodes[to].is_awake()) else { return };
        let datagram = Reaction::describe(&bytes);
        let outputs = self.nodes[to].receive(self.now, (port, from, bytes.into()));
        let Some(after) = self.nodes[to].view(self.now) else { return };
        let sent = outputs.iter().filter_map(|output| match output {
            Output::Send(_, transmit) => Some(transmit.bytes.len()),
            Output::Fact(_) => None,
        });
        let sent: Vec<usize> = sent.collect();
        let tells = |output: &&Output| matches!(output, Output::Fact(fact) if !matches!(fact, Fact::Recorded { .. }));
        let facts = outputs.iter().filter(tells).count();
        let reaction = Reaction { before, after, facts, datagram, sent };
        self.tally.totals.attacks += 1;
        self.check(|check| check.attack(&attack, &reaction));
        self.carry_out(to, outputs);
    }

    pub(crate) fn capture(&mut self, node: usize, datagram: Datagram) {
        if self.captured.len() >= CAPTURED {
            self.captured.pop_front();
        }
        self.captured.push_back((node, datagram));
    }
}
