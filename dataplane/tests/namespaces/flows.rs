//! Flows of a key server's policy: each on an SA of its own, chosen by selectors.

use std::net::{IpAddr, UdpSocket};
use std::time::Instant;

use muster_dataplane::{Dropped, FlowId, Selector};

use super::lab::{self, Capture, DEADLINE, multicast, protocol, receive, udp, until};
use super::net::{A, B, C, Net, OUTSIDE, PLACES, address, at, clear_text, selector, to_port};
use super::tunnel::MARKER;

/// From A's prefix of the group's family.
fn to_group(group: &str) -> Selector {
    let prefix = PLACES[A].prefixes[usize::from(!group.contains(':'))];
    selector(prefix, &format!("{group}/{}", if group.contains(':') { 128 } else { 32 }))
}

/// Sends until it arrives.
fn arrives(from: &UdpSocket, to: &UdpSocket, group: &str, port: u16) {
    until(&format!("{group} port {port} arrives"), || {
        from.send_to(MARKER, (group, port)).unwrap();
        receive(to).is_some_and(|payload| payload == MARKER)
    });
    while receive(to).is_some() {}
}

/// Two flows to two groups: each reaches its member alone, under the group's own address.
fn flows_and_members(black_ipv4: bool) {
    let net = Net::new(black_ipv4);
    for (group, other, numbers) in [("ff1e::1", "ff1e::2", [1, 2]), ("239.10.0.1", "239.10.0.2", [3, 4])] {
        net.multicast(A, (numbers[0], numbers[0]), group, to_group(group), &[B]);
        let capture = Capture::new(&net.routers[C], "black");
        let from = net.host(A, group, 5000);
        let [at_b, at_c] = [B, C].map(|place| net.host(place, group, 5000));
        arrives(&from, &at_b, group, 5000);
        // Who is no member hears nothing, nor is it joined there.
        assert_eq!(receive(&at_c), None);
        let outer = net.outer(group);
        assert_eq!([A, B, C].map(|router| net.is_member(router, outer)), [false, true, false]);
        let frames = capture.frames();
        assert!(!clear_text(&frames), "clear text on black");
        let esp: Vec<IpAddr> = frames.iter().filter(|f| protocol(f) == Some(50)).map(|f| destination(f)).collect();
        assert!(!esp.is_empty() && esp.iter().all(|to| *to == outer), "{esp:?}");

        net.multicast(A, (numbers[1], numbers[1]), other, to_group(other), &[C]);
        let [at_b, at_c] = [B, C].map(|place| net.host(place, other, 5001));
        arrives(&from, &at_c, other, 5001);
        assert_eq!(receive(&at_b), None);
    }
    // Groups of the other family share an outer one, by which both hear ESP of SAs that are not theirs.
    for plane in &net.planes {
        let dropped = plane.counters().dropped;
        assert_eq!(Dropped { unknown_spi: 0, ..dropped }, Dropped::default());
        assert_eq!(plane.failure(), None);
    }
    // What is in use no longer is left.
    let group: IpAddr = net.outer(if black_ipv4 { "239.10.0.1" } else { "ff1e::1" });
    let ids: Vec<_> = net.planes[B]
        .sas()
        .iter()
        .map(|sa| muster_dataplane::SaId { destination: sa.destination, spi: sa.spi })
        .collect();
    assert_eq!(ids.len(), 2);
    net.planes[B].remove_inbound(&ids).unwrap();
    assert!(!net.is_member(B, group));
}

fn destination(frame: &[u8]) -> IpAddr {
    match frame[12] {
        0x08 => IpAddr::from(*frame[30..].first_chunk::<4>().unwrap()),
        _ => IpAddr::from(*frame[38..].first_chunk::<16>().unwrap()),
    }
}

#[test]
fn each_flow_reaches_its_members_over_black_ipv6() {
    if !lab::skip() {
        flows_and_members(false);
    }
}

#[test]
fn each_flow_reaches_its_members_over_black_ipv4() {
    if !lab::skip() {
        flows_and_members(true);
    }
}

/// Two flows to one group differ in the port alone; what is for neither goes nowhere.
#[test]
fn ports_tell_flows_of_one_group_apart() {
    if lab::skip() {
        return;
    }
    for black_ipv4 in [false, true] {
        let net = Net::new(black_ipv4);
        let group = if black_ipv4 { "239.10.0.1" } else { "ff1e::1" };
        net.multicast(A, (1, 1), group, to_port(5001, to_group(group)), &[B]);
        net.multicast(A, (2, 2), group, to_port(5002, to_group(group)), &[C]);
        let from = net.host(A, group, 5000);
        let listen = |place| [5000, 5001, 5002].map(|port| net.host(place, group, port));
        let (at_b, at_c) = (listen(B), listen(C));
        arrives(&from, &at_b[1], group, 5001);
        arrives(&from, &at_c[2], group, 5002);
        for port in [5000, 5001, 5002] {
            from.send_to(MARKER, (group, port)).unwrap();
        }
        arrives(&from, &at_b[1], group, 5001);
        arrives(&from, &at_c[2], group, 5002);
        assert!([&at_b[0], &at_b[2], &at_c[0], &at_c[1]].iter().all(|socket| receive(socket).is_none()));
        assert_eq!(net.planes[A].counters().dropped, Dropped { no_sa: 1, ..Dropped::default() });
        // A packet that is too big shows its ports still: it is cut behind the encryption.
        let big: Vec<u8> = (0..1440u32).map(|n| n as u8).collect();
        if black_ipv4 {
            lab::set_df(&from, false);
            until("it arrives", || {
                from.send_to(&big, (group, 5001)).unwrap();
                receive(&at_b[1]).is_some_and(|got| got == big)
            });
        }
    }
}

/// A VPN of two routers, in both families; what its selectors are not for stays here.
#[test]
fn unicast_goes_by_selectors() {
    if lab::skip() {
        return;
    }
    for black_ipv4 in [false, true] {
        let net = Net::new(black_ipv4);
        let capture = Capture::new(&net.routers[A], "black");
        for family in [0, 1] {
            let way = to_port(5000, selector(PLACES[A].prefixes[family], PLACES[B].prefixes[family]));
            let number = 1 + family as u32;
            net.unicast(A, B, (number, number), way);
            net.unicast(B, A, (number, number), way.reversed());
            let [a, b, c] = [A, B, C].map(|place| address(PLACES[place].host[family]));
            let (from, to) = (udp(&net.hosts[A], &at(a, 6000)), udp(&net.hosts[B], &at(b, 5000)));
            until("it arrives", || {
                let _ = from.send_to(MARKER, at(b, 5000));
                receive(&to).is_some()
            });
            until("and comes back", || {
                to.send_to(MARKER, at(a, 6000)).unwrap();
                receive(&from).is_some()
            });
            // To another port, to another router, to nobody.
            let elsewhere = [(B, b), (C, c)].map(|(place, host)| udp(&net.hosts[place], &at(host, 5001)));
            for to in [at(b, 5001), at(c, 5000), at(c, 5001), at(OUTSIDE[family], 5000)] {
                // Unreachable is an answer too.
                let _ = from.send_to(MARKER, to);
            }
            until("the fence arrives", || {
                let _ = from.send_to(b"fence", at(b, 5000));
                receive(&to).is_some_and(|payload| payload == b"fence")
            });
            assert!(elsewhere.iter().all(|socket| receive(socket).is_none()));
        }
        assert_eq!(net.planes[A].counters().dropped.no_sa, 2, "one a family");
        assert_eq!(net.planes[B].counters().dropped, Dropped::default());
        // Nor does the router itself send there in clear, with or without the flow.
        let own = udp(&net.routers[A], "[::]:0");
        let _ = own.send_to(MARKER, at(address(PLACES[B].host[0]), 5001));
        net.planes[A].clear_flow(FlowId(1)).unwrap();
        until("the route is gone", || own.send_to(MARKER, at(address(PLACES[B].host[0]), 5001)).is_err());
        assert!(!clear_text(&capture.frames()));
    }
}

/// What comes out of an SA is what that is for, whoever has its key.
#[test]
fn what_an_sa_is_not_for_is_not_delivered() {
    if lab::skip() {
        return;
    }
    for black_ipv4 in [false, true] {
        let net = Net::new(black_ipv4);
        for (group, number) in [("ff1e::1", 1), ("239.10.0.1", 2)] {
            let sa = |selector| net.sa(A, number, net.outer(group), selector);
            net.planes[B].install_inbound(vec![sa(to_port(5001, to_group(group)))]).unwrap();
            net.planes[A].set_flow(FlowId(number), to_group(group), sa(to_group(group))).unwrap();
            let from = net.host(A, group, 5000);
            let [good, bad] = [5001, 5002].map(|port| net.host(B, group, port));
            arrives(&from, &good, group, 5001);
            let before = net.planes[B].counters().dropped.spoofed;
            from.send_to(MARKER, (group, 5002)).unwrap();
            until("it is counted", || net.planes[B].counters().dropped.spoofed > before);
            assert_eq!(receive(&bad), None);
        }
        // Unicast: to another port than the SA is for, though it is ours.
        let [a, b] = [A, B].map(|place| PLACES[place].prefixes[0]);
        let destination = address(PLACES[B].black[usize::from(black_ipv4)]).parse().unwrap();
        let sa = |selector| net.sa(A, 3, destination, selector);
        net.planes[B].install_inbound(vec![sa(to_port(5001, selector(a, b)))]).unwrap();
        net.planes[A].set_flow(FlowId(3), selector(a, b), sa(selector(a, b))).unwrap();
        let host = address(PLACES[B].host[0]);
        let from = udp(&net.hosts[A], &at(address(PLACES[A].host[0]), 0));
        let [good, bad] = [5001, 5002].map(|port| udp(&net.hosts[B], &at(host, port)));
        until("it arrives", || {
            let _ = from.send_to(MARKER, at(host, 5001));
            receive(&good).is_some()
        });
        let before = net.planes[B].counters().dropped;
        from.send_to(MARKER, at(host, 5002)).unwrap();
        until("it is counted", || net.planes[B].counters().dropped.spoofed > before.spoofed);
        assert_eq!(receive(&bad), None);
        assert_eq!(net.planes[B].counters().dropped, Dropped { spoofed: before.spoofed + 1, ..before });
    }
}

/// What a flow without an SA is for goes on no wider flow, whose SA others have, until the flow is forgotten.
#[test]
fn a_flow_that_stops_leaves_nothing_to_a_wider_one() {
    if lab::skip() {
        return;
    }
    for black_ipv4 in [false, true] {
        let net = Net::new(black_ipv4);
        let capture = Capture::new(&net.routers[A], "black");
        let unsent = || net.planes[A].counters().dropped.no_sa;
        let group = if black_ipv4 { "239.10.0.1" } else { "ff1e::1" };
        let narrow = to_port(5001, to_group(group));
        net.multicast(A, (1, 1), group, narrow, &[B]);
        net.multicast(A, (2, 2), group, to_group(group), &[C]);
        let from = net.host(A, group, 5000);
        let [at_b, at_c] = [B, C].map(|place| [5001, 5002].map(|port| net.host(place, group, port)));
        arrives(&from, &at_b[0], group, 5001);
        arrives(&from, &at_c[1], group, 5002);
        net.planes[A].stop_flow(FlowId(1), narrow).unwrap();
        from.send_to(MARKER, (group, 5001)).unwrap();
        until("it is counted", || unsent() == 1);
        arrives(&from, &at_c[1], group, 5002);
        assert!([&at_b[0], &at_c[0]].iter().all(|socket| receive(socket).is_none()));
        // Another SA, and the flow goes on; forgotten, it leaves its packets to the other one.
        net.multicast(A, (1, 3), group, narrow, &[B]);
        arrives(&from, &at_b[0], group, 5001);
        assert_eq!(receive(&at_c[0]), None);
        net.planes[A].clear_flow(FlowId(1)).unwrap();
        arrives(&from, &at_c[0], group, 5001);

        // Unicast: the wider flow's SA is C's.
        let family = usize::from(black_ipv4);
        let [a, b] = [A, B].map(|place| PLACES[place].prefixes[family]);
        let narrow = selector(a, b);
        net.unicast(A, B, (3, 4), narrow);
        net.unicast(A, C, (4, 5), selector(a, ["2001:db8:b::/48", "10.2.0.0/16"][family]));
        let host = address(PLACES[B].host[family]);
        let from = udp(&net.hosts[A], &at(address(PLACES[A].host[family]), 6000));
        let to = udp(&net.hosts[B], &at(host, 5000));
        until("it arrives", || {
            let _ = from.send_to(MARKER, at(host, 5000));
            receive(&to).is_some()
        });
        while receive(&to).is_some() {}
        let before = unsent();
        let astray = || {
            let sas = net.planes[A].sas();
            sas.iter().filter(|sa| sa.flow == Some(FlowId(4))).map(|sa| sa.packets).sum::<u64>()
        };
        net.planes[A].stop_flow(FlowId(3), narrow).unwrap();
        // Its route goes, too, and until then the other one's is not looked at.
        until("five are counted", || {
            let _ = from.send_to(MARKER, at(host, 5000));
            unsent() >= before + 5
        });
        assert_eq!((receive(&to), astray()), (None, 0));
        net.planes[A].clear_flow(FlowId(3)).unwrap();
        until("it goes to C", || {
            let _ = from.send_to(MARKER, at(host, 5000));
            astray() > 0
        });
        assert!(!clear_text(&capture.frames()));
    }
}

/// A router on black is in the group that others send ESP to; what comes there in clear goes no further, and what red sends
/// in clear does not get there.
#[test]
fn the_groups_of_black_are_not_those_of_red() {
    if lab::skip() {
        return;
    }
    for black_ipv4 in [false, true] {
        let net = Net::new(black_ipv4);
        let (group, other) = if black_ipv4 { ("239.10.0.1", "239.10.0.2") } else { ("ff1e::1", "ff1e::2") };
        net.multicast(A, (1, 1), group, to_group(group), &[B]);
        let from = net.host(A, group, 5000);
        let at_b = net.host(B, group, 5000);
        arrives(&from, &at_b, group, 5000);
        assert!(net.is_member(B, group.parse().unwrap()));
        let capture = Capture::new(&net.routers[B], "black");
        let stranger = multicast(&net.outside, "eth0", group, 5000);
        until("it has come to the router", || {
            stranger.send_to(b"from black 0815!", (group, 5000)).unwrap();
            capture.frames().iter().any(|frame| frame.windows(16).any(|bytes| bytes == b"from black 0815!"))
        });
        // Behind it on the same way.
        until("the fence arrives", || {
            from.send_to(b"fence", (group, 5000)).unwrap();
            receive(&at_b).inspect(|payload| assert_eq!(payload, b"fence")).is_some()
        });
        // No flow is for this group.
        let capture = Capture::new(&net.routers[A], "black");
        // Of the first ones of a flow the kernel keeps few until it knows where they go.
        until("they are counted", || {
            from.send_to(MARKER, (other, 5000)).unwrap();
            net.planes[A].counters().dropped.no_sa >= 5
        });
        assert!(!clear_text(&capture.frames()));
    }
}

/// More groups than the kernel lets a socket be in by default.
#[test]
fn many_groups_are_joined() {
    if lab::skip() {
        return;
    }
    for black_ipv4 in [false, true] {
        let net = Net::new(black_ipv4);
        let groups: Vec<String> = match black_ipv4 {
            true => (1..=100).map(|n| format!("239.10.7.{n}")).collect(),
            false => (1..=100).map(|n| format!("ff1e::7:{n:x}")).collect(),
        };
        let sas =
            groups.iter().zip(1..).map(|(group, number)| net.sa(A, number, group.parse().unwrap(), to_group(group)));
        let (sas, plane) = (sas.collect(), net.planes[B].clone());
        // The limit is of the network namespace.
        net.routers[B].run(move || plane.install_inbound(sas).unwrap());
        let joined = net.memberships(B, black_ipv4);
        assert!(groups.iter().all(|group| joined.contains(&group.parse().unwrap())), "{joined:?}");
        let last = groups.last().unwrap();
        net.planes[A]
            .set_flow(FlowId(1), to_group(last), net.sa(A, 100, last.parse().unwrap(), to_group(last)))
            .unwrap();
        arrives(&net.host(A, last, 5000), &net.host(B, last, 5000), last, 5000);
        // They stay when the socket is another.
        let black = address(PLACES[B].black[usize::from(black_ipv4)]).parse().unwrap();
        let plane = net.planes[B].clone();
        net.routers[B].run(move || plane.set_black_address(black).unwrap());
        arrives(&net.host(A, last, 5000), &net.host(B, last, 5000), last, 5000);
    }
}

/// A new SA takes a flow over under traffic: nothing is lost, nothing comes twice.
#[test]
fn a_rekey_loses_and_doubles_nothing() {
    if lab::skip() {
        return;
    }
    const PACKETS: u32 = 3000;
    let net = Net::new(true);
    let group = "239.10.0.1";
    net.multicast(A, (1, 1), group, to_group(group), &[B]);
    let (from, to) = (net.host(A, group, 5000), net.host(B, group, 5000));
    arrives(&from, &to, group, 5000);
    let counts = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let (mut seen, end) = (vec![0; PACKETS as usize], Instant::now() + DEADLINE);
            let mut quiet = 0;
            while quiet < 20 && Instant::now() < end {
                let payload = receive(&to).and_then(|payload| payload.try_into().ok()).map(u32::from_be_bytes);
                quiet = if payload.is_none() && !seen.contains(&0) { quiet + 1 } else { 0 };
                payload.into_iter().for_each(|number| seen[number as usize] += 1);
            }
            seen
        });
        let before = net.planes[A].counters().tx_packets;
        for number in 0..PACKETS {
            if number % 500 == 250 {
                let sa = 2 + number / 500;
                net.multicast(A, (1, sa), group, to_group(group), &[B]);
                // The one before the last: what was sent on it has come.
                let old = net.sa(A, sa - 2, group.parse().unwrap(), to_group(group)).id();
                net.planes[B].remove_inbound(&[old]).unwrap();
            }
            from.send_to(&number.to_be_bytes(), (group, 5000)).unwrap();
            if number % 50 == 0 {
                until("the queue drains", || net.planes[A].counters().tx_packets + 100 > before + u64::from(number));
            }
        }
        receiver.join().unwrap()
    });
    assert!(counts.iter().all(|count| *count == 1), "{:?}", net.planes[B].counters());
    assert_eq!(net.planes[B].counters().dropped, Dropped::default());
    assert_eq!(net.planes[B].sas().len(), 2);
}
