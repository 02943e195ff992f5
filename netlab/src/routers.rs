//! A black network that is routed: three routers in a triangle, a LAN of border routers at each.
//!
//! ```text
//!        border routers ─ br1 ─ lan0 black-1 to2 ─ link12 ─ to1 black-2 lan0 ─ br2 ─ border routers
//!                                       to3                     to3
//!                                        └ link13 ┐   ┌ link23 ┘
//!                                                to1 to2
//!                                                black-3 lan0 ─ br3 ─ border routers
//! ```
//!
//! All wires are bridges of the black namespace, also those between two routers: so one capture there sees every frame
//! once on each wire that it crosses, and to pull a plug is to set a port down. What the routers speak with each other
//! is not this crate's.
//!
//! | what | IPv6 | IPv4 |
//! |---|---|---|
//! | black router *s* on its LAN | `2001:db8:ffff:s::ffff/64` | `198.18.s.254/24` |
//! | router *a* on the link to *b* (12, 13 or 23) | `2001:db8:ffff:ab::a/64` | `198.18.ab.a/24` |
//! | router *s* itself, on `lo` | | `198.18.0.s/32` |

use std::net::Ipv4Addr;

use crate::plan::{SITES, black_v4, black_v6, net4, site_bridge, site_gateways};
use crate::{Namespace, Result};

/// A router of the black network, which forwards and has no routes but those of its links.
#[derive(Debug)]
pub struct BlackRouter {
    /// Its number, that of its site.
    pub site: u8,
    /// Where it is.
    pub namespace: Namespace,
}

impl BlackRouter {
    /// Its device on the LAN of the border routers.
    pub const LAN: &str = "lan0";

    /// Its device on the link to another.
    pub fn device_to(site: u8) -> String {
        format!("to{site}")
    }

    /// Its address on `lo`, which no link takes away.
    pub fn identity(&self) -> Ipv4Addr {
        identity(self.site)
    }

    /// The other routers' sites.
    pub fn others(&self) -> impl Iterator<Item = u8> {
        let own = self.site;
        (1..=SITES).filter(move |site| *site != own)
    }

    pub(crate) fn wait_for_links(&self) -> Result<()> {
        self.namespace.wait_for_link(Self::LAN)?;
        self.others().try_for_each(|other| self.namespace.wait_for_link(&Self::device_to(other)))
    }
}

/// The ports of the link between two routers.
pub(crate) fn link_ports([a, b]: [u8; 2]) -> [String; 2] {
    [format!("black{a}to{b}"), format!("black{b}to{a}")]
}

/// Makes the routers and, in `black`, their wires.
pub(crate) fn build(black: &Namespace) -> Result<Vec<BlackRouter>> {
    let routers = (1..=SITES).map(|site| router(black, site)).collect::<Result<Vec<_>>>()?;
    for (at, a) in routers.iter().enumerate() {
        for b in &routers[at + 1..] {
            link(black, a, b)?;
        }
    }
    Ok(routers)
}

fn router(black: &Namespace, site: u8) -> Result<BlackRouter> {
    let namespace = Namespace::new(format!("black-{site}"))?;
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        namespace.sysctl(key, "1")?;
    }
    black.add_bridge(&site_bridge(site))?;
    black.add_port(
        &format!("black{site}").as_str().into(),
        &site_bridge(site),
        &namespace,
        &BlackRouter::LAN.into(),
    )?;
    for address in site_gateways(site) {
        namespace.add_address(BlackRouter::LAN, address)?;
    }
    namespace.add_address("lo", net4(identity(site), 32).into())?;
    Ok(BlackRouter { site, namespace })
}

fn link(black: &Namespace, a: &BlackRouter, b: &BlackRouter) -> Result<()> {
    let bridge = format!("link{}{}", a.site, b.site);
    black.add_bridge(&bridge)?;
    let ports = link_ports([a.site, b.site]);
    for (port, (near, far)) in ports.iter().zip([(a, b), (b, a)]) {
        let device = BlackRouter::device_to(far.site);
        black.add_port(&port.as_str().into(), &bridge, &near.namespace, &device.as_str().into())?;
        // Written like the numbers of the two: 12 is 12 in IPv4 and 0x12 in IPv6.
        near.namespace.add_address(&device, black_v6(a.site << 4 | b.site, near.site.into()).into())?;
        near.namespace.add_address(&device, black_v4(a.site * 10 + b.site, near.site).into())?;
    }
    Ok(())
}

fn identity(site: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 0, site)
}
