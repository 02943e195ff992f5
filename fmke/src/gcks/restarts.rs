//! Clients that began anew, and how often that makes keys new.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use muster_wire::Time;

use crate::isakmp::Delays;

/// After keys were made new because a client began anew, they are not made new for that again before so long. One that begins
/// anew again and again would otherwise have the others take ever new keys; it waits, they do not: twice as long each time, up to
/// the second, until it has gone on for two such pauses without.
const PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(2 * 60);

/// Who began anew, and is told nothing until there are keys that it never used.
pub(super) struct Restarts<K> {
    /// When that may be, at the earliest.
    waiting: BTreeMap<K, Time>,
    /// For whom keys were made new.
    resting: BTreeMap<K, Rest>,
}

struct Rest {
    /// When they may be made new again.
    until: Time,
    pause: Duration,
}

impl<K> Default for Restarts<K> {
    fn default() -> Self {
        Restarts { waiting: BTreeMap::new(), resting: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Restarts<K> {
    /// This one began anew: when it may have new keys, `earliest` or later.
    pub(super) fn add(&mut self, client: K, earliest: Time) -> Time {
        let at = self.resting.get(&client).map_or(earliest, |rest| rest.until.max(earliest));
        self.waiting.insert(client, at);
        at
    }

    /// It is no more.
    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, client: &Q)
    where
        K: Borrow<Q>,
    {
        self.waiting.remove(client);
    }

    /// Whether it is told nothing yet.
    pub(super) fn is_waiting<Q: Ord + ?Sized>(&self, client: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.waiting.contains_key(client)
    }

    /// When somebody who waits may have new keys.
    pub(super) fn timeout(&self) -> Option<Time> {
        self.waiting.values().min().copied()
    }

    /// Those who get new keys now: whose time has come, or all, as all keys are new. With these delays an SA has gone before there
    /// is a third.
    pub(super) fn take(&mut self, now: Time, all: bool, delays: Delays) -> BTreeSet<K> {
        self.resting.retain(|_, rest| rest.until + rest.pause > now);
        let is_taken = |at: &Time| all || *at <= now;
        let taken: BTreeSet<K> =
            self.waiting.iter().filter(|(_, at)| is_taken(at)).map(|(client, _)| client.clone()).collect();
        self.waiting.retain(|_, at| !is_taken(at));
        for client in &taken {
            let twice = self.resting.get(client).map(|rest| (2 * rest.pause).min(LONGEST_PAUSE));
            let pause = twice.unwrap_or(PAUSE).max(delays.change());
            self.resting.insert(client.clone(), Rest { until: now + pause, pause });
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAYS: Delays = Delays { activation: 2, deactivation: 5 };

    fn at(seconds: u64) -> Time {
        Time(0) + Duration::from_secs(seconds)
    }

    #[test]
    fn who_begins_anew_again_and_again_waits_and_others_do_not() {
        let mut restarts: Restarts<&str> = Restarts::default();
        assert_eq!(restarts.add("a", Time(0)), Time(0));
        assert_eq!(restarts.take(at(100), false, DELAYS), BTreeSet::from(["a"]));
        for second in 101..130 {
            assert_eq!(restarts.add("a", Time(0)), at(130));
            assert!(restarts.is_waiting("a") && restarts.take(at(second), false, DELAYS).is_empty());
        }
        restarts.add("b", at(129));
        assert!(restarts.take(at(128), false, DELAYS).is_empty());
        assert_eq!(restarts.take(at(129), false, DELAYS), BTreeSet::from(["b"]));
        assert_eq!(restarts.timeout(), Some(at(130)));
        assert_eq!(restarts.take(at(130), false, DELAYS), BTreeSet::from(["a"]));
        restarts.add("a", Time(0));
        assert_eq!(restarts.take(at(131), true, DELAYS), BTreeSet::from(["a"]), "all keys are new");
        let slow = Delays { activation: 60, deactivation: 60 };
        restarts.add("b", Time(0));
        restarts.take(at(1000), false, slow);
        assert_eq!(restarts.add("b", Time(0)), at(1120), "the SAs before have gone");
        restarts.remove("b");
        assert!(!restarts.is_waiting("b") && restarts.timeout().is_none());
    }

    #[test]
    fn who_goes_on_beginning_anew_waits_longer() {
        let (mut restarts, mut now) = (Restarts::default(), at(1000));
        let mut begin = |now: Time, quiet: u64| {
            let start = now + Duration::from_secs(quiet);
            let at = restarts.add("a", start);
            assert_eq!(restarts.take(at, false, DELAYS), BTreeSet::from(["a"]));
            (at, at.since(start).as_secs())
        };
        for (quiet, waited) in
            [(0, 0), (0, 30), (0, 60), (100, 20), (0, 120), (0, 120), (200, 0), (0, 120), (240, 0), (0, 30)]
        {
            let (at, seconds) = begin(now, quiet);
            assert_eq!(seconds, waited);
            now = at;
        }
    }
}
