//! Whether a device is ready to send and receive.
//!
//! The kernel activates a device after its carrier has come, and takes IPv6 addresses into use after they were added,
//! both in the background, and the latter also without duplicate address detection. The route of an address to itself
//! comes last. All is read for the namespace of the calling thread.

use std::fs::read_to_string;
use std::io;
use std::net::Ipv6Addr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// What the device still lacks; `None` if it is ready.
pub(crate) fn missing(device: &str) -> io::Result<Option<String>> {
    let entries: Vec<_> = getifaddrs()?.filter(|entry| entry.interface_name == device).collect();
    let Some(first) = entries.first() else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no such device"));
    };
    if !first.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING) {
        return Ok(Some("no carrier; are both ends up?".to_owned()));
    }
    if read_to_string(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"))?.trim_end() != "0" {
        return Ok(None);
    }
    let routes = read_to_string("/proc/thread-self/net/ipv6_route")?;
    let received: Vec<_> = local_routes(&routes, device).collect();
    if !received.iter().any(Ipv6Addr::is_unicast_link_local) {
        return Ok(Some("no link-local address".to_owned()));
    }
    let mut addresses = entries.iter().filter_map(|entry| Some(entry.address.as_ref()?.as_sockaddr_in6()?.ip()));
    Ok(addresses.find(|address| !received.contains(address)).map(|address| format!("{address} is not in use yet")))
}

/// Destination, its length, source, its length, gateway, metric, two counters, flags (all hexadecimal), device.
fn local_routes<'a>(routes: &'a str, device: &'a str) -> impl Iterator<Item = Ipv6Addr> + 'a {
    routes.lines().filter_map(move |line| {
        let mut fields = line.split_ascii_whitespace();
        let (destination, length) = (fields.next()?, fields.next()?);
        let flags = u32::from_str_radix(fields.nth(6)?, 16).ok()?;
        let local = length == "80" && flags & RTF_LOCAL != 0 && fields.next()? == device;
        local.then(|| u128::from_str_radix(destination, 16).ok().map(Ipv6Addr::from))?
    })
}

const RTF_LOCAL: u32 = 0x8000_0000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_host_routes_of_the_device_count() {
        let routes = "\
20010db8ffff00000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001   black0
20010db8ffff00000000000000000001 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000002 00000000 80200001   black0
fe800000000000000000000000000002 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000002 00000000 80200001     red0
ff000000000000000000000000000000 08 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000002 00000000 00000001   black0
";
        let local = |device| local_routes(routes, device).map(|local| local.to_string()).collect::<Vec<_>>();
        assert_eq!(local("black0"), ["2001:db8:ffff::1"]);
        assert_eq!(local("red0"), ["fe80::2"]);
        assert_eq!(local("eth0"), Vec::<String>::new());
    }
}
