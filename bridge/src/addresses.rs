//! The machine's addresses: which one to use on black, which prefixes are red.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Assigned {
    pub(crate) network: IpNet,
    /// Neither tentative nor refused by duplicate address detection: can be bound.
    pub(crate) bindable: bool,
    /// Bindable, not deprecated, not temporary.
    pub(crate) usable: bool,
    /// Duplicate address detection found another device with it.
    pub(crate) duplicate: bool,
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

/// Whether somebody has brought an interface up.
pub(crate) fn is_up(interface: &str) -> bool {
    let flags = nix::ifaddrs::getifaddrs().into_iter().flatten().find(|entry| entry.interface_name == interface);
    flags.is_some_and(|entry| entry.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP))
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
            all.push(Assigned { network: network.into(), bindable: true, usable: true, duplicate: false });
        }
    }
    Ok(all)
}

/// The networks that an interface is in, but for link-local ones: those are everywhere.
pub(crate) fn networks(interface: &str) -> Vec<IpNet> {
    let all = addresses(interface).unwrap_or_default();
    all.into_iter().filter(|one| !one.is_link_local()).map(|one| one.network.trunc()).collect()
}

/// The address to use on black: the one asked for, else the first global one, else link-local. The one in use until
/// now stays as long as none of a wider scope is there, and when it is deprecated until there is another.
pub(crate) fn black_address(
    all: &[Assigned],
    wanted: Option<IpAddr>,
    ipv4: bool,
    current: Option<IpAddr>,
) -> Option<IpAddr> {
    let of_family = || all.iter().filter(|one| one.address().is_ipv4() == ipv4);
    let bindable = |address: IpAddr| of_family().any(|one| one.bindable && one.address() == address);
    if let Some(wanted) = wanted {
        return Some(wanted).filter(|wanted| bindable(*wanted));
    }
    let usable: Vec<&Assigned> = of_family().filter(|one| one.usable).collect();
    let global: Vec<&Assigned> = usable.iter().filter(|one| !one.is_link_local()).copied().collect();
    let best = if global.is_empty() { usable } else { global };
    let stays = best.iter().find(|one| Some(one.address()) == current);
    let chosen = stays.or(best.first()).map(|one| one.address());
    chosen.or(current.filter(|current| bindable(*current)))
}

/// What duplicate address detection has refused, for the operator.
pub(crate) fn duplicates(all: &[Assigned]) -> Option<String> {
    let refused: Vec<String> = all.iter().filter(|one| one.duplicate).map(|one| one.address().to_string()).collect();
    (!refused.is_empty())
        .then(|| format!("{} is also another device's (duplicate address detection)", refused.join(", ")))
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
    /// Of `linux/if_addr.h`.
    const IFA_F_TEMPORARY: u8 = 0x01;
    const IFA_F_DADFAILED: u8 = 0x08;
    const IFA_F_DEPRECATED: u8 = 0x20;
    const IFA_F_TENTATIVE: u8 = 0x40;
    let mut fields = line.split_whitespace();
    let address = u128::from_str_radix(fields.next()?, 16).ok()?;
    let length = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
    let flags = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
    if fields.next()? != interface {
        return None;
    }
    let network = Ipv6Net::new(Ipv6Addr::from(address), length).ok()?;
    let bindable = flags & (IFA_F_DADFAILED | IFA_F_TENTATIVE) == 0;
    let usable = bindable && flags & (IFA_F_TEMPORARY | IFA_F_DEPRECATED) == 0;
    Some(Assigned { network: network.into(), bindable, usable, duplicate: flags & IFA_F_DADFAILED != 0 })
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
        let choose = |all: &[Assigned], wanted| black_address(all, wanted, false, None);
        assert_eq!(choose(&all, None), Some("2001:db8::2".parse().unwrap()));
        assert_eq!(choose(&all[..2], None), Some("fe80::211:22ff:fe33:4455".parse().unwrap()));
        let tentative = "2001:db8::1".parse().unwrap();
        assert_eq!(choose(&all, Some(tentative)), None);
        assert_eq!(black_address(&all, None, true, None), None);
        assert_eq!(parse_inet6("nonsense", "eth0"), None);
    }

    /// Addresses by their flags.
    fn assigned(list: &[(&str, u8)]) -> Vec<Assigned> {
        let line = |(address, flags): &(&str, u8)| {
            let bits = u128::from(address.parse::<Ipv6Addr>().unwrap());
            parse_inet6(&format!("{bits:032x} 02 40 00 {flags:02x} eth0"), "eth0").unwrap()
        };
        list.iter().map(line).collect()
    }

    #[test]
    fn the_one_in_use_stays_as_long_as_it_can() {
        let next = |list: &[(&str, u8)], current: &str| {
            let next = black_address(&assigned(list), None, false, Some(current.parse().unwrap()));
            next.map(|address| address.to_string())
        };
        let (old, new, local) = ("2001:db8::9", "2001:db8::1", "fe80::1");
        assert_eq!(next(&[(new, 0x80), (old, 0x80), (local, 0x80)], old).as_deref(), Some(old));
        assert_eq!(next(&[(new, 0x80), (local, 0x80)], old).as_deref(), Some(new));
        assert_eq!(next(&[(new, 0xc0), (local, 0x80)], old).as_deref(), Some(local), "tentative");
        assert_eq!(next(&[(new, 0x80), (local, 0x80)], local).as_deref(), Some(new), "a wider scope");
        assert_eq!(next(&[(old, 0xa0), (new, 0x80)], old).as_deref(), Some(new), "deprecated");
        assert_eq!(next(&[(old, 0xa0)], old).as_deref(), Some(old), "deprecated, and the only one");
        assert_eq!(next(&[(new, 0xa0)], old), None, "deprecated, and never used");
        assert_eq!(next(&[(old, 0xc8)], old), None, "refused");
    }

    #[test]
    fn a_duplicate_is_named() {
        let all = assigned(&[("2001:db8::1", 0xc8), ("2001:db8::2", 0x80)]);
        assert!(duplicates(&all).unwrap().starts_with("2001:db8::1 is also another device's"));
        assert_eq!(duplicates(&all[1..]), None);
    }

    #[test]
    fn loopback_is_found() {
        assert!(interface_index("lo").is_ok());
        assert!(interface_index("no-such-if").is_err());
        assert!(addresses("lo").unwrap().iter().all(|one| one.address().is_loopback()));
    }
}
