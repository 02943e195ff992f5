//! UDP sockets of client and key server.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::SockRef;
use tokio::net::UdpSocket;

use crate::addresses::interface_index;
use crate::sockets::{Where, into_tokio, open, scoped};

/// No datagram of ISAKMP is longer; what is shows by filling this.
pub(super) const LONGEST: usize = 65_536;

/// For what is sent to us and what we send, also to groups, which other programs of this machine hear as well: a key server
/// may share one with a client.
///
/// # Errors
/// Names address and port.
pub(super) fn unicast(interface: &str, address: IpAddr, port: u16, hop_limit: u8) -> io::Result<UdpSocket> {
    let opened = || {
        let index = interface_index(interface)?;
        let socket = open(&place(interface, address, port, hop_limit), index)?;
        match address {
            IpAddr::V4(_) => socket.set_multicast_loop_v4(true)?,
            IpAddr::V6(_) => socket.set_multicast_loop_v6(true)?,
        }
        socket.bind(&scoped(address, port, index).into())?;
        into_tokio(socket)
    };
    opened().map_err(|error| named(error, interface, address, port))
}

/// For what comes to a group.
///
/// # Errors
/// Names group and port.
pub(super) fn listening(interface: &str, address: IpAddr, group: (IpAddr, u16)) -> io::Result<UdpSocket> {
    let (group, port) = group;
    let opened = || {
        let index = interface_index(interface)?;
        let socket = open(&place(interface, address, port, 1), index)?;
        socket.bind(&scoped(group, port, index).into())?;
        match group {
            IpAddr::V4(group) => socket.join_multicast_v4_n(&group, &socket2::InterfaceIndexOrAddress::Index(index))?,
            IpAddr::V6(group) => socket.join_multicast_v6(&group, index)?,
        }
        into_tokio(socket)
    };
    opened().map_err(|error| named(error, interface, group, port))
}

/// Sends; what the kernel does not take now is lost, as on any network: the protocol repeats.
pub(super) fn send(socket: &UdpSocket, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    // Not through the runtime: it takes a new socket for full until it has waited for it once.
    SockRef::from(socket).send_to(bytes, &to.into()).map(drop)
}

/// Hands over what has arrived, at most `most` datagrams; whether there may be more.
pub(super) fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
    most: usize,
    mut take: impl FnMut(SocketAddr, &[u8]),
) -> bool {
    !(0..most).any(|_| match socket.try_recv_from(buffer) {
        Ok((length, from)) => {
            take(from, &buffer[..length]);
            false
        }
        // Any other error is another's: an ICMP message for something sent before.
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    })
}

fn place(interface: &str, address: IpAddr, port: u16, hop_limit: u8) -> Where<'_> {
    Where { interface, address, group: address, port, hop_limit }
}

fn named(error: io::Error, interface: &str, address: IpAddr, port: u16) -> io::Error {
    io::Error::new(error.kind(), format!("UDP {address} port {port} on {interface}: {error}"))
}
