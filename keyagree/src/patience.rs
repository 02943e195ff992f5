//! Waits that double each time a device lets us down.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_wire::{MemberId, Time};

/// Who has not let us down for so long begins anew.
const FORGIVE_AFTER: Duration = Duration::from_secs(60);

/// Devices that are left alone for a while.
#[derive(Default)]
pub(crate) struct Patience(BTreeMap<MemberId, Wait>);

struct Wait {
    /// `None`: over; a further failure counts on.
    until: Option<Time>,
    longest: Duration,
    last: Time,
}

impl Patience {
    /// `member` has let us down: how long it is to be left alone, before any spread. At first `first`, then twice as
    /// long as ever before, for this reason at most `most`.
    pub(crate) fn next_wait(&self, now: Time, member: &MemberId, first: Duration, most: Duration) -> Duration {
        self.longest(now, member).map_or(first, |longest| longest * 2).min(most)
    }

    /// Leaves `member` alone until then, `wait` and some spread from now.
    pub(crate) fn leave_alone(&mut self, now: Time, member: MemberId, wait: Duration, until: Time) {
        // A wait that was cut short makes none of the longer ones forgotten.
        let longest = self.longest(now, &member).map_or(wait, |longest| longest.max(wait));
        self.0.retain(|_, wait| wait.until.is_some() || now.since(wait.last) < FORGIVE_AFTER);
        self.0.insert(member, Wait { until: Some(until), longest, last: now });
    }

    /// Nothing is held against `member` any more.
    pub(crate) fn forgive(&mut self, member: &MemberId) {
        self.0.remove(member);
    }

    /// Whether `member` is not being left alone.
    pub(crate) fn is_over(&self, now: Time, member: &MemberId) -> bool {
        self.0.get(member).is_none_or(|wait| wait.until.is_none_or(|until| until <= now))
    }

    /// Ends the waits that are over; [`Patience::next`] names them no longer.
    pub(crate) fn expire(&mut self, now: Time) {
        for wait in self.0.values_mut() {
            wait.until = wait.until.filter(|until| *until > now);
        }
    }

    /// When the next wait is over.
    pub(crate) fn next(&self) -> Option<Time> {
        self.0.values().filter_map(|wait| wait.until).min()
    }

    fn longest(&self, now: Time, member: &MemberId) -> Option<Duration> {
        let remembered = self.0.get(member).filter(|wait| now.since(wait.last) < FORGIVE_AFTER);
        remembered.map(|wait| wait.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(25);
    const MOST: Duration = Duration::from_secs(20);

    #[test]
    fn waits_double_and_are_forgiven() {
        let member = MemberId([1; 32]);
        let mut patience = Patience::default();
        let mut now = Time(0);
        for times in 0..12 {
            let wait = patience.next_wait(now, &member, FIRST, MOST);
            assert_eq!(wait, (FIRST * 2_u32.pow(times)).min(MOST));
            patience.leave_alone(now, member, wait, now + wait);
            assert!(!patience.is_over(now, &member));
            assert_eq!(patience.next(), Some(now + wait));
            now = now + wait;
            patience.expire(now);
            assert!(patience.is_over(now, &member));
            assert_eq!(patience.next(), None);
        }
        assert_eq!(patience.next_wait(now + FORGIVE_AFTER, &member, FIRST, MOST), FIRST);
        patience.forgive(&member);
        assert_eq!(patience.next_wait(now, &member, FIRST, MOST), FIRST);
    }

    #[test]
    fn a_pardonable_reason_counts_no_more_than_it_may_cost() {
        let member = MemberId([1; 32]);
        let mut patience = Patience::default();
        let mut wait_of = |most| {
            let wait = patience.next_wait(Time(0), &member, FIRST, most);
            patience.leave_alone(Time(0), member, wait, Time(0) + wait);
            wait
        };
        const PARDONABLE: Duration = Duration::from_millis(100);
        (0..20).for_each(|_| _ = wait_of(PARDONABLE));
        assert_eq!(wait_of(MOST), PARDONABLE * 2, "many refusals, one failure");
        assert_eq!(wait_of(PARDONABLE), PARDONABLE);
        assert_eq!(wait_of(MOST), PARDONABLE * 4, "a refusal wipes nothing out");
    }
}
