//! The four UDP sockets: two ports, each with one for what is sent to us and one for the group.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use muster_wire::{Destination, MAX_DATAGRAM, Transmit, VOUCHER_LEN};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use crate::addresses::interface_index;
use crate::engine::Port;

/// Received datagrams that may wait: a snapshot of a large group arrives in one go.
const RECEIVE_BUFFER: usize = 4 << 20;

/// What the sockets are bound to.
pub(crate) struct Where<'a> {
    pub(crate) interface: &'a str,
    pub(crate) address: IpAddr,
    pub(crate) group: IpAddr,
    pub(crate) port: u16,
    pub(crate) hop_limit: u8,
}

/// The sockets of one daemon.
pub(crate) struct Sockets {
    /// Of the interface.
    index: u32,
    /// `None`: closed, for want of an address.
    pairs: Option<[Pair; 2]>,
    /// What was received and is longer than any datagram of ours shows by filling this.
    buffer: Vec<u8>,
}

struct Pair {
    unicast: UdpSocket,
    group: UdpSocket,
    destination: SocketAddr,
}

impl Sockets {
    /// Opens and binds them. An error names the address and port.
    pub(crate) fn open(place: &Where<'_>) -> io::Result<Sockets> {
        let index = interface_index(place.interface)?;
        let pair = |port| open_pair(place, index, port).map_err(|error| named(error, place, port));
        let pairs = Some([pair(place.port)?, pair(place.port + 1)?]);
        Ok(Sockets { index, pairs, buffer: vec![0; VOUCHER_LEN + MAX_DATAGRAM + 1] })
    }

    /// The number of the interface that they are bound to; one that was deleted and made again has another.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Until [`Sockets::rebind`] nothing is sent or received.
    pub(crate) fn close(&mut self) {
        self.pairs = None;
    }

    /// Binds to another address. On the same interface what is for the group is received all the while.
    pub(crate) fn rebind(&mut self, place: &Where<'_>) -> io::Result<()> {
        let index = interface_index(place.interface)?;
        let Some(pairs) = self.pairs.as_mut().filter(|_| index == self.index) else {
            // Memberships may have gone with the addresses, and with the interface they have.
            self.close();
            *self = Sockets::open(place)?;
            return Ok(());
        };
        let unicast = |port| open_unicast(place, index, port).map_err(|error| named(error, place, port));
        let both = [unicast(place.port)?, unicast(place.port + 1)?];
        for (pair, unicast) in pairs.iter_mut().zip(both) {
            pair.unicast = unicast;
        }
        Ok(())
    }

    /// Sends a datagram. What the kernel does not take now is lost, as on any network: the protocols repeat.
    pub(crate) fn send(&self, port: Port, transmit: &Transmit) -> io::Result<()> {
        let pairs = self.pairs.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let pair = &pairs[position(port)];
        let to = match transmit.to {
            Destination::Group => pair.destination,
            Destination::Unicast(address) => address,
        };
        // Not through the runtime: it takes a new socket for full until it has waited for it once.
        SockRef::from(&pair.unicast).send_to(&transmit.bytes, &to.into()).map(|_| ())
    }

    /// Waits until something can be received.
    pub(crate) async fn readable(&self) {
        let Some([discovery, agreement]) = &self.pairs else { return std::future::pending().await };
        tokio::select! {
            _ = discovery.unicast.readable() => {}
            _ = discovery.group.readable() => {}
            _ = agreement.unicast.readable() => {}
            _ = agreement.group.readable() => {}
        }
    }

    /// Hands over what has arrived, at most `each` datagrams from each socket; whether one may hold more.
    pub(crate) fn receive(&mut self, each: usize, mut take: impl FnMut(Port, SocketAddr, &[u8])) -> bool {
        let mut more = false;
        for (pair, port) in self.pairs.iter().flatten().zip([Port::Discovery, Port::KeyAgreement]) {
            for socket in [&pair.unicast, &pair.group] {
                let drained = (0..each).any(|_| match socket.try_recv_from(&mut self.buffer) {
                    Ok((length, from)) => {
                        take(port, from, &self.buffer[..length]);
                        false
                    }
                    // Any other error is another's: an ICMP message for something sent before.
                    Err(error) => error.kind() == io::ErrorKind::WouldBlock,
                });
                more |= !drained;
            }
        }
        more
    }
}

fn open_pair(place: &Where<'_>, index: u32, port: u16) -> io::Result<Pair> {
    let group = open(place, index)?;
    group.bind(&scoped(place.group, port, index).into())?;
    match place.group {
        IpAddr::V4(address) => group.join_multicast_v4_n(&address, &socket2::InterfaceIndexOrAddress::Index(index))?,
        IpAddr::V6(address) => group.join_multicast_v6(&address, index)?,
    }
    let unicast = open_unicast(place, index, port)?;
    Ok(Pair { unicast, group: into_tokio(group)?, destination: scoped(place.group, port, index) })
}

fn open_unicast(place: &Where<'_>, index: u32, port: u16) -> io::Result<UdpSocket> {
    let unicast = open(place, index)?;
    unicast.bind(&scoped(place.address, port, index).into())?;
    into_tokio(unicast)
}

pub(crate) fn scoped(address: IpAddr, port: u16, index: u32) -> SocketAddr {
    match address {
        IpAddr::V6(address) => SocketAddr::V6(SocketAddrV6::new(address, port, 0, index)),
        IpAddr::V4(_) => SocketAddr::new(address, port),
    }
}

pub(crate) fn open(place: &Where<'_>, index: u32) -> io::Result<Socket> {
    let domain = if place.address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.bind_device(Some(place.interface.as_bytes()))?;
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    let hops = u32::from(place.hop_limit);
    match place.address {
        IpAddr::V4(address) => {
            socket.set_ttl_v4(hops)?;
            socket.set_multicast_ttl_v4(hops)?;
            socket.set_multicast_loop_v4(false)?;
            socket.set_multicast_if_v4(&address)?;
        }
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_unicast_hops_v6(hops)?;
            socket.set_multicast_hops_v6(hops)?;
            socket.set_multicast_loop_v6(false)?;
            socket.set_multicast_if_v6(index)?;
        }
    }
    Ok(socket)
}

pub(crate) fn into_tokio(socket: Socket) -> io::Result<UdpSocket> {
    UdpSocket::from_std(socket.into())
}

fn named(error: io::Error, place: &Where<'_>, port: u16) -> io::Error {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => ": another program uses it; is a daemon running already, or set discovery.port",
        _ => "",
    };
    let (address, interface) = (place.address, place.interface);
    io::Error::new(error.kind(), format!("UDP {address} port {port} on {interface}: {error}{advice}"))
}

fn position(port: Port) -> usize {
    match port {
        Port::Discovery => 0,
        Port::KeyAgreement => 1,
    }
}
