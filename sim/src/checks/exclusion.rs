//! Invariants 2 and 3: who is not in an epoch, does not know its key.

use std::collections::BTreeMap;

use std::collections::BTreeSet;

use muster_keyagree::TreeView;
use muster_wire::{Hash, MemberId, Time};

use super::knowledge::{Held, path, reaches_root};
use super::{Check, Verdict};
use crate::{Fact, View};

/// All devices outside an epoch, together, with everything that they ever held, before it and after it, do not come to
/// its root secret.
#[derive(Default)]
pub struct Exclusion {
    held: BTreeMap<MemberId, Held>,
    epochs: BTreeMap<Hash, (u64, TreeView)>,
}

impl Check for Exclusion {
    fn name(&self) -> &'static str {
        "exclusion"
    }

    fn fact(&mut self, _at: Time, fact: &Fact) -> Verdict {
        let Fact::Entered(entered) = fact else { return Ok(()) };
        let Some(tree) = &entered.tree else { return Ok(()) };
        self.held.entry(entered.member).or_default().extend(path(tree, &entered.member));
        self.epochs.entry(entered.header).or_insert_with(|| (entered.epoch, tree.clone()));
        Ok(())
    }

    /// Parents that were filled after the commit.
    fn look(&mut self, view: &View) -> Verdict {
        for node in &view.nodes {
            self.held.entry(node.member).or_default().extend(path(&node.tree, &node.member));
        }
        Ok(())
    }

    fn finish(&mut self) -> Verdict {
        let mut outside: BTreeMap<BTreeSet<MemberId>, Held> = BTreeMap::new();
        for (epoch, tree) in self.epochs.values() {
            let members: BTreeSet<MemberId> = tree.leaves.iter().map(|(_, member, _)| *member).collect();
            let held = outside.entry(members).or_insert_with_key(|members| {
                let outsiders = self.held.iter().filter(|(member, _)| !members.contains(member));
                outsiders.flat_map(|(_, held)| held.iter().copied()).collect()
            });
            if reaches_root(tree, held) {
                return Err(format!("those outside epoch {epoch} come to its root together"));
            }
        }
        Ok(())
    }
}
