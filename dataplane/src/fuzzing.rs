//! What a fuzzer calls of the inside: packets from both sides, and the kernel's messages. In no daemon.
//!
//! A panic is what the fuzzer looks for: `assert` and `expect` here name what must hold whatever the bytes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use muster_wire::MemberId;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;

use crate::esp::packet::{self, Cipher, HEADER_LEN, Header, NEXT_IPV4, NEXT_IPV6};
use crate::esp::replay::ReplayWindow;
use crate::inner::Inner;
use crate::mroute::{Family, parse_upcall};
use crate::netlink::{Route, Rule, RuleFamily};
use crate::policy::Policies;
use crate::userspace::gro::Joiner;
use crate::userspace::mmsg::Buffer;
use crate::userspace::sad::{Sad, Treatment};
use crate::{FlowId, KeyLedger, Sa, SaKey, SaKind, Selector};

const GROUP: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 0x6d76));
const SENDER: MemberId = MemberId([0xa; 32]);
const SPI: u32 = 0x0010_0001;

/// ESP from black, forged and authentic, inner packets from red, and the replay window. The first byte chooses.
pub fn esp(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    match which % 4 {
        0 => {
            let packet = &mut bytes.to_vec();
            assert!(open(&table(), packet).is_none(), "bytes out of nothing are let in");
        }
        1 => authentic(bytes),
        2 => {
            from_red(bytes);
            by_selector(bytes);
        }
        _ => replays(bytes),
    }
}

/// What a selector with ports is for shows them, and goes on the flow's SA alone.
fn by_selector(inner: &[u8]) {
    let table = table();
    let [source, destination] = ["10.2.0.0/16", "239.10.0.0/16"].map(|net| nets(&[net])[0]);
    let selector = Selector { protocol: Some(17), destination_port: Some(5), ..Selector::new(source, destination) };
    let out = Sa { spi: SPI + 1, key: SaKey::new(&[2; 36]), ..sa() };
    // As in `from_red`.
    table.set_flow(FlowId(1), selector, out).expect("a key not used before");
    let mut buffer = vec![0; HEADER_LEN + inner.len() + 64];
    buffer[HEADER_LEN..][..inner.len()].copy_from_slice(inner);
    if table.seal(&mut buffer, inner.len()).is_some() {
        let payload = &inner[usize::from(inner[0] & 0xf) * 4..];
        assert!(inner[0] >> 4 == 4 && inner[9] == 17 && payload[2..4] == [0, 5], "it is not for this");
    }
}

/// The kernel's messages: multicast upcalls, rules and routes, what XFRM and the packet filter say. The first byte chooses.
pub fn kernel(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    match which % 4 {
        0 => drop(parse_upcall(Family::Ipv4, bytes)),
        1 => drop(parse_upcall(Family::Ipv6, bytes)),
        2 => rule_or_route(bytes),
        _ => crate::xfrm::read(bytes),
    }
}

/// What is read of a rule or a route, is read again of what we would write.
fn rule_or_route(bytes: &[u8]) {
    let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) else { return };
    match message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRule(message)) => {
            for family in RuleFamily::ALL {
                if let Some(rule) = Rule::of(family, &message) {
                    assert_eq!(Rule::of(family, &rule.message()), Some(rule));
                }
            }
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(message)) => {
            if let Some(route) = Route::of(&message) {
                assert_eq!(Route::of(&route.message()).map(|again| again.prefix), Some(route.prefix.trunc()));
            }
        }
        _ => {}
    }
}

/// A member that sends what it likes: any plaintext, padding and next header, properly sealed.
fn authentic(bytes: &[u8]) {
    let (table, cipher) = (table(), Cipher::new(&key(), 0));
    let Some((next_header, inner)) = bytes.split_first() else { return };
    let mut buffer = vec![0; packet::sealed_len(inner.len())];
    buffer[HEADER_LEN..][..inner.len()].copy_from_slice(inner);
    let header = Header { spi: SPI, sequence: 1 };
    let Some(len) = cipher.seal(header, *next_header, &mut buffer, inner.len()) else { return };
    let sealed = buffer[..len].to_vec();
    if let Some(delivered) = open(&table, &mut buffer[..len]) {
        assert_eq!(delivered, inner[..delivered.len()], "something else than what was sent");
        let [v4, v6] = [NEXT_IPV4, NEXT_IPV6].map(|next| next == *next_header);
        assert!((v4 && delivered[0] >> 4 == 4) || (v6 && delivered[0] >> 4 == 6));
        let packet = Inner::parse(&delivered);
        let source = packet.expect("what is delivered is a packet").source;
        assert!(accepted().iter().any(|net| net.contains(&source)), "{source} is not the sender's");
        join(&delivered);
    }
    assert!(open(&table, &mut sealed.clone()).is_none(), "a replay is let in");
}

/// What is delivered is joined with its like, whatever it is: the packet twice, and the second with the last octet gone.
fn join(packet: &[u8]) {
    let room = HEADER_LEN + packet.len();
    for can_udp in [true, false] {
        let mut memory = vec![0; 3 * room];
        let mut buffers = Buffer::divide(&mut memory, room);
        for (buffer, packet) in buffers.iter_mut().zip([packet, packet, &packet[..packet.len() - 1]]) {
            buffer.bytes[HEADER_LEN..][..packet.len()].copy_from_slice(packet);
            buffer.len = HEADER_LEN + packet.len();
        }
        let mut joiner = Joiner::new(can_udp);
        joiner.join(&mut buffers, HEADER_LEN);
        let packets = joiner.trains().iter().flat_map(|train| joiner.packets(train));
        let all = packets.filter(|(at, skipped)| buffers[*at].as_ref().len() >= *skipped).count();
        assert_eq!(all, 3, "each is written once");
    }
}

fn from_red(inner: &[u8]) {
    let table = table();
    let out = Sa { spi: SPI + 1, key: SaKey::new(&[2; 36]), ..sa() };
    // The ledger is the table's own, and the one key in it is another.
    table.set_outbound(out).expect("a key not used before");
    let mut buffer = vec![0; HEADER_LEN + inner.len() + 64];
    buffer[HEADER_LEN..][..inner.len()].copy_from_slice(inner);
    if let Some(sealed) = table.seal(&mut buffer, inner.len()) {
        assert_eq!(sealed.destination, GROUP);
        let opened = Cipher::new(&SaKey::new(&[2; 36]), 0).open(&mut buffer[..sealed.len]).expect("just sealed");
        let opened = &buffer[opened.inner];
        assert_eq!(*opened, inner[..opened.len()], "something else is sent");
        let packet = Inner::parse(opened).expect("what is sent is a packet");
        assert!(own().iter().any(|net| net.contains(&packet.source)), "{} is not ours", packet.source);
    }
}

/// The window never takes a number twice.
fn replays(bytes: &[u8]) {
    let (mut window, mut taken) = (ReplayWindow::new(), std::collections::HashSet::new());
    let mut sequence = 0_u32;
    for step in bytes.chunks_exact(2) {
        let step = i32::from(i16::from_be_bytes([step[0], step[1]]));
        sequence = sequence.wrapping_add_signed(step * (1 + step % 3));
        let may = window.may_be_new(sequence);
        assert_eq!(window.mark(sequence), may);
        assert!(!may || taken.insert(sequence), "{sequence} is taken twice");
    }
}

fn open(table: &Sad, packet: &mut [u8]) -> Option<Vec<u8>> {
    table.open(GROUP, 0, packet).map(<[u8]>::to_vec)
}

fn table() -> Sad {
    let treatment = Treatment { copy_dscp: true, clear_df: false };
    let policies = Arc::new(Policies::new(nets(&["ff1e::/16", "239.10.0.0/16"]), own()));
    let table = Sad::new(policies.clone(), treatment, KeyLedger::new());
    // Its ledger is new.
    table.install_inbound(vec![sa()]).expect("a key not used before");
    policies.set_senders(HashMap::from([(SENDER, accepted())]));
    table
}

fn sa() -> Sa {
    let (kind, destination) = (SaKind::Group, GROUP);
    Sa { spi: SPI, kind, source: None, destination, epoch: 1, sender: SENDER, selector: None, key: key() }
}

fn key() -> SaKey {
    SaKey::new(&[1; 36])
}

fn accepted() -> Vec<IpNet> {
    nets(&["2001:db8:a::/64", "10.1.0.0/16"])
}

fn own() -> Vec<IpNet> {
    nets(&["2001:db8:b::/64", "10.2.0.0/16"])
}

fn nets(list: &[&str]) -> Vec<IpNet> {
    // Every caller passes networks, written in this file.
    list.iter().map(|net| net.parse().expect("a network")).collect()
}
