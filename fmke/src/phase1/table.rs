//! Exchanges that are not complete: bounded, whoever fills them.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use muster_wire::Time;
use rand_core::CryptoRng;

use crate::isakmp::Cookie;

/// Entries by the cookie that we gave them, each of which lives for the same time. When there are too many, in all or of
/// one address, one of them goes at random: whoever floods cannot choose which, and an entry that somebody else needs for
/// one round trip survives `n` insertions with probability `(1 − 1/limit)^n`.
pub(super) struct Table<T> {
    most: usize,
    most_of_one: usize,
    lifetime: Duration,
    entries: BTreeMap<Cookie, Entry<T>>,
    of_address: BTreeMap<IpAddr, Vec<Cookie>>,
    /// In the order in which they expire; holds those that went before their time, too, until then.
    order: VecDeque<(Time, Cookie)>,
    /// How many went because there was no room.
    displaced: u64,
}

struct Entry<T> {
    address: IpAddr,
    expires: Time,
    value: T,
}

impl<T> Table<T> {
    /// Limits below 1 count as 1.
    pub(super) fn new(most: usize, most_of_one: usize, lifetime: Duration) -> Self {
        let (entries, of_address, order) = (BTreeMap::new(), BTreeMap::new(), VecDeque::new());
        Table { most: most.max(1), most_of_one: most_of_one.max(1), lifetime, entries, of_address, order, displaced: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many ever had to go for others.
    pub(super) fn displaced(&self) -> u64 {
        self.displaced
    }

    pub(super) fn get(&self, cookie: Cookie) -> Option<&T> {
        self.entries.get(&cookie).map(|entry| &entry.value)
    }

    pub(super) fn get_mut(&mut self, cookie: Cookie) -> Option<&mut T> {
        self.entries.get_mut(&cookie).map(|entry| &mut entry.value)
    }

    /// Those of one address.
    pub(super) fn of(&self, address: IpAddr) -> impl Iterator<Item = &T> {
        self.of_address.get(&address).into_iter().flatten().filter_map(|cookie| self.get(*cookie))
    }

    /// Puts one in, and another out if there is no room.
    pub(super) fn insert(&mut self, now: Time, cookie: Cookie, address: IpAddr, value: T, rng: &mut impl CryptoRng) {
        self.remove(cookie);
        let drawn = rng.next_u64();
        let displaced = match self.of_address.get(&address) {
            Some(own) if own.len() >= self.most_of_one => Some(own[(drawn % own.len() as u64) as usize]),
            _ if self.entries.len() >= self.most => {
                // Cookies are as good as random to those who do not know the key.
                let after = self.entries.range(Cookie(drawn.to_be_bytes())..).chain(self.entries.iter()).next();
                after.map(|(cookie, _)| *cookie)
            }
            _ => None,
        };
        if let Some(cookie) = displaced {
            self.remove(cookie);
            self.displaced += 1;
        }
        let expires = now + self.lifetime;
        self.entries.insert(cookie, Entry { address, expires, value });
        self.of_address.entry(address).or_default().push(cookie);
        self.order.push_back((expires, cookie));
        if self.order.len() > 2 * self.most + 16 {
            self.order
                .retain(|(expires, cookie)| self.entries.get(cookie).is_some_and(|entry| entry.expires == *expires));
        }
    }

    pub(super) fn remove(&mut self, cookie: Cookie) -> Option<T> {
        let entry = self.entries.remove(&cookie)?;
        if let Some(own) = self.of_address.get_mut(&entry.address) {
            own.retain(|other| *other != cookie);
            if own.is_empty() {
                self.of_address.remove(&entry.address);
            }
        }
        Some(entry.value)
    }

    /// All of one address.
    pub(super) fn remove_of(&mut self, address: IpAddr) {
        for cookie in self.of_address.remove(&address).unwrap_or_default() {
            self.entries.remove(&cookie);
        }
    }

    /// When the first of them expires, or earlier.
    pub(super) fn expires(&self) -> Option<Time> {
        self.order.front().map(|(expires, _)| *expires)
    }

    pub(super) fn expire(&mut self, now: Time) {
        while let Some(&(expires, cookie)) = self.order.front().filter(|(expires, _)| *expires <= now) {
            self.order.pop_front();
            if self.entries.get(&cookie).is_some_and(|entry| entry.expires == expires) {
                self.remove(cookie);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use rand_chacha::ChaCha8Rng;
    use rand_core::{Rng, SeedableRng};

    use super::*;

    fn cookie(rng: &mut ChaCha8Rng) -> Cookie {
        Cookie(rng.next_u64().to_be_bytes())
    }

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from(number).into()
    }

    #[test]
    fn neither_one_address_nor_all_take_more_than_their_share() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut table = Table::new(100, 4, Duration::from_secs(1));
        for n in 0..10_000_u32 {
            let cookie = cookie(&mut rng);
            table.insert(Time(u64::from(n)), cookie, address(n % 60), n, &mut rng);
            assert!(table.len() <= 100 && table.of(address(n % 60)).count() <= 4);
            assert_eq!(table.get(cookie), Some(&n));
            assert!(table.order.len() <= 217);
            assert_eq!(table.of_address.values().map(Vec::len).sum::<usize>(), table.len());
        }
        assert_eq!(table.displaced(), 10_000 - table.len() as u64, "none expired");
        table.expire(Time(1_009_998));
        assert_eq!(table.len(), 1);
        table.expire(Time(1_009_999));
        assert_eq!((table.len(), table.of_address.len(), table.expires()), (0, 0, None));
    }

    #[test]
    fn who_goes_is_drawn() {
        let mut survived = 0;
        for seed in 0..200 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut table = Table::new(1000, 8, Duration::from_secs(1));
            let ours = cookie(&mut rng);
            table.insert(Time(0), ours, address(1), true, &mut rng);
            for _ in 0..14 {
                let theirs = cookie(&mut rng);
                table.insert(Time(0), theirs, address(1), false, &mut rng);
            }
            survived += usize::from(table.get(ours).is_some());
        }
        // 7 find room; then (7/8)^7 = 0.39 of 200.
        assert!((55..=105).contains(&survived), "{survived}");
    }
}
