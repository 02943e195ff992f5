//! The router's own packets, where a flow goes everywhere, to its own LAN and to black as well: only what is for the flow goes
//! on it. The same where black comes to lie in what was learned before.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use muster_dataplane::Dropped;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use super::lab::{self, Capture, Ns, udp, until};
use super::net::{A, B, Net, OUTSIDE, PLACES, address, at, clear_text, selector};
use super::tunnel::{BOB, MARKER, nets};

/// Nobody listens there.
const CLOSED: u16 = 9;
/// More than the tunnel takes, and less than the LAN.
const BIG: usize = 1440;

/// A socket that hears of ICMP errors, those of routers on the way, too.
fn connected(ns: &Ns, from: &str, to: (&str, u16)) -> UdpSocket {
    let socket = udp(ns, &at(from, 0));
    socket.connect(to).unwrap();
    match from.contains(':') {
        true => setsockopt(&socket, sockopt::Ipv6RecvErr, &true).unwrap(),
        false => setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap(),
    }
    socket
}

fn hears(socket: &UdpSocket, payload: &[u8], expected: Errno, what: &str) {
    until(what, || {
        let error = socket.send(payload).err().or_else(|| socket.recv(&mut [0; 16]).err());
        error.and_then(|error| error.raw_os_error()) == Some(expected as i32)
    });
}

#[test]
fn a_flow_to_everywhere_takes_no_word_of_the_router_itself() {
    if lab::skip() {
        return;
    }
    for black_ipv4 in [false, true] {
        let net = Net::new(black_ipv4);
        for family in [0, 1] {
            let everywhere = selector(PLACES[A].prefixes[family], ["::/0", "0.0.0.0/0"][family]);
            net.unicast(A, B, (1 + family as u32, 1 + family as u32), everywhere);
            let [a, b] = [A, B].map(|place| address(PLACES[place].host[family]));
            let (from, to) = (udp(&net.hosts[A], &at(a, 6000)), udp(&net.hosts[B], &at(b, 5000)));
            until("the flow carries", || {
                let _ = from.send_to(MARKER, at(b, 5000));
                lab::receive(&to).is_some()
            });

            // To the host behind it: nobody listens, too far, too big.
            let red = address(PLACES[A].red[family]);
            hears(&connected(&net.hosts[A], a, (red, CLOSED)), MARKER, Errno::ECONNREFUSED, "port unreachable");
            let far = connected(&net.hosts[A], a, (b, 5000));
            match family {
                0 => setsockopt(&far, sockopt::Ipv6Ttl, &1).unwrap(),
                _ => far.set_ttl(1).unwrap(),
            }
            hears(&far, MARKER, Errno::EHOSTUNREACH, "time exceeded");
            hears(&connected(&net.hosts[A], a, (b, 5000)), &[7; BIG], Errno::EMSGSIZE, "packet too big");

            // To somebody on black.
            let black = address(PLACES[A].black[family]);
            let stranger = connected(&net.outside, OUTSIDE[family], (black, CLOSED));
            hears(&stranger, b"from black", Errno::ECONNREFUSED, "port unreachable, on black");

            // What the router sends there by itself is red's: the flow carries it, to nobody.
            let capture = Capture::new(&net.routers[A], "black");
            let own = udp(&net.routers[A], ["[::]:0", "0.0.0.0:0"][family]);
            let to: SocketAddr = at(OUTSIDE[family], CLOSED).parse().unwrap();
            let used = || {
                let sas = net.planes[A].sas();
                sas.iter().filter(|sa| sa.flow.is_some()).map(|sa| sa.packets).sum::<u64>()
            };
            let before = used();
            own.send_to(MARKER, to).unwrap();
            until("it is carried", || used() > before);
            assert!(!clear_text(&capture.frames()));
            own.connect(to).unwrap();
            assert_eq!(own.local_addr().unwrap().ip(), red.parse::<IpAddr>().unwrap());
        }
        assert_eq!(net.planes[A].counters().dropped, Dropped::default());
    }
}

/// Black gets an address in what is learned, or was and is lost, while the data plane runs or before it starts again: who is
/// there is answered, and what the router sends by itself does not go there.
#[test]
fn where_black_comes_to_lie_it_is_answered() {
    if lab::skip() {
        return;
    }
    let cases = [(false, false), (true, false), (true, true)];
    for (family, (lost, restarted)) in [0, 1].into_iter().flat_map(|family| cases.map(|case| (family, case))) {
        // ESP goes by the other family.
        let mut net = Net::new(family == 0);
        let [black, red] = [PLACES[A].black[family], PLACES[A].red[family]];
        net.restart(A, |router| router.without_address("black", black));
        let source = |net: &Net| {
            let own = udp(&net.routers[A], ["[::]:0", "0.0.0.0:0"][family]);
            own.connect(at(OUTSIDE[family], CLOSED)).and_then(|()| own.local_addr()).map(|address| address.ip())
        };
        let red: IpAddr = address(red).parse().unwrap();
        let stands = |net: &Net| match source(net) {
            Ok(source) => !lost && source == red,
            Err(error) => lost && error.raw_os_error() == Some(Errno::EHOSTUNREACH as i32),
        };
        net.planes[A].set_routes(BTreeMap::from([(BOB, nets(&[["::/0", "0.0.0.0/0"][family]]))]));
        // In IPv6 red's address is the source without the route, too.
        let by_tunnel = || {
            fs::read_to_string("/proc/thread-self/net/ipv6_route").is_ok_and(|routes| {
                routes.lines().any(|route| route.starts_with(&format!("{:032} 00 ", 0)) && route.ends_with("muster0"))
            })
        };
        let is_learned = |net: &Net| family == 1 || net.routers[A].run(by_tunnel);
        until("it is learned", || is_learned(&net) && source(&net).is_ok_and(|source| source == red));
        if lost {
            net.planes[A].set_routes(BTreeMap::new());
            until("it is lost", || stands(&net));
        }
        let back = |router: &Ns| router.address("black", black);
        match restarted {
            true => net.restart(A, back),
            false => back(&net.routers[A]),
        }
        let stranger = connected(&net.outside, OUTSIDE[family], (address(black), CLOSED));
        hears(&stranger, b"from black", Errno::ECONNREFUSED, "port unreachable, on black");
        until("the router's own packets go where they went", || stands(&net));
    }
}
