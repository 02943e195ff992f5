//! Messages of others: chunks, commits, snapshots, and what each means for a member.

use muster_wire::mike::{Chunk, Commit, EpochHeader, MessageKind, Snapshot};
use muster_wire::{MemberId, Signed, Time, codec};

use crate::commit::{Changes, body_hash, put_path};
use crate::epoch::{Epoch, MAX_EPOCH_JOINED, MAX_LEAP, Public, check_header, header_hash};
use crate::joining::LEAVE_ALONE_MOST;
use crate::message::Message;
use crate::tree::Tree;
use crate::{Event, KeyAgreement, Refusal};

/// What a commit is to this device.
enum Relation {
    /// It changes the tree that we hold.
    Next,
    /// It belongs to our group, and something before it is missing here.
    Missed,
    /// It may take us over into the group that we are joining, whose tree we may hold.
    Joining,
    /// It is none of our business.
    Foreign,
}

impl KeyAgreement {
    pub(crate) fn handle_chunk(&mut self, now: Time, sender: MemberId, chunk: Chunk) -> Result<(), Refusal> {
        if chunk.header == self.epoch.public.hash && chunk.kind == MessageKind::Commit {
            let repeated = sender == self.epoch.tm() && !self.acknowledges_in_hellos();
            if repeated && self.live.iter().any(|l| l.header == chunk.header && l.installed) {
                self.acknowledge_soon(now);
            }
            return Ok(());
        }
        if self.is_handled(&chunk) {
            return Ok(());
        }
        if let Some(message) = self.assembly.add(now, sender, chunk)? {
            self.remember_handled(message.hash);
            self.handle_message(now, sender, message);
        }
        Ok(())
    }

    /// A message whole; one that lacks a certificate waits for it.
    pub(crate) fn handle_message(&mut self, now: Time, sender: MemberId, message: Message) {
        let result = match message.kind {
            MessageKind::Commit => codec::decode(&message.bytes)
                .map_err(Refusal::from)
                .and_then(|commit| self.handle_commit(now, sender, &commit)),
            MessageKind::Snapshot => codec::decode(&message.bytes)
                .map_err(Refusal::from)
                .and_then(|snapshot| self.handle_snapshot(now, &snapshot)),
            MessageKind::Handover => codec::decode(&message.bytes)
                .map_err(Refusal::from)
                .and_then(|handover| self.handle_handover(now, sender, handover))
                .map(|done| {
                    if !done {
                        self.handled.retain(|hash| *hash != message.hash);
                    }
                }),
        };
        match result {
            Err(Refusal::UnknownMember(lacks)) => self.defer(now, sender, message, lacks),
            Err(reason) => self.refuse(sender, reason),
            Ok(()) => {}
        }
    }

    fn handle_commit(&mut self, now: Time, sender: MemberId, commit: &Commit) -> Result<(), Refusal> {
        let header = check_header(&commit.header, &self.roster)?;
        if header.group != self.author.group() {
            return Err(Refusal::Rule("a header of another group"));
        }
        self.compare(now, &commit.header, &header);
        self.check_leap(header.epoch)?;
        if header.body != body_hash(&commit.body)? {
            return Err(Refusal::Rule("the body is not that of the header"));
        }
        match self.relation(&header, commit) {
            Relation::Next => {
                let entered = self
                    .apply(&self.epoch.public.tree.clone(), commit, &header)
                    .and_then(|public| self.take(now, public));
                self.ask_for_a_way_in(now, sender, &entered);
                entered
            }
            Relation::Missed => {
                self.recover(now, sender);
                Ok(())
            }
            Relation::Joining => self.handle_joining_commit(now, commit, &header),
            Relation::Foreign => Ok(()),
        }
    }

    fn relation(&self, header: &EpochHeader, commit: &Commit) -> Relation {
        let mine = &self.epoch.public;
        if header.instance == mine.header.instance {
            return match header.parent == mine.hash {
                _ if header.epoch <= mine.header.epoch => Relation::Foreign,
                true => Relation::Next,
                false => Relation::Missed,
            };
        }
        let target = self.join.as_ref().is_some_and(|join| join.target == header.instance);
        let ours = commit.handovers.iter().any(|handover| {
            handover.decode().is_ok_and(|h| h.from == mine.header.instance && h.target == header.instance)
        });
        if target || ours {
            return Relation::Joining;
        }
        let Some(claimant) = mine.tree.slot_of(&header.instance.tm) else { return Relation::Foreign };
        let removes_tm =
            |tree: &Tree| tree.slot_of(&self.epoch.tm()).is_some_and(|slot| commit.body.removed.contains(&slot.0));
        if header.parent == mine.hash && header.epoch > mine.header.epoch && removes_tm(&mine.tree) {
            return Relation::Next;
        }
        // A rival's claim to the same succession: the lower slot wins.
        let rival = header.parent == mine.header.parent && header.epoch == mine.header.epoch;
        match rival && mine.tree.slot_of(&self.epoch.tm()).is_some_and(|tm| claimant < tm) {
            true => Relation::Missed,
            false => Relation::Foreign,
        }
    }

    /// The commit's tree from the one before; everything in it is checked.
    pub(crate) fn apply(&mut self, base: &Tree, commit: &Commit, header: &EpochHeader) -> Result<Public, Refusal> {
        let changes = Changes::read(&commit.body, &commit.handovers, &mut self.roster)?;
        if changes.leaf.leaf.member != header.instance.tm {
            return Err(Refusal::Rule("a commit refreshes its author's leaf"));
        }
        let (mut tree, slot) = changes.apply(base, &self.roster)?;
        put_path(&mut tree, slot, &commit.body, header.epoch, &self.roster)?;
        let handovers = commit.handovers.to_vec();
        Public::check(&self.config.name, commit.header.clone(), handovers, tree, &self.roster)
    }

    /// Enters a checked epoch that we may follow, or finds that it has excluded us.
    pub(crate) fn take(&mut self, now: Time, public: Public) -> Result<(), Refusal> {
        let me = self.me();
        let Some(slot) = public.tree.slot_of(&me) else {
            self.excluded(now, public.header.instance.tm, public.header.epoch);
            return Ok(());
        };
        let leaf = public.tree.leaf(slot).ok_or(Refusal::NotMember)?;
        let secret = self.own.secret(&leaf.leaf.public).ok_or(Refusal::NotMember)?.clone();
        // An epoch that shuts somebody out lets the old keys go sooner.
        let stays = |member: &MemberId| public.tree.slot_of(member).is_some();
        let retire_after = match self.epoch.tree().members().all(|(_, node)| stays(&node.leaf.member)) {
            true => self.config.deactivation_delay,
            false => self.config.activation_delay,
        };
        let epoch = Epoch::enter(public, slot, &secret, &self.epoch.path)?;
        self.enter(now, epoch, retire_after);
        Ok(())
    }

    fn handle_snapshot(&mut self, now: Time, snapshot: &Snapshot) -> Result<(), Refusal> {
        let header = check_header(&snapshot.header, &self.roster)?;
        let ours = header.instance == self.epoch.instance();
        if header.group != self.author.group() {
            return Ok(());
        }
        self.compare(now, &snapshot.header, &header);
        if self.is_stale(&snapshot.header, &header) {
            return Ok(());
        }
        self.check_leap(header.epoch)?;
        let joining = self.join.as_ref().is_some_and(|join| join.target == header.instance);
        // Before the work of checking it: is it of any use here?
        let me = self.me();
        let with_us = snapshot.leaves.iter().any(|(_, leaf)| leaf.decode().is_ok_and(|leaf| leaf.member == me));
        if !ours && !joining && !with_us {
            return Ok(());
        }
        let public = Public::read(&self.config.name, snapshot, &mut self.roster)?;
        let own = public.tree.slot_of(&self.me()).and_then(|slot| public.tree.leaf(slot));
        let held = own.is_some_and(|node| self.own.secret(&node.leaf.public).is_some());
        if held && self.may_follow(now, &public) {
            let hash = public.hash;
            let entered = self.take(now, public);
            self.ask_for_a_way_in(now, header.instance.tm, &entered);
            if self.epoch.public.hash == hash {
                self.counters.recoveries += 1;
                self.adopt_fills(now, &snapshot.fills);
            }
            return entered;
        }
        if ours && !held {
            self.excluded(now, header.instance.tm, header.epoch);
        } else if joining {
            // Also with a leaf of ours in it: another group, that we had handed ourselves over to, has brought it there.
            // It is no licence for this one; a fresh hand-over is.
            if let Err(reason) = public.check_members(&self.roster) {
                self.give_up_join(now);
                return Err(reason);
            }
            self.observe(now, public);
        }
        Ok(())
    }

    /// The transaction manager's epoch has a key that we cannot compute: somebody below it lied. With a fresh leaf of
    /// ours all that is above us is keyed anew.
    fn ask_for_a_way_in(&mut self, now: Time, tm: MemberId, entered: &Result<(), Refusal>) {
        let shut_out = matches!(entered, Err(Refusal::PublicKey | Refusal::Ciphertext | Refusal::Confirmation));
        if shut_out && tm == self.epoch.tm() {
            self.offer_leaf(now, true);
        }
    }

    fn is_stale(&self, signed: &Signed<EpochHeader>, header: &EpochHeader) -> bool {
        let mine = &self.epoch.public;
        self.entered.contains(&header_hash(signed))
            || (header.instance == mine.header.instance && header.epoch <= mine.header.epoch)
    }

    /// Whether an epoch whose commit we do not hold, with our leaf in it, is one to move up to.
    fn may_follow(&self, now: Time, public: &Public) -> bool {
        let (mine, header) = (&self.epoch.public, &public.header);
        if header.instance == mine.header.instance {
            return header.epoch > mine.header.epoch;
        }
        if public.took_over(mine, &self.roster) {
            return header.epoch > mine.header.epoch;
        }
        let tm_removed = public.tree.slot_of(&self.epoch.tm()).is_none();
        let claimant = mine.tree.slot_of(&header.instance.tm);
        if header.parent == mine.hash && tm_removed && claimant.is_some() {
            return header.epoch > mine.header.epoch;
        }
        if header.parent == mine.header.parent && header.epoch == mine.header.epoch {
            return matches!((claimant, mine.tree.slot_of(&self.epoch.tm())), (Some(claimant), Some(tm)) if claimant < tm);
        }
        !self.is_tm() && self.manager_is_gone(now).is_some() && header.epoch > mine.header.epoch
    }

    /// A number far ahead of ours is no honest group's: near the end of all numbers nobody could be excluded any more.
    pub(crate) fn check_leap(&self, epoch: u64) -> Result<(), Refusal> {
        let most = match self.epoch.tree().len() {
            1 => MAX_EPOCH_JOINED,
            _ => self.epoch.number().saturating_add(MAX_LEAP),
        };
        if epoch > most { Err(Refusal::Rule("an epoch too far ahead")) } else { Ok(()) }
    }

    /// We are out: a group of one again, with a key of our own.
    pub(crate) fn excluded(&mut self, now: Time, by: MemberId, epoch: u64) {
        if self.departure.take().is_some() {
            self.events.push_back(Event::Left);
            return;
        }
        self.events.push_back(Event::Excluded { by });
        self.start_alone(now, epoch.max(self.epoch.number()) + 1);
        self.leave_alone(now, by, LEAVE_ALONE_MOST);
    }

    /// A fresh group of one; the epoch's number still rises.
    pub(crate) fn start_alone(&mut self, now: Time, number: u64) {
        let tags = self.tags(now).collect();
        let chance = (&mut self.secrets, &mut self.rng);
        match Epoch::of_one(&self.config, &self.author, &mut self.own, chance, number, tags) {
            Ok(epoch) => {
                self.enter(now, epoch, self.config.activation_delay);
                self.activate(now);
            }
            Err(reason) => self.refuse(self.me(), reason),
        }
    }
}
