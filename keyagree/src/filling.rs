//! Blank parents are keyed again between commits, so that the next commit needs few ciphertexts.
//!
//! A parent whose occupied children are keyed follows from them: whoever is below computes it. The leftmost member
//! below does and tells the others. The group key does not change; the next commit lists the fills that it builds on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use muster_wire::mike::{Fill, Fills, FillsWanted, MAX_FILLS, MAX_WANTED, Objection, Parent, ParentKind};
use muster_wire::{Destination, Hash, List, MemberId, Signature, Time};

use crate::commit::apply_fill;
use crate::epoch::Epoch;
use crate::roster::Roster;
use crate::secret::{agreed, lifted};
use crate::tree::{Node, ParentIndex, ParentNode, PathSecrets, Slot, Tree, child};
use crate::{KeyAgreement, Refusal};

/// The leftmost member below a parent fills it after this, and within as much again, so that what changes together is
/// filled together.
const FILL_AFTER: Duration = Duration::from_millis(5);
/// Another does when the leftmost has been silent for so long, and as much again at random.
const FILL_INSTEAD: Duration = Duration::from_millis(250);
/// The transaction manager asks for what it still misses then, and again after as long: a question or its answer got
/// lost. After so many times it is another reason, and waits double …
const ASK_AFTER: Duration = Duration::from_millis(600);
const ASK_STEADILY: u32 = 6;
/// … up to this: it is no more than a hello and its answers, and who has been deaf is to know soon.
const ASK_AT_MOST: Duration = Duration::from_millis(2400);

/// What has been keyed since the commit of the epoch.
pub(crate) struct Filling {
    /// The epoch's tree with the fills.
    tree: Tree,
    /// The own secrets in it.
    path: PathSecrets,
    /// By level and node: children come before parents. When each came.
    fills: BTreeMap<(u32, u32), (Fill, Time)>,
    /// Parents on whose key members disagree, with who was below: blank until a leaf there changes.
    disputed: BTreeMap<ParentIndex, Hash>,
    /// Parents that the transaction manager asks for, though they are filled here.
    wanted: BTreeSet<ParentIndex>,
    /// When we fill what is ours to fill …
    own_at: Option<Time>,
    /// … and what is another's first.
    instead_at: Option<Time>,
    /// When, as transaction manager, we ask for what is missing; how often we have.
    ask: Option<(Time, u32)>,
}

impl Filling {
    /// Nothing is filled yet.
    pub(crate) fn new(epoch: &Epoch) -> Filling {
        Filling {
            tree: epoch.tree().clone(),
            path: epoch.path.clone(),
            fills: BTreeMap::new(),
            disputed: BTreeMap::new(),
            wanted: BTreeSet::new(),
            own_at: None,
            instead_at: None,
            ask: None,
        }
    }

    /// The same for the epoch that follows: fills that its commit did not list and that still hold, and disputes below
    /// which no leaf has changed.
    pub(crate) fn carried(&self, epoch: &Epoch, roster: &Roster) -> Filling {
        let mut next = Filling::new(epoch);
        let slots = next.tree.slots();
        for (index, below) in &self.disputed {
            let inside = ParentIndex::new(index.number(), slots).is_some();
            if inside && next.tree.below(*index) == *below {
                next.disputed.insert(*index, *below);
            }
        }
        for (place, (fill, at)) in &self.fills {
            let Some(index) = ParentIndex::new(fill.node, slots) else { continue };
            let above_us = epoch.slot.is_below(Node::Parent(index));
            if apply_fill(&mut next.tree, fill, roster).is_err() {
                continue;
            }
            if above_us && !next.path.copy(Node::Parent(index), &fill.parent.public, &self.path) {
                next.tree.blank(index);
                continue;
            }
            next.fills.insert(*place, (fill.clone(), *at));
        }
        next
    }

    /// The epoch's tree with the fills.
    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// All fills, children first.
    pub(crate) fn list(&self) -> Vec<Fill> {
        self.fills.values().map(|(fill, _)| fill.clone()).collect()
    }

    /// The fills that a commit may build on: old enough for objections to have come, closed downwards, and outside the
    /// paths of `slots`, which are blanked anyway.
    pub(crate) fn settled(&self, before: Time, slots: &[Slot]) -> Vec<Fill> {
        let mut taken: BTreeSet<ParentIndex> = BTreeSet::new();
        let mut list = Vec::new();
        for (fill, at) in self.fills.values() {
            let Some(index) = ParentIndex::new(fill.node, self.tree.slots()) else { continue };
            let passes = slots.iter().any(|slot| slot.is_below(Node::Parent(index)));
            let rests_on_taken = [index.left(), index.right()].into_iter().all(|child| match child {
                Node::Parent(child) => taken.contains(&child) || !self.is_filled(child),
                Node::Leaf(_) => true,
            });
            if *at <= before && !passes && rests_on_taken {
                taken.insert(index);
                list.push(fill.clone());
            }
        }
        list
    }

    /// Parents that could be keyed and are not.
    pub(crate) fn missing(&self) -> impl Iterator<Item = ParentIndex> {
        self.tree.parents().filter(|index| self.tree.is_fillable(*index) && !self.disputed.contains_key(index))
    }

    fn is_filled(&self, index: ParentIndex) -> bool {
        self.fills.contains_key(&place(index))
    }

    fn insert(&mut self, index: ParentIndex, fill: Fill, now: Time) {
        self.fills.insert(place(index), (fill, now));
    }

    /// Takes a fill and everything that rests on it away, until a leaf below changes.
    fn dispute(&mut self, index: ParentIndex) {
        self.disputed.insert(index, self.tree.below(index));
        let (first, _) = Node::Parent(index).slots();
        for above in Slot(first).path(self.tree.slots()).filter(|above| above.level() >= index.level()) {
            if self.fills.remove(&place(above)).is_some() {
                self.tree.blank(above);
                self.path.remove(Node::Parent(above));
            }
        }
    }
}

/// The order of fills: children before parents.
fn place(index: ParentIndex) -> (u32, u32) {
    (index.level(), index.number())
}

impl KeyAgreement {
    /// Parents that could be keyed without a ciphertext and are blank; none after quiet.
    pub fn fillable_parents(&self) -> usize {
        self.filling.missing().count()
    }

    /// Another member's fills.
    pub(crate) fn handle_fills(&mut self, now: Time, sender: &MemberId, named: &Fills) -> Result<(), Refusal> {
        if named.header != self.epoch.public.hash {
            return Ok(());
        }
        let slot = self.epoch.tree().slot_of(sender).ok_or(Refusal::NotMember)?;
        for fill in named.fills.iter() {
            if fill.parent.author != slot.0 {
                return Err(Refusal::Rule("a member tells its own fills"));
            }
            self.take_fill(now, fill)?;
        }
        self.consider_filling(now);
        Ok(())
    }

    /// The fills that a snapshot carries.
    pub(crate) fn adopt_fills(&mut self, now: Time, fills: &[Fill]) {
        for fill in fills {
            if let Err(reason) = self.take_fill(now, fill) {
                self.refuse(self.me(), reason);
                return;
            }
        }
        self.consider_filling(now);
    }

    fn take_fill(&mut self, now: Time, fill: &Fill) -> Result<(), Refusal> {
        let slots = self.epoch.tree().slots();
        let index = ParentIndex::new(fill.node, slots).ok_or(Refusal::Rule("a fill is for a parent"))?;
        self.filling.wanted.remove(&index);
        if self.epoch.tree().parent(index).is_some() || self.filling.disputed.contains_key(&index) {
            return Ok(());
        }
        if let Some((known, _)) = self.filling.fills.get(&place(index)) {
            let same = |parent: &Parent| (parent.kind, parent.source, parent.public);
            // An agreed parent has the author's side as its source; both sides compute the same.
            let agrees = same(&known.parent) == same(&fill.parent)
                || (known.parent.kind == ParentKind::Agreed
                    && fill.parent.kind == ParentKind::Agreed
                    && known.parent.public == fill.parent.public);
            if agrees {
                return Ok(());
            }
            // Two that differ: one of the authors lies, and who is not below cannot tell which.
            let mut bare = self.filling.tree.clone();
            bare.blank(index);
            apply_fill(&mut bare, fill, &self.roster)?;
            self.counters.disputes += 1;
            self.filling.dispute(index);
            return Ok(());
        }
        if !self.filling.tree.is_fillable(index) {
            // What it rests on has not come yet; the transaction manager will ask.
            return Ok(());
        }
        apply_fill(&mut self.filling.tree, fill, &self.roster)?;
        if self.epoch.slot.is_below(Node::Parent(index)) && !self.computes(index) {
            self.filling.tree.blank(index);
            self.counters.disputes += 1;
            self.filling.dispute(index);
            let objection = Objection { header: self.epoch.public.hash, node: fill.node, public: fill.parent.public };
            self.send(Destination::Group, &objection);
            return Ok(());
        }
        self.filling.insert(index, fill.clone(), now);
        // What rests on it may be asked for soon.
        self.filling.ask = None;
        Ok(())
    }

    /// Whether we compute the key that a parent above us is filled with.
    fn computes(&mut self, index: ParentIndex) -> bool {
        let Some(secret) = self.fill_secret(index) else { return false };
        let public = secret.public();
        if self.filling.tree.public(Node::Parent(index)) != Some(&public) {
            return false;
        }
        self.filling.path.insert(Node::Parent(index), public, secret);
        true
    }

    /// The secret of a parent above us, from the child on our side.
    fn fill_secret(&self, index: ParentIndex) -> Option<crate::secret::Secret> {
        let tree = &self.filling.tree;
        let (kind, side) = tree.kind_of(index, self.epoch.slot);
        let own = self.filling.path.get(child(index, side))?;
        match kind {
            ParentKind::Agreed => {
                let (left, right) = (tree.public(index.left())?, tree.public(index.right())?);
                agreed(tree.group(), index, own, self.epoch.slot.is_below(index.left()), left, right).ok()
            }
            ParentKind::Lifted => Some(lifted(tree.group(), index, own)),
            ParentKind::Sealed => None,
        }
    }

    pub(crate) fn handle_objection(&mut self, sender: &MemberId, objection: &Objection) -> Result<(), Refusal> {
        if objection.header != self.epoch.public.hash {
            return Ok(());
        }
        let slot = self.epoch.tree().slot_of(sender).ok_or(Refusal::NotMember)?;
        let index = ParentIndex::new(objection.node, self.epoch.tree().slots())
            .filter(|index| slot.is_below(Node::Parent(*index)))
            .ok_or(Refusal::Rule("who objects to a fill is below it"))?;
        let filled = self.filling.fills.get(&place(index));
        if filled.is_some_and(|(fill, _)| fill.parent.public == objection.public) {
            self.counters.disputes += 1;
            self.filling.dispute(index);
        }
        Ok(())
    }

    pub(crate) fn handle_fills_wanted(
        &mut self,
        now: Time,
        sender: &MemberId,
        named: &FillsWanted,
    ) -> Result<(), Refusal> {
        if named.header != self.epoch.public.hash || *sender != self.epoch.tm() {
            return Ok(());
        }
        let slots = self.epoch.tree().slots();
        for index in named.nodes.iter().filter_map(|node| ParentIndex::new(*node, slots)) {
            if self.epoch.slot.is_below(Node::Parent(index)) {
                self.filling.wanted.extend(self.highest_filled(index));
            }
        }
        self.consider_filling(now);
        Ok(())
    }

    /// A parent above us, or else the highest below it that is filled on our side: the members of the other side may
    /// lack it, and without it they cannot fill what the transaction manager asks for.
    fn highest_filled(&self, index: ParentIndex) -> Option<ParentIndex> {
        let path: Vec<ParentIndex> = self.epoch.slot.path(self.filling.tree.slots()).collect();
        path.into_iter().rev().find(|below| below.level() <= index.level() && self.filling.is_filled(*below))
    }

    /// Arms what is to be filled by us, first or instead of another, and what is to be asked for. A key that is not in
    /// use yet comes first.
    pub(crate) fn consider_filling(&mut self, now: Time) {
        if !self.is_active() || self.departure.is_some() || self.epoch.tree().len() == 1 {
            return;
        }
        let due: Vec<bool> = self.due_fills().map(|(_, first)| first).collect();
        let own_at = due
            .contains(&true)
            .then(|| self.filling.own_at.unwrap_or(now + FILL_AFTER + self.random_below(FILL_AFTER)));
        let instead_at = due
            .contains(&false)
            .then(|| self.filling.instead_at.unwrap_or(now + FILL_INSTEAD + self.random_below(FILL_INSTEAD)));
        let asks = self.is_tm() && self.filling.missing().next().is_some();
        let ask = asks.then(|| self.filling.ask.unwrap_or((now + ASK_AFTER, 0)));
        let filling = &mut self.filling;
        (filling.own_at, filling.instead_at, filling.ask) = (own_at, instead_at, ask);
    }

    /// Parents above us that are to be filled, or told again, lowest first, and whether we are first to do it.
    fn due_fills(&self) -> impl Iterator<Item = (ParentIndex, bool)> {
        let (filling, slot) = (&self.filling, self.epoch.slot);
        slot.path(filling.tree.slots())
            .filter(move |index| {
                let blank = filling.tree.is_fillable(*index) && !filling.disputed.contains_key(index);
                blank || filling.wanted.contains(index)
            })
            .map(move |index| (index, filling.tree.leftmost(Node::Parent(index)) == Some(slot)))
    }

    pub(crate) fn handle_filling_timers(&mut self, now: Time) {
        let filling = &mut self.filling;
        let own = filling.own_at.take_if(|at| *at <= now).is_some();
        let instead = filling.instead_at.take_if(|at| *at <= now).is_some();
        let ask = filling.ask.filter(|(at, _)| *at <= now);
        if own || instead {
            self.fill(now, own, instead);
        }
        if let Some((_, asked)) = ask {
            let doublings = (asked + 1).saturating_sub(ASK_STEADILY).min(16);
            let wait = (ASK_AFTER * 2_u32.pow(doublings)).min(ASK_AT_MOST);
            self.filling.ask = Some((now + wait, asked + 1));
            let nodes = self.filling.missing().take(MAX_WANTED).map(ParentIndex::number).collect();
            // take() keeps the list within its bound.
            let nodes = List::new(nodes).unwrap_or_default();
            self.send(Destination::Group, &FillsWanted { header: self.epoch.public.hash, nodes });
        }
        if own || instead || ask.is_some() {
            self.consider_filling(now);
        }
    }

    pub(crate) fn next_filling_timer(&self) -> Option<Time> {
        let filling = &self.filling;
        [filling.own_at, filling.instead_at, filling.ask.map(|(at, _)| at)].into_iter().flatten().min()
    }

    /// Fills what is due on our path, from below: one may make the next possible.
    fn fill(&mut self, now: Time, own: bool, instead: bool) {
        let mut told = Vec::new();
        while told.len() < MAX_FILLS {
            let mine = |(_, first): &(ParentIndex, bool)| if *first { own } else { instead };
            let Some((index, _)) = self.due_fills().find(mine) else { break };
            self.filling.wanted.remove(&index);
            match self.filled(index) {
                Ok(fill) => {
                    if !self.filling.is_filled(index) {
                        self.counters.fills += 1;
                        self.filling.insert(index, fill.clone(), now);
                    }
                    told.push(fill);
                }
                // Only a key of low order among the children: nobody can key this one.
                Err(_) => self.filling.dispute(index),
            }
        }
        if !told.is_empty() {
            let fills = List::new(told).unwrap_or_default();
            self.send(Destination::Group, &Fills { header: self.epoch.public.hash, fills });
        }
    }

    /// Our own record of a parent above us, in the tree from now on.
    fn filled(&mut self, index: ParentIndex) -> Result<Fill, Refusal> {
        let slot = self.epoch.slot;
        if let Some((known, _)) = self.filling.fills.get(&place(index))
            && known.parent.author == slot.0
        {
            return Ok(known.clone());
        }
        let (kind, source) = self.filling.tree.kind_of(index, slot);
        let secret = self.fill_secret(index).ok_or(Refusal::LowOrderKey)?;
        let (public, epoch) = (secret.public(), self.epoch.number());
        let mut record = Parent { kind, epoch, source, public, author: slot.0, signature: Signature([0; 64]) };
        record.signature = self.filling.tree.sign_parent(index, &record, self.author.key())?;
        if !self.filling.is_filled(index) {
            self.filling.path.insert(Node::Parent(index), public, secret);
            let node = ParentNode { record: record.clone(), sealed: None };
            self.filling.tree.set_parent(index, Arc::new(node));
        }
        Ok(Fill { node: index.number(), parent: record })
    }
}
