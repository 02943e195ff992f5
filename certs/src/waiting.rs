//! The queues before the check of signatures: whose datagrams are looked at first.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use muster_wire::Envelope;

use crate::intake::Intake;

/// What is known of a datagram's sender before its signature is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// A member of the group has sent it: a voucher before it says so. It comes from the address of the neighbour that it
    /// names, so that a member can take no room but that of whose address it forges; and the machine knows the run that
    /// it is of, so that a repetition of what was handled does not get here.
    Vouched,
    /// It comes from the address of the neighbour that it names.
    Familiar,
    /// Anybody's.
    Unfamiliar,
}

/// Three queues that take turns: a flood in one of them costs the others one signature check each.
#[derive(Debug)]
pub struct Waiting {
    queues: [Intake; 3],
    /// Whose turn it is.
    turn: usize,
    /// The signatures of what is vouched for and waits. A voucher is as good in a copy, and a copy may come from
    /// anywhere: without this, one datagram of a member could take the room of all the others.
    vouched: BTreeSet<[u8; 64]>,
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// It waits.
    Waits,
    /// It has been waiting already.
    Repeated,
    /// There is no room for it.
    Full,
}

impl Waiting {
    /// Room for so many datagrams of each of so many addresses: of what is vouched for and of what comes from
    /// neighbours' addresses `familiar`, of the rest `unfamiliar`.
    pub fn new(familiar: (usize, usize), unfamiliar: (usize, usize)) -> Self {
        let queues = [familiar, familiar, unfamiliar].map(|(each, sources)| Intake::new(each, sources));
        Self { queues, turn: 0, vouched: BTreeSet::new() }
    }

    /// Queues a datagram.
    pub fn push(&mut self, standing: Standing, from: SocketAddr, envelope: Envelope) -> Queued {
        let signature = envelope.signature().0;
        let is_vouched = standing == Standing::Vouched;
        if is_vouched && self.vouched.contains(&signature) {
            return Queued::Repeated;
        }
        if is_vouched && self.queues[standing as usize].has_room(from) {
            self.vouched.insert(signature);
        } else if is_vouched {
            // Another member may have filled it in this one's name.
            return self.push(Standing::Familiar, from, envelope);
        }
        if self.queues[standing as usize].push(from, envelope) { Queued::Waits } else { Queued::Full }
    }

    /// The next datagram, of the queue whose turn it is if one waits there.
    pub fn pop(&mut self) -> Option<(SocketAddr, Envelope)> {
        for _ in 0..self.queues.len() {
            let turn = self.turn;
            self.turn = (turn + 1) % self.queues.len();
            if let Some((from, envelope)) = self.queues[turn].pop() {
                if turn == Standing::Vouched as usize {
                    self.vouched.remove(&envelope.signature().0);
                }
                return Some((from, envelope));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_wire::{GroupTag, Header, Kind, MemberId, Signature};

    fn datagram(sequence: u64) -> Envelope {
        let header =
            Header { kind: Kind::Goodbye, group: GroupTag([0; 16]), sender: MemberId([0; 32]), startup: 0, sequence };
        let mut signature = [0; 64];
        signature[..8].copy_from_slice(&sequence.to_be_bytes());
        Envelope::parse(&Envelope::seal(&header, &[], |_| Signature(signature)).unwrap()).unwrap()
    }

    fn from(host: u16) -> SocketAddr {
        SocketAddr::from(([0xfe80, 0, 0, 0, 0, 0, 0, host], 4860))
    }

    fn order(waiting: &mut Waiting) -> Vec<u64> {
        std::iter::from_fn(|| waiting.pop()).map(|(_, envelope)| envelope.header().sequence).collect()
    }

    #[test]
    fn a_flood_delays_what_is_vouched_for_by_two_checks_at_most() {
        let mut waiting = Waiting::new((8, 4), (8, 4));
        for n in 0..100 {
            waiting.push(Standing::Familiar, from(1), datagram(1000 + n));
            waiting.push(Standing::Unfamiliar, from(2), datagram(2000 + n));
        }
        // The flood comes from its address, and has all the room there is.
        for n in 0..3 {
            assert_eq!(waiting.push(Standing::Vouched, from(1), datagram(n)), Queued::Waits);
        }
        assert_eq!(order(&mut waiting)[..8], [0, 1000, 2000, 1, 1001, 2001, 2, 1002]);
    }

    #[test]
    fn a_flood_of_vouched_datagrams_does_not_starve_newcomers() {
        let mut waiting = Waiting::new((8, 4), (8, 4));
        (0..100).for_each(|n| _ = waiting.push(Standing::Vouched, from(1), datagram(n)));
        assert_eq!(waiting.push(Standing::Vouched, from(1), datagram(100)), Queued::Full);
        assert_eq!(waiting.push(Standing::Unfamiliar, from(2), datagram(2000)), Queued::Waits);
        // What found no room waits like what nobody has vouched for.
        assert_eq!(order(&mut waiting)[..7], [0, 8, 2000, 1, 9, 2, 10]);
    }

    #[test]
    fn copies_of_what_is_vouched_for_take_no_room() {
        let mut waiting = Waiting::new((2, 2), (2, 2));
        assert_eq!(waiting.push(Standing::Vouched, from(1), datagram(1)), Queued::Waits);
        for copy in 0..100 {
            assert_eq!(waiting.push(Standing::Vouched, from(copy), datagram(1)), Queued::Repeated);
        }
        assert_eq!(waiting.push(Standing::Vouched, from(1), datagram(2)), Queued::Waits);
        assert_eq!(waiting.push(Standing::Vouched, from(2), datagram(3)), Queued::Waits);
        assert_eq!(waiting.push(Standing::Vouched, from(2), datagram(4)), Queued::Waits);
        assert_eq!(order(&mut waiting), [1, 3, 2, 4]);
        assert_eq!(waiting.push(Standing::Vouched, from(2), datagram(5)), Queued::Waits, "and room again");
        assert_eq!(waiting.push(Standing::Vouched, from(2), datagram(1)), Queued::Waits, "its sequence number tells");
    }
}
