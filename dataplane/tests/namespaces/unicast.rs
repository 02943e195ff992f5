//! Red unicast through the tunnel: both families in both, sizes, classes, hop limits, the router's own packets.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;

use muster_dataplane::{Dataplane, Dropped, EspConfig, Sa, SaKey, SaKind, block, unblock};
use muster_wire::MemberId;
use nix::libc;
use socket2::SockRef;

use super::lab::{self, Capture, Ns, multicast, protocol, receive, udp, until};
use super::tunnel::{ALICE, BOB, CAROL, Coalition, MARKER, Side, block_config, config, nets};

/// Red addresses of the hosts behind A and B, by family.
const HOSTS: [[&str; 2]; 2] = [["2001:db8:a::2", "2001:db8:b::2"], ["10.1.0.2", "10.2.0.2"]];
const ROUTERS: [[&str; 2]; 2] = [["2001:db8:a::1", "2001:db8:b::1"], ["10.1.0.1", "10.2.0.1"]];

/// The coalition with unicast SAs and routes both ways.
pub(crate) struct Pair {
    pub(crate) net: Coalition,
    pub(crate) a: Box<dyn Dataplane>,
    pub(crate) b: Box<dyn Dataplane>,
}

pub(crate) fn sa(from: MemberId, black_ipv4: bool) -> Sa {
    let destination = match (from == ALICE, black_ipv4) {
        (true, false) => "fd00::b",
        (true, true) => "192.0.2.2",
        (false, false) => "fd00::a",
        (false, true) => "192.0.2.1",
    };
    Sa {
        spi: 0x4000_0000 | u32::from(from.0[0]),
        kind: SaKind::Unicast,
        source: None,
        destination: destination.parse().unwrap(),
        epoch: 0,
        sender: from,
        selector: None,
        key: SaKey::new(&[from.0[0]; 36]),
    }
}

impl Pair {
    pub(crate) fn new(config: fn(Side, bool) -> EspConfig, black_ipv4: bool) -> Self {
        let net = Coalition::new();
        for (host, side) in [(&net.host_a, 0), (&net.host_b, 1)] {
            ROUTERS.iter().for_each(|routers| host.default_route(routers[side]));
        }
        // What is not stopped follows these, onto black.
        for (router, gateways) in [(&net.router_a, ["fd00::b", "192.0.2.2"]), (&net.router_b, ["fd00::a", "192.0.2.1"])]
        {
            gateways.iter().for_each(|gateway| router.default_route(gateway));
        }
        let (a, b) = net.start(config, black_ipv4);
        a.install_inbound(vec![sa(BOB, black_ipv4)]).unwrap();
        b.install_inbound(vec![sa(ALICE, black_ipv4)]).unwrap();
        a.set_unicast(BOB, sa(ALICE, black_ipv4)).unwrap();
        b.set_unicast(ALICE, sa(BOB, black_ipv4)).unwrap();
        a.set_routes(BTreeMap::from([(BOB, nets(&["2001:db8:b::/64", "10.2.0.0/24"]))]));
        b.set_routes(BTreeMap::from([(ALICE, nets(&["2001:db8:a::/64", "10.1.0.0/24"]))]));
        let pair = Pair { net, a, b };
        for family in [0, 1] {
            pair.crosses(family, b"the routes are there");
        }
        pair
    }

    /// What the host behind A sends arrives at the one behind B.
    pub(crate) fn crosses(&self, family: usize, payload: &[u8]) {
        let (from, to) = self.sockets(family);
        let expected = payload.to_vec();
        until(&format!("{} octets arrive in family {family}", payload.len()), || {
            // The path's size may have been learned just now.
            let _ = from.send(payload);
            receive(&to).is_some_and(|got| got == expected)
        });
    }

    /// A socket on the host behind A, connected to one on the host behind B.
    pub(crate) fn sockets(&self, family: usize) -> (UdpSocket, UdpSocket) {
        let [a, b] = HOSTS[family];
        let (from, to) = (udp(&self.net.host_a, &at(a, 0)), udp(&self.net.host_b, &at(b, 5000)));
        from.connect(at(b, 5000)).unwrap();
        (from, to)
    }
}

fn at(address: &str, port: u16) -> String {
    SocketAddr::new(address.parse().unwrap(), port).to_string()
}

fn assert_nothing_in_clear(capture: &Capture) -> usize {
    let frames = capture.frames();
    for frame in &frames {
        assert!(!frame.windows(16).any(|bytes| bytes == MARKER), "clear text on black");
        assert!(matches!(protocol(frame), Some(50 | 58 | 2) | None), "{:02x?}", &frame[..40]);
    }
    frames.iter().filter(|frame| protocol(frame) == Some(50)).count()
}

/// Hosts and routers reach each other, by UDP and TCP, encrypted.
fn red_to_red(black_ipv4: bool) {
    let pair = Pair::new(config, black_ipv4);
    let capture = Capture::new(&pair.net.router_a, "black");
    for family in [0, 1] {
        pair.crosses(family, MARKER);
        transfer(&pair, HOSTS[family][1]);

        // Router A to host B with an address of its red side, and host B to router A.
        let own = udp(&pair.net.router_a, &at(if family == 0 { "::" } else { "0.0.0.0" }, 6000));
        let host = udp(&pair.net.host_b, &at(HOSTS[family][1], 6000));
        until("the router's own packet arrives", || {
            own.send_to(MARKER, at(HOSTS[family][1], 6000)).unwrap();
            receive(&host).is_some()
        });
        until("and one comes back", || {
            host.send_to(MARKER, at(ROUTERS[family][0], 6000)).unwrap();
            receive(&own).is_some()
        });
    }
    assert!(assert_nothing_in_clear(&capture) > 100);
    assert_eq!((pair.a.counters().dropped, pair.b.counters().dropped), Default::default());
    assert_eq!((pair.a.failure(), pair.b.failure()), (None, None));
}

/// A megabyte by TCP, from the host behind A to that behind B.
fn transfer(pair: &Pair, to: &'static str) {
    let data: Vec<u8> = (0..1u32 << 20).map(|n| ((n * 7) >> 3) as u8).collect();
    let listener = pair.net.host_b.run(move || TcpListener::bind(at(to, 7000)).unwrap());
    let sent = data.clone();
    let sender = std::thread::spawn({
        let stream = pair.net.host_a.run(move || TcpStream::connect(at(to, 7000)).unwrap());
        move || (&stream).write_all(&sent).unwrap()
    });
    let mut got = Vec::new();
    listener.accept().unwrap().0.read_to_end(&mut got).unwrap();
    sender.join().unwrap();
    assert!(got == data, "{} octets of {}", got.len(), data.len());
}

#[test]
fn unicast_over_black_ipv6() {
    if !lab::skip() {
        red_to_red(false);
    }
}

#[test]
fn unicast_over_black_ipv4() {
    if !lab::skip() {
        red_to_red(true);
    }
}

/// A checksum that comes out as zero is sent as its complement: with UDP zero says that there is none, which IPv6 does not
/// allow (RFC 8200 8.1).
#[test]
fn a_checksum_of_zero_is_a_checksum() {
    if lab::skip() {
        return;
    }
    let pair = Pair::new(config, false);
    let (from, to) = pair.sockets(0);
    let words = |bytes: &[u8]| bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum::<u32>();
    let octets = |address: &str| address.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let port = from.local_addr().unwrap().port();
    // Pseudo-header, then source port, destination port, length; the payload of two octets makes the sum all ones.
    let length = 8 + 2;
    let sum = words(&octets(HOSTS[0][0])) + words(&octets(HOSTS[0][1])) + length + 17 + u32::from(port) + 5000 + length;
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let payload = (0xffff - folded as u16).to_be_bytes();
    until("it arrives", || {
        from.send(&payload).unwrap();
        receive(&to).is_some_and(|got| got == payload)
    });
}

/// Largest IP packets of the path to `to`, as the host learns them from ICMP.
pub(crate) fn path_mtu(socket: &UdpSocket, ipv4: bool) -> i32 {
    let (level, option) = if ipv4 { (libc::IPPROTO_IP, libc::IP_MTU) } else { (libc::IPPROTO_IPV6, libc::IPV6_MTU) };
    let (mut mtu, mut len) = (0i32, 4u32);
    // SAFETY: both pointers are to live values of the stated sizes, which the kernel fills during the call.
    let done = unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut mtu).cast(), &raw mut len) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    mtu
}

/// Unicast that is too big: its sender is told how big it may be, in both families; and again when black shrinks.
#[test]
fn senders_of_unicast_are_told_the_size() {
    if lab::skip() {
        return;
    }
    for black_ipv4 in [false, true] {
        let pair = Pair::new(config, black_ipv4);
        let overhead = if black_ipv4 { 54 } else { 74 };
        // What fits what was learned before goes in one piece, and meets the smaller size.
        for (black, payload) in [(1500, 1440), (1400, 1390)] {
            let tunnel = black as i32 - overhead;
            pair.net.router_a.mtu("black", black);
            for family in [0, 1] {
                let (from, to) = pair.sockets(family);
                until(&format!("{tunnel} octets are learned, family {family}"), || {
                    let _ = from.send(&vec![7; payload]);
                    path_mtu(&from, family == 1) == tunnel
                });
                drop((from, to));
                let headers = if family == 1 { 28 } else { 48 };
                pair.crosses(family, &vec![7; tunnel as usize - headers]);
            }
        }
        // Until the routes have followed, the kernel's own ESP tells, and counts.
        let dropped = Dropped { too_big: 0, ..pair.a.counters().dropped };
        assert_eq!(if lab::is_kernel() { dropped } else { pair.a.counters().dropped }, Dropped::default());
    }
}

/// IPv6 multicast that is too big: ICMP, as for unicast (RFC 8200 5).
#[test]
fn senders_of_ipv6_multicast_are_told_the_size() {
    if lab::skip() {
        return;
    }
    let pair = Pair::new(config, false);
    let from = multicast(&pair.net.host_a, "eth0", "ff1e::1", 5000);
    let capture = Capture::new(&pair.net.host_a, "eth0");
    until("packet too big, 1426", || {
        let _ = from.send_to(&[7; 1440], ("ff1e::1", 5000));
        // ICMPv6 type 2, MTU in the second word.
        let told = |frame: &Vec<u8>| protocol(frame) == Some(58) && frame[54] == 2 && frame[58..62] == [0, 0, 5, 146];
        capture.frames().iter().any(told)
    });
}

fn group_sa() -> Sa {
    Sa {
        kind: SaKind::Group,
        spi: 0x10_0000,
        destination: "ff05::6d76".parse().unwrap(),
        key: SaKey::new(&[9; 36]),
        ..sa(ALICE, false)
    }
}

/// IPv4 multicast that is too big and forbids fragments: dropped and counted, or fragmented where the operator says so.
#[test]
fn ipv4_multicast_is_dropped_and_counted_or_fragmented() {
    if lab::skip() {
        return;
    }
    for clear_df in [false, true] {
        let config: fn(Side, bool) -> EspConfig = match clear_df {
            false => config,
            true => |side, ipv4| EspConfig { clear_df: true, ..config(side, ipv4) },
        };
        let pair = Pair::new(config, false);
        pair.b.install_inbound(vec![group_sa()]).unwrap();
        pair.a.set_outbound(group_sa()).unwrap();
        let from = multicast(&pair.net.host_a, "eth0", "239.10.0.1", 5000);
        let to = multicast(&pair.net.host_b, "eth0", "239.10.0.1", 5000);
        let payload: Vec<u8> = (0..1440u32).map(|n| n as u8).collect();
        let arrives = || {
            from.send_to(&payload, ("239.10.0.1", 5000)).unwrap();
            receive(&to).is_some_and(|got| got == payload)
        };
        // Linux lets the network fragment UDP only where it is asked to.
        lab::set_df(&from, false);
        until("without DF it arrives", arrives);
        lab::set_df(&from, true);
        if clear_df {
            until("with DF it arrives in fragments", arrives);
            assert_eq!(pair.a.counters().dropped, Dropped::default());
        } else {
            until("with DF it is counted", || {
                from.send_to(&payload, ("239.10.0.1", 5000)).unwrap();
                pair.a.counters().dropped.too_big > 3
            });
        }
    }
}

/// DSCP and ECN of the inner packet stand on the outer one; without `copy_dscp`, ECN alone does.
#[test]
fn classes_on_the_wire() {
    if lab::skip() {
        return;
    }
    for (black_ipv4, copy_dscp) in [(false, true), (true, true), (false, false), (true, false)] {
        let config: fn(Side, bool) -> EspConfig = match copy_dscp {
            true => config,
            false => |side, ipv4| EspConfig { copy_dscp: false, ..config(side, ipv4) },
        };
        let pair = Pair::new(config, black_ipv4);
        for family in [0, 1] {
            let (from, to) = pair.sockets(family);
            let class = 0xba;
            match family {
                0 => SockRef::from(&from).set_tclass_v6(class).unwrap(),
                _ => SockRef::from(&from).set_tos_v4(class).unwrap(),
            }
            let (black, red) = (Capture::new(&pair.net.router_b, "black"), Capture::new(&pair.net.host_b, "eth0"));
            from.send(MARKER).unwrap();
            until("it arrives", || receive(&to).is_some());
            let esp: Vec<u32> = black
                .frames()
                .iter()
                .filter(|frame| protocol(frame) == Some(50))
                .map(|frame| class_of(frame))
                .collect();
            assert_eq!(esp, [if copy_dscp { class } else { class & 3 }], "family {family} over IPv4 {black_ipv4}");
            let inner: Vec<u32> =
                red.frames().iter().filter(|frame| protocol(frame) == Some(17)).map(|frame| class_of(frame)).collect();
            assert_eq!(inner, [class]);
        }
    }
}

fn class_of(frame: &[u8]) -> u32 {
    match frame[12] {
        0x08 => frame[15].into(),
        _ => u32::from(frame[14] << 4 | frame[15] >> 4),
    }
}

/// Each router counts as one hop, and says so when the hop limit ends there: the near one and, through the tunnel, the
/// far one (RFC 4301 5.1.2).
#[test]
fn hop_limits_count_routers() {
    if lab::skip() {
        return;
    }
    let pair = Pair::new(config, false);
    for family in [0, 1] {
        let (from, to) = pair.sockets(family);
        let hops = |hops| match family {
            0 => SockRef::from(&from).set_unicast_hops_v6(hops).unwrap(),
            _ => SockRef::from(&from).set_ttl_v4(hops).unwrap(),
        };
        for (limit, router) in [(1, ROUTERS[family][0]), (2, ROUTERS[family][1])] {
            hops(limit);
            let capture = Capture::new(&pair.net.host_a, "eth0");
            let router: IpAddr = router.parse().unwrap();
            until(&format!("time exceeded from {router}"), || {
                // The error before shows here.
                let _ = from.send(MARKER);
                capture.frames().iter().any(|frame| time_exceeded(frame) == Some(router))
            });
            assert_eq!(receive(&to), None);
        }
        hops(3);
        let capture = Capture::new(&pair.net.host_b, "eth0");
        until("three hops are enough", || {
            let _ = from.send(MARKER);
            receive(&to).is_some()
        });
        let arrived = capture.frames();
        let limit = arrived.iter().find(|f| protocol(f) == Some(17)).map(|f| f[14 + if family == 0 { 7 } else { 8 }]);
        assert_eq!(limit, Some(1));
    }
}

/// Who says that the hop limit was exceeded.
fn time_exceeded(frame: &[u8]) -> Option<IpAddr> {
    match (protocol(frame)?, frame[12]) {
        (1, 0x08) if *frame.get(34)? == 11 => Some(IpAddr::from(*frame.get(26..)?.first_chunk::<4>()?)),
        (58, 0x86) if *frame.get(54)? == 3 => Some(IpAddr::from(*frame.get(22..)?.first_chunk::<16>()?)),
        _ => None,
    }
}

/// The router's own packets, to a prefix that was learned, and lost: never onto black, whose default route waits.
#[test]
fn what_was_red_does_not_become_black() {
    if lab::skip() {
        return;
    }
    let Pair { net, a, b } = Pair::new(config, false);
    let capture = Capture::new(&net.router_a, "black");
    let send = |ns: &Ns| {
        for hosts in HOSTS {
            let any = if hosts[1].contains(':') { "[::]:0" } else { "0.0.0.0:0" };
            // Unreachable is an answer too.
            let _ = udp(ns, any).send_to(MARKER, at(hosts[1], 5000));
        }
    };
    let clear = || capture.frames().iter().any(|frame| frame.windows(16).any(|bytes| bytes == MARKER));
    let reached = |ns: &Ns| {
        let to: SocketAddr = at(HOSTS[0][1], 5000).parse().unwrap();
        ns.run(move || UdpSocket::bind("[::]:0").unwrap().connect(to).is_ok())
    };
    send(&net.router_a);
    assert!(!clear() && reached(&net.router_a));
    // The peer is gone.
    a.set_routes(BTreeMap::new());
    until("unreachable for the router", || !reached(&net.router_a));
    send(&net.router_a);
    send(&net.host_a);
    assert!(!clear());
    // Back; the block leaves what is learned; then the daemon is gone, its device and routes with it.
    a.set_routes(BTreeMap::from([(BOB, nets(&["2001:db8:b::/64", "10.2.0.0/24"]))]));
    until("reachable again", || reached(&net.router_a));
    net.router_a.run(|| block(&block_config(Side::A)).unwrap());
    assert!(reached(&net.router_a));
    drop((a, b));
    assert!(!reached(&net.router_a));
    send(&net.router_a);
    send(&net.host_a);
    assert!(!clear());
    // The check can fail.
    net.router_a.run(|| unblock(3).unwrap());
    until("unblocked, it leaks", || {
        send(&net.router_a);
        clear()
    });
}

/// By announcing the same, or something wider, and by very much after that.
#[test]
fn what_one_router_has_lost_no_other_uncovers() {
    if lab::skip() {
        return;
    }
    let Pair { net, a, b } = Pair::new(config, false);
    let source = |to: &str| {
        let socket = udp(&net.router_a, "[::]:0");
        socket.connect(at(to, 5000)).ok().and_then(|()| socket.local_addr().ok()).map(|address| address.ip())
    };
    let red: Option<IpAddr> = Some(ROUTERS[0][0].parse().unwrap());
    let announces = |prefixes: &[String]| {
        a.set_routes(BTreeMap::from([(CAROL, prefixes.iter().map(|net| net.parse().unwrap()).collect())]))
    };
    let withdraws = |inside: &str| {
        until("it is learned", || source(inside) == red);
        a.set_routes(BTreeMap::new());
        until("it is lost", || source(inside).is_none());
    };
    let (of_bob, wide) = (HOSTS[0][1], "2001:db8:ffff::1");
    // Bob goes while Carol has it, too.
    announces(&["2001:db8:b::/64".to_owned(), "fd11::/48".to_owned()]);
    withdraws("fd11::1");
    assert_eq!(source(of_bob), None);
    announces(&["2001:db8::/32".to_owned()]);
    until("it makes way", || source(of_bob) == red);
    withdraws(wide);
    for round in 0..5 {
        announces(&(0..64).map(|nth| format!("fd10:{round}:{nth:x}::/48")).collect::<Vec<_>>());
        withdraws(&format!("fd10:{round}:3f::1"));
    }
    assert!(source(wide).is_some(), "Carol's oldest has gone");
    assert_eq!(source(of_bob), None);
    drop((a, b));
}

/// The kernel drops an interface's routes, and what was said of its IPv6 packets, when it goes down.
#[test]
fn interfaces_that_go_down_and_come_up_have_their_routes_again() {
    if lab::skip() {
        return;
    }
    let pair = Pair::new(config, false);
    let router = &pair.net.router_b;
    router.down("red0");
    router.up("red0");
    // IPv4 addresses stay.
    router.address("red0", "2001:db8:b::1/64");
    [0, 1].into_iter().for_each(|family| pair.crosses(family, b"red comes up"));
    for router in [router, &pair.net.router_a] {
        let mtu = || router.run(|| std::fs::read_to_string("/proc/sys/net/ipv6/conf/muster0/mtu").unwrap());
        let before = mtu();
        router.down("muster0");
        router.up("muster0");
        [0, 1].into_iter().for_each(|family| pair.crosses(family, b"the tunnel comes up"));
        until("its largest IPv6 packet again", || mtu() == before);
    }
}

/// The kernel takes the source off every route when its address goes, though that be back before anybody looks.
#[test]
fn a_red_address_that_goes_and_comes_back_is_the_source_again() {
    if lab::skip() {
        return;
    }
    let Pair { net, a, b } = Pair::new(config, false);
    // By itself the router would take its black address, which is the nearest.
    a.set_routes(BTreeMap::from([(BOB, nets(&["fd00:b::/64"]))]));
    let source = || {
        let socket = udp(&net.router_a, "[::]:0");
        socket.connect("[fd00:b::2]:6000").ok().and_then(|()| socket.local_addr().ok()).map(|address| address.ip())
    };
    let red: IpAddr = ROUTERS[0][0].parse().unwrap();
    until("its source", || source() == Some(red));
    net.router_a.without_address("red0", "2001:db8:a::1/64");
    net.router_a.address("red0", "2001:db8:a::1/64");
    until("its source again", || source() == Some(red));
    drop((a, b));
}

/// What is lost makes room for what is learned around it; a router that announces the black network itself takes hold
/// of nothing of ours.
#[test]
fn prefixes_may_change_and_may_be_hostile() {
    if lab::skip() {
        return;
    }
    let pair = Pair::new(config, false);
    pair.a.set_routes(BTreeMap::new());
    let wide = || BTreeMap::from([(BOB, nets(&["2001:db8::/32", "10.0.0.0/8", "fd00::/8", "192.0.2.0/24"]))]);
    pair.a.set_routes(wide());
    for family in [0, 1] {
        pair.crosses(family, MARKER);
    }
    let own = udp(&pair.net.router_a, "[::]:6000");
    let host = udp(&pair.net.host_b, "[2001:db8:b::2]:6000");
    until("what was unreachable is covered now", || {
        let _ = own.send_to(MARKER, "[2001:db8:b::2]:6000");
        receive(&host).is_some()
    });
}
