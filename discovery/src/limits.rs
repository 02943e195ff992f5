//! Token buckets: what strangers can make us do, an address and altogether.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use muster_wire::Time;

/// So much at once, so much a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) burst: u32,
    pub(crate) per_second: u32,
}

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    rate: Rate,
    /// When it is full again.
    full_at: Time,
}

impl Bucket {
    /// Full.
    pub(crate) fn new(rate: Rate, now: Time) -> Self {
        Self { rate, full_at: now }
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, now: Time) -> bool {
        let token = Duration::from_secs(1) / self.rate.per_second;
        let full_at = self.full_at.max(now) + token;
        if full_at.since(now) > token * self.rate.burst {
            return false;
        }
        self.full_at = full_at;
        true
    }
}

/// A bucket for all, and one for each address.
#[derive(Debug)]
pub(crate) struct Limiter {
    all: Bucket,
    each: Rate,
    addresses: BTreeMap<IpAddr, Bucket>,
}

impl Limiter {
    /// Addresses remembered.
    const MAX_ADDRESSES: usize = 1024;

    pub(crate) fn new(all: Rate, each: Rate, now: Time) -> Self {
        Self { all: Bucket::new(all, now), each, addresses: BTreeMap::new() }
    }

    /// Takes a token of the address and one of all.
    pub(crate) fn take(&mut self, address: IpAddr, now: Time) -> bool {
        // A flood from so many addresses is forged: forget them. The bucket for all holds it.
        if self.addresses.len() >= Self::MAX_ADDRESSES && !self.addresses.contains_key(&address) {
            self.addresses.clear();
        }
        let each = self.each;
        self.addresses.entry(address).or_insert_with(|| Bucket::new(each, now)).take(now) && self.all.take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_000_000_000);

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate() {
        let mut bucket = Bucket::new(Rate { burst: 4, per_second: 10 }, NOW);
        assert_eq!((0..100).filter(|_| bucket.take(NOW)).count(), 4);
        assert!(!bucket.take(NOW + Duration::from_millis(99)));
        assert!(bucket.take(NOW + Duration::from_millis(100)));
        assert!(!bucket.take(NOW + Duration::from_millis(101)));
        let later = NOW + Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| bucket.take(later)).count(), 4, "never more than the burst");
    }

    #[test]
    fn a_flood_from_one_address_leaves_the_others_theirs() {
        let mut limiter = Limiter::new(Rate { burst: 100, per_second: 100 }, Rate { burst: 4, per_second: 1 }, NOW);
        let flooder = "192.0.2.1".parse().unwrap();
        assert_eq!((0..1000).filter(|_| limiter.take(flooder, NOW)).count(), 4);
        assert!(limiter.take("192.0.2.2".parse().unwrap(), NOW));
        let spread = (0..100_000_u32).filter(|n| limiter.take(IpAddr::from(n.to_be_bytes()), NOW)).count();
        assert_eq!(spread, 95);
        assert!(limiter.addresses.len() <= Limiter::MAX_ADDRESSES);
    }
}
