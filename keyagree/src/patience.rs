//! Waits that double each time a device lets us down.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_wire::{MemberId, Time};

const MAX_DOUBLINGS: u32 = 10;
/// Who has not let us down for so long begins anew.
const FORGIVE_AFTER: Duration = Duration::from_secs(60);

/// Devices that are left alone for a while.
#[derive(Default)]
pub(crate) struct Patience(BTreeMap<MemberId, Wait>);

struct Wait {
    /// `None`: over; a further failure counts on.
    until: Option<Time>,
    times: u32,
    last: Time,
}

impl Patience {
    /// `member` has let us down: how long it is to be left alone, before any spread.
    pub(crate) fn next_wait(&self, now: Time, member: &MemberId, first: Duration) -> Duration {
        first * 2_u32.pow(self.times(now, member).min(MAX_DOUBLINGS))
    }

    /// Leaves `member` alone until then.
    pub(crate) fn leave_alone(&mut self, now: Time, member: MemberId, until: Time) {
        let times = self.times(now, &member) + 1;
        self.0.retain(|_, wait| wait.until.is_some() || now.since(wait.last) < FORGIVE_AFTER);
        self.0.insert(member, Wait { until: Some(until), times, last: now });
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

    fn times(&self, now: Time, member: &MemberId) -> u32 {
        let remembered = self.0.get(member).filter(|wait| now.since(wait.last) < FORGIVE_AFTER);
        remembered.map_or(0, |wait| wait.times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_are_forgiven() {
        const FIRST: Duration = Duration::from_millis(25);
        let member = MemberId([1; 32]);
        let mut patience = Patience::default();
        let mut now = Time(0);
        for times in 0..12 {
            let wait = patience.next_wait(now, &member, FIRST);
            assert_eq!(wait, FIRST * 2_u32.pow(times.min(MAX_DOUBLINGS)));
            patience.leave_alone(now, member, now + wait);
            assert!(!patience.is_over(now, &member));
            assert_eq!(patience.next(), Some(now + wait));
            now = now + wait;
            patience.expire(now);
            assert!(patience.is_over(now, &member));
            assert_eq!(patience.next(), None);
        }
        assert_eq!(patience.next_wait(now + FORGIVE_AFTER, &member, FIRST), FIRST);
        patience.forgive(&member);
        assert_eq!(patience.next_wait(now, &member, FIRST), FIRST);
    }
}
