//! Packets of the group that come before their SA.
//!
//! A key that excludes somebody is sent under after 200 ms though not all have acknowledged it (`keyagree/SPEC.md`, 6), and
//! any commit may reach one member later than what another then sends. Such packets wait here for the SA, so that a rekey loses
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
    /// What [`Early::offer`] was told last.
    installations: u64,
}

impl Early {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Lets those go that have waited enough; how many. The oldest stand first: a flood of them costs its own packets.
    pub(super) fn expire(&mut self, now: Instant) -> u64 {
        let mut in_vain = 0;
        while let Some((since, _, esp)) = self.waiting.front()
            && now.duration_since(*since) >= PATIENCE
        {
            self.octets -= esp.len();
            self.waiting.pop_front();
            in_vain += 1;
        }
        in_vain
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

    /// When SAs were installed since the last time (`installations` times by now), shows each packet to `known`, in
    /// order: it takes those that it knows the SA of.
    pub(super) fn offer<E>(
        &mut self,
        installations: u64,
        mut known: impl FnMut(&Outer, &mut [u8]) -> Result<bool, E>,
    ) -> Result<(), E> {
        if std::mem::replace(&mut self.installations, installations) == installations {
            return Ok(());
        }
        for _ in 0..self.waiting.len() {
            let Some((since, outer, mut esp)) = self.waiting.pop_front() else { break };
            self.octets -= esp.len();
            if !known(&outer, &mut esp)? {
                self.octets += esp.len();
                self.waiting.push_back((since, outer, esp));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const GROUP: Outer = Outer { destination: IpAddr::V4(std::net::Ipv4Addr::new(239, 0, 0, 1)), class: 0 };
    const ROUTER: Outer = Outer { destination: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), class: 0 };

    /// What is taken at another installation when the packets that begin with an octet of `sas` are known.
    fn offer(early: &mut Early, installations: u64, sas: &[u8]) -> Vec<Vec<u8>> {
        let mut taken = Vec::new();
        let offered = early.offer(installations, |_, esp| {
            let known = sas.contains(&esp[0]);
            if known {
                taken.push(esp.to_vec());
            }
            Ok::<_, ()>(known)
        });
        offered.unwrap();
        taken
    }

    #[test]
    fn they_wait_for_their_sa_in_order_and_not_for_ever() {
        let (mut early, begun) = (Early::default(), Instant::now());
        for packet in [[1, 1], [2, 1], [1, 2], [3, 1]] {
            assert!(early.keep(begun, GROUP, &packet));
        }
        assert!(!early.keep(begun, ROUTER, &[1, 3]));
        assert!(offer(&mut early, 1, &[]).is_empty());
        // No other SA has come.
        assert!(offer(&mut early, 1, &[1]).is_empty());
        assert_eq!(offer(&mut early, 2, &[1]), [[1, 1], [1, 2]]);
        let later = begun + PATIENCE;
        assert!(early.keep(later, GROUP, &[3, 2]));
        assert_eq!(offer(&mut early, 3, &[2]), [[2, 1]]);
        assert_eq!((early.expire(later), early.expire(later)), (1, 0));
        assert_eq!(offer(&mut early, 4, &[3]), [[3, 2]]);
        assert!(early.is_empty() && early.octets == 0);
    }

    #[test]
    fn a_flood_finds_little_room() {
        let (mut early, now) = (Early::default(), Instant::now());
        assert_eq!((0..2 * MOST).filter(|_| early.keep(now, GROUP, &[0; 100])).count(), MOST);
        assert_eq!(early.expire(now + PATIENCE), MOST as u64);
        let large = vec![0; 60_000];
        assert_eq!((0..MOST).filter(|_| early.keep(now, GROUP, &large)).count(), MOST_OCTETS / large.len());
    }
}
