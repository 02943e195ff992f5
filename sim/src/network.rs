//! Who hears what, when: delay, jitter, loss, duplication, reordering, and who is cut off.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_bridge::Port;

use crate::Dice;

/// How the network is all the time.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// Each link's delay is drawn once, between these.
    pub delay: (Duration, Duration),
    /// Comes on top at random, for each datagram.
    pub jitter: Duration,
    /// Datagrams in a hundred that are lost.
    pub loss: u32,
}

/// What is wrong for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// A node's link is down.
    Cut(usize),
    /// Nobody hears a node, which hears all.
    Mute(usize),
    /// A node gets no datagrams of the key agreement, and its neighbours do not notice.
    Deaf(usize),
    /// Only nodes with equal numbers hear each other.
    Partition(Vec<usize>),
    /// So many in a hundred are lost.
    Loss(u32),
    /// So many in a hundred come twice.
    Duplication(u32),
    /// Datagrams are late by up to this, each by its own.
    Reordering(Duration),
}

/// A shared medium between nodes.
pub struct Network {
    conditions: Conditions,
    delays: Vec<Vec<Duration>>,
    disturbances: BTreeMap<usize, Disturbance>,
    dice: Dice,
}

impl Network {
    /// Between `nodes` nodes.
    pub fn new(nodes: usize, conditions: Conditions, mut dice: Dice) -> Self {
        let (least, most) = conditions.delay;
        let delays = (0..nodes).map(|_| (0..nodes).map(|_| dice.duration(least, most)).collect()).collect();
        Self { conditions, delays, disturbances: BTreeMap::new(), dice }
    }

    /// Something goes wrong, until [`Network::calm`] with the same name.
    pub fn disturb(&mut self, name: usize, disturbance: Disturbance) {
        self.disturbances.insert(name, disturbance);
    }

    /// It is over.
    pub fn calm(&mut self, name: usize) {
        self.disturbances.remove(&name);
    }

    /// Nothing is wrong beyond the usual.
    pub fn is_calm(&self) -> bool {
        self.disturbances.is_empty()
    }

    /// How long copies of a datagram from one node to another take; none when it is lost.
    pub fn carry(&mut self, from: usize, to: usize, port: Port) -> Vec<Duration> {
        let dice = &mut self.dice;
        let mut lost = dice.chance(self.conditions.loss);
        let mut late = dice.duration(Duration::ZERO, self.conditions.jitter);
        let mut copies = 1;
        for disturbance in self.disturbances.values() {
            match disturbance {
                Disturbance::Cut(node) => lost |= *node == from || *node == to,
                Disturbance::Mute(node) => lost |= *node == from,
                Disturbance::Deaf(node) => lost |= *node == to && port == Port::KeyAgreement,
                Disturbance::Partition(sides) => lost |= sides[from] != sides[to],
                Disturbance::Loss(percent) => lost |= dice.chance(*percent),
                Disturbance::Duplication(percent) => copies += usize::from(dice.chance(*percent)),
                Disturbance::Reordering(most) => late += dice.duration(Duration::ZERO, *most),
            }
        }
        if lost {
            return Vec::new();
        }
        let base = self.delays[from][to];
        (0..copies).map(|copy| base + late * (copy as u32 + 1)).collect()
    }
}
