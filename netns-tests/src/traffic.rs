//! Red multicast from one LAN to all others.

use std::net::SocketAddr;
use std::time::Duration;

use muster_netlab::{Flow, HOST_DEVICE, Marker, Receiver, Sender};

use crate::Lab;

/// A red group.
pub fn red_group() -> SocketAddr {
    "[ff1e::1234]:5000".parse().expect("an address")
}

/// A red group of the other family.
pub fn red_group_v4() -> SocketAddr {
    "239.10.18.52:5000".parse().expect("an address")
}

/// Sends `count` datagrams of IPv6 and as many of IPv4 at 1,000 a second from the host behind `from`; all must arrive at those behind `to`, once.
///
/// One more goes ahead and is waited for: while the daemon has not said where a new flow goes, the kernel keeps four
/// datagrams of it and no more, and a busy machine may be slow to say.
///
/// # Panics
/// When one has not received all within ten seconds of the last datagram, or has received one twice.
pub fn carry(lab: &Lab, from: usize, to: &[usize], count: u64) {
    carry_past(lab, from, to, &[], count);
}

/// Like [`carry`], while the hosts behind `outside` listen, too, and must hear nothing. That the others have all of it
/// says that it was on its way.
///
/// # Panics
/// As [`carry`], and when one outside has heard something.
pub fn carry_past(lab: &Lab, from: usize, to: &[usize], outside: &[usize], count: u64) {
    for (group, count) in [(red_group(), 1), (red_group_v4(), 1), (red_group(), count), (red_group_v4(), count)] {
        let (sender, receivers) = start(lab, from, &[to, outside].concat(), group, count);
        assert_eq!(sender.finish(), count, "not all could be sent");
        for (to, receiver) in to.iter().zip(&receivers) {
            let what = format!("red multicast to {group} at {}", lab.name(*to));
            lab.wait(Duration::from_secs(10), &what, || receiver.unique() == count);
            assert_eq!(receiver.tally().duplicates, 0, "at {}", lab.name(*to));
        }
        for (outsider, receiver) in outside.iter().zip(&receivers[to.len()..]) {
            assert_eq!(receiver.unique(), 0, "at {}", lab.name(*outsider));
        }
    }
}

/// Sends `count` datagrams to any group or host; where they go the capture tells.
pub fn attempt(lab: &Lab, from: usize, destination: SocketAddr, count: u64) {
    let (sender, _) = start(lab, from, &[], destination, count);
    sender.finish();
}

fn start(lab: &Lab, from: usize, to: &[usize], destination: SocketAddr, count: u64) -> (Sender, Vec<Receiver>) {
    let marker = Marker::random().expect("a marker");
    lab.capture.add_marker(marker);
    let routers = lab.coalition.routers();
    let receiver = |to: &usize| Receiver::start(&routers[*to].host, HOST_DEVICE, destination, marker);
    let receivers = to.iter().map(|to| receiver(to).expect("a receiver")).collect();
    let flow = Flow { to: destination, marker, count, rate: 1000, size: 100 };
    let sender = Sender::start(&routers[from].host, HOST_DEVICE, flow).expect("a sender");
    (sender, receivers)
}
