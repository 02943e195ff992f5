//! What hosts say by IGMP and MLD, and the machine that takes it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use muster_membership::{MAX_GROUPS, Message, Querier, packet};
use muster_sim::Input;
use muster_wire::Time;

/// Operations of one input.
const MAX_OPERATIONS: usize = 200;

/// Packets of the length that is said before each, with right checksums where there is room for them, and pauses between.
pub(crate) fn membership(data: &[u8]) {
    let mut input = Input::new(data);
    let (own4, own6) = (IpAddr::from([10, 1, 0, 1]), IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 1]));
    let mut links = [(own4, Querier::new(Time(0))), (own6, Querier::new(Time(0)))];
    let mut now = Time(0);
    for _ in 0..MAX_OPERATIONS {
        if input.is_empty() {
            break;
        }
        let link = input.below(2);
        let (own, querier) = &mut links[link];
        match input.below(4) {
            0 => now = now + Duration::from_millis(input.below(20_000) as u64),
            1 => querier.set_address((input.below(4) > 0).then_some(*own)),
            _ => {
                let len = input.below(120);
                let body: Vec<u8> = (0..len).map(|_| input.below(256) as u8).collect();
                let _ = packet::parse(&body);
                let whole = if own.is_ipv4() { whole_v4(&body) } else { whole_v6(&body) };
                if let Some((source, message)) = packet::parse(&whole) {
                    querier.handle_message(now, source, &message);
                }
            }
        }
        if querier.poll_timeout().is_some_and(|next| next <= now) {
            querier.handle_timeout(now);
        }
        while let Some(query) = querier.poll_transmit() {
            let (bytes, _) = packet::query(*own, &query).expect("a query of its own family");
            let Some((_, Message::Query(read))) = packet::parse(&bytes) else { panic!("a query that nobody can read") };
            assert_eq!((read.group, &read.sources, read.suppress), (query.group, &query.sources, query.suppress));
        }
        assert!(querier.poll_timeout().is_some(), "it asks again some time");
        querier.take_changed();
    }
    for (_, querier) in &mut links {
        assert!(querier.groups().count() <= MAX_GROUPS);
        // Without a word nobody is left in the end: within ten days, whatever another querier asked for.
        while querier.groups().next().is_some() {
            let next = querier.poll_timeout().expect("it asks again some time");
            assert!(next < now + Duration::from_secs(10 * 86_400));
            querier.handle_timeout(next);
            while querier.poll_transmit().is_some() {}
        }
    }
}

fn whole_v4(body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + body.len() as u16).to_be_bytes());
    packet.extend([0, 0, 0, 0, 1, 2, 0, 0]);
    packet.extend(Ipv4Addr::new(10, 1, 0, 9).octets());
    packet.extend(Ipv4Addr::new(224, 0, 0, 22).octets());
    let checksum = checksum(&packet);
    packet[10..12].copy_from_slice(&checksum);
    packet.extend(sealed(body, &[]));
    packet
}

fn whole_v6(body: &[u8]) -> Vec<u8> {
    let source: Ipv6Addr = "fe80::9".parse().expect("a constant");
    let destination: Ipv6Addr = "ff02::16".parse().expect("a constant");
    let pseudo =
        [&source.octets()[..], &destination.octets(), &(body.len() as u32).to_be_bytes(), &[0, 0, 0, 58]].concat();
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((8 + body.len() as u16).to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend([58, 0, 5, 2, 0, 0, 1, 0]);
    packet.extend(sealed(body, &pseudo));
    packet
}

/// The message with its checksum in the octets 2 and 3.
fn sealed(body: &[u8], pseudo: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    if body.len() >= 4 {
        body[2..4].fill(0);
        let checksum = checksum(&[pseudo, &body].concat());
        body[2..4].copy_from_slice(&checksum);
    }
    body
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
    let total: u32 = words.sum();
    let total = (total & 0xffff) + (total >> 16);
    (!((total & 0xffff) + (total >> 16)) as u16).to_be_bytes()
}
