//! What is wanted on one interface, in one family, and who asks (RFC 3376 6, 7; RFC 3810 7, 8).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use muster_wire::Time;

use crate::group::{Ask, Group, Timing};
use crate::message::{Message, Query, Record, Version};

/// Groups remembered of an interface. While there are so many the others are wanted, too: who fills it shuts nobody out.
pub const MAX_GROUPS: usize = 1024;

/// RFC 3376 8.1 to 8.3, 8.8; RFC 3810 9 has the same.
const OWN: Timing = Timing {
    robustness: 2,
    query_interval: Duration::from_secs(125),
    response: Duration::from_secs(10),
    last_member: Duration::from_secs(1),
};

/// Without an address that may ask, it is looked for again after this.
const NO_ADDRESS: Duration = Duration::from_secs(1);

/// Who asks on this link: the router with the lowest address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// This one.
    Querier,
    /// Another, whom this one hears.
    NonQuerier {
        /// Its address.
        querier: IpAddr,
    },
}

/// Groups of which something else may be wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    groups: BTreeSet<IpAddr>,
    /// Those that are not remembered, too.
    others: bool,
}

impl Changed {
    /// Whether it is one of them.
    pub fn contains(&self, group: &IpAddr) -> bool {
        self.others || self.groups.contains(group)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        !self.others && self.groups.is_empty()
    }

    /// Adds others.
    pub fn extend(&mut self, more: Changed) {
        self.groups.extend(more.groups);
        self.others |= more.others;
    }
}

/// A group somebody listens to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Which.
    pub group: IpAddr,
    /// True: to all sources but those listed. False: to those alone.
    pub exclude: bool,
    /// See `exclude`.
    pub sources: Vec<IpAddr>,
}

/// The state machine. Call `handle_*`, then drain [`poll_transmit`](Self::poll_transmit) and
/// [`take_changed`](Self::take_changed), and call [`handle_timeout`](Self::handle_timeout) when
/// [`poll_timeout`](Self::poll_timeout) says.
#[derive(Debug)]
pub struct Querier {
    /// The own one; `None`: asks nothing.
    address: Option<IpAddr>,
    /// Another querier and how long it counts without being heard.
    other: Option<(IpAddr, Time)>,
    timing: Timing,
    general_at: Time,
    /// General queries that still follow each other quickly.
    startup_left: u8,
    groups: BTreeMap<IpAddr, Group>,
    /// Questions that are said again, for what somebody left.
    asking: BTreeMap<IpAddr, Asking>,
    queue: VecDeque<Query>,
    changed: Changed,
    refused: u64,
}

/// Queries about one group that are still to come.
#[derive(Debug, Default)]
struct Asking {
    at: Time,
    group_left: u8,
    sources_left: BTreeMap<IpAddr, u8>,
}

impl Querier {
    /// Asks for the first time at once.
    pub fn new(now: Time) -> Self {
        Querier {
            address: None,
            other: None,
            timing: OWN,
            general_at: now,
            startup_left: OWN.robustness,
            groups: BTreeMap::new(),
            asking: BTreeMap::new(),
            queue: VecDeque::new(),
            changed: Changed::default(),
            refused: 0,
        }
    }

    /// The own address on the interface, of which queries come; `None`: there is none now, and none is sent.
    pub fn set_address(&mut self, address: Option<IpAddr>) {
        self.address = address;
    }

    /// See [`set_address`](Self::set_address).
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Who asks.
    pub fn role(&self) -> Role {
        self.other.map_or(Role::Querier, |(querier, _)| Role::NonQuerier { querier })
    }

    /// Whether packets from `source` to `group` are wanted.
    pub fn wants(&self, group: &IpAddr, source: &IpAddr) -> bool {
        self.groups.get(group).map_or(self.is_full(), |group| group.wants(source))
    }

    /// All that somebody listens to, by address.
    pub fn groups(&self) -> impl Iterator<Item = GroupStatus> {
        self.groups.iter().map(|(address, group)| {
            let (exclude, sources) = group.wanted();
            GroupStatus { group: *address, exclude, sources }
        })
    }

    fn is_full(&self) -> bool {
        self.groups.len() >= MAX_GROUPS
    }

    /// Records of reports that found no room.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// A message from the link. The groups of reports are those that the caller carries: others cost room.
    pub fn handle_message(&mut self, now: Time, source: IpAddr, message: &Message) {
        match message {
            Message::Query(query) => self.handle_query(now, source, query),
            Message::Report(version, records) => {
                records.iter().for_each(|record| self.handle_record(now, *version, record));
            }
        }
    }

    fn handle_query(&mut self, now: Time, source: IpAddr, query: &Query) {
        // A switch asks with the unspecified address and is no querier (RFC 4541 2.1.1).
        if source.is_unspecified() || source.is_multicast() {
            return;
        }
        let is_lower = self.address.is_none_or(|own| source < own);
        if is_lower && self.other.is_none_or(|(other, _)| source <= other) {
            self.follow(now, source, query);
        }
        // Whoever asks (RFC 3376 6.6.1): hosts that do not answer are gone.
        if let Some(group) = query.group.filter(|_| !query.suppress) {
            let until = now + self.timing.last_member_total();
            if let Some(group) = self.groups.get_mut(&group) {
                match query.sources.is_empty() {
                    true => group.lower(until),
                    false => _ = group.lower_sources(&query.sources, until),
                }
            }
        }
    }

    /// Another asks, and its numbers count (RFC 3376 6.6.2, 4.1.6, 4.1.7).
    fn follow(&mut self, now: Time, source: IpAddr, query: &Query) {
        self.timing.robustness = if query.robustness > 1 { query.robustness } else { OWN.robustness };
        self.timing.query_interval = if query.interval.is_zero() { OWN.query_interval } else { query.interval };
        if query.group.is_none() {
            self.timing.response = query.max_response;
        }
        let present = self.timing.query_interval * self.timing.robustness.into() + self.timing.response / 2;
        self.other = Some((source, now + present));
        self.asking.clear();
    }

    fn handle_record(&mut self, now: Time, version: Version, record: &Record) {
        if !record.group.is_multicast() {
            return;
        }
        let was_full = self.is_full();
        if !self.groups.contains_key(&record.group) && was_full {
            self.refused += 1;
            return;
        }
        let group = self.groups.entry(record.group).or_default();
        let before = group.wanted();
        let ask = group.report(now, &self.timing, version, record);
        if group.wanted() != before {
            self.changed.groups.insert(record.group);
        }
        if group.is_empty() {
            self.groups.remove(&record.group);
        } else if self.other.is_none() && self.address.is_some() {
            self.ask(now, record.group, ask);
        }
        self.changed.others |= self.is_full() != was_full;
    }

    /// Begins to ask for what somebody left (RFC 3376 6.6.3).
    fn ask(&mut self, now: Time, address: IpAddr, ask: Ask) {
        let Some(group) = self.groups.get_mut(&address) else { return };
        let (until, times) = (now + self.timing.last_member_total(), self.timing.robustness);
        let sources = group.lower_sources(&ask.sources, until);
        if !ask.group && sources.is_empty() {
            return;
        }
        let is_new = !sources.is_empty() || !self.asking.contains_key(&address);
        let asking = self.asking.entry(address).or_default();
        if is_new {
            asking.at = now;
        }
        // Who is being asked for is not asked for anew (RFC 2236 7).
        if ask.group && asking.group_left == 0 {
            group.lower(until);
            asking.group_left = times;
        }
        asking.sources_left.extend(sources.into_iter().map(|source| (source, times)));
    }

    /// Whether all are asked next: the moment to [`set_address`](Self::set_address).
    pub fn asks_all(&self, now: Time) -> bool {
        self.other.map_or(self.general_at, |(_, until)| until) <= now
    }

    /// The next moment that matters.
    pub fn poll_timeout(&self) -> Option<Time> {
        let election = self.other.map_or(self.general_at, |(_, until)| until);
        let groups = self.groups.values().filter_map(Group::timeout);
        groups.chain(self.asking.values().map(|asking| asking.at)).chain([election]).min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.other.is_some_and(|(_, until)| until <= now) {
            self.other = None;
            self.timing = OWN;
            self.general_at = now;
        }
        if self.other.is_none() && self.general_at <= now {
            self.ask_all(now);
        }
        self.ask_again(now);
        let was_full = self.is_full();
        let Self { groups, changed, .. } = self;
        groups.retain(|address, group| {
            let is_due = group.timeout().is_some_and(|next| next <= now);
            if is_due {
                group.expire(now);
                changed.groups.insert(*address);
            }
            !group.is_empty()
        });
        self.changed.others |= self.is_full() != was_full;
    }

    /// A general query (RFC 3376 6.1, 8.6, 8.7).
    fn ask_all(&mut self, now: Time) {
        if self.address.is_none() {
            self.general_at = now + NO_ADDRESS;
            return;
        }
        let is_first = self.startup_left > 0;
        self.startup_left = self.startup_left.saturating_sub(1);
        let pause = if self.startup_left > 0 { OWN.query_interval / 4 } else { OWN.query_interval };
        self.general_at = now + pause;
        let mut query = self.query(None, Vec::new(), false);
        if is_first {
            // Until the answers come nothing enters the LAN.
            query.max_response = self.timing.last_member;
        }
        self.queue.push_back(query);
    }

    fn ask_again(&mut self, now: Time) {
        let due: Vec<IpAddr> = self.asking.iter().filter(|(_, asking)| asking.at <= now).map(|(g, _)| *g).collect();
        for address in due {
            let Some(mut asking) = self.asking.remove(&address) else { continue };
            // Gone meanwhile: nobody is left to be asked.
            let Some(group) = self.groups.get(&address) else { continue };
            let until = now + self.timing.last_member_total();
            let mut queries = Vec::new();
            if asking.group_left > 0 {
                asking.group_left -= 1;
                queries.push((Vec::new(), group.outlasts(until)));
            }
            let (mut answered, mut open) = (Vec::new(), Vec::new());
            asking.sources_left.retain(|source, left| {
                let Some(outlasts) = group.source_outlasts(source, until) else { return false };
                if outlasts {
                    answered.push(*source)
                } else {
                    open.push(*source)
                }
                *left -= 1;
                *left > 0
            });
            queries.extend([(answered, true), (open, false)].into_iter().filter(|(sources, _)| !sources.is_empty()));
            for (sources, suppress) in queries {
                self.queue.push_back(self.query(Some(address), sources, suppress));
            }
            if asking.group_left > 0 || !asking.sources_left.is_empty() {
                asking.at = now + self.timing.last_member;
                self.asking.insert(address, asking);
            }
        }
    }

    fn query(&self, group: Option<IpAddr>, sources: Vec<IpAddr>, suppress: bool) -> Query {
        Query {
            max_response: if group.is_some() { self.timing.last_member } else { self.timing.response },
            robustness: self.timing.robustness,
            interval: self.timing.query_interval,
            group,
            sources,
            suppress,
        }
    }

    /// What is to be sent.
    pub fn poll_transmit(&mut self) -> Option<Query> {
        self.queue.pop_front()
    }

    /// Groups of which what is wanted may have changed since this was called last.
    pub fn take_changed(&mut self) -> Changed {
        std::mem::take(&mut self.changed)
    }
}
