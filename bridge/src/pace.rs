//! How many datagrams are taken from the sockets, and handled, before the loop turns to something else.

/// No more than the machines' queues for one address hold, so that what one neighbour sends in a row (a snapshot in many
/// parts) is all taken.
const BURST: usize = 32;
/// So many times in a row there was more: this is a flood, …
const FLOOD: u32 = 16;
/// … and so many are taken from each socket at a time, …
const FLOOD_TAKEN: usize = 1024;
/// … and of so many one is handled, by each machine. To take one costs a twentieth of what it costs to check its
/// signature, so that about half of the time goes into each. What is too much then fills the queue that it deserves, and
/// not the sockets, where all others would stand in line behind it.
const FLOOD_SHARE: usize = 32;
/// However few were taken.
const LEAST_HANDLED: usize = 4;

/// Follows whether the sockets could be emptied.
#[derive(Default)]
pub(crate) struct Pace {
    /// How often in a row they held more than was taken.
    behind: u32,
}

impl Pace {
    /// How many datagrams are to be taken from each socket now.
    pub(crate) fn taken(&self) -> usize {
        if self.is_flood() { FLOOD_TAKEN } else { BURST }
    }

    /// How many are to be handled after so many were taken from all sockets.
    pub(crate) fn handled(&self, taken: usize) -> usize {
        if self.is_flood() { LEAST_HANDLED.max(taken / FLOOD_SHARE) } else { BURST }
    }

    /// Whether a socket held more than was taken.
    pub(crate) fn note(&mut self, more: bool) {
        self.behind = if more { self.behind.saturating_add(1) } else { 0 };
    }

    fn is_flood(&self) -> bool {
        self.behind >= FLOOD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_handled_as_it_comes() {
        let mut pace = Pace::default();
        for _ in 0..FLOOD - 1 {
            pace.note(true);
            assert_eq!((pace.taken(), pace.handled(4 * BURST)), (BURST, BURST), "no queue of 64 overflows");
        }
        pace.note(false);
        pace.note(true);
        assert_eq!(pace.taken(), BURST, "what was before is over");
    }

    #[test]
    fn a_flood_is_taken_faster_than_it_is_handled_until_the_sockets_are_empty() {
        let mut pace = Pace::default();
        (0..FLOOD).for_each(|_| pace.note(true));
        assert_eq!(pace.taken(), FLOOD_TAKEN);
        for (taken, handled) in [(4 * FLOOD_TAKEN, 128), (FLOOD_TAKEN, 32), (100, LEAST_HANDLED), (0, LEAST_HANDLED)] {
            assert_eq!(pace.handled(taken), handled);
        }
        pace.note(true);
        assert_eq!(pace.taken(), FLOOD_TAKEN);
        pace.note(false);
        assert_eq!((pace.taken(), pace.handled(0)), (BURST, BURST));
    }
}
