//! Invariants 2 and 3, as far as they show without breaking cryptography: only members ever hold a key.

use std::collections::{BTreeMap, BTreeSet};

use muster_wire::{Hash, MemberId, Time};

use super::{Check, Verdict};
use crate::Fact;

/// Who was excluded never holds a later key, who joined never held an earlier one: who holds a key is a member of its
/// epoch, and every epoch has a key of its own.
///
/// Mute nodes make this more than a formality: excluded, they go on hearing everything.
#[derive(Default)]
pub struct Secrecy {
    keys: BTreeMap<String, Hash>,
    holders: BTreeMap<String, BTreeSet<MemberId>>,
}

impl Check for Secrecy {
    fn name(&self) -> &'static str {
        "secrecy"
    }

    fn fact(&mut self, _at: Time, fact: &Fact) -> Verdict {
        let Fact::Entered(entered) = fact else { return Ok(()) };
        let holders = self.holders.entry(entered.fingerprint.clone()).or_default();
        holders.insert(entered.member);
        let members: BTreeSet<MemberId> = entered.senders.iter().map(|sender| sender.member).collect();
        if let Some(outsider) = holders.iter().find(|holder| !members.contains(holder)) {
            return Err(format!("{outsider:?} holds the key of epoch {} and is no member", entered.epoch));
        }
        let header = self.keys.entry(entered.fingerprint.clone()).or_insert(entered.header);
        if *header != entered.header {
            return Err(format!("epoch {} of node {} has the key of another epoch", entered.epoch, entered.node));
        }
        Ok(())
    }
}
