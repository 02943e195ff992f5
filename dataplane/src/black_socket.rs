//! Sockets on black: their addresses, and the groups that they are members of.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use socket2::{InterfaceIndexOrAddress, SockAddr, Socket};

/// For binding and sending on the interface with this index.
pub(crate) fn at(address: IpAddr, ifindex: u32) -> SockAddr {
    match address {
        // Raw sockets have no ports.
        IpAddr::V4(_) => SocketAddr::new(address, 0).into(),
        IpAddr::V6(address) => SocketAddrV6::new(address, 0, 0, ifindex).into(),
    }
}

/// Joins `group` on the interface with this index; nothing of other sockets' groups is heard.
pub(crate) fn join(socket: &Socket, group: IpAddr, ifindex: u32) -> io::Result<()> {
    match group {
        IpAddr::V4(group) => {
            socket.set_multicast_all_v4(false)?;
            socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(ifindex))
        }
        IpAddr::V6(group) => {
            socket.set_multicast_all_v6(false)?;
            socket.join_multicast_v6(&group, ifindex)
        }
    }
}
