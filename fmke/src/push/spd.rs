//! What a client is to do with what its LAN sends: a list that is told whole, in as many messages of phase 2 as it fills.

use std::collections::BTreeSet;

use super::message::{FILL, Push};
use crate::isakmp::{LONGEST_ENTRY, Malformed, Policy, SpdAction, SpdPart, TrafficSelector};

/// Entries of a list, at most: what a key server that has gone mad can make a client keep.
pub const MOST_SPD_ENTRIES: usize = 4096;

/// What a client's key server lays down for what its LAN sends (RFC 4301 4.4.1). Of two entries that are for a packet the more
/// specific one counts; what none is for is not sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spd {
    /// Goes unprotected.
    pub bypass: BTreeSet<TrafficSelector>,
    /// Goes under an SA, or not at all.
    pub protect: BTreeSet<TrafficSelector>,
}

impl Spd {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.bypass.len() + self.protect.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All messages that tell it.
    pub(crate) fn pushes(&self) -> Vec<Push> {
        let bypass = self.bypass.iter().map(|selector| (*selector, SpdAction::Bypass));
        let entries: Vec<_> =
            bypass.chain(self.protect.iter().map(|selector| (*selector, SpdAction::Protect))).collect();
        let mut parts: Vec<SpdPart> = entries
            .chunks(FILL / LONGEST_ENTRY)
            .map(|entries| SpdPart { is_first: false, is_last: false, entries: entries.to_vec() })
            .collect();
        if parts.is_empty() {
            parts.push(SpdPart { is_first: false, is_last: false, entries: Vec::new() });
        }
        parts[0].is_first = true;
        parts.last_mut().into_iter().for_each(|part| part.is_last = true);
        let push = |part| Push { policy: Policy { spd: Some(part), ..Policy::default() }, ..Push::default() };
        parts.into_iter().map(push).collect()
    }
}

/// A list of which not all parts are here.
#[derive(Default)]
pub(crate) struct Gathering(Option<Spd>);

impl Gathering {
    /// Takes the next part: the list, if that was the last one.
    ///
    /// # Errors
    /// A part of nothing that was begun, or more entries than [`MOST_SPD_ENTRIES`]: the list is forgotten.
    pub(crate) fn take(&mut self, part: &SpdPart) -> Result<Option<Spd>, Malformed> {
        let begun = self.0.take().unwrap_or_default();
        let mut spd = match (part.is_first, begun) {
            (true, _) => Spd::default(),
            (false, begun) if !begun.is_empty() => begun,
            (false, _) => return Err(Malformed::Missing("the beginning of an SPD")),
        };
        for (selector, action) in &part.entries {
            match action {
                SpdAction::Bypass => spd.bypass.insert(*selector),
                SpdAction::Protect => spd.protect.insert(*selector),
            };
        }
        if spd.len() > MOST_SPD_ENTRIES {
            return Err(Malformed::TooMany);
        }
        match part.is_last {
            true => Ok(Some(spd)),
            false => {
                self.0 = Some(spd);
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(port: u16) -> TrafficSelector {
        TrafficSelector {
            protocol: 17,
            source: ("2001:db8:a::/64".parse().unwrap(), 0),
            destination: ("2001:db8:b::/64".parse().unwrap(), port),
        }
    }

    fn parts(spd: &Spd) -> Vec<SpdPart> {
        spd.pushes().into_iter().map(|push| push.policy.spd.unwrap()).collect()
    }

    #[test]
    fn what_is_cut_into_messages_is_put_together_again() {
        for count in [0, 1, 13, 14, 100] {
            let spd = Spd {
                bypass: (1..=count / 2).map(selector).collect(),
                protect: (count / 2 + 1..=count).map(selector).collect(),
            };
            assert_eq!(spd.len(), usize::from(count));
            let pushes = spd.pushes();
            assert_eq!(pushes.len(), usize::from(count).div_ceil(13).max(1));
            assert!(pushes.iter().all(|push| push.chain(1, 2).bytes().len() < 1150));
            let mut gathering = Gathering::default();
            let mut lists = parts(&spd).iter().map(|part| gathering.take(part).unwrap()).collect::<Vec<_>>();
            assert_eq!(lists.pop().unwrap(), Some(spd));
            assert!(lists.iter().all(Option::is_none));
        }
    }

    #[test]
    fn a_list_that_begins_anew_is_another_list() {
        let long = Spd { protect: (1..=20).map(selector).collect(), ..Spd::default() };
        let short = Spd { bypass: [selector(7)].into(), ..Spd::default() };
        let (long_parts, mut gathering) = (parts(&long), Gathering::default());
        assert_eq!(gathering.take(&long_parts[0]), Ok(None));
        assert_eq!(gathering.take(&parts(&short)[0]), Ok(Some(short)));
        // The end of one that was given up.
        assert!(matches!(gathering.take(&long_parts[1]), Err(Malformed::Missing(_))));
    }

    #[test]
    fn a_mad_server_fills_no_memory() {
        let mut gathering = Gathering::default();
        let part = |from: u16| SpdPart {
            is_first: from == 0,
            is_last: false,
            entries: (from..from + 1000).map(|port| (selector(port), SpdAction::Protect)).collect(),
        };
        for from in [0, 1000, 2000, 3000] {
            assert_eq!(gathering.take(&part(from)), Ok(None));
        }
        assert_eq!(gathering.take(&part(4000)), Err(Malformed::TooMany));
        assert!(gathering.take(&part(5000)).is_err(), "it is forgotten");
    }
}
