//! Sockets that hear IGMP and MLD on one interface, whatever group a message is sent to, and send queries there.
//!
//! Packet sockets: what hosts of older versions report goes to the group they report, which no router is a member of, and
//! the kernel hands such packets to who forwards multicast in one table only. The interface hears all groups already,
//! because it is in the table.

use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

use super::kernel::{Family, set_option};

const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// One interface, one family.
pub(super) struct PacketSocket {
    socket: Socket,
    ifindex: u32,
    ethertype: u16,
}

impl PacketSocket {
    pub(super) fn open(family: Family, ifindex: u32) -> io::Result<Self> {
        let ethertype = match family {
            Family::Ipv4 => libc::ETH_P_IP as u16,
            Family::Ipv6 => libc::ETH_P_IPV6 as u16,
        };
        // Of no protocol until it is bound: nothing comes in before the filter stands.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0)))?;
        socket.set_nonblocking(true)?;
        socket.attach_filter(match family {
            Family::Ipv4 => &IGMP,
            Family::Ipv6 => &MLD,
        })?;
        set_option(socket.as_fd(), libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1i32)?;
        socket.bind(&link_address(ifindex, ethertype, &[])?)?;
        Ok(PacketSocket { socket, ifindex, ethertype })
    }

    /// The next IP packet, cut at the buffer's end; `None` when all have been read.
    pub(super) fn next<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        loop {
            match recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty()) {
                Ok(len) => return Ok(Some(&buffer[..len])),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Sends an IP packet to the multicast address `destination`.
    pub(super) fn send(&self, packet: &[u8], destination: IpAddr) -> io::Result<()> {
        let to = link_address(self.ifindex, self.ethertype, &multicast_mac(destination))?;
        self.socket.send_to(packet, &to).map(drop)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// IGMP. Accumulator and index are cBPF's; offsets are from the IP header.
const IGMP: [SockFilter; 4] = [
    SockFilter::new(0x30, 0, 0, 9),                         // ldb [9], the protocol
    SockFilter::new(0x15, 0, 1, libc::IPPROTO_IGMP as u32), // jeq, else skip one
    SockFilter::new(0x06, 0, 0, u32::MAX),                  // ret all
    SockFilter::new(0x06, 0, 0, 0),                         // ret nothing
];

/// ICMPv6 behind hop-by-hop options: of what hosts send that is MLD, for the router alert.
const MLD: [SockFilter; 6] = [
    SockFilter::new(0x30, 0, 0, 6),                           // ldb [6], the next header
    SockFilter::new(0x15, 0, 3, 0),                           // jeq hop-by-hop
    SockFilter::new(0x30, 0, 0, 40),                          // ldb [40], the one behind it
    SockFilter::new(0x15, 0, 1, libc::IPPROTO_ICMPV6 as u32), // jeq
    SockFilter::new(0x06, 0, 0, u32::MAX),                    // ret all
    SockFilter::new(0x06, 0, 0, 0),                           // ret nothing
];

/// RFC 1112 6.4, RFC 2464 7.
fn multicast_mac(group: IpAddr) -> [u8; 6] {
    match group {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(group) => {
            let [.., a, b, c, d] = group.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

/// `struct sockaddr_ll`; without an address for binding.
fn link_address(ifindex: u32, ethertype: u16, mac: &[u8]) -> io::Result<SockAddr> {
    let mut address = [0; 8];
    address[..mac.len()].copy_from_slice(mac);
    let link = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ethertype.to_be(),
        sll_ifindex: ifindex.try_into().map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: mac.len() as u8,
        sll_addr: address,
    };
    // SAFETY: the storage is as large as any address and aligned for it; a whole sockaddr_ll is written, its family is
    // set, and the length says so.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, len| {
            storage.cast::<libc::sockaddr_ll>().write(link);
            *len = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_of_groups() {
        assert_eq!(multicast_mac("239.138.0.1".parse().unwrap()), [0x01, 0, 0x5e, 10, 0, 1]);
        assert_eq!(multicast_mac("ff1e::a:102:304".parse().unwrap()), [0x33, 0x33, 1, 2, 3, 4]);
    }
}
