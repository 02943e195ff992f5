//! Sockets on black: their addresses, and the groups that they are members of.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use socket2::{InterfaceIndexOrAddress, SockAddr, Socket};

use crate::{Error, sysctl};

/// For binding and sending on the interface with this index.
pub(crate) fn at(address: IpAddr, ifindex: u32) -> SockAddr {
    match address {
        // Raw sockets have no ports.
        IpAddr::V4(_) => SocketAddr::new(address, 0).into(),
        IpAddr::V6(address) => SocketAddrV6::new(address, 0, 0, ifindex).into(),
    }
}

/// Of the groups of other sockets it hears nothing.
pub(crate) fn deafen(socket: &Socket, ipv4: bool) -> io::Result<()> {
    match ipv4 {
        true => socket.set_multicast_all_v4(false),
        false => socket.set_multicast_all_v6(false),
    }
}

/// How many groups a socket of IPv4 may be in (20 by default), of this network namespace.
const MOST_GROUPS: &str = "ipv4/igmp_max_memberships";
/// What it is raised to: memberships of a socket take of its memory for options, which ends about here.
const ENOUGH_GROUPS: &str = "4096";

/// Joins `group` on the interface with this index.
///
/// # Errors
/// The kernel lets a socket be in no more groups, though that was asked for: the setting to raise is named.
pub(crate) fn join(socket: &Socket, group: IpAddr, ifindex: u32) -> Result<(), Error> {
    let join = || match group {
        IpAddr::V4(group) => socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(ifindex)),
        IpAddr::V6(group) => socket.join_multicast_v6(&group, ifindex),
    };
    let full = |error: &io::Error| error.raw_os_error() == Some(libc::ENOBUFS);
    let joined = match join() {
        Err(error) if group.is_ipv4() && full(&error) => {
            // Without the right to, the error says what is missing.
            let _ = sysctl::write(MOST_GROUPS, ENOUGH_GROUPS);
            join()
        }
        other => other,
    };
    joined.map_err(|source| {
        let advice = match source.raw_os_error() {
            Some(libc::ENOBUFS) => "; raise net.ipv4.igmp_max_memberships and net.core.optmem_max",
            Some(libc::ENOMEM) => "; raise net.core.optmem_max",
            _ => "",
        };
        Error::Io { what: format!("joining the group {group} on black{advice}"), source }
    })
}

/// Leaves a group that was joined; it may be gone with its interface.
pub(crate) fn leave(socket: &Socket, group: IpAddr, ifindex: u32) {
    let _ = match group {
        IpAddr::V4(group) => socket.leave_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(ifindex)),
        IpAddr::V6(group) => socket.leave_multicast_v6(&group, ifindex),
    };
}
