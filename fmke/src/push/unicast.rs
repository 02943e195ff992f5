//! Phase 2, the sender's side: what has been pushed to one member and is not acknowledged (draft 3.2).

use std::collections::VecDeque;
use std::time::Duration;

use muster_wire::Time;

use crate::isakmp::Range;

/// The first repetition comes after so long: a satellite's round trip (600 ms) and the member's own delay are below it. The
/// second comes after twice as long, all others after four times.
const FIRST_WAIT: Duration = Duration::from_millis(1000);
/// "If the member cannot acknowledge the GCKS messages, the connection is closed." (draft 3.1): after so many sendings, 31 seconds.
/// A member whose end of phase 1 was the later one by some repetitions is reached in that time, too.
const MOST_SENDINGS: u8 = 9;
/// Messages that are under way at once; the others wait for acknowledgements.
const MOST_UNDER_WAY: usize = 16;

/// Pushes messages to one member until each is acknowledged.
#[derive(Default)]
pub(crate) struct UnicastSender {
    /// By number, without gaps.
    waiting: VecDeque<Message>,
    /// Of the first in `waiting`, less one.
    acknowledged: u32,
}

struct Message {
    datagram: Box<[u8]>,
    sendings: u8,
    /// When it goes again; of one that was never sent, at once.
    due: Time,
    /// Acknowledged selectively: it does not go again.
    is_there: bool,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Send these.
    Send(Vec<Vec<u8>>),
    /// The member is gone.
    GiveUp,
}

impl UnicastSender {
    /// The number that the next message will bear: it stands in it, so it is asked for first.
    pub(crate) fn next_number(&self) -> u32 {
        // "Thus the first packet sent in a phase 2 will have a Sequence Number of 1." (draft 7.5)
        // 2^32 messages in the life of one SA of phase 1 there are not.
        self.acknowledged.saturating_add(self.waiting.len() as u32).saturating_add(1)
    }

    /// Whether one more message would be under way at once.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.len() < MOST_UNDER_WAY
    }

    /// Takes a message with the number [`next_number`](Self::next_number).
    pub(crate) fn push(&mut self, now: Time, datagram: Vec<u8>) {
        self.waiting.push_back(Message { datagram: datagram.into(), sendings: 0, due: now, is_there: false });
    }

    /// All have come up to `number`, and those in `beyond`. What is missing between them goes again at once. Whether anything of
    /// that is new.
    pub(crate) fn acknowledge(&mut self, now: Time, number: u32, beyond: &[Range]) -> bool {
        let before = (self.acknowledged, self.here());
        // What was never sent is not acknowledged, whatever a member says.
        let sent = self.waiting.iter().take_while(|message| message.sendings > 0).count() as u32;
        let last = self.acknowledged.saturating_add(sent);
        while self.acknowledged < number.min(last) && self.waiting.pop_front().is_some() {
            self.acknowledged += 1;
        }
        let highest = beyond.iter().map(|range| range.last.min(last)).max().unwrap_or(0);
        for (place, message) in self.waiting.iter_mut().enumerate() {
            let number = self.acknowledged + 1 + place as u32;
            if beyond.iter().any(|range| (range.first..=range.last).contains(&number)) && number <= last {
                message.is_there = true;
            } else if number < highest && message.sendings == 1 {
                // "this acknowledgement must trigger the retransmission" (draft 3.2): later ones have come, so it is lost; a further
                // loss the timer mends.
                message.due = now;
            }
        }
        // What is said to be here is, though what it is said of begins with it.
        while self.waiting.front().is_some_and(|message| message.is_there) {
            self.waiting.pop_front();
            self.acknowledged += 1;
        }
        if self.waiting.is_empty() {
            // Most members are told nothing for hours.
            self.waiting = VecDeque::new();
        }
        before != (self.acknowledged, self.here())
    }

    fn here(&self) -> usize {
        self.waiting.iter().filter(|message| message.is_there).count()
    }

    /// When to ask [`due`](Self::due).
    pub(crate) fn timeout(&self) -> Option<Time> {
        self.under_way().map(|message| message.due).min()
    }

    /// What is to be sent by `now`.
    pub(crate) fn due(&mut self, now: Time) -> Due {
        let mut out = Vec::new();
        for message in self.waiting.iter_mut().take(MOST_UNDER_WAY).filter(|message| !message.is_there) {
            if message.due > now {
                continue;
            }
            if message.sendings == MOST_SENDINGS {
                return Due::GiveUp;
            }
            message.due = now + FIRST_WAIT * (1 << message.sendings.min(2));
            message.sendings += 1;
            out.push(message.datagram.to_vec());
        }
        Due::Send(out)
    }

    /// Whether all is acknowledged.
    pub(crate) fn is_done(&self) -> bool {
        self.waiting.is_empty()
    }

    fn under_way(&self) -> impl Iterator<Item = &Message> {
        self.waiting.iter().take(MOST_UNDER_WAY).filter(|message| !message.is_there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(count: u8) -> UnicastSender {
        let mut sender = UnicastSender::default();
        for number in 1..=count {
            assert_eq!(sender.next_number(), u32::from(number));
            sender.push(Time(0), vec![number]);
        }
        sender
    }

    fn sent(sender: &mut UnicastSender, now: u64) -> Vec<u8> {
        match sender.due(Time(now)) {
            Due::Send(datagrams) => datagrams.concat(),
            Due::GiveUp => panic!("given up"),
        }
    }

    /// "Ack : 4  , Sack : 6-7, Sack : 9-9 (this acknowledgement must trigger the retransmission of the messages 5 and 8)"
    /// (draft 3.2)
    #[test]
    fn just_what_is_missing_goes_again() {
        let mut sender = sender(9);
        assert_eq!(sent(&mut sender, 0), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(sent(&mut sender, 0), []);
        let beyond = [Range { first: 6, last: 7 }, Range { first: 9, last: 9 }];
        sender.acknowledge(Time(10), 4, &beyond);
        assert_eq!(sent(&mut sender, 10), [5, 8]);
        sender.acknowledge(Time(20), 4, &beyond);
        assert_eq!(sent(&mut sender, 20), [], "once: they are under way");
        sender.acknowledge(Time(30), 9, &[]);
        assert!(sender.is_done() && sender.timeout().is_none());
        assert_eq!(sender.next_number(), 10);
    }

    #[test]
    fn what_is_not_acknowledged_goes_again_and_then_the_member_is_closed() {
        let mut sender = sender(1);
        let mut times = Vec::new();
        let mut now = Time(0);
        while let Due::Send(datagrams) = sender.due(now) {
            assert_eq!(datagrams, [[1]]);
            times.push(now.0 / 1_000_000);
            now = sender.timeout().unwrap();
        }
        assert_eq!((times, now), (vec![0, 1, 3, 7, 11, 15, 19, 23, 27], Time(31_000_000)));
    }

    #[test]
    fn only_so_many_are_under_way() {
        let mut sender = sender(20);
        assert_eq!(sent(&mut sender, 0).len(), MOST_UNDER_WAY);
        sender.acknowledge(Time(5), 3, &[]);
        assert_eq!(sent(&mut sender, 5), [17, 18, 19]);
    }

    #[test]
    fn what_was_never_sent_is_not_acknowledged() {
        let mut sender = sender(20);
        sender.acknowledge(Time(0), u32::MAX, &[Range { first: 1, last: u32::MAX }]);
        assert_eq!(sent(&mut sender, 0).len(), MOST_UNDER_WAY);
        sender.acknowledge(Time(0), 18, &[Range { first: 17, last: 20 }]);
        assert_eq!(sent(&mut sender, 1), [17, 18, 19, 20]);
    }
}
