//! Two data planes on real interfaces: what is encrypted, what passes, and what must not.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::lab::{self, Capture, DEADLINE, Ns, cable, multicast, multicast_from, protocol, receive, start, until};
use ipnet::IpNet;
use muster_dataplane::{
    BlockConfig, Blocked, Dataplane, Direction, Dropped, EspConfig, KeyLedger, Sa, SaKey, SaKind, block,
    enable_forwarding, is_blocked,
};
use muster_wire::MemberId;

pub(crate) const ALICE: MemberId = MemberId([0xa; 32]);
pub(crate) const BOB: MemberId = MemberId([0xb; 32]);
pub(crate) const CAROL: MemberId = MemberId([0xc; 32]);
pub(crate) const MARKER: &[u8; 16] = b"red marker 0815!";

pub(crate) fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|net| net.parse().unwrap()).collect()
}

/// Red host A, router A, black, router B, red host B; both families on red.
pub(crate) struct Coalition {
    pub(crate) host_a: Ns,
    pub(crate) router_a: Ns,
    pub(crate) router_b: Ns,
    pub(crate) host_b: Ns,
}

impl Coalition {
    pub(crate) fn new() -> Self {
        let [host_a, router_a, router_b, host_b] = std::array::from_fn(|_| Ns::new());
        let black_a: &[&str] = &["fd00::a/64", "192.0.2.1/24"];
        cable((&router_a, "black", black_a), (&router_b, "black", &["fd00::b/64", "192.0.2.2/24"]));
        let red_a: &[&str] = &["2001:db8:a::1/64", "10.1.0.1/24"];
        cable((&router_a, "red0", red_a), (&host_a, "eth0", &["2001:db8:a::2/64", "10.1.0.2/24"]));
        let red_b: &[&str] = &["2001:db8:b::1/64", "10.2.0.1/24"];
        cable((&router_b, "red0", red_b), (&host_b, "eth0", &["2001:db8:b::2/64", "10.2.0.2/24"]));
        for router in [&router_a, &router_b] {
            // As Debian sets it: the strict filter must not eat what comes out of the tunnel.
            router.run(|| std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1").unwrap());
        }
        for (router, side) in [(&router_a, Side::A), (&router_b, Side::B)] {
            // In the daemon's order.
            assert_eq!(router.run(move || block(&block_config(side)).unwrap()), Blocked::default());
            router.run(|| enable_forwarding("black").unwrap());
        }
        Coalition { host_a, router_a, router_b, host_b }
    }

    pub(crate) fn start(
        &self,
        config: fn(Side, bool) -> EspConfig,
        black_ipv4: bool,
    ) -> (Box<dyn Dataplane>, Box<dyn Dataplane>) {
        let a = self.router_a.run(move || start(config(Side::A, black_ipv4)).unwrap());
        let b = self.router_b.run(move || start(config(Side::B, black_ipv4)).unwrap());
        a.set_senders(HashMap::from([(BOB, nets(&["2001:db8:b::/64", "10.2.0.0/24"]))]));
        b.set_senders(HashMap::from([(ALICE, nets(&["2001:db8:a::/64", "10.1.0.0/24"]))]));
        (a, b)
    }
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Side {
    A,
    B,
}

pub(crate) fn config(side: Side, black_ipv4: bool) -> EspConfig {
    let (address, own) = match (side, black_ipv4) {
        (Side::A, false) => ("fd00::a", ["2001:db8:a::/64", "10.1.0.0/24"]),
        (Side::A, true) => ("192.0.2.1", ["2001:db8:a::/64", "10.1.0.0/24"]),
        (Side::B, false) => ("fd00::b", ["2001:db8:b::/64", "10.2.0.0/24"]),
        (Side::B, true) => ("192.0.2.2", ["2001:db8:b::/64", "10.2.0.0/24"]),
    };
    EspConfig {
        device: "muster0".into(),
        black_interface: "black".into(),
        black_address: address.parse().unwrap(),
        group_address: Some(group(black_ipv4).parse().unwrap()),
        hop_limit: 64,
        copy_dscp: true,
        clear_df: false,
        reds: vec!["red0".into()],
        red_multicast: nets(&["ff1e::/16", "239.10.0.0/16"]),
        dynamic_membership: false,
        own_prefixes: nets(&own),
        instance: 3,
        workers: 1,
        ledger: KeyLedger::new(),
    }
}

pub(crate) fn block_config(side: Side) -> BlockConfig {
    let EspConfig { device, black_interface, reds, own_prefixes, instance, .. } = config(side, false);
    BlockConfig { instance, black: black_interface, reds, device, own_prefixes }
}

pub(crate) fn group(black_ipv4: bool) -> &'static str {
    if black_ipv4 { "239.255.109.118" } else { "ff05::6d76" }
}

fn sa(sender: MemberId, epoch: u8, black_ipv4: bool) -> Sa {
    let slot = [ALICE, BOB, CAROL].iter().position(|one| *one == sender).unwrap() as u32;
    let mut key = [epoch; 36];
    key[0] = slot as u8;
    Sa {
        spi: (u32::from(epoch) << 20) | slot,
        kind: SaKind::Group,
        source: None,
        destination: group(black_ipv4).parse().unwrap(),
        epoch: epoch.into(),
        sender,
        selector: None,
        key: SaKey::new(&key),
    }
}

/// Red multicast of both families passes, encrypted, both ways; nothing of it shows on black.
fn red_to_red(black_ipv4: bool) {
    let net = Coalition::new();
    let (a, b) = net.start(config, black_ipv4);
    let capture = Capture::new(&net.router_a, "black");
    a.install_inbound(vec![sa(BOB, 1, black_ipv4)]).unwrap();
    b.install_inbound(vec![sa(ALICE, 1, black_ipv4)]).unwrap();
    a.set_outbound(sa(ALICE, 1, black_ipv4)).unwrap();
    b.set_outbound(sa(BOB, 1, black_ipv4)).unwrap();

    for red_group in ["ff1e::1", "239.10.0.1"] {
        let at_a = multicast(&net.host_a, "eth0", red_group, 5000);
        let at_b = multicast(&net.host_b, "eth0", red_group, 5000);
        for (from, to) in [(&at_a, &at_b), (&at_b, &at_a)] {
            until(&format!("{red_group} arrives"), || {
                from.send_to(MARKER, (red_group, 5000)).unwrap();
                receive(to).is_some_and(|payload| payload == MARKER)
            });
        }
    }
    let frames = capture.frames();
    let esp = frames.iter().filter(|frame| protocol(frame) == Some(50)).count();
    assert!(esp >= 4, "{esp} ESP packets");
    for frame in &frames {
        assert!(!frame.windows(16).any(|bytes| bytes == MARKER), "clear text on black");
        // ESP, ICMPv6 (neighbours, MLD), IGMP, ARP.
        assert!(matches!(protocol(frame), Some(50 | 58 | 2) | None), "{:02x?}", &frame[..40]);
    }
    let hop_limits = frames.iter().filter(|f| protocol(f) == Some(50)).map(|f| f[14 + if black_ipv4 { 8 } else { 7 }]);
    assert!(hop_limits.into_iter().all(|hops| hops == 64));
    assert_eq!((a.counters().dropped, b.counters().dropped), Default::default());
    assert_eq!((a.failure(), b.failure()), (None, None));
}

#[test]
fn red_to_red_over_black_ipv6() {
    if !lab::skip() {
        red_to_red(false);
    }
}

#[test]
fn red_to_red_over_black_ipv4() {
    if !lab::skip() {
        red_to_red(true);
    }
}

/// Groups that are not configured, link-local scope, foreign sources: none of it crosses.
#[test]
fn what_is_not_red_multicast_stays() {
    if lab::skip() {
        return;
    }
    let net = Coalition::new();
    let (a, b) = net.start(config, false);
    b.install_inbound(vec![sa(ALICE, 1, false)]).unwrap();
    a.set_outbound(sa(ALICE, 1, false)).unwrap();
    net.host_a.address("eth0", "2001:db8:bad::2/64");
    until("usable", || net.host_a.run(|| std::net::UdpSocket::bind("[2001:db8:bad::2]:0").is_ok()));
    let good = multicast_from(&net.host_a, "eth0", "[2001:db8:a::2]:0");
    let foreign = multicast_from(&net.host_a, "eth0", "[2001:db8:bad::2]:0");
    let carried = multicast(&net.host_b, "eth0", "ff1e::1", 5000);
    // Goes behind the others on the same way: when it has arrived, they would have.
    let fence = || {
        until("the fence arrives", || {
            good.send_to(b"fence", ("ff1e::1", 5000)).unwrap();
            receive(&carried).inspect(|payload| assert_eq!(payload, b"fence")).is_some()
        });
    };
    fence();
    for other in ["ff05::77", "ff12::1"] {
        let to = multicast(&net.host_b, "eth0", other, 5001);
        for _ in 0..10 {
            good.send_to(MARKER, (other, 5001)).unwrap();
        }
        fence();
        assert_eq!(receive(&to), None, "{other}");
    }
    for _ in 0..10 {
        foreign.send_to(MARKER, ("ff1e::1", 5000)).unwrap();
    }
    fence();
    assert_eq!(a.counters().dropped, Dropped::default(), "stopped before the tunnel");

    // From a sender that may not use the prefix, it is dropped behind the decryption, and counted.
    b.set_senders(HashMap::from([(ALICE, nets(&["2001:db8:c::/64"]))]));
    until("counted as spoofed", || {
        good.send_to(b"fence", ("ff1e::1", 5000)).unwrap();
        b.counters().dropped.spoofed > 0
    });
}

/// Flows are shared out among the threads that send, SAs among those that receive; every packet comes once.
#[test]
fn several_workers_share_the_work() {
    if lab::skip() {
        return;
    }
    for black_ipv4 in [false, true] {
        let net = Coalition::new();
        let (a, b) = net.start(|side, ipv4| EspConfig { workers: 3, ..config(side, ipv4) }, black_ipv4);
        let from: Vec<_> = (0..12).map(|_| multicast(&net.host_a, "eth0", "ff1e::1", 0)).collect();
        let to = multicast(&net.host_b, "eth0", "ff1e::1", 5000);
        // Of SPIs that follow each other no two belong to one thread.
        for epoch in 1..=3 {
            b.install_inbound(vec![sa(ALICE, epoch, black_ipv4)]).unwrap();
            a.set_outbound(sa(ALICE, epoch, black_ipv4)).unwrap();
            for (nth, from) in from.iter().enumerate() {
                let payload = [epoch, nth as u8];
                from.send_to(&payload, ("ff1e::1", 5000)).unwrap();
                until("it arrives", || receive(&to).is_some_and(|received| received == payload));
            }
        }
        assert_eq!(receive(&to), None, "once");
        let carried: Vec<u64> =
            b.sas().iter().filter(|sa| sa.direction == Direction::In).map(|sa| sa.packets).collect();
        assert!(carried.iter().all(|packets| *packets >= 12), "{carried:?}");
        assert_eq!(b.counters().dropped, Dropped::default());
    }
}

/// Packets of a flow during which something is done.
const PACKETS: u32 = 3000;

/// A flow from A to B that is underway under the first epoch.
struct Flow {
    /// Holds the namespaces.
    _net: Coalition,
    a: Box<dyn Dataplane>,
    b: Box<dyn Dataplane>,
    from: UdpSocket,
    to: UdpSocket,
}

impl Flow {
    fn start() -> Self {
        let net = Coalition::new();
        let (a, b) = net.start(config, false);
        let from = multicast(&net.host_a, "eth0", "ff1e::1", 5000);
        let to = multicast(&net.host_b, "eth0", "ff1e::1", 5000);
        b.install_inbound(vec![sa(ALICE, 1, false)]).unwrap();
        a.set_outbound(sa(ALICE, 1, false)).unwrap();
        until("the way is open", || {
            from.send_to(b"first", ("ff1e::1", 5000)).unwrap();
            receive(&to).is_some()
        });
        Flow { _net: net, a, b, from, to }
    }

    /// Sends the packets, calls `before` each with its number, and wants all of them to arrive.
    fn carry(&self, mut before: impl FnMut(u32)) {
        let (a, b, to) = (&self.a, &self.b, &self.to);
        let missing = std::thread::scope(|scope| {
            let receiver = scope.spawn(|| {
                let (mut seen, end) = (vec![false; PACKETS as usize], Instant::now() + DEADLINE);
                while seen.contains(&false) && Instant::now() < end {
                    let payload = receive(to).and_then(|payload| payload.try_into().ok());
                    if let Some(number) = payload.map(u32::from_be_bytes) {
                        seen[number as usize] = true;
                    }
                }
                seen.iter().filter(|seen| !**seen).count()
            });
            for number in 0..PACKETS {
                before(number);
                self.from.send_to(&number.to_be_bytes(), ("ff1e::1", 5000)).unwrap();
                if number % 50 == 0 {
                    // No faster than the tunnel takes them: its queue holds 500.
                    until("the queue drains", || a.counters().tx_packets + 100 > u64::from(number));
                }
            }
            receiver.join().unwrap()
        });
        assert_eq!(missing, 0, "packets lost; {:?} {:?}", a.counters(), b.counters());
        assert_eq!(b.counters().dropped, Dropped::default());
    }
}

/// The outbound SA is switched under load; not one packet is lost.
#[test]
fn switching_loses_nothing() {
    if lab::skip() {
        return;
    }
    const EVERY: u32 = PACKETS / 5;
    let flow = Flow::start();
    let Flow { a, b, .. } = &flow;
    flow.carry(|number| {
        if number % EVERY == EVERY / 2 {
            let epoch = 2 + (number / EVERY) as u8;
            b.install_inbound(vec![sa(ALICE, epoch, false)]).unwrap();
            a.set_outbound(sa(ALICE, epoch, false)).unwrap();
        }
    });
    let old: Vec<_> = b.sas().iter().filter(|sa| sa.epoch < 6).map(|sa| (sa.destination, sa.spi)).collect();
    assert_eq!(old.len(), 5);
    assert_eq!(a.sas().iter().map(|sa| (sa.direction, sa.epoch)).collect::<Vec<_>>(), [(Direction::Out, 6)]);
}

/// Others come and go all the time meanwhile; not one packet is lost.
#[test]
fn senders_that_come_and_go_cost_the_others_nothing() {
    if lab::skip() {
        return;
    }
    let flow = Flow::start();
    let b = &flow.b;
    let alice = (ALICE, nets(&["2001:db8:a::/64", "10.1.0.0/24"]));
    let carol = (CAROL, nets(&["2001:db8:c::/64", "10.3.0.0/24"]));
    b.install_inbound(vec![sa(CAROL, 1, false)]).unwrap();
    let carried = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            let mut changes = 0;
            while !carried.load(Relaxed) {
                b.set_senders(HashMap::from([alice.clone(), carol.clone()]));
                b.set_senders(HashMap::from([alice.clone()]));
                changes += 2;
            }
            changes
        });
        {
            let _ended = Ended(&carried);
            flow.carry(|_| {});
        }
        assert!(changes.join().unwrap() > 10, "too few changes");
    });
}

/// Says so when it goes, also on panic.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A data plane that ends takes its device and its forwarding along; the next one starts where it was.
#[test]
fn restarts_leave_nothing_behind() {
    if lab::skip() {
        return;
    }
    let net = Coalition::new();
    let from = multicast(&net.host_a, "eth0", "ff1e::1", 5000);
    let to = multicast(&net.host_b, "eth0", "ff1e::1", 5000);
    for epoch in 1..4 {
        let (a, b) = net.start(config, false);
        assert!(net.router_a.has("muster0"));
        b.install_inbound(vec![sa(ALICE, epoch, false)]).unwrap();
        a.set_outbound(sa(ALICE, epoch, false)).unwrap();
        until("it carries", || {
            from.send_to(b"x", ("ff1e::1", 5000)).unwrap();
            receive(&to).is_some()
        });
        let second = net.router_a.run(|| start(config(Side::A, false)).err().map(|e| e.to_string()));
        assert!(second.is_some_and(|e| e.contains("another daemon of instance 3")), "a second one");
        drop((a, b));
        assert!(!net.router_a.has("muster0") && !net.router_b.has("muster0"));
        assert!(net.router_a.run(|| is_blocked(&block_config(Side::A)).unwrap()), "the block stays");
        while receive(&to).is_some() {}
    }
}

/// Errors name what is wrong.
#[test]
fn errors_name_the_interface_or_address() {
    if lab::skip() {
        return;
    }
    let net = Coalition::new();
    let start = |change: fn(&mut EspConfig)| {
        net.router_a.run(move || {
            let mut config = config(Side::A, false);
            change(&mut config);
            start(config).err().map(|e| e.to_string()).unwrap()
        })
    };
    assert!(start(|c| c.black_interface = "black7".into()).contains("black7"));
    assert!(start(|c| c.reds = vec!["red7".into()]).contains("red7"));
    assert!(start(|c| c.black_address = "fd00::99".parse().unwrap()).contains("fd00::99"));
    assert!(start(|c| c.black_address = "192.0.2.1".parse().unwrap()).contains("famil"));
    assert!(start(|c| c.group_address = Some("fd00::1".parse().unwrap())).contains("not multicast"));
    assert!(start(|c| c.reds.push("black".into())).contains("both black and red"));
    assert!(start(|c| c.device = "a/b".into()).contains("a/b"));
    assert!(!net.router_a.has("muster0"), "what was begun is undone");
}

/// What was refused before is carried as soon as the own prefixes are known.
#[test]
fn own_prefixes_may_come_late() {
    if lab::skip() {
        return;
    }
    let net = Coalition::new();
    let (a, b) = net.start(|side, ipv4| EspConfig { own_prefixes: vec![], ..config(side, ipv4) }, false);
    b.install_inbound(vec![sa(ALICE, 1, false)]).unwrap();
    a.set_outbound(sa(ALICE, 1, false)).unwrap();
    let from = multicast(&net.host_a, "eth0", "ff1e::1", 5000);
    let to = multicast(&net.host_b, "eth0", "ff1e::1", 5000);
    for _ in 0..20 {
        from.send_to(b"early", ("ff1e::1", 5000)).unwrap();
        assert_eq!(receive(&to), None);
    }
    a.set_own_prefixes(nets(&["2001:db8:a::/64"]));
    until("it arrives", || {
        from.send_to(b"late", ("ff1e::1", 5000)).unwrap();
        receive(&to).is_some()
    });
}

/// Black may go and come back; a device that somebody deletes is reported.
#[test]
fn faults_are_survived_or_reported() {
    if lab::skip() {
        return;
    }
    let net = Coalition::new();
    let (a, b) = net.start(config, true);
    b.install_inbound(vec![sa(ALICE, 1, true)]).unwrap();
    a.set_outbound(sa(ALICE, 1, true)).unwrap();
    let from = multicast(&net.host_a, "eth0", "ff1e::1", 5000);
    let to = multicast(&net.host_b, "eth0", "ff1e::1", 5000);
    let arrives = || {
        from.send_to(b"x", ("ff1e::1", 5000)).unwrap();
        receive(&to).is_some()
    };
    until("it arrives", arrives);
    net.router_a.down("black");
    let before = a.counters();
    until("it is dropped and counted", || {
        arrives();
        let counted = a.counters();
        match lab::is_kernel() {
            // What an interface that is down does not take, it counts as sent.
            true => counted.tx_packets > before.tx_packets,
            false => counted.dropped.io > before.dropped.io,
        }
    });
    net.router_a.up("black");
    until("it arrives again", arrives);
    assert_eq!((a.failure(), b.failure()), (None, None));

    net.router_b.delete("muster0");
    until("the failure is reported", || b.failure().is_some());
    assert!(b.failure().unwrap().contains("deleted"));
    assert_eq!(a.failure(), None);
}

/// Where black has no room for an inner packet of 1280 octets, the outer one goes in fragments.
#[test]
fn a_narrow_black_network_is_bridged() {
    if lab::skip() {
        return;
    }
    if lab::is_kernel() {
        // The kernel does not fragment what it has encrypted of IPv6.
        lab::say_skipped("not with the kernel's ESP");
        return;
    }
    for black_ipv4 in [false, true] {
        let net = Coalition::new();
        net.router_a.mtu("black", 1280);
        net.router_b.mtu("black", 1280);
        let (a, b) = net.start(config, black_ipv4);
        b.install_inbound(vec![sa(ALICE, 1, black_ipv4)]).unwrap();
        a.set_outbound(sa(ALICE, 1, black_ipv4)).unwrap();
        let from = multicast(&net.host_a, "eth0", "ff1e::1", 5000);
        let to = multicast(&net.host_b, "eth0", "ff1e::1", 5000);
        until("1280 octets arrive", || {
            from.send_to(&[7; 1280 - 48], ("ff1e::1", 5000)).unwrap();
            receive(&to).is_some_and(|payload| payload.len() == 1280 - 48)
        });
        assert_eq!(a.counters().dropped, Dropped::default());
    }
}
