//! Messages to members without a return channel, each sent several times (draft 6.1).

use std::collections::VecDeque;

use muster_wire::Time;

use super::{COPIES, SPACING};

/// "for one-way systems, in order to guarantee a more reliable distribution, each GCKS phase 2 or 3 message may be sent several
/// times (e.g. 3 times)": copies that are still to be sent, of one place.
#[derive(Default)]
pub(crate) struct Repeater {
    /// In the order of their times: all are equally far apart.
    copies: VecDeque<Pending>,
}

struct Pending {
    due: Time,
    left: u8,
    datagram: Box<[u8]>,
}

impl Repeater {
    /// A message is sent now; its copies follow.
    pub(crate) fn add(&mut self, now: Time, datagram: &[u8]) {
        self.copies.push_back(Pending { due: now + SPACING, left: COPIES - 1, datagram: datagram.into() });
    }

    /// When to ask [`due`](Self::due).
    pub(crate) fn timeout(&self) -> Option<Time> {
        self.copies.front().map(|copy| copy.due)
    }

    /// The copies that are to be sent by `now`.
    pub(crate) fn due(&mut self, now: Time) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        while self.timeout().is_some_and(|at| at <= now) {
            let Some(mut copy) = self.copies.pop_front() else { break };
            out.push(copy.datagram.to_vec());
            copy.left -= 1;
            if copy.left > 0 {
                copy.due = now + SPACING;
                self.copies.push_back(copy);
            }
        }
        out
    }

    /// No more copies.
    pub(crate) fn clear(&mut self) {
        self.copies.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_goes_three_times() {
        let mut repeater = Repeater::default();
        let spacing = SPACING.as_micros() as u64;
        repeater.add(Time(0), &[1]);
        repeater.add(Time(10), &[2]);
        let mut sent = Vec::new();
        while let Some(at) = repeater.timeout() {
            assert!(repeater.due(Time(at.0 - 1)).is_empty());
            sent.extend(repeater.due(at).into_iter().map(|datagram| (at.0, datagram[0])));
        }
        assert_eq!(sent, [(spacing, 1), (spacing + 10, 2), (2 * spacing, 1), (2 * spacing + 10, 2)]);
        repeater.add(Time(0), &[3]);
        repeater.clear();
        assert_eq!(repeater.timeout(), None);
    }

    /// The machine may be asked late.
    #[test]
    fn late_copies_are_not_sent_at_once() {
        let mut repeater = Repeater::default();
        repeater.add(Time(0), &[1]);
        let late = Time(0) + SPACING * 10;
        assert_eq!(repeater.due(late), [[1]]);
        assert_eq!(repeater.timeout(), Some(late + SPACING));
    }
}
