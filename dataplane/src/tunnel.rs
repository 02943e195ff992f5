//! The red-facing end of the tunnel, whoever makes the device: how large packets may be, and what the kernel is told of it.

use tracing::debug;

use crate::esp::packet::largest_inner;
use crate::forwarding::exempt_from_reverse_path_filter;
use crate::{Error, sysctl};

/// IPv6 needs links of 1280 octets (RFC 8200 5). Below that the outer packet is fragmented instead.
pub(crate) const MIN_MTU: u16 = 1280;

/// The largest inner packet whose outer one black takes whole.
pub(crate) fn tunnel_mtu(black: u32, outer_ipv4: bool) -> u16 {
    let black = u16::try_from(black).unwrap_or(u16::MAX);
    let inner = largest_inner(black.into(), outer_ipv4);
    // No larger than `black`, which is 16 bits wide.
    MIN_MTU.max(inner as u16)
}

/// No address of its own making and no solicitations (IN6_ADDR_GEN_MODE_NONE); what the kernel says all the same, such as
/// MLD reports, is discarded after reading. Nor is it asked whether sources behind it have routes.
pub(crate) fn quieten(name: &str) -> Result<(), Error> {
    for (setting, value) in [("addr_gen_mode", "1"), ("accept_ra", "0"), ("router_solicitations", "0")] {
        if !sysctl::write(&format!("ipv6/conf/{name}/{setting}"), value)? {
            debug!(device = name, setting, "no such setting: IPv6 is off");
        }
    }
    exempt_from_reverse_path_filter(name)
}

/// The largest IPv6 packet that the kernel puts into the device, unicast or multicast; above it tells the sender.
pub(crate) fn set_ipv6_mtu(name: &str, mtu: u16) -> Result<(), Error> {
    sysctl::write(&format!("ipv6/conf/{name}/mtu"), &mtu.to_string()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnel_mtus() {
        assert_eq!(tunnel_mtu(1500, false), 1426);
        assert_eq!(tunnel_mtu(1500, true), 1446);
        assert_eq!(tunnel_mtu(1280, false), 1280);
        assert_eq!(tunnel_mtu(65536, true), 65478);
    }
}
