//! Packets of the group that come before their SA.
//!
//! Who excludes somebody sends under the new key at once, some milliseconds before the others have it; and any commit
//! may reach one member later than what another then sends. Such packets wait here for the SA, so that a rekey loses
//! none; what no SA comes for in time was none of ours.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::black::Outer;

/// How long one waits: what the activation delay is by default, after which everybody switches.
const PATIENCE: Duration = Duration::from_millis(200);
/// Packets at once, and octets: a gigabit a second for a dozen milliseconds. Anybody on black can fill this; then it is
/// as if there were none.
const MOST: usize = 1024;
const MOST_OCTETS: usize = 1 << 20;

/// Those that wait, the oldest first.
#[derive(Default)]
pub(super) struct Early {
    waiting: VecDeque<(Instant, Outer, Vec<u8>)>,
    octets: usize,
    /// What [`Early::is_due`] was told last.
    installations: u64,
}

impl Early {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether to look at them again: SAs were installed, `installations` times by now, or the oldest has waited enough.
    pub(super) fn is_due(&mut self, installations: u64) -> bool {
        let Some((since, ..)) = self.waiting.front() else { return false };
        let more = self.installations != installations;
        self.installations = installations;
        more || since.elapsed() >= PATIENCE
    }

    /// Keeps an ESP packet; `false`: not for the group, or no room. A unicast SA is there before its other end knows
    /// the key.
    pub(super) fn keep(&mut self, now: Instant, outer: Outer, esp: &[u8]) -> bool {
        let fits = self.waiting.len() < MOST && self.octets + esp.len() <= MOST_OCTETS;
        let kept = fits && outer.destination.is_multicast();
        if kept {
            self.octets += esp.len();
            self.waiting.push_back((now, outer, esp.to_vec()));
        }
        kept
    }

    /// Shows each packet to `known`, in order: it takes those that it knows the SA of. Gives how many have waited in
    /// vain.
    pub(super) fn offer<E>(
        &mut self,
        now: Instant,
        mut known: impl FnMut(&Outer, &mut [u8]) -> Result<bool, E>,
    ) -> Result<u64, E> {
        let mut in_vain = 0;
        for _ in 0..self.waiting.len() {
            let Some((since, outer, mut esp)) = self.waiting.pop_front() else { break };
            self.octets -= esp.len();
            if known(&outer, &mut esp)? {
                continue;
            }
            if now.duration_since(since) >= PATIENCE {
                in_vain += 1;
                continue;
            }
            self.octets += esp.len();
            self.waiting.push_back((since, outer, esp));
        }
        Ok(in_vain)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const GROUP: Outer = Outer { destination: IpAddr::V4(std::net::Ipv4Addr::new(239, 0, 0, 1)), class: 0 };
    const ROUTER: Outer = Outer { destination: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), class: 0 };

    /// What is taken when the packets that begin with an octet of `sas` are known; and how many were in vain.
    fn offer(early: &mut Early, now: Instant, sas: &[u8]) -> (Vec<Vec<u8>>, u64) {
        let mut taken = Vec::new();
        let in_vain = early.offer(now, |_, esp| {
            let known = sas.contains(&esp[0]);
            if known {
                taken.push(esp.to_vec());
            }
            Ok::<_, ()>(known)
        });
        (taken, in_vain.unwrap())
    }

    #[test]
    fn they_wait_for_their_sa_in_order_and_not_for_ever() {
        let (mut early, begun) = (Early::default(), Instant::now());
        for packet in [[1, 1], [2, 1], [1, 2], [3, 1]] {
            assert!(early.keep(begun, GROUP, &packet));
        }
        assert!(!early.keep(begun, ROUTER, &[1, 3]));
        assert!(early.is_due(1) && !early.is_due(1));
        assert_eq!(offer(&mut early, begun, &[]), (vec![], 0));
        assert_eq!(offer(&mut early, begun, &[1]), (vec![vec![1, 1], vec![1, 2]], 0));
        let later = begun + PATIENCE;
        assert!(early.keep(later, GROUP, &[3, 2]));
        assert_eq!(offer(&mut early, later, &[2]), (vec![vec![2, 1]], 1));
        assert_eq!(offer(&mut early, later, &[3]), (vec![vec![3, 2]], 0));
        assert!(early.is_empty() && early.octets == 0);
    }

    #[test]
    fn a_flood_finds_little_room() {
        let (mut early, now) = (Early::default(), Instant::now());
        assert_eq!((0..2 * MOST).filter(|_| early.keep(now, GROUP, &[0; 100])).count(), MOST);
        assert_eq!(offer(&mut early, now + PATIENCE, &[]), (vec![], MOST as u64));
        let large = vec![0; 60_000];
        assert_eq!((0..MOST).filter(|_| early.keep(now, GROUP, &large)).count(), MOST_OCTETS / large.len());
    }
}
