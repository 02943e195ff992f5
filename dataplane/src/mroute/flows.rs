//! Which entries the kernel was given: a bounded number, the oldest goes first.

use std::collections::{HashMap, VecDeque};

use super::Flow;

/// Entries that forward.
const ADMITTED_MAX: usize = 4096;
/// Entries that lead nowhere: fewer, and apart, so that what may not cross never displaces what may.
const REFUSED_MAX: usize = 512;

#[derive(Default)]
pub(super) struct Flows {
    admitted: Queue,
    refused: Queue,
}

#[derive(Default)]
struct Queue {
    order: VecDeque<Flow>,
    parents: HashMap<Flow, u16>,
}

impl Flows {
    /// Takes note of an entry; the one that must go for it, if any.
    pub(super) fn insert(&mut self, flow: Flow, parent: u16, admitted: bool) -> Option<(Flow, u16)> {
        let (queue, other, max) = if admitted {
            (&mut self.admitted, &mut self.refused, ADMITTED_MAX)
        } else {
            (&mut self.refused, &mut self.admitted, REFUSED_MAX)
        };
        other.remove(&flow);
        queue.insert(flow, parent, max)
    }

    /// Those that forward, with their interfaces.
    pub(super) fn admitted(&self) -> impl Iterator<Item = (&Flow, u16)> {
        self.admitted.parents.iter().map(|(flow, parent)| (flow, *parent))
    }

    /// All of them, with their interfaces.
    pub(super) fn into_iter(self) -> impl Iterator<Item = (Flow, u16)> {
        self.admitted.parents.into_iter().chain(self.refused.parents)
    }
}

impl Queue {
    fn insert(&mut self, flow: Flow, parent: u16, max: usize) -> Option<(Flow, u16)> {
        if self.parents.insert(flow, parent).is_some() {
            return None;
        }
        self.order.push_back(flow);
        if self.order.len() <= max {
            return None;
        }
        let oldest = self.order.pop_front()?;
        Some((oldest, self.parents.remove(&oldest)?))
    }

    fn remove(&mut self, flow: &Flow) {
        // Seldom (the policy changed), so the walk does not matter.
        if self.parents.remove(flow).is_some() {
            self.order.retain(|other| other != flow);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn flow(n: u32) -> Flow {
        Flow { source: Ipv4Addr::from(0x0a00_0000 + n).into(), group: Ipv4Addr::new(239, 10, 0, 1).into() }
    }

    #[test]
    fn the_oldest_goes_and_refused_ones_displace_no_admitted_one() {
        let mut flows = Flows::default();
        assert_eq!(flows.insert(flow(1_000_000), 1, true), None);
        for n in 0..REFUSED_MAX as u32 {
            assert_eq!(flows.insert(flow(n), 2, false), None);
        }
        assert_eq!(flows.insert(flow(5), 2, false), None, "known");
        assert_eq!(flows.insert(flow(600), 2, false), Some((flow(0), 2)));
        assert_eq!(flows.insert(flow(1), 3, true), None, "now admitted");
        assert_eq!(flows.insert(flow(601), 2, false), None, "which made room");
        assert_eq!(flows.insert(flow(602), 2, false), Some((flow(2), 2)));
    }
}
