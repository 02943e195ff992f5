//! Each sequence number of a sender once.

/// The last 64 sequence numbers of one sender in one start of its process.
///
/// [`SequenceWindow::is_new`] costs nothing and comes before the signature is checked; only a verified datagram may
/// [`SequenceWindow::mark`].
#[derive(Clone, Copy, Debug, Default)]
pub struct SequenceWindow {
    highest: u64,
    /// Bit n: `highest - n` was seen.
    seen: u64,
}

impl SequenceWindow {
    /// Not seen yet and not older than the window.
    pub fn is_new(&self, sequence: u64) -> bool {
        if sequence > self.highest {
            return true;
        }
        let age = self.highest - sequence;
        age < 64 && self.seen & (1 << age) == 0
    }

    /// Remembers a sequence number.
    pub fn mark(&mut self, sequence: u64) {
        if sequence > self.highest {
            let step = sequence - self.highest;
            self.seen = if step < 64 { self.seen << step } else { 0 };
            self.highest = sequence;
        }
        let age = self.highest - sequence;
        if age < 64 {
            self.seen |= 1 << age;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_set(numbers in prop::collection::vec(1_u64..200, 1..300)) {
            let mut window = SequenceWindow::default();
            let mut set = BTreeSet::new();
            for number in numbers {
                let highest = set.last().copied().unwrap_or(0);
                let expected = number > highest || (highest - number < 64 && !set.contains(&number));
                prop_assert_eq!(window.is_new(number), expected);
                window.mark(number);
                set.insert(number);
            }
        }
    }
}
