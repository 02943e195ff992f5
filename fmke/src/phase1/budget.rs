//! How much may be computed for strangers.

use std::time::Duration;

use muster_wire::Time;

/// So many a second, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// A second. 0: none ever, once `burst` is spent.
    pub per_second: u32,
    /// At once, after a pause.
    pub burst: u32,
}

/// A token bucket; it counts in millionths, so that no fraction is lost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    rate: Rate,
    left: u64,
    at: Time,
}

impl Budget {
    pub(super) fn new(rate: Rate, now: Time) -> Self {
        Budget { rate, left: u64::from(rate.burst) * 1_000_000, at: now }
    }

    /// Takes so many, if there are so many.
    pub(super) fn take(&mut self, now: Time, count: u32) -> bool {
        // An hour fills any bucket whose rate is not 0, and multiplies without an overflow.
        let passed = now.since(self.at).min(Duration::from_secs(3600)).as_micros() as u64;
        self.at = self.at.max(now);
        let most = u64::from(self.rate.burst) * 1_000_000;
        self.left = (self.left + passed * u64::from(self.rate.per_second)).min(most);
        let wanted = u64::from(count) * 1_000_000;
        let enough = self.left >= wanted;
        if enough {
            self.left -= wanted;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_burst_and_the_rate() {
        let mut budget = Budget::new(Rate { per_second: 10, burst: 3 }, Time(5));
        let taken = |budget: &mut Budget, now: u64| (0..100).filter(|_| budget.take(Time(now), 1)).count();
        assert_eq!(taken(&mut budget, 5), 3);
        assert_eq!(taken(&mut budget, 100_004), 0);
        assert_eq!(taken(&mut budget, 100_005), 1);
        // A clock that goes back gives nothing.
        assert_eq!(taken(&mut budget, 0), 0);
        assert_eq!(taken(&mut budget, u64::MAX), 3);
    }

    #[test]
    fn what_costs_more_waits_longer() {
        let mut budget = Budget::new(Rate { per_second: 10, burst: 10 }, Time(0));
        assert!(budget.take(Time(0), 4) && budget.take(Time(0), 4) && !budget.take(Time(0), 4));
        assert!(budget.take(Time(0), 2), "what is left is there for others");
        assert!(!budget.take(Time(399_999), 4) && budget.take(Time(400_000), 4));
        assert!(!budget.take(Time(u64::MAX), 11), "more than a burst is never there");
    }

    #[test]
    fn fractions_add_up() {
        let mut budget = Budget::new(Rate { per_second: 3, burst: 1 }, Time(0));
        let taken = (0..10_000_000_u64).step_by(1_000).filter(|now| budget.take(Time(*now), 1)).count();
        assert!((30..=31).contains(&taken), "{taken}");
    }
}
