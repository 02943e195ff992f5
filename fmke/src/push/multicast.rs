//! Phase 3, the sender's side: what has been multicast under one re-key SA, and goes again for who misses it (draft 4.2).

use std::time::Duration;

use muster_wire::Time;

use crate::isakmp::Range;

/// "Moreover, the GCKS sends periodically in multicast a message with the last used sequence number" (draft 4.2).
/// After a message, or the SA's beginning, the last number is told (LSEQ) so much later, then after twice as long …
const FIRST_TELLING: Duration = Duration::from_millis(500);
/// … up to this: who has lost the last messages, or just come back, learns of it.
const TELLING_PERIOD: Duration = Duration::from_secs(30);
/// "The number of retransmissions is limited and must allow all Group members to receive each message" (draft 4.1): at 20 %
/// loss, one member of 10,000 has missed all of them once in a thousand messages.
const MOST_SENDINGS: u8 = 10;
/// Who asks for what was sent this short a time ago asked before it can have come: a satellite's way and back.
const ON_ITS_WAY: Duration = Duration::from_millis(600);
/// What was sent under one re-key SA.
pub(crate) struct MulticastSender {
    /// The number of the first in `sent`.
    first: u32,
    sent: Vec<Message>,
    /// The number of the last one is told at, and how long after it again.
    telling: (Time, Duration),
}

struct Message {
    datagram: Box<[u8]>,
    sendings: u8,
    last: Time,
}

impl MulticastSender {
    /// Whose first message has the number `first`. That there was none is told, too: members forget a group that is silent.
    pub(crate) fn new(now: Time, first: u32) -> Self {
        MulticastSender { first, sent: Vec::new(), telling: (now + FIRST_TELLING, FIRST_TELLING) }
    }

    /// The number that the next message will bear: it stands in it, so it is asked for first.
    pub(crate) fn next_number(&self) -> u32 {
        self.first.saturating_add(self.sent.len() as u32)
    }

    /// Takes a message with the number [`next_number`](Self::next_number); gives it back, to be sent now.
    pub(crate) fn push(&mut self, now: Time, datagram: Vec<u8>) -> Vec<u8> {
        self.sent.push(Message { datagram: datagram.clone().into(), sendings: 1, last: now });
        self.tell_soon(now);
        datagram
    }

    /// Takes the next message out of the store: whether it was sent nobody knows, so its number is told at once, and it goes to
    /// who misses it.
    pub(crate) fn resume(&mut self, now: Time, datagram: Vec<u8>) {
        self.sent.push(Message { datagram: datagram.into(), sendings: 1, last: Time(0) });
        self.telling = (now, FIRST_TELLING);
    }

    /// Keeps no message any longer, only how many there were.
    pub(crate) fn forget(&mut self) {
        self.first = self.next_number();
        self.sent = Vec::new();
    }

    /// Tells the last number as after a message.
    pub(crate) fn tell_soon(&mut self, now: Time) {
        self.telling = (now + FIRST_TELLING, FIRST_TELLING);
    }

    /// A member misses these: what goes again now, "in multicast … (with the same sequence numbers)" (draft 4.2). It may be a
    /// replay, or an insider's nuisance: nothing goes more often than [`MOST_SENDINGS`], nor twice within [`ON_ITS_WAY`].
    pub(crate) fn missed(&mut self, now: Time, ranges: &[Range]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        for (place, message) in self.sent.iter_mut().enumerate() {
            let number = self.first.saturating_add(place as u32);
            let is_missed = ranges.iter().any(|range| (range.first..=range.last).contains(&number));
            if is_missed && message.sendings < MOST_SENDINGS && now.since(message.last) >= ON_ITS_WAY {
                out.push(message.again(now));
            }
        }
        out
    }

    /// When to ask [`due`](Self::due).
    pub(crate) fn timeout(&self) -> Time {
        self.telling.0
    }

    /// The last number used, if it is to be told by `now`, in an LSEQ payload; 0: none.
    pub(crate) fn due(&mut self, now: Time) -> Option<u32> {
        let (at, wait) = self.telling;
        if at > now {
            return None;
        }
        let wait = (wait * 2).min(TELLING_PERIOD);
        self.telling = (now + wait, wait);
        Some(self.next_number() - 1)
    }
}

impl Message {
    fn again(&mut self, now: Time) -> Vec<u8> {
        self.sendings += 1;
        self.last = now;
        self.datagram.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn range(first: u32, last: u32) -> [Range; 1] {
        [Range { first, last }]
    }

    #[test]
    fn what_is_missed_goes_again_but_not_for_ever() {
        let mut sender = MulticastSender::new(Time(0), 5);
        for number in 5..=9 {
            assert_eq!(sender.next_number(), number);
            assert_eq!(sender.push(Time(0), vec![number as u8]), [number as u8]);
        }
        assert!(sender.missed(Time(SECOND / 2), &range(5, 9)).is_empty(), "it is on its way");
        let nack = [Range { first: 5, last: 5 }, Range { first: 8, last: 8 }, Range { first: 0, last: 3 }];
        assert_eq!(sender.missed(Time(SECOND), &nack), [[5], [8]]);
        assert!(sender.missed(Time(SECOND), &nack).is_empty(), "another member asks for the same");
        let times = (2..100).filter(|second| !sender.missed(Time(second * SECOND), &range(0, u32::MAX)).is_empty());
        assert_eq!(times.count(), usize::from(MOST_SENDINGS) - 1);
    }

    #[test]
    fn the_last_number_is_told_ever_less_often() {
        let mut sender = MulticastSender::new(Time(0), 1);
        assert_eq!((sender.due(sender.timeout()), sender.timeout()), (Some(0), Time(3 * SECOND / 2)), "none yet");
        sender.push(Time(0), vec![1]);
        let mut times = Vec::new();
        while times.len() < 8 {
            let now = sender.timeout();
            assert_eq!(sender.due(now), Some(1));
            times.push(now.0 as f64 / SECOND as f64);
        }
        assert_eq!(times, [0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 61.5, 91.5]);
        sender.push(Time(100 * SECOND), vec![2]);
        assert_eq!(sender.timeout(), Time(100 * SECOND + SECOND / 2));
        sender.forget();
        assert_eq!((sender.next_number(), sender.missed(Time(200 * SECOND), &range(1, 2)).len()), (3, 0));
        sender.tell_soon(Time(200 * SECOND));
        assert_eq!(sender.due(Time(201 * SECOND)), Some(2), "how many there were is still told");
        let mut resumed = MulticastSender::new(Time(0), 1);
        resumed.resume(Time(7 * SECOND), vec![1]);
        resumed.resume(Time(7 * SECOND), vec![2]);
        assert_eq!(resumed.due(Time(7 * SECOND)), Some(2));
        assert_eq!(resumed.missed(Time(7 * SECOND), &range(1, 9)), [[1], [2]]);
    }
}
