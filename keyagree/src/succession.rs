//! When the transaction manager is gone, and when we go ourselves.

use std::time::Duration;

use muster_wire::mike::Leave;
use muster_wire::{Destination, Hash, Instance, MemberId, Time};
use rand_core::Rng;

use crate::tree::Slot;
use crate::{Event, KeyAgreement, Refusal};

const REPEAT_LEAVE: Duration = Duration::from_millis(50);
/// After this long a leaving device goes without having been excluded.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// A claim to the succession, armed for one epoch.
pub(crate) struct Claim {
    pub(crate) at: Time,
    header: Hash,
}

/// We have said that we leave.
pub(crate) struct Departure {
    repeat_at: Time,
    deadline: Time,
}

impl Departure {
    pub(crate) fn next(&self) -> Time {
        self.repeat_at.min(self.deadline)
    }
}

/// How a transaction manager is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// Discovery says so, or it has said so itself, or it has restarted.
    Away,
    /// Its hello names another group: it may have taken us there, and the commit not have reached us.
    Elsewhere,
}

impl KeyAgreement {
    /// Leaves the group: asks to be excluded, and says [`Event::Left`] when that is done or has taken too long.
    pub fn leave(&mut self, now: Time) {
        if self.epoch.tree().len() == 1 {
            self.events.push_back(Event::Left);
            return;
        }
        self.departure = Some(Departure { repeat_at: now, deadline: now + LEAVE_WITHIN });
        self.handle_departure_timer(now);
    }

    pub(crate) fn handle_departure_timer(&mut self, now: Time) {
        let Some(departure) = &mut self.departure else { return };
        if departure.deadline <= now {
            self.departure = None;
            self.events.push_back(Event::Left);
        } else if departure.repeat_at <= now {
            departure.repeat_at = now + REPEAT_LEAVE;
            let (instance, epoch) = (self.epoch.instance(), self.epoch.number());
            self.send(Destination::Group, &Leave { instance, epoch, header: self.epoch.public.hash });
        }
    }

    pub(crate) fn handle_leave(&mut self, now: Time, sender: MemberId, named: &Leave) -> Result<(), Refusal> {
        if named.instance == self.epoch.instance() && self.epoch.tree().slot_of(&sender).is_some() {
            self.pending.leaving.insert(sender);
            self.check_manager(now);
        }
        Ok(())
    }

    /// Why the transaction manager that we follow is gone, if it is.
    pub(crate) fn manager_is_gone(&self, now: Time) -> Option<Gone> {
        if self.is_tm() {
            return None;
        }
        let tm = self.epoch.tm();
        let Some(peer) = self.roster.get(&tm) else { return Some(Gone::Away) };
        let another = peer.startup != self.epoch.instance().startup;
        if !peer.up || !peer.is_trusted() || another || self.pending.leaving.contains(&tm) {
            return Some(Gone::Away);
        }
        if self.ignores_a_refusal(now) {
            return Some(Gone::Away);
        }
        // A hello from before it took us in says nothing.
        let elsewhere =
            peer.heard_at >= self.entered_at && peer.group.is_some_and(|group| group.instance != self.epoch.instance());
        elsewhere.then_some(Gone::Elsewhere)
    }

    /// A member whose certificate is not valid has been in for two dead times: revocation lists reach everybody long
    /// before.
    fn ignores_a_refusal(&self, now: Time) -> bool {
        if !self.roster.has_refused {
            return false;
        }
        let patience = self.config.hello_interval * 8;
        let mut members = self.epoch.tree().members().filter_map(|(_, node)| self.roster.get(&node.leaf.member));
        members.any(|peer| peer.refused_since.is_some_and(|since| now.since(since.max(self.reign_since)) >= patience))
    }

    /// Arms or disarms a claim: the k-th lowest live slot waits k hello intervals.
    pub(crate) fn check_manager(&mut self, now: Time) {
        let Some(gone) = self.manager_is_gone(now) else {
            self.claim = None;
            return;
        };
        let tm = self.epoch.tm();
        let mut wait = self.config.hello_interval * self.own_turn();
        if gone == Gone::Elsewhere {
            // First the chance that it has taken us along.
            self.recover(now, tm);
            wait += self.config.hello_interval;
        }
        let header = self.epoch.public.hash;
        let at = now + wait;
        match &mut self.claim {
            Some(claim) if claim.header == header => claim.at = claim.at.min(at),
            claim => *claim = Some(Claim { at, header }),
        }
    }

    pub(crate) fn handle_claim_timer(&mut self, now: Time) {
        let Some(claim) = self.claim.take_if(|claim| claim.at <= now) else { return };
        if claim.header != self.epoch.public.hash || self.manager_is_gone(now).is_none() || self.departure.is_some() {
            return;
        }
        let tm = self.epoch.tm();
        let gone: Vec<Slot> = self
            .epoch
            .tree()
            .members()
            .filter(|(_, node)| {
                let member = &node.leaf.member;
                *member == tm || (*member != self.me() && !self.roster.is_there(&node.leaf))
            })
            .map(|(slot, _)| slot)
            .collect();
        let urgent = !self.pending.leaving.contains(&tm);
        let instance = Instance { tm: self.me(), startup: self.author.startup(), random: self.rng.next_u64() };
        self.counters.claims += 1;
        if let Err(reason) = self.commit(now, instance, gone, Vec::new(), urgent) {
            self.refuse(self.me(), reason);
        }
    }

    /// How many live members have a lower slot than we.
    fn own_turn(&self) -> u32 {
        let instance = self.epoch.instance();
        let lower = self.epoch.tree().members().take_while(|(slot, _)| *slot < self.epoch.slot).filter(|(_, node)| {
            let member = &node.leaf.member;
            *member != instance.tm
                && self
                    .roster
                    .get(member)
                    .filter(|peer| peer.up && peer.is_trusted())
                    .is_some_and(|peer| peer.group.is_none_or(|group| group.instance == instance))
        });
        lower.count() as u32
    }
}
