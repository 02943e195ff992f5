//! What a router itself has to say, to its own LAN and to black, where a flow is for black's addresses, too.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use muster_netlab::{BLACK_DEVICE, Frame, Marker, Namespace};
use muster_netns_tests::{Central, Family, skip};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

/// The key server's machine, a stranger to red.
const STRANGER: usize = 2;
/// Nobody listens there.
const CLOSED: u16 = 9;
/// More than the tunnel takes, and less than the LAN.
const BIG: usize = 1440;

/// From the first client's LAN to the second's and to half the world, all of black among it, by way of the second.
fn vpns(lab: &Central) -> String {
    let [near, far] = [0, 1].map(|client| &lab.coalition.routers()[client].plan);
    let vpn = |(name, net, all): (&str, String, &str)| {
        let ends = format!(
            "[{{ client = \"{}\", net = \"{net}\" }}, {{ client = \"{}\", net = \"{all}\" }}]",
            lab.name(0),
            lab.name(1)
        );
        format!("[vpns.{name}]\nends = {ends}\n{}\n", Central::delays())
    };
    let (v4, v6) = (near.red_v4().to_string(), near.red_v6().to_string());
    [
        ("v4", v4.clone(), far.red_v4().to_string().as_str()),
        ("v6", v6.clone(), &far.red_v6().to_string()),
        ("half-v4", v4, "128.0.0.0/1"),
        ("half-v6", v6, "2001:db8:8000::/33"),
    ]
    .map(vpn)
    .concat()
}

/// A socket in `namespace` with an address of its choice, connected.
fn connected(namespace: &Namespace, from: IpAddr, to: SocketAddr) -> UdpSocket {
    let open = || {
        let socket = UdpSocket::bind((from, 0))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        // Of errors on the way, too.
        match to.is_ipv4() {
            true => setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?,
            false => setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?,
        }
        Ok(socket)
    };
    namespace.try_run("open a socket", open).expect("a socket")
}

/// Waits until what is sent is answered by an ICMP message that means `expected`.
fn hears(lab: &Central, socket: &UdpSocket, payload: &[u8], expected: Errno, what: &str) {
    lab.wait(Duration::from_secs(5), what, || {
        let error = socket.send(payload).err().or_else(|| socket.recv(&mut [0; 16]).err());
        error.and_then(|error| error.raw_os_error()) == Some(expected as i32)
    });
}

fn own_packets(family: Family) {
    let mut lab = Central::new(family, 2);
    let (far, net) = ("198.51.100.7/32".parse().expect("a net"), "198.51.100.0/24".parse().expect("a net"));
    let routers = lab.coalition.routers();
    let stranger = &routers[STRANGER].plan;
    routers[STRANGER].namespace.add_address(BLACK_DEVICE, far).expect("an address");
    routers[0].namespace.add_route(net, stranger.black_v4().addr().into()).expect("a route");
    lab.configure_gcks(&vpns(&lab));
    lab.start_gcks();
    (0..2).for_each(|client| lab.start(client));
    lab.wait_for_connected(&[0, 1]);
    for ipv4 in [false, true] {
        lab.carry(0, &[1], &[], lab.host(1, ipv4), 20);
        says_to_red(&lab, ipv4);
    }
    let plan = &lab.coalition.routers()[0].plan;
    let stranger = &lab.coalition.routers()[STRANGER];
    let (v4, v6) = (stranger.plan.black_v4().addr().into(), stranger.plan.black_v6().addr().into());
    for from in [v4, v6, far.addr()] {
        let black: IpAddr = if from.is_ipv4() { plan.black_v4().addr().into() } else { plan.black_v6().addr().into() };
        let socket = connected(&stranger.namespace, from, SocketAddr::new(black, CLOSED));
        hears(&lab, &socket, b"is anybody there", Errno::ECONNREFUSED, &format!("an answer to {from} on black"));
    }
    // What the router sends by itself to black is the flow's, with an address of the red side.
    let marker = Marker::random().expect("a marker");
    lab.capture.add_marker(marker);
    let own = &lab.coalition.routers()[0].namespace;
    let source = own.try_run("connect", || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((far.addr(), CLOSED))?;
        socket.send(&marker.0)?;
        socket.local_addr()
    });
    assert_eq!(source.expect("it is sent").ip(), IpAddr::from(plan.router_v4()));
    let of_stranger = |frame: &Frame| [v4, v6, far.addr()].iter().any(|address| names(&frame.bytes, *address));
    lab.assert_black_is_sound_but(|frame| of_stranger(frame) && !frame.bytes.windows(16).any(|b| b == marker.0));
}

/// The host behind the first client hears from its router what it may not send: where nobody listens, what goes too far, what
/// is too big.
fn says_to_red(lab: &Central, ipv4: bool) {
    let router = &lab.coalition.routers()[0];
    let (host, near): (IpAddr, IpAddr) = match ipv4 {
        true => (router.plan.host_v4().into(), router.plan.router_v4().into()),
        false => (router.plan.host_v6().into(), router.plan.router_v6().into()),
    };
    let to = |to| connected(&router.host, host, to);
    hears(lab, &to(SocketAddr::new(near, CLOSED)), b"x", Errno::ECONNREFUSED, "port unreachable");
    let far = to(lab.host(1, ipv4));
    match ipv4 {
        true => far.set_ttl(1).expect("it is set"),
        false => setsockopt(&far, sockopt::Ipv6Ttl, &1).expect("it is set"),
    }
    hears(lab, &far, b"x", Errno::EHOSTUNREACH, "time exceeded");
    let big = to(lab.host(1, ipv4));
    hears(lab, &big, &[0; BIG], Errno::EMSGSIZE, "packet too big");
}

/// Whether a frame is from or to this address.
fn names(frame: &[u8], address: IpAddr) -> bool {
    let field = |from: usize, to: usize| frame.get(from..to);
    match address {
        IpAddr::V4(address) => [field(26, 30), field(30, 34)].contains(&Some(&address.octets())),
        IpAddr::V6(address) => [field(22, 38), field(38, 54)].contains(&Some(&address.octets())),
    }
}

#[test]
fn a_router_answers_its_lan_and_black_beside_a_wide_flow_over_ipv6() {
    if !skip("a_router_answers_its_lan_and_black_beside_a_wide_flow_over_ipv6") {
        own_packets(Family::V6);
    }
}

#[test]
fn a_router_answers_its_lan_and_black_beside_a_wide_flow_over_ipv4() {
    if !skip("a_router_answers_its_lan_and_black_beside_a_wide_flow_over_ipv4") {
        own_packets(Family::V4);
    }
}
