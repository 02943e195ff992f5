//! What renews the keys that somebody knew who is to know them no longer.

use std::collections::BTreeSet;

use rand_core::CryptoRng;

use super::key::Key;
use super::node::{NodeId, Place};
use super::staging::{Change, Staging};
use super::tree::{KeyTree, TreeError};
use super::update::{Item, Move, Update};

impl KeyTree {
    /// Excludes the members of these places at once; with none, renews the root alone. Changes nothing yet.
    ///
    /// At most [`KeyTree::depth`] keys are wrapped for each who is excluded, 2 for a root alone, and one more than the
    /// depth for each member that moves. Members move only when the tree halves, after half of them have gone.
    pub fn stage_exclusion(&self, excluded: &[Place], rng: &mut impl CryptoRng) -> Result<(Change, Update), TreeError> {
        let excluded = excluded.iter().map(|place| self.leaf(*place)).collect::<Result<BTreeSet<_>, _>>()?;
        let mut staging = Staging::new(self, self.depth().min(deepest(self.members() - excluded.len())))?;
        for leaf in excluded {
            staging.clear(leaf);
            if leaf.is_within(staging.change.depth) {
                staging.mark_above(leaf);
            }
        }
        self.halve(&mut staging);
        let mut items = Vec::new();
        for id in staging.stale() {
            renew(&mut staging, id, &mut items, rng);
        }
        items.sort_unstable_by_key(|item: &Item| item.under);
        let Change { version, depth, ref moves, .. } = staging.change;
        let update = Update { version, depth, scope: NodeId::root(depth), moves: moves.clone(), items };
        Ok((staging.change, update))
    }

    fn leaf(&self, place: Place) -> Result<NodeId, TreeError> {
        place.leaf().filter(|leaf| self.node(*leaf).is_some()).ok_or(TreeError::Free(place))
    }

    /// Clears the half that goes, if one does, and moves those who sit there to the lowest free places.
    fn halve(&self, staging: &mut Staging<'_>) {
        let depth = staging.change.depth;
        if depth == self.depth() {
            return;
        }
        let mut free = Vec::new();
        let mut homeless = Vec::new();
        for (place, leaf) in self.places().filter_map(|(place, _)| Some((place, place.leaf()?))) {
            match staging.get(leaf) {
                None if leaf.is_within(depth) => free.push((place, leaf)),
                Some(node) if !leaf.is_within(depth) => homeless.push((place, node.key.clone())),
                _ => {}
            }
        }
        for (id, _) in self.nodes().filter(|(id, _)| !id.is_within(depth)) {
            staging.clear(id);
        }
        for ((from, key), (to, leaf)) in homeless.into_iter().zip(free) {
            staging.set(leaf, key);
            staging.mark_above(leaf);
            staging.change.moves.push(Move { from, to });
        }
    }
}

/// Gives a node its new key, and wraps it for the children that do not derive it.
fn renew(staging: &mut Staging<'_>, id: NodeId, items: &mut Vec<Item>, rng: &mut impl CryptoRng) {
    let version = staging.change.version;
    let children = id.children().into_iter().filter_map(|child| Some((child, staging.get(child)?)));
    let children: Vec<_> = children.collect();
    if children.is_empty() {
        return staging.clear(id);
    }
    let source = children.iter().find(|(child, _)| staging.is_stale(*child));
    let key = source.map_or_else(|| Key::random(rng), |(_, node)| node.key.derive_parent(id, version));
    for (under, node) in children.iter().filter(|(child, _)| source.is_none_or(|(source, _)| source != child)) {
        items.push(Item { under: *under, wrapped: node.key.wrap(*under, version, &key) });
    }
    staging.set(id, key);
}

/// How deep a tree of so many members may be.
fn deepest(members: usize) -> u8 {
    let log = usize::BITS - members.saturating_sub(1).leading_zeros();
    log as u8 + 1
}

#[cfg(test)]
mod tests {
    use super::deepest;

    #[test]
    fn the_promise_about_the_depth() {
        for (members, depth) in [(0, 1), (1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (8, 4), (9, 5), (10_000, 15)] {
            assert_eq!(deepest(members), depth, "{members}");
        }
    }
}
