//! Sizes, limits, and what is at the end of them.

use super::*;

fn places(places: impl IntoIterator<Item = u16>) -> Vec<Place> {
    places.into_iter().map(Place).collect()
}

#[test]
fn one_of_ten_thousand_goes_with_a_key_a_level() {
    let mut group = Group::new(10_000);
    assert_eq!(group.tree.depth(), 14);
    let update = group.exclude(&[Place(4_321)], 1_400);
    assert_eq!((update.wrapped_keys(), update.encode().len()), (14, 600));
    let download = group.tree.download(Place(0)).unwrap();
    assert_eq!(download.encode().len(), 4 + 15 * 48);
    group.check();
    // The place is taken again, and the tree does not grow.
    assert_eq!(group.join(1).places(), [Place(4_321)]);
    assert_eq!(group.tree.depth(), 14);
    group.check();
    // A hundred do not fit one datagram; every part does.
    let hundred = places((0..100).map(|n| n * 97 + 5));
    assert!(group.exclude(&hundred, 1_400).encode().len() > 1_400);
    group.check();
    group.join(100);
    group.check();
}

#[test]
fn a_subtree_goes_without_a_key_below() {
    let mut group = Group::new(8);
    let update = group.exclude(&places(0..4), 1_400);
    assert_eq!(update.items.iter().map(|item| item.under).collect::<Vec<_>>(), [NodeId(11)]);
    group.check();
    let mut group = Group::new(8);
    // Node 5 (places 2, 3) goes; node 1 (places 0, 1) is all that is left below node 3.
    let update = group.exclude(&places([2, 3]), 1_400);
    assert_eq!(update.items.iter().map(|item| item.under).collect::<Vec<_>>(), [NodeId(1), NodeId(11)]);
    group.check();
}

#[test]
fn the_left_child_is_derived_from_and_the_right_one_is_wrapped_for() {
    let mut group = Group::new(8);
    let update = group.exclude(&places([0, 7]), 1_400);
    // Places 1 and 6 for their parents; 5 and 9 beside those; the root comes from node 3, so 11 needs it.
    let expected = [2, 5, 9, 11, 12].map(NodeId);
    assert_eq!(update.items.iter().map(|item| item.under).collect::<Vec<_>>(), expected);
    group.check();
}

#[test]
fn all_but_one_go() {
    for last in [0, 5, 15] {
        let mut group = Group::new(16);
        let update = group.exclude(&places((0..16).filter(|place| *place != last)), 1_400);
        assert_eq!((group.tree.members(), group.tree.depth()), (1, 1));
        assert_eq!(update.wrapped_keys(), 1);
        group.check();
        group.join(20);
        group.check();
    }
}

#[test]
fn everybody_goes_and_others_come() {
    let mut group = Group::new(9);
    let update = group.exclude(&places(0..9), 1_400);
    assert_eq!((update.wrapped_keys(), group.tree.nodes().count()), (0, 0));
    assert!(update.clone().parts(1_400) == [update]);
    group.exclude(&[], 1_400);
    group.restart();
    group.join(3);
    assert_eq!(group.tree.version(), 4);
    group.check();
}

#[test]
fn the_root_alone_is_two_keys() {
    let mut group = Group::new(300);
    let before: Vec<_> = group.tree.nodes().map(|(id, node)| (id, *node.to_bytes())).collect();
    let update = group.exclude(&[], 1_400);
    assert_eq!(update.wrapped_keys(), 2);
    let after: Vec<_> = group.tree.nodes().map(|(id, node)| (id, *node.to_bytes())).collect();
    let changed: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a != b).map(|(a, _)| a.0).collect();
    assert_eq!(changed, [NodeId::root(9)]);
    group.check();
}

#[test]
fn the_tree_halves_when_it_is_too_deep() {
    let mut group = Group::new(64);
    group.exclude(&places(0..47), 1_400);
    assert_eq!((group.tree.members(), group.tree.depth()), (17, 6));
    // With 16 members depth 5 is the most; they all sit in the half that goes.
    let update = group.exclude(&[Place(63)], 1_400);
    assert_eq!((group.tree.members(), group.tree.depth(), update.moves.len()), (16, 5, 16));
    assert_eq!(update.moves[0], Move { from: Place(47), to: Place(0) });
    group.check();
    group.restart();
    group.join(30);
    group.check();
}

#[test]
fn the_largest_group() {
    let mut group = Group::new(0);
    // Without the members, of whom each would take 64 announcements.
    while group.tree.members() < MAX_MEMBERS {
        let (change, _) = group.tree.stage_joins(MAX_JOINS, &mut group.rng).unwrap();
        group.tree.commit(change).unwrap();
    }
    assert_eq!((group.tree.depth(), group.tree.nodes().count()), (MAX_DEPTH, 65_535));
    assert_eq!(group.tree.stage_joins(1, &mut group.rng).err(), Some(TreeError::Full));
    group.restart();
    let last = Place(32_767);
    let mut beside = MemberPath::new(group.tree.download(Place(32_766)).unwrap());
    let (change, update) = group.tree.stage_exclusion(&[last], &mut group.rng).unwrap();
    group.tree.commit(change).unwrap();
    beside.apply(&Update::decode(&update.encode()).unwrap()).unwrap();
    assert_eq!(beside.root().to_bytes(), group.tree.root().unwrap().to_bytes());
    assert_eq!((update.wrapped_keys(), update.encode().len()), (15, 642));
    assert_eq!(group.tree.stage_joins(1, &mut group.rng).unwrap().1.places(), [last]);
}

#[test]
fn what_cannot_be_is_refused() {
    let mut group = Group::new(3);
    let rng = &mut group.rng;
    assert_eq!(group.tree.stage_joins(0, rng).err(), Some(TreeError::Newcomers(0)));
    assert_eq!(group.tree.stage_joins(MAX_JOINS + 1, rng).err(), Some(TreeError::Newcomers(MAX_JOINS + 1)));
    for free in [3, 4, 40_000].map(Place) {
        assert_eq!(group.tree.stage_exclusion(&[Place(0), free], rng).err(), Some(TreeError::Free(free)));
        assert_eq!(group.tree.download(free).err(), Some(TreeError::Free(free)));
    }
    let first = group.tree.stage_joins(1, rng).unwrap().0;
    let second = group.tree.stage_exclusion(&[Place(0)], rng).unwrap().0;
    group.tree.commit(second).unwrap();
    assert_eq!(group.tree.commit(first).err(), Some(TreeError::Overtaken { made: 2, has: 2 }));
    // The last version.
    let nodes = group.tree.nodes().map(|(id, node)| (id, Node { version: u32::MAX, ..node.clone() }));
    let last = KeyTree::from_nodes(u32::MAX, group.tree.depth(), nodes).unwrap();
    assert_eq!(last.stage_joins(1, rng).err(), Some(TreeError::Exhausted));
    assert_eq!(last.stage_exclusion(&[], rng).err(), Some(TreeError::Exhausted));
}

#[test]
fn a_store_that_lost_something_is_no_tree() {
    let mut group = Group::new(5);
    group.exclude(&[Place(1)], 1_400);
    let (version, depth) = (group.tree.version(), group.tree.depth());
    let nodes: Vec<_> = group.tree.nodes().map(|(id, node)| (id, node.clone())).collect();
    let load = |version, depth, nodes: Vec<_>| KeyTree::from_nodes(version, depth, nodes).map(|tree| tree.members());
    assert_eq!(load(version, depth, nodes.clone()), Ok(4));
    for lost in (0..nodes.len()).filter(|at| nodes[*at].0.level() > 0) {
        let mut nodes = nodes.clone();
        let (id, _) = nodes.remove(lost);
        assert!(matches!(load(version, depth, nodes), Err(TreeError::Stored(_))), "{id}");
    }
    for wrong in [0, version + 1] {
        for at in 0..nodes.len() {
            let mut nodes = nodes.clone();
            nodes[at].1.version = wrong;
            assert!(matches!(load(version, depth, nodes), Err(TreeError::Stored(_))), "{at} {wrong}");
        }
    }
    assert!(load(version + 1, depth, nodes.clone()).is_err() && load(version - 1, depth, nodes.clone()).is_err());
    for wrong in [0, depth - 1, depth + 1, 16] {
        assert!(matches!(load(version, wrong, nodes.clone()), Err(TreeError::Stored(_))), "{wrong}");
    }
    let mut orphan = nodes.clone();
    orphan.push((NodeId(13), nodes[1].1.clone()));
    assert!(matches!(load(version, depth, orphan), Err(TreeError::Stored(_))));
    let mut twice = nodes.clone();
    twice.push(nodes[0].clone());
    assert_eq!(load(version, depth, twice), Err(TreeError::Stored("a node comes twice")));
}

#[test]
fn what_is_stored_step_by_step_is_the_tree() {
    let mut group = Group::new(0);
    let mut stored = std::collections::BTreeMap::new();
    let mut commit = |tree: &mut KeyTree, change: Change| {
        for (id, node) in change.nodes() {
            match node {
                Some(node) => drop(stored.insert(id, *node.to_bytes())),
                None => drop(stored.remove(&id)),
            }
        }
        let (version, depth) = (change.version(), change.depth());
        tree.commit(change).unwrap();
        assert_eq!((tree.version(), tree.depth()), (version, depth));
        assert!(
            stored.iter().map(|(id, bytes)| (*id, *bytes)).eq(tree.nodes().map(|(id, node)| (id, *node.to_bytes())))
        );
    };
    for newcomers in [1, 30, 5, 100] {
        let change = group.tree.stage_joins(newcomers, &mut group.rng).unwrap().0;
        commit(&mut group.tree, change);
    }
    for who in [places([3]), places(10..125), places([]), places([0, 12]), places((1..10).filter(|n| *n != 3))] {
        let change = group.tree.stage_exclusion(&who, &mut group.rng).unwrap().0;
        commit(&mut group.tree, change);
    }
}
