//! Red multicast from one LAN to all others.

use std::net::SocketAddr;
use std::time::Duration;

use muster_netlab::{Flow, HOST_DEVICE, Marker, Receiver, Sender};

use crate::Lab;

/// A red group.
pub fn red_group() -> SocketAddr {
    "[ff1e::1234]:5000".parse().expect("an address")
}

/// Datagrams on their way from one host to some others.
pub struct Flows {
    sender: Sender,
    receivers: Vec<(usize, Receiver)>,
    count: u64,
}

impl Flows {
    /// Sends `count` datagrams at `rate` a second from the host behind `from` to those behind `to`.
    pub fn start(lab: &Lab, from: usize, to: &[usize], count: u64, rate: u32) -> Flows {
        Self::to_group(lab, from, to, red_group(), count, rate)
    }

    /// The same to another group.
    pub fn to_group(lab: &Lab, from: usize, to: &[usize], group: SocketAddr, count: u64, rate: u32) -> Flows {
        let marker = Marker::random().expect("a marker");
        lab.capture.add_marker(marker);
        let routers = lab.coalition.routers();
        let receivers = to
            .iter()
            .map(|to| (*to, Receiver::start(&routers[*to].host, HOST_DEVICE, group, marker).expect("a receiver")))
            .collect();
        let flow = Flow { to: group, marker, count, rate, size: 100 };
        let sender = Sender::start(&routers[from].host, HOST_DEVICE, flow).expect("a sender");
        Flows { sender, receivers, count }
    }

    /// Waits until all have received all.
    ///
    /// # Panics
    /// When one has not within ten seconds of the last datagram, or has received one twice.
    pub fn arrive(self, lab: &Lab) {
        assert_eq!(self.sender.finish(), self.count, "not all could be sent");
        for (to, receiver) in &self.receivers {
            let all = || receiver.unique() == self.count;
            lab.wait(Duration::from_secs(10), &format!("red multicast at {}", lab.name(*to)), all);
            assert_eq!(receiver.tally().duplicates, 0, "at {}", lab.name(*to));
        }
    }

    /// Waits until all were sent; gives how many arrived at each.
    pub fn received(self) -> Vec<u64> {
        self.sender.finish();
        self.receivers.iter().map(|(_, receiver)| receiver.unique()).collect()
    }
}
