//! Invariant 3, the other half: a device captured now reveals no epoch before its last leaf change.

use std::collections::BTreeMap;

use muster_keyagree::TreeView;
use muster_wire::{Hash, MemberId, Time};

use super::knowledge::{Held, path, reaches_root};
use super::{Check, Verdict};
use crate::{Fact, View};

/// At the end every device is captured, with its leaf and the secrets above.
#[derive(Default)]
pub struct Capture {
    epochs: BTreeMap<Hash, (u64, TreeView)>,
    now: BTreeMap<MemberId, TreeView>,
}

impl Check for Capture {
    fn name(&self) -> &'static str {
        "capture"
    }

    fn fact(&mut self, _at: Time, fact: &Fact) -> Verdict {
        if let Fact::Entered(entered) = fact
            && let Some(tree) = &entered.tree
        {
            self.epochs.entry(entered.header).or_insert_with(|| (entered.epoch, tree.clone()));
        }
        Ok(())
    }

    fn look(&mut self, view: &View) -> Verdict {
        self.now = view.nodes.iter().map(|node| (node.member, node.tree.clone())).collect();
        Ok(())
    }

    fn finish(&mut self) -> Verdict {
        for (member, tree) in &self.now {
            let leaf = leaf_of(tree, member);
            let held: Held = path(tree, member).into_iter().collect();
            for (epoch, past) in self.epochs.values().filter(|(_, past)| leaf_of(past, member) != leaf) {
                if reaches_root(past, &held) {
                    return Err(format!("{member:?}, captured, reveals epoch {epoch}, of an older leaf of its"));
                }
            }
        }
        Ok(())
    }
}

fn leaf_of(tree: &TreeView, member: &MemberId) -> Option<[u8; 32]> {
    tree.leaves.iter().find(|(_, who, _)| who == member).map(|(_, _, key)| *key)
}
