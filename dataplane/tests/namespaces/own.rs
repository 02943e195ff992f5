//! The router's own packets, where a flow goes everywhere, to its own LAN and to black as well: only what is for the flow goes
//! on it. The same where black comes to lie in what was learned before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use muster_dataplane::{Dropped, EspConfig, block};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::forge;
use super::lab::{self, Capture, Ns, cable, start, udp, until};
use super::net::{A, B, Net, OUTSIDE, PLACES, address, at, block_config, clear_text, config, selector};
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

            // Who on red has that one's address is not.
            let capture = Capture::new(&net.routers[A], "black");
            let forged = [OUTSIDE[family], black].map(|end| end.parse().unwrap());
            forge::send(&net.hosts[A], vec![forge::echo_request(forged, MARKER)]);
            hears(&connected(&net.hosts[A], a, (black, CLOSED)), b"behind it", Errno::ECONNREFUSED, "an own one's");
            assert!(!clear_text(&capture.frames()));

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

/// The address that A uses towards somebody on black.
fn source(net: &Net, family: usize) -> io::Result<IpAddr> {
    source_to(&net.routers[A], OUTSIDE[family])
}

fn source_to(ns: &Ns, to: &str) -> io::Result<IpAddr> {
    let own = udp(ns, if to.contains(':') { "[::]:0" } else { "0.0.0.0:0" });
    own.connect(at(to, CLOSED)).and_then(|()| own.local_addr()).map(|address| address.ip())
}

/// Whether A has learned everything: it is then by the tunnel.
fn has_learned_everything(net: &Net, family: usize) -> bool {
    // In IPv6 red's address is the source without the route, too.
    let by_tunnel = || {
        let routes = fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap();
        routes.lines().any(|route| route.starts_with(&format!("{:032} 00 ", 0)) && route.ends_with("muster0"))
    };
    let red: IpAddr = address(PLACES[A].red[family]).parse().unwrap();
    (family == 1 || net.routers[A].run(by_tunnel)) && source(net, family).is_ok_and(|source| source == red)
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
        let red: IpAddr = address(red).parse().unwrap();
        let stands = |net: &Net| match source(net, family) {
            Ok(source) => !lost && source == red,
            Err(error) => lost && error.raw_os_error() == Some(Errno::EHOSTUNREACH as i32),
        };
        assert!(!net.routers[A].looks_for_protocols(), "black lies in nothing");
        net.planes[A].set_routes(BTreeMap::from([(BOB, nets(&[["::/0", "0.0.0.0/0"][family]]))]));
        until("it is learned", || has_learned_everything(&net, family));
        if lost {
            net.planes[A].set_routes(BTreeMap::new());
            until("it is lost", || stands(&net));
        }
        // Of IPv6 black has a link-local address.
        assert_eq!(net.routers[A].looks_for_protocols(), family == 0);
        let back = |router: &Ns| router.address("black", black);
        match restarted {
            true => net.restart(A, back),
            false => back(&net.routers[A]),
        }
        let stranger = connected(&net.outside, OUTSIDE[family], (address(black), CLOSED));
        hears(&stranger, b"from black", Errno::ECONNREFUSED, "port unreachable, on black");
        assert!(net.routers[A].looks_for_protocols());
        until("the router's own packets go where they went", || stands(&net));
    }
}

/// Unreachable or a parameter problem, in an Ethernet frame.
fn is_icmp_error(frame: &[u8]) -> bool {
    match lab::protocol(frame) {
        Some(1) => [3, 12].contains(&frame[14 + 20]),
        Some(58) => [1, 4].contains(&frame[14 + 40]),
        _ => false,
    }
}

/// ESP, too, which a data plane takes in user space of black's family alone.
#[test]
fn nobody_on_black_hears_of_red_addresses_by_esp() {
    if lab::skip() {
        return;
    }
    let net = Net::new(false);
    let capture = Capture::new(&net.routers[A], "black");
    for family in [0, 1] {
        let [stranger, red, black] =
            [OUTSIDE[family], address(PLACES[A].red[family]), address(PLACES[A].black[family])]
                .map(|address| address.parse::<IpAddr>().unwrap());
        let esp = [&[0, 0, 0x13, 0x37, 0, 0, 0, 1][..], &[7; 32]].concat();
        let answered = forge::datagram([stranger, black], CLOSED, b"behind it");
        let mut sources = BTreeSet::new();
        until("black's own address answers what is behind it", || {
            // By one thread, so that both go the same way.
            forge::send(&net.outside, vec![forge::packet([stranger, red], 50, &esp), answered.clone()]);
            let frames = capture.frames();
            sources.extend(frames.iter().filter(|frame| is_icmp_error(frame)).filter_map(|frame| lab::source(frame)));
            sources.contains(&black)
        });
        assert!(!sources.contains(&red), "{sources:?}");
    }
}

/// Whoever loads rules of his own begins with `flush ruleset`.
#[test]
fn what_keeps_answers_to_red_off_black_comes_back_when_somebody_has_flushed_it() {
    if lab::skip() {
        return;
    }
    let net = Net::new(false);
    let capture = Capture::new(&net.routers[A], "black");
    for family in [0, 1] {
        let [host, black] = [PLACES[A].host[family], PLACES[A].black[family]].map(address);
        let stranger = connected(&net.outside, OUTSIDE[family], (black, CLOSED));
        hears(&stranger, b"from black", Errno::ECONNREFUSED, "who is on black is known");
        let forged = [OUTSIDE[family], black].map(|end| end.parse().unwrap());
        let is_answered = || {
            forge::send(&net.hosts[A], vec![forge::echo_request(forged, MARKER)]);
            hears(&connected(&net.hosts[A], host, (black, CLOSED)), b"behind it", Errno::ECONNREFUSED, "an own one's");
            clear_text(&capture.frames())
        };
        assert!(!is_answered());
        net.routers[A].run(lab::flush_ruleset);
        until("it is not answered", || !is_answered());
        assert!(!is_answered());
    }
    assert_eq!(net.planes[A].failure(), None);
}

/// Why nothing gets from an address of this machine to another, by ICMP or by UDP from any.
fn unreached(ns: &Ns, from: Option<IpAddr>, to: IpAddr) -> Option<i32> {
    ns.run(move || {
        let domain = Domain::for_address(SocketAddr::new(to, 0));
        let icmp = if to.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
        let socket = match from {
            Some(_) => Socket::new(domain, Type::RAW, Some(icmp)).unwrap(),
            None => Socket::new(domain, Type::DGRAM, None).unwrap(),
        };
        if let Some(from) = from {
            socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        }
        socket.connect(&SocketAddr::new(to, CLOSED).into()).err().and_then(|error| error.raw_os_error())
    })
}

/// ICMP of one instance's black passes over the wide prefixes of that one, not over those of another.
#[test]
fn each_instance_leads_past_its_own_wide_prefixes_alone() {
    if lab::skip() {
        return;
    }
    const UNREACHABLE: Option<i32> = Some(Errno::EHOSTUNREACH as i32);
    for family in [0, 1] {
        let (net, elsewhere) = (Net::new(family == 0), Ns::new());
        let router = &net.routers[A];
        cable((router, "black1", &["fd01::a/64", "198.18.0.1/24"]), (&elsewhere, "eth0", &[]));
        let second = EspConfig {
            instance: 1,
            device: "muster1".into(),
            black_interface: "black1".into(),
            black_address: ["198.18.0.1", "fd01::a"][family].parse().unwrap(),
            reds: vec![],
            own_prefixes: vec![],
            ..config(A, family == 0)
        };
        let second = router.run(move || {
            block(&block_config(&second)).unwrap();
            start(second).unwrap()
        });
        let black = address(PLACES[A].black[family]).parse().unwrap();
        let to = OUTSIDE[family].parse().unwrap();
        let everything = || BTreeMap::from([(BOB, nets(&[["::/0", "0.0.0.0/0"][family]]))]);
        assert_eq!(unreached(router, None, to), None, "by black");
        net.planes[A].set_routes(everything());
        until("it is learned", || has_learned_everything(&net, family));
        net.planes[A].set_routes(BTreeMap::new());
        until("it is lost", || unreached(router, None, to) == UNREACHABLE);
        until("it is passed over", || unreached(router, Some(black), to).is_none());
        second.set_routes(everything());
        until("the other one learns it", || unreached(router, None, to).is_none());
        second.set_routes(BTreeMap::new());
        until("what it has lost is not passed over", || unreached(router, Some(black), to) == UNREACHABLE);
    }
}

/// With a data plane own prefixes stay off black, though there is no interface for them yet.
#[test]
fn own_prefixes_without_an_interface_are_not_sought_on_black() {
    if lab::skip() {
        return;
    }
    let net = Net::new(false);
    let router = &net.routers[A];
    let [host, other] = [["2001:db8:a::2", "10.1.0.2"], ["2001:db8:77::2", "10.77.0.2"]];
    let reached = |to: [&str; 2]| to.map(|to| unreached(router, None, to.parse().unwrap()).is_none());
    assert_eq!((reached(host), reached(other)), ([true; 2], [true; 2]));
    router.down("red0");
    assert_eq!((reached(host), reached(other)), ([false; 2], [true; 2]));
    let prefixes = [&PLACES[A].prefixes[..], &["2001:db8:77::/64", "10.77.0.0/16"]].concat();
    net.planes[A].set_own_prefixes(nets(&prefixes));
    until("the other prefixes are closed", || reached(other) == [false; 2]);
    assert_eq!(reached(host), [false; 2]);
    router.up("red0");
    router.address("red0", PLACES[A].red[0]);
    until("they are reached", || (reached(host), reached(other)) == ([true; 2], [true; 2]));
}

/// Whoever is on black can hand out addresses and routes there, by router advertisements say.
#[test]
fn what_black_is_given_leads_no_word_to_own_prefixes_away() {
    if lab::skip() {
        return;
    }
    let net = Net::new(false);
    let router = &net.routers[A];
    let with = |prefixes: [&'static str; 2], inside: [&'static str; 2]| {
        net.planes[A].set_own_prefixes(nets(&[&PLACES[A].prefixes[..], &prefixes].concat()));
        let reds: [IpAddr; 2] = PLACES[A].red.map(|red| address(red).parse().unwrap());
        // On the way there is a moment without a route.
        until("more is own", || inside.map(|inside| source_to(router, inside).ok()) == reds.map(Some));
    };
    for family in [0, 1] {
        net.outside.address("eth0", PLACES[A].host[family]);
        router.on_link("black", ["2001:db8:a::/65", "10.1.0.0/25"][family]);
        router.address("black", ["2001:db8:a::66/64", "10.1.0.66/24"][family]);
    }
    // The host lies in it.
    router.address("black", "10.1.0.6/29");
    // What is told after is done after.
    with(["2001:db8:77::/64", "10.77.0.0/16"], ["2001:db8:77::2", "10.77.0.2"]);
    for family in [0, 1] {
        let [host, red] = [PLACES[A].host[family], PLACES[A].red[family]].map(address);
        let capture = Capture::new(router, "black");
        let (own, to) = (udp(router, ["[::]:0", "0.0.0.0:0"][family]), udp(&net.hosts[A], &at(host, 5000)));
        until("the host hears of the router", || {
            let _ = own.send_to(MARKER, at(host, 5000));
            lab::receive(&to).is_some()
        });
        assert!(!clear_text(&capture.frames()));
        hears(&connected(&net.hosts[A], host, (red, CLOSED)), MARKER, Errno::ECONNREFUSED, "the router hears of it");
    }
    // An own prefix may have black's network in it, which is reached.
    with(["fd00::/8", "192.0.0.0/16"], ["fd01::2", "192.0.99.2"]);
    let blacks: [IpAddr; 2] = PLACES[A].black.map(|black| address(black).parse().unwrap());
    assert_eq!(OUTSIDE.map(|outside| source_to(router, outside).unwrap()), blacks);
}
