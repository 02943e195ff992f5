//! What became of chains seen before.

use std::collections::{BTreeMap, VecDeque};

use crate::{CertError, Identity};

/// Twice the members of the largest group.
const MAX_GOOD: usize = 2048;
/// A sender of junk costs one validation a chain, and memory for these only.
const MAX_BAD: usize = 256;

type Digest = [u8; 32];

/// Results of validation, by the chain's digest. Good ones and bad ones have room of their own, so that junk pushes
/// out no good one.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    good: Bounded<Identity>,
    bad: Bounded<CertError>,
}

impl Cache {
    pub(crate) fn new() -> Cache {
        Cache { good: Bounded::new(MAX_GOOD), bad: Bounded::new(MAX_BAD) }
    }

    /// The result for this chain, if it still holds at `now_unix`.
    pub(crate) fn get(&self, chain: &Digest, now_unix: u64) -> Option<Result<Identity, CertError>> {
        let good = self.good.map.get(chain).filter(|who| (who.not_before..=who.not_after).contains(&now_unix));
        let bad = || self.bad.map.get(chain).filter(|why| still_holds(why, now_unix));
        good.cloned().map(Ok).or_else(|| bad().cloned().map(Err))
    }

    pub(crate) fn insert(&mut self, chain: Digest, result: Result<Identity, CertError>) {
        match result {
            Ok(identity) => self.good.insert(chain, identity),
            Err(error) => self.bad.insert(chain, error),
        }
    }
}

fn still_holds(why: &CertError, now_unix: u64) -> bool {
    match why {
        CertError::NotYetValid { not_before } => now_unix < *not_before,
        CertError::Expired { not_after } => now_unix > *not_after,
        _ => true,
    }
}

/// A map that forgets its oldest entry when it is full.
#[derive(Clone, Debug)]
struct Bounded<V> {
    map: BTreeMap<Digest, V>,
    order: VecDeque<Digest>,
    limit: usize,
}

impl<V> Bounded<V> {
    fn new(limit: usize) -> Self {
        Self { map: BTreeMap::new(), order: VecDeque::new(), limit }
    }

    fn insert(&mut self, key: Digest, value: V) {
        if self.map.insert(key, value).is_some() {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.map.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn junk_is_bounded() {
        let mut cache = Cache::new();
        for n in 0..1000_u32 {
            let mut chain = [0; 32];
            chain[..4].copy_from_slice(&n.to_be_bytes());
            cache.insert(chain, Err(CertError::UnknownIssuer));
            cache.insert(chain, Err(CertError::UnknownIssuer));
        }
        assert_eq!((cache.bad.map.len(), cache.bad.order.len()), (MAX_BAD, MAX_BAD));
        assert_eq!(cache.get(&[0; 32], 0), None);
    }

    #[test]
    fn refusals_by_time_end_with_the_time() {
        let mut cache = Cache::new();
        cache.insert([1; 32], Err(CertError::NotYetValid { not_before: 100 }));
        cache.insert([2; 32], Err(CertError::Expired { not_after: 100 }));
        assert!(cache.get(&[1; 32], 99).is_some() && cache.get(&[1; 32], 100).is_none());
        assert!(cache.get(&[2; 32], 101).is_some() && cache.get(&[2; 32], 100).is_none());
    }
}
