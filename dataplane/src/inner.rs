//! What is read of an inner packet: its addresses, and what is behind its header, by which selectors tell packets apart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
const DCCP: u8 = 33;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

/// More extension headers nobody sends; what lies behind is not seen (RFC 8200 4.1 has six of them in a packet).
const MOST_EXTENSIONS: usize = 8;

/// The part of an inner packet that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inner {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// As its own header says; what follows in the buffer is padding (RFC 4303 2.7).
    pub(crate) len: usize,
}

impl Inner {
    /// Reads the header of an IPv4 or IPv6 packet; `None` if it is none or longer than `bytes`.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Inner> {
        let inner = match bytes.first()? >> 4 {
            4 => {
                let header = bytes.first_chunk::<20>()?;
                let (header_len, len) = (usize::from(header[0] & 0xf) * 4, be16(header[2], header[3]));
                if header_len < 20 || len < header_len {
                    return None;
                }
                Inner {
                    source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
                    destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
                    len,
                }
            }
            6 => {
                let header = bytes.first_chunk::<40>()?;
                let (_, addresses) = header.split_last_chunk::<32>()?;
                let (source, destination) = (addresses.first_chunk::<16>()?, addresses.last_chunk::<16>()?);
                Inner {
                    source: Ipv6Addr::from(*source).into(),
                    destination: Ipv6Addr::from(*destination).into(),
                    len: 40 + be16(header[4], header[5]),
                }
            }
            _ => return None,
        };
        (inner.len <= bytes.len()).then_some(inner)
    }
}

fn be16(high: u8, low: u8) -> usize {
    usize::from(u16::from_be_bytes([high, low]))
}

/// Whether a protocol's header begins with two ports.
pub(crate) fn protocol_has_ports(protocol: u8) -> bool {
    [TCP, UDP, UDP_LITE, SCTP, DCCP].contains(&protocol)
}

/// What can be seen of an inner packet behind its IP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NextLayer {
    /// `None`: behind more than can be seen.
    pub(crate) protocol: Option<u8>,
    /// Source and destination.
    pub(crate) ports: Option<[u16; 2]>,
}

impl NextLayer {
    /// Of a packet that [`Inner::parse`] has taken, without what follows it.
    pub(crate) fn of(packet: &[u8]) -> Self {
        match packet.first().map(|first| first >> 4) {
            Some(4) => Self::of_ipv4(packet),
            Some(6) => Self::of_ipv6(packet),
            _ => None,
        }
        .unwrap_or_default()
    }

    fn of_ipv4(packet: &[u8]) -> Option<Self> {
        let header = packet.first_chunk::<20>()?;
        let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
        let payload = packet.get(usize::from(header[0] & 0xf) * 4..).filter(|_| offset == 0);
        Some(Self::behind(header[9], payload))
    }

    /// Past the extension headers (RFC 8200 4).
    fn of_ipv6(packet: &[u8]) -> Option<Self> {
        let (mut next, mut rest) = (*packet.get(6)?, packet.get(40..)?);
        for _ in 0..MOST_EXTENSIONS {
            let len = match next {
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => 8 + usize::from(*rest.get(1)?) * 8,
                FRAGMENT => 8,
                protocol => return Some(Self::behind(protocol, Some(rest))),
            };
            let (header, behind) = rest.split_at_checked(len)?;
            let offset = u16::from_be_bytes([header[2], header[3]]) >> 3;
            if next == FRAGMENT && offset != 0 {
                // It tells what the whole packet has first: an extension header hides the protocol.
                let hidden = [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS, FRAGMENT].contains(&header[0]);
                return (!hidden).then(|| Self::behind(header[0], None));
            }
            (next, rest) = (header[0], behind);
        }
        None
    }

    /// `payload`: from its own header on, if that can be seen.
    fn behind(protocol: u8, payload: Option<&[u8]>) -> Self {
        let ports = payload.and_then(<[u8]>::first_chunk::<4>).filter(|_| protocol_has_ports(protocol));
        let ports = ports.map(|[a, b, c, d]| [u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])]);
        NextLayer { protocol: Some(protocol), ports }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An IPv6 packet without payload protocol.
    pub(crate) fn packet_v6(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        packet.extend_from_slice(&[59, 8]);
        packet.extend_from_slice(&source.parse::<Ipv6Addr>().unwrap().octets());
        packet.extend_from_slice(&destination.parse::<Ipv6Addr>().unwrap().octets());
        packet.extend_from_slice(payload);
        packet
    }

    /// An IPv4 packet; the checksum is left zero, nobody here looks at it.
    pub(crate) fn packet_v4(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0];
        packet.extend_from_slice(&(20 + payload.len() as u16).to_be_bytes());
        packet.extend_from_slice(&[0, 0, 0, 0, 8, 17, 0, 0]);
        packet.extend_from_slice(&source.parse::<Ipv4Addr>().unwrap().octets());
        packet.extend_from_slice(&destination.parse::<Ipv4Addr>().unwrap().octets());
        packet.extend_from_slice(payload);
        packet
    }

    /// UDP from one port to another, in either family; no checksum.
    pub(crate) fn udp(source: &str, destination: &str, ports: [u16; 2]) -> Vec<u8> {
        let payload = [&ports[0].to_be_bytes()[..], &ports[1].to_be_bytes(), &[0, 8, 0, 0]].concat();
        if source.contains(':') {
            let mut packet = packet_v6(source, destination, &payload);
            packet[6] = UDP;
            packet
        } else {
            packet_v4(source, destination, &payload)
        }
    }

    #[test]
    fn inner_headers() {
        let v6 = packet_v6("2001:db8:a::1", "ff1e::1", b"abc");
        let inner = Inner::parse(&v6).unwrap();
        assert_eq!((inner.source, inner.len), ("2001:db8:a::1".parse().unwrap(), 43));
        assert_eq!(inner.destination, "ff1e::1".parse::<IpAddr>().unwrap());
        let v4 = packet_v4("10.1.0.1", "239.10.0.1", b"abc");
        let inner = Inner::parse(&v4).unwrap();
        assert_eq!((inner.source, inner.len), ("10.1.0.1".parse().unwrap(), 23));
        assert_eq!(inner.destination, "239.10.0.1".parse::<IpAddr>().unwrap());
        for packet in [&v4, &v6] {
            for len in 0..packet.len() {
                assert_eq!(Inner::parse(&packet[..len]), None, "cut at {len}");
            }
            let longer = [&packet[..], &[0; 7]].concat();
            assert_eq!(Inner::parse(&longer).unwrap().len, packet.len());
        }
        let mut bad = v4.clone();
        bad[0] = 0x44;
        assert_eq!(Inner::parse(&bad), None, "IHL below 5");
        bad[0] = 0x46;
        bad[3] = 20;
        assert_eq!(Inner::parse(&bad), None, "total length below IHL");
        bad[0] = 0x50;
        assert_eq!(Inner::parse(&bad), None, "version 5");
    }

    fn seen(packet: &[u8]) -> NextLayer {
        NextLayer::of(packet)
    }

    fn known(protocol: u8, ports: Option<[u16; 2]>) -> NextLayer {
        NextLayer { protocol: Some(protocol), ports }
    }

    #[test]
    fn ports_of_ipv4() {
        let mut packet = udp("10.1.0.1", "10.2.0.1", [1, 2]);
        assert_eq!(seen(&packet), known(UDP, Some([1, 2])));
        let options = [&packet[..20], &[7; 8], &packet[20..]].concat();
        let mut options = options;
        (options[0], options[3]) = (0x47, options.len() as u8);
        assert_eq!(seen(&options), known(UDP, Some([1, 2])), "behind options");
        // More to come, at the beginning: the first fragment.
        packet[6] = 0x20;
        assert_eq!(seen(&packet), known(UDP, Some([1, 2])));
        packet[7] = 1;
        assert_eq!(seen(&packet), known(UDP, None), "a later fragment");
        let mut icmp = udp("10.1.0.1", "10.2.0.1", [1, 2]);
        icmp[9] = 1;
        assert_eq!(seen(&icmp), known(1, None), "no ports");
        let short = packet_v4("10.1.0.1", "10.2.0.1", &[0, 1, 0]);
        assert_eq!(seen(&short), known(UDP, None), "cut off");
    }

    /// An IPv6 packet with these headers before UDP; each is told the kind of the next one.
    fn with_extensions(extensions: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let udp = udp("2001:db8:a::1", "2001:db8:b::1", [1, 2]);
        let kinds = extensions.iter().map(|(kind, _)| *kind).chain([UDP]);
        let mut packet = udp[..40].to_vec();
        packet[6] = kinds.clone().next().unwrap();
        for ((_, bytes), next) in extensions.iter().zip(kinds.skip(1)) {
            packet.extend([next]);
            packet.extend(bytes);
        }
        packet.extend(&udp[40..]);
        let len = (packet.len() - 40) as u16;
        packet[4..6].copy_from_slice(&len.to_be_bytes());
        packet
    }

    #[test]
    fn ports_of_ipv6() {
        let options = |kind| (kind, vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let fragment = |offset: u16| (FRAGMENT, [&[0][..], &(offset << 3 | 1).to_be_bytes(), &[0; 4]].concat());
        let all = known(UDP, Some([1, 2]));
        assert_eq!(seen(&with_extensions(&[])), all);
        let chain = [options(HOP_BY_HOP), options(DESTINATION_OPTIONS), options(ROUTING), fragment(0)];
        assert_eq!(seen(&with_extensions(&chain)), all);
        assert_eq!(seen(&with_extensions(&[fragment(7)])), known(UDP, None), "a later fragment");
        let hidden = [fragment(7), options(DESTINATION_OPTIONS)];
        assert_eq!(seen(&with_extensions(&hidden)), NextLayer::default(), "its protocol is in the first one");
        let many = |count| with_extensions(&vec![options(DESTINATION_OPTIONS); count]);
        assert_eq!(seen(&many(MOST_EXTENSIONS - 1)), all);
        assert_eq!(seen(&many(MOST_EXTENSIONS)), NextLayer::default(), "too many");
        // ESP and what follows: nothing is seen behind it.
        let mut esp = with_extensions(&[]);
        esp[6] = 50;
        assert_eq!(seen(&esp), known(50, None));
        let whole = with_extensions(&chain);
        for len in 0..whole.len() {
            assert!(seen(&whole[..len]) == all || seen(&whole[..len]).ports.is_none(), "cut at {len}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), version in 3u8..8) {
            if let Some(first) = bytes.first_mut() {
                *first = version << 4 | (*first & 0xf);
            }
            prop_assert!(Inner::parse(&bytes).is_none_or(|inner| inner.len <= bytes.len()));
            let next = NextLayer::of(&bytes);
            prop_assert!(next.ports.is_none() || next.protocol.is_some_and(protocol_has_ports));
        }
    }
}
