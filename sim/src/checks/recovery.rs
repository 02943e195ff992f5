//! Invariant 5: the latest snapshot and the own leaf secret always suffice.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_wire::{Hash, MemberId, Time};

use super::{Check, Verdict};
use crate::node::HELLO;
use crate::{NodeView, View};

/// A member that missed commits of its reign is back among the others soon after it hears them again.
#[derive(Default)]
pub struct Recovery {
    /// Since when, and behind which header.
    behind: BTreeMap<usize, (Time, Hash)>,
}

/// A hello shows that something was missed, and the next if that one is lost; the rest are round trips.
const WITHIN: Duration = Duration::from_millis(2 * HELLO.as_millis() as u64 + 500);
/// With heavy loss a snapshot takes some requests and repairs.
const WITHIN_LOSS: Duration = Duration::from_secs(6);

impl Check for Recovery {
    fn name(&self) -> &'static str {
        "recovery"
    }

    fn look(&mut self, view: &View) -> Verdict {
        let Some(calm_since) = view.calm_since else {
            self.behind.clear();
            return Ok(());
        };
        let within = if view.loss == 0 { WITHIN } else { WITHIN_LOSS };
        for node in &view.nodes {
            if !is_behind(node, view) {
                self.behind.remove(&node.node);
                continue;
            }
            let (since, header) = *self.behind.entry(node.node).or_insert((view.at, node.header));
            if header != node.header {
                self.behind.insert(node.node, (view.at, node.header));
            } else if view.at.since(since.max(calm_since)) > within {
                return Err(format!("node {} has been stuck in epoch {} for {within:?}", node.node, node.epoch));
            }
        }
        Ok(())
    }
}

/// Its transaction manager's reign goes on, with it as a member, and it is not in the newest epoch, though it has the
/// certificates of all that are.
fn is_behind(node: &NodeView, view: &View) -> bool {
    view.nodes.iter().any(|tm| {
        let reigns = tm.instance == node.instance && tm.member == tm.instance.tm;
        let knows = |member: &MemberId| *member == node.member || node.neighbours.contains(member);
        reigns && tm.epoch > node.epoch && tm.members.contains(&node.member) && tm.members.iter().all(knows)
    })
}
