//! Putting single packets onto a network: what an attacker, or a test, would send.

use std::io;
use std::net::SocketAddr;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, Socket, Type};

use crate::{Namespace, Result};

impl Namespace {
    /// Sends an Ethernet frame, as it is, out of `device`. On a bridge: to its ports.
    ///
    /// # Errors
    /// When there is no such device, it is down, or the frame is longer than it takes.
    pub fn inject(&self, device: &str, frame: &[u8]) -> Result<()> {
        self.try_run(&format!("send a frame of {} bytes out of {device}", frame.len()), || {
            let address = link_address(device)?;
            // Protocol 0: it hears nothing.
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None::<SockProtocol>)?;
            sendto(socket.as_raw_fd(), frame, &address, MsgFlags::empty())?;
            Ok(())
        })
    }

    /// Sends one UDP datagram out of `device` from an unspecified port, with hop limit 16 for groups.
    ///
    /// # Errors
    /// When there is no route to the destination.
    pub fn send_udp(&self, device: &str, to: SocketAddr, payload: &[u8]) -> Result<()> {
        self.try_run(&format!("send {} bytes to {to} out of {device}", payload.len()), || {
            let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
            socket.bind_device(Some(device.as_bytes()))?;
            match to.is_ipv6() {
                true => socket.set_multicast_hops_v6(16)?,
                false => socket.set_multicast_ttl_v4(16)?,
            }
            socket.send_to(payload, &to.into())?;
            Ok(())
        })
    }

    /// Has the kernel announce a device event in this namespace, such as `change@/devices/x` with its fields.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn announce(&self, event: &str, fields: &[&str]) -> Result<()> {
        const REQUEST: u16 = 1;
        const FIRST_KIND: u16 = 16;
        let fields = fields.iter().flat_map(|field| [field.as_bytes(), &[0]]);
        let strings = [event.as_bytes(), &[0]].into_iter().chain(fields).collect::<Vec<_>>().concat();
        // `struct nlmsghdr`, in the machine's byte order (netlink(7)).
        let length = (16 + strings.len() as u32).to_ne_bytes();
        let head = [&length[..], &FIRST_KIND.to_ne_bytes(), &REQUEST.to_ne_bytes(), &[0; 8]].concat();
        self.try_run(&format!("announce {event}"), || {
            let (flags, protocol) = (SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkKObjectUEvent);
            let socket = socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol)?;
            let message = [head, strings].concat();
            sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
            Ok(())
        })
    }
}

/// The link-layer address of a device, with its number: what packet sockets bind to and send to.
pub(crate) fn link_address(device: &str) -> io::Result<LinkAddr> {
    getifaddrs()?
        .filter(|entry| entry.interface_name == device)
        .find_map(|entry| entry.address.as_ref().and_then(SockaddrStorage::as_link_addr).copied())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no device {device}")))
}
