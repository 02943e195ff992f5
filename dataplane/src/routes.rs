//! Which router a red unicast destination lies behind: longest prefix match.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use muster_wire::MemberId;

/// The other routers' red prefixes.
#[derive(Clone, Default)]
pub(crate) struct Routes {
    ipv4: Table,
    ipv6: Table,
}

/// For each prefix length in use, the longest first: networks and the routers before them.
type Table = Vec<(u8, HashMap<IpAddr, MemberId>)>;

impl Routes {
    /// Where two routers have one prefix, the lower member id carries.
    pub(crate) fn new(routes: &BTreeMap<MemberId, Vec<IpNet>>) -> Self {
        let mut all = Routes::default();
        for (member, prefixes) in routes {
            for prefix in prefixes {
                let table = if prefix.addr().is_ipv4() { &mut all.ipv4 } else { &mut all.ipv6 };
                let len = prefix.prefix_len();
                let at = match table.binary_search_by(|(other, _)| len.cmp(other)) {
                    Ok(at) => at,
                    Err(at) => {
                        table.insert(at, (len, HashMap::new()));
                        at
                    }
                };
                table[at].1.entry(prefix.network()).or_insert(*member);
            }
        }
        all
    }

    /// The router before `destination`.
    pub(crate) fn to(&self, destination: IpAddr) -> Option<MemberId> {
        let table = if destination.is_ipv4() { &self.ipv4 } else { &self.ipv6 };
        table.iter().find_map(|(len, networks)| {
            let network = IpNet::new(destination, *len).ok()?.network();
            networks.get(&network).copied()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn routes(list: &[(u8, &str)]) -> Routes {
        let mut all: BTreeMap<MemberId, Vec<IpNet>> = BTreeMap::new();
        for (member, prefix) in list {
            all.entry(MemberId([*member; 32])).or_default().push(prefix.parse().unwrap());
        }
        Routes::new(&all)
    }

    #[test]
    fn the_longest_prefix_decides_then_the_lower_id() {
        let routes = routes(&[
            (1, "2001:db8::/32"),
            (2, "2001:db8:b::/48"),
            (3, "2001:db8:b::/48"),
            (3, "10.0.0.0/8"),
            (2, "10.2.0.0/16"),
            (4, "10.2.3.4/32"),
        ]);
        let to = |text: &str| routes.to(text.parse().unwrap()).map(|member| member.0[0]);
        assert_eq!(to("2001:db8:a::1"), Some(1));
        assert_eq!(to("2001:db8:b::1"), Some(2));
        assert_eq!(to("2001:db9::1"), None);
        assert_eq!(to("10.1.0.1"), Some(3));
        assert_eq!(to("10.2.0.1"), Some(2));
        assert_eq!(to("10.2.3.4"), Some(4));
        assert_eq!(to("192.0.2.1"), None);
    }

    proptest! {
        #[test]
        fn as_the_naive_search(list in proptest::collection::vec((0u8..5, any::<u32>(), 0u8..=32), 0..20), to: u32) {
            let mut all: BTreeMap<MemberId, Vec<IpNet>> = BTreeMap::new();
            for (member, address, len) in &list {
                // Few different bits, so that they meet.
                let net = IpNet::new((address & 0xc000_0003).to_be_bytes().into(), *len).unwrap().trunc();
                all.entry(MemberId([*member; 32])).or_default().push(net);
            }
            let to: IpAddr = (to & 0xc000_0003).to_be_bytes().into();
            let covering = all.iter().flat_map(|(member, nets)| nets.iter().map(move |net| (net, member)));
            let covering = covering.filter(|(net, _)| net.contains(&to));
            let best = covering.max_by_key(|(net, member)| (net.prefix_len(), std::cmp::Reverse(*member)));
            prop_assert_eq!(Routes::new(&all).to(to), best.map(|(_, member)| *member));
        }
    }
}
