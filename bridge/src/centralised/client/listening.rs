//! Groups on black that re-key messages come to.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// By where they come to.
type Place = (IpAddr, u16);

/// A socket for each.
pub(super) struct Listening<S> {
    sockets: BTreeMap<Place, S>,
    /// Where listening has failed.
    unheard: BTreeSet<Place>,
}

impl<S> Default for Listening<S> {
    fn default() -> Self {
        Listening { sockets: BTreeMap::new(), unheard: BTreeSet::new() }
    }
}

impl<S> Listening<S> {
    /// Listens at these and nowhere else. Where that failed it is tried `again`, or not: why it fails, if it did not before.
    pub(super) fn follow(
        &mut self,
        wanted: &BTreeSet<Place>,
        again: bool,
        open: impl Fn(Place) -> io::Result<S>,
    ) -> Option<io::Error> {
        let was_deaf = !self.unheard.is_empty();
        self.sockets.retain(|place, _| wanted.contains(place));
        self.unheard.retain(|place| wanted.contains(place) && !again);
        let mut failed = None;
        for place in wanted {
            if self.sockets.contains_key(place) || self.unheard.contains(place) {
                continue;
            }
            match open(*place) {
                Ok(socket) => drop(self.sockets.insert(*place, socket)),
                Err(why) => {
                    self.unheard.insert(*place);
                    failed = Some(why);
                }
            }
        }
        failed.filter(|_| !was_deaf)
    }

    /// All that there are.
    pub(super) fn sockets(&self) -> impl Iterator<Item = &S> {
        self.sockets.values()
    }
}

impl Client {
    /// Joins and leaves groups for re-key messages; with `again` those, too, where that failed.
    pub(super) fn listen(&mut self, again: bool) {
        let wanted: BTreeSet<Place> = self.member.listens_to().collect();
        let (interface, address) = (&self.file.black.interface, self.address);
        let open = |place| socket::listening(interface, address, place);
        if let Some(why) = self.listening.follow(&wanted, again, open) {
            self.tell(EventKind::Failed, format!("re-key messages are not heard: {why}"));
        }
    }
}

/// Waits until something can be received on one of these.
pub(super) async fn readable(socket: &UdpSocket, listening: &Listening<UdpSocket>) {
    std::future::poll_fn(|context| {
        let mut all = std::iter::once(socket).chain(listening.sockets());
        match all.any(|socket| socket.poll_recv_ready(context).is_ready()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn what_fails_is_told_once_and_tried_now_and_then() {
        let place = |last: u8| (IpAddr::from([239, 255, 0, last]), 848);
        let wanted = BTreeSet::from([place(1), place(2), place(3)]);
        let tried = RefCell::new(Vec::new());
        let open = |is_full: bool| {
            let tried = &tried;
            move |(address, port): Place| {
                tried.borrow_mut().push((address, port));
                let refused = is_full && (address, port) != place(1);
                if refused { Err(io::Error::other("no more files")) } else { Ok(port) }
            }
        };
        let mut listening = Listening::default();
        assert!(listening.follow(&wanted, false, open(true)).is_some());
        assert_eq!(tried.take(), wanted.iter().copied().collect::<Vec<_>>());
        // In each turn of the loop.
        assert!(listening.follow(&wanted, false, open(true)).is_none() && tried.take().is_empty());
        assert!(listening.follow(&wanted, true, open(true)).is_none(), "it was told");
        assert_eq!(tried.take(), [place(2), place(3)]);
        // A group that is left leaves nothing behind; one that comes is tried at once.
        let other = BTreeSet::from([place(1), place(3), place(4)]);
        listening.follow(&other, false, open(true));
        assert_eq!(tried.take(), [place(4)]);
        assert!(listening.follow(&other, true, open(false)).is_none());
        assert_eq!((tried.take(), listening.sockets().count()), (vec![place(3), place(4)], 3));
        assert!(listening.follow(&wanted, false, open(true)).is_some(), "a new failure is told");
        assert_eq!((tried.take(), listening.sockets().count()), (vec![place(2)], 2));
    }
}
