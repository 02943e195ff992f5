//! The black side: raw sockets of protocol 50, bound to the black interface.

use std::io::{self, ErrorKind};
use std::mem;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{SockaddrStorage, recvfrom, setsockopt, sockopt};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, SockFilter, Socket, Type};

use crate::Error;
use crate::config::EspConfig;

/// IANA protocol number of ESP.
const ESP: i32 = 50;
/// Enough for a burst of some thousand packets.
const BUFFER: usize = 4 << 20;
/// How long a full interface queue may hold up the sender before its packets are dropped.
const SEND_TIMEOUT: Duration = Duration::from_millis(100);

/// One socket that sends from the black address, one that receives what comes for the group.
pub(super) struct Black {
    sender: Socket,
    receiver: Socket,
    address: IpAddr,
    group: IpAddr,
    ifindex: u32,
}

impl Black {
    /// `ifindex`: of `config.black_interface`.
    pub(super) fn open(config: &EspConfig, ifindex: u32) -> Result<Self, Error> {
        let EspConfig { black_interface: name, black_address: address, group_address: group, .. } = config;
        let what = |doing: &'static str| {
            Error::io(move || format!("interface {name}: {doing} (address {address}, group {group})"))
        };
        let sender =
            Self::socket(config).map_err(what("opening a raw socket for ESP; needs CAP_NET_RAW and CAP_NET_ADMIN"))?;
        sender
            .bind(&at(*address, ifindex))
            .map_err(what("binding to the black address; is it assigned and usable?"))?;
        Self::prepare_sender(&sender, config, ifindex).map_err(what("setting up the sending socket"))?;

        let receiver = Self::socket(config).map_err(what("opening a raw socket for ESP"))?;
        receiver.bind(&at(*group, ifindex)).map_err(what("binding to the group address"))?;
        join(&receiver, *group, ifindex).map_err(what("joining the group"))?;
        Ok(Black { sender, receiver, address: *address, group: *group, ifindex })
    }

    fn socket(config: &EspConfig) -> io::Result<Socket> {
        let domain = if config.black_address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(ESP)))?;
        socket.bind_device(Some(config.black_interface.as_bytes()))?;
        socket.set_nonblocking(true)?;
        // FORCE goes beyond the system's limit; without the right to, the limit does.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &BUFFER);
        let _ = setsockopt(&socket, sockopt::SndBufForce, &BUFFER);
        Ok(socket)
    }

    fn prepare_sender(socket: &Socket, config: &EspConfig, ifindex: u32) -> io::Result<()> {
        let hops = u32::from(config.hop_limit);
        match config.black_address {
            IpAddr::V4(address) => {
                socket.set_multicast_if_v4(&address)?;
                socket.set_multicast_loop_v4(false)?;
                socket.set_multicast_ttl_v4(hops)?;
                socket.set_ttl_v4(hops)?;
            }
            IpAddr::V6(_) => {
                socket.set_multicast_if_v6(ifindex)?;
                socket.set_multicast_loop_v6(false)?;
                socket.set_multicast_hops_v6(hops)?;
                socket.set_unicast_hops_v6(hops)?;
            }
        }
        allow_fragments(socket, config.black_address.is_ipv4())?;
        // It receives nothing: what is sent to the black address is not for the group.
        socket.attach_filter(&[SockFilter::new(0x06, 0, 0, 0)])?;
        socket.set_nonblocking(false)?;
        socket.set_write_timeout(Some(SEND_TIMEOUT))
    }

    /// The outer destination of all that [`receive`](Self::receive) gives.
    pub(super) fn group(&self) -> IpAddr {
        self.group
    }

    pub(super) fn send(&self, esp: &[u8], destination: IpAddr) -> io::Result<()> {
        self.sender.send_to(esp, &at(destination, self.ifindex)).map(drop)
    }

    /// The next ESP packet for the group, without outer header, in `buffer`; `None` if none is waiting. Empty stands
    /// for one to pass over: an own one that the network sent back, or an outer header that is none.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a mut [u8]>> {
        let (len, source) = match recvfrom::<SockaddrStorage>(self.receiver.as_raw_fd(), buffer) {
            Ok(received) => received,
            Err(Errno::EAGAIN) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        if source.as_ref().and_then(ip_of) == Some(self.address) {
            return Ok(Some(&mut []));
        }
        let start = if self.group.is_ipv4() { outer_header_len(&buffer[..len]).unwrap_or(len) } else { 0 };
        Ok(Some(&mut buffer[start..len]))
    }
}

impl AsFd for Black {
    /// Readable when a packet waits.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

/// Whether the kernel says that the packet was too large for the interface.
pub(super) fn is_too_big(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}

/// Whether sending or receiving may work again by itself.
pub(super) fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::TimedOut)
        || matches!(
            error.raw_os_error(),
            Some(
                libc::ENETDOWN
                    | libc::ENETUNREACH
                    | libc::EHOSTUNREACH
                    | libc::EHOSTDOWN
                    | libc::ENOBUFS
                    | libc::ENOMEM
                    | libc::EADDRNOTAVAIL
                    | libc::EPERM
                    | libc::EACCES
                    | libc::EINVAL
                    | libc::EIO
            )
        )
}

fn at(address: IpAddr, ifindex: u32) -> SockAddr {
    match address {
        // Raw sockets have no ports.
        IpAddr::V4(_) => SocketAddr::new(address, 0).into(),
        IpAddr::V6(address) => SocketAddrV6::new(address, 0, 0, ifindex).into(),
    }
}

fn join(socket: &Socket, group: IpAddr, ifindex: u32) -> io::Result<()> {
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

/// Outer packets above the interface's MTU are fragmented here (they are, where black has less than 1280 octets and
/// overhead), whatever MTU some router on black claims for the path.
fn allow_fragments(socket: &Socket, ipv4: bool) -> io::Result<()> {
    let (level, option, omit) = if ipv4 {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_OMIT)
    };
    let value: *const libc::c_int = &omit;
    // SAFETY: `value` points to a live c_int for the length of the call, of which the kernel reads size_of bytes.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            value.cast(),
            mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

/// Raw IPv4 sockets deliver the outer header too. `None`: not what it should be.
fn outer_header_len(packet: &[u8]) -> Option<usize> {
    let first = *packet.first()?;
    let len = usize::from(first & 0xf) * 4;
    (first >> 4 == 4 && (20..=packet.len()).contains(&len)).then_some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outer_headers() {
        let mut packet = [0; 40];
        packet[0] = 0x45;
        assert_eq!(outer_header_len(&packet), Some(20));
        packet[0] = 0x4a;
        assert_eq!(outer_header_len(&packet), Some(40));
        for bad in [0x4b, 0x44, 0x65, 0] {
            packet[0] = bad;
            assert_eq!(outer_header_len(&packet), None);
        }
        assert_eq!(outer_header_len(&[]), None);
    }
}
