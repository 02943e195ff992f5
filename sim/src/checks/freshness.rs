//! Invariant 4: no (key, sender) is installed twice, and no two live SAs have one (destination, SPI).

use std::collections::{BTreeMap, BTreeSet};

use muster_wire::{Hash, MemberId, Time};

use super::{Check, Verdict};
use crate::{Entered, Fact};

/// Remembers every key that ever was in a node's data plane, over all its processes, and who ever sent under it.
#[derive(Default)]
pub struct Freshness {
    nodes: BTreeMap<usize, Plane>,
    /// Who sent under a key. Two would share its counters.
    senders: BTreeMap<[u8; 36], MemberId>,
}

#[derive(Default)]
struct Plane {
    ever: BTreeSet<[u8; 36]>,
    live: BTreeMap<Hash, Entered>,
    outbound: Option<Hash>,
    /// When the epoch that was sent under went: another takes its place in the same moment.
    mute_since: Option<Time>,
}

impl Check for Freshness {
    fn name(&self) -> &'static str {
        "freshness"
    }

    fn fact(&mut self, at: Time, fact: &Fact) -> Verdict {
        if let Some((node, _)) = self.nodes.iter().find(|(_, plane)| plane.mute_since.is_some_and(|since| since < at)) {
            return Err(format!("node {node} has retired what it sends under"));
        }
        match fact {
            Fact::Entered(entered) => self.nodes.entry(entered.node).or_default().install(entered),
            Fact::Activated { node, header } => {
                let plane = self.nodes.entry(*node).or_default();
                let entered = plane.live.get(header).ok_or(format!("node {node} sends under what it does not hold"))?;
                (plane.outbound, plane.mute_since) = (Some(*header), None);
                let own = entered.senders.iter().find(|sender| sender.slot == entered.slot);
                let own = own.ok_or(format!("node {node} has no slot in epoch {}", entered.epoch))?;
                let first = self.senders.entry(own.key).or_insert(entered.member);
                match *first == entered.member {
                    true => Ok(()),
                    false => Err(format!("{first:?} and {:?} send under one key", entered.member)),
                }
            }
            Fact::Retired { node, header } => {
                let plane = self.nodes.entry(*node).or_default();
                plane.live.remove(header).ok_or(format!("node {node} retires what it does not hold"))?;
                if plane.outbound == Some(*header) {
                    (plane.outbound, plane.mute_since) = (None, Some(at));
                }
                Ok(())
            }
            Fact::Stopped { node } => {
                let plane = self.nodes.entry(*node).or_default();
                plane.live.clear();
                (plane.outbound, plane.mute_since) = (None, None);
                Ok(())
            }
            Fact::Started { .. } | Fact::TakenOver { .. } | Fact::Recorded { .. } => Ok(()),
        }
    }
}

impl Plane {
    fn install(&mut self, entered: &Entered) -> Verdict {
        let Entered { node, epoch, .. } = entered;
        let live: BTreeSet<u32> = self.live.values().flat_map(|live| &live.senders).map(|sender| sender.spi).collect();
        for sender in &entered.senders {
            if !self.ever.insert(sender.key) {
                return Err(format!("node {node} installs a key of slot {} in epoch {epoch} again", sender.slot));
            }
            if live.contains(&sender.spi) {
                return Err(format!("node {node} has two live SAs with SPI {:#x} at epoch {epoch}", sender.spi));
            }
        }
        self.live.insert(entered.header, entered.clone());
        Ok(())
    }
}
