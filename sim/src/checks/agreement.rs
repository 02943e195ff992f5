//! Invariant 1: same group, instance, epoch and tag ⇒ same key.

use std::collections::{BTreeMap, BTreeSet};

use muster_wire::{Hash, Instance, MemberId, Time};

use super::{Check, Verdict};
use crate::{Entered, Fact, Sender};

/// All nodes that enter an epoch hold the same key and the same SAs; an epoch of a reign has one header, unless its
/// transaction manager is in hostile hands.
#[derive(Default)]
pub struct Agreement {
    hostile: BTreeSet<MemberId>,
    epochs: BTreeMap<Hash, (String, Vec<Sender>)>,
    headers: BTreeMap<(Instance, u64), Hash>,
}

impl Check for Agreement {
    fn name(&self) -> &'static str {
        "agreement"
    }

    fn fact(&mut self, _at: Time, fact: &Fact) -> Verdict {
        if let Fact::TakenOver { member, .. } = fact {
            self.hostile.insert(*member);
        }
        let Fact::Entered(entered) = fact else { return Ok(()) };
        let Entered { node, instance, epoch, header, fingerprint, senders, .. } = &**entered;
        let known = self.epochs.entry(*header).or_insert_with(|| (fingerprint.clone(), senders.clone()));
        if (&known.0, &known.1) != (fingerprint, senders) {
            return Err(format!("node {node} holds another key of epoch {epoch}: {fingerprint}, not {}", known.0));
        }
        let named = self.headers.entry((*instance, *epoch)).or_insert(*header);
        if named != header && !self.hostile.contains(&instance.tm) {
            return Err(format!("epoch {epoch} of {instance:?} has two headers: {named:?} and, at {node}, {header:?}"));
        }
        Ok(())
    }
}
