//! By chance: what is written is read again as it was, and nothing that is read makes the reader panic.

use std::net::IpAddr;

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::*;

fn octets(most: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..=most)
}

fn net(is_v4: bool) -> impl Strategy<Value = IpNet> {
    let of = |address: IpAddr, most: u8| (0..=most).prop_map(move |len| IpNet::new(address, len).unwrap().trunc());
    match is_v4 {
        true => any::<[u8; 4]>().prop_flat_map(move |address| of(address.into(), 32)).boxed(),
        false => any::<[u8; 16]>().prop_flat_map(move |address| of(address.into(), 128)).boxed(),
    }
}

fn address(is_v4: bool) -> impl Strategy<Value = IpAddr> {
    net(is_v4).prop_map(|net| net.addr())
}

fn identity() -> impl Strategy<Value = Identity> {
    prop_oneof![
        any::<bool>().prop_flat_map(address).prop_map(Identity::Address),
        any::<bool>().prop_flat_map(net).prop_map(Identity::Subnet),
        "[!-~]{1,40}".prop_map(Identity::Name),
        "[!-~]{1,40}".prop_map(Identity::User),
        vec(any::<u8>(), 1..40).prop_map(Identity::DistinguishedName),
        vec(any::<u8>(), 1..40).prop_map(Identity::KeyId),
    ]
}

fn attribute() -> impl Strategy<Value = (u16, Result<u16, Vec<u8>>)> {
    (0..0x8000u16, prop_oneof![any::<u16>().prop_map(Ok), octets(40).prop_map(Err)])
}

fn written(list: &[(u16, Result<u16, Vec<u8>>)]) -> Vec<Attribute<'_>> {
    let mut written = Vec::new();
    for (class, value) in list {
        written.push(match value {
            Ok(value) => Attribute::basic(*class, *value),
            Err(octets) => Attribute::variable(*class, octets),
        });
    }
    written
}

fn rekey_sa() -> impl Strategy<Value = RekeySa> {
    let ends = any::<bool>().prop_flat_map(|v4| ((address(v4), 1..=u16::MAX), (address(v4), 1..=u16::MAX)));
    // Each class once, and what it can hold.
    let attributes = proptest::collection::btree_map(1..=12u16, any::<u32>(), 0..10).prop_map(|map| {
        let fits = |(class, value): (u16, u32)| match class {
            4 | 10.. => (class, value),
            _ => (class, value & 0xffff),
        };
        map.into_iter().map(fits).collect()
    });
    (ends, any::<[u8; 16]>(), attributes).prop_map(|((source, destination), spi, attributes)| RekeySa {
        source,
        destination,
        spi,
        attributes,
    })
}

fn traffic_sa() -> impl Strategy<Value = TrafficSa> {
    let preserved = prop_oneof![Just(PreservedAddress::None), Just(PreservedAddress::Destination)];
    let families = (preserved, any::<bool>(), any::<bool>());
    let ends = families.prop_flat_map(|(preserved, inner, outer)| {
        let outer = if preserved == PreservedAddress::Destination { inner } else { outer };
        let inside = ((net(inner), any::<u16>()), (net(inner), any::<u16>()));
        (Just(preserved), inside, (address(outer), address(outer)))
    });
    (any::<u8>(), ends, 256..=u32::MAX, any::<u32>()).prop_map(
        |(protocol, (preserved, (source, destination), tunnel), spi, lifetime)| TrafficSa {
            protocol,
            source,
            destination,
            tunnel,
            spi,
            lifetime,
            preserved,
        },
    )
}

fn spd_part() -> impl Strategy<Value = SpdPart> {
    let ends = any::<bool>().prop_flat_map(|v4| ((net(v4), any::<u16>()), (net(v4), any::<u16>())));
    let action = prop_oneof![Just(SpdAction::Bypass), Just(SpdAction::Protect)];
    let entry = (any::<u8>(), ends, action).prop_map(|(protocol, (source, destination), action)| {
        (TrafficSelector { protocol, source, destination }, action)
    });
    (any::<(bool, bool)>(), vec(entry, 0..20)).prop_map(|((is_first, is_last), entries)| SpdPart {
        is_first,
        is_last,
        entries,
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    let delays = proptest::option::of(
        any::<(u16, u16)>().prop_map(|(activation, deactivation)| Delays { activation, deactivation }),
    );
    (vec(rekey_sa(), 0..3), delays, vec(traffic_sa(), 0..5), proptest::option::of(spd_part()))
        .prop_map(|(rekey, delays, traffic, spd)| Policy { rekey, delays, traffic, spd })
        .prop_filter("an SA", |policy| !policy.is_empty())
}

/// Any type but those that stand within an SA.
fn chain() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let kind = (1..=255u8).prop_filter("of a message", |kind| ![2, 3, 15, 16, 22].contains(kind));
    vec((kind, octets(300)), 0..=MOST_PAYLOADS)
}

/// Nearly a message: chance alone hardly gets past the first length.
fn damaged(octets: &[u8], places: &[(prop::sample::Index, u8)]) -> Vec<u8> {
    let mut damaged = octets.to_vec();
    for (place, octet) in places.iter().filter(|_| !octets.is_empty()) {
        damaged[place.index(octets.len())] = *octet;
    }
    damaged
}

proptest! {
    #[test]
    fn headers(cookies in any::<([u8; 8], [u8; 8])>(), first: u8, exchange: u8, flags in 0..8u8, message_id: u32,
               body in octets(100)) {
        let flags = if exchange == exchange::MULTICAST_PUSH { flags::ENCRYPTION } else { flags };
        let (initiator, responder) = (Cookie(cookies.0), Cookie(cookies.1));
        let header = Header { initiator, responder, exchange, flags, message_id };
        let datagram = header.write(first, &body);
        prop_assert_eq!(Header::parse(&datagram), Ok((header, first, &body[..])));
    }

    #[test]
    fn chains(list in chain(), padding in octets(16)) {
        let (mut forwards, mut backwards) = (Chain::new(), Chain::new());
        list.iter().for_each(|(kind, body)| _ = forwards.add(*kind, body));
        list.iter().rev().for_each(|(kind, body)| _ = backwards.precede(*kind, body));
        prop_assert_eq!((forwards.first(), forwards.bytes()), (backwards.first(), backwards.bytes()));
        let read = payloads(forwards.first(), forwards.bytes(), false).unwrap();
        let bodies: Vec<_> = read.iter().map(|raw| (raw.kind, raw.body.to_vec())).collect();
        prop_assert_eq!(bodies, list);
        let wholes: Vec<u8> = read.iter().flat_map(|raw| raw.whole).copied().collect();
        prop_assert_eq!(&wholes[..], forwards.bytes());
        let padded = [forwards.bytes(), &padding].concat();
        prop_assert_eq!(payloads(forwards.first(), &padded, true), Ok(read));
    }

    #[test]
    fn lists_of_attributes(list in vec(attribute(), 0..=64)) {
        let list = written(&list);
        let mut bytes = Vec::new();
        list.iter().for_each(|attribute| attribute.write(&mut bytes));
        prop_assert_eq!(attributes(&bytes), Ok(list));
    }

    #[test]
    fn numbers(number: u32, class in 0..0x8000u16) {
        prop_assert_eq!(Attribute::number(class, number).to_number(), Ok(number));
        prop_assert_eq!(super::super::number(&number.to_be_bytes()), Ok(number));
    }

    #[test]
    fn ranges_of_numbers(list in vec(any::<(u32, u32)>(), 0..20), kind in prop_oneof![Just(kind::SACK), Just(kind::NACK)]) {
        let list: Vec<_> = list.iter().map(|(a, b)| Range { first: *a.min(b), last: *a.max(b) }).collect();
        let mut chain = Chain::new();
        list.iter().for_each(|range| _ = chain.add(kind, &range.to_body()));
        prop_assert_eq!(ranges(&payloads(chain.first(), chain.bytes(), false).unwrap(), kind), Ok(list));
    }

    #[test]
    fn offers(doi: u32, proposal: u8, list in vec((any::<u8>(), octets(40)), 1..=32)) {
        let list: Vec<_> =
            list.iter().map(|(number, attributes)| Transform { proposal, number: *number, attributes }).collect();
        let body = write_proposal(doi, &list);
        prop_assert_eq!(Transform::offer(&body), Ok((doi, list)));
    }

    #[test]
    fn identities(identity in identity()) {
        prop_assert_eq!(Identity::parse(&identity.to_body()), Ok(identity));
    }

    #[test]
    fn notifications(doi: u32, protocol: u8, spi in octets(16), kind: u16, data in octets(40)) {
        let notify = Notify { doi, protocol, spi: &spi, kind, data: &data };
        let body = notify.to_body();
        prop_assert_eq!(Notify::parse(&body), Ok(notify));
    }

    #[test]
    fn deletes(doi: u32, protocol: u8, spis in (1..=255usize).prop_flat_map(|len| vec(vec(any::<u8>(), len), 1..10))) {
        let delete = Delete { doi, protocol, spis };
        prop_assert_eq!(Delete::parse(&delete.to_body()), Ok(delete));
    }

    #[test]
    fn fragments(id: u16, number in 1..=255u8, is_last: bool, data in octets(100)) {
        let fragment = Fragment { id, number, is_last, data: &data };
        let body = fragment.to_body();
        prop_assert_eq!(Fragment::parse(&body), Ok(fragment));
    }

    #[test]
    fn policies(doi: u32, policy in policy()) {
        prop_assert_eq!(Policy::parse(&policy.to_body(doi), doi), Ok(policy));
    }

    #[test]
    fn keys(packets in vec((any::<u8>(), octets(20), vec((0..0x8000u16, octets(60)), 0..4)), 0..10)) {
        let mut download = KeyDownload::default();
        for (kind, spi, keys) in &packets {
            let packet = KeyPacket::new(*kind, spi);
            download.packets.push(keys.iter().fold(packet, |packet, (class, key)| packet.with(*class, key)));
        }
        let body = download.to_body();
        let read = KeyDownload::parse(&body).unwrap();
        let plain = |packet: &KeyPacket| {
            let keys = packet.keys.iter().map(|(class, key)| (*class, key.to_vec())).collect();
            (packet.kind, packet.spi.clone(), keys)
        };
        prop_assert_eq!(read.packets.iter().map(plain).collect::<Vec<_>>(), packets);
        prop_assert_eq!(read.to_body(), body);
    }

    #[test]
    fn nothing_makes_a_reader_panic(
        policy in policy(),
        places in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        chance in octets(200),
    ) {
        for octets in [damaged(&policy.to_body(2), &places), chance] {
            _ = Header::parse(&octets);
            _ = payloads(octets.first().copied().unwrap_or(0), &octets, true);
            _ = attributes(&octets);
            _ = Transform::offer(&octets);
            _ = Identity::parse(&octets);
            _ = Notify::parse(&octets);
            _ = Delete::parse(&octets);
            _ = Fragment::parse(&octets);
            _ = KeyDownload::parse(&octets);
            if let Ok(policy) = Policy::parse(&octets, 2) {
                prop_assert_eq!(Policy::parse(&policy.to_body(2), 2), Ok(policy));
            }
        }
    }
}
