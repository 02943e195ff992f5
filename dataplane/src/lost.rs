//! Prefixes that were learned and lost, which stay unreachable for the router itself: how many, and whose.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use muster_wire::MemberId;

/// So many of all; when there are more, whose are the most makes room.
const MAX_LOST: usize = 4096;
/// So many of one router: four times what it may announce at a time.
const MAX_LOST_OF_ONE: usize = 256;

/// The oldest first. What is learned again meanwhile stays in it and does not count, so that it is still the first one's when
/// somebody else has announced and withdrawn it.
pub(crate) struct Lost(Vec<Entry>);

struct Entry {
    prefix: IpNet,
    /// The router that lost it; `None`: an earlier daemon's.
    owner: Option<MemberId>,
    /// It is unreachable now: it does not lie in what is learned.
    stands: bool,
}

/// What changes for the kernel. First that which is unreachable again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) again: BTreeSet<IpNet>,
    pub(crate) gone: BTreeSet<IpNet>,
}

impl Lost {
    /// What an earlier daemon has left.
    pub(crate) fn left(prefixes: impl IntoIterator<Item = IpNet>) -> Self {
        Self(prefixes.into_iter().map(|prefix| Entry { prefix, owner: None, stands: true }).collect())
    }

    /// All, with those that are learned again.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = &IpNet> {
        self.0.iter().map(|entry| &entry.prefix)
    }

    /// One more: unreachable already, or as soon as the other router that has it has lost it, too.
    pub(crate) fn add(&mut self, prefix: IpNet, owner: MemberId) {
        match self.0.iter_mut().find(|entry| entry.prefix == prefix) {
            Some(entry) => entry.stands = true,
            None => self.0.push(Entry { prefix, owner: Some(owner), stands: true }),
        }
    }

    /// The kernel has it unreachable again.
    pub(crate) fn stands_again(&mut self, prefix: &IpNet) {
        self.0.iter_mut().filter(|entry| entry.prefix == *prefix).for_each(|entry| entry.stands = true);
    }

    /// What lies in something `learned` makes way as long as that is there, and what is too much goes. A router
    /// that announces and withdraws without end pushes nobody else's out. `table` says where a prefix stands: some packets pass over
    /// one of the tables, and what is lost in the other holds for those, too.
    pub(crate) fn settle(&mut self, learned: &BTreeMap<IpNet, MemberId>, table: impl Fn(&IpNet) -> u32) -> Change {
        let is_covered =
            |lost: &IpNet| learned.keys().any(|prefix| prefix.contains(lost) && table(prefix) == table(lost));
        let mut change = Change::default();
        for entry in self.0.iter_mut().filter(|entry| !learned.contains_key(&entry.prefix)) {
            match is_covered(&entry.prefix) {
                true if entry.stands => {
                    entry.stands = false;
                    change.gone.insert(entry.prefix);
                }
                false if !entry.stands => _ = change.again.insert(entry.prefix),
                _ => {}
            }
        }
        while let Some(place) = self.surplus(learned) {
            let Entry { prefix, stands, .. } = self.0.remove(place);
            change.again.remove(&prefix);
            if stands {
                change.gone.insert(prefix);
            }
        }
        change
    }

    /// The place of one that is too much.
    fn surplus(&self, learned: &BTreeMap<IpNet, MemberId>) -> Option<usize> {
        let counts_in = |entry: &&Entry| !learned.contains_key(&entry.prefix);
        let mut counts: BTreeMap<Option<MemberId>, usize> = BTreeMap::new();
        self.0.iter().filter(counts_in).for_each(|entry| *counts.entry(entry.owner).or_default() += 1);
        let greedy = counts.iter().find(|(owner, count)| owner.is_some() && **count > MAX_LOST_OF_ONE);
        let most = || {
            let too_many = counts.values().sum::<usize>() > MAX_LOST;
            counts.iter().max_by_key(|(_, count)| **count).filter(|_| too_many)
        };
        let (owner, _) = greedy.or_else(most)?;
        self.0.iter().position(|entry| entry.owner == *owner && counts_in(&entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HONEST: MemberId = MemberId([1; 32]);
    const HOSTILE: MemberId = MemberId([2; 32]);

    fn net(nth: usize) -> IpNet {
        let [.., a, b] = (nth as u64).to_be_bytes();
        format!("10.{a}.{b}.0/24").parse().unwrap()
    }

    #[test]
    fn who_loses_without_end_pushes_out_only_its_own() {
        let mut lost = Lost::left([net(60_000)]);
        (0..3).for_each(|nth| lost.add(net(50_000 + nth), HONEST));
        let mut gone = BTreeSet::new();
        for nth in 0..10_000 {
            lost.add(net(nth), HOSTILE);
            if nth % 64 == 0 {
                gone.extend(lost.settle(&BTreeMap::new(), |_| 0).gone);
            }
        }
        gone.extend(lost.settle(&BTreeMap::new(), |_| 0).gone);
        assert_eq!(gone, (0..10_000 - MAX_LOST_OF_ONE).map(net).collect(), "the oldest of its own");
        assert_eq!(lost.0.len(), 1 + 3 + MAX_LOST_OF_ONE);
    }

    #[test]
    fn there_are_never_too_many_of_all() {
        let mut lost = Lost::left((0..MAX_LOST).map(net));
        for member in 0..20 {
            (0..10).for_each(|nth| lost.add(net(10_000 + 10 * usize::from(member) + nth), MemberId([member; 32])));
        }
        let gone = lost.settle(&BTreeMap::new(), |_| 0).gone;
        assert_eq!(gone, (0..200).map(net).collect(), "of those that are the most");
        assert_eq!(lost.0.len(), MAX_LOST);
    }

    #[test]
    fn what_lies_in_something_learned_makes_way_and_comes_back() {
        let change = |again: &[IpNet], gone: &[IpNet]| Change {
            again: again.iter().copied().collect(),
            gone: gone.iter().copied().collect(),
        };
        let mut lost = Lost::left([net(1), net(2), net(0x101)]);
        let learned = BTreeMap::from([(net(1), HONEST), ("10.1.0.0/16".parse().unwrap(), HOSTILE)]);
        assert_eq!(lost.settle(&learned, |_| 0), change(&[], &[net(0x101)]));
        assert_eq!(lost.settle(&learned, |_| 0), Change::default());
        // What lies in something of the other table stays.
        lost.add(net(0x102), HONEST);
        assert_eq!(lost.settle(&learned, |prefix| prefix.prefix_len().into()), change(&[net(0x101)], &[]));
        lost.stands_again(&net(0x101));
        assert_eq!(lost.settle(&learned, |_| 0), change(&[], &[net(0x101), net(0x102)]));
        // Whoever announced the wider one has withdrawn it, and goes on so with others.
        (0..1000).for_each(|nth| lost.add(net(0x1000 + nth), HOSTILE));
        let after = lost.settle(&BTreeMap::new(), |_| 0);
        assert_eq!(after.again, BTreeSet::from([net(0x101), net(0x102)]));
        assert!(lost.settle(&BTreeMap::new(), |_| 0).again.contains(&net(0x101)), "until it is done");
        after.again.iter().for_each(|prefix| lost.stands_again(prefix));
        assert_eq!(lost.settle(&BTreeMap::new(), |_| 0), Change::default());
    }

    #[test]
    fn what_is_announced_in_anothers_place_stays_the_others() {
        let mut lost = Lost::left([]);
        lost.add(net(0), HONEST);
        assert_eq!(lost.settle(&BTreeMap::from([(net(0), HOSTILE)]), |_| 0), Change::default());
        (0..1000).for_each(|nth| lost.add(net(nth), HOSTILE));
        assert!(!lost.settle(&BTreeMap::new(), |_| 0).gone.contains(&net(0)));
    }
}
