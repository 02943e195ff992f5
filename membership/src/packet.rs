//! IGMP and MLD as whole IP packets.
//!
//! A packet that a router between could have passed on is none: the hop limit is 1, MLD's source is link-local and its
//! packets carry the router alert (RFC 3810 7.4).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::message::{Change, Message, Query, Record, Version};

const ALL_SYSTEMS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const IGMP: u8 = 2;
const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
/// Internetwork control (RFC 3376 4).
const PRECEDENCE: u8 = 0xc0;
/// RFC 2113.
const ROUTER_ALERT_V4: [u8; 4] = [0x94, 4, 0, 0];
/// RFC 2711: hop-by-hop options with a router alert for MLD, and padding; before ICMPv6.
const ROUTER_ALERT_V6: [u8; 8] = [ICMPV6, 0, 5, 2, 0, 0, 1, 0];

/// Who sent which message in an IP packet; `None` if it is none of these protocols, damaged or from elsewhere than this link.
/// Records of a kind that is not known are left out.
pub fn parse(packet: &[u8]) -> Option<(IpAddr, Message)> {
    match packet.first()? >> 4 {
        4 => parse_v4(packet),
        6 => parse_v6(packet),
        _ => None,
    }
}

/// The IP packet of a query from `source`, and its destination; `None` if its addresses are not all of one family, or are too
/// many for a packet.
pub fn query(source: IpAddr, query: &Query) -> Option<(Vec<u8>, IpAddr)> {
    match source {
        IpAddr::V4(source) => query_v4(source, query),
        IpAddr::V6(source) => query_v6(source, query),
    }
}

fn parse_v4(packet: &[u8]) -> Option<(IpAddr, Message)> {
    let header = packet.first_chunk::<20>()?;
    let header_len = usize::from(header[0] & 0xf) * 4;
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    if header_len < 20 || header[9] != IGMP || header[8] != 1 || is_fragment {
        return None;
    }
    let body = packet.get(header_len..len)?;
    if sum(0, &packet[..header_len]) != 0 || sum(0, body) != 0 {
        return None;
    }
    let source = IpAddr::from(v4(header, 12)?);
    let start = body.first_chunk::<8>()?;
    let group = || Some(IpAddr::from(v4(body, 4)?));
    let message = match start[0] {
        0x11 => {
            let is_third = body.len() >= 12;
            let (flags, interval) = if is_third { (body[8], body[9]) } else { (0, 0) };
            // The first version has no time in it; it is ten seconds (RFC 3376 7.2.1).
            let tenths = if start[1] == 0 && !is_third { 100 } else { u64::from(from_float8(start[1])) };
            Message::Query(Query {
                group: group().filter(|group| !group.is_unspecified()),
                sources: if is_third { addresses::<4>(body, 10, 12)?.0 } else { Vec::new() },
                max_response: Duration::from_millis(tenths * 100),
                suppress: flags & 8 != 0,
                robustness: flags & 7,
                interval: Duration::from_secs(from_float8(interval).into()),
            })
        }
        0x12 => joined(Version::First, group()?),
        0x16 => joined(Version::Second, group()?),
        0x17 => left(group()?),
        0x22 => records::<4>(body)?,
        _ => return None,
    };
    Some((source, message))
}

fn parse_v6(packet: &[u8]) -> Option<(IpAddr, Message)> {
    let header = packet.first_chunk::<40>()?;
    let payload = packet[40..].get(..usize::from(u16::from_be_bytes([header[4], header[5]])))?;
    let (source, destination) = (v6(header, 8)?, v6(header, 24)?);
    if header[6] != HOP_BY_HOP || header[7] != 1 || !source.is_unicast_link_local() {
        return None;
    }
    let options_len = 8 + 8 * usize::from(*payload.get(1)?);
    let (options, body) = payload.split_at_checked(options_len)?;
    if options[0] != ICMPV6 || !has_router_alert(&options[2..]) || icmpv6_sum(source, destination, body) != 0 {
        return None;
    }
    let start = body.first_chunk::<8>()?;
    let group = || Some(IpAddr::from(v6(body, 8)?));
    let message = match start[0] {
        130 => {
            let group = group()?;
            let is_third = body.len() >= 28;
            let (flags, interval) = if is_third { (body[24], body[25]) } else { (0, 0) };
            let code = u16::from_be_bytes([start[4], start[5]]);
            Message::Query(Query {
                group: Some(group).filter(|group| !group.is_unspecified()),
                sources: if is_third { addresses::<16>(body, 26, 28)?.0 } else { Vec::new() },
                max_response: Duration::from_millis(if is_third { from_float16(code) } else { code.into() }),
                suppress: flags & 8 != 0,
                robustness: flags & 7,
                interval: Duration::from_secs(from_float8(interval).into()),
            })
        }
        131 => joined(Version::Second, group()?),
        132 => left(group()?),
        143 => records::<16>(body)?,
        _ => return None,
    };
    Some((source.into(), message))
}

/// A report of the versions without sources.
fn joined(version: Version, group: IpAddr) -> Message {
    Message::Report(version, vec![Record { group, change: Change::IsExclude, sources: Vec::new() }])
}

fn left(group: IpAddr) -> Message {
    Message::Report(Version::Second, vec![Record { group, change: Change::ToInclude, sources: Vec::new() }])
}

/// A report of the third version; the same form in both protocols but for the `N` octets of an address.
fn records<const N: usize>(body: &[u8]) -> Option<Message> {
    let count = u16::from_be_bytes([*body.get(6)?, *body.get(7)?]);
    let (mut records, mut rest) = (Vec::new(), &body[8..]);
    for _ in 0..count {
        // type 1 | length of auxiliary data in words 1 | number of sources 2 | group N | sources | auxiliary data
        let (code, auxiliary) = (*rest.first()?, usize::from(*rest.get(1)?) * 4);
        let group = address::<N>(rest.get(4..4 + N)?)?;
        let (sources, end) = addresses::<N>(rest, 2, 4 + N)?;
        rest = rest.get(end + auxiliary..)?;
        records.extend(Change::from_code(code).map(|change| Record { group, change, sources }));
    }
    Some(Message::Report(Version::Third, records))
}

/// As many addresses of `N` octets from `start` as the number at `count` says, and where they end.
fn addresses<const N: usize>(bytes: &[u8], count: usize, start: usize) -> Option<(Vec<IpAddr>, usize)> {
    let number = usize::from(u16::from_be_bytes([*bytes.get(count)?, *bytes.get(count + 1)?]));
    let end = start + number * N;
    let list = bytes.get(start..end)?.chunks_exact(N).map(address::<N>).collect::<Option<_>>()?;
    Some((list, end))
}

fn address<const N: usize>(bytes: &[u8]) -> Option<IpAddr> {
    if N == 4 { v4(bytes, 0).map(IpAddr::from) } else { v6(bytes, 0).map(IpAddr::from) }
}

fn v4(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    bytes.get(at..)?.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
}

fn v6(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    bytes.get(at..)?.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets))
}

/// Whether the options (type, length, value; but type 0, which is alone) hold a router alert for MLD.
fn has_router_alert(mut options: &[u8]) -> bool {
    loop {
        match options {
            [5, 2, 0, 0, ..] => return true,
            [0, rest @ ..] => options = rest,
            [_, len, rest @ ..] => match rest.get(usize::from(*len)..) {
                Some(rest) => options = rest,
                None => return false,
            },
            _ => return false,
        }
    }
}

fn query_v4(source: Ipv4Addr, query: &Query) -> Option<(Vec<u8>, IpAddr)> {
    let group = match query.group {
        None => Ipv4Addr::UNSPECIFIED,
        Some(IpAddr::V4(group)) => group,
        Some(IpAddr::V6(_)) => return None,
    };
    let destination = if group.is_unspecified() { ALL_SYSTEMS } else { group };
    let tenths = u32::try_from(query.max_response.as_millis() / 100).unwrap_or(u32::MAX);
    let mut body = vec![0x11, to_float8(tenths), 0, 0];
    body.extend(group.octets());
    put_third(&mut body, query);
    for source in &query.sources {
        let IpAddr::V4(source) = source else { return None };
        body.extend(source.octets());
    }
    let checksum = sum(0, &body).to_be_bytes();
    body[2..4].copy_from_slice(&checksum);

    let mut packet = vec![0x46, PRECEDENCE];
    packet.extend(u16::try_from(24 + body.len()).ok()?.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 1, IGMP, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(ROUTER_ALERT_V4);
    let checksum = sum(0, &packet).to_be_bytes();
    packet[10..12].copy_from_slice(&checksum);
    packet.extend(body);
    Some((packet, destination.into()))
}

fn query_v6(source: Ipv6Addr, query: &Query) -> Option<(Vec<u8>, IpAddr)> {
    let group = match query.group {
        None => Ipv6Addr::UNSPECIFIED,
        Some(IpAddr::V6(group)) => group,
        Some(IpAddr::V4(_)) => return None,
    };
    let destination = if group.is_unspecified() { ALL_NODES } else { group };
    let mut body = vec![130, 0, 0, 0];
    body.extend(to_float16(query.max_response.as_millis()).to_be_bytes());
    body.extend([0, 0]);
    body.extend(group.octets());
    put_third(&mut body, query);
    for source in &query.sources {
        let IpAddr::V6(source) = source else { return None };
        body.extend(source.octets());
    }
    let checksum = icmpv6_sum(source, destination, &body).to_be_bytes();
    body[2..4].copy_from_slice(&checksum);

    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(8 + body.len()).ok()?.to_be_bytes());
    packet.extend([HOP_BY_HOP, 1]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(ROUTER_ALERT_V6);
    packet.extend(body);
    Some((packet, destination.into()))
}

/// What the third version of both protocols adds: S and QRV, QQIC, number of sources.
fn put_third(body: &mut Vec<u8>, query: &Query) {
    let robustness = if query.robustness > 7 { 0 } else { query.robustness };
    body.push(u8::from(query.suppress) << 3 | robustness);
    body.push(to_float8(u32::try_from(query.interval.as_secs()).unwrap_or(u32::MAX)));
    body.extend((query.sources.len() as u16).to_be_bytes());
}

/// RFC 3376 4.1.1, 4.1.7: above 127 an exponent of three bits and a mantissa of four.
fn from_float8(code: u8) -> u32 {
    if code < 128 { code.into() } else { (u32::from(code & 0xf) | 0x10) << ((code >> 4 & 7) + 3) }
}

/// The greatest that is not above `value`.
fn to_float8(value: u32) -> u8 {
    if value < 128 {
        return value as u8;
    }
    (128..=u8::MAX).rev().find(|code| from_float8(*code) <= value).unwrap_or(127)
}

/// RFC 3810 5.1.3: above 32,767 an exponent of three bits and a mantissa of twelve.
fn from_float16(code: u16) -> u64 {
    if code < 32_768 { code.into() } else { (u64::from(code & 0xfff) | 0x1000) << ((code >> 12 & 7) + 3) }
}

/// The greatest that is not above `value`.
fn to_float16(value: u128) -> u16 {
    if value < 32_768 {
        return value as u16;
    }
    (0..8)
        .rev()
        .find_map(|exponent| {
            let mantissa = value >> (exponent + 3);
            match mantissa {
                0x1000..0x2000 => Some(0x8000 | exponent << 12 | (mantissa as u16 & 0xfff)),
                0x2000.. if exponent == 7 => Some(u16::MAX),
                _ => None,
            }
        })
        .unwrap_or(32_767)
}

fn icmpv6_sum(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> u16 {
    let mut pseudo = [0; 40];
    pseudo[..16].copy_from_slice(&source.octets());
    pseudo[16..32].copy_from_slice(&destination.octets());
    pseudo[32..36].copy_from_slice(&(body.len() as u32).to_be_bytes());
    pseudo[39] = ICMPV6;
    sum(u64::from(!sum(0, &pseudo)), body)
}

/// The internet checksum (RFC 1071), begun with `start`; zero over what holds its own.
fn sum(start: u64, bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
    let mut total = start + words.sum::<u64>();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As a Linux host sends it: IGMPv3, TO_EX {} for 239.10.0.1 and ALLOW {10.1.0.7} for 239.10.0.2.
    const IGMP_REPORT: &str = "46c000 34 0000 4000 0102 0000 0a010002 e0000016 94040000 \
        2200 0000 0000 0002 04000000 ef0a0001 05000001 ef0a0002 0a010007";
    /// MLDv2, TO_EX {} for ff1e::1.
    const MLD_REPORT: &str = "60000000 0024 00 01 fe800000000000000000000000000002 ff020000000000000000000000000016 \
        3a00 0502 0000 0100 8f00 0000 0000 0001 04000000 ff1e0000000000000000000000000001";

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    /// With its checksums set right.
    fn sealed(text: &str) -> Vec<u8> {
        let mut packet = unhex(text);
        if packet[0] >> 4 == 4 {
            let header_len = usize::from(packet[0] & 0xf) * 4;
            let checksum = sum(0, &packet[..header_len]).to_be_bytes();
            packet[10..12].copy_from_slice(&checksum);
            let checksum = sum(0, &packet[header_len..]).to_be_bytes();
            packet[header_len + 2..header_len + 4].copy_from_slice(&checksum);
        } else {
            let at = 48;
            let checksum = icmpv6_sum(v6(&packet, 8).unwrap(), v6(&packet, 24).unwrap(), &packet[at..]).to_be_bytes();
            packet[at + 2..at + 4].copy_from_slice(&checksum);
        }
        packet
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn reports() {
        let record = |group, change, sources: &[&str]| Record {
            group: ip(group),
            change,
            sources: sources.iter().map(|s| ip(s)).collect(),
        };
        let both =
            vec![record("239.10.0.1", Change::ToExclude, &[]), record("239.10.0.2", Change::Allow, &["10.1.0.7"])];
        let v3 = |records| Message::Report(Version::Third, records);
        assert_eq!(parse(&sealed(IGMP_REPORT)), Some((ip("10.1.0.2"), v3(both))));
        let one = vec![record("ff1e::1", Change::ToExclude, &[])];
        assert_eq!(parse(&sealed(MLD_REPORT)), Some((ip("fe80::2"), v3(one))));
    }

    #[test]
    fn older_versions() {
        let of = |body: &str| parse(&sealed(&format!("46c00020 00000000 01020000 0a010002 ef0a0001 94040000 {body}")));
        let listens = |version, change| {
            let record = Record { group: ip("239.10.0.1"), change, sources: Vec::new() };
            Some((ip("10.1.0.2"), Message::Report(version, vec![record])))
        };
        assert_eq!(of("12000000 ef0a0001"), listens(Version::First, Change::IsExclude));
        assert_eq!(of("16000000 ef0a0001"), listens(Version::Second, Change::IsExclude));
        assert_eq!(of("17000000 ef0a0001"), listens(Version::Second, Change::ToInclude));
        let Some((_, Message::Query(query))) = of("11000000 00000000") else { panic!("a query of the first version") };
        assert_eq!((query.group, query.max_response, query.robustness), (None, Duration::from_secs(10), 0));
        let done = "60000000 0020 00 01 fe800000000000000000000000000002 ff020000000000000000000000000002 \
            3a00 0502 0000 0100 8400 0000 0000 0000 ff1e0000000000000000000000000001";
        let record = Record { group: ip("ff1e::1"), change: Change::ToInclude, sources: Vec::new() };
        assert_eq!(parse(&sealed(done)), Some((ip("fe80::2"), Message::Report(Version::Second, vec![record]))));
    }

    #[test]
    fn what_is_damaged_cut_or_from_elsewhere_is_none() {
        for report in [IGMP_REPORT, MLD_REPORT] {
            let good = sealed(report);
            for len in 0..good.len() {
                assert_eq!(parse(&good[..len]), None, "cut at {len}");
            }
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 0x20;
                // Of IPv6 neither the traffic class nor the flow label counts, nor what pads the options.
                let counts = good[0] != 0x60 || ![1, 2, 3, 46, 47].contains(&at);
                assert!(parse(&bad).is_none() || !counts, "octet {at}");
            }
        }
        assert_eq!(parse(&sealed(&IGMP_REPORT.replace("0102 0000", "0202 0000"))), None, "TTL 2");
        assert_eq!(parse(&sealed(&MLD_REPORT.replace("0024 00 01", "0024 00 02"))), None, "hop limit 2");
        assert_eq!(parse(&sealed(&MLD_REPORT.replace("fe80", "2001"))), None, "no link-local source");
        assert_eq!(parse(&sealed(&MLD_REPORT.replace("0502 0000 0100", "0104 0000 0000"))), None, "no router alert");
        // One more source than there is room for.
        assert_eq!(parse(&sealed(&IGMP_REPORT.replace("05000001", "05000002"))), None);
        // A record of an unknown kind, with auxiliary data: the other one counts.
        let odd =
            IGMP_REPORT.replace("46c000 34", "46c000 38").replace("04000000 ef0a0001", "09010000 ef0a0001 00000000");
        let Some((_, Message::Report(_, records))) = parse(&sealed(&odd)) else { panic!("a report") };
        assert_eq!(records.len(), 1);
    }

    #[test]
    fn queries_by_hand() {
        let query = |group: Option<&str>, sources: &[&str]| Query {
            group: group.map(ip),
            sources: sources.iter().map(|s| ip(s)).collect(),
            max_response: Duration::from_secs(10),
            suppress: true,
            robustness: 2,
            interval: Duration::from_secs(125),
        };
        let (packet, to) = super::query(ip("10.1.0.1"), &query(None, &[])).unwrap();
        let by_hand = "46c00024 00004000 01020000 0a010001 e0000001 94040000 11640000 00000000 0a7d0000";
        assert_eq!((packet, to), (sealed(by_hand), ip("224.0.0.1")));
        let (packet, to) = super::query(ip("fe80::1"), &query(Some("ff1e::1"), &["2001:db8::7"])).unwrap();
        let by_hand = "60000000 0034 00 01 fe800000000000000000000000000001 ff1e0000000000000000000000000001 \
            3a00 0502 0000 0100 8200 0000 2710 0000 ff1e0000000000000000000000000001 0a7d 0001 \
            20010db8000000000000000000000007";
        assert_eq!((packet, to), (sealed(by_hand), ip("ff1e::1")));
        assert_eq!(super::query(ip("10.1.0.1"), &query(Some("ff1e::1"), &[])), None);
    }

    #[test]
    fn floating_point() {
        for code in 0..=u8::MAX {
            assert_eq!(to_float8(from_float8(code)), code);
        }
        for code in (0..=u16::MAX).step_by(7) {
            assert_eq!(to_float16(from_float16(code).into()), code);
        }
        assert_eq!((from_float8(0x8a), to_float8(u32::MAX)), ((0x1a) << 3, 0xff));
        assert_eq!((from_float16(0x9000), to_float16(u128::MAX)), (0x1000 << 4, 0xffff));
    }

    fn a_query() -> impl Strategy<Value = (IpAddr, Query)> {
        let v4 = || any::<u32>().prop_map(|bits| IpAddr::from(Ipv4Addr::from(bits)));
        let v6 = || any::<u128>().prop_map(|bits| IpAddr::from(Ipv6Addr::from(bits)));
        let link_local = any::<u64>().prop_map(|bits| Ipv6Addr::from(0xfe80 << 112 | u128::from(bits)).into());
        let numbers = (0u8..128, any::<bool>(), 0u8..8, 0u8..128);
        let of = |source, (group, sources, numbers): (IpAddr, Vec<IpAddr>, (u8, bool, u8, u8))| {
            let (tenths, suppress, robustness, seconds) = numbers;
            let max_response = Duration::from_millis(u64::from(tenths) * 100);
            let group = Some(group).filter(|group| !group.is_unspecified());
            (
                source,
                Query {
                    group,
                    sources,
                    max_response,
                    suppress,
                    robustness,
                    interval: Duration::from_secs(seconds.into()),
                },
            )
        };
        prop_oneof![
            (v4(), (v4(), proptest::collection::vec(v4(), 0..70), numbers.clone())).prop_map(move |(s, q)| of(s, q)),
            (link_local, (v6(), proptest::collection::vec(v6(), 0..70), numbers)).prop_map(move |(s, q)| of(s, q)),
        ]
    }

    proptest! {
        #[test]
        fn queries_round_trip((source, query) in a_query()) {
            let (packet, _) = super::query(source, &query).unwrap();
            prop_assert_eq!(parse(&packet), Some((source, Message::Query(query))));
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&bytes);
        }
    }
}
