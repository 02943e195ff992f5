//! What somebody on black says, and what somebody on the router does, to harm a data plane that runs.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;

use ipnet::IpNet;
use muster_dataplane::{EspConfig, Sa, SaKey};
use muster_wire::MemberId;
use nix::libc;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::lab::{self, Capture, Ns, protocol, receive, receive_from, start, until};
use super::tunnel::{ALICE, BOB, Coalition, MARKER, Side, config, nets};
use super::unicast::{Pair, path_mtu, sa};

/// The least MTU that the kernels still believe.
const SMALL: u16 = 1280;

/// ICMPv6 "packet too big" about an IPv6 packet of A's to B, whose payload begins with `next` and `rest`.
fn too_big_v6(next: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![2, 0, 0, 0, 0, 0];
    message.extend(SMALL.to_be_bytes());
    message.extend([0x60, 0, 0, 0, 5, 0, next, 64]);
    for address in ["fd00::a", "fd00::b"] {
        message.extend(address.parse::<std::net::Ipv6Addr>().unwrap().octets());
    }
    message.extend(rest);
    message
}

/// ICMP "fragmentation needed" about an IPv4 packet of A's to B.
fn too_big_v4(protocol: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(600_u16.to_be_bytes());
    message.extend([0x45, 0, 5, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
    message.extend([192, 0, 2, 1, 192, 0, 2, 2]);
    message.extend(rest);
    let sum: u32 = message.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Sends an ICMP message from `ns` to A's black address.
fn say(ns: &Ns, ipv4: bool, message: Vec<u8>) {
    ns.run(move || {
        let (domain, protocol) = match ipv4 {
            true => (Domain::IPV4, Protocol::ICMPV4),
            false => (Domain::IPV6, Protocol::ICMPV6),
        };
        let to: IpAddr = if ipv4 { "192.0.2.1" } else { "fd00::a" }.parse().unwrap();
        // Of ICMPv6 the kernel makes the checksum.
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
        socket.send_to(&message, &std::net::SocketAddr::new(to, 0).into()).unwrap();
    });
}

/// Sends an ICMP message from `ns` to A's black address in two fragments, of which the first has the ICMP header alone.
fn say_in_fragments(ns: &Ns, message: &[u8]) {
    let fragment = |at: usize, more: bool| {
        let part = if more { &message[at..at + 8] } else { &message[at..] };
        let mut packet = vec![0x45, 0, 0, 0, 0x13, 0x37, if more { 0x20 } else { 0 }, (at / 8) as u8, 64, 1, 0, 0];
        packet.extend([192, 0, 2, 2, 192, 0, 2, 1]);
        packet.extend(part);
        packet
    };
    let fragments = [fragment(0, true), fragment(8, false)];
    ns.run(move || {
        // IPPROTO_RAW: the header is ours, its length and checksum the kernel's.
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW))).unwrap();
        for fragment in fragments {
            let to = std::net::SocketAddr::new("192.0.2.1".parse().unwrap(), 0);
            assert_eq!(socket.send_to(&fragment, &to.into()).unwrap(), fragment.len());
        }
    });
}

/// The router's own path to B on black, which is what such messages would change.
fn black_path(pair: &Pair, black_ipv4: bool) -> i32 {
    let to = if black_ipv4 { "192.0.2.2:9" } else { "[fd00::b]:9" };
    let from = if black_ipv4 { "192.0.2.1:0" } else { "[fd00::a]:0" };
    let socket = pair.net.router_a.run(move || {
        let socket = UdpSocket::bind(from).unwrap();
        SockRef::from(&socket).bind_device(Some(b"black")).unwrap();
        socket.connect(to).unwrap();
        socket
    });
    path_mtu(&socket, black_ipv4)
}

/// Whoever sees an SPI, or says so of a ping or a datagram, could else shrink the tunnel, again and again.
#[test]
fn nobody_on_black_says_how_large_esp_may_be() {
    if lab::skip() {
        return;
    }
    for black_ipv4 in [false, true] {
        let pair = Pair::new(config, black_ipv4);
        let spi = sa(ALICE, black_ipv4).spi.to_be_bytes();
        let esp = [&spi[..], &1_u32.to_be_bytes()].concat();
        // An open port, as that of hellos is.
        let udp = lab::udp(&pair.net.router_a, if black_ipv4 { "192.0.2.1:4860" } else { "[fd00::a]:4860" });
        let datagram = [0x12, 0xfc, 0x12, 0xfc, 5, 0, 0, 0];
        let ping = |reply: u8| [reply, 0, 0, 0, 0x13, 0x37, 0, 1];
        if black_ipv4 {
            say_in_fragments(&pair.net.router_b, &too_big_v4(libc::IPPROTO_ESP as u8, &esp));
            for (protocol, rest) in
                [(libc::IPPROTO_ESP, &esp[..]), (libc::IPPROTO_UDP, &datagram), (libc::IPPROTO_ICMP, &ping(0))]
            {
                say(&pair.net.router_b, true, too_big_v4(protocol as u8, rest));
            }
        } else {
            say(&pair.net.router_b, false, too_big_v6(libc::IPPROTO_UDP as u8, &datagram));
            say(&pair.net.router_b, false, too_big_v6(libc::IPPROTO_ICMPV6 as u8, &ping(129)));
            say(&pair.net.router_b, false, too_big_v6(libc::IPPROTO_ESP as u8, &esp));
            // Behind an extension header the kernel finds it, too.
            let hidden = [&[libc::IPPROTO_ESP as u8, 0, 1, 4, 0, 0, 0, 0][..], &esp].concat();
            say(&pair.net.router_b, false, too_big_v6(libc::IPPROTO_DSTOPTS as u8, &hidden));
        }
        for family in [0, 1] {
            let (from, to) = pair.sockets(family);
            let tunnel = 1500 - if black_ipv4 { 54 } else { 74 };
            let payload = vec![7; tunnel - if family == 1 { 28 } else { 48 }];
            // The host learns no other size, whatever it sends.
            for _ in 0..3 {
                from.send(&payload).unwrap();
                until("it arrives", || receive(&to).is_some_and(|got| got == payload));
            }
            assert!(path_mtu(&from, family == 1) >= tunnel as i32);
        }
        // In user space it does not matter.
        assert!(!lab::is_kernel() || black_path(&pair, black_ipv4) == 1500);
        drop(udp);
    }
}

/// A member is believed about its address, and has a say in the SPI that it is sent on.
#[test]
fn who_takes_anothers_address_and_spi_takes_nothing_else() {
    if lab::skip() {
        return;
    }
    let (pair, mallory) = (Pair::new(config, false), MemberId([7; 32]));
    let to_mallory = |destination: &str, spi: u32, key: u8| Sa {
        destination: destination.parse().unwrap(),
        spi,
        key: SaKey::new(&[key; SaKey::LEN]),
        ..sa(ALICE, false)
    };
    let (bobs, inbound) = (sa(ALICE, false).spi, sa(BOB, false).spi);
    let both_ways = || {
        pair.crosses(0, b"to B");
        let (there, here) = pair.sockets(0);
        until("an answer", || {
            there.send(b"ask").unwrap();
            let Some((_, asker)) = receive_from(&here) else { return false };
            here.send_to(b"answer", asker).unwrap();
            receive(&there).is_some()
        });
    };
    pair.a.set_routes(BTreeMap::from([
        (BOB, nets(&["2001:db8:b::/64", "10.2.0.0/24"])),
        (mallory, nets(&["2001:db8:c::/64"])),
    ]));
    // The number first, then the address.
    pair.a.set_unicast(mallory, to_mallory("fd00::c", bobs, 7)).unwrap();
    pair.a.set_peer_address(&mallory, "fd00::b".parse().unwrap());
    both_ways();
    // The address first, then the number; by user space it is another's all the same.
    let taken = pair.a.set_unicast(mallory, to_mallory("fd00::b", bobs, 8));
    assert_eq!(taken.is_err(), lab::is_kernel(), "{taken:?}");
    both_ways();
    // As if it were an SA that others send to A on.
    let taken = pair.a.set_unicast(mallory, to_mallory("fd00::a", inbound, 9));
    assert_eq!(taken.is_err(), lab::is_kernel(), "{taken:?}");
    both_ways();
    assert_eq!(pair.b.counters().dropped.auth, 0);
    assert_eq!(pair.a.failure(), None);
}

/// Somebody has an SA under the number of one that comes: none of the epoch's stays, and a new sender's next one works.
#[test]
fn an_epoch_that_is_refused_leaves_nothing() {
    if lab::skip() || lab::skip_userspace() {
        return;
    }
    let pair = Pair::new(config, false);
    let one = |spi: u32, key: u8| Sa { spi, key: SaKey::new(&[key; SaKey::LEN]), ..sa(ALICE, false) };
    let standing = || {
        let list = || String::from_utf8(Command::new("ip").args(["xfrm", "state"]).output().unwrap().stdout).unwrap();
        pair.net.router_b.run(list).matches("proto esp").count()
    };
    pair.net.router_b.run(|| {
        let add = "xfrm state add src fd00::c dst fd00::b proto esp spi 0x50000000 mode tunnel enc ecb(cipher_null) ''";
        let added = Command::new("ip").args(add.split(' ').map(|word| word.trim_matches('\''))).status();
        assert!(added.unwrap().success());
    });
    // Of a sender that is new here again.
    pair.b.remove_inbound(&[sa(ALICE, false).id()]).unwrap();
    // What it sends on, and the foreign one.
    assert_eq!(standing(), 2);
    let taken = 0x5000_0000;
    for (turn, batch) in [vec![one(taken, 21)], vec![one(0x5000_0001, 22), one(taken, 23)]].into_iter().enumerate() {
        assert!(pair.b.install_inbound(batch).is_err());
        assert_eq!(standing(), 2);
        let (spi, key) = (0x5000_0002 + turn as u32, 31 + turn as u8);
        pair.b.install_inbound(vec![one(spi, key)]).unwrap();
        pair.a.set_unicast(BOB, one(spi, key)).unwrap();
        pair.crosses(0, &[key; 20]);
        pair.b.remove_inbound(&[one(spi, key).id()]).unwrap();
    }
    assert_eq!(pair.b.failure(), None);
}

/// Hosts choose flow labels: with them they could speak to black.
#[test]
fn flow_labels_of_hosts_do_not_show_on_black() {
    if lab::skip() {
        return;
    }
    let label = |frame: &[u8]| u32::from_be_bytes([0, frame[15] & 0xf, frame[16], frame[17]]);
    let pair = Pair::new(config, false);
    pair.net.host_a.run(|| std::fs::write("/proc/sys/net/ipv6/auto_flowlabels", "1").unwrap());
    let (black, red) = (Capture::new(&pair.net.router_a, "black"), Capture::new(&pair.net.host_a, "eth0"));
    for flow in [b"one flow", b"the next"] {
        pair.crosses(0, flow);
    }
    let labels = |frames: Vec<Vec<u8>>, wanted: u8| -> Vec<u32> {
        frames.iter().filter(|frame| protocol(frame) == Some(wanted)).map(|frame| label(frame)).collect()
    };
    let (inner, outer) = (labels(red.frames(), 17), labels(black.frames(), 50));
    assert!(inner.iter().any(|label| *label != inner[0]), "{inner:x?}");
    // In user space one of the router's own, always the same.
    assert!(outer.len() >= 2 && outer.iter().all(|label| *label == outer[0]), "{outer:x?}");
}

/// More prefixes than one send to the kernel takes by default.
#[test]
fn senders_with_very_many_prefixes_have_room() {
    if lab::skip() {
        return;
    }
    let pair = Pair::new(config, false);
    let mut senders: HashMap<MemberId, Vec<IpNet>> =
        HashMap::from([(ALICE, nets(&["2001:db8:a::/64", "10.1.0.0/24"]))]);
    for nth in 1..=100_u8 {
        let prefixes = (0..64).map(|prefix| format!("2001:db8:{nth:x}00:{prefix:x}::/64").parse().unwrap());
        senders.insert(MemberId([0x80 | nth; 32]), prefixes.collect());
    }
    // Numbers of the SAs are what prefixes are paired with.
    let others = senders.keys().filter(|sender| **sender != ALICE);
    let sas = others.map(|sender| Sa { destination: "fd00::b".parse().unwrap(), ..sa(*sender, false) }).collect();
    pair.b.set_senders(senders);
    pair.b.install_inbound(sas).unwrap();
    pair.crosses(0, b"there is room");
    assert_eq!(pair.b.failure(), None);
}

/// Whoever loads rules of his own begins with `flush ruleset`.
#[test]
fn the_packet_filter_comes_back_when_somebody_has_flushed_it() {
    if lab::skip() || lab::skip_userspace() {
        return;
    }
    let pair = Pair::new(config, false);
    pair.b.set_senders(HashMap::from([(ALICE, nets(&["2001:db8:c::/64"]))]));
    let before = pair.b.counters().dropped.spoofed;
    pair.net.router_b.run(lab::flush_ruleset);
    let (from, to) = pair.sockets(0);
    until("what the sender may not send from is dropped again", || {
        from.send(MARKER).unwrap();
        pair.b.counters().dropped.spoofed > before
    });
    while receive(&to).is_some() {}
    for _ in 0..20 {
        from.send(MARKER).unwrap();
    }
    assert_eq!(receive(&to), None);
    assert_eq!(pair.b.failure(), None);
}

/// A device of several queues could be joined by others: a user without rights, or a daemon of another instance.
#[test]
fn nobody_else_opens_a_queue_of_the_device() {
    if lab::skip() || lab::is_kernel() && lab::say_skipped("of the device of user space") {
        return;
    }
    let net = Coalition::new();
    let mine = net.router_a.run(|| start(EspConfig { workers: 3, ..config(Side::A, false) }).unwrap());
    let second = net.router_a.run(|| start(EspConfig { instance: 4, workers: 3, ..config(Side::A, false) }).err());
    let second = second.map(|error| error.to_string()).unwrap_or_default();
    assert!(second.contains("muster0 already"), "{second:?}");
    let errors: Vec<Option<nix::errno::Errno>> =
        [65534, 0].map(|user| net.router_a.run(move || join_device(user))).into();
    assert_eq!(errors, [Some(nix::errno::Errno::EPERM), None]);
    assert_eq!(mine.failure(), None);
}

/// Why this user gets no queue of the device.
fn join_device(user: libc::uid_t) -> Option<nix::errno::Errno> {
    nix::ioctl_write_ptr_bad!(
        set_interface,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
    let tried = move || {
        let tun = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
        // SAFETY: plain numbers; of this thread alone, which ends.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) }, 0);
        // SAFETY: all zeros is a value of it.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(b"muster0") {
            *to = *from as libc::c_char;
        }
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: the descriptor is open and the request lives for the call.
        unsafe { set_interface(tun.as_raw_fd(), &request) }.err()
    };
    std::thread::scope(|scope| scope.spawn(tried).join().unwrap())
}

/// The kernel keeps all SAs in one table, by destination and SPI.
#[test]
fn two_instances_on_the_kernel_do_not_share_a_group() {
    if lab::skip() || lab::skip_userspace() {
        return;
    }
    let pair = Pair::new(config, false);
    let another = |group: &'static str| {
        move || {
            let group_address = Some(group.parse().unwrap());
            let config = config(Side::A, false);
            start(EspConfig { instance: 4, device: "muster4".into(), reds: vec![], group_address, ..config }).map(drop)
        }
    };
    let refused = pair.net.router_a.run(another("ff05::6d76")).unwrap_err().to_string();
    assert!(refused.contains("ff05::6d76") && refused.contains("muster0"), "{refused}");
    pair.net.router_a.run(another("ff05::6d77")).unwrap();
    assert_eq!(pair.a.failure(), None);
    pair.crosses(0, MARKER);
}
