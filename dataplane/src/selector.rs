//! Selectors: which inner packets a flow is for (RFC 4301 4.4.1.1).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use crate::Error;
use crate::inner::{Inner, NextLayer, protocol_has_ports};

const MULTICAST_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0));

/// Which inner packets a flow is for. What is `None` may be anything.
///
/// A packet whose protocol or ports cannot be seen does not match a selector that names one (RFC 4301 7): of the fragments of
/// a packet all but the first have no ports, so that a selector with ports carries no fragmented packet to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    /// Where it comes from.
    pub source: IpNet,
    /// Where it goes, of the family of `source`: red addresses, or red groups.
    pub destination: IpNet,
    /// IANA number of the next layer's protocol: behind IPv6's extension headers.
    pub protocol: Option<u8>,
    /// Only with a protocol that has ports: TCP, UDP, UDP-Lite, SCTP, DCCP.
    pub source_port: Option<u16>,
    /// As `source_port`.
    pub destination_port: Option<u16>,
}

impl Selector {
    /// All that goes from `source` to `destination`.
    pub fn new(source: IpNet, destination: IpNet) -> Self {
        Selector { source, destination, protocol: None, source_port: None, destination_port: None }
    }

    /// # Errors
    /// Addresses of two families; ports without a protocol that has them.
    pub fn check(&self) -> Result<(), Error> {
        if self.source.addr().is_ipv4() != self.destination.addr().is_ipv4() {
            return Err(Error::Config(format!("selector {self}: source and destination are of two families")));
        }
        if self.has_ports() && !self.protocol.is_some_and(protocol_has_ports) {
            return Err(Error::Config(format!("selector {self}: ports are of TCP, UDP, UDP-Lite, SCTP or DCCP alone")));
        }
        Ok(())
    }

    /// What comes back: source and destination change places.
    pub fn reversed(&self) -> Self {
        Selector {
            source: self.destination,
            destination: self.source,
            protocol: self.protocol,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }

    /// Whether packets are told apart by ports, which only whole packets show.
    pub(crate) fn has_ports(&self) -> bool {
        self.source_port.is_some() || self.destination_port.is_some()
    }

    /// Whether all that it is for is multicast.
    pub(crate) fn is_multicast(&self) -> bool {
        self.destination.prefix_len() >= self.multicast_len() && self.destination.network().is_multicast()
    }

    /// The same as several whose destinations have no multicast in them: for who cannot tell the two apart. Of one that is
    /// for multicast alone, itself.
    pub(crate) fn without_multicast(&self) -> Vec<Self> {
        let all = if self.destination.addr().is_ipv4() { [224, 0, 0, 0].into() } else { MULTICAST_V6 };
        let multicast = IpNet::new_assert(all, self.multicast_len());
        let whole = self.destination.trunc();
        if self.is_multicast() || !whole.contains(&multicast) {
            return vec![*self];
        }
        // At each step towards multicast, the half that it is not in.
        let halves = (whole.prefix_len() + 1..=multicast.prefix_len()).flat_map(|len| {
            // No longer than an address.
            let half = IpNet::new_assert(multicast.addr(), len).trunc();
            half.supernet()
                .into_iter()
                .flat_map(move |both| both.subnets(len).into_iter().flatten())
                .filter(move |net| *net != half)
        });
        halves.map(|destination| Selector { destination, ..*self }).collect()
    }

    fn multicast_len(&self) -> u8 {
        if self.destination.addr().is_ipv4() { 4 } else { 8 }
    }

    /// Whether it is for a packet with this header, and `next` behind it.
    pub(crate) fn matches(&self, inner: &Inner, next: &NextLayer) -> bool {
        let protocol = |wanted: u8| next.protocol == Some(wanted);
        let port = |wanted: u16, nth: usize| next.ports.is_some_and(|ports| ports[nth] == wanted);
        self.source.contains(&inner.source)
            && self.destination.contains(&inner.destination)
            && self.protocol.is_none_or(protocol)
            && self.source_port.is_none_or(|wanted| port(wanted, 0))
            && self.destination_port.is_none_or(|wanted| port(wanted, 1))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {}", self.source, self.destination)?;
        let mut part = |name: &str, value: Option<u16>| value.map_or(Ok(()), |value| write!(f, " {name} {value}"));
        part("protocol", self.protocol.map(u16::from))?;
        part("source port", self.source_port)?;
        part("destination port", self.destination_port)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::inner::tests::udp;
    use crate::inner::{FRAGMENT, HOP_BY_HOP, TCP, UDP};
    use proptest::prelude::*;

    pub(crate) fn selector(source: &str, destination: &str) -> Selector {
        Selector::new(source.parse().unwrap(), destination.parse().unwrap())
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let plain = selector("10.1.0.0/16", "239.1.1.1/32");
        plain.check().unwrap();
        Selector { protocol: Some(UDP), destination_port: Some(5), ..plain }.check().unwrap();
        let mixed = selector("10.1.0.0/16", "ff1e::/16");
        assert!(mixed.check().unwrap_err().to_string().contains("two families"));
        for protocol in [None, Some(1), Some(50)] {
            let refused = Selector { protocol, source_port: Some(5), ..plain }.check().unwrap_err().to_string();
            assert!(refused.contains("10.1.0.0/16 → 239.1.1.1/32") && refused.contains("source port 5"), "{refused}");
        }
        assert!(plain.is_multicast() && !selector("::/0", "::/0").is_multicast());
        assert!(!selector("0.0.0.0/0", "224.0.0.0/3").is_multicast(), "more than multicast");
    }

    #[test]
    fn a_destination_without_its_multicast() {
        let of = |destination: &str| -> Vec<String> {
            let source = if destination.contains(':') { "::/0" } else { "0.0.0.0/0" };
            selector(source, destination).without_multicast().iter().map(|one| one.destination.to_string()).collect()
        };
        assert_eq!(of("0.0.0.0/0"), ["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/3", "240.0.0.0/4"]);
        assert_eq!(of("224.0.0.0/3"), ["240.0.0.0/4"]);
        assert_eq!((of("::/0").len(), of("::/0")[7].as_str()), (8, "fe00::/8"));
        for whole in ["10.0.0.0/8", "224.0.0.0/4", "239.1.1.1/32", "2001:db8::/32", "ff1e::/16"] {
            assert_eq!(of(whole), [whole]);
        }
    }

    fn ports() -> impl Strategy<Value = Option<u16>> {
        proptest::option::of(0u16..3)
    }

    prop_compose! {
        fn any_selector()(
            ipv4: bool, source in 0u8..4, destination in 0u8..4, lens in (0u8..=8, 0u8..=8),
            protocol in proptest::option::of(prop_oneof![Just(UDP), Just(TCP), Just(1), Just(FRAGMENT)]),
            source_port in ports(), destination_port in ports(),
        ) -> Selector {
            let net = |last, short| match ipv4 {
                true => IpNet::new([10, 0, 0, last].into(), 32 - short).unwrap(),
                false => IpNet::new(v6(last).parse().unwrap(), 128 - short).unwrap(),
            };
            let (source, destination) = (net(source, lens.0), net(destination, lens.1));
            Selector { source, destination, protocol, source_port, destination_port }
        }
    }

    fn v6(last: u8) -> String {
        format!("2001:db8::{last:x}")
    }

    /// A packet, and what it was made of.
    #[derive(Clone, Debug)]
    struct Made {
        ends: [String; 2],
        protocol: u8,
        /// What it shows.
        ports: Option<[u16; 2]>,
        bytes: Vec<u8>,
    }

    prop_compose! {
        fn any_packet()(
            ipv4: bool, source in 0u8..4, destination in 0u8..4, ports in [0u16..3, 0u16..3],
            protocol in prop_oneof![Just(UDP), Just(TCP), Just(1)], first: bool, extended: bool,
        ) -> Made {
            let ends = [source, destination].map(|last| if ipv4 { format!("10.0.0.{last}") } else { v6(last) });
            let mut bytes = udp(&ends[0], &ends[1], ports);
            match ipv4 {
                true => {
                    bytes[9] = protocol;
                    bytes[7] = u8::from(!first);
                    if extended {
                        bytes.splice(20..20, [0; 4]);
                        bytes[0] += 1;
                        bytes[3] += 4;
                    }
                }
                false => {
                    bytes[6] = FRAGMENT;
                    let mut headers = vec![protocol, 0, 0, u8::from(!first) << 3, 0, 0, 0, 0];
                    if extended {
                        bytes[6] = HOP_BY_HOP;
                        headers.splice(0..0, [FRAGMENT, 0, 0, 0, 0, 0, 0, 0]);
                    }
                    bytes[5] += headers.len() as u8;
                    bytes.splice(40..40, headers);
                }
            }
            Made { ends, protocol, ports: Some(ports).filter(|_| first && protocol != 1), bytes }
        }
    }

    proptest! {
        #[test]
        fn as_the_naive_match(selector in any_selector(), packet in any_packet()) {
            let Made { ends, protocol, ports, bytes } = packet;
            let octets = |net: IpNet| (net.addr(), u32::from(net.max_prefix_len() - net.prefix_len()));
            // Of two addresses of one family that differ in the last octet alone.
            let last = |address: std::net::IpAddr| match address {
                std::net::IpAddr::V4(a) => a.octets()[3],
                std::net::IpAddr::V6(a) => a.octets()[15],
            };
            let within = |net: IpNet, end: &str| {
                let ((address, short), end) = (octets(net), end.parse::<std::net::IpAddr>().unwrap());
                address.is_ipv4() == end.is_ipv4() && u32::from(last(address)) >> short == u32::from(last(end)) >> short
            };
            let equals = |wanted: Option<u16>, nth: usize| wanted.is_none() || wanted == ports.map(|ports| ports[nth]);
            let expected = within(selector.source, &ends[0])
                && within(selector.destination, &ends[1])
                && (selector.protocol.is_none() || selector.protocol == Some(protocol))
                && equals(selector.source_port, 0)
                && equals(selector.destination_port, 1);
            let inner = Inner::parse(&bytes).unwrap();
            prop_assert_eq!(selector.matches(&inner, &NextLayer::of(&bytes[..inner.len])), expected);
            // The way back of the packet's way back.
            prop_assert_eq!(selector.reversed().reversed(), selector);
        }
    }
}
