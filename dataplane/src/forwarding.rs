//! A router forwards: the kernel's settings for it.

use tracing::info;

use crate::config::check_interface_name;
use crate::{Error, sysctl};

/// Turns forwarding on, in both families. Set the block first: from here on what no rule stops is forwarded.
///
/// A host that becomes a router no longer listens to router advertisements, and the kernel drops the default route
/// it had from them; `accept_ra` 2 on `black` keeps it, so it goes first if it was 1. `arp_ignore` 1 there: who asks on black for
/// a red address of IPv4 hears nothing (of IPv6 the kernel does so by itself).
///
/// # Errors
/// A setting that cannot be written, by name.
pub fn enable_forwarding(black: &str) -> Result<(), Error> {
    check_interface_name(black)?;
    let accept_ra = format!("ipv6/conf/{black}/accept_ra");
    if sysctl::read(&accept_ra)?.as_deref() == Some("1") {
        sysctl::write(&accept_ra, "2")?;
        info!(interface = black, "accept_ra raised to 2, so that forwarding does not cost the default route");
    }
    let arp_ignore = format!("ipv4/conf/{black}/arp_ignore");
    if sysctl::read(&arp_ignore)?.as_deref() == Some("0") {
        sysctl::write(&arp_ignore, "1")?;
    }
    sysctl::write("ipv4/ip_forward", "1")?;
    sysctl::write("ipv6/conf/all/forwarding", "1")?;
    Ok(())
}

/// Switches the reverse path filter off on `device` alone: sources behind the tunnel have no route of their own.
///
/// The kernel applies the stricter of the interface's setting and that of `all`, so a value of `all` is handed
/// down to every other interface, present and future: the same strictness, and one exception.
pub(crate) fn exempt_from_reverse_path_filter(device: &str) -> Result<(), Error> {
    let all = sysctl::read("ipv4/conf/all/rp_filter")?.and_then(|text| text.parse::<u8>().ok()).unwrap_or(0);
    if all > 0 {
        let others = sysctl::interfaces("ipv4")?;
        for name in others.iter().map(String::as_str).filter(|name| *name != device).chain(["default"]) {
            let setting = format!("ipv4/conf/{name}/rp_filter");
            let own = sysctl::read(&setting)?.and_then(|text| text.parse::<u8>().ok()).unwrap_or(0);
            sysctl::write(&setting, &all.max(own).to_string())?;
        }
        sysctl::write("ipv4/conf/all/rp_filter", "0")?;
        info!(device, rp_filter = all, "reverse path filter moved from all to each interface, except the tunnel");
    }
    sysctl::write(&format!("ipv4/conf/{device}/rp_filter"), "0")?;
    Ok(())
}
