//! Flows of a key server's policy: each on an SA of its own, chosen by selectors; and what may cross in clear.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use muster_dataplane::{
    BlockConfig, Blocked, Dataplane, Dropped, EspConfig, FlowId, KeyLedger, Sa, SaKey, SaKind, Selector, block,
    enable_forwarding,
};
use muster_wire::MemberId;
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute};
use socket2::{Domain, Socket, Type};

use super::lab::{self, Capture, DEADLINE, Ns, cable, multicast, protocol, receive, start, udp, until};
use super::tunnel::{ALICE, BOB, CAROL, MARKER, nets};

const MEMBERS: [MemberId; 3] = [ALICE, BOB, CAROL];

/// Addresses of one router and the host behind it, IPv6 before IPv4.
pub(crate) struct Place {
    pub(crate) black: [&'static str; 2],
    pub(crate) red: [&'static str; 2],
    pub(crate) host: [&'static str; 2],
    pub(crate) prefixes: [&'static str; 2],
}

pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;
const C: usize = 2;
pub(crate) const PLACES: [Place; 3] = [
    Place {
        black: ["fd00::a/64", "192.0.2.1/24"],
        red: ["2001:db8:a::1/64", "10.1.0.1/24"],
        host: ["2001:db8:a::2/64", "10.1.0.2/24"],
        prefixes: ["2001:db8:a::/64", "10.1.0.0/24"],
    },
    Place {
        black: ["fd00::b/64", "192.0.2.2/24"],
        red: ["2001:db8:b::1/64", "10.2.0.1/24"],
        host: ["2001:db8:b::2/64", "10.2.0.2/24"],
        prefixes: ["2001:db8:b::/64", "10.2.0.0/24"],
    },
    Place {
        black: ["fd00::c/64", "192.0.2.3/24"],
        red: ["2001:db8:c::1/64", "10.3.0.1/24"],
        host: ["2001:db8:c::2/64", "10.3.0.2/24"],
        prefixes: ["2001:db8:c::/64", "10.3.0.0/24"],
    },
];
/// Somebody on black.
pub(crate) const OUTSIDE: [&str; 2] = ["fd00::99", "192.0.2.99"];

pub(crate) fn address(cidr: &'static str) -> &'static str {
    cidr.split_once('/').unwrap().0
}

pub(crate) fn at(address: &str, port: u16) -> String {
    SocketAddr::new(address.parse().unwrap(), port).to_string()
}

/// Three routers and a stranger on one black network, a host behind each router.
pub(crate) struct Net {
    _switch: Ns,
    pub(crate) outside: Ns,
    pub(crate) routers: Vec<Ns>,
    pub(crate) hosts: Vec<Ns>,
    pub(crate) planes: Vec<Arc<dyn Dataplane>>,
    black_ipv4: bool,
}

impl Net {
    pub(crate) fn new(black_ipv4: bool) -> Self {
        let (switch, outside) = (Ns::new(), Ns::new());
        switch.bridge("bridge");
        cable((&outside, "eth0", &["fd00::99/64", "192.0.2.99/24"]), (&switch, "port3", &[]));
        switch.attach("port3", "bridge");
        for gateway in PLACES[A].black {
            outside.default_route(address(gateway));
        }
        let (mut routers, mut hosts, mut planes) = (Vec::new(), Vec::new(), Vec::new());
        for (nth, port) in ["port0", "port1", "port2"].into_iter().enumerate() {
            let (router, host, place) = (Ns::new(), Ns::new(), &PLACES[nth]);
            cable((&router, "black", &place.black), (&switch, port, &[]));
            switch.attach(port, "bridge");
            cable((&router, "red0", &place.red), (&host, "eth0", &place.host));
            place.red.iter().for_each(|gateway| host.default_route(address(gateway)));
            // What is not stopped follows these, onto black.
            OUTSIDE.iter().for_each(|gateway| router.default_route(gateway));
            let config = move || config(nth, black_ipv4);
            assert_eq!(router.run(move || block(&block_config(&config())).unwrap()), Blocked::default());
            router.run(|| enable_forwarding("black").unwrap());
            planes.push(Arc::from(router.run(move || start(config()).unwrap())));
            routers.push(router);
            hosts.push(host);
        }
        Net { _switch: switch, outside, routers, hosts, planes, black_ipv4 }
    }

    /// Ends a router's data plane, and starts it again after `meanwhile`.
    pub(crate) fn restart(&mut self, router: usize, meanwhile: impl FnOnce(&Ns)) {
        drop(self.planes.remove(router));
        meanwhile(&self.routers[router]);
        let config = config(router, self.black_ipv4);
        self.planes.insert(router, Arc::from(self.routers[router].run(move || start(config).unwrap())));
    }

    /// An outer destination in black's family: `group` itself where it is, else one that stands for it.
    fn outer(&self, group: &str) -> IpAddr {
        let group: IpAddr = group.parse().unwrap();
        let other = if self.black_ipv4 { "239.10.255.1" } else { "ff1e::255" };
        if group.is_ipv4() == self.black_ipv4 { group } else { other.parse().unwrap() }
    }

    /// An SA of `from`'s; its number is in its key, too.
    fn sa(&self, from: usize, number: u32, destination: IpAddr, selector: Selector) -> Sa {
        let mut key = [from as u8; 36];
        key[..4].copy_from_slice(&number.to_be_bytes());
        Sa {
            spi: 0x1000 * (1 + from as u32) + number,
            kind: if destination.is_multicast() { SaKind::Group } else { SaKind::Unicast },
            source: None,
            destination,
            epoch: 0,
            sender: MEMBERS[from],
            selector: Some(selector),
            key: SaKey::new(&key),
        }
    }

    /// Sets a multicast flow of `from`'s, under an SA with this number, for `members`.
    fn multicast(&self, from: usize, (flow, number): (u32, u32), group: &str, selector: Selector, members: &[usize]) {
        let sa = || self.sa(from, number, self.outer(group), selector);
        members.iter().for_each(|member| self.planes[*member].install_inbound(vec![sa()]).unwrap());
        self.planes[from].set_flow(FlowId(flow), selector, sa()).unwrap();
    }

    /// The same of unicast from one router to another.
    pub(crate) fn unicast(&self, from: usize, to: usize, (flow, number): (u32, u32), selector: Selector) {
        let destination = address(PLACES[to].black[usize::from(self.black_ipv4)]).parse().unwrap();
        let sa = || self.sa(from, number, destination, selector);
        self.planes[to].install_inbound(vec![sa()]).unwrap();
        self.planes[from].set_flow(FlowId(flow), selector, sa()).unwrap();
    }

    fn host(&self, of: usize, group: &str, port: u16) -> UdpSocket {
        multicast(&self.hosts[of], "eth0", group, port)
    }

    /// Whether a router is in this group on black.
    fn is_member(&self, router: usize, group: IpAddr) -> bool {
        self.memberships(router, group.is_ipv4()).contains(&group)
    }

    fn memberships(&self, router: usize, ipv4: bool) -> BTreeSet<IpAddr> {
        self.routers[router].run(move || match ipv4 {
            false => {
                let all = std::fs::read_to_string("/proc/thread-self/net/igmp6").unwrap();
                let words = all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
                let on_black = words.filter(|words| words[1] == "black");
                on_black.map(|words| u128::from_str_radix(words[2], 16).unwrap().to_be_bytes().into()).collect()
            }
            true => {
                let all = std::fs::read_to_string("/proc/thread-self/net/igmp").unwrap();
                let (mut on_black, mut groups) = (false, BTreeSet::new());
                for line in all.lines().skip(1) {
                    match line.starts_with('\t') {
                        false => on_black = line.split_whitespace().nth(1) == Some("black"),
                        true if !on_black => {}
                        true => {
                            let word = line.split_whitespace().next().unwrap();
                            groups.insert(u32::from_str_radix(word, 16).unwrap().to_ne_bytes().into());
                        }
                    }
                }
                groups
            }
        })
    }
}

fn config(nth: usize, black_ipv4: bool) -> EspConfig {
    let Place { black, prefixes, .. } = &PLACES[nth];
    EspConfig {
        device: "muster0".into(),
        black_interface: "black".into(),
        black_address: address(black[usize::from(black_ipv4)]).parse().unwrap(),
        group_address: None,
        hop_limit: 64,
        copy_dscp: true,
        clear_df: false,
        reds: vec!["red0".into()],
        red_multicast: nets(&["ff1e::/16", "239.10.0.0/16"]),
        dynamic_membership: false,
        own_prefixes: nets(prefixes),
        instance: 3,
        workers: 2,
        ledger: KeyLedger::new(),
    }
}

fn block_config(config: &EspConfig) -> BlockConfig {
    let EspConfig { device, black_interface, reds, own_prefixes, instance, .. } = config.clone();
    BlockConfig { instance, black: black_interface, reds, device, own_prefixes }
}

pub(crate) fn selector(source: &str, destination: &str) -> Selector {
    Selector::new(source.parse().unwrap(), destination.parse().unwrap())
}

/// From A's prefix of the group's family.
fn to_group(group: &str) -> Selector {
    let prefix = PLACES[A].prefixes[usize::from(!group.contains(':'))];
    selector(prefix, &format!("{group}/{}", if group.contains(':') { 128 } else { 32 }))
}

fn to_port(port: u16, selector: Selector) -> Selector {
    Selector { protocol: Some(17), destination_port: Some(port), ..selector }
}

/// Sends until it arrives.
fn arrives(from: &UdpSocket, to: &UdpSocket, group: &str, port: u16) {
    until(&format!("{group} port {port} arrives"), || {
        from.send_to(MARKER, (group, port)).unwrap();
        receive(to).is_some_and(|payload| payload == MARKER)
    });
    while receive(to).is_some() {}
}

pub(crate) fn clear_text(frames: &[Vec<u8>]) -> bool {
    frames.iter().any(|frame| frame.windows(16).any(|bytes| bytes == MARKER))
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
