//! The anti-replay window (RFC 4303 3.4.3), after the method of RFC 6479.

/// Sequence numbers accepted below the highest one seen: as many as the kernel has at most. Several threads send under one
/// SA, and one that is held up has given its packets their numbers.
pub(crate) const WINDOW: u32 = 4096;

/// One word more than the window has, so that a word can be cleared while all of the window is still known.
const WORDS: usize = WINDOW as usize / 64 + 1;

/// Which sequence numbers of one SA have arrived. Ask [`may_be_new`](Self::may_be_new) before the costly
/// decryption, [`mark`](Self::mark) after it: only authentic packets move the window.
#[derive(Clone)]
pub(crate) struct ReplayWindow {
    highest: u32,
    /// Bit `n % 64` of word `n / 64 % WORDS` stands for sequence number `n`.
    seen: [u64; WORDS],
}

impl ReplayWindow {
    pub(crate) fn new() -> Self {
        ReplayWindow { highest: 0, seen: [0; WORDS] }
    }

    /// The highest sequence number marked; 0 if none was.
    pub(crate) fn highest(&self) -> u32 {
        self.highest
    }

    /// Whether `sequence` is neither a repetition nor too old. 0 is never sent (RFC 4303 2.2).
    pub(crate) fn may_be_new(&self, sequence: u32) -> bool {
        if sequence > self.highest {
            return true;
        }
        sequence != 0 && self.highest - sequence < WINDOW && self.seen[word(sequence)] & bit(sequence) == 0
    }

    /// Takes note of `sequence`. False if it is not new after all.
    pub(crate) fn mark(&mut self, sequence: u32) -> bool {
        if !self.may_be_new(sequence) {
            return false;
        }
        if sequence > self.highest {
            let entered = (sequence / 64 - self.highest / 64).min(WORDS as u32);
            for n in 0..entered {
                self.seen[word(sequence - n * 64)] = 0;
            }
            self.highest = sequence;
        }
        self.seen[word(sequence)] |= bit(sequence);
        true
    }
}

fn word(sequence: u32) -> usize {
    (sequence / 64) as usize % WORDS
}

fn bit(sequence: u32) -> u64 {
    1 << (sequence % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// What the window must do, said plainly.
    #[derive(Default)]
    struct Naive(BTreeSet<u32>);

    impl Naive {
        fn mark(&mut self, sequence: u32) -> bool {
            let highest = self.0.last().copied().unwrap_or(0);
            sequence != 0 && u64::from(sequence) + u64::from(WINDOW) > u64::from(highest) && self.0.insert(sequence)
        }
    }

    #[test]
    fn edges() {
        let mut window = ReplayWindow::new();
        assert!(!window.may_be_new(0) && !window.mark(0));
        assert!(window.mark(1) && !window.mark(1));
        assert!(window.mark(WINDOW + 1) && !window.may_be_new(1), "just out of the window");
        assert!(window.mark(2), "the last one in it");
        assert!(window.mark(u32::MAX) && !window.mark(u32::MAX));
        assert!(!window.mark(u32::MAX - WINDOW) && window.mark(u32::MAX - WINDOW + 1));
        assert_eq!(window.highest(), u32::MAX);
    }

    /// Sequence numbers as networks deliver them: mostly forward, some late, some twice, some far ahead.
    fn arrivals() -> impl Strategy<Value = Vec<u32>> {
        let step = prop_oneof![
            8 => 0i64..4,
            4 => -100i64..100,
            2 => -i64::from(WINDOW) - 70..i64::from(WINDOW) + 70,
            1 => 0i64..20_000,
        ];
        (0..=u32::MAX, proptest::collection::vec(step, 0..600)).prop_map(|(start, steps)| {
            let mut at = i64::from(start);
            steps
                .into_iter()
                .map(|step| {
                    at = (at + step).clamp(0, i64::from(u32::MAX));
                    at as u32
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn as_the_naive_set(arrivals in arrivals()) {
            let (mut window, mut naive) = (ReplayWindow::new(), Naive::default());
            for sequence in arrivals {
                let expected = naive.mark(sequence);
                prop_assert_eq!(window.may_be_new(sequence), expected, "check {}", sequence);
                prop_assert_eq!(window.mark(sequence), expected, "mark {}", sequence);
            }
        }
    }
}
