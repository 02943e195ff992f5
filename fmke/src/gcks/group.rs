//! One secure multicast group at the key server: who is in, its keys, and how they change.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use muster_wire::Time;

use super::context::Context;
use super::life::Life;
use super::profile::{FlowSelector, Group};
use super::rekey::Rekey;
use super::restarts::Restarts;
use super::store::Write;
use super::tek::{Tek, delete_teks};
use crate::isakmp::{Delete, Header, KeyPacket, key_type};
use crate::lkh::{Change, KeyTree, LKH_COMPACT_UPDATE, LKH_DOWNLOAD_ARRAY, LKH_JOINS, MAX_JOINS, Place, TreeError};
use crate::push::{Filling, Push, PushError, Repeater};

/// Octets of one part of an update: with a re-key SA and a signature around it, a datagram that passes where 1,280 octets do.
const PART: usize = 850;
/// What was sent under the re-key SA before is sent again for so long to whoever misses it.
pub(super) const AFTERLIFE: Duration = Duration::from_secs(60);
/// Re-key SAs whose messages are kept, at most.
const MOST_PREVIOUS: usize = 32;
/// A member that is further behind than so many changes is told all.
const MOST_STEPS: usize = 4;
/// Re-key SAs before those, whose ends are told still, at most: 20 changes a second for [`AFTERLIFE`], and some.
const MOST_STALE: usize = 2048;
/// A re-key SA under which so much was said is replaced at the next change: all of it is kept.
const MOST_MESSAGES: u32 = 1024;

/// The state of one group. Keys, members and messages are in the store; of what is wished for, only that members began anew.
pub(super) struct GroupState {
    pub(super) tree: KeyTree,
    /// Where each member sits.
    pub(super) places: BTreeMap<String, Place>,
    pub(super) current: Option<Rekey>,
    /// Those before it, the latest last, each until a member that missed how it ended can have asked.
    pub(super) previous: Vec<(Rekey, Time)>,
    /// And those before them, without their messages. Not in the store: whoever misses how one ended is told all.
    stale: VecDeque<(Rekey, Time)>,
    /// Copies for members without a return channel.
    repeater: Repeater,
    pub(super) teks: BTreeMap<(FlowSelector, String), Tek>,
    /// Theirs, if there are any.
    pub(super) teks_life: Option<Life>,
    /// Members that began anew: they need keys that they never used.
    restarts: Restarts<String>,
    /// To be done at the next change.
    wishes: Wishes,
    /// When that is made.
    due: Option<Time>,
}

/// What is to change.
#[derive(Default)]
struct Wishes {
    /// Who comes in.
    newcomers: BTreeSet<String>,
    /// Who goes.
    leavers: BTreeSet<String>,
    /// Members that connected again: they get all that they may have missed.
    returned: BTreeSet<String>,
    /// New keys for all, by command.
    rekey: bool,
}

/// What a change has brought about, to be sent when it is stored.
#[derive(Default)]
pub(super) struct Outcome {
    /// To the group.
    pub(super) multicast: Vec<Vec<u8>>,
    /// To each of these by phase 2: all of the group.
    pub(super) told: Vec<String>,
    /// Who is no member any more.
    pub(super) gone: Vec<String>,
    /// There are new keys.
    pub(super) rekeyed: bool,
    /// SAs of ESP were taken away.
    pub(super) has_deleted: bool,
}

/// What comes of a negative acknowledgement.
pub(super) struct Missed {
    /// These go again.
    pub(super) again: Vec<Vec<u8>>,
    /// The member has missed so many changes that it is to be told all: each of them would take it a question, or what it asks for is
    /// not kept any longer.
    pub(super) is_behind: bool,
}

impl GroupState {
    pub(super) fn new() -> Self {
        GroupState {
            tree: KeyTree::new(),
            places: BTreeMap::new(),
            current: None,
            previous: Vec::new(),
            stale: VecDeque::new(),
            repeater: Repeater::default(),
            teks: BTreeMap::new(),
            teks_life: None,
            restarts: Restarts::default(),
            wishes: Wishes::default(),
            due: None,
        }
    }

    /// A client of this group has connected. It is told of the group at the next change, `window` from now at the latest. One that
    /// is to go goes all the same, and comes in as somebody new.
    pub(super) fn admit(&mut self, now: Time, client: &str, window: Duration) {
        if !self.is_in(client) {
            self.wishes.newcomers.insert(client.to_owned());
        } else if !self.restarts.is_waiting(client) {
            self.wishes.returned.insert(client.to_owned());
        }
        self.wish_by(now + window);
    }

    /// A client of this group has connected that holds nothing any more. Whether it is told of the group only when there are keys
    /// that it never used: to send under, for it does not know any longer which numbers it used; and, where who joins gets such,
    /// to receive under, for it does not know any longer what it received.
    pub(super) fn begin_anew(&mut self, now: Time, client: &str, profile: &Group, window: Duration) -> bool {
        let is_sender = || self.teks.keys().any(|(_, sender)| sender == client);
        if !self.is_in(client) || self.teks.is_empty() || !(profile.rekey_on_join || is_sender()) {
            return false;
        }
        // Where that is all keys, those before have gone before there are third ones: many may begin anew, one after the other.
        let all = self.teks_life.filter(|_| profile.rekey_on_join);
        let earliest = all.map_or(Time(0), |life| life.since + profile.delays.change());
        let at = self.restarts.add(client.to_owned(), earliest);
        self.wish_by(at.max(now + window));
        true
    }

    /// This member began anew before the key server did.
    pub(super) fn began_anew(&mut self, now: Time, client: &str) {
        let at = self.restarts.add(client.to_owned(), now);
        self.wish_by(at);
    }

    /// Whether this client is a member, and is to stay one.
    pub(super) fn is_in(&self, client: &str) -> bool {
        self.places.contains_key(client) && !self.wishes.leavers.contains(client)
    }

    /// A client is to go, `window` from now at the latest.
    pub(super) fn expel(&mut self, now: Time, client: &str, window: Duration) {
        for wish in [&mut self.wishes.newcomers, &mut self.wishes.returned] {
            wish.remove(client);
        }
        self.restarts.remove(client);
        if self.places.contains_key(client) {
            self.wishes.leavers.insert(client.to_owned());
            self.wish_by(now + window);
        }
    }

    /// New keys for all.
    pub(super) fn rekey(&mut self, now: Time) {
        self.wishes.rekey = true;
        self.wish_by(now);
    }

    /// Flows, or who sends them, have changed.
    pub(super) fn reconsider(&mut self, now: Time) {
        self.wish_by(now);
    }

    fn wish_by(&mut self, at: Time) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// When to ask [`due`](Self::due).
    pub(super) fn timeout(&self, profile: &Group) -> Option<Time> {
        let telling = self.rekeys().map(|rekey| rekey.sender.timeout());
        let afterlife = self.previous.iter().chain(&self.stale).map(|(_, until)| *until);
        let renewal = self.renewal(profile).filter(|_| !self.places.is_empty());
        let copies = self.repeater.timeout();
        self.due.into_iter().chain(telling).chain(afterlife).chain(renewal).chain(copies).min()
    }

    /// What is to be done by `now`.
    pub(super) fn due(
        &mut self,
        now: Time,
        name: &str,
        profile: &Group,
        ctx: &mut Context<'_>,
    ) -> Result<Outcome, TreeError> {
        let forgotten: Vec<(Rekey, Time)> = self.previous.extract_if(.., |(_, until)| *until <= now).collect();
        if !forgotten.is_empty() {
            forgotten.iter().for_each(|(rekey, _)| rekey.forget(name, ctx));
            // It names its re-key SAs: what it names must be there.
            ctx.writes.push(Write::group(name, self, &ctx.calendar));
        }
        self.stale.retain(|(_, until)| *until > now);
        let is_old = !self.places.is_empty() && self.renewal(profile).is_some_and(|at| at <= now);
        let mut outcome = match is_old || self.due.is_some_and(|due| due <= now) {
            true => self.change(now, name, profile, ctx)?,
            false => Outcome::default(),
        };
        let before = self.stale.iter_mut().chain(&mut self.previous).map(|(rekey, _)| rekey);
        for rekey in before.chain(self.current.iter_mut()) {
            outcome.multicast.extend(rekey.due(now, ctx));
        }
        outcome.multicast.extend(self.repeater.due(now));
        Ok(outcome)
    }

    /// A member misses what was multicast.
    pub(super) fn missed(&mut self, now: Time, header: &Header, first: u8, body: &[u8]) -> Result<Missed, PushError> {
        if let Some((rekey, _)) = self.stale.iter().find(|(rekey, _)| rekey.keys.is_of(header)) {
            rekey.keys.open_missing(header, first, body)?;
            return Ok(Missed { again: Vec::new(), is_behind: true });
        }
        let rekeys = self.previous.iter_mut().map(|(rekey, _)| rekey).chain(self.current.iter_mut());
        let (mut again, mut later) = (None::<Vec<Vec<u8>>>, 0);
        for rekey in rekeys {
            let Some(again) = &again else {
                if rekey.keys.is_of(header) {
                    again = Some(rekey.sender.missed(now, &rekey.keys.open_missing(header, first, body)?));
                }
                continue;
            };
            later += 1;
            // Who missed how the one before ended has missed what was said since, too.
            if !again.is_empty() {
                rekey.sender.tell_soon(now);
            }
        }
        let again = again.ok_or(PushError::Authentication)?;
        Ok(Missed { again, is_behind: later > MOST_STEPS })
    }

    /// Whether this is the header of a message under one of our re-key SAs.
    pub(super) fn knows(&self, header: &Header) -> bool {
        self.rekeys().any(|rekey| rekey.keys.is_of(header))
    }

    /// All that a member is to hold, in as few messages as it fills.
    ///
    /// One that began anew gets it when there are keys that it never used; one that is to go, nothing.
    pub(super) fn push_for(&self, client: &str, profile: &Group, ctx: &Context<'_>) -> Vec<Push> {
        let mut filling = Filling::default();
        if self.restarts.is_waiting(client) || !self.is_in(client) {
            return Vec::new();
        }
        let (Some(place), Some(current)) = (self.places.get(client), &self.current) else { return Vec::new() };
        // A place that stands in the list is taken in the tree.
        let Ok(download) = self.tree.download(*place) else { return Vec::new() };
        let sa = current.sa(profile, self.tree.version(), ctx);
        let packets = vec![
            current.signature_key(ctx),
            KeyPacket::new(key_type::LKH, &current.keys.spi()).with(LKH_DOWNLOAD_ARRAY, &download.encode()),
        ];
        filling.add(|push| push.add_rekey(sa, packets));
        self.add_teks(&mut filling, profile, ctx, |_| true);
        filling.finish()
    }

    /// Takes the group out of the store: what tells its members that it is no more. A member may still be under an SA from before
    /// the last one, and it listens to no new keys any longer.
    pub(super) fn dissolve(&mut self, until: Time, name: &str, ctx: &mut Context<'_>) -> Vec<Push> {
        let teks: Vec<u32> = self.teks.values().flat_map(Tek::spis).collect();
        for tek in self.teks.values() {
            tek.bury(until, ctx);
            tek.forget(name, ctx);
        }
        ctx.writes.extend(self.tree.nodes().map(|(id, _)| Write::node(name, id, None)));
        ctx.writes.extend(self.places.keys().map(|client| Write::no_place(name, client)));
        ctx.writes.push(Write::no_group(name));
        self.stored().for_each(|rekey| rekey.forget(name, ctx));
        let rekeys: Vec<Vec<u8>> = self.stored().map(|rekey| rekey.keys.spi().to_vec()).collect();
        // "To delete a KEK SA, the value of zero MUST be used as the protocol id." (draft 5.0)
        let of_rekeys = Delete { doi: ctx.doi, protocol: 0, spis: rekeys };
        // They go first: what is multicast and late would bring back an SA of ESP that is taken away.
        let deletes =
            [of_rekeys].into_iter().filter(|delete| !delete.spis.is_empty()).chain(delete_teks(ctx.doi, &teks));
        deletes.map(|delete| Push { deletes: vec![delete], ..Push::default() }).collect()
    }

    /// Makes all changes that are wished for, in one step.
    fn change(&mut self, now: Time, name: &str, profile: &Group, ctx: &mut Context<'_>) -> Result<Outcome, TreeError> {
        self.due = None;
        let wishes = std::mem::take(&mut self.wishes);
        let leavers: Vec<String> =
            wishes.leavers.into_iter().filter(|client| self.places.contains_key(client)).collect();
        let newcomers: Vec<String> = wishes.newcomers.into_iter().collect();
        let is_heard = self.places.len() > leavers.len();
        let is_worn = |current: &Rekey| current.sender.next_number() > MOST_MESSAGES;
        let is_kek_old =
            self.current.as_ref().is_some_and(|current| current.renewal(profile) <= now || is_worn(current));
        let are_teks_old = self.tek_renewal(profile).is_some_and(|at| at <= now);

        // The tree: what goes to those who stay, under the re-key SA that they have.
        let mut updates: Vec<(u16, Vec<u8>)> = Vec::new();
        if !leavers.is_empty() || (newcomers.is_empty() && (wishes.rekey || is_kek_old)) {
            let places: Vec<Place> = leavers.iter().filter_map(|client| self.places.remove(client)).collect();
            let (change, update) = self.tree.stage_exclusion(&places, ctx.rng)?;
            leavers.iter().for_each(|client| ctx.writes.push(Write::no_place(name, client)));
            self.commit(name, change, ctx)?;
            updates.extend(update.parts(PART).iter().map(|part| (LKH_COMPACT_UPDATE, part.encode())));
        }
        for clients in newcomers.chunks(MAX_JOINS) {
            let (change, joins) = self.tree.stage_joins(clients.len(), ctx.rng)?;
            for (client, place) in clients.iter().zip(joins.places()) {
                self.places.insert(client.clone(), *place);
                ctx.writes.push(Write::place(name, client, *place));
            }
            self.commit(name, change, ctx)?;
            updates.push((LKH_JOINS, joins.encode()));
        }
        let mut multicast = Vec::new();
        let has_new_kek = !updates.is_empty();
        if has_new_kek {
            multicast = self.replace_rekey(now, name, profile, ctx, is_heard.then_some(updates));
        }

        // The SAs of ESP: to those who stay, under the new re-key SA.
        let has_restarted = self.restarts.timeout().is_some_and(|at| at <= now);
        let all_anew = !leavers.is_empty()
            || wishes.rekey
            || are_teks_old
            || (profile.rekey_on_join && ((!newcomers.is_empty() && is_heard) || has_restarted));
        let restarted = self.restarts.take(now, all_anew, profile.delays);
        let is_anew = |sender: &str| all_anew || restarted.contains(sender);
        let (deleted, fresh) = self.renew_teks(now, name, profile, ctx, is_anew, all_anew);
        if is_heard {
            let mut filling = Filling::default();
            for delete in delete_teks(ctx.doi, &deleted) {
                filling.add(|push| push.deletes.push(delete));
            }
            self.add_teks(&mut filling, profile, ctx, |spi| fresh.contains(&spi));
            let pushes = filling.finish();
            if let Some(current) = &mut self.current {
                multicast.extend(pushes.iter().map(|push| current.push(now, name, push, ctx)));
            }
        }
        ctx.writes.push(Write::group(name, self, &ctx.calendar));
        ctx.writes.extend(restarted.iter().map(|client| Write::restarted(name, client, false)));
        if let Some(next) = self.restarts.timeout() {
            self.wish_by(next);
        }
        if ctx.one_way.keys().any(|client| self.places.contains_key(client)) {
            multicast.iter().for_each(|datagram| self.repeater.add(now, datagram));
        }
        let told = newcomers.into_iter().chain(restarted).chain(wishes.returned);
        let told = told.filter(|client| self.places.contains_key(client)).collect();
        let rekeyed = !fresh.is_empty() || !deleted.is_empty() || has_new_kek;
        Ok(Outcome { multicast, told, gone: leavers, rekeyed, has_deleted: !deleted.is_empty() })
    }

    /// Makes a change of the tree, here and in the store.
    fn commit(&mut self, name: &str, change: Change, ctx: &mut Context<'_>) -> Result<(), TreeError> {
        for (id, node) in change.nodes() {
            ctx.writes.push(Write::node(name, id, node));
        }
        let moves: BTreeMap<Place, Place> = change.moves().iter().map(|moved| (moved.from, moved.to)).collect();
        if !moves.is_empty() {
            for (client, place) in &mut self.places {
                if let Some(to) = moves.get(place) {
                    *place = *to;
                    ctx.writes.push(Write::place(name, client, *to));
                }
            }
        }
        self.tree.commit(change)
    }

    /// A re-key SA of the tree as it is now takes the place of the one before. `updates` are what those need for it who have
    /// the one before: what goes to them.
    fn replace_rekey(
        &mut self,
        now: Time,
        name: &str,
        profile: &Group,
        ctx: &mut Context<'_>,
        updates: Option<Vec<(u16, Vec<u8>)>>,
    ) -> Vec<Vec<u8>> {
        let life = Life { since: now, lifetime: profile.kek_lifetime };
        let next = self.tree.root().map(|root| Rekey::new(life, name, root.key(), ctx));
        let mut multicast = Vec::new();
        if let (Some(current), Some(next), Some(updates)) = (&mut self.current, &next, updates) {
            let version = self.tree.version();
            for (class, octets) in updates {
                let mut push = Push::default();
                let packet = KeyPacket::new(key_type::LKH, &next.keys.spi()).with(class, &octets);
                push.add_rekey(next.sa(profile, version, ctx), vec![packet]);
                multicast.push(current.push(now, name, &push, ctx));
            }
        }
        if self.previous.len() == MOST_PREVIOUS {
            let (mut rekey, until) = self.previous.remove(0);
            rekey.forget(name, ctx);
            rekey.sender.forget();
            if self.stale.len() == MOST_STALE {
                self.stale.pop_front();
            }
            self.stale.push_back((rekey, until));
        }
        self.previous.extend(self.current.take().map(|rekey| (rekey, now + AFTERLIFE)));
        self.current = next;
        multicast
    }

    /// SAs of ESP for each flow and each sender that is in: those that go, and those that are new.
    fn renew_teks(
        &mut self,
        now: Time,
        name: &str,
        profile: &Group,
        ctx: &mut Context<'_>,
        is_anew: impl Fn(&str) -> bool,
        all_anew: bool,
    ) -> (Vec<u32>, BTreeSet<u32>) {
        let mut wanted = BTreeSet::new();
        for flow in &profile.flows {
            let senders = flow.senders.iter().filter(|sender| self.places.contains_key(*sender));
            wanted.extend(senders.map(|sender| (flow.selector, sender.clone())));
        }
        let held = self.teks_life.map_or(Duration::ZERO, |life| life.lifetime);
        let mut deleted = Vec::new();
        self.teks.retain(|id, tek| {
            let stays = wanted.contains(id);
            if !stays {
                deleted.push(tek.spi);
                tek.bury(now + held, ctx);
                tek.forget(name, ctx);
            }
            stays
        });
        let mut fresh = BTreeSet::new();
        for id in wanted {
            let tek = match self.teks.get(&id) {
                Some(_) if !is_anew(&id.1) => continue,
                // Members see by the flow that it takes the other's place.
                Some(tek) => tek.replace(now, held, name, ctx),
                None => Tek::new(ctx),
            };
            fresh.insert(tek.spi);
            ctx.writes.push(Write::tek(name, &id, &tek, &ctx.calendar));
            self.teks.insert(id, tek);
        }
        if all_anew || self.teks.len() == fresh.len() {
            let life = Life { since: now, lifetime: profile.tek_lifetime };
            self.teks_life = (!self.teks.is_empty()).then_some(life);
        }
        (deleted, fresh)
    }

    fn add_teks(&self, filling: &mut Filling, profile: &Group, ctx: &Context<'_>, wants: impl Fn(u32) -> bool) {
        let Some(life) = self.teks_life else { return };
        for ((selector, sender), tek) in self.teks.iter().filter(|(_, tek)| wants(tek.spi)) {
            let Some(address) = ctx.address(sender) else { continue };
            let (sa, packet) = tek.of_flow(selector, address, life);
            filling.add(|push| {
                push.policy.delays = Some(profile.delays);
                push.add_traffic(sa, packet);
            });
        }
    }

    fn renewal(&self, profile: &Group) -> Option<Time> {
        let kek = self.current.as_ref().map(|current| current.renewal(profile));
        kek.into_iter().chain(self.tek_renewal(profile)).min()
    }

    fn tek_renewal(&self, profile: &Group) -> Option<Time> {
        self.teks_life.map(|life| life.renewal(profile.tek_lifetime))
    }

    fn rekeys(&self) -> impl Iterator<Item = &Rekey> {
        self.stale.iter().map(|(rekey, _)| rekey).chain(self.stored())
    }

    fn stored(&self) -> impl Iterator<Item = &Rekey> {
        self.previous.iter().map(|(rekey, _)| rekey).chain(&self.current)
    }
}
