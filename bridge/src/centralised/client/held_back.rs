//! What a client without a return channel does not do while it cannot keep the number of what came.

use muster_fmke::member::Change;

/// Changes that are not done yet. What takes something away is done all the same: who is out by now is not received for want of a
/// disk.
#[derive(Default)]
pub(super) struct HeldBack(Vec<Change>);

impl HeldBack {
    /// The next change.
    pub(super) fn add(&mut self, change: Change) {
        // What ends before it has begun does not begin, and there is one list of what is to be protected: it stays as small as what
        // the client holds.
        match &change {
            Change::Forget { destination, spi } => self.0.retain(|other| {
                !matches!(other, Change::Receive { flow, spi: held, .. }
                    if (&flow.tunnel.1, held) == (destination, spi))
            }),
            Change::Send { flow, .. } | Change::Stop { flow } => {
                self.0.retain(|other| !matches!(other, Change::Send { flow: held, .. } if held == flow));
            }
            Change::Follow(_) => self.0.retain(|other| !matches!(other, Change::Follow(_))),
            Change::Receive { .. } => {}
        }
        self.0.push(change);
    }

    /// What is to be done now: all of it, or what takes something away.
    pub(super) fn take(&mut self, all: bool) -> Vec<Change> {
        let is_less = |change: &Change| matches!(change, Change::Forget { .. } | Change::Stop { .. });
        self.0.extract_if(.., |change| all || is_less(change)).collect()
    }
}

#[cfg(test)]
mod tests {
    use muster_fmke::crypto::SecretBytes;
    use muster_fmke::member::{FlowKey, Spd};

    use super::*;

    fn flow(group: &str) -> FlowKey {
        FlowKey {
            protocol: 17,
            source: ("10.1.0.0/16".parse().unwrap(), 0),
            destination: (format!("{group}/32").parse().unwrap(), 5004),
            tunnel: ("192.0.2.1".parse().unwrap(), group.parse().unwrap()),
        }
    }

    fn receive(group: &str, spi: u32) -> Change {
        Change::Receive { flow: flow(group), spi, key: SecretBytes::zeros(36) }
    }

    fn send(spi: u32) -> Change {
        Change::Send { flow: flow("239.1.1.1"), spi, key: SecretBytes::zeros(36) }
    }

    fn forget(group: &str, spi: u32) -> Change {
        Change::Forget { destination: group.parse().unwrap(), spi }
    }

    fn told(changes: Vec<Change>) -> Vec<String> {
        let text = |change| match change {
            Change::Receive { spi, .. } => format!("receive {spi}"),
            Change::Send { spi, .. } => format!("send {spi}"),
            Change::Stop { .. } => "stop".into(),
            Change::Forget { spi, .. } => format!("forget {spi}"),
            Change::Follow(Spd { protect, .. }) => format!("follow {}", protect.len()),
        };
        changes.into_iter().map(text).collect()
    }

    #[test]
    fn what_goes_goes_and_what_comes_waits() {
        let (one, other) = ("239.1.1.1", "239.1.1.2");
        let mut held = HeldBack::default();
        held.add(receive(one, 300));
        assert_eq!(told(held.take(true)), ["receive 300"]);
        for change in [receive(one, 301), receive(other, 301), receive(other, 302), forget(one, 300), forget(one, 301)]
        {
            held.add(change);
        }
        // The same number beside it is another SA.
        assert_eq!(told(held.take(false)), ["forget 300", "forget 301"]);
        assert_eq!(told(held.take(false)), [""; 0]);
        held.add(forget(other, 302));
        assert_eq!(told(held.take(false)), ["forget 302"]);
        assert_eq!(told(held.take(true)), ["receive 301"], "302 has gone before it came");
        for change in [send(303), send(304), Change::Stop { flow: flow(one) }, send(305)] {
            held.add(change);
        }
        let protect = [flow(one).selector()].into();
        held.add(Change::Follow(Spd { protect, ..Spd::default() }));
        held.add(Change::Follow(Spd::default()));
        assert_eq!(told(held.take(false)), ["stop"]);
        assert_eq!(told(held.take(true)), ["send 305", "follow 0"]);
    }
}
