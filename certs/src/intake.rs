//! One queue of datagrams that wait for the work of checking their signature.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use muster_wire::Envelope;

/// A bounded queue that serves its sources in turn, so that one that floods delays only itself.
#[derive(Debug)]
pub(crate) struct Intake {
    queues: BTreeMap<IpAddr, VecDeque<(SocketAddr, Envelope)>>,
    turns: VecDeque<IpAddr>,
    per_source: usize,
    sources: usize,
}

impl Intake {
    /// Room for `per_source` datagrams of each of `sources` addresses.
    pub(crate) fn new(per_source: usize, sources: usize) -> Self {
        Self { queues: BTreeMap::new(), turns: VecDeque::new(), per_source, sources }
    }

    /// Whether a datagram from there could be queued.
    pub(crate) fn has_room(&self, from: SocketAddr) -> bool {
        match self.queues.get(&from.ip()) {
            Some(queue) => queue.len() < self.per_source,
            None => self.queues.len() < self.sources,
        }
    }

    /// Queues a datagram; `false` when there is no room for it.
    pub(crate) fn push(&mut self, from: SocketAddr, envelope: Envelope) -> bool {
        if !self.has_room(from) {
            return false;
        }
        let source = from.ip();
        if !self.queues.contains_key(&source) {
            self.turns.push_back(source);
        }
        self.queues.entry(source).or_default().push_back((from, envelope));
        true
    }

    /// The oldest datagram of the source whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<(SocketAddr, Envelope)> {
        let source = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&source)?;
        let item = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&source);
        } else {
            self.turns.push_back(source);
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_wire::{GroupTag, Header, Kind, MemberId, Signature};

    fn datagram(sequence: u64) -> Envelope {
        let header =
            Header { kind: Kind::Goodbye, group: GroupTag([0; 16]), sender: MemberId([0; 32]), startup: 0, sequence };
        let bytes = Envelope::seal(&header, &[], |_| Signature([0; 64])).unwrap();
        Envelope::parse(&bytes).unwrap()
    }

    #[test]
    fn a_flood_from_one_source_delays_only_itself() {
        let (flooder, honest) = ("[fe80::1]:1".parse().unwrap(), "[fe80::2]:1".parse().unwrap());
        let mut intake = Intake::new(4, 2);
        let taken = (0..100).filter(|n| intake.push(flooder, datagram(*n))).count();
        assert_eq!(taken, 4);
        assert!(intake.push(honest, datagram(1000)));
        assert!(!intake.push("[fe80::3]:1".parse().unwrap(), datagram(0)), "a third source finds no room");
        let order: Vec<u64> = std::iter::from_fn(|| intake.pop()).map(|(_, e)| e.header().sequence).collect();
        assert_eq!(order, [0, 1000, 1, 2, 3]);
        assert!(intake.push("[fe80::3]:1".parse().unwrap(), datagram(0)), "room again");
    }
}
