//! Invariant 6: once the network stays connected, all end in one group, and then it is quiet.

use std::time::Duration;

use muster_wire::{Hash, Time};

use super::{Check, Verdict};
use crate::View;

/// Allows the nodes some time after the last fault, then wants them in one group, and a quiet time.
#[derive(Default)]
pub struct Convergence {
    since: Option<Time>,
    /// In which epoch, since when, and how much had been sent by then.
    one: Option<(Hash, Time, u64)>,
    /// Of those that change their leaves in the quiet: since when they have not been in one epoch.
    apart: Option<Time>,
    quiet: bool,
}

/// The dead time and a handful of hello intervals; lost hellos and hand-overs take their time.
const WITHIN: Duration = Duration::from_secs(9);
const WITHIN_LOSS: Duration = Duration::from_secs(20);
/// No epoch changes in this time, …
const QUIET: Duration = Duration::from_secs(8);
/// … after the last exchanges, which loss draws out, …
const SETTLING: Duration = Duration::from_secs(3);
/// … (where leaves are replaced it does, and all follow within this) …
const FOLLOW: Duration = Duration::from_secs(1);
const FOLLOW_LOSS: Duration = Duration::from_secs(6);
/// … and each node sends its hello a second, and with loss its questions who is still there.
const MESSAGES: (u64, u64) = (2, 12);

impl Check for Convergence {
    fn name(&self) -> &'static str {
        "convergence"
    }

    fn look(&mut self, view: &View) -> Verdict {
        if !view.over {
            return Ok(());
        }
        let since = *self.since.get_or_insert(view.at);
        let state = one_group(view);
        match (self.one, state) {
            (None, Ok(header)) => self.one = Some((header, view.at, view.sent)),
            (None, Err(why)) => {
                let within = if view.loss == 0 { WITHIN } else { WITHIN_LOSS };
                if view.at.since(since) > within {
                    return Err(format!("not one group within {within:?}: {why}"));
                }
            }
            (Some((before, at, _)), Ok(now)) if now == before => {
                self.apart = None;
                if view.at.since(at) > SETTLING + QUIET {
                    self.quiet = true;
                } else if view.at.since(at) <= SETTLING {
                    self.one = Some((now, at, view.sent));
                } else {
                    return self.rate(view);
                }
            }
            (Some((_, at, sent)), Ok(now)) if view.refreshes => {
                self.apart = None;
                self.one = Some((now, at, sent));
                self.quiet |= view.at.since(at) > SETTLING + QUIET;
            }
            // Fresh leaves may come more often than it takes to settle: that they do is no late event.
            (Some((_, at, _)), Err(why)) if view.refreshes => {
                let apart = *self.apart.get_or_insert(view.at);
                let within = if view.loss == 0 { FOLLOW } else { FOLLOW_LOSS };
                if view.at.since(apart) > within {
                    if view.at.since(at) > SETTLING + within {
                        return Err(format!("a quiet group falls apart: {why}"));
                    }
                    (self.one, self.apart) = (None, None);
                }
            }
            (Some((_, at, _)), now) if view.at.since(at) <= SETTLING => {
                // A late event: a further epoch may follow, once more within the time.
                self.one = now.ok().map(|header| (header, view.at, view.sent));
            }
            (Some(_), Ok(_)) => return Err("a quiet group makes another epoch".into()),
            (Some(_), Err(why)) => return Err(format!("a quiet group falls apart: {why}")),
        }
        Ok(())
    }

    fn is_content(&self) -> bool {
        self.quiet
    }
}

impl Convergence {
    fn rate(&self, view: &View) -> Verdict {
        let Some((_, at, before)) = self.one else { return Ok(()) };
        let nodes = view.nodes.len() as u64;
        let per_second = match (view.refreshes, view.loss) {
            (true, _) => MESSAGES.1 * 2 * nodes,
            (false, 0) => MESSAGES.0 * nodes,
            (false, _) => MESSAGES.1 * nodes,
        };
        let quiet = view.at.since(at + SETTLING);
        // At least what a second allows, for hellos that fall together.
        let most = per_second * (quiet.as_secs() + 1);
        match view.sent - before {
            sent if sent > most => Err(format!("{sent} datagrams in {quiet:?} of quiet, {nodes} nodes")),
            _ => Ok(()),
        }
    }
}

/// Whether all running nodes are in one group, which header that has, or what is missing.
fn one_group(view: &View) -> Result<Hash, String> {
    let Some(first) = view.nodes.first() else { return Ok(Hash::NONE) };
    let strays = view
        .nodes
        .iter()
        .filter(|node| node.header != first.header || !node.active || node.members.len() != view.nodes.len());
    let strays: Vec<String> = strays
        .map(|node| {
            let (number, epoch, members) = (node.node, node.epoch, node.members.len());
            let neighbours = node.neighbours.len();
            format!("node {number} (epoch {epoch}, {members} members, active {}, hears {neighbours})", node.active)
        })
        .collect();
    if strays.is_empty() { Ok(first.header) } else { Err(strays.join(", ")) }
}
