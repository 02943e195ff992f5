//! How long it takes to give the kernel an epoch's SAs: by the data plane, by the barest loop over netlink that there can
//! be (the limit), and by `ip -batch`, in one run.
//!
//! `cargo bench -p muster-dataplane --bench sas` as root, on a kernel with ESP; elsewhere in the lab:
//! `netns-tests/kernel-lab/bench sas`. The ratios count: an emulated processor has times of its own.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use muster_dataplane::{Backend, Dataplane, EspConfig, KeyLedger, Sa, SaId, SaKey, SaKind, start};
use muster_wire::MemberId;
use netlink_packet_core::Emitable;
use netlink_packet_xfrm::constants::{
    AF_INET6, IPPROTO_ESP, XFRM_INF, XFRM_MODE_TUNNEL, XFRM_STATE_AF_UNSPEC, XFRMA_ALG_AEAD, XFRMA_IF_ID,
    XFRMA_REPLAY_ESN_VAL,
};
use netlink_packet_xfrm::{Address, Id, LifetimeConfig, UserSaInfo};
use netlink_sys::{Socket, SocketAddr};
use nix::sched::{CloneFlags, unshare};

/// How many SAs, and rounds: the fewer the SAs, the more a wake-up at the wrong moment weighs.
const SIZES: [(u32, usize); 3] = [(10, 201), (100, 61), (1000, 15)];
const MOST: u32 = 1000;
const GROUP: &str = "ff05::6d76";
/// As the data plane sends them.
const BATCH: usize = 64;

fn main() {
    if let Err(reason) = prepare() {
        println!("SKIP bench sas: {reason}");
        return;
    }
    println!("| SAs | data plane, µs each | bare netlink loop | `ip -batch` | data plane / bare loop |");
    println!("|---|---|---|---|---|");
    let plane = match start(Backend::Kernel, config()) {
        Ok(running) => running.dataplane,
        Err(error) => return println!("SKIP bench sas: {error}"),
    };
    // Every sender is known, as at a rekey.
    let known = (0..MOST).map(member).map(|sender| (sender, vec!["2001:db8::/32".parse().expect("a prefix")]));
    plane.set_senders(known.collect::<HashMap<_, _>>());
    plane.install_inbound(epoch(1, MOST)).expect("the kernel takes them");
    let mut number = 1;
    for (size, rounds) in SIZES {
        let mut all: [Vec<Duration>; 3] = Default::default();
        for round in 0..rounds {
            // Each is the first as often: what one has removed the kernel clears away while the next is at work.
            for turn in 0..all.len() {
                let which = (round + turn) % all.len();
                number += 1;
                all[which].push(match which {
                    0 => by_data_plane(&*plane, number, size),
                    1 => by_bare_loop(number, size),
                    _ => by_ip(number, size),
                });
            }
        }
        let [own, bare, ip] = all.map(|times| median(times).as_nanos() as f64 / 1000.0 / f64::from(size));
        println!("| {size} | {own:.1} | {bare:.1} | {ip:.1} | {:.2} |", own / bare);
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// A network namespace with an interface that may be black.
fn prepare() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("no network namespace: {error}"))?;
    for line in ["link add black type veth peer name far", "link set black up", "addr add fd00::a/64 dev black nodad"] {
        let done = Command::new("ip").args(line.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
        if !done.status.success() {
            return Err(format!("ip {line}: {}", String::from_utf8_lossy(&done.stderr)));
        }
    }
    Ok(())
}

fn config() -> EspConfig {
    EspConfig {
        device: "muster0".into(),
        black_interface: "black".into(),
        black_address: "fd00::a".parse().expect("an address"),
        group_address: Some(GROUP.parse().expect("an address")),
        hop_limit: 64,
        copy_dscp: true,
        clear_df: false,
        reds: vec![],
        red_multicast: vec![],
        dynamic_membership: false,
        own_prefixes: vec![],
        instance: 0,
        workers: 1,
        ledger: KeyLedger::new(),
    }
}

fn member(nth: u32) -> MemberId {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&nth.to_be_bytes());
    MemberId(id)
}

fn spi(number: u32, nth: u32) -> u32 {
    number << 16 | nth
}

/// No key comes twice.
fn key(number: u32, nth: u32) -> [u8; SaKey::LEN] {
    let mut key = [0x5a; SaKey::LEN];
    key[..4].copy_from_slice(&spi(number, nth).to_be_bytes());
    key
}

fn epoch(number: u32, size: u32) -> Vec<Sa> {
    let sa = |nth| Sa {
        spi: spi(number, nth),
        kind: SaKind::Group,
        source: None,
        destination: GROUP.parse().expect("an address"),
        epoch: number.into(),
        sender: member(nth),
        selector: None,
        key: SaKey::new(&key(number, nth)),
    };
    (0..size).map(sa).collect()
}

fn by_data_plane(plane: &dyn Dataplane, number: u32, size: u32) -> Duration {
    let sas = epoch(number, size);
    let ids: Vec<SaId> = sas.iter().map(Sa::id).collect();
    let begun = Instant::now();
    plane.install_inbound(sas).expect("the kernel takes them");
    let took = begun.elapsed();
    plane.remove_inbound(&ids).expect("they go");
    took
}

/// The same messages, written before the clock starts: what is left is the kernel's part.
fn by_bare_loop(number: u32, size: u32) -> Duration {
    let group: Ipv6Addr = GROUP.parse().expect("an address");
    let batches = batches(size, |nth, acknowledged| message(group, number, nth, acknowledged));
    let socket = open();
    let begun = Instant::now();
    ask(&socket, &batches);
    let took = begun.elapsed();
    remove(&socket, number, size);
    took
}

/// One message each of `size` SAs, as many to a send as the data plane's.
fn batches(size: u32, message: impl Fn(u32, bool) -> Vec<u8>) -> Vec<Vec<u8>> {
    let all: Vec<u32> = (0..size).collect();
    let batch = |some: &[u32]| {
        let last = some[some.len() - 1];
        some.iter().flat_map(|nth| message(*nth, *nth == last)).collect()
    };
    all.chunks(BATCH).map(batch).collect()
}

fn open() -> Socket {
    let mut socket = Socket::new(netlink_sys::protocols::NETLINK_XFRM).expect("a socket");
    socket.bind_auto().expect("a number");
    socket.connect(&SocketAddr::new(0, 0)).expect("the kernel");
    socket
}

fn ask(socket: &Socket, batches: &[Vec<u8>]) {
    let mut answer = Vec::with_capacity(4096);
    for batch in batches {
        socket.send(batch, 0).expect("sent");
        answer.clear();
        socket.recv(&mut answer, 0).expect("answered");
        assert_eq!(answer[16..20], [0; 4], "the kernel has refused one");
    }
}

/// `struct nlmsghdr`, `struct xfrm_usersa_info`, and the attributes that the data plane gives.
fn message(group: Ipv6Addr, number: u32, nth: u32, acknowledged: bool) -> Vec<u8> {
    const XFRM_MSG_NEWSA: u16 = 0x10;
    // NLM_F_EXCL, NLM_F_CREATE.
    let flags = 0x200 | 0x400;
    let unlimited = LifetimeConfig {
        soft_byte_limit: XFRM_INF,
        hard_byte_limit: XFRM_INF,
        soft_packet_limit: XFRM_INF,
        hard_packet_limit: XFRM_INF,
        ..LifetimeConfig::default()
    };
    let fixed = UserSaInfo {
        id: Id { daddr: Address::from_ip(&IpAddr::V6(group)), spi: spi(number, nth), proto: IPPROTO_ESP },
        lifetime_cfg: unlimited,
        reqid: 1 + nth,
        family: AF_INET6,
        mode: XFRM_MODE_TUNNEL,
        flags: XFRM_STATE_AF_UNSPEC,
        ..UserSaInfo::default()
    };
    let mut body = vec![0; fixed.buffer_len()];
    fixed.emit(&mut body);
    let mut attribute = |kind: u16, value: &[u8]| {
        body.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
        body.extend_from_slice(&kind.to_ne_bytes());
        body.extend_from_slice(value);
        body.resize(body.len().next_multiple_of(4), 0);
    };
    let mut aead = [0; 72];
    aead[..17].copy_from_slice(b"rfc4106(gcm(aes))");
    aead[64..68].copy_from_slice(&288_u32.to_ne_bytes());
    aead[68..].copy_from_slice(&128_u32.to_ne_bytes());
    attribute(XFRMA_ALG_AEAD, &[&aead[..], &key(number, nth)].concat());
    attribute(XFRMA_IF_ID, &7_u32.to_ne_bytes());
    // XFRMA_SA_DIR: in.
    attribute(33, &[1]);
    let window: Vec<u8> = [128, 0, 0, 0, 0, 4096].into_iter().chain([0; 128]).flat_map(u32::to_ne_bytes).collect();
    attribute(XFRMA_REPLAY_ESN_VAL, &window);
    framed(XFRM_MSG_NEWSA, flags, nth, acknowledged, &body)
}

/// Behind its `struct nlmsghdr`.
fn framed(kind: u16, flags: u16, sequence: u32, acknowledged: bool, body: &[u8]) -> Vec<u8> {
    // NLM_F_REQUEST; NLM_F_ACK.
    let flags = flags | 1 | if acknowledged { 4 } else { 0 };
    let header = [
        &(16 + body.len() as u32).to_ne_bytes()[..],
        &kind.to_ne_bytes(),
        &flags.to_ne_bytes(),
        &sequence.to_ne_bytes(),
        &[0; 4],
    ];
    [&header.concat(), body].concat()
}

fn by_ip(number: u32, size: u32) -> Duration {
    let mut lines = String::new();
    for nth in 0..size {
        let (spi, reqid, mut hex) = (spi(number, nth), 1 + nth, String::new());
        key(number, nth).iter().for_each(|byte| write!(hex, "{byte:02x}").expect("a string"));
        writeln!(
            lines,
            "xfrm state add src :: dst {GROUP} proto esp spi {spi:#x} reqid {reqid} mode tunnel replay-window 32 flag af-unspec \
             if_id 7 aead rfc4106(gcm(aes)) 0x{hex} 128"
        )
        .expect("a string");
    }
    let begun = Instant::now();
    let mut ip = Command::new("ip").args(["-6", "-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip runs");
    ip.stdin.take().expect("it is piped").write_all(lines.as_bytes()).expect("ip reads");
    assert!(ip.wait().expect("it ends").success());
    let took = begun.elapsed();
    remove(&open(), number, size);
    took
}

/// As the data plane does it: the kernel clears SAs away behind the answer, and that is the same work for whoever comes next.
fn remove(socket: &Socket, number: u32, size: u32) {
    const XFRM_MSG_DELSA: u16 = 0x11;
    let group: Ipv6Addr = GROUP.parse().expect("an address");
    // `struct xfrm_usersa_id`.
    let body = |nth| {
        let rest = [&spi(number, nth).to_be_bytes()[..], &AF_INET6.to_ne_bytes(), &[IPPROTO_ESP, 0]];
        [&group.octets()[..], &rest.concat()].concat()
    };
    ask(socket, &batches(size, |nth, acknowledged| framed(XFRM_MSG_DELSA, 0, nth, acknowledged, &body(nth))));
}
