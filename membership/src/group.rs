//! What is wanted of one group on one interface (RFC 3376 6.2, 6.4; RFC 3810 7.2, 7.4).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use muster_wire::Time;

use crate::message::{Change, Record, Version};

/// Sources remembered of a group. What does not fit is forwarded.
pub(crate) const MAX_SOURCES: usize = 64;

/// How long things last; those of the querier that is heard (RFC 3376 8).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// Messages that may be lost, plus one.
    pub(crate) robustness: u8,
    /// Between general queries.
    pub(crate) query_interval: Duration,
    /// Within this hosts answer a general query.
    pub(crate) response: Duration,
    /// Within this hosts answer a query about what somebody left; between such queries.
    pub(crate) last_member: Duration,
}

impl Timing {
    /// Who has not been heard for so long has gone.
    pub(crate) fn membership(&self) -> Duration {
        self.query_interval * self.robustness.into() + self.response
    }

    /// As long after somebody left nobody else has answered.
    pub(crate) fn last_member_total(&self) -> Duration {
        self.last_member * self.robustness.into()
    }
}

/// What is asked because of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ask {
    /// Whether anybody listens to the group.
    pub(crate) group: bool,
    /// Whether anybody listens to these sources of it.
    pub(crate) sources: Vec<IpAddr>,
}

/// Absent until somebody reports; gone when nobody is left.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    /// While it runs somebody listens to all sources but the excluded ones: filter mode EXCLUDE.
    exclude_until: Option<Time>,
    /// With a time: wanted until then. Without (in EXCLUDE only): excluded.
    sources: BTreeMap<IpAddr, Option<Time>>,
    /// Hosts of older versions are there until then.
    first_until: Time,
    second_until: Time,
}

impl Group {
    /// Whether packets from `source` are wanted.
    pub(crate) fn wants(&self, source: &IpAddr) -> bool {
        match self.sources.get(source) {
            Some(until) => until.is_some(),
            None => self.exclude_until.is_some(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.exclude_until.is_none() && self.sources.is_empty()
    }

    /// What is wanted: all sources but these (true), or these alone.
    pub(crate) fn wanted(&self) -> (bool, Vec<IpAddr>) {
        let exclude = self.exclude_until.is_some();
        (exclude, self.sources.iter().filter(|(_, until)| until.is_none() == exclude).map(|(s, _)| *s).collect())
    }

    /// Takes what a host of `version` says, by the tables of RFC 3376 6.4; what must be asked before anything is taken
    /// from the others.
    pub(crate) fn report(&mut self, now: Time, timing: &Timing, version: Version, record: &Record) -> Ask {
        let membership = now + timing.membership();
        // The older host present timers run as long as a membership (RFC 3376 8.13).
        match (version, record.change) {
            (Version::First, _) => self.first_until = membership,
            (Version::Second, Change::IsExclude) => self.second_until = membership,
            _ => {}
        }
        let Some((change, listed)) = self.compatible(now, record) else { return Ask::default() };
        // One more than is remembered stands for all that there are.
        let listed = &listed[..listed.len().min(MAX_SOURCES + 1)];
        let ask = match self.exclude_until {
            None => self.report_in_include(membership, change, listed),
            Some(group_until) => self.report_in_exclude(membership, group_until, change, listed),
        };
        self.keep_to_bound(membership);
        ask
    }

    /// What counts of a record while older hosts are there, who cannot answer about sources (RFC 3376 7.3.2).
    fn compatible<'a>(&self, now: Time, record: &'a Record) -> Option<(Change, &'a [IpAddr])> {
        let (first, second) = (now < self.first_until, now < self.second_until);
        match record.change {
            Change::Block if first || second => None,
            Change::ToInclude if first => None,
            Change::ToExclude if first || second => Some((Change::ToExclude, &[])),
            change => Some((change, &record.sources)),
        }
    }

    fn report_in_include(&mut self, membership: Time, change: Change, listed: &[IpAddr]) -> Ask {
        match change {
            Change::IsInclude | Change::Allow => self.want(listed, membership),
            Change::Block => return Ask { sources: self.wanted_of(listed), ..Ask::default() },
            Change::ToInclude => {
                let rest = self.wanted_but(listed);
                self.want(listed, membership);
                return Ask { sources: rest, ..Ask::default() };
            }
            Change::IsExclude | Change::ToExclude => {
                let both = self.wanted_of(listed);
                self.sources.retain(|source, _| listed.contains(source));
                listed.iter().for_each(|source| _ = self.sources.entry(*source).or_insert(None));
                self.exclude_until = Some(membership);
                if change == Change::ToExclude {
                    return Ask { sources: both, ..Ask::default() };
                }
            }
        }
        Ask::default()
    }

    fn report_in_exclude(&mut self, membership: Time, group_until: Time, change: Change, listed: &[IpAddr]) -> Ask {
        match change {
            Change::IsInclude | Change::Allow => self.want(listed, membership),
            Change::ToInclude => {
                let rest = self.wanted_but(listed);
                self.want(listed, membership);
                return Ask { group: true, sources: rest };
            }
            Change::Block => {
                for source in listed {
                    self.sources.entry(*source).or_insert(Some(group_until));
                }
                return Ask { sources: self.wanted_of(listed), ..Ask::default() };
            }
            Change::IsExclude | Change::ToExclude => {
                self.sources.retain(|source, _| listed.contains(source));
                let fresh = if change == Change::IsExclude { membership } else { group_until };
                for source in listed {
                    self.sources.entry(*source).or_insert(Some(fresh));
                }
                self.exclude_until = Some(membership);
                if change == Change::ToExclude {
                    return Ask { sources: self.wanted_of(listed), ..Ask::default() };
                }
            }
        }
        Ask::default()
    }

    fn want(&mut self, listed: &[IpAddr], until: Time) {
        listed.iter().for_each(|source| _ = self.sources.insert(*source, Some(until)));
    }

    /// Those of `listed` that are wanted, each once.
    fn wanted_of(&self, listed: &[IpAddr]) -> Vec<IpAddr> {
        self.wanted_sources(|source| listed.contains(source))
    }

    /// The wanted ones that are not in `listed`.
    fn wanted_but(&self, listed: &[IpAddr]) -> Vec<IpAddr> {
        self.wanted_sources(|source| !listed.contains(source))
    }

    fn wanted_sources(&self, which: impl Fn(&IpAddr) -> bool) -> Vec<IpAddr> {
        self.sources.iter().filter(|(source, until)| until.is_some() && which(source)).map(|(s, _)| *s).collect()
    }

    /// More sources than are remembered: all are wanted, until the hosts have said otherwise.
    fn keep_to_bound(&mut self, membership: Time) {
        if self.sources.len() > MAX_SOURCES {
            self.exclude_until.get_or_insert(membership);
            self.sources.clear();
        }
    }

    /// The group is asked for: it lasts until `until` at most, without an answer.
    pub(crate) fn lower(&mut self, until: Time) {
        if let Some(group_until) = &mut self.exclude_until {
            *group_until = until.min(*group_until);
        }
    }

    /// As [`lower`](Self::lower), of sources. Those it was lowered for.
    pub(crate) fn lower_sources(&mut self, sources: &[IpAddr], until: Time) -> Vec<IpAddr> {
        let mut lowered = Vec::new();
        for source in sources {
            if let Some(Some(source_until)) = self.sources.get_mut(source)
                && *source_until > until
            {
                *source_until = until;
                lowered.push(*source);
            }
        }
        lowered
    }

    /// Whether the group lasts longer than `until`: then others need not lower their timers (the S flag).
    pub(crate) fn outlasts(&self, until: Time) -> bool {
        self.exclude_until.is_some_and(|group_until| group_until > until)
    }

    /// As [`outlasts`](Self::outlasts), of a source; `None`: it is no longer wanted.
    pub(crate) fn source_outlasts(&self, source: &IpAddr, until: Time) -> Option<bool> {
        self.sources.get(source)?.map(|source_until| source_until > until)
    }

    /// When the next timer ends.
    pub(crate) fn timeout(&self) -> Option<Time> {
        self.sources.values().flatten().copied().chain(self.exclude_until).min()
    }

    /// Ends the timers that are due (RFC 3376 6.2.2, 6.2.3, 6.5).
    pub(crate) fn expire(&mut self, now: Time) {
        let running = |until: Time| (until > now).then_some(until);
        self.exclude_until = self.exclude_until.and_then(running);
        self.sources.values_mut().for_each(|until| *until = until.and_then(running));
        if self.exclude_until.is_none() {
            // INCLUDE, perhaps since now: the sources whose timers run.
            self.sources.retain(|_, until| until.is_some());
        }
    }
}
