//! Any history: who is in has the root's key, who was in has it for that time, and together they have no more.

use std::collections::HashSet;
use std::ops::Range;

use proptest::prelude::*;
use proptest::sample::Index;

use super::knowledge::Ledger;
use super::*;

#[derive(Debug, Clone)]
enum Step {
    Join(usize),
    Exclude(Vec<Index>),
    /// All but every n-th.
    Thin(usize),
    Rekey,
    /// The store fails.
    Fail,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..4_usize).prop_map(Step::Join),
        2 => (1..60_usize).prop_map(Step::Join),
        6 => prop::collection::vec(any::<Index>(), 1..6).prop_map(Step::Exclude),
        1 => (2..9_usize).prop_map(Step::Thin),
        2 => Just(Step::Rekey),
        1 => Just(Step::Fail),
        1 => Just(Step::Restart),
    ]
}

/// A member's time: the keys it was given, and the versions for which it was in.
struct Stay {
    place: Place,
    keys: Vec<Key>,
    versions: Range<u32>,
}

#[derive(Default)]
struct Record {
    ledger: Ledger,
    present: Vec<Stay>,
    past: Vec<Stay>,
}

impl Record {
    fn joined(&mut self, group: &Group, joins: &Joins) {
        for place in joins.places() {
            let keys = group.tree.download(*place).unwrap().nodes.into_iter().map(|node| node.key).collect();
            self.present.push(Stay { place: *place, keys, versions: joins.version()..u32::MAX });
        }
    }

    fn excluded(&mut self, places: &[Place], update: &Update) {
        let (gone, stay): (Vec<_>, _) = self.present.drain(..).partition(|stay| places.contains(&stay.place));
        self.present = stay;
        self.past.extend(gone.into_iter().map(|stay| Stay { versions: stay.versions.start..update.version(), ..stay }));
        for stay in &mut self.present {
            if let Some(moved) = update.moves.iter().find(|moved| moved.from == stay.place) {
                stay.place = moved.to;
            }
        }
    }

    /// These together know the root's key of the versions for which one of them was in, and no other.
    fn check<'a>(&self, stays: impl Iterator<Item = &'a Stay> + Clone, roots: &HashSet<u32>) {
        let known = self.ledger.versions(stays.clone().flat_map(|stay| &stay.keys));
        let entitled = roots.iter().filter(|version| stays.clone().any(|stay| stay.versions.contains(version)));
        assert_eq!(known, entitled.copied().collect());
    }
}

fn run(steps: Vec<Step>, octets: usize, pools: Vec<Vec<Index>>) {
    let mut group = Group::new(0);
    let mut record = Record::default();
    let mut roots = HashSet::new();
    for step in steps {
        let before = (group.tree.version(), group.tree.depth());
        let places = group.places();
        let excluded: Vec<Place> = match &step {
            Step::Exclude(who) if !places.is_empty() => who.iter().map(|index| *index.get(&places)).collect(),
            Step::Thin(every) => (0..).zip(&places).filter(|(n, _)| n % every != 0).map(|(_, place)| *place).collect(),
            _ => Vec::new(),
        };
        match step {
            Step::Join(newcomers) => {
                let mut rng = group.rng.clone();
                let (change, _) = group.tree.stage_joins(newcomers, &mut rng).unwrap();
                record.ledger.enter(&change, None);
                let joins = group.join(newcomers);
                record.joined(&group, &joins);
            }
            Step::Exclude(_) | Step::Thin(_) | Step::Rekey => {
                let mut rng = group.rng.clone();
                let (change, update) = group.tree.stage_exclusion(&excluded, &mut rng).unwrap();
                record.ledger.enter(&change, Some(&update));
                assert_eq!(group.exclude(&excluded, octets), update);
                record.excluded(&excluded, &update);
                let who = excluded.iter().collect::<HashSet<_>>().len();
                let alone = if who == 0 { 2 } else { 0 };
                let most = who * usize::from(before.1) + update.moves.len() * (usize::from(update.depth) + 1) + alone;
                assert!(update.wrapped_keys() <= most, "{} for {who}", update.wrapped_keys());
            }
            Step::Fail => {
                let root = group.tree.root().map(|node| node.to_bytes());
                drop(group.tree.stage_joins(3, &mut group.rng).unwrap());
                drop(group.tree.stage_exclusion(&places, &mut group.rng).unwrap());
                assert_eq!(group.tree.root().map(|node| node.to_bytes()), root);
                group.check();
                continue;
            }
            Step::Restart => {
                group.restart();
                group.check();
                continue;
            }
        }
        group.check();
        assert_eq!(group.tree.version(), before.0 + 1);
        if let Some(root) = group.tree.root() {
            assert_eq!(root.version(), group.tree.version());
            roots.insert(root.version());
        }
    }
    record.check(record.past.iter(), &roots);
    record.check(record.present.iter(), &roots);
    for stay in record.past.iter().chain(&record.present) {
        record.check([stay].into_iter(), &roots);
    }
    let all: Vec<_> = record.past.iter().chain(&record.present).collect();
    for pool in pools.iter().filter(|_| !all.is_empty()) {
        record.check(pool.iter().map(|index| *index.get(&all)), &roots);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn nobody_knows_more_than_its_time(
        steps in prop::collection::vec(step(), 1..40),
        octets in 0..3_000_usize,
        pools in prop::collection::vec(prop::collection::vec(any::<Index>(), 2..8), 20),
    ) {
        run(steps, octets, pools);
    }
}
