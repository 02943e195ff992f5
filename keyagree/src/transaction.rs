//! The transaction manager's work: one commit, whatever it changes, until all have it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use muster_certs::Author;
use muster_wire::mike::{
    Ack, Activate, Commit, CommitBody, EpochHeader, Handover, MAX_HANDOVERS, MessageKind, RekeyRequest,
};
use muster_wire::{Destination, Hash, Instance, List, MemberId, Signed, Time, codec};
use rand_core::Rng;

use crate::commit::{Changes, KeyedPath, body_hash, handover_leaves, handovers_hash, key_path};
use crate::epoch::{Epoch, MAX_EPOCH, Public, SUITE, confirmation, context, group_key, header_hash, transcript};
use crate::message::Message;
use crate::own::OwnLeaves;
use crate::refresh::BATCHES;
use crate::secret::{Secret, SecretSource};
use crate::tree::{LeafNode, Slot, Tree};
use crate::{Config, KeyAgreement, Refusal};

/// The first repetition of a commit to who has not acknowledged, and so long after the last acknowledgement: while they
/// come, the others are at work. Then doubling.
const REPEAT: Duration = Duration::from_millis(20);
/// And so much longer for each member: what they all do takes the longer, and what they all are sent costs the more.
const REPEAT_EACH: Duration = Duration::from_micros(500);
/// A member whose hellos name another group is removed after this many of its intervals.
const ASTRAY_INTERVALS: u32 = 3;
/// Who joins and does not acknowledge waits so many times as long in the end.
const MAX_SLUGGISH: u32 = 1024;

/// After this the manager says ACTIVATE of an epoch that excludes somebody, acknowledged or not. Not at once: what is sent under a
/// key is lost to who does not hold it yet, and to notice that somebody is gone took longer.
pub(crate) const EXCLUSION_DELAY: Duration = Duration::from_millis(200);

/// A member's wish for a new key is said again after this, doubling up to the other.
const SAY_AGAIN: Duration = Duration::from_millis(250);

const LONGEST_SILENCE: Duration = Duration::from_secs(8);

/// That of a member that is not the manager; any new epoch fulfils it.
pub(crate) struct Wish {
    pub(crate) say_at: Time,
    backoff: Duration,
}

/// What waits for the next commit.
#[derive(Default)]
pub(crate) struct Pending {
    /// Members that said that they leave.
    pub(crate) leaving: BTreeSet<MemberId>,
    /// Groups that join.
    pub(crate) handovers: VecDeque<Signed<Handover>>,
    /// Somebody wants a new key.
    pub(crate) rekey: bool,
    /// Members' fresh leaves.
    pub(crate) refreshes: BTreeMap<MemberId, LeafNode>,
    /// Members that let the last transaction run into its end: none waits for them until they acknowledge again.
    unresponsive: BTreeSet<MemberId>,
}

impl Pending {
    /// What concerned the reign that has ended.
    pub(crate) fn forget_reign(&mut self) {
        *self = Pending::default();
    }
}

/// A commit that not all have acknowledged.
pub(crate) struct Transaction {
    message: Message,
    awaiting: BTreeSet<MemberId>,
    /// Those of them that have just handed themselves over. Whom they brought along may know nothing of it.
    newcomers: BTreeSet<MemberId>,
    repeat_at: Time,
    backoff: Duration,
    deadline: Time,
    /// When it is sent under if it excludes somebody, acknowledged or not.
    activate_at: Option<Time>,
}

/// Who goes, and whether that cannot wait.
struct Removals {
    slots: Vec<Slot>,
    urgent: bool,
}

impl KeyAgreement {
    /// Asks for a new group key, until there is one.
    pub fn rekey(&mut self, now: Time) {
        if self.is_tm() {
            self.pending.rekey = true;
            self.consider(now);
        } else {
            self.wish = Some(Wish { say_at: now, backoff: SAY_AGAIN });
            self.handle_wish_timer(now);
        }
    }

    pub(crate) fn handle_wish_timer(&mut self, now: Time) {
        let Some(wish) = self.wish.as_mut().filter(|wish| wish.say_at <= now) else { return };
        wish.say_at = now + wish.backoff;
        wish.backoff = (wish.backoff * 2).min(LONGEST_SILENCE);
        if let Some(tm) = self.roster.get(&self.epoch.tm()) {
            let to = Destination::Unicast(tm.address);
            let (instance, epoch) = (self.epoch.instance(), self.epoch.number());
            self.send(to, &RekeyRequest { instance, epoch, header: self.epoch.public.hash });
        }
    }

    pub(crate) fn consider_transaction(&mut self, now: Time) {
        let removals = self.removals(now);
        let old = now >= self.entered_at + self.key_lives_for();
        let refresh = self.refresh_batch_at().is_some_and(|at| at <= now);
        let asked = !self.pending.handovers.is_empty() || self.pending.rekey || refresh;
        let wanted = !removals.slots.is_empty() || asked || old;
        let batching = self.last_commit.is_some_and(|last| now < last + self.config.batch_window);
        if !wanted || (self.is_busy() && !removals.urgent) || batching {
            return;
        }
        let handovers = self.take_handovers();
        let instance = self.epoch.instance();
        if let Err(reason) = self.commit(now, instance, removals.slots, handovers, removals.urgent) {
            // Nothing has changed; what was asked for is dropped, its askers will ask again.
            self.pending.forget_reign();
            self.last_commit = Some(now);
            self.refuse(self.me(), reason);
        }
    }

    /// Makes a commit, enters its epoch and sends it.
    pub(crate) fn commit(
        &mut self,
        now: Time,
        instance: Instance,
        removed: Vec<Slot>,
        handovers: Vec<Signed<Handover>>,
        urgent: bool,
    ) -> Result<(), Refusal> {
        let (mut joined, mut authors) = (Vec::new(), BTreeSet::new());
        let mut number = self.epoch.number();
        let mut tags: BTreeSet<u16> = self.tags(now).collect();
        for signed in &handovers {
            let handover = signed.decode()?;
            authors.insert(handover.from.tm);
            joined.extend(handover_leaves(&handover, &mut self.roster)?);
            number = number.max(handover.epoch);
            tags.extend(handover.tags.iter());
        }
        if number + 1 >= MAX_EPOCH {
            return Err(Refusal::Rule("the epochs are used up"));
        }
        let newcomers: Vec<MemberId> = joined.iter().map(|node| node.leaf.member).collect();
        let (leaf, secret) = self.own.fresh(&self.author, &mut self.secrets)?;
        let refreshed = self.take_refreshes(&removed);
        let settled = Time(now.0.saturating_sub((self.config.activation_delay / 2).as_micros() as u64));
        let blanked: Vec<Slot> = (removed.iter().copied())
            .chain(refreshed.iter().filter_map(|node| self.epoch.tree().slot_of(&node.leaf.member)))
            .chain([self.epoch.slot])
            .collect();
        let fills = self.filling.settled(settled, &blanked);
        let changes = Changes { fills, removed, refreshed, joined, leaf };
        let (tree, slot) = changes.apply(&self.epoch.public.tree, &self.roster)?;
        let draft = Draft { instance, number: number + 1, parent: self.epoch.public.hash, handovers, tags };
        let (epoch, commit) = draft.finish(
            &self.config.name,
            tree,
            slot,
            &secret,
            &changes,
            &self.author,
            (&mut self.secrets, &mut self.rng),
        )?;
        let message = Message::new(MessageKind::Commit, epoch.public.hash, codec::encode(&commit)?);

        let retire_after = if urgent { self.config.activation_delay } else { self.config.deactivation_delay };
        let own = urgent.then(|| now + self.config.activation_delay.min(EXCLUSION_DELAY));
        // Who was excluded before is not to read on because others are now.
        let excludes_since = self.transaction.as_ref().and_then(|before| before.activate_at);
        self.enter(now, epoch, retire_after);
        // A hand-over that is out spoke of the epoch before.
        self.join = None;
        self.counters.commits += 1;
        self.counters.joins += newcomers.len() as u64;
        self.counters.refreshes += changes.refreshed.len() as u64;
        // Their hellos name their old group until the commit reaches them.
        newcomers.iter().for_each(|member| self.roster.astray_from(member, now));
        self.last_commit = Some(now);
        self.pending.rekey = false;
        self.remember_handled(message.hash);
        self.sent.remember(message.clone());
        self.send_message(Destination::Group, &message, None);
        if newcomers.len() > 1 {
            let snapshot = self.snapshot_message()?;
            self.send_message(Destination::Group, &snapshot, None);
        }
        let backoff = REPEAT + REPEAT_EACH * self.epoch.tree().len() as u32;
        let members: BTreeSet<MemberId> = self.members().map(|(_, member)| member).collect();
        self.pending.leaving.retain(|member| members.contains(member));
        self.pending.unresponsive.retain(|member| members.contains(member));
        let awaiting = members.into_iter().filter(|m| !self.pending.unresponsive.contains(m)).collect();
        self.transaction = Some(Transaction {
            message,
            awaiting,
            newcomers: authors,
            repeat_at: now + backoff,
            backoff,
            deadline: now + self.config.activation_delay,
            activate_at: [excludes_since, own].into_iter().flatten().min(),
        });
        self.finish_if_acknowledged(now);
        Ok(())
    }

    pub(crate) fn handle_ack(&mut self, now: Time, sender: MemberId, ack: &Ack) -> Result<(), Refusal> {
        if self.is_tm() && ack.header == self.epoch.public.hash {
            self.acknowledged(now, sender);
        }
        Ok(())
    }

    /// A member, or the transaction manager itself, receives under the current epoch.
    pub(crate) fn acknowledged(&mut self, now: Time, member: MemberId) {
        self.pending.unresponsive.remove(&member);
        self.sluggish.forgive(&member);
        // It is with us, though its last hello was older: the next one may be lost, or long in coming.
        self.roster.not_astray(&member);
        if let Some(transaction) = &mut self.transaction
            && transaction.awaiting.remove(&member)
        {
            transaction.repeat_at = transaction.repeat_at.max(now + transaction.backoff);
        }
        self.finish_if_acknowledged(now);
    }

    pub(crate) fn handle_rekey_request(
        &mut self,
        now: Time,
        sender: MemberId,
        named: &RekeyRequest,
    ) -> Result<(), Refusal> {
        // It names the epoch that it wants replaced: what comes late or twice does nothing.
        if self.is_tm()
            && named.header == self.epoch.public.hash
            && self.epoch.tree().slot_of(&sender).is_some()
            && !self.pending.rekey
        {
            self.pending.rekey = self.roster.get_mut(&sender).is_some_and(|peer| peer.may_ask_for_key(now));
        }
        Ok(())
    }

    pub(crate) fn handle_transaction_timers(&mut self, now: Time) {
        let in_hellos = self.acknowledges_in_hellos();
        if self.transaction.as_mut().is_some_and(|one| one.activate_at.take_if(|at| *at <= now).is_some()) {
            self.announce_active(now);
        }
        let Some(transaction) = &mut self.transaction else { return };
        if transaction.deadline <= now {
            let silent = std::mem::take(&mut transaction.awaiting);
            // Who joins and never acknowledges waits a doubling time before it is taken in again.
            for member in silent.intersection(&transaction.newcomers) {
                let first = self.config.hello_interval * ASTRAY_INTERVALS;
                let wait = self.sluggish.next_wait(now, member, first, first * MAX_SLUGGISH);
                self.sluggish.leave_alone(now, *member, wait, now + wait);
            }
            self.pending.unresponsive.extend(silent);
            self.finish_if_acknowledged(now);
        } else if transaction.repeat_at <= now {
            transaction.backoff *= 2;
            transaction.repeat_at = now + transaction.backoff;
            let message = transaction.message.clone();
            let addresses = transaction.awaiting.iter().filter_map(|member| Some(self.roster.get(member)?.address));
            let to: Vec<Destination> = match in_hellos {
                true => vec![Destination::Group],
                false => addresses.map(Destination::Unicast).collect(),
            };
            // Who has the first chunk asks for the rest.
            to.into_iter().for_each(|to| self.send_message(to, &message, Some(&[0])));
        }
    }

    pub(crate) fn next_transaction_timer(&self) -> Option<Time> {
        let running = self.transaction.as_ref().map(|transaction| transaction.repeat_at.min(transaction.deadline));
        let activation = self.transaction.as_ref().and_then(|transaction| transaction.activate_at);
        let next_commit = if self.is_tm() && self.departure.is_none() { self.next_commit() } else { None };
        [running, activation, next_commit].into_iter().flatten().min()
    }

    /// When [`Self::consider_transaction`] would make a commit, as things stand.
    fn next_commit(&self) -> Option<Time> {
        let not_before = self.last_commit.map_or(Time(0), |last| last + self.config.batch_window);
        let removals = self.removals(Time(0));
        let mut times = Vec::new();
        if removals.urgent {
            times.push(not_before);
        }
        // Who leaves is in no hurry, astray or not.
        let staying = self.epoch.tree().members().map(|(_, node)| &node.leaf.member);
        let staying = staying.filter(|member| !self.pending.leaving.contains(member));
        times.extend(staying.filter_map(|member| self.astray_at(member)));
        if !self.is_busy() {
            times.extend(self.refresh_batch_at());
            if !removals.slots.is_empty() || !self.pending.handovers.is_empty() || self.pending.rekey {
                times.push(not_before);
            }
            times.push(self.entered_at + self.key_lives_for());
        }
        times.into_iter().map(|at| at.max(not_before)).min()
    }

    /// The own leaf is as old as the key: it must not outlive `leaf_refresh` either.
    fn key_lives_for(&self) -> Duration {
        self.config.lifetime.min(self.config.leaf_refresh)
    }

    /// When the leaves that wait are put into the tree, if nothing else takes them along before.
    fn refresh_batch_at(&self) -> Option<Time> {
        let waits = !self.pending.refreshes.is_empty();
        waits.then(|| self.last_commit.unwrap_or(self.entered_at) + self.config.leaf_refresh / BATCHES)
    }

    /// The waiting leaves of members that stay, by slot.
    fn take_refreshes(&mut self, removed: &[Slot]) -> Vec<LeafNode> {
        let tree = self.epoch.tree();
        let mut taken: Vec<(Slot, LeafNode)> = std::mem::take(&mut self.pending.refreshes)
            .into_iter()
            .filter_map(|(member, node)| Some((tree.slot_of(&member)?, node)))
            .filter(|(slot, node)| {
                let newer = tree.leaf(*slot).is_some_and(|old| old.leaf.generation < node.leaf.generation);
                newer && !removed.contains(slot) && !tree.has_public(&node.leaf.public)
            })
            .collect();
        taken.sort_by_key(|(slot, _)| *slot);
        // One copy among them would void the whole commit.
        let mut publics = BTreeSet::new();
        taken.retain(|(_, node)| publics.insert(node.leaf.public));
        taken.into_iter().map(|(_, node)| node).collect()
    }

    /// A commit waits for its acknowledgements, or a hand-over for its answer.
    fn is_busy(&self) -> bool {
        self.transaction.is_some() || self.join.as_ref().is_some_and(|join| join.is_offered())
    }

    /// When a member that names another group has done so for too long.
    fn astray_at(&self, member: &MemberId) -> Option<Time> {
        let peer = self.roster.get(member)?;
        Some(peer.astray_since? + peer.interval * ASTRAY_INTERVALS)
    }

    /// Members that are gone, restarted, astray or leaving.
    fn removals(&self, now: Time) -> Removals {
        let mut removals = Removals { slots: Vec::new(), urgent: false };
        for (slot, node) in self.epoch.tree().members() {
            let member = &node.leaf.member;
            if *member == self.me() {
                continue;
            }
            let leaving = self.pending.leaving.contains(member);
            let dead = match self.roster.get(member) {
                None => true,
                Some(peer) => {
                    let astray = self.astray_at(member).is_some_and(|at| at <= now);
                    !peer.up || !peer.is_trusted() || peer.startup != node.leaf.startup || astray
                }
            };
            if leaving || dead {
                removals.slots.push(slot);
                removals.urgent |= !leaving;
            }
        }
        removals
    }

    /// The hand-overs that still may be taken in. Who has been refused, or is not heard any more, since its own came
    /// is not let in by the very commit that shuts it out.
    fn take_handovers(&mut self) -> Vec<Signed<Handover>> {
        let mut taken = Vec::new();
        while taken.len() < MAX_HANDOVERS
            && let Some(signed) = self.pending.handovers.pop_front()
        {
            if self.may_come_in(&signed) {
                taken.push(signed);
            }
        }
        taken
    }

    fn may_come_in(&mut self, signed: &Signed<Handover>) -> bool {
        let Ok(handover) = signed.decode() else { return false };
        let leaves = handover_leaves(&handover, &mut self.roster).unwrap_or_default();
        !leaves.is_empty()
            && handover.target == self.epoch.instance()
            && self.roster.key(&handover.from.tm).is_ok()
            && leaves.iter().all(|node| self.roster.is_there(&node.leaf))
    }

    fn finish_if_acknowledged(&mut self, now: Time) {
        if self.transaction.as_ref().is_some_and(|transaction| transaction.awaiting.is_empty()) {
            self.transaction = None;
            self.announce_active(now);
        }
    }

    fn announce_active(&mut self, now: Time) {
        if self.is_active() {
            return;
        }
        if self.epoch.tree().len() > 1 {
            let (instance, epoch) = (self.epoch.instance(), self.epoch.number());
            self.send(Destination::Group, &Activate { instance, epoch, header: self.epoch.public.hash });
        }
        self.activate(now);
    }
}

impl Epoch {
    /// The epoch of a group of one, with a fresh reign and none of the SPI tags that are in use.
    pub(crate) fn of_one(
        config: &Config,
        author: &Author,
        own: &mut OwnLeaves,
        (source, rng): (&mut SecretSource, &mut impl Rng),
        number: u64,
        tags: BTreeSet<u16>,
    ) -> Result<Epoch, Refusal> {
        let (leaf, secret) = own.fresh(author, source)?;
        let mut tree = Tree::new(author.group(), 1)?;
        tree.set_leaf(Slot(0), leaf.clone());
        let instance = Instance { tm: author.member(), startup: author.startup(), random: rng.next_u64() };
        let changes = Changes { fills: vec![], removed: vec![], refreshed: vec![], joined: vec![], leaf };
        let draft = Draft { instance, number, parent: Hash::NONE, handovers: Vec::new(), tags };
        let (epoch, _) = draft.finish(&config.name, tree, Slot(0), &secret, &changes, author, (source, rng))?;
        Ok(epoch)
    }
}

/// A commit before its keys.
struct Draft {
    instance: Instance,
    number: u64,
    parent: Hash,
    handovers: Vec<Signed<Handover>>,
    /// SPI tags that are in use.
    tags: BTreeSet<u16>,
}

impl Draft {
    /// Keys the path above `slot` and signs the header.
    #[allow(clippy::too_many_arguments)] // every one is another thing
    fn finish(
        self,
        name: &str,
        mut tree: Tree,
        slot: Slot,
        leaf: &Secret,
        changes: &Changes,
        author: &Author,
        (source, rng): (&mut SecretSource, &mut impl Rng),
    ) -> Result<(Epoch, Commit), Refusal> {
        const LARGE: Refusal = Refusal::Rule("larger than a commit may be");
        let KeyedPath { path, ephemeral, ciphertexts, secrets } =
            key_path(&mut tree, slot, leaf, self.number, author.key(), source)?;
        let body = CommitBody {
            fills: List::new(changes.fills.clone()).ok_or(LARGE)?,
            removed: List::new(changes.removed.iter().map(|slot| slot.0).collect()).ok_or(LARGE)?,
            refreshed: List::new(changes.refreshed.iter().map(|node| node.signed.clone()).collect()).ok_or(LARGE)?,
            leaf: Some(changes.leaf.signed.clone()),
            path,
            ephemeral,
            ciphertexts: List::new(ciphertexts).ok_or(LARGE)?,
        };
        let transcript = transcript(name, &self.instance, self.number, &mut tree)?;
        let mut header = EpochHeader {
            suite: SUITE,
            group: author.group(),
            instance: self.instance,
            epoch: self.number,
            parent: self.parent,
            transcript,
            confirmation: Hash::NONE,
            spi_tag: free_tag(&self.tags, rng),
            handovers: handovers_hash(&self.handovers)?,
            body: body_hash(&body)?,
        };
        let context = context(&header)?;
        let key = group_key(&tree, &secrets, &context)?;
        header.confirmation = confirmation(&key, &context);
        let signed = author.key().sign_value(&header)?;
        let commit =
            Commit { header: signed.clone(), handovers: List::new(self.handovers.clone()).ok_or(LARGE)?, body };
        let public = Public { hash: header_hash(&signed), signed, header, tree, handovers: self.handovers };
        Ok((Epoch { public, slot, path: secrets, key }, commit))
    }
}

/// A tag from 1 to 4095 that is not in use. A third is not, at least: what is in use is bounded (`activation.rs`).
fn free_tag(tags: &BTreeSet<u16>, rng: &mut impl Rng) -> u16 {
    loop {
        let tag = (rng.next_u32() % 4095 + 1) as u16;
        if !tags.contains(&tag) {
            return tag;
        }
    }
}
