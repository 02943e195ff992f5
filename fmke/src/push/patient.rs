//! Which messages have come to a member that cannot ask for what it misses (draft 6.1): each once, in order, with gaps.

use muster_wire::Time;

use super::window::AHEAD;
use super::{PATIENCE, Taken, Window};

/// A [`Window`] that waits for what is missing, and then goes on without it. What is given up is refused when it comes: a delete
/// must not overtake what it deletes, nor be overtaken by somebody who keeps a message back.
pub(crate) struct PatientWindow<T> {
    /// Each with the time at which it came.
    window: Window<(Time, T)>,
}

impl<T> PatientWindow<T> {
    /// Of an SA whose next message is `next`.
    pub(crate) fn new(next: u32) -> Self {
        PatientWindow { window: Window::new(next) }
    }

    /// The number that is handed on next: all below it were, or were given up.
    pub(crate) fn next(&self) -> u32 {
        self.window.next()
    }

    /// Whether a message with this number would be taken: to be asked before it costs anything. One that is far ahead is: the member
    /// was away.
    pub(crate) fn wants(&self, number: u32) -> bool {
        self.window.wants(number) || self.is_beyond(number)
    }

    /// Takes an authentic message: what is handed on now.
    pub(crate) fn take(&mut self, now: Time, number: u32, message: T) -> Vec<T> {
        let mut in_order = Vec::new();
        if self.is_beyond(number) {
            // Those just before it may be on their way.
            in_order = self.window.skip_to(number - (AHEAD - 1));
        }
        if let Taken::InOrder(messages) = self.window.take(number, (now, message)) {
            in_order.extend(messages);
        }
        messages(in_order)
    }

    /// When to ask [`due`](Self::due).
    pub(crate) fn timeout(&self) -> Option<Time> {
        self.longest().map(|(came, _)| came + PATIENCE)
    }

    /// What has waited long enough by `now` for what was before it.
    pub(crate) fn due(&mut self, now: Time) -> Vec<T> {
        let mut in_order = Vec::new();
        while let Some((_, number)) = self.longest().filter(|(came, _)| *came + PATIENCE <= now) {
            in_order.extend(self.window.skip_to(number));
        }
        messages(in_order)
    }

    fn is_beyond(&self, number: u32) -> bool {
        number.checked_sub(self.next()).is_some_and(|ahead| ahead >= AHEAD)
    }

    /// When the one that waits longest came, and its number.
    fn longest(&self) -> Option<(Time, u32)> {
        self.window.early().map(|(number, (came, _))| (*came, number)).min()
    }
}

fn messages<T>(list: Vec<(Time, T)>) -> Vec<T> {
    list.into_iter().map(|(_, message)| message).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PATIENT: u64 = PATIENCE.as_micros() as u64;

    #[test]
    fn what_is_missing_is_waited_for_and_then_given_up() {
        let mut window = PatientWindow::new(5);
        assert_eq!(window.take(Time(0), 5, 5), [5]);
        assert_eq!((window.take(Time(10), 8, 8), window.take(Time(20), 7, 7)), (vec![], vec![]));
        assert_eq!(window.timeout(), Some(Time(10 + PATIENT)));
        assert!(window.due(Time(9 + PATIENT)).is_empty());
        assert_eq!(window.due(Time(10 + PATIENT)), [7, 8]);
        assert_eq!((window.next(), window.timeout()), (9, None));
        assert!(!window.wants(6), "it comes too late");
        assert_eq!(window.take(Time(30), 9, 9), [9]);
        window.take(Time(40), 11, 11);
        assert_eq!(window.take(Time(50), 10, 10), [10, 11], "it came in time");
    }

    /// A terminal that was switched off hears numbers far beyond those that it knew.
    #[test]
    fn who_was_away_goes_on_with_what_is_said_now() {
        let mut window = PatientWindow::new(1);
        assert_eq!(window.take(Time(0), 2, 2), []);
        assert!(window.wants(1_000_000));
        assert_eq!(window.take(Time(1), 1_000_000, 100), [2], "what it had comes first");
        assert!(!window.wants(1) && !window.wants(1_000_000) && window.wants(999_999));
        assert_eq!(window.take(Time(2), 999_999, 99), []);
        assert_eq!(window.due(Time(2 + PATIENT)), [99, 100]);
        assert_eq!(window.next(), 1_000_001);
        assert_eq!(window.take(Time(3), u32::MAX, 101), []);
        assert_eq!(window.due(Time(3 + PATIENT)), [101]);
    }

    proptest! {
        /// Whatever comes when: the numbers handed on rise, none below `next` is wanted, none is kept for longer than patience.
        #[test]
        fn each_once_in_order(steps in proptest::collection::vec((1u32..400, 0u64..PATIENT), 0..200)) {
            let (mut window, mut now, mut out) = (PatientWindow::new(1), Time(0), Vec::new());
            for (number, wait) in steps {
                now = Time(now.0 + wait);
                out.extend(window.due(now));
                prop_assert!(window.timeout().is_none_or(|at| at > now));
                let is_wanted = window.wants(number);
                prop_assert!(!is_wanted || number >= window.next());
                if is_wanted {
                    out.extend(window.take(now, number, number));
                    prop_assert!(!window.wants(number));
                }
            }
            out.extend(window.due(now + PATIENCE));
            prop_assert!(window.timeout().is_none());
            prop_assert!(out.is_sorted_by(|a, b| a < b));
            prop_assert!(out.last().is_none_or(|last| *last < window.next()));
        }
    }
}
