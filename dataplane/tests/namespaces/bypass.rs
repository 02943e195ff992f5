//! What a key server's policy leaves unprotected, which crosses in clear.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use muster_dataplane::{Selector, block};
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute};
use socket2::{Domain, Socket, Type};

use super::forge::{self, Part};
use super::lab::{self, Capture, DEADLINE, receive, udp, until};
use super::net::{A, Net, OUTSIDE, PLACES, address, at, block_config, clear_text, config, selector, to_port};
use super::tunnel::{MARKER, nets};

/// The policy leaves some unicast unprotected: that crosses in clear, both ways, and nothing else does.
#[test]
fn only_what_is_selected_crosses_in_clear() {
    if lab::skip() {
        return;
    }
    let mut net = Net::new(false);
    let host = |family: usize, port| udp(&net.hosts[A], &at(address(PLACES[A].host[family]), port));
    let outside = |family: usize, port| udp(&net.outside, &at(OUTSIDE[family], port));
    let inside: Vec<_> = [0, 1].into_iter().flat_map(|family| [host(family, 6000), host(family, 6001)]).collect();
    let black: Vec<_> = [0, 1].into_iter().flat_map(|family| [outside(family, 53), outside(family, 54)]).collect();
    // What crosses, of the two ports each way, in both families.
    let crosses = || {
        let mut all = Vec::new();
        for family in [0, 1] {
            let (inside, black) = (&inside[2 * family..], &black[2 * family..]);
            let home = address(PLACES[A].host[family]);
            let heard = |socket: &UdpSocket| receive(socket).is_some_and(|payload| payload == MARKER);
            for (nth, port) in [53, 54].into_iter().enumerate() {
                let _ = inside[0].send_to(MARKER, at(OUTSIDE[family], port));
                all.push(heard(&black[nth]));
                let _ = black[nth].send_to(MARKER, at(home, 6000));
                all.push(heard(&inside[0]));
            }
            // Errors that were answered show at the next call.
            inside[..2].iter().chain(&black[..2]).for_each(|socket| while receive(socket).is_some() {});
        }
        all
    };
    let nothing = [false; 8];
    assert_eq!(crosses(), nothing);
    let to_53 =
        |family: usize| to_port(53, selector(["::/0", "0.0.0.0/0"][family], ["fd00::/64", "192.0.2.0/24"][family]));
    net.planes[A].set_bypass(vec![to_53(0), to_53(1)]).unwrap();
    let both = [true, true, false, false, true, true, false, false];
    until("both families", || crosses() == both);
    for _ in 0..5 {
        assert_eq!(crosses(), both);
    }
    // Nobody on black has an address of ours, though a selector would have it answer.
    net.outside.address("eth0", "2001:db8:a::77/128");
    net.outside.address("eth0", "10.1.0.77/32");
    net.planes[A]
        .set_bypass(
            [0, 1]
                .map(|family| to_port(53, selector(PLACES[A].prefixes[family], ["::/0", "0.0.0.0/0"][family])))
                .to_vec(),
        )
        .unwrap();
    until("both families", || crosses() == both);
    for (family, forged) in ["2001:db8:a::77", "10.1.0.77"].into_iter().enumerate() {
        until("usable", || net.outside.run(move || UdpSocket::bind(at(forged, 0)).is_ok()));
        let forger = udp(&net.outside, &at(forged, 53));
        for _ in 0..5 {
            forger.send_to(MARKER, at(address(PLACES[A].host[family]), 6000)).unwrap();
        }
        until("the fence arrives", || {
            let _ = black[2 * family].send_to(b"fence", at(address(PLACES[A].host[family]), 6000));
            receive(&inside[2 * family]).inspect(|payload| assert_eq!(payload, b"fence")).is_some()
        });
    }
    // Of one family alone; then none.
    net.planes[A].set_bypass(vec![to_53(1)]).unwrap();
    assert_eq!(crosses(), [false, false, false, false, true, true, false, false]);
    // What is not ours is not let out, whatever is selected.
    net.planes[A].set_own_prefixes(nets(&["10.9.0.0/24"]));
    assert_eq!(crosses(), nothing);
    net.planes[A].set_own_prefixes(nets(&PLACES[A].prefixes));
    until("ours again", || crosses() == [false, false, false, false, true, true, false, false]);
    net.planes[A].set_bypass(vec![]).unwrap();
    assert_eq!(crosses(), nothing);
    // It ends with the data plane; and what a killed one has left ends with the block.
    net.planes[A].set_bypass(vec![to_53(0), to_53(1)]).unwrap();
    assert_eq!(crosses(), both);
    drop(net.planes.remove(A));
    assert_eq!(crosses(), nothing);
    for (priority, table, from) in [(13, 254, "red0"), (8, 0x4d03, "black")] {
        net.routers[A].rule(move |message| {
            message.header.action = RuleAction::ToTable;
            message.attributes = vec![
                RuleAttribute::Priority(priority),
                RuleAttribute::Protocol(RouteProtocol::Kernel),
                RuleAttribute::Iifname(from.into()),
                RuleAttribute::Table(table),
            ];
        });
    }
    assert_eq!(crosses()[4..], [true; 4], "as a killed one leaves it");
    net.routers[A].run(|| block(&block_config(&config(A, false))).unwrap());
    assert_eq!(crosses(), nothing);
}

/// What answers from black begins nothing, from the port that it would answer from either: of TCP, which shows who begins.
#[test]
fn tcp_in_clear_is_begun_from_red_alone() {
    if lab::skip() {
        return;
    }
    let net = Net::new(false);
    let to_443 = |family: usize| Selector {
        protocol: Some(6),
        destination_port: Some(443),
        ..selector(["::/0", "0.0.0.0/0"][family], ["fd00::/64", "192.0.2.0/24"][family])
    };
    net.planes[A].set_bypass(vec![to_443(0), to_443(1)]).unwrap();
    for family in [0, 1] {
        let parse = |text: String| text.parse::<SocketAddr>().unwrap();
        let (home, black) = (parse(at(address(PLACES[A].host[family]), 6000)), parse(at(OUTSIDE[family], 443)));
        let at_home = net.hosts[A].run(move || TcpListener::bind(home).unwrap());
        at_home.set_nonblocking(true).unwrap();
        let begun = net.outside.run(move || {
            let socket = Socket::new(Domain::for_address(black), Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.bind(&black.into()).unwrap();
            let begins = socket.connect(&home.into()).unwrap_err();
            assert_eq!(begins.raw_os_error(), Some(libc::EINPROGRESS));
            socket
        });
        // The other way round, and by the same way, after it.
        let there = net.outside.run(move || TcpListener::bind(black).unwrap());
        let mut asks = net.hosts[A].run(move || TcpStream::connect_timeout(&black, DEADLINE).unwrap());
        let (mut answers, _) = there.accept().unwrap();
        let mut octets = [0; 2];
        asks.write_all(b"?!").unwrap();
        answers.read_exact(&mut octets).unwrap();
        answers.write_all(&octets).unwrap();
        asks.read_exact(&mut octets).unwrap();
        assert_eq!(&octets, b"?!");
        assert_eq!(at_home.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(begun.peer_addr().is_err());
    }
}

/// What a fragment bears behind its headers, its protocol and whether it is a packet's first one; 24 octets.
fn labelled(protocol: u8, first: bool) -> Vec<u8> {
    // Read as an extension header: TCP is behind it. Read as TCP's it begins nothing: a blank is at the flags' place.
    [&[6, 0, 1, 4, 0, 0, 0, 0][..], MARK, &[protocol, first.into()]].concat()
}

const MARK: &[u8; 14] = b"one's fragment";

/// From a stranger to A's host.
fn from_black(family: usize) -> [IpAddr; 2] {
    [OUTSIDE[family], address(PLACES[A].host[family])].map(|end| end.parse().unwrap())
}

/// What A's LAN sends to anybody, and what anybody answers.
fn everything() -> Vec<Selector> {
    [0, 1].map(|family| selector(PLACES[A].prefixes[family], ["::/0", "0.0.0.0/0"][family])).to_vec()
}

/// In fragments TCP could begin unseen: they do not come in, nor those of IPv6 that may have it behind an extension header.
#[test]
fn tcp_in_clear_does_not_come_in_fragments() {
    if lab::skip() {
        return;
    }
    const UDP: u8 = 17;
    let net = Net::new(false);
    net.planes[A].set_bypass(everything()).unwrap();
    for (family, before_tcp) in [(0, &[6, 0, 43, 44, 51, 60, 135, 139, 140][..]), (1, &[6])] {
        let capture = Capture::new(&net.hosts[A], "eth0");
        let home = at(address(PLACES[A].host[family]), 6000);
        let (fence, at_home) = (udp(&net.outside, &at(OUTSIDE[family], 53)), udp(&net.hosts[A], &home));
        let fragments = before_tcp.iter().copied().chain([UDP]).flat_map(|protocol| {
            let first = Part { offset: 0, more: true };
            [first, Part { offset: 3, more: false }]
                .map(|part| forge::fragment(from_black(family), protocol, part, &labelled(protocol, part.more)))
        });
        until("the host is known", || {
            let _ = fence.send_to(b"fence", &home);
            receive(&at_home).is_some()
        });
        forge::send(&net.outside, fragments.collect());
        let label = |frame: &Vec<u8>| {
            let mark = frame.windows(MARK.len()).position(|bytes| bytes == MARK)?;
            Some((frame[mark + MARK.len()], frame[mark + MARK.len() + 1] == 1))
        };
        let mut arrived = Vec::new();
        // What another thread sends behind them is no fence: a processor has a queue of its own for what crosses a cable.
        until("the last one arrives", || {
            arrived.extend(capture.frames().iter().filter_map(label));
            arrived.contains(&(UDP, false))
        });
        assert_eq!(arrived, [(UDP, true), (UDP, false)], "of family {family}");
    }
}

/// Whoever loads rules of his own begins with `flush ruleset`.
#[test]
fn what_keeps_tcp_from_black_out_comes_back_when_somebody_has_flushed_it() {
    if lab::skip() {
        return;
    }
    const SYN: u8 = 2;
    const ACK: u8 = 0x10;
    let net = Net::new(false);
    net.planes[A].set_bypass(everything()).unwrap();
    for family in [0, 1] {
        let capture = Capture::new(&net.hosts[A], "eth0");
        let home = at(address(PLACES[A].host[family]), 6000);
        let (fence, at_home) = (udp(&net.outside, &at(OUTSIDE[family], 53)), udp(&net.hosts[A], &home));
        let [begins, goes_on] = [SYN, ACK].map(|flags| forge::segment(from_black(family), [443, 6001], flags, MARKER));
        let mut number = 0_u32;
        // What is begun is before the fence, on the same way.
        let mut comes_in = |segment: &[u8]| {
            forge::send(&net.outside, vec![segment.to_vec()]);
            number += 1;
            until("the fence arrives", || {
                fence.send_to(&number.to_be_bytes(), &home).unwrap();
                receive(&at_home).is_some_and(|payload| payload == number.to_be_bytes())
            });
            clear_text(&capture.frames())
        };
        assert!(!comes_in(&begins));
        net.routers[A].run(lab::flush_ruleset);
        until("it is kept out again", || !comes_in(&begins));
        assert!(!comes_in(&begins));
        assert!(comes_in(&goes_on), "an answer is not kept out");
    }
    assert_eq!(net.planes[A].failure(), None);
}
