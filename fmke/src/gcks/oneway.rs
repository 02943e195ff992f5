//! A client without a return channel at the key server (draft 6.1): what it is told, again and again.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use muster_wire::Time;

use super::machine::Gcks;
use super::profile::OneWay;
use super::store::Write;
use crate::isakmp::exchange;
use crate::phase1::{Datagram, IsakmpSa};
use crate::push::{COPIES, Filling, PATIENCE, Push, Repeater, SPACING};

/// So many numbers are taken out of the store at once: who has a thousand such clients does not write for each message. After a
/// restart those that were not used stay so.
const RESERVE: u32 = 64;
/// One number a second is used in the long run, as the clock goes: so many more, and as many as all of the profile takes, may be.
const MOST_AHEAD: u32 = 64;
/// Such clients are told for the first time one after the other, so far apart or less.
const STAGGER: Duration = Duration::from_millis(50);

/// By the SA (both cookies): the first number that was never used, nor may have been. Of SAs that are no longer, too.
pub(super) type Numbers = BTreeMap<[u8; 16], u32>;

/// Where it is, and what is on its way.
pub(super) struct Terminal {
    sa: IsakmpSa,
    to: SocketAddr,
    repeater: Repeater,
    /// The number of the next message.
    next: u32,
    /// The first one, and when it was.
    first: (u32, Time),
    /// All of its profile is being told.
    is_in_round: bool,
    /// When all of its profile is told next; of an excluded one never.
    round: Option<Time>,
    /// The last message's number, and when it was sent first.
    pub(super) told: Option<(u32, Time)>,
    /// When it is looked at, if it stands in the list of those.
    pub(super) timer: Option<Time>,
}

impl Terminal {
    /// A client at this address, silent for now. `unix` is what the clock shows.
    pub(super) fn new(
        now: Time,
        doi: u32,
        server: IpAddr,
        address: IpAddr,
        client: &OneWay,
        numbers: &Numbers,
        unix: u64,
    ) -> Self {
        let sa = client.key.sa(doi, server, address);
        // The clock beside what is stored: should the store be lost, or be a copy that was brought back, the client is still told
        // numbers that it does not know. 2106 is far.
        let clock = u32::try_from(unix).unwrap_or(1);
        let next = numbers.get(&sa.id().octets()).copied().unwrap_or(1).max(clock);
        let to = SocketAddr::new(address, client.port);
        let first = (next, now);
        let repeater = Repeater::default();
        Terminal { sa, to, repeater, next, first, is_in_round: false, round: None, told: None, timer: None }
    }

    /// Whether it is the same, there, with this key.
    pub(super) fn is_same(&self, other: &Terminal) -> bool {
        self.sa.id() == other.sa.id() && self.to == other.to
    }

    /// It is told from now on, all of its profile for the first time at `round`.
    pub(super) fn speak(&mut self, round: Time) {
        self.round = Some(round);
    }

    /// It is told nothing more.
    pub(super) fn silence(&mut self) {
        self.round = None;
        self.repeater.clear();
    }

    /// Whether it is told anything.
    pub(super) fn is_spoken_to(&self) -> bool {
        self.round.is_some()
    }

    /// How many seconds it is until numbers are not ahead of the clock any longer.
    fn ahead(&self, now: Time) -> u32 {
        let (first, since) = self.first;
        let seconds = u32::try_from(now.since(since).as_secs()).unwrap_or(u32::MAX);
        self.next.saturating_sub(first.saturating_add(seconds).saturating_add(MOST_AHEAD))
    }

    /// The next message, of which copies follow. `None` if it is told nothing now: what it is to hear it hears in the next round, which
    /// then comes as soon as it may.
    pub(super) fn push(
        &mut self,
        now: Time,
        push: &Push,
        numbers: &mut Numbers,
        writes: &mut Vec<Write>,
    ) -> Option<Datagram> {
        let round = self.round?;
        if !self.is_in_round && self.ahead(now) > 0 {
            self.round = Some(round.min(now));
            return None;
        }
        let (id, number) = (self.sa.id().octets(), self.next);
        // 2^32 messages in the life of a key there are not; if there were, it would have to be another.
        self.next = number.checked_add(1)?;
        let free = numbers.entry(id).or_default();
        if *free <= number {
            *free = number.saturating_add(RESERVE);
            writes.push(Write::number(&id, *free));
        }
        let mut chain = push.chain(number, self.sa.doi());
        self.sa.add_hash(&[], &mut chain);
        // The message id is the number, so that no IV ever comes twice.
        let bytes = self.sa.seal(exchange::UNICAST_PUSH, number, &chain);
        self.repeater.add(now, &bytes);
        self.told = Some((number, now));
        Some(Datagram { to: self.to, bytes })
    }

    /// Whether something that was said before may be taken only now: copies are on their way, or wait for one that is missing.
    pub(super) fn is_behind(&self, now: Time) -> bool {
        self.told.is_some_and(|(_, at)| now < at + SPACING * u32::from(COPIES) + PATIENCE)
    }

    /// When to ask [`copies`](Self::copies) and [`begin_round`](Self::begin_round).
    pub(super) fn timeout(&self) -> Option<Time> {
        self.repeater.timeout().into_iter().chain(self.round).min()
    }

    /// What goes again by `now`.
    pub(super) fn copies(&mut self, now: Time) -> Vec<Datagram> {
        let to = self.to;
        self.repeater.due(now).into_iter().map(|bytes| Datagram { to, bytes }).collect()
    }

    /// Whether all of its profile is to be told by `now`; then the next time is a `period` later. It waits while numbers are ahead of
    /// the clock.
    pub(super) fn begin_round(&mut self, now: Time, period: Duration) -> bool {
        let ahead = self.ahead(now);
        let Some(round) = self.round.as_mut().filter(|round| **round <= now) else { return false };
        self.is_in_round = ahead == 0;
        *round = now + if self.is_in_round { period } else { Duration::from_secs(ahead.into()) };
        self.is_in_round
    }

    /// All of it was told.
    pub(super) fn end_round(&mut self) {
        self.is_in_round = false;
    }
}

impl Gcks {
    /// Clients without a return channel cannot connect: they are told of themselves.
    pub(super) fn enlist(&mut self, now: Time) {
        let profiles = self.profiles.clone();
        self.one_way.retain(|client, _| profiles.is_one_way(client));
        let mut rounds = Vec::new();
        for (name, client) in &profiles.clients {
            let Some(one_way) = &client.one_way else { continue };
            let unix = self.calendar.unix(now);
            let terminal =
                Terminal::new(now, self.doi, self.address.ip(), client.address, one_way, &self.numbers, unix);
            if self.one_way.get(name).is_none_or(|before| !before.is_same(&terminal)) {
                self.one_way.insert(name.clone(), terminal);
                rounds.push(name.clone());
            }
        }
        let apart = STAGGER.min(self.one_way_period / u32::try_from(rounds.len()).unwrap_or(u32::MAX).max(1));
        rounds.retain(|name| !self.excluded.contains(name));
        for (place, name) in (0..).zip(rounds) {
            if let Some(terminal) = self.one_way.get_mut(&name) {
                terminal.speak(now + apart * place);
                self.set_timer(&name);
            }
        }
    }

    /// Does what is due for a client without a return channel: copies, and now and then all of its profile.
    pub(super) fn attend_one_way(&mut self, now: Time, client: &str) {
        let Some(terminal) = self.one_way.get_mut(client) else { return };
        self.out.extend(terminal.copies(now));
        if terminal.begin_round(now, self.one_way_period) {
            self.tell_gone(now, client);
            let profiles = self.profiles.clone();
            for (name, profile) in profiles.groups_of(client) {
                self.tell_group(now, client, name, profile);
            }
            // In few messages: a message has delays that all in it have.
            let mut by_delays: BTreeMap<(u16, u16), Filling> = BTreeMap::new();
            for (name, vpn) in profiles.vpns_of(client) {
                let filling = by_delays.entry((vpn.delays.activation, vpn.delays.deactivation)).or_default();
                self.context(|gcks, ctx| gcks.vpns.get(name).map(|state| state.fill(filling, vpn, ctx)));
            }
            by_delays.into_values().for_each(|filling| self.push(now, client, &filling.finish()));
            self.one_way.get_mut(client).into_iter().for_each(Terminal::end_round);
        }
        self.set_timer(client);
    }

    pub(super) fn set_timer(&mut self, client: &str) {
        let Some(terminal) = self.one_way.get_mut(client) else { return };
        // A later one stands in the list already, or an earlier one, which finds nothing due.
        if let Some(at) = terminal.timeout().filter(|at| terminal.timer.is_none_or(|timer| *at < timer)) {
            terminal.timer = Some(at);
            self.timers.insert((at, client.to_owned()));
        }
    }
}
