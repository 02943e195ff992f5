//! Invariant 7: the tree is no larger than its highest occupied slot needs; after quiet no fillable blank parent is left.

use std::time::Duration;

use muster_wire::{Hash, Time};

use super::knowledge::fillable;
use super::{Check, Verdict};
use crate::View;

/// Looks at the tree of every node, and for blank parents at that of the transaction manager, whom all tell.
#[derive(Default)]
pub struct Shape {
    /// All are in this epoch, since when.
    quiet: Option<(Hash, Time)>,
}

/// Members take turns at filling, …
const FILLED_WITHIN: Duration = Duration::from_secs(4);
/// … and the transaction manager asks for what it missed: nine times within this.
const FILLED_WITHIN_LOSS: Duration = Duration::from_secs(12);

impl Check for Shape {
    fn name(&self) -> &'static str {
        "shape"
    }

    fn look(&mut self, view: &View) -> Verdict {
        for node in &view.nodes {
            let highest = node.tree.leaves.last().map_or(0, |(slot, ..)| *slot);
            if node.tree.slots != (highest + 1).next_power_of_two() {
                return Err(format!("node {} has {} slots for slot {highest}", node.node, node.tree.slots));
            }
        }
        self.filled(view)
    }
}

impl Shape {
    fn filled(&mut self, view: &View) -> Verdict {
        let Some(first) = view.nodes.first() else { return Ok(()) };
        let together = view.nodes.iter().all(|node| node.header == first.header);
        if view.calm_since.is_none() || !together || first.members.len() != view.nodes.len() {
            self.quiet = None;
            return Ok(());
        }
        let since = match self.quiet {
            Some((header, since)) if header == first.header => since,
            _ => self.quiet.insert((first.header, view.at)).1,
        };
        let within = if view.loss == 0 { FILLED_WITHIN } else { FILLED_WITHIN_LOSS };
        let since = since.max(view.calm_since.unwrap_or(since));
        let Some(tm) = view.nodes.iter().find(|node| node.member == node.instance.tm) else { return Ok(()) };
        match fillable(&tm.tree) {
            blank if !blank.is_empty() && view.at.since(since) > within => {
                Err(format!("parents {blank:?} of epoch {} are blank after {within:?} of quiet", tm.epoch))
            }
            _ => Ok(()),
        }
    }
}
