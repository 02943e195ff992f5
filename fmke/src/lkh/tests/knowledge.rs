//! What somebody can compute: from keys that it holds, by all that was ever multicast and all one-way functions.

use std::collections::{HashMap, HashSet};

use super::*;

/// All keys that there ever were, and which leads to which.
#[derive(Default)]
pub(super) struct Ledger {
    /// A number for each key.
    numbers: HashMap<[u8; 32], usize>,
    /// The keys that a node ever had.
    past: HashMap<NodeId, Vec<(usize, Key)>>,
    /// Who holds the first computes the second.
    leads: HashMap<usize, Vec<usize>>,
    /// The root's key in each version.
    roots: HashMap<u32, usize>,
}

impl Ledger {
    /// Enters a change and what was multicast for it. Every key that it sets is new, but those of members that moved.
    pub(super) fn enter(&mut self, change: &Change, update: Option<&Update>) {
        let version = change.version();
        let set: Vec<_> = change.nodes().filter_map(|(id, node)| Some((id, node?.key().clone()))).collect();
        let moved: HashSet<_> = change.moves().iter().filter_map(|moved| moved.to.leaf()).collect();
        for (id, key) in &set {
            let next = self.numbers.len();
            let number = *self.numbers.entry(*key.bytes()).or_insert(next);
            assert_eq!(number != next, moved.contains(id), "node {id} in version {version}");
            self.past.entry(*id).or_default().push((number, key.clone()));
            if *id == NodeId::root(change.depth()) {
                self.roots.insert(version, number);
            }
        }
        for (id, _) in set.iter().filter(|(id, _)| id.level() > 0) {
            self.connect(*id, *id, |key| Some(key.derive_joined(*id, version)));
            for child in id.children() {
                self.connect(child, *id, |key| Some(key.derive_parent(*id, version)));
                if let Some(item) = update.and_then(|update| update.item(child)) {
                    self.connect(child, *id, |key| key.unwrap(child, version, &item.wrapped));
                }
            }
        }
    }

    /// Whatever key `from` ever had: does it give one of `to`?
    fn connect(&mut self, from: NodeId, to: NodeId, compute: impl Fn(&Key) -> Option<Key>) {
        for (number, key) in self.past.get(&from).into_iter().flatten() {
            if let Some(found) = compute(key).and_then(|key| self.numbers.get(key.bytes())) {
                assert!(self.past[&to].iter().any(|(number, _)| number == found));
                self.leads.entry(*number).or_default().push(*found);
            }
        }
    }

    /// The versions whose root keys follow from these keys.
    pub(super) fn versions<'a>(&self, keys: impl IntoIterator<Item = &'a Key>) -> HashSet<u32> {
        let mut left: Vec<_> = keys.into_iter().map(|key| self.numbers[key.bytes()]).collect();
        let mut known: HashSet<_> = left.iter().copied().collect();
        while let Some(number) = left.pop() {
            left.extend(self.leads.get(&number).into_iter().flatten().filter(|next| known.insert(**next)));
        }
        self.roots.iter().filter(|(_, number)| known.contains(number)).map(|(version, _)| *version).collect()
    }
}
