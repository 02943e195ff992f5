//! Fresh leaves: what a captured device reveals of the past reaches back to its last one.

use std::time::Duration;

use muster_wire::mike::{Leaf, Refresh};
use muster_wire::{Destination, MemberId, Signed, Time};

use crate::{KeyAgreement, Refusal};

/// A refresh is sent again after this, doubling.
const REPEAT: Duration = Duration::from_millis(250);
/// The transaction manager takes waiting leaves in at least so often in the time that a leaf may live.
pub(crate) const BATCHES: u32 = 8;
/// A leaf is offered when it is older than so many of these parts: then it may ride on whatever commit comes, and the
/// batch that it waits for at most still comes in time.
const OFFER_AFTER: u32 = 5;

/// The own leaf's age, and its successor.
#[derive(Default)]
pub(crate) struct Refreshing {
    /// The leaf in the tree …
    current: Option<[u8; 32]>,
    /// … is to be replaced from here on.
    due: Option<Time>,
    /// The fresh one, until it is in the tree.
    offer: Option<Offer>,
}

struct Offer {
    leaf: Signed<Leaf>,
    public: [u8; 32],
    urgent: bool,
    repeat_at: Time,
    backoff: Duration,
}

impl KeyAgreement {
    /// A new epoch: with it our leaf may be a fresh one.
    pub(crate) fn note_own_leaf(&mut self, now: Time) {
        let public = self.epoch.tree().leaf(self.epoch.slot).map(|node| node.leaf.public);
        if self.refreshing.offer.as_ref().is_some_and(|offer| Some(offer.public) == public) {
            self.refreshing.offer = None;
        }
        // Somebody has copied its key and come in first: it never will.
        if let Some(copied) = self.refreshing.offer.take_if(|offer| self.epoch.tree().has_public(&offer.public)) {
            self.offer_leaf(now, copied.urgent);
        }
        if public != self.refreshing.current {
            let part = self.config.leaf_refresh / BATCHES;
            // Not all at once.
            let due = now + part * OFFER_AFTER + self.random_below(part);
            self.refreshing.current = public;
            self.refreshing.due = Some(due);
        }
        // Whoever manages renews its leaf with each commit, and there is one before `leaf_refresh` is over.
        if self.is_tm() {
            self.refreshing.due = None;
            self.refreshing.offer = None;
        }
    }

    /// Offers a fresh leaf to the transaction manager; `urgent`: at the price of an epoch.
    pub(crate) fn offer_leaf(&mut self, now: Time, urgent: bool) {
        if self.is_tm() || self.departure.is_some() {
            return;
        }
        match &mut self.refreshing.offer {
            Some(offer) if offer.urgent || !urgent => return,
            Some(offer) => (offer.urgent, offer.repeat_at) = (true, now),
            None => {
                let Ok((node, _)) = self.own.fresh(&self.author, &mut self.secrets) else { return };
                let (leaf, public) = (node.signed, node.leaf.public);
                self.refreshing.offer = Some(Offer { leaf, public, urgent, repeat_at: now, backoff: REPEAT });
            }
        }
        self.refreshing.due = None;
        self.handle_refresh_timer(now);
    }

    pub(crate) fn handle_refresh_timer(&mut self, now: Time) {
        if self.refreshing.due.take_if(|due| *due <= now).is_some() {
            self.offer_leaf(now, false);
        }
        let most = self.config.leaf_refresh / BATCHES;
        let Some(offer) = self.refreshing.offer.as_mut().filter(|offer| offer.repeat_at <= now) else { return };
        offer.repeat_at = now + offer.backoff;
        offer.backoff = (offer.backoff * 2).min(most.max(REPEAT));
        let (leaf, urgent) = (offer.leaf.clone(), offer.urgent);
        if let Some(tm) = self.roster.get(&self.epoch.tm()) {
            let to = Destination::Unicast(tm.address);
            self.send(to, &Refresh { instance: self.epoch.instance(), urgent, leaf });
        }
    }

    pub(crate) fn next_refresh_timer(&self) -> Option<Time> {
        let repeat = self.refreshing.offer.as_ref().map(|offer| offer.repeat_at);
        [self.refreshing.due, repeat].into_iter().flatten().min()
    }

    /// A member's fresh leaf: it rides on the next commit, or on one that is made for all that wait.
    pub(crate) fn handle_refresh(&mut self, now: Time, sender: MemberId, named: &Refresh) -> Result<(), Refusal> {
        if !self.is_tm() || named.instance != self.epoch.instance() {
            return Ok(());
        }
        let slot = self.epoch.tree().slot_of(&sender).ok_or(Refusal::NotMember)?;
        let node = self.roster.check_leaf(&named.leaf)?;
        let current = self.epoch.tree().leaf(slot).ok_or(Refusal::NotMember)?;
        if node.leaf.member != sender || node.leaf.startup != current.leaf.startup {
            return Err(Refusal::Rule("a member refreshes its own leaf"));
        }
        if node.leaf.generation <= current.leaf.generation {
            // It is in the tree already; the commit has not reached its owner.
            return Ok(());
        }
        let newer = self.pending.refreshes.get(&sender).is_none_or(|old| old.leaf.generation < node.leaf.generation);
        if newer {
            self.pending.refreshes.insert(sender, node);
        }
        if named.urgent && self.roster.get_mut(&sender).is_some_and(|peer| peer.may_ask_for_key(now)) {
            self.pending.rekey = true;
        }
        Ok(())
    }
}
