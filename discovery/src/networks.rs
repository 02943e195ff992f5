//! Which networks a router may announce, and how they stand on the wire.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use muster_wire::codec;
use muster_wire::idp::{Prefix, PrefixList};

use crate::event::PrefixError;

/// Networks that no router may announce, nor anything that holds or lies in one of them.
const FORBIDDEN: [IpNet; 10] = [
    v4(Ipv4Addr::new(0, 0, 0, 0), 8),
    v4(Ipv4Addr::new(127, 0, 0, 0), 8),
    v4(Ipv4Addr::new(169, 254, 0, 0), 16),
    v4(Ipv4Addr::new(224, 0, 0, 0), 4),
    v4(Ipv4Addr::new(255, 255, 255, 255), 32),
    v6(Ipv6Addr::UNSPECIFIED, 128),
    v6(Ipv6Addr::LOCALHOST, 128),
    // IPv4 in IPv6: not on any wire.
    v6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    v6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

const fn v4(address: Ipv4Addr, length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(address, length))
}

const fn v6(address: Ipv6Addr, length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(address, length))
}

pub(crate) fn allowed(net: &IpNet) -> Result<(), PrefixError> {
    let forbidden = net.prefix_len() == 0 || FORBIDDEN.iter().any(|other| overlaps(net, other));
    if forbidden { Err(PrefixError::Forbidden(*net)) } else { Ok(()) }
}

fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

pub(crate) fn from_wire(plain: &[u8]) -> Result<Vec<IpNet>, PrefixError> {
    let list: PrefixList = codec::decode(plain).map_err(|_| PrefixError::Malformed)?;
    let nets = list.iter().map(net).collect::<Result<Vec<IpNet>, PrefixError>>()?;
    nets.iter().try_for_each(allowed)?;
    Ok(nets)
}

/// Strictly: known family, no bit set outside of the network's part.
fn net(prefix: &Prefix) -> Result<IpNet, PrefixError> {
    let Prefix { family, length, address } = *prefix;
    let wrong = PrefixError::NotAPrefix { family, length };
    let address = match (family, address) {
        (4, [a, b, c, d, rest @ ..]) if rest == [0; 12] => IpAddr::from([a, b, c, d]),
        (6, bytes) => IpAddr::from(bytes),
        _ => return Err(wrong),
    };
    match IpNet::new(address, length) {
        Ok(net) if net.network() == address => Ok(net),
        _ => Err(wrong),
    }
}

pub(crate) fn to_wire(net: &IpNet) -> Prefix {
    let mut address = [0; 16];
    let (family, length) = match net {
        IpNet::V4(net) => {
            address[..4].copy_from_slice(&net.network().octets());
            (4, net.prefix_len())
        }
        IpNet::V6(net) => {
            address = net.network().octets();
            (6, net.prefix_len())
        }
    };
    Prefix { family, length, address }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(family: u8, text: &str, length: u8) -> Result<Vec<IpNet>, PrefixError> {
        let mut address = [0; 16];
        match text.parse().unwrap() {
            IpAddr::V4(v4) => address[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => address = v6.octets(),
        }
        from_wire(&codec::encode(&PrefixList::new(vec![Prefix { family, length, address }]).unwrap()).unwrap())
    }

    #[test]
    fn only_networks_that_a_router_may_announce() {
        assert!(check(4, "192.0.2.0", 24).is_ok());
        assert!(check(4, "192.0.2.1", 32).is_ok());
        assert!(check(6, "2001:db8:a::", 64).is_ok());
        assert!(check(6, "fd00::", 8).is_ok());
        for (family, text, length) in [
            (4, "192.0.2.1", 24),
            (4, "192.0.2.0", 33),
            (5, "192.0.2.0", 24),
            (4, "2001:db8:1::", 32),
            (6, "2001:db8::1", 64),
            (6, "2001:db8::", 129),
        ] {
            assert_eq!(check(family, text, length), Err(PrefixError::NotAPrefix { family, length }), "{text}");
        }
        for (family, text, length) in [
            (4, "0.0.0.0", 0),
            (4, "0.0.0.0", 1),
            (4, "128.0.0.0", 1),
            (4, "127.0.0.0", 8),
            (4, "169.254.1.0", 24),
            (4, "239.10.0.0", 16),
            (6, "::", 0),
            (6, "::1", 128),
            (6, "fe80::", 64),
            (6, "ff1e::", 16),
            (6, "::ffff:192.0.2.0", 120),
        ] {
            assert!(matches!(check(family, text, length), Err(PrefixError::Forbidden(_))), "{text}/{length}");
        }
    }

    #[test]
    fn prefixes_come_back_from_the_wire() {
        for text in ["192.0.2.0/24", "10.0.0.0/8", "2001:db8:a::/64", "2001:db8::1/128"] {
            let prefix: IpNet = text.parse().unwrap();
            assert_eq!(net(&to_wire(&prefix)), Ok(prefix));
        }
    }
}
