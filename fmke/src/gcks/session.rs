//! A connected client.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};

use muster_wire::Time;

use super::tek::{MOST_DELETED, delete_teks};
use crate::isakmp::{Malformed, Range, Raw, kind, number, ranges};
use crate::phase1::SaId;
use crate::push::{Push, UnicastSender};

pub(super) struct Session {
    /// Its SA of phase 1.
    pub(super) sa: SaId,
    /// What is under way.
    pub(super) sender: UnicastSender,
    /// What was taken away is being said, beyond this SPI: not kept for each client, for it may be much.
    gone_beyond: Option<u32>,
    /// All of that is to be said when all else is.
    gone_again: bool,
    /// What follows, and of what it is all there is.
    unsaid: VecDeque<(Option<Subject>, Push)>,
    /// When it is looked at, if it stands in the list of those.
    pub(super) timer: Option<Time>,
}

/// What is told as a whole.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Subject {
    /// A group, by name.
    Group(String),
    /// A VPN, by name.
    Vpn(String),
}

impl Session {
    pub(super) fn new(sa: SaId) -> Self {
        Session {
            sa,
            sender: UnicastSender::default(),
            gone_beyond: None,
            gone_again: false,
            unsaid: VecDeque::new(),
            timer: None,
        }
    }

    /// These are to be said after all else. If they are all there is of a subject now, what was to be said of it before no longer is:
    /// who acknowledges slowly is not told ever more.
    pub(super) fn tell(&mut self, subject: Option<&Subject>, pushes: &[Push]) {
        if subject.is_some() {
            self.unsaid.retain(|(other, _)| other.as_ref() != subject);
        }
        let pushes = pushes.iter().filter(|push| !push.is_empty());
        self.unsaid.extend(pushes.map(|push| (subject.cloned(), push.clone())));
    }

    /// All that was taken away is to be said; behind all else, so that this does not wait for ever where it is told ever again.
    pub(super) fn tell_gone(&mut self) {
        match self.gone_beyond {
            None if self.unsaid.is_empty() => self.gone_beyond = Some(0),
            Some(0) => {}
            _ => self.gone_again = true,
        }
    }

    /// What is to be said now; `gone` is what was taken away.
    pub(super) fn next(&mut self, gone: &BTreeMap<u32, Time>, doi: u32) -> Option<Push> {
        if !self.sender.has_room() {
            return None;
        }
        if self.gone_again && self.gone_beyond.is_none() && self.unsaid.is_empty() {
            (self.gone_again, self.gone_beyond) = (false, Some(0));
        }
        if let Some(beyond) = self.gone_beyond {
            let mut left = gone.range((Excluded(beyond), Unbounded)).map(|(spi, _)| *spi).peekable();
            let spis: Vec<u32> = left.by_ref().take(MOST_DELETED).collect();
            self.gone_beyond = spis.last().copied().filter(|_| left.peek().is_some());
            if !spis.is_empty() {
                return Some(Push { deletes: delete_teks(doi, &spis), ..Push::default() });
            }
        }
        let next = self.unsaid.pop_front();
        if self.unsaid.is_empty() {
            // As in what is under way: most clients are told nothing for hours.
            self.unsaid = VecDeque::new();
        }
        next.map(|(_, push)| push)
    }

    /// Whether all is said and acknowledged.
    pub(super) fn is_done(&self) -> bool {
        self.sender.is_done() && self.gone_beyond.is_none() && !self.gone_again && self.unsaid.is_empty()
    }
}

/// `ACK [, SACK…]` (draft 3.1): up to which number all has come, and what beyond.
pub(super) fn read_acknowledgement(payloads: &[Raw<'_>]) -> Result<(u32, Vec<Range>), Malformed> {
    // Nothing else: phase 2 is "initiated by the GCKS" (draft 3.0), and a push of ours that comes back is no acknowledgement.
    match payloads.split_first() {
        Some((ack, rest)) if ack.kind == kind::ACK && rest.iter().all(|raw| raw.kind == kind::SACK) => {
            Ok((number(ack.body)?, ranges(rest, kind::SACK)?))
        }
        _ => Err(Malformed::Missing("ACK")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isakmp::{Chain, Cookie, Delete, payloads};

    fn push(mark: u8) -> Push {
        Push { deletes: vec![Delete { doi: 2, protocol: 1, spis: vec![vec![mark; 4]] }], ..Push::default() }
    }

    #[test]
    fn who_acknowledges_slowly_is_not_told_ever_more() {
        let mut session = Session::new(SaId { responder: Cookie([1; 8]), initiator: Cookie([2; 8]) });
        let (video, audio) = (Subject::Group("video".into()), Subject::Group("audio".into()));
        let say = |session: &mut Session| {
            let mut marks = Vec::new();
            while let Some(push) = session.next(&BTreeMap::new(), 2) {
                marks.push(push.deletes[0].spis[0][0]);
                session.sender.push(Time(0), vec![0]);
            }
            marks
        };
        session.tell(None, &(0..15).map(push).collect::<Vec<_>>());
        session.tell(Some(&video), &[push(20), push(21), Push::default()]);
        assert_eq!(say(&mut session), (0..15).chain([20]).collect::<Vec<_>>(), "so many are under way at once");
        session.tell(None, &[push(30)]);
        session.tell(Some(&audio), &[push(40)]);
        for round in 50..100 {
            session.tell(Some(&video), &[push(round)]);
        }
        assert_eq!(session.unsaid.len(), 3);
        session.sender.due(Time(0));
        session.sender.acknowledge(Time(1), 16, &[]);
        assert!(session.sender.is_done() && !session.is_done());
        assert_eq!(say(&mut session), [30, 40, 99], "what is new last");
        session.sender.due(Time(1));
        session.sender.acknowledge(Time(2), 19, &[]);
        assert!(session.is_done());
    }

    #[test]
    fn what_was_taken_away_is_told_in_parts_and_holds_nothing_up() {
        let mut session = Session::new(SaId { responder: Cookie([1; 8]), initiator: Cookie([2; 8]) });
        let gone: BTreeMap<u32, Time> = (1000..1450).map(|spi| (spi, Time(0))).collect();
        session.tell_gone();
        session.tell(None, &[push(30)]);
        assert!(!session.is_done());
        let mut said = Vec::new();
        while let Some(push) = session.next(&gone, 2) {
            assert_eq!(push.deletes.len(), 1);
            said.push(push.deletes[0].spis.clone());
        }
        assert_eq!(said.iter().map(Vec::len).collect::<Vec<_>>(), [200, 200, 50, 1]);
        let spis: Vec<Vec<u8>> = gone.keys().map(|spi| spi.to_be_bytes().to_vec()).collect();
        assert_eq!((said[..3].concat(), &said[3][0]), (spis, &vec![30; 4]));
        assert!(session.is_done());

        let mut next = |other: u8| {
            session.tell_gone();
            session.tell(None, &vec![push(other); usize::from(other > 0)]);
            session.next(&gone, 2).map(|push| push.deletes[0].spis.len())
        };
        let told = [0, 40, 41, 0, 0, 0, 42, 0, 0, 0, 0].map(&mut next).map(|said| said.expect("more"));
        assert_eq!(told, [200, 200, 50, 1, 1, 200, 200, 50, 1, 200, 200]);
        assert!(!session.is_done());
    }

    #[test]
    fn a_member_acknowledges_and_says_nothing_else() {
        let read = |list: &[(u8, &[u8])]| {
            let mut chain = Chain::new();
            list.iter().for_each(|(kind, body)| _ = chain.add(*kind, body));
            let list = payloads(chain.first(), chain.bytes(), false).unwrap();
            read_acknowledgement(&list)
        };
        let ack: (u8, &[u8]) = (kind::ACK, &[0, 0, 0, 4]);
        let sack: (u8, &[u8]) = (kind::SACK, &[0, 0, 0, 6, 0, 0, 0, 7]);
        let nack: (u8, &[u8]) = (kind::NACK, sack.1);
        let sequence: (u8, &[u8]) = (kind::SEQ, ack.1);
        assert_eq!(read(&[ack]), Ok((4, Vec::new())));
        assert_eq!(read(&[ack, sack, sack]), Ok((4, vec![Range { first: 6, last: 7 }; 2])));
        for list in [&[][..], &[sack], &[sack, ack], &[ack, ack], &[ack, nack], &[sequence], &[sequence, ack]] {
            assert_eq!(read(list), Err(Malformed::Missing("ACK")), "{list:?}");
        }
        assert_eq!(read(&[(kind::ACK, &[0, 0, 4])]), Err(Malformed::Truncated));
    }
}
