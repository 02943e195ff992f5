//! The lesser group joins the greater: joining, cold start, healing and coming back are all this.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use muster_wire::mike::{Commit, EpochHeader, Handover, HandoverRefused, MAX_TAGS, MessageKind};
use muster_wire::{Destination, Hash, Instance, List, MemberId, Signed, Time, codec};

use crate::commit::handover_leaves;
use crate::epoch::{MAX_EPOCH, MAX_EPOCH_JOINED, MAX_HANDOVER_LEAP, Public};
use crate::message::Message;
use crate::secret::hash;
use crate::tree::Slot;
use crate::{KeyAgreement, Refusal};

/// The hand-over is said again after this, doubling.
const RETRY: Duration = Duration::from_millis(50);
/// A snapshot is asked for again after this, doubling: one that does not know us yet, as is common at the first
/// meeting, drops the request.
const FETCH_AGAIN: Duration = Duration::from_millis(5);
const MAX_FETCHES: u32 = 8;
/// When it is here and waits for a certificate, it is asked for again only after this: it grows old.
const CERTIFICATES_COME: Duration = Duration::from_millis(250);
/// A transaction manager that did not take us in, or shut us out, is left alone this long, then twice as long …
const LEAVE_ALONE: Duration = Duration::from_millis(25);
/// … up to this; one that says that it refuses, for a hello interval at most.
pub(crate) const LEAVE_ALONE_MOST: Duration = Duration::from_secs(25);

/// A greater group that we, a transaction manager, are bringing our members into.
pub(crate) struct Join {
    pub(crate) target: Instance,
    /// Its epoch, checked whole: all its members are devices that we trust.
    observed: Option<Public>,
    stage: Stage,
}

enum Stage {
    /// Its snapshot was asked for so often, the last time then, and is to be asked for again.
    Fetching { asked: Time, at: Time, tries: u32 },
    /// It has our hand-over.
    Offered { message: Message, at: Time, backoff: Duration, expires: Time },
}

impl Join {
    /// Its snapshot has been asked for.
    pub(crate) fn is_fetching(&self) -> bool {
        matches!(self.stage, Stage::Fetching { .. })
    }

    /// The hand-over is on its way: what our group is must not change now.
    pub(crate) fn is_offered(&self) -> bool {
        matches!(self.stage, Stage::Offered { .. })
    }
}

/// How great a group is, by its size and then its transaction manager's lower id.
type Greatness = (usize, std::cmp::Reverse<MemberId>);

impl KeyAgreement {
    /// Begins to join the greatest group in sight, if it is greater than ours.
    pub(crate) fn consider_joining(&mut self, now: Time) {
        if self.join.is_some() || self.transaction.is_some() {
            return;
        }
        if self.epoch.number() >= MAX_EPOCH_JOINED {
            // Not even who is alone would follow.
            if let Err(reason) = self.come_down(now) {
                self.refuse(self.me(), reason);
            }
            return;
        }
        let Some(target) = self.greatest(now) else { return };
        self.join = Some(Join { target, observed: None, stage: Stage::Fetching { asked: now, at: now, tries: 0 } });
        self.handle_join_timers(now);
    }

    fn greatest(&self, now: Time) -> Option<Instance> {
        let mut groups: BTreeMap<Instance, (usize, usize)> = BTreeMap::new();
        for (_, peer) in self.roster.neighbours() {
            let Some(group) = peer.group else { continue };
            let (heard, claimed) = groups.entry(group.instance).or_default();
            *heard += 1;
            *claimed = (*claimed).max(group.size as usize);
        }
        let own = (self.epoch.tree().len(), std::cmp::Reverse(self.me()));
        groups
            .into_iter()
            // A reign of ours that is not this one is a thing of the past.
            .filter(|(instance, _)| instance.tm != self.me() && self.manages(&instance.tm, instance))
            .filter(|(instance, _)| self.left_alone.is_over(now, &instance.tm))
            // A size is worth no more than the verified hellos that name the group.
            .map(|(instance, (heard, claimed))| ((heard.min(claimed), std::cmp::Reverse(instance.tm)), instance))
            .filter(|(greatness, _): &(Greatness, Instance)| *greatness > own)
            .max_by_key(|(greatness, _)| *greatness)
            .map(|(_, instance)| instance)
    }

    /// The transaction manager is a neighbour and says itself that this is its reign.
    fn manages(&self, tm: &MemberId, instance: &Instance) -> bool {
        self.roster.get(tm).is_some_and(|peer| {
            peer.up
                && peer.is_trusted()
                && peer.startup == instance.startup
                && peer.group.is_some_and(|group| group.instance == *instance)
        })
    }

    /// The snapshot of the group that is being joined, checked.
    pub(crate) fn observe(&mut self, now: Time, public: Public) {
        let Some(join) = &mut self.join else { return };
        if join.observed.as_ref().is_none_or(|seen| seen.header.epoch < public.header.epoch) {
            join.observed = Some(public);
        }
        if !join.is_offered()
            && let Err(reason) = self.offer(now)
        {
            self.give_up_join(now);
            self.refuse(self.me(), reason);
        }
    }

    /// A snapshot from `sender` is here and waits for certificates: to ask for it again would bring the same. Counted
    /// from when it was asked for: who sends it again and again does not hold us up.
    pub(crate) fn observe_later(&mut self, sender: &MemberId) {
        if let Some(Join { target, stage: Stage::Fetching { asked, at, .. }, .. }) = &mut self.join
            && target.tm == *sender
        {
            *at = (*at).max(*asked + CERTIFICATES_COME);
        }
    }

    /// Hands our members over.
    fn offer(&mut self, now: Time) -> Result<(), Refusal> {
        const LARGE: Refusal = Refusal::Rule("larger than a hand-over may be");
        let Some(Join { target, observed: Some(observed), .. }) = &self.join else { return Ok(()) };
        let (target, theirs) = (*target, observed.header.epoch);
        if self.epoch.number() > theirs.saturating_add(MAX_HANDOVER_LEAP) {
            return self.come_down(now);
        }
        let Some(to) = self.roster.get(&target.tm).map(|tm| tm.address) else { return Ok(()) };
        // A fresh key of our own: the greater group's secrets rest on nothing that the lesser's did.
        let (own, _) = self.own.fresh(&self.author, &mut self.secrets)?;
        let me = self.me();
        let leaves = self
            .epoch
            .tree()
            .members()
            .map(|(_, node)| if node.leaf.member == me { own.signed.clone() } else { node.signed.clone() });
        let tags = self.tags(now).take(MAX_TAGS).collect();
        let handover = Handover {
            group: self.author.group(),
            from: self.epoch.instance(),
            epoch: self.epoch.number(),
            header: self.epoch.public.hash,
            target,
            tags: List::new(tags).ok_or(LARGE)?,
            leaves: List::new(leaves.collect()).ok_or(LARGE)?,
        };
        let signed = self.author.key().sign_value(&handover)?;
        let message = Message::new(MessageKind::Handover, self.epoch.public.hash, codec::encode(&signed)?);
        self.sent.remember(message.clone());
        self.send_message(Destination::Unicast(to), &message, None);
        if let Some(join) = &mut self.join {
            let expires = now + self.config.hello_interval * 2;
            join.stage = Stage::Offered { message, at: now + RETRY, backoff: RETRY, expires };
        }
        Ok(())
    }

    /// Somebody has driven our numbers so far up that no honest group takes us in any more, or nobody can come in here:
    /// who is alone begins again as after a start, and a group parts first, since no member follows to a lower number.
    fn come_down(&mut self, now: Time) -> Result<(), Refusal> {
        let others: Vec<Slot> =
            self.epoch.tree().members().map(|(slot, _)| slot).filter(|slot| *slot != self.epoch.slot).collect();
        if !others.is_empty() {
            return self.commit(now, self.epoch.instance(), others, Vec::new(), true);
        }
        self.start_alone(now, 1);
        // That numbers rise has kept us from going back into an epoch of the past. Without the leaves we cannot.
        self.own.forget_all_but_current();
        Ok(())
    }

    /// A lesser group wants in. Says whether that is done with: what is refused or comes too soon is looked at again
    /// when it is repeated.
    pub(crate) fn handle_handover(
        &mut self,
        now: Time,
        sender: MemberId,
        signed: Signed<Handover>,
    ) -> Result<bool, Refusal> {
        let handover = signed.decode()?;
        if handover.group != self.author.group() || handover.from.tm != sender || handover.epoch >= MAX_EPOCH {
            return Err(Refusal::Rule("a hand-over is its sender's own"));
        }
        // Less than a header may leap: whoever misses the commit that takes it in must still follow later ones.
        if handover.epoch > self.epoch.number().saturating_add(MAX_HANDOVER_LEAP) {
            return Err(Refusal::Rule("an epoch too far ahead"));
        }
        if self.epoch.public.handovers.contains(&signed) || self.pending.handovers.contains(&signed) {
            return Ok(true);
        }
        // What costs nothing comes first: no leaf's signature is looked at for who could not come in anyway.
        let leaves = handover.leaves.iter().map(Signed::decode).collect::<Result<Vec<_>, _>>()?;
        let members: BTreeSet<MemberId> = leaves.iter().map(|leaf| leaf.member).collect();
        if !members.contains(&sender) || members.len() < leaves.len() {
            return Err(Refusal::Rule("a transaction manager hands over its members, itself among them, once each"));
        }
        if handover.target != self.epoch.instance() || !self.may_take_in(now, &sender, leaves.len()) {
            self.refuse_handover(&sender, &signed);
            return Ok(false);
        }
        // A stranger's certificate may be about to come.
        members.iter().try_for_each(|member| self.roster.leaf_key(member).map(drop))?;
        // Who is not heard here would be excluded at once, join again, and so on without end.
        if !leaves.iter().all(|leaf| self.roster.is_there(leaf)) {
            self.refuse_handover(&sender, &signed);
            return Ok(false);
        }
        let Some(peer) = self.roster.get_mut(&sender) else { return Ok(false) };
        if peer.group.is_none_or(|group| group.instance != handover.from) {
            // The hello that tells of this group is on its way, or the hand-over is late and its sender elsewhere.
            return Ok(false);
        }
        // Many leaves are much work, and in the end an epoch.
        if !peer.may_ask_for_key(now) {
            self.refuse_handover(&sender, &signed);
            return Ok(false);
        }
        self.roster.key(&sender)?.verify(&signed)?;
        handover_leaves(&handover, &mut self.roster)?;
        self.pending.handovers.retain(|waiting| waiting.decode().is_ok_and(|h| h.from.tm != sender));
        self.pending.handovers.push_back(signed);
        self.consider(now);
        Ok(true)
    }

    /// Whether a group of so many under `tm` may come in, as far as that hangs on us.
    fn may_take_in(&self, now: Time, tm: &MemberId, size: usize) -> bool {
        let own: Greatness = (self.epoch.tree().len(), std::cmp::Reverse(self.me()));
        let greater = own > (size, std::cmp::Reverse(*tm));
        let offered = self.join.as_ref().is_some_and(Join::is_offered);
        // Who joined and never acknowledged costs two epochs each time.
        let welcome = self.sluggish.is_over(now, tm);
        self.is_tm() && self.departure.is_none() && greater && !offered && welcome
    }

    fn refuse_handover(&mut self, sender: &MemberId, signed: &Signed<Handover>) {
        if let Some(peer) = self.roster.get(sender) {
            let to = Destination::Unicast(peer.address);
            self.send(to, &HandoverRefused { handover: handover_hash(signed) });
        }
    }

    pub(crate) fn handle_handover_refused(
        &mut self,
        now: Time,
        sender: &MemberId,
        refused: &HandoverRefused,
    ) -> Result<(), Refusal> {
        let Some(Join { target, stage: Stage::Offered { message, .. }, .. }) = &self.join else { return Ok(()) };
        let signed: Signed<Handover> = codec::decode(&message.bytes)?;
        if target.tm == *sender && handover_hash(&signed) == refused.handover {
            // What it refuses for (it does not hear all of us yet, it was joining another) is over by the next hellos.
            let most = self.config.hello_interval;
            self.join = None;
            self.leave_alone(now, *sender, most);
        }
        Ok(())
    }

    /// A commit of the group that is being joined, or that our transaction manager handed us over to.
    pub(crate) fn handle_joining_commit(
        &mut self,
        now: Time,
        commit: &Commit,
        header: &EpochHeader,
    ) -> Result<(), Refusal> {
        let base = self
            .join
            .as_ref()
            .and_then(|join| join.observed.as_ref())
            .filter(|observed| observed.hash == header.parent)
            .map(|observed| observed.tree.clone());
        let from = self.epoch.instance();
        let takes_us = commit
            .handovers
            .iter()
            .any(|signed| signed.decode().is_ok_and(|h| h.from == from && h.target == header.instance));
        let Some(base) = base else {
            // The multicast snapshot that follows a commit of many may be on its way.
            if takes_us {
                self.recover(now, header.instance.tm);
            }
            return Ok(());
        };
        let public = self.apply(&base, commit, header)?;
        if public.took_over(&self.epoch.public, &self.roster) {
            return self.take(now, public);
        }
        self.observe(now, public);
        Ok(())
    }

    pub(crate) fn handle_join_timers(&mut self, now: Time) {
        self.left_alone.expire(now);
        let Some(join) = &mut self.join else { return };
        match &mut join.stage {
            Stage::Fetching { asked, at, tries } if *at <= now => {
                *tries += 1;
                *asked = now;
                *at = now + FETCH_AGAIN * 2_u32.pow(*tries - 1);
                let (tm, target, tries) = (join.target.tm, join.target, *tries);
                if tries > MAX_FETCHES || !self.manages(&tm, &target) {
                    self.give_up_join(now);
                } else {
                    self.request_snapshot(&tm);
                }
            }
            Stage::Offered { expires, .. } if *expires <= now => self.give_up_join(now),
            Stage::Offered { message, at, backoff, .. } if *at <= now => {
                *backoff *= 2;
                *at = now + *backoff;
                let message = message.clone();
                if let Some(tm) = self.roster.get(&join.target.tm) {
                    let to = Destination::Unicast(tm.address);
                    self.send_message(to, &message, None);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn next_join_timer(&self) -> Option<Time> {
        match self.join.as_ref().map(|join| &join.stage) {
            Some(Stage::Fetching { at, .. }) => Some(*at),
            Some(Stage::Offered { at, expires, .. }) => Some((*at).min(*expires)),
            None => self.left_alone.next(),
        }
    }

    /// Not this one now; perhaps another, or later.
    pub(crate) fn give_up_join(&mut self, now: Time) {
        if let Some(join) = self.join.take() {
            self.leave_alone(now, join.target.tm, LEAVE_ALONE_MOST);
        }
    }

    pub(crate) fn leave_alone(&mut self, now: Time, tm: MemberId, most: Duration) {
        let wait = self.left_alone.next_wait(now, &tm, LEAVE_ALONE, most);
        let until = now + wait + self.random_below(wait);
        self.left_alone.leave_alone(now, tm, wait, until);
    }
}

fn handover_hash(signed: &Signed<Handover>) -> Hash {
    hash("hand-over", &[signed.signed_bytes()])
}
