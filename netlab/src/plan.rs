//! Who has which name and address in the laboratory.
//!
//! | what | IPv6 | IPv4 |
//! |---|---|---|
//! | black address of router *i* (from 0) | `2001:db8:ffff::(i+1)/64` | `192.0.2.(i+1)/24` |
//! | black gateway (the bridge: next hop of all unknown destinations) | `2001:db8:ffff::ffff` | `192.0.2.254` |
//! | the same two where black is routed, at site *s* (1 to 3) | `2001:db8:ffff:s::(i+1)/64`, `…::ffff` | `198.18.s.(i+1)/24`, `….254` |
//! | what nation *x* may announce (*x* is the hexadecimal digit a, b, …: its initial) | `2001:db8:x00::/40` | `10.x.0.0/16` |
//! | red prefix of its *n*-th router (from 1) | `2001:db8:xnn::/64` | `10.x.n.0/24` |
//! | that router on its red LAN, the host there | `…::1`, `…::2` | `….1`, `….2` |
//!
//! Router 4 of three nations is thus bravo-2: red `2001:db8:b02::/64` and `10.11.2.0/24`, black `2001:db8:ffff::5`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{Error, Result};

/// A router's device on the black side.
pub const BLACK_DEVICE: &str = "black0";
/// A router's device on the red side.
pub const RED_DEVICE: &str = "red0";
/// A host's device.
pub const HOST_DEVICE: &str = "eth0";
/// The bridge in the black namespace that all routers are attached to.
pub const BRIDGE: &str = "br0";
/// The bridge's own address: the routers' default route.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0xffff);
/// As [`GATEWAY_V6`].
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
/// Sites of a routed black network.
pub const SITES: u8 = 3;
/// Most routers in one laboratory.
pub const MAX_ROUTERS: usize = 200;
/// All nations there can be.
pub const NATIONS: [Nation; 6] = [
    Nation { name: "Alpha", digit: 0xa },
    Nation { name: "Bravo", digit: 0xb },
    Nation { name: "Charlie", digit: 0xc },
    Nation { name: "Delta", digit: 0xd },
    Nation { name: "Echo", digit: 0xe },
    Nation { name: "Foxtrot", digit: 0xf },
];

/// A member of the coalition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nation {
    /// Name, also the organisation in its certificates.
    pub name: &'static str,
    digit: u8,
}

impl Nation {
    /// All that its routers may announce.
    pub fn red_v6(&self) -> Ipv6Net {
        net6(Ipv6Addr::new(0x2001, 0xdb8, u16::from(self.digit) << 8, 0, 0, 0, 0, 0), 40)
    }

    /// As [`Nation::red_v6`].
    pub fn red_v4(&self) -> Ipv4Net {
        net4(Ipv4Addr::new(10, self.digit, 0, 0), 16)
    }
}

/// Names and addresses of a whole laboratory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// One for each router, nations in turn.
    pub routers: Vec<RouterPlan>,
}

impl Plan {
    /// `routers` routers (1 to [`MAX_ROUTERS`]) of `nations` nations (1 to 6), dealt out in turn.
    ///
    /// # Errors
    /// When a number is out of range.
    pub fn new(routers: usize, nations: usize) -> Result<Self> {
        if !(1..=MAX_ROUTERS).contains(&routers) || !(1..=NATIONS.len()).contains(&nations) {
            return Err(Error::Invalid(format!(
                "{routers} routers of {nations} nations: choose 1 to {MAX_ROUTERS} routers and 1 to {} nations",
                NATIONS.len()
            )));
        }
        // Both fit into a byte: MAX_ROUTERS is below 254.
        let router = |i: usize| RouterPlan {
            nation: NATIONS[i % nations],
            number: (i / nations + 1) as u8,
            position: (i + 1) as u8,
            site: 0,
        };
        Ok(Plan { routers: (0..routers).map(router).collect() })
    }

    /// As [`Plan::new`], with the routers dealt out to the [`SITES`] of a routed black network.
    ///
    /// # Errors
    /// As there.
    pub fn routed(routers: usize, nations: usize) -> Result<Self> {
        let mut plan = Plan::new(routers, nations)?;
        for (router, site) in plan.routers.iter_mut().zip((1..=SITES).cycle()) {
            router.site = site;
        }
        Ok(plan)
    }

    /// Whether the black network has routers of its own.
    pub(crate) fn is_routed(&self) -> bool {
        self.routers.iter().any(|router| router.site != 0)
    }

    /// The nations that take part.
    pub fn nations(&self) -> Vec<Nation> {
        let takes_part = |nation: &&Nation| self.routers.iter().any(|router| router.nation == **nation);
        NATIONS.iter().filter(takes_part).copied().collect()
    }
}

/// Names and addresses of one router and the host on its red LAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterPlan {
    /// Its nation.
    pub nation: Nation,
    /// Its number within the nation, from 1.
    number: u8,
    /// Its number within the coalition, from 1.
    position: u8,
    /// Where in a routed black network, from 1; 0: black is one bridge.
    site: u8,
}

impl RouterPlan {
    /// Device name as in its certificate: `alpha-1`.
    pub fn name(&self) -> String {
        format!("{}-{}", self.nation.name.to_lowercase(), self.number)
    }

    /// Its black address, with the black network's prefix length.
    pub fn black_v6(&self) -> Ipv6Net {
        black_v6(self.site, self.position.into())
    }

    /// As [`RouterPlan::black_v6`].
    pub fn black_v4(&self) -> Ipv4Net {
        black_v4(self.site, self.position)
    }

    /// Its site in a routed black network, from 1; 0 where black is one bridge.
    pub fn site(&self) -> u8 {
        self.site
    }

    /// The bridge that its black device is attached to.
    pub fn bridge(&self) -> String {
        site_bridge(self.site)
    }

    /// Its default routes.
    pub(crate) fn gateways(&self) -> [IpAddr; 2] {
        site_gateways(self.site).map(|gateway| gateway.addr())
    }

    /// The hardware address of its black device.
    pub fn black_mac(&self) -> [u8; 6] {
        [0x02, 0xb1, 0xac, 0, 0, self.position]
    }

    /// Its link-local black address (made from the hardware address, as the kernel does).
    pub fn black_link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.black_mac().map(u16::from);
        Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
    }

    /// Its red prefix.
    pub fn red_v6(&self) -> Ipv6Net {
        let third = u16::from(self.nation.digit) << 8 | u16::from(self.number);
        net6(Ipv6Addr::new(0x2001, 0xdb8, third, 0, 0, 0, 0, 0), 64)
    }

    /// As [`RouterPlan::red_v6`].
    pub fn red_v4(&self) -> Ipv4Net {
        net4(Ipv4Addr::new(10, self.nation.digit, self.number, 0), 24)
    }

    /// Its own address on the red LAN.
    pub fn router_v6(&self) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.red_v6().addr()) + 1)
    }

    /// As [`RouterPlan::router_v6`].
    pub fn router_v4(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.red_v4().addr()) + 1)
    }

    /// The address of the host on the red LAN.
    pub fn host_v6(&self) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.red_v6().addr()) + 2)
    }

    /// As [`RouterPlan::host_v6`].
    pub fn host_v4(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.red_v4().addr()) + 2)
    }

    /// Name of its port in the namespace of the black network.
    pub fn black_port(&self) -> String {
        format!("port{}", self.position)
    }

    pub(crate) fn on_black(&self) -> [IpNet; 2] {
        [self.black_v6().into(), self.black_v4().into()]
    }

    pub(crate) fn on_red(&self, v6: Ipv6Addr, v4: Ipv4Addr) -> [IpNet; 2] {
        [net6(v6, self.red_v6().prefix_len()).into(), net4(v4, self.red_v4().prefix_len()).into()]
    }

    /// Each red prefix with the router's black address of the same family.
    pub(crate) fn red_via_black(&self) -> [(IpNet, IpAddr); 2] {
        [(self.red_v6().into(), self.black_v6().addr().into()), (self.red_v4().into(), self.black_v4().addr().into())]
    }
}

/// The bridge of a site.
pub(crate) fn site_bridge(site: u8) -> String {
    match site {
        0 => BRIDGE.to_owned(),
        _ => format!("br{site}"),
    }
}

/// The addresses of a site's black gateway.
pub(crate) fn site_gateways(site: u8) -> [IpNet; 2] {
    [black_v6(site, 0xffff).into(), black_v4(site, 254).into()]
}

/// An address of a black network with its prefix length; `network` is 0 for the bridge of all, else a site or a link
/// between two.
pub(crate) fn black_v6(network: u8, host: u16) -> Ipv6Net {
    net6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, network.into(), 0, 0, 0, host), 64)
}

/// As [`black_v6`].
pub(crate) fn black_v4(network: u8, host: u8) -> Ipv4Net {
    let [a, b, c] = if network == 0 { [192, 0, 2] } else { [198, 18, network] };
    net4(Ipv4Addr::new(a, b, c, host), 24)
}

pub(crate) fn net6(address: Ipv6Addr, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(address, length)
}

pub(crate) fn net4(address: Ipv4Addr, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(address, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_in_the_head_of_this_file_is_true() {
        let plan = Plan::new(5, 3).unwrap();
        let names: Vec<_> = plan.routers.iter().map(RouterPlan::name).collect();
        assert_eq!(names, ["alpha-1", "bravo-1", "charlie-1", "alpha-2", "bravo-2"]);
        let router = &plan.routers[4];
        assert_eq!(router.red_v6().to_string(), "2001:db8:b02::/64");
        assert_eq!(router.red_v4().to_string(), "10.11.2.0/24");
        assert_eq!(router.black_v6().to_string(), "2001:db8:ffff::5/64");
        assert_eq!(router.black_v4().to_string(), "192.0.2.5/24");
        assert_eq!(router.host_v6().to_string(), "2001:db8:b02::2");
        assert_eq!(router.host_v4().to_string(), "10.11.2.2");
        assert_eq!(router.black_link_local().to_string(), "fe80::b1:acff:fe00:5");
    }

    #[test]
    fn a_routed_plan_gives_each_site_its_networks() {
        let plan = Plan::routed(5, 3).unwrap();
        let at =
            |router: usize| (plan.routers[router].black_v6().to_string(), plan.routers[router].black_v4().to_string());
        assert_eq!(at(1), ("2001:db8:ffff:2::2/64".to_owned(), "198.18.2.2/24".to_owned()));
        assert_eq!(at(4), ("2001:db8:ffff:2::5/64".to_owned(), "198.18.2.5/24".to_owned()));
        assert_eq!(
            plan.routers[4].gateways().map(|gateway| gateway.to_string()),
            ["2001:db8:ffff:2::ffff", "198.18.2.254"]
        );
        assert_eq!(
            (plan.routers[4].bridge(), Plan::new(1, 1).unwrap().routers[0].bridge()),
            ("br2".into(), "br0".into())
        );
    }

    #[test]
    fn red_prefixes_are_distinct_and_inside_their_nation() {
        for nations in 1..=NATIONS.len() {
            let plan = Plan::new(MAX_ROUTERS, nations).unwrap();
            let mut seen = std::collections::BTreeSet::new();
            for router in &plan.routers {
                assert!(router.nation.red_v6().contains(&router.red_v6()));
                assert!(router.nation.red_v4().contains(&router.red_v4()));
                assert!(seen.insert(router.red_v6()));
            }
            assert_eq!(plan.nations().len(), nations);
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for (routers, nations) in [(0, 1), (MAX_ROUTERS + 1, 1), (1, 0), (1, 7)] {
            assert!(Plan::new(routers, nations).is_err());
        }
    }
}
