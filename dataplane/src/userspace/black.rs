//! The black side: raw sockets of protocol 50, bound to the black interface.

use std::io::{self, ErrorKind};
use std::mem;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use libc::{
    BPF_ABS, BPF_ALU, BPF_B, BPF_IND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_LDX, BPF_MOD, BPF_MSH, BPF_RET, BPF_W,
};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::Error;
use crate::black_socket::{at, deafen, join, leave};
use crate::config::EspConfig;
use crate::userspace::crossing::Sealed;
use crate::userspace::sad::Sad;

use super::mmsg::{Beside, Buffer, Inbox, Outbox, Parcel};

/// IANA protocol number of ESP.
const ESP: i32 = 50;
/// Of an IPv4 header without options.
const IPV4_HEADER: usize = 20;
/// Enough for a burst of some thousand packets.
const BUFFER: usize = 4 << 20;
/// How long a full interface queue may hold up the sender before its packets are dropped.
const SEND_TIMEOUT: Duration = Duration::from_millis(100);

/// One of several threads each way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) nth: u8,
    pub(super) of: u8,
}

/// One socket that sends from the black address, one that receives what comes for the groups and for this router.
pub(super) struct Black {
    sender: Socket,
    receiver: Socket,
    address: IpAddr,
    ifindex: u32,
}

/// What the outer header said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outer {
    pub(super) destination: IpAddr,
    /// DSCP and ECN.
    pub(super) class: u8,
}

impl Black {
    /// `ifindex`: of `config.black_interface`; received are the SAs of this share alone.
    pub(super) fn open(config: &EspConfig, ifindex: u32, share: Share) -> Result<Self, Error> {
        let EspConfig { black_interface: name, black_address: address, .. } = config;
        let what = |doing: &'static str| Error::io(move || format!("interface {name}: {doing} (address {address})"));
        let sender =
            Self::socket(config).map_err(what("opening a raw socket for ESP; needs CAP_NET_RAW and CAP_NET_ADMIN"))?;
        sender
            .bind(&at(*address, ifindex))
            .map_err(what("binding to the black address; is it assigned and usable?"))?;
        Self::prepare_sender(&sender, config, ifindex).map_err(what("setting up the sending socket"))?;

        let receiver = Self::socket(config).map_err(what("opening a raw socket for ESP"))?;
        if share.of > 1 {
            let filter = share.filter(address.is_ipv4());
            receiver.attach_filter(&filter).map_err(what("sharing out SAs among the threads"))?;
        }
        deafen(&receiver, address.is_ipv4()).map_err(what("closing the socket to other groups"))?;
        if address.is_ipv6() {
            // The header of IPv4 is delivered, that of IPv6 is not.
            let asked = setsockopt(&receiver, sockopt::Ipv6RecvPacketInfo, &true)
                .and_then(|()| setsockopt(&receiver, sockopt::Ipv6RecvTClass, &true));
            asked.map_err(io::Error::from).map_err(what("asking for the outer header"))?;
        }
        Ok(Black { sender, receiver, address: *address, ifindex })
    }

    /// Receives for this group, too.
    pub(super) fn join(&self, group: IpAddr) -> Result<(), Error> {
        join(&self.receiver, group, self.ifindex)
    }

    /// Receives for it no longer.
    pub(super) fn leave(&self, group: IpAddr) {
        leave(&self.receiver, group, self.ifindex);
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
        // It receives nothing: that is the other's work.
        socket.attach_filter(&[SockFilter::new(0x06, 0, 0, 0)])?;
        socket.set_nonblocking(false)?;
        socket.set_write_timeout(Some(SEND_TIMEOUT))
    }

    /// Sends ESP packets, each as `Sealed` says, and counts what becomes of them.
    pub(super) fn send<'a>(
        &self,
        outbox: &mut Outbox,
        packets: impl Iterator<Item = (&'a [u8], &'a Sealed)>,
        sad: &Sad,
    ) -> Result<(), Error> {
        let parcels = packets.map(|(packet, Sealed { destination, class, .. })| Parcel {
            packet,
            to: at(*destination, self.ifindex),
            class: *class,
        });
        let mut result = Ok(());
        outbox.send(self.sender.as_fd(), self.address.is_ipv4(), parcels, |sent| {
            let count = match sent {
                Ok(()) => &sad.counts.tx_packets,
                Err(error) if is_too_big(&error) => &sad.counts.too_big,
                Err(error) if is_transient(&error) => &sad.counts.io,
                Err(error) => return result = Err(Error::io(|| "sending ESP".into())(error)),
            };
            count.fetch_add(1, Relaxed);
        });
        result
    }

    /// Where in a buffer an ESP packet begins: raw IPv4 sockets deliver the outer header, too.
    pub(super) fn esp_at(&self) -> usize {
        if self.address.is_ipv4() { IPV4_HEADER } else { 0 }
    }

    /// Receives what waits, with outer headers where the family has it so; how many packets.
    pub(super) fn receive(&self, inbox: &mut Inbox, buffers: &mut [Buffer<'_>]) -> io::Result<usize> {
        inbox.receive(self.receiver.as_fd(), buffers)
    }

    /// What the outer header of packet `nth` of those received last said; the ESP packet then begins at [`Self::esp_at`].
    /// `None`: one to pass over, an own one that the network sent back, or an outer header that is none.
    pub(super) fn outer(&self, inbox: &Inbox, nth: usize, buffer: &mut Buffer<'_>) -> Option<Outer> {
        let Beside { source, destination, class } = inbox.beside(nth);
        if source == Some(self.address) {
            return None;
        }
        if self.address.is_ipv6() {
            let destination = destination.map_or(self.address, IpAddr::from);
            return Some(Outer { destination, class: class.unwrap_or(0) });
        }
        let (outer, len) = outer_header(buffer.as_ref())?;
        // Options are rare.
        if len > IPV4_HEADER {
            buffer.as_mut().copy_within(len.., IPV4_HEADER);
            buffer.len -= len - IPV4_HEADER;
        }
        Some(outer)
    }
}

impl Share {
    /// Every raw socket is shown every packet; this lets those pass whose SPI leaves `nth` when divided by `of` (classic BPF).
    fn filter(self, ipv4: bool) -> Vec<SockFilter> {
        // The SPI. A raw socket is shown the IP header of IPv4 before it, and none of IPv6.
        let load = if ipv4 {
            vec![(BPF_LDX | BPF_B | BPF_MSH, 0, 0), (BPF_LD | BPF_W | BPF_IND, 0, 0)]
        } else {
            vec![(BPF_LD | BPF_W | BPF_ABS, 0, 0)]
        };
        let rest = [
            (BPF_ALU | BPF_MOD | BPF_K, 0, self.of.into()),
            // Ours: over the refusal.
            (BPF_JMP | BPF_JEQ | BPF_K, 1, self.nth.into()),
            (BPF_RET | BPF_K, 0, 0),
            (BPF_RET | BPF_K, 0, u32::MAX),
        ];
        load.into_iter().chain(rest).map(|(code, yes, k)| SockFilter::new(code as u16, yes, 0, k)).collect()
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
                    | libc::ENODEV
                    | libc::ENXIO
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

/// Raw IPv4 sockets deliver the outer header too: what it says, and how long it is. `None`: not what it should be.
fn outer_header(packet: &[u8]) -> Option<(Outer, usize)> {
    let first = *packet.first()?;
    let len = usize::from(first & 0xf) * 4;
    let header = packet.get(..len).filter(|_| first >> 4 == 4)?.first_chunk::<20>()?;
    let destination = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
    Some((Outer { destination: destination.into(), class: header[1] }, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outer_headers() {
        let mut packet = [0; 40];
        (packet[0], packet[1]) = (0x45, 0xb9);
        packet[16..20].copy_from_slice(&[192, 0, 2, 1]);
        let outer = Outer { destination: [192, 0, 2, 1].into(), class: 0xb9 };
        assert_eq!(outer_header(&packet), Some((outer, 20)));
        packet[0] = 0x4a;
        assert_eq!(outer_header(&packet), Some((outer, 40)));
        for bad in [0x4b, 0x44, 0x65, 0] {
            packet[0] = bad;
            assert_eq!(outer_header(&packet), None);
        }
        assert_eq!(outer_header(&[]), None);
    }
}
