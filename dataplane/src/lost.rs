//! Prefixes that were learned and lost, which stay unreachable for the router itself: how many, and whose.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use muster_wire::MemberId;

/// So many of all; when there are more, whose are the most makes room.
const MAX_LOST: usize = 4096;
/// So many of one router: four times what it may announce at a time.
const MAX_LOST_OF_ONE: usize = 256;

/// The oldest first, with the router that lost them; `None`: an earlier daemon's. What is learned again meanwhile stays in
/// it and does not count, so that it is still the first one's when somebody else has announced and withdrawn it.
pub(crate) struct Lost(Vec<(IpNet, Option<MemberId>)>);

impl Lost {
    /// What an earlier daemon has left.
    pub(crate) fn left(prefixes: impl IntoIterator<Item = IpNet>) -> Self {
        Self(prefixes.into_iter().map(|prefix| (prefix, None)).collect())
    }

    /// All, with those that are learned again.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = &IpNet> {
        self.0.iter().map(|(lost, _)| lost)
    }

    /// One more.
    pub(crate) fn add(&mut self, prefix: IpNet, owner: MemberId) {
        if !self.0.iter().any(|(lost, _)| *lost == prefix) {
            self.0.push((prefix, Some(owner)));
        }
    }

    /// Takes out, and gives, what need not or cannot stay: what lies in something `learned`, and what is too much. A router
    /// that announces and withdraws without end pushes nobody else's out. `table` says where a prefix stands: some packets pass over
    /// one of the tables, and what is lost in the other holds for those, too.
    pub(crate) fn make_room(
        &mut self,
        learned: &BTreeMap<IpNet, MemberId>,
        table: impl Fn(&IpNet) -> u32,
    ) -> BTreeSet<IpNet> {
        let is_covered =
            |lost: &IpNet| learned.keys().any(|prefix| prefix.contains(lost) && table(prefix) == table(lost));
        let lost = self.0.iter().map(|(lost, _)| *lost).filter(|lost| !learned.contains_key(lost));
        let mut out: BTreeSet<IpNet> = lost.filter(is_covered).collect();
        self.0.retain(|(lost, _)| !out.contains(lost));
        while let Some(place) = self.surplus(learned) {
            out.insert(self.0.remove(place).0);
        }
        out
    }

    /// The place of one that is too much.
    fn surplus(&self, learned: &BTreeMap<IpNet, MemberId>) -> Option<usize> {
        let counts_in = |lost: &IpNet| !learned.contains_key(lost);
        let mut counts: BTreeMap<Option<MemberId>, usize> = BTreeMap::new();
        let owners = self.0.iter().filter(|(lost, _)| counts_in(lost)).map(|(_, owner)| *owner);
        owners.for_each(|owner| *counts.entry(owner).or_default() += 1);
        let greedy = counts.iter().find(|(owner, count)| owner.is_some() && **count > MAX_LOST_OF_ONE);
        let most = || {
            let too_many = counts.values().sum::<usize>() > MAX_LOST;
            counts.iter().max_by_key(|(_, count)| **count).filter(|_| too_many)
        };
        let (owner, _) = greedy.or_else(most)?;
        self.0.iter().position(|(lost, of)| of == owner && counts_in(lost))
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
                gone.extend(lost.make_room(&BTreeMap::new(), |_| 0));
            }
        }
        gone.extend(lost.make_room(&BTreeMap::new(), |_| 0));
        assert_eq!(gone, (0..10_000 - MAX_LOST_OF_ONE).map(net).collect(), "the oldest of its own");
        assert_eq!(lost.0.len(), 1 + 3 + MAX_LOST_OF_ONE);
    }

    #[test]
    fn there_are_never_too_many_of_all() {
        let mut lost = Lost::left((0..MAX_LOST).map(net));
        for member in 0..20 {
            (0..10).for_each(|nth| lost.add(net(10_000 + 10 * usize::from(member) + nth), MemberId([member; 32])));
        }
        let gone = lost.make_room(&BTreeMap::new(), |_| 0);
        assert_eq!(gone, (0..200).map(net).collect(), "of those that are the most");
        assert_eq!(lost.0.len(), MAX_LOST);
    }

    #[test]
    fn what_is_learned_is_not_lost_and_what_lies_in_it_goes() {
        let mut lost = Lost::left([net(1), net(2), net(0x101)]);
        let learned = BTreeMap::from([(net(1), HONEST), ("10.1.0.0/16".parse().unwrap(), HONEST)]);
        assert_eq!(lost.make_room(&learned, |_| 0), BTreeSet::from([net(0x101)]));
        assert_eq!(lost.make_room(&learned, |_| 0), BTreeSet::new());
        // What lies in something of the other table stays.
        lost.add(net(0x102), HONEST);
        assert_eq!(lost.make_room(&learned, |prefix| prefix.prefix_len().into()), BTreeSet::new());
        assert_eq!(lost.make_room(&learned, |_| 0), BTreeSet::from([net(0x102)]));
    }

    #[test]
    fn what_is_announced_in_anothers_place_stays_the_others() {
        let mut lost = Lost::left([]);
        lost.add(net(0), HONEST);
        assert!(lost.make_room(&BTreeMap::from([(net(0), HOSTILE)]), |_| 0).is_empty());
        (0..1000).for_each(|nth| lost.add(net(nth), HOSTILE));
        assert!(!lost.make_room(&BTreeMap::new(), |_| 0).contains(&net(0)));
    }
}
