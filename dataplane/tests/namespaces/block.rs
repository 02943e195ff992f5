//! The block, against a router that forwards everything without it.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;

use muster_dataplane::{BlockConfig, Blocked, block, enable_forwarding, is_blocked, unblock, unblock_others};
use socket2::{Domain, Protocol, Socket, Type};

use super::forge;
use super::lab::{self, Capture, Ns, cable, multicast_from, receive, udp, until};

const MARKER: &[u8; 16] = b"clear text 4711!";

/// Two red hosts and a black one around a router, whose default route leads to black.
struct Lab {
    router: Ns,
    red0: Ns,
    red1: Ns,
    black: Ns,
}

/// A host and its end of the router, in both families.
struct Place<'a> {
    ns: &'a Ns,
    hosts: [&'static str; 2],
    routers: [&'static str; 2],
}

impl Lab {
    fn new() -> Self {
        let [router, red0, red1, black] = std::array::from_fn(|_| Ns::new());
        Lab { router, red0, red1, black }
    }

    fn plug(&self) {
        cable(
            (&self.router, "red0", &["2001:db8:a::1/64", "10.1.0.1/24"]),
            (&self.red0, "eth0", &["2001:db8:a::2/64", "10.1.0.2/24"]),
        );
        cable(
            (&self.router, "red1", &["2001:db8:a1::1/64", "10.1.1.1/24"]),
            (&self.red1, "eth0", &["2001:db8:a1::2/64", "10.1.1.2/24"]),
        );
        cable(
            (&self.router, "black", &["fd00::1/64", "192.0.2.1/24"]),
            (&self.black, "eth0", &["fd00::2/64", "192.0.2.2/24"]),
        );
        for (ns, gateways) in [
            (&self.red0, ["2001:db8:a::1", "10.1.0.1"]),
            (&self.red1, ["2001:db8:a1::1", "10.1.1.1"]),
            (&self.black, ["fd00::1", "192.0.2.1"]),
            (&self.router, ["fd00::2", "192.0.2.2"]),
        ] {
            gateways.iter().for_each(|gateway| ns.default_route(gateway));
        }
        self.router.run(|| enable_forwarding("black").unwrap());
    }

    /// Lets the router answer as much as it is asked, whoever asks.
    fn be_open(&self) {
        self.router.run(|| {
            for (setting, value) in [
                ("ipv4/icmp_ratelimit", "0"),
                ("ipv6/icmp/ratelimit", "0"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/red0/rp_filter", "0"),
            ] {
                fs::write(format!("/proc/sys/net/{setting}"), value).unwrap();
            }
        });
    }

    fn red0(&self) -> Place<'_> {
        Place { ns: &self.red0, hosts: ["[2001:db8:a::2]", "10.1.0.2"], routers: ["[2001:db8:a::1]", "10.1.0.1"] }
    }

    fn red1(&self) -> Place<'_> {
        Place { ns: &self.red1, hosts: ["[2001:db8:a1::2]", "10.1.1.2"], routers: ["[2001:db8:a1::1]", "10.1.1.1"] }
    }

    fn black(&self) -> Place<'_> {
        Place { ns: &self.black, hosts: ["[fd00::2]", "192.0.2.2"], routers: ["[fd00::1]", "192.0.2.1"] }
    }

    /// Whether what `from` sends to `to` arrives, by family (IPv6, IPv4). Behind it a fence goes the same way in two
    /// steps, by the router itself: it must arrive whatever is blocked, and what it overtook never will.
    fn crosses(&self, from: &Place, to: &Place) -> [bool; 2] {
        [0, 1].map(|family| self.crosses_in(family, from, to))
    }

    fn crosses_in(&self, family: usize, from: &Place, to: &Place) -> bool {
        let bind = |ns: &Ns, address: &str| udp(ns, &format!("{address}:4000"));
        let (sender, receiver) = (bind(from.ns, from.hosts[family]), bind(to.ns, to.hosts[family]));
        let entry = bind(&self.router, from.routers[family]);
        let exit = udp(&self.router, &format!("{}:4001", to.routers[family]));
        for _ in 0..5 {
            sender.send_to(MARKER, (from_text(to.hosts[family]), 4000)).unwrap();
        }
        self.fence(&sender, from.routers[family], &entry);
        let mut crossed = false;
        until("the fence arrives", || {
            exit.send_to(b"fence", (from_text(to.hosts[family]), 4000)).unwrap();
            match receive(&receiver) {
                Some(payload) if payload == MARKER => {
                    crossed = true;
                    false
                }
                other => other.is_some(),
            }
        });
        crossed
    }

    /// What is on black when the host of a place has sent this, and all that follows from it has happened.
    fn on_black_after(&self, family: usize, from: &Place, capture: &Capture, probe: &[u8]) -> Vec<Vec<u8>> {
        let entry = udp(&self.router, &format!("{}:4000", from.routers[family]));
        let ends = [from.hosts[family], from.routers[family]].map(from_text);
        capture.frames();
        // By one thread: each processor has a queue of its own for what crosses a cable.
        until("the router itself is reached", || {
            forge::send(from.ns, vec![probe.to_vec(), forge::datagram(ends, 4000, b"fence")]);
            receive(&entry).is_some()
        });
        capture.frames()
    }

    /// These leak before there is a block, and after; with one none does, whichever of [`configs`] was the last.
    fn stop(&self, family: usize, probes: &[(&str, Vec<u8>)], leaks: impl Fn(&[u8]) -> bool) {
        for (what, probe) in probes {
            until(&format!("without the block {what} leaks"), || leaks(probe));
        }
        for (way, config) in configs() {
            self.router.run(move || block(&config).unwrap());
            for (what, probe) in probes {
                assert!(!leaks(probe), "{what}, of family {family}, {way}");
            }
        }
        self.router.run(|| unblock(2).unwrap());
        until("unblocked, it leaks again", || leaks(&probes[0].1));
    }

    /// From a host to the router's own address: for the router itself, so never blocked.
    fn fence(&self, sender: &UdpSocket, router: &str, entry: &UdpSocket) {
        until("the router itself is reached", || {
            sender.send_to(b"fence", (from_text(router), 4000)).unwrap();
            receive(entry).is_some()
        });
    }
}

fn from_text(address: &str) -> IpAddr {
    address.trim_matches(['[', ']']).parse().unwrap()
}

fn config() -> BlockConfig {
    BlockConfig {
        instance: 2,
        black: "black".into(),
        reds: vec!["red0".into(), "red1".into()],
        device: "muster0".into(),
        own_prefixes: ["2001:db8:a::/64", "2001:db8:a1::/64", "10.1.0.0/24", "10.1.1.0/24"]
            .map(|net| net.parse().unwrap())
            .to_vec(),
    }
}

#[test]
fn nothing_crosses_in_clear() {
    if lab::skip() {
        return;
    }
    let lab = Lab::new();
    lab.plug();
    let (red0, red1, black) = (lab.red0(), lab.red1(), lab.black());
    let both = [true; 2];
    assert_eq!((lab.crosses(&red0, &black), lab.crosses(&black, &red0)), (both, both), "without the block");
    assert!(!lab.router.run(|| is_blocked(&config()).unwrap()));

    for _ in 0..2 {
        assert_eq!(lab.router.run(|| block(&config()).unwrap()), Blocked::default());
        assert!(lab.router.run(|| is_blocked(&config()).unwrap()));
        assert_eq!((lab.crosses(&red0, &black), lab.crosses(&black, &red0)), ([false; 2], [false; 2]));
        assert_eq!((lab.crosses(&red0, &red1), lab.crosses(&red1, &red0)), (both, both), "own red prefixes");
    }

    // Another instance beside it, gone again: this one stands.
    lab.router.run(|| block(&BlockConfig { instance: 5, ..config() }).unwrap());
    lab.router.run(|| unblock(5).unwrap());
    assert!(lab.router.run(|| is_blocked(&config()).unwrap()));
    assert_eq!(lab.crosses(&red0, &black), [false; 2]);

    // A red interface given up, by a slip of the pen perhaps: its rules stay until it is said that they may go.
    let fewer = || BlockConfig { reds: vec!["red0".into()], ..config() };
    lab.router.run(move || block(&fewer()).unwrap());
    assert!(lab.router.run(|| is_blocked(&config()).unwrap()));
    assert_eq!((lab.crosses(&red0, &black), lab.crosses(&red1, &black)), ([false; 2], [false; 2]));
    lab.router.run(move || unblock_others(&fewer()).unwrap());
    assert!(
        !lab.router.run(|| is_blocked(&config()).unwrap()) && lab.router.run(move || is_blocked(&fewer()).unwrap())
    );
    assert_eq!((lab.crosses(&red0, &black), lab.crosses(&red1, &black)), ([false; 2], both));

    for _ in 0..2 {
        lab.router.run(|| unblock(2).unwrap());
    }
    assert_eq!((lab.crosses(&red0, &black), lab.crosses(&black, &red0)), (both, both), "unblocked");
}

/// The unit sets the block before the network is up.
#[test]
fn the_block_may_come_before_the_interfaces() {
    if lab::skip() {
        return;
    }
    let lab = Lab::new();
    let blocked = lab.router.run(|| block(&config()).unwrap());
    assert_eq!(blocked.pending, config().own_prefixes);
    lab.plug();
    let (red0, red1, black) = (lab.red0(), lab.red1(), lab.black());
    assert_eq!((lab.crosses(&red0, &black), lab.crosses(&black, &red0)), ([false; 2], [false; 2]));
    assert_eq!(lab.crosses(&red0, &red1), [false; 2], "closed, until the routes are known");
    assert_eq!(lab.router.run(|| block(&config()).unwrap()), Blocked::default());
    assert_eq!(lab.crosses(&red0, &red1), [true; 2]);

    // Routes go with their interface, rules do not. (IPv4: its addresses stay.)
    lab.router.down("red0");
    lab.router.up("red0");
    assert!(!lab.crosses_in(1, &red0, &black));
}

/// When red's interface goes, its hosts are not sought on black by the default route.
#[test]
fn what_the_router_sends_to_red_stays_off_black_when_red_is_down() {
    if lab::skip() {
        return;
    }
    let lab = Lab::new();
    lab.plug();
    let reaches = |family: usize| {
        let to = from_text(lab.red0().hosts[family]);
        lab.router.run(move || {
            let any = ["[::]:0", "0.0.0.0:0"][family];
            UdpSocket::bind(any).and_then(|socket| socket.connect((to, 4000))).err().and_then(|e| e.raw_os_error())
        })
    };
    assert_eq!(lab.router.run(|| block(&config()).unwrap()), Blocked::default());
    assert_eq!([0, 1].map(reaches), [None; 2]);
    lab.router.down("red0");
    assert_eq!([0, 1].map(reaches), [Some(nix::libc::EHOSTUNREACH); 2]);
    // As the unit does it: again, with nobody to set routes when the interface comes.
    assert!(!lab.router.run(|| block(&config()).unwrap()).pending.is_empty());
    assert_eq!([0, 1].map(reaches), [Some(nix::libc::EHOSTUNREACH); 2]);
    lab.router.up("red0");
    lab.router.address("red0", "2001:db8:a::1/64");
    assert_eq!(lab.router.run(|| block(&config()).unwrap()), Blocked::default());
    assert_eq!([0, 1].map(reaches), [None; 2]);
    // What is not own any more is not kept.
    lab.router.down("red0");
    lab.router.run(|| block(&BlockConfig { own_prefixes: vec![], ..config() }).unwrap());
    assert_eq!([0, 1].map(reaches), [None; 2], "by the default route");
}

/// Also where black lies in an own prefix, and with slips of the pen in a later configuration.
fn configs() -> [(&'static str, BlockConfig); 5] {
    let own = |nets: [&str; 2]| BlockConfig { own_prefixes: nets.map(|net| net.parse().unwrap()).to_vec(), ..config() };
    [
        ("as it is", config()),
        ("own prefixes for all", own(["::/0", "0.0.0.0/0"])),
        ("own prefixes that end within an octet", own(["2001:db8::/33", "10.1.0.0/23"])),
        ("another black", BlockConfig { black: "blakc".into(), ..config() }),
        ("another red", BlockConfig { reds: vec!["rde0".into()], ..config() }),
    ]
}

/// Who on red has the address of somebody on black is not answered: that would be by black, in clear.
#[test]
fn nobody_on_red_speaks_to_black_by_the_routers_answers() {
    if lab::skip() {
        return;
    }
    let lab = Lab::new();
    lab.plug();
    lab.be_open();
    let capture = Capture::new(&lab.router, "black");
    for family in [0, 1] {
        let stranger = from_text(lab.black().hosts[family]);
        let [red, black] = [&lab.red0(), &lab.black()].map(|place| from_text(place.routers[family]));
        let nowhere: IpAddr = ["2001:db8:dead::1", "198.51.100.1"][family].parse().unwrap();
        let probes = [
            ("an echo, to black's address", forge::echo_request([stranger, black], MARKER)),
            ("an echo, to red's address", forge::echo_request([stranger, red], MARKER)),
            ("to a closed port", forge::datagram([stranger, red], 9, MARKER)),
            ("to nowhere", forge::datagram([stranger, nowhere], 9, MARKER)),
        ];
        let leaks = |probe: &[u8]| {
            let frames = lab.on_black_after(family, &lab.red0(), &capture, probe);
            frames.iter().any(|frame| frame.windows(16).any(|bytes| bytes == MARKER))
        };
        lab.stop(family, &probes, leaks);
    }
}

/// Nor is who on black asks for a red address of the router's, by whatever protocol (by ESP: `own.rs`).
#[test]
fn nobody_on_black_hears_of_red_addresses() {
    if lab::skip() {
        return;
    }
    let lab = Lab::new();
    lab.plug();
    lab.be_open();
    let capture = Capture::new(&lab.router, "black");
    for family in [0, 1] {
        let ends = [lab.black().hosts[family], lab.red0().routers[family]].map(from_text);
        let probes = [
            ("an echo", forge::echo_request(ends, MARKER)),
            ("to a closed port", forge::datagram(ends, 9, MARKER)),
            ("of no protocol that is known", forge::packet(ends, 253, MARKER)),
        ];
        let is_answered = |probe: &[u8]| {
            let frames = lab.on_black_after(family, &lab.black(), &capture, probe);
            frames.iter().any(|frame| lab::source(frame) == Some(ends[1]))
        };
        lab.stop(family, &probes, is_answered);
    }
    // By ARP neither; of IPv6 an interface has its own addresses alone.
    lab.black.address("eth0", "10.1.0.99/24");
    let near = udp(&lab.black, "10.1.0.99:4000");
    let (mut asked, mut answered) = (0, 0);
    until("who has a red address is asked, and asked again", || {
        let _ = near.send_to(MARKER, "10.1.0.1:9");
        let frames = capture.frames();
        let of =
            |operation: u8| frames.iter().filter(|frame| frame[12..14] == [8, 6] && frame[21] == operation).count();
        (asked, answered) = (asked + of(1), answered + of(2));
        asked >= 2
    });
    assert_eq!(answered, 0);
}

fn from_octets(address: &str) -> [u8; 16] {
    match from_text(address) {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
    }
}

/// A multicast router beside us, with red and black among its interfaces, gets nothing of red under the block.
#[test]
fn a_foreign_multicast_router_sees_nothing_of_red() {
    if lab::skip() {
        return;
    }
    let lab = Lab::new();
    lab.plug();
    let (red, black) = (lab.router.index("red0"), lab.router.index("black"));
    let _foreign = lab.router.run(move || foreign_router(red, black));
    let sender = multicast_from(&lab.red0, "eth0", "[2001:db8:a::2]:4000");
    let entry = udp(&lab.router, "[2001:db8:a::1]:4000");
    let capture = Capture::new(&lab.router, "black");
    let leaks = || {
        capture.frames();
        for _ in 0..5 {
            sender.send_to(MARKER, ("ff1e::1", 4000)).unwrap();
        }
        lab.fence(&sender, "2001:db8:a::1", &entry);
        capture.frames().iter().any(|frame| frame.windows(16).any(|bytes| bytes == MARKER))
    };
    until("without the block it leaks", leaks);
    lab.router.run(|| block(&config()).unwrap());
    assert!(!leaks());
    lab.router.run(|| unblock(2).unwrap());
    until("unblocked, it leaks again", leaks);
}

/// A static multicast router in the kernel's default table: (2001:db8:a::2, ff1e::1) from red to black.
fn foreign_router(red: u32, black: u32) -> Socket {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap();
    let set = |option: i32, value: &[u8]| {
        let (fd, len) = (socket.as_raw_fd(), value.len() as u32);
        // SAFETY: the pointer is to `len` live octets, which the kernel reads during the call.
        let done = unsafe { nix::libc::setsockopt(fd, nix::libc::IPPROTO_IPV6, option, value.as_ptr().cast(), len) };
        assert_eq!(done, 0, "option {option}: {}", std::io::Error::last_os_error());
    };
    set(200, &1i32.to_ne_bytes());
    for (mif, index) in [(0u16, red), (1, black)] {
        let mut mif6ctl = mif.to_ne_bytes().to_vec();
        mif6ctl.extend_from_slice(&[0, 1]);
        mif6ctl.extend_from_slice(&(index as u16).to_ne_bytes());
        mif6ctl.extend_from_slice(&[0; 6]);
        set(202, &mif6ctl);
    }
    let mut mf6cctl = Vec::new();
    for address in ["2001:db8:a::2", "ff1e::1"] {
        mf6cctl.extend_from_slice(&(nix::libc::AF_INET6 as u16).to_ne_bytes());
        mf6cctl.extend_from_slice(&[0; 6]);
        mf6cctl.extend_from_slice(&from_octets(address));
        mf6cctl.extend_from_slice(&[0; 4]);
    }
    mf6cctl.extend_from_slice(&[0; 4]);
    mf6cctl.extend_from_slice(&0b10u32.to_ne_bytes());
    mf6cctl.extend_from_slice(&[0; 28]);
    set(204, &mf6cctl);
    socket
}
