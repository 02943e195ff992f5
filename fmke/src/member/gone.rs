//! SAs of ESP that phase 2 has taken away while multicast of before may still come.

use std::collections::{BTreeSet, VecDeque};

/// The oldest are forgotten when there are more.
const MOST: usize = 4096;

/// Phase 2 says what is so now; multicast that was missed, and is sent again, may say what was so before. What the one took away
/// the other does not bring back: nothing would take it away again, and it may be what somebody sends under who is excluded.
#[derive(Default)]
pub(super) struct Gone {
    spis: BTreeSet<u32>,
    /// In the order in which they went.
    order: VecDeque<u32>,
}

impl Gone {
    /// Phase 2 has taken these away.
    pub(super) fn add(&mut self, spis: &BTreeSet<u32>) {
        self.order.extend(spis.iter().filter(|spi| self.spis.insert(**spi)));
        while self.order.len() > MOST {
            self.order.pop_front().map(|spi| self.spis.remove(&spi));
        }
    }

    /// Phase 2 has told this one since: it is another.
    pub(super) fn tell(&mut self, spi: u32) {
        if self.spis.remove(&spi) {
            self.order.retain(|other| *other != spi);
        }
    }

    pub(super) fn contains(&self, spi: u32) -> bool {
        self.spis.contains(&spi)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_and_what_is_told_again_is_there() {
        let mut gone = Gone::default();
        for spi in 0..10_000_u32 {
            gone.add(&[spi, spi.saturating_sub(1)].into());
            assert!(gone.contains(spi) && gone.spis.len() <= MOST && gone.order.len() == gone.spis.len());
        }
        assert!(gone.contains(9_999) && gone.contains(6_000) && !gone.contains(4_000));
        gone.tell(9_999);
        assert!(!gone.contains(9_999) && gone.contains(9_998) && gone.order.len() == gone.spis.len());
    }
}
