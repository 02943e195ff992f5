//! What a frame on the black side is, and whether it gives away anything red.
//!
//! *Clear text* is every frame that is not ESP, not to one of the daemons' two UDP ports, and not ARP, neighbour or
//! router discovery, IGMP, MLD, OSPF and PIM where black is routed, or an ICMP error about one of the first two (the kernel behind a killed daemon says that
//! its port is closed, a router on the way that a packet is too big, and quotes it); and, whatever it is, a frame that holds a red payload's marker or a red IPv6
//! address anywhere, or a red IPv4 address outside an ESP payload.
//!
//! IPv6 prefixes and markers are searched for at every offset: they are long enough that random bytes do not match.
//! Three or four bytes do match by chance, so IPv4 addresses are looked for where addresses stand (IPv4 and ARP
//! headers, the words of an IGMP message) and, in the daemons' own messages, as a whole: the four bytes of a given
//! host (a /32), or a given prefix's network address next to its length. In a megabyte of random bytes a /32 turns up
//! by chance once in 4000 times.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::Marker;

/// What to look for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watch {
    /// Destination UDP ports of the daemons' own messages.
    pub ports: Vec<u16>,
    /// Black has routers, which speak OSPF and PIM among themselves.
    pub routing: bool,
    /// Markers of red payloads.
    pub markers: Vec<Marker>,
    /// Red IPv6 prefixes; of at least 48 bits, or random bytes will match.
    pub red_v6: Vec<Ipv6Net>,
    /// Red IPv4 prefixes, and hosts as /32.
    pub red_v4: Vec<Ipv4Net>,
}

/// What a frame is by its headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// IP protocol 50, in IPv4 or IPv6.
    Esp,
    /// UDP to one of the daemons' ports.
    Own,
    /// ARP.
    Arp,
    /// ICMPv6 133 to 137.
    Discovery,
    /// IP protocol 2.
    Igmp,
    /// ICMPv6 130, 131, 132 or 143 behind a hop-by-hop header.
    Mld,
    /// An ICMP error that quotes ESP or one of the daemons' own messages.
    Error,
    /// OSPF or PIM, where the black network is said to have routers.
    Routing,
    /// Anything else.
    Clear,
}

/// The judgement of one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What it is by its headers.
    pub kind: Kind,
    /// Why it is clear text; `None` if it is not.
    pub cleartext: Option<String>,
}

/// Judges Ethernet frames one by one.
#[derive(Debug)]
pub struct Classifier {
    watch: Watch,
    red_v6: Needles,
    /// Fragmented datagrams to the daemons' ports: only the first fragment shows the port.
    own_fragments: HashSet<Datagram>,
}

impl Classifier {
    /// A classifier that looks for what `watch` says.
    pub fn new(watch: Watch) -> Self {
        let red_v6 = Needles::new(&watch.red_v6);
        Classifier { watch, red_v6, own_fragments: HashSet::new() }
    }

    /// From now on, look for this marker, too.
    pub fn add_marker(&mut self, marker: Marker) {
        self.watch.markers.push(marker);
    }

    /// Judges a frame, given from its Ethernet header on. Never panics, whatever the bytes.
    pub fn classify(&mut self, frame: &[u8]) -> Verdict {
        let packet = self.dissect(frame).unwrap_or_default();
        let reason = self.red_content(frame, &packet).or_else(|| match packet.kind {
            Kind::Clear => Some("neither ESP nor ours".to_owned()),
            _ => None,
        });
        Verdict { kind: packet.kind, cleartext: reason.map(|reason| format!("{reason}: {}", describe(frame, &packet))) }
    }

    fn red_content(&self, frame: &[u8], packet: &Packet) -> Option<String> {
        let marked = |marker: &Marker| frame.windows(marker.0.len()).any(|window| window == marker.0);
        if self.watch.markers.iter().any(marked) {
            return Some("holds a red payload".to_owned());
        }
        if let Some(prefix) = self.red_v6.find(frame) {
            return Some(format!("holds an address of {prefix}"));
        }
        let red = |address: &Ipv4Addr| self.watch.red_v4.iter().any(|prefix| prefix.contains(address));
        if let Some(address) = packet.v4_addresses.iter().find(|address| red(address)) {
            return Some(format!("holds {address}"));
        }
        let payload = &frame[packet.payload.min(frame.len())..];
        let announced = |prefix: &&Ipv4Net| packet.is_own && holds_v4(payload, prefix);
        self.watch.red_v4.iter().find(announced).map(|prefix| format!("holds {prefix}"))
    }

    /// `None`: too short for what it claims to be.
    fn dissect(&mut self, frame: &[u8]) -> Option<Packet> {
        match u16_at(frame, 12)? {
            0x0800 => self.dissect_v4(frame, ETHERNET),
            0x86dd => self.dissect_v6(frame, ETHERNET),
            0x0806 => {
                // Sender and target of IPv4 over Ethernet.
                let v4_addresses = vec![v4_at(frame, 28)?, v4_at(frame, 38)?];
                Some(Packet { kind: Kind::Arp, what: "ARP".to_owned(), v4_addresses, ..Packet::default() })
            }
            other => Some(Packet { what: format!("EtherType {other:#06x}"), ..Packet::default() }),
        }
    }

    /// An IPv4 packet that begins at `start`.
    fn dissect_v4(&mut self, frame: &[u8], start: usize) -> Option<Packet> {
        let header = usize::from(frame.get(start)? & 0x0f) * 4;
        if header < 20 {
            return None;
        }
        let (protocol, fragment) = (*frame.get(start + 9)?, u16_at(frame, start + 6)?);
        let (source, destination) = (v4_at(frame, start + 12)?, v4_at(frame, start + 16)?);
        let datagram = Datagram {
            source: source.to_ipv6_mapped(),
            destination: destination.to_ipv6_mapped(),
            id: u16_at(frame, start + 4)?.into(),
        };
        let fragment = Fragment { first: fragment & 0x1fff == 0, last: fragment & 0x2000 == 0, datagram };
        let payload = start + header;
        let what = format!("IPv4 {source} to {destination}, {}", protocol_name(protocol, frame, payload));
        // Unreachable, time exceeded, parameter problem (RFC 792).
        if protocol == ICMP && start == ETHERNET && matches!(frame.get(payload), Some(3 | 11 | 12)) {
            let quoted = self.dissect_v4(frame, payload + 8);
            return Some(Packet::error(what, vec![source, destination], quoted));
        }
        let kind = match protocol {
            ESP => Kind::Esp,
            IGMP => Kind::Igmp,
            OSPF | PIM if self.watch.routing => Kind::Routing,
            UDP => self.udp(frame, payload, fragment, start != ETHERNET),
            _ => Kind::Clear,
        };
        let mut v4_addresses = vec![source, destination];
        if kind == Kind::Igmp {
            // All addresses in IGMP stand at multiples of four.
            v4_addresses.extend((payload..frame.len()).step_by(4).filter_map(|at| v4_at(frame, at)));
        }
        Some(Packet { kind, is_own: kind == Kind::Own, what, v4_addresses, payload })
    }

    /// An IPv6 packet that begins at `start`.
    fn dissect_v6(&mut self, frame: &[u8], start: usize) -> Option<Packet> {
        let (source, destination) = (v6_at(frame, start + 8)?, v6_at(frame, start + 24)?);
        let mut fragment = Fragment { first: true, last: true, datagram: Datagram { source, destination, id: 0 } };
        let (mut next, mut at, mut hop_by_hop) = (*frame.get(start + 6)?, start + 40, false);
        // Ends: every round moves on by eight bytes at least.
        loop {
            match next {
                HOP_BY_HOP | DESTINATION_OPTIONS => {
                    hop_by_hop |= next == HOP_BY_HOP;
                    next = *frame.get(at)?;
                    at += (usize::from(*frame.get(at + 1)?) + 1) * 8;
                }
                FRAGMENT => {
                    next = *frame.get(at)?;
                    let position = u16_at(frame, at + 2)?;
                    (fragment.first, fragment.last) = (position & 0xfff8 == 0, position & 1 == 0);
                    fragment.datagram.id = u32::from(u16_at(frame, at + 4)?) << 16 | u32::from(u16_at(frame, at + 6)?);
                    at += 8;
                }
                _ => break,
            }
            if !fragment.first {
                break;
            }
        }
        let what = format!("IPv6 {source} to {destination}, {}", protocol_name(next, frame, at));
        // Unreachable, too big, time exceeded, parameter problem (RFC 4443).
        if next == ICMPV6 && start == ETHERNET && matches!(frame.get(at), Some(1..=4)) {
            let quoted = self.dissect_v6(frame, at + 8);
            return Some(Packet::error(what, Vec::new(), quoted));
        }
        let kind = match (next, frame.get(at)) {
            (ESP, _) => Kind::Esp,
            (UDP, _) => self.udp(frame, at, fragment, start != ETHERNET),
            (OSPF | PIM, _) if self.watch.routing => Kind::Routing,
            (ICMPV6, Some(133..=137)) => Kind::Discovery,
            (ICMPV6, Some(130..=132 | 143)) if hop_by_hop => Kind::Mld,
            _ => Kind::Clear,
        };
        Some(Packet { kind, is_own: kind == Kind::Own, what, v4_addresses: Vec::new(), payload: at })
    }

    fn udp(&mut self, frame: &[u8], payload: usize, fragment: Fragment, quoted: bool) -> Kind {
        let own = match fragment.first {
            true => u16_at(frame, payload + 2).is_some_and(|port| self.watch.ports.contains(&port)),
            false => self.own_fragments.contains(&fragment.datagram),
        };
        // What an error quotes announces no further fragments.
        if own && fragment.first && !fragment.last && !quoted {
            if self.own_fragments.len() >= MOST_FRAGMENTED {
                self.own_fragments.clear();
            }
            self.own_fragments.insert(fragment.datagram);
        }
        if own { Kind::Own } else { Kind::Clear }
    }
}

#[derive(Debug)]
struct Packet {
    kind: Kind,
    /// One of the daemons' own messages, or an error about one.
    is_own: bool,
    what: String,
    /// Outside any payload that may be encrypted.
    v4_addresses: Vec<Ipv4Addr>,
    /// Where the transport header starts.
    payload: usize,
}

impl Default for Packet {
    fn default() -> Self {
        Packet {
            kind: Kind::Clear,
            is_own: false,
            what: "malformed".to_owned(),
            v4_addresses: Vec::new(),
            payload: ETHERNET,
        }
    }
}

impl Packet {
    /// An ICMP error about a packet: as good as that packet.
    fn error(what: String, mut v4_addresses: Vec<Ipv4Addr>, quoted: Option<Packet>) -> Packet {
        let Packet { kind, is_own, what: about, v4_addresses: more, payload } = quoted.unwrap_or_default();
        let kind = match kind {
            Kind::Esp | Kind::Own => Kind::Error,
            _ => Kind::Clear,
        };
        v4_addresses.extend(more);
        Packet { kind, is_own, what: format!("{what} about {about}"), v4_addresses, payload }
    }
}

struct Fragment {
    first: bool,
    last: bool,
    datagram: Datagram,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Datagram {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    id: u32,
}

/// IPv6 prefixes to be found at any offset. What they have in common is compared first.
#[derive(Debug)]
struct Needles {
    common: Vec<u8>,
    prefixes: Vec<Ipv6Net>,
}

impl Needles {
    fn new(prefixes: &[Ipv6Net]) -> Self {
        let whole_bytes = |prefix: &Ipv6Net| prefix.network().octets()[..usize::from(prefix.prefix_len() / 8)].to_vec();
        let common = prefixes.iter().map(whole_bytes).reduce(|a, b| {
            let length = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            a[..length].to_vec()
        });
        Needles { common: common.unwrap_or_default(), prefixes: prefixes.to_vec() }
    }

    fn find(&self, frame: &[u8]) -> Option<&Ipv6Net> {
        let starts = (0..frame.len()).filter(|at| frame[*at..].starts_with(&self.common));
        starts.map(|at| &frame[at..]).find_map(|tail| {
            let mut address = [0; 16];
            let length = tail.len().min(16);
            address[..length].copy_from_slice(&tail[..length]);
            let fits = |prefix: &&Ipv6Net| {
                usize::from(prefix.prefix_len()).div_ceil(8) <= length && prefix.contains(&Ipv6Addr::from(address))
            };
            self.prefixes.iter().find(fits)
        })
    }
}

fn holds_v4(payload: &[u8], prefix: &Ipv4Net) -> bool {
    let (address, length) = (prefix.network().octets(), prefix.prefix_len());
    if length == 32 {
        return payload.windows(4).any(|window| window == address);
    }
    payload.windows(5).any(|window| {
        (window[..4] == address && window[4] == length) || (window[0] == length && window[1..] == address)
    })
}

fn describe(frame: &[u8], packet: &Packet) -> String {
    let mac = |at: usize| match frame.get(at..at + 6) {
        Some(mac) => mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"),
        None => "?".to_owned(),
    };
    format!("{} ({} to {}, {} bytes)", packet.what, mac(6), mac(0), frame.len())
}

fn protocol_name(protocol: u8, frame: &[u8], payload: usize) -> String {
    match (protocol, u16_at(frame, payload), u16_at(frame, payload + 2)) {
        (ESP, ..) => "ESP".to_owned(),
        (UDP, Some(from), Some(to)) => format!("UDP port {from} to {to}"),
        (ICMPV6, Some(kind), _) => format!("ICMPv6 type {}", kind >> 8),
        _ => format!("protocol {protocol}"),
    }
}

fn u16_at(frame: &[u8], at: usize) -> Option<u16> {
    bytes_at(frame, at).map(u16::from_be_bytes)
}

fn v4_at(frame: &[u8], at: usize) -> Option<Ipv4Addr> {
    bytes_at::<4>(frame, at).map(Ipv4Addr::from)
}

fn v6_at(frame: &[u8], at: usize) -> Option<Ipv6Addr> {
    bytes_at::<16>(frame, at).map(Ipv6Addr::from)
}

fn bytes_at<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..)?.first_chunk().copied()
}

/// Length of an Ethernet header.
const ETHERNET: usize = 14;
const HOP_BY_HOP: u8 = 0;
const ICMP: u8 = 1;
const IGMP: u8 = 2;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const ESP: u8 = 50;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
const OSPF: u8 = 89;
const PIM: u8 = 103;
/// A bound of memory; more datagrams are never in pieces at once.
const MOST_FRAGMENTED: usize = 4096;

#[cfg(test)]
mod tests;
