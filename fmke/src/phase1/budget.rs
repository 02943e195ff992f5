//! How much may be computed for strangers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use muster_wire::Time;

/// Budgets of fewer addresses are kept without looking whether they are full again.
const FEW: usize = 64;

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
struct Budget {
    rate: Rate,
    left: u64,
    at: Time,
}

impl Budget {
    fn new(rate: Rate, now: Time) -> Self {
        Budget { rate, left: u64::from(rate.burst) * 1_000_000, at: now }
    }

    /// Takes so many, if there are so many.
    fn take(&mut self, now: Time, count: u32) -> bool {
        let enough = self.has(now, count);
        if enough {
            self.left -= u64::from(count) * 1_000_000;
        }
        enough
    }

    /// Whether there are so many, with what has come since the last look.
    fn has(&mut self, now: Time, count: u32) -> bool {
        // An hour fills any bucket whose rate is not 0, and multiplies without an overflow.
        let passed = now.since(self.at).min(Duration::from_secs(3600)).as_micros() as u64;
        self.at = self.at.max(now);
        let most = u64::from(self.rate.burst) * 1_000_000;
        self.left = (self.left + passed * u64::from(self.rate.per_second)).min(most);
        self.left >= u64::from(count) * 1_000_000
    }
}

/// A budget for all, of which no address has more than its share: whoever floods in one member's name takes no more than that from the
/// others.
pub(super) struct Shares {
    all: Budget,
    of_one: Rate,
    /// Of addresses that have taken something, which are members'.
    of_address: BTreeMap<IpAddr, Budget>,
    /// When there are so many, those whose budget is full again are forgotten: a new one would be the same.
    sweep_at: usize,
}

impl Shares {
    pub(super) fn new(all: Rate, of_one: Rate, now: Time) -> Self {
        Shares { all: Budget::new(all, now), of_one, of_address: BTreeMap::new(), sweep_at: FEW }
    }

    /// Takes so many for this address, if it and all have so many and `leaving` more: what is cheap is not to keep away what is dear,
    /// which needs much at once.
    pub(super) fn take(&mut self, now: Time, address: IpAddr, count: u32, leaving: u32) -> bool {
        if self.of_address.len() >= self.sweep_at {
            let full = self.of_one.burst;
            self.of_address.retain(|_, budget| !budget.has(now, full));
            self.sweep_at = (2 * self.of_address.len()).max(FEW);
        }
        let own = self.of_address.entry(address).or_insert_with(|| Budget::new(self.of_one, now));
        let needed = count + leaving;
        own.has(now, needed) && self.all.has(now, needed) && self.all.take(now, count) && own.take(now, count)
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
    fn nobody_takes_anothers_share() {
        let (all, of_one) = (Rate { per_second: 10, burst: 100 }, Rate { per_second: 2, burst: 40 });
        let mut shares = Shares::new(all, of_one, Time(0));
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        let mut taken =
            |now: u64, number: u32| (0..100).filter(|_| shares.take(Time(now), address(number), 1, 0)).count();
        assert_eq!([1, 1, 2, 3, 4].map(|number| taken(0, number)), [40, 0, 40, 20, 0]);
        // What was refused for want of the common budget has cost nobody his own.
        assert_eq!([4, 3].map(|number| taken(4_000_000, number)), [40, 0]);
    }

    #[test]
    fn what_is_cheap_leaves_what_is_dear_needs() {
        for (all, of_one) in [(30, 100), (100, 30)] {
            let [all, of_one] = [all, of_one].map(|burst| Rate { per_second: 0, burst });
            let mut shares = Shares::new(all, of_one, Time(0));
            let address = IpAddr::from([192, 0, 2, 1]);
            assert_eq!((0..100).filter(|_| shares.take(Time(0), address, 1, 25)).count(), 5);
            assert!(shares.take(Time(0), address, 25, 0) && !shares.take(Time(0), address, 1, 0));
        }
    }

    /// But not who floods: his would be full again.
    #[test]
    fn who_is_quiet_is_forgotten() {
        let most = Rate { per_second: u32::MAX, burst: u32::MAX };
        let mut shares = Shares::new(most, Rate { per_second: 2, burst: 40 }, Time(0));
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        let mut flooded = 0;
        for number in 1..10_000 {
            // Of each after half a second the budget is full again.
            let now = Time(u64::from(number) * 200_000);
            assert!(shares.take(now, address(number), 1, 0));
            flooded += (0..3).filter(|_| shares.take(now, address(0), 1, 0)).count();
            assert!(shares.of_address.len() <= FEW, "{number}");
        }
        assert_eq!(flooded, 40 + 2 * 9_999 / 5);
    }

    #[test]
    fn fractions_add_up() {
        let mut budget = Budget::new(Rate { per_second: 3, burst: 1 }, Time(0));
        let taken = (0..10_000_000_u64).step_by(1_000).filter(|now| budget.take(Time(*now), 1)).count();
        assert!((30..=31).contains(&taken), "{taken}");
    }
}
