//! What can go wrong, and at random does.

use std::time::Duration;

use crate::{Dice, Disturbance};

/// What happens to a node or to the network. Revocations, new keys and clocks are for good, all else ends after
/// a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed, and started anew at the end.
    Crash(usize),
    /// The operator has it leave, and starts it anew at the end.
    Leave(usize),
    /// The process gets no processor.
    Sleep(usize),
    /// Somebody else has its key, too; found out at the end, it starts anew.
    Hostile(usize),
    /// Its certificate is revoked, and the list loaded at another node.
    Revoke(usize),
    /// The network is worse.
    Disturb(Disturbance),
    /// The operator asks for a new key.
    Rekey(usize),
    /// The wall clock is set by so many seconds.
    Clock(usize, i64),
}

/// Faults of one sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // as in Fault and Disturbance
pub enum Kind {
    Crash,
    Leave,
    Sleep,
    Hostile,
    Revoke,
    Cut,
    Mute,
    Deaf,
    Partition,
    Loss,
    Duplication,
    Reordering,
    Rekey,
    Clock,
}

impl Kind {
    /// All.
    pub const ALL: [Kind; 14] = [
        Kind::Crash,
        Kind::Leave,
        Kind::Sleep,
        Kind::Hostile,
        Kind::Revoke,
        Kind::Cut,
        Kind::Mute,
        Kind::Deaf,
        Kind::Partition,
        Kind::Loss,
        Kind::Duplication,
        Kind::Reordering,
        Kind::Rekey,
        Kind::Clock,
    ];

    /// One of this sort among `nodes` nodes, and how long it lasts: some shorter than the dead time, some longer.
    pub fn draw(self, nodes: usize, dice: &mut Dice) -> (Fault, Duration) {
        let node = dice.below(nodes);
        let lasts = if dice.chance(50) { dice.ms(50, 3500) } else { dice.ms(3500, 9000) };
        match self {
            Kind::Crash => (Fault::Crash(node), lasts),
            Kind::Leave => (Fault::Leave(node), Duration::from_secs(3) + lasts),
            Kind::Sleep => (Fault::Sleep(node), lasts),
            Kind::Hostile => (Fault::Hostile(node), lasts),
            Kind::Revoke => (Fault::Revoke(node), Duration::ZERO),
            Kind::Cut => (Fault::Disturb(Disturbance::Cut(node)), lasts),
            Kind::Mute => (Fault::Disturb(Disturbance::Mute(node)), lasts),
            Kind::Deaf => (Fault::Disturb(Disturbance::Deaf(node)), lasts),
            Kind::Partition => {
                let sides = 2 + dice.below(2);
                let sides = (0..nodes).map(|_| dice.below(sides)).collect();
                (Fault::Disturb(Disturbance::Partition(sides)), lasts)
            }
            Kind::Loss => (Fault::Disturb(Disturbance::Loss(5 + dice.below(26) as u32)), lasts),
            Kind::Duplication => (Fault::Disturb(Disturbance::Duplication(10 + dice.below(60) as u32)), lasts),
            Kind::Reordering => (Fault::Disturb(Disturbance::Reordering(dice.ms(2, 60))), lasts),
            Kind::Rekey => (Fault::Rekey(node), Duration::ZERO),
            Kind::Clock => (Fault::Clock(node, dice.below(7200) as i64 - 3600), Duration::ZERO),
        }
    }
}

impl Fault {
    /// Its sort.
    pub fn kind(&self) -> Kind {
        match self {
            Fault::Crash(_) => Kind::Crash,
            Fault::Leave(_) => Kind::Leave,
            Fault::Sleep(_) => Kind::Sleep,
            Fault::Hostile(_) => Kind::Hostile,
            Fault::Revoke(_) => Kind::Revoke,
            Fault::Rekey(_) => Kind::Rekey,
            Fault::Clock(..) => Kind::Clock,
            Fault::Disturb(disturbance) => match disturbance {
                Disturbance::Cut(_) => Kind::Cut,
                Disturbance::Mute(_) => Kind::Mute,
                Disturbance::Deaf(_) => Kind::Deaf,
                Disturbance::Partition(_) => Kind::Partition,
                Disturbance::Loss(_) => Kind::Loss,
                Disturbance::Duplication(_) => Kind::Duplication,
                Disturbance::Reordering(_) => Kind::Reordering,
            },
        }
    }
}
