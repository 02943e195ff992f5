//! The machine's addresses: which one to use on black, which prefixes are red.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Assigned {
    pub(crate) network: IpNet,
    /// No longer tentative, not deprecated, not temporary.
    pub(crate) usable: bool,
}

impl Assigned {
    pub(crate) fn address(&self) -> IpAddr {
        self.network.addr()
    }

    fn is_link_local(&self) -> bool {
        match self.network.addr() {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        }
    }
}

/// The index of an interface.
pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}

/// The addresses of an interface, in the kernel's order.
pub(crate) fn addresses(interface: &str) -> io::Result<Vec<Assigned>> {
    let mut all: Vec<Assigned> = fs::read_to_string("/proc/thread-self/net/if_inet6")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| parse_inet6(line, interface))
        .collect();
    for entry in nix::ifaddrs::getifaddrs()?.filter(|entry| entry.interface_name == interface) {
        let v4 = |storage: Option<nix::sys::socket::SockaddrStorage>| {
            storage.and_then(|storage| storage.as_sockaddr_in().map(|address| address.ip()))
        };
        if let (Some(address), Some(mask)) = (v4(entry.address), v4(entry.netmask))
            && let Ok(network) = Ipv4Net::with_netmask(address, mask)
        {
            all.push(Assigned { network: network.into(), usable: true });
        }
    }
    Ok(all)
}

/// The address to use on black: the one asked for once it is usable, else the first global one, else link-local.
pub(crate) fn black_address(all: &[Assigned], wanted: Option<IpAddr>, ipv4: bool) -> Option<IpAddr> {
    let mut usable = all.iter().filter(|one| one.usable && one.address().is_ipv4() == ipv4);
    match wanted {
        Some(wanted) => usable.find(|one| one.address() == wanted).map(Assigned::address),
        None => {
            let candidates: Vec<&Assigned> = usable.collect();
            let global = candidates.iter().find(|one| !one.is_link_local());
            global.or(candidates.first()).map(|one| one.address())
        }
    }
}

/// The global prefixes of interfaces: the default of `red.prefixes`.
pub(crate) fn red_prefixes(interfaces: &[String]) -> io::Result<Vec<IpNet>> {
    let mut prefixes = Vec::new();
    for interface in interfaces {
        for one in addresses(interface)? {
            let network = one.network.trunc();
            if !one.is_link_local() && !one.address().is_loopback() && !prefixes.contains(&network) {
                prefixes.push(network);
            }
        }
    }
    Ok(prefixes)
}

/// A line of `/proc/net/if_inet6`: address, index, prefix length, scope, flags (all hexadecimal), name.
fn parse_inet6(line: &str, interface: &str) -> Option<Assigned> {
    /// `IFA_F_TEMPORARY`, `IFA_F_DADFAILED`, `IFA_F_DEPRECATED`, `IFA_F_TENTATIVE` of `linux/if_addr.h`.
    const UNUSABLE: u8 = 0x01 | 0x08 | 0x20 | 0x40;
    let mut fields = line.split_whitespace();
    let address = u128::from_str_radix(fields.next()?, 16).ok()?;
    let length = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
    let flags = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
    if fields.next()? != interface {
        return None;
    }
    let network = Ipv6Net::new(Ipv6Addr::from(address), length).ok()?;
    Some(Assigned { network: network.into(), usable: flags & UNUSABLE == 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: [&str; 4] = [
        "fe80000000000000021122fffe334455 02 40 20 80     eth0",
        "20010db8000000000000000000000001 02 40 00 c0     eth0",
        "20010db8000000000000000000000002 02 40 00 80     eth0",
        "20010db8000000000000000000000003 03 40 00 80     eth1",
    ];

    #[test]
    fn the_first_usable_global_address_is_taken() {
        let all: Vec<_> = LINES.iter().filter_map(|line| parse_inet6(line, "eth0")).collect();
        assert_eq!(all.len(), 3);
        assert!(!all[1].usable, "tentative");
        assert_eq!(black_address(&all, None, false), Some("2001:db8::2".parse().unwrap()));
        assert_eq!(black_address(&all[..2], None, false), Some("fe80::211:22ff:fe33:4455".parse().unwrap()));
        let tentative = "2001:db8::1".parse().unwrap();
        assert_eq!(black_address(&all, Some(tentative), false), None);
        assert_eq!(black_address(&all, None, true), None);
        assert_eq!(parse_inet6("nonsense", "eth0"), None);
    }

    #[test]
    fn loopback_is_found() {
        assert!(interface_index("lo").is_ok());
        assert!(interface_index("no-such-if").is_err());
        assert!(addresses("lo").unwrap().iter().all(|one| one.address().is_loopback()));
    }
}
