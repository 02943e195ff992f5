//! Which messages have come, in both phases (draft 3.2, 4.2, 7.5): each once, in order.

use std::collections::BTreeMap;

use crate::isakmp::Range;

/// Messages beyond the next one are kept, at most so many ahead: what is further ahead comes again.
pub(super) const AHEAD: u32 = 64;

/// The receiver's window over the numbers of one SA, which begin at 1. Messages are handed on in order: a delete must not
/// overtake what it deletes. "It must also keep a sliding receive window for it." (draft 7.5)
pub(crate) struct Window<T> {
    /// The number that is handed on next.
    next: u32,
    /// Come before their turn.
    early: BTreeMap<u32, T>,
}

/// What has become of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken<T> {
    /// Handed on, with those that had waited for it.
    InOrder(Vec<T>),
    /// Kept until the ones before it are here.
    Early,
    /// It was here before.
    Repeated,
    /// Too far ahead to be kept.
    Beyond,
}

impl<T> Window<T> {
    /// Of an SA whose next message is `next`.
    pub(crate) fn new(next: u32) -> Self {
        Window { next, early: BTreeMap::new() }
    }

    /// Whether a message with this number would be taken: to be asked before it costs anything.
    pub(crate) fn wants(&self, number: u32) -> bool {
        number >= self.next && number - self.next < AHEAD && !self.early.contains_key(&number)
    }

    /// Takes an authentic message.
    pub(crate) fn take(&mut self, number: u32, message: T) -> Taken<T> {
        if number < self.next || self.early.contains_key(&number) {
            return Taken::Repeated;
        }
        if number - self.next >= AHEAD {
            return Taken::Beyond;
        }
        if number != self.next {
            self.early.insert(number, message);
            return Taken::Early;
        }
        let mut in_order = vec![message];
        // A window at the end of the numbers stays there: its SA is replaced long before.
        self.next = self.next.saturating_add(1);
        while let Some(message) = self.early.remove(&self.next) {
            in_order.push(message);
            self.next = self.next.saturating_add(1);
        }
        Taken::InOrder(in_order)
    }

    /// Gives up those that are missing below `number`: what had waited for them, in order.
    pub(crate) fn skip_to(&mut self, number: u32) -> Vec<T> {
        let mut in_order = Vec::new();
        while let Some(entry) = self.early.first_entry().filter(|entry| *entry.key() < number) {
            in_order.push(entry.remove());
        }
        self.next = self.next.max(number);
        while let Some(message) = self.early.remove(&self.next) {
            in_order.push(message);
            self.next = self.next.saturating_add(1);
        }
        in_order
    }

    /// The number that is handed on next.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// Those that came before their turn.
    pub(crate) fn early(&self) -> impl Iterator<Item = (u32, &T)> {
        self.early.iter().map(|(number, message)| (*number, message))
    }

    /// The last number up to which all have come (ACK); 0: none.
    pub(crate) fn acknowledged(&self) -> u32 {
        self.next.saturating_sub(1)
    }

    /// What has come beyond it (SACK).
    pub(crate) fn beyond(&self) -> Vec<Range> {
        let mut ranges: Vec<Range> = Vec::new();
        for number in self.early.keys().copied() {
            match ranges.last_mut() {
                Some(range) if range.last + 1 == number => range.last = number,
                _ => ranges.push(Range { first: number, last: number }),
            }
        }
        ranges
    }

    /// What has not come of the numbers up to `last` (NACK), as far as it would be kept.
    pub(crate) fn missing(&self, last: u32) -> Vec<Range> {
        let end = last.min(self.next.saturating_add(AHEAD - 1));
        let mut ranges = Vec::new();
        let mut first = self.next;
        for number in self.early.range(..=end).map(|(number, _)| *number).chain([end.saturating_add(1)]) {
            if first < number {
                ranges.push(Range { first, last: number - 1 });
            }
            first = number.saturating_add(1);
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn range(first: u32, last: u32) -> Range {
        Range { first, last }
    }

    /// "Sequence numbers of the messages received by the Member : 1 2 3 4 . 6 7 . 9 (5 and 8 are lost)
    /// Ack : 4  , Sack : 6-7, Sack : 9-9" (draft 3.2)
    #[test]
    fn the_drafts_example_of_acknowledgements() {
        let mut window = Window::new(1);
        for number in [1, 2, 3, 4, 6, 7, 9] {
            window.take(number, number);
        }
        assert_eq!((window.acknowledged(), window.beyond()), (4, vec![range(6, 7), range(9, 9)]));
        assert_eq!(window.take(5, 5), Taken::InOrder(vec![5, 6, 7]));
        assert_eq!(window.take(5, 5), Taken::Repeated);
    }

    /// "Next sequence number used by the GCKS (configuration) : 5 … received by a Member : . 6 7 . 9
    /// Nack : 5-5 , Nack : 8-8" (draft 4.2)
    #[test]
    fn the_drafts_example_of_what_is_missing() {
        let mut window = Window::new(5);
        for number in [6, 7, 9] {
            window.take(number, number);
        }
        assert_eq!(window.missing(9), [range(5, 5), range(8, 8)]);
        assert_eq!(window.missing(11), [range(5, 5), range(8, 8), range(10, 11)]);
        assert_eq!(window.missing(4), []);
        assert_eq!(window.missing(u32::MAX).last(), Some(&range(10, 5 + AHEAD - 1)));
    }

    #[test]
    fn what_is_too_far_ahead_is_not_kept() {
        let mut window = Window::new(1);
        assert!(!window.wants(1 + AHEAD) && window.wants(AHEAD) && !window.wants(0));
        assert_eq!(window.take(1 + AHEAD, ()), Taken::Beyond);
        assert_eq!(window.take(AHEAD, ()), Taken::Early);
        assert!(!window.wants(AHEAD));
        let mut window = Window::new(u32::MAX);
        assert_eq!(window.take(u32::MAX, ()), Taken::InOrder(vec![()]));
    }

    proptest! {
        /// Whatever order they come in and however often: each is handed on once, in order, and what is reported fits.
        #[test]
        fn each_once_in_order(numbers in proptest::collection::vec(1u32..40, 0..120)) {
            let (mut window, mut come, mut out) = (Window::new(1), BTreeSet::new(), Vec::new());
            for number in numbers {
                prop_assert_eq!(window.wants(number), come.insert(number));
                if let Taken::InOrder(messages) = window.take(number, number) {
                    out.extend(messages);
                }
                let in_order = (1..).take_while(|number| come.contains(number)).count() as u32;
                prop_assert_eq!(window.acknowledged(), in_order);
                let beyond: BTreeSet<u32> = window.beyond().iter().flat_map(|range| range.first..=range.last).collect();
                prop_assert_eq!(&beyond, &come.iter().copied().filter(|number| *number > in_order).collect());
                let highest = come.last().copied().unwrap_or(0);
                let missing: BTreeSet<u32> =
                    window.missing(highest).iter().flat_map(|range| range.first..=range.last).collect();
                prop_assert_eq!(missing, (1..=highest).filter(|number| !come.contains(number)).collect());
            }
            prop_assert_eq!(out.clone(), (1..=out.len() as u32).collect::<Vec<_>>());
        }
    }
}
