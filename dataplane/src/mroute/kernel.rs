//! The kernel's side of multicast forwarding: its socket options, structures and upcalls, of both families
//! (`linux/mroute.h`, `linux/mroute6.h`).

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

/// MAXVIFS, MAXMIFS: interfaces of one table.
pub(super) const MAX_VIFS: usize = 32;

// The same numbers for both families, at levels IPPROTO_IP and IPPROTO_IPV6.
const MRT_INIT: libc::c_int = 200;
const MRT_ADD_VIF: libc::c_int = 202;
const MRT_ADD_MFC: libc::c_int = 204;
const MRT_DEL_MFC: libc::c_int = 205;
const MRT_TABLE: libc::c_int = 209;

const ICMP6_FILTER: libc::c_int = 1;
const VIFF_USE_IFINDEX: u8 = 8;
/// IGMPMSG_NOCACHE, MRT6MSG_NOCACHE.
const NO_CACHE: u8 = 1;

/// One family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

/// Multicast from one source to one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Flow {
    pub(super) source: IpAddr,
    pub(super) group: IpAddr,
}

/// The kernel asks where a flow is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Upcall {
    pub(super) flow: Flow,
    /// The interface it came in from.
    pub(super) vif: u16,
}

/// The routing socket of one table. While it is open and [started](Self::start) the table forwards; closing it
/// takes interfaces and entries away.
pub(super) struct RoutingSocket {
    family: Family,
    socket: Socket,
}

impl RoutingSocket {
    /// Opens a socket for `table`, which the kernel makes if it is not there (it then stays).
    pub(super) fn open(family: Family, table: u32) -> io::Result<Self> {
        let (domain, protocol) = match family {
            Family::Ipv4 => (Domain::IPV4, libc::IPPROTO_IGMP),
            Family::Ipv6 => (Domain::IPV6, libc::IPPROTO_ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))?;
        socket.set_nonblocking(true)?;
        let socket = RoutingSocket { family, socket };
        socket.deafen()?;
        socket.set(MRT_TABLE, &table)?;
        Ok(socket)
    }

    /// Takes the table over. One socket can (EADDRINUSE).
    pub(super) fn start(&self) -> io::Result<()> {
        self.set(MRT_INIT, &1i32)
    }

    /// Adds an interface under the number `vif`.
    pub(super) fn add_vif(&self, vif: u16, ifindex: u32) -> io::Result<()> {
        match self.family {
            Family::Ipv4 => {
                let (flags, threshold) = (VIFF_USE_IFINDEX, 1);
                self.set(MRT_ADD_VIF, &VifCtl { vif, flags, threshold, rate_limit: 0, ifindex, remote: 0 })
            }
            Family::Ipv6 => {
                // The index is 16 bits wide here.
                let ifindex = u16::try_from(ifindex).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
                self.set(MRT_ADD_VIF, &Mif6Ctl { vif, flags: 0, threshold: 1, ifindex, padding: 0, rate_limit: 0 })
            }
        }
    }

    /// Sends `flow`, when it comes from `parent`, out of `vifs`; an older entry is replaced.
    pub(super) fn add_flow(&self, flow: &Flow, parent: u16, vifs: &[u16]) -> io::Result<()> {
        self.set_flow(MRT_ADD_MFC, flow, parent, vifs)
    }

    /// Forgets `flow`.
    pub(super) fn remove_flow(&self, flow: &Flow, parent: u16) -> io::Result<()> {
        self.set_flow(MRT_DEL_MFC, flow, parent, &[])
    }

    fn set_flow(&self, option: libc::c_int, flow: &Flow, parent: u16, vifs: &[u16]) -> io::Result<()> {
        match (flow.source, flow.group) {
            (IpAddr::V4(source), IpAddr::V4(group)) => {
                let mut ttls = [0; MAX_VIFS];
                for vif in vifs {
                    ttls[usize::from(*vif)] = 1; // TTL above 1 passes.
                }
                let (source, group) = (source.octets(), group.octets());
                self.set(option, &MfcCtl { source, group, parent, ttls, padding: 0, counts: [0; 3], expire: 0 })
            }
            (IpAddr::V6(source), IpAddr::V6(group)) => {
                let mut set = [0u32; 8];
                for vif in vifs {
                    set[usize::from(*vif) / 32] |= 1 << (vif % 32);
                }
                let (source, group) = (SockAddrIn6::from(source), SockAddrIn6::from(group));
                self.set(option, &Mf6cCtl { source, group, parent, padding: 0, set })
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// The next upcall; `None` when all have been read.
    pub(super) fn next_upcall(&self) -> io::Result<Option<Upcall>> {
        let mut buffer = [0; 128];
        loop {
            let len = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(len) => len,
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(e.into()),
            };
            if let Some(upcall) = parse_upcall(self.family, &buffer[..len]) {
                return Ok(Some(upcall));
            }
        }
    }

    /// Lets nothing from the network onto this socket. The kernel's upcalls come another way.
    fn deafen(&self) -> io::Result<()> {
        match self.family {
            // What begins with an IP header has a protocol at offset 9; upcalls have a zero there (im_mbz).
            Family::Ipv4 => self.socket.attach_filter(&[
                SockFilter::new(0x30, 0, 0, 9),        // ldb [9]
                SockFilter::new(0x15, 0, 1, 0),        // jeq #0, next, skip one
                SockFilter::new(0x06, 0, 0, u32::MAX), // ret all
                SockFilter::new(0x06, 0, 0, 0),        // ret nothing
            ]),
            // Bits set are types blocked.
            Family::Ipv6 => set_option(self.socket.as_fd(), libc::IPPROTO_ICMPV6, ICMP6_FILTER, &[u32::MAX; 8]),
        }
    }

    fn set<T: Plain>(&self, option: libc::c_int, value: &T) -> io::Result<()> {
        let level = match self.family {
            Family::Ipv4 => libc::IPPROTO_IP,
            Family::Ipv6 => libc::IPPROTO_IPV6,
        };
        set_option(self.socket.as_fd(), level, option, value)
    }
}

impl AsFd for RoutingSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// `struct igmpmsg` or `struct mrt6msg`; `None` if it is anything else or asks anything else.
pub(crate) fn parse_upcall(family: Family, bytes: &[u8]) -> Option<Upcall> {
    match family {
        Family::Ipv4 => {
            // unused 8 | type 1 | must be zero 1 | vif low 1, high 1 | source 4 | group 4
            let message = bytes.first_chunk::<20>()?;
            let address = |at: usize| Ipv4Addr::new(message[at], message[at + 1], message[at + 2], message[at + 3]);
            let flow = Flow { source: address(12).into(), group: address(16).into() };
            let vif = u16::from_le_bytes([message[10], message[11]]);
            (message[8] == NO_CACHE && message[9] == 0).then_some(Upcall { flow, vif })
        }
        Family::Ipv6 => {
            // must be zero 1 | type 1 | mif 2 | padding 4 | source 16 | group 16
            let message = bytes.first_chunk::<40>()?;
            let (_, addresses) = message.split_last_chunk::<32>()?;
            let (source, group) = (addresses.first_chunk::<16>()?, addresses.last_chunk::<16>()?);
            let flow = Flow { source: Ipv6Addr::from(*source).into(), group: Ipv6Addr::from(*group).into() };
            let vif = u16::from_ne_bytes([message[2], message[3]]);
            (message[0] == 0 && message[1] == NO_CACHE).then_some(Upcall { flow, vif })
        }
    }
}

/// Sets an option of a socket to a value of the kernel's form.
pub(super) fn set_option<T: Plain>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let value: *const T = value;
    // SAFETY: `value` points to a live T for the length of the call; T is `Plain`, so all its bytes are initialised;
    // the kernel reads at most size_of::<T>() of them and keeps no pointer.
    let done = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, option, value.cast(), mem::size_of::<T>() as libc::socklen_t)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Types of which every byte is initialised: no padding but what is a field.
///
/// # Safety
/// As said; the sizes are asserted below.
pub(super) unsafe trait Plain {}
// SAFETY: integers, arrays of integers.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for [u32; 8] {}
// SAFETY: repr(C); the fields' sizes add up to the size asserted below, so there is no hidden padding.
unsafe impl Plain for VifCtl {}
// SAFETY: as above.
unsafe impl Plain for Mif6Ctl {}
// SAFETY: as above.
unsafe impl Plain for MfcCtl {}
// SAFETY: as above.
unsafe impl Plain for Mf6cCtl {}

const _: () = {
    assert!(mem::size_of::<VifCtl>() == 2 + 1 + 1 + 4 + 4 + 4);
    assert!(mem::size_of::<Mif6Ctl>() == 2 + 1 + 1 + 2 + 2 + 4);
    assert!(mem::size_of::<MfcCtl>() == 4 + 4 + 2 + 32 + 2 + 12 + 4);
    assert!(mem::size_of::<Mf6cCtl>() == 28 + 28 + 2 + 2 + 32);
};

/// `struct vifctl`
#[repr(C)]
struct VifCtl {
    vif: u16,
    flags: u8,
    threshold: u8,
    rate_limit: u32,
    ifindex: u32,
    remote: u32,
}

/// `struct mif6ctl`
#[repr(C)]
struct Mif6Ctl {
    vif: u16,
    flags: u8,
    threshold: u8,
    ifindex: u16,
    padding: u16,
    rate_limit: u32,
}

/// `struct mfcctl`
#[repr(C)]
struct MfcCtl {
    source: [u8; 4],
    group: [u8; 4],
    parent: u16,
    ttls: [u8; MAX_VIFS],
    padding: u16,
    counts: [u32; 3],
    expire: i32,
}

/// `struct mf6cctl`
#[repr(C)]
struct Mf6cCtl {
    source: SockAddrIn6,
    group: SockAddrIn6,
    parent: u16,
    padding: u16,
    set: [u32; 8],
}

/// `struct sockaddr_in6`
#[repr(C)]
struct SockAddrIn6 {
    family: u16,
    port: u16,
    flow_info: u32,
    address: [u8; 16],
    scope_id: u32,
}

impl From<Ipv6Addr> for SockAddrIn6 {
    fn from(address: Ipv6Addr) -> Self {
        SockAddrIn6 { family: libc::AF_INET6 as u16, port: 0, flow_info: 0, address: address.octets(), scope_id: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn upcalls() {
        let v4 = [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 1, 10, 1, 0, 1, 239, 10, 0, 1];
        let flow = Flow { source: "10.1.0.1".parse().unwrap(), group: "239.10.0.1".parse().unwrap() };
        assert_eq!(parse_upcall(Family::Ipv4, &v4), Some(Upcall { flow, vif: 258 }));
        let mut igmp = v4;
        igmp[9] = 2;
        assert_eq!(parse_upcall(Family::Ipv4, &igmp), None, "a packet from the network");
        let mut wrong_vif = v4;
        wrong_vif[8] = 2;
        assert_eq!(parse_upcall(Family::Ipv4, &wrong_vif), None);
        assert_eq!(parse_upcall(Family::Ipv4, &v4[..19]), None);

        let flow = Flow { source: "2001:db8:a::1".parse().unwrap(), group: "ff1e::1".parse().unwrap() };
        let mut v6 = vec![0, 1];
        v6.extend_from_slice(&3u16.to_ne_bytes());
        v6.extend_from_slice(&[0; 4]);
        v6.extend_from_slice(&"2001:db8:a::1".parse::<Ipv6Addr>().unwrap().octets());
        v6.extend_from_slice(&"ff1e::1".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(parse_upcall(Family::Ipv6, &v6), Some(Upcall { flow, vif: 3 }));
        assert_eq!(parse_upcall(Family::Ipv6, &v6[..39]), None);
        v6[0] = 128;
        assert_eq!(parse_upcall(Family::Ipv6, &v6), None, "an echo request");
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = (parse_upcall(Family::Ipv4, &bytes), parse_upcall(Family::Ipv6, &bytes));
        }
    }
}
