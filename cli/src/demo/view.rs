//! What a daemon says of itself, as far as the demo looks at it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::timeline::Moment;

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Status {
    pub(crate) member_id: String,
    pub(crate) group: Group,
    pub(crate) dataplane: Dataplane,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Group {
    pub(crate) epoch: u64,
    pub(crate) members: usize,
    pub(crate) key_fingerprint: String,
    /// It sends under this epoch's key.
    pub(crate) active: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Dataplane {
    pub(crate) backend: String,
    pub(crate) dropped: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Member {
    pub(crate) member_id: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Event {
    pub(crate) mono_us: u64,
    pub(crate) event: String,
    pub(crate) member: Option<String>,
    pub(crate) epoch: u64,
    pub(crate) detail: String,
}

impl Event {
    fn at(&self) -> Moment {
        Moment(self.mono_us)
    }
}

/// When it began to send under the key of `epoch`.
pub(crate) fn activated(events: &[Event], epoch: u64) -> Option<Moment> {
    events.iter().rev().find(|event| event.event == "activated" && event.epoch == epoch).map(Event::at)
}

/// When it first sent under a key that another member has, too.
pub(crate) fn joined(events: &[Event]) -> Option<Moment> {
    let mut shared = false;
    for event in events {
        match event.event.as_str() {
            // Its detail is "3 members".
            "epoch" => shared = event.detail.split(' ').next().and_then(|n| n.parse::<usize>().ok()) > Some(1),
            "activated" if shared => return Some(event.at()),
            _ => {}
        }
    }
    None
}

/// When it first noticed, after `since`, that `member` is gone.
pub(crate) fn missed(events: &[Event], member: &str, since: Moment) -> Option<Moment> {
    let is_that = |event: &&Event| event.event == "leave" && event.member.as_deref() == Some(member);
    events.iter().filter(is_that).map(Event::at).find(|at| *at >= since)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(mono_us: u64, event: &str, epoch: u64, detail: &str) -> Event {
        Event { mono_us, event: event.into(), member: Some("m".into()), epoch, detail: detail.into() }
    }

    #[test]
    fn joining_is_the_first_activation_in_company() {
        let mut events = vec![event(1, "epoch", 1, "1 members"), event(2, "activated", 1, "")];
        assert_eq!(joined(&events), None);
        events.extend([event(3, "epoch", 2, "2 members"), event(4, "installed", 2, "")]);
        assert_eq!(joined(&events), None);
        events.extend([event(5, "activated", 2, ""), event(6, "epoch", 3, "3 members"), event(7, "activated", 3, "")]);
        assert_eq!(joined(&events), Some(Moment(5)));
        assert_eq!(activated(&events, 3), Some(Moment(7)));
        assert_eq!(activated(&events, 4), None);
    }

    #[test]
    fn only_a_later_leave_of_that_member_counts() {
        let events = [event(1, "leave", 1, ""), event(2, "join", 1, ""), event(5, "leave", 1, "")];
        assert_eq!(missed(&events, "m", Moment(2)), Some(Moment(5)));
        assert_eq!(missed(&events, "m", Moment(6)), None);
        assert_eq!(missed(&events, "other", Moment(0)), None);
    }
}
