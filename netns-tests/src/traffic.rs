//! Red traffic from one LAN to others: multicast to all, unicast to one.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use muster_netlab::{Flow, HOST_DEVICE, Marker, Namespace, Receiver, Sender, wait_until};

use crate::Lab;

/// Datagrams a second where nothing else is said.
const RATE: u32 = 1000;

/// A red group.
pub fn red_group() -> SocketAddr {
    "[ff1e::1234]:5000".parse().expect("an address")
}

/// A red group of the other family.
pub fn red_group_v4() -> SocketAddr {
    "239.10.18.52:5000".parse().expect("an address")
}

/// The address of the host behind a router, IPv4 or IPv6.
pub fn host(lab: &Lab, router: usize, ipv4: bool) -> SocketAddr {
    let plan = &lab.coalition.routers()[router].plan;
    let address: IpAddr = if ipv4 { plan.host_v4().into() } else { plan.host_v6().into() };
    SocketAddr::new(address, 5000)
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
    let lans = |routers: &[usize]| routers.iter().map(|router| Lan::of(lab, *router)).collect::<Vec<_>>();
    for group in [red_group(), red_group_v4()] {
        carry_between(lab, Lan::of(lab, from), &lans(to), &lans(outside), group, count);
    }
}

/// Like [`carry`], unicast to the host behind `to`, once the router has a way there: prefixes and SAs of a pair follow
/// the group's key.
///
/// # Panics
/// As [`carry`], and when there is no way within ten seconds.
pub fn carry_unicast(lab: &Lab, from: usize, to: usize, ipv4: bool, count: u64) {
    let what = format!("a way from {} to {}", lab.name(from), lab.name(to));
    lab.wait(Duration::from_secs(10), &what, || has_way(lab, from, to, ipv4));
    carry_between(lab, Lan::of(lab, from), &[Lan::of(lab, to)], &[], host(lab, to, ipv4), count);
}

/// Whether a router has an SA to another one, and its kernel a route to the host behind that.
fn has_way(lab: &Lab, from: usize, to: usize, ipv4: bool) -> bool {
    let receiver = lab.get(to, "status")["member_id"].clone();
    let sas = lab.get(from, "sas");
    let sends = sas.as_array().into_iter().flatten().any(|sa| sa["direction"] == "out" && sa["receiver"] == receiver);
    let any = if ipv4 { "0.0.0.0:0" } else { "[::]:0" };
    let host = host(lab, to, ipv4);
    let router = &lab.coalition.routers()[from].namespace;
    sends && router.try_run("route", || UdpSocket::bind(any)?.connect(host)).is_ok()
}

/// Waits until unicast from the host behind `from` reaches that behind `to`.
///
/// # Panics
/// When it does not within ten seconds.
pub fn wait_for_unicast(lab: &Lab, from: usize, to: usize, ipv4: bool) {
    let what = format!("unicast from {} to {}", lab.name(from), lab.name(to));
    lab.wait(Duration::from_secs(10), &what, || {
        let (sender, receiver) = unicast_flow(lab, from, to, ipv4, 5);
        sender.finish();
        wait_until(Lab::patience(Duration::from_millis(100)), || receiver.unique() > 0)
    });
}

/// A flow of unicast and who counts it.
pub fn unicast_flow(lab: &Lab, from: usize, to: usize, ipv4: bool, count: u64) -> (Sender, Receiver) {
    let (sender, mut receivers) = start(lab, Lan::of(lab, from), &[Lan::of(lab, to)], host(lab, to, ipv4), count);
    (sender, receivers.remove(0))
}

/// A flow of multicast at 1,000 a second and who counts it behind each of `to`.
pub fn multicast_flow(lab: &Lab, from: usize, to: &[usize], count: u64) -> (Sender, Vec<Receiver>) {
    multicast_flow_at(lab, from, to, count, RATE)
}

/// As [`multicast_flow`], so many a second.
pub fn multicast_flow_at(lab: &Lab, from: usize, to: &[usize], count: u64, rate: u32) -> (Sender, Vec<Receiver>) {
    let to: Vec<Lan<'_>> = to.iter().map(|router| Lan::of(lab, *router)).collect();
    start_at(lab, Lan::of(lab, from), &to, red_group(), count, rate)
}

/// A place on red, where traffic begins or ends.
#[derive(Clone, Copy)]
pub struct Lan<'a> {
    /// Of the host.
    pub namespace: &'a Namespace,
    /// Its interface.
    pub device: &'a str,
    /// The router before it, if it is the only one.
    pub router: Option<usize>,
}

impl<'a> Lan<'a> {
    /// The host behind a router of the laboratory.
    pub fn of(lab: &'a Lab, router: usize) -> Self {
        Lan { namespace: &lab.coalition.routers()[router].host, device: HOST_DEVICE, router: Some(router) }
    }
}

/// Like [`carry_past`], between any places and to one group or host.
///
/// # Panics
/// As there.
pub fn carry_between(lab: &Lab, from: Lan<'_>, to: &[Lan<'_>], outside: &[Lan<'_>], group: SocketAddr, count: u64) {
    // A newcomer's prefixes are waited for half an activation delay only before its key is used: on a busy machine
    // they may come later, and until then what it sends is not its own.
    let routers: Vec<usize> = to.iter().filter_map(|lan| lan.router).collect();
    lab.wait_for_prefixes(&routers);
    let (opening, opened) = start(lab, from, to, group, 1);
    assert_eq!(opening.finish(), 1, "it could not be sent");
    lab.wait(Duration::from_secs(10), &format!("the first datagram to {group} everywhere"), || {
        opened.iter().all(|one| one.unique() == 1)
    });
    let (sender, receivers) = start(lab, from, &[to, outside].concat(), group, count);
    assert_eq!(sender.finish(), count, "not all could be sent");
    for (to, receiver) in to.iter().zip(&receivers) {
        let what = format!("red traffic to {group} at {}", to.namespace.name());
        lab.wait(Duration::from_secs(10), &what, || receiver.unique() == count);
        assert_eq!(receiver.tally().duplicates, 0, "at {}", to.namespace.name());
    }
    for (outsider, receiver) in outside.iter().zip(&receivers[to.len()..]) {
        assert_eq!(receiver.unique(), 0, "at {}", outsider.namespace.name());
    }
}

/// Sends `count` datagrams to any group or host; where they go the capture tells.
pub fn attempt(lab: &Lab, from: usize, destination: SocketAddr, count: u64) {
    let (sender, _) = start(lab, Lan::of(lab, from), &[], destination, count);
    sender.finish();
}

fn start(lab: &Lab, from: Lan<'_>, to: &[Lan<'_>], destination: SocketAddr, count: u64) -> (Sender, Vec<Receiver>) {
    start_at(lab, from, to, destination, count, RATE)
}

fn start_at(
    lab: &Lab,
    from: Lan<'_>,
    to: &[Lan<'_>],
    destination: SocketAddr,
    count: u64,
    rate: u32,
) -> (Sender, Vec<Receiver>) {
    let marker = Marker::random().expect("a marker");
    lab.capture.add_marker(marker);
    let receiver = |to: &Lan<'_>| Receiver::start(to.namespace, to.device, destination, marker);
    let receivers = to.iter().map(|to| receiver(to).expect("a receiver")).collect();
    let flow = Flow { to: destination, marker, count, rate, size: 100 };
    let sender = Sender::start(from.namespace, from.device, flow).expect("a sender");
    (sender, receivers)
}
