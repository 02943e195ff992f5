//! Many packets in one system call: `recvmmsg` and `sendmmsg`.
//!
//! What the kernel is pointed to is written anew before each call, and no pointer is used after it.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use socket2::SockAddr;

/// Packets in one call.
pub(super) const MOST: usize = 64;

/// Room for a packet; of what is in it, `len` octets count.
pub(crate) struct Buffer<'a> {
    pub(crate) bytes: &'a mut [u8],
    pub(crate) len: usize,
}

impl<'a> Buffer<'a> {
    /// All of it counts.
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        let len = bytes.len();
        Buffer { bytes, len }
    }

    /// Divides `memory` into buffers of `len` octets. One large piece of memory costs only what of it is ever written.
    pub(crate) fn divide(memory: &'a mut [u8], len: usize) -> Vec<Self> {
        memory.chunks_exact_mut(len).map(Buffer::new).collect()
    }
}

impl AsRef<[u8]> for Buffer<'_> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsMut<[u8]> for Buffer<'_> {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

/// Octets of control messages, aligned as their headers are: IPV6_PKTINFO and IPV6_TCLASS take 64.
type Control = [u64; 8];

/// Where packets are received.
pub(super) struct Inbox {
    headers: Vec<libc::mmsghdr>,
    pieces: Vec<libc::iovec>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
}

/// What came beside a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Beside {
    pub(super) source: Option<IpAddr>,
    /// IPV6_PKTINFO
    pub(super) destination: Option<Ipv6Addr>,
    /// IPV6_TCLASS
    pub(super) class: Option<u8>,
}

impl Inbox {
    pub(super) fn new() -> Self {
        // SAFETY: all of these are plain C structures, of which all zeros is a value.
        let (header, piece, name) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        Inbox {
            headers: vec![header; MOST],
            pieces: vec![piece; MOST],
            names: vec![name; MOST],
            controls: vec![Control::default(); MOST],
        }
    }

    /// Receives what waits, a packet into each of `buffers`; how many.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, buffers: &mut [Buffer<'_>]) -> io::Result<usize> {
        let count = buffers.len().min(MOST);
        for (at, buffer) in buffers[..count].iter_mut().enumerate() {
            self.pieces[at] = libc::iovec { iov_base: buffer.bytes.as_mut_ptr().cast(), iov_len: buffer.bytes.len() };
            let header = &mut self.headers[at].msg_hdr;
            header.msg_name = (&raw mut self.names[at]).cast();
            header.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut self.pieces[at];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[at].as_mut_ptr().cast();
            header.msg_controllen = mem::size_of::<Control>();
        }
        // SAFETY: `count` headers were set up above to point to live memory of the stated sizes, which nobody else uses
        // during the call: the vectors are not touched, and `buffers` is borrowed.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        // Negative: an error.
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (buffer, header) in buffers.iter_mut().zip(&self.headers[..received]) {
            buffer.len = (header.msg_len as usize).min(buffer.bytes.len());
        }
        Ok(received)
    }

    /// What came beside packet `at` of those received last.
    pub(super) fn beside(&self, at: usize) -> Beside {
        let mut beside = Beside { source: ip_of(&self.names[at]), ..Beside::default() };
        let header = &self.headers[at].msg_hdr;
        // SAFETY: the kernel has written `msg_controllen` octets of control messages into `controls[at]`, which
        // `msg_control` points to since `receive` and which has not moved; CMSG_FIRSTHDR and CMSG_NXTHDR stay within
        // them, and each read is of a type that the kernel writes for that kind, wherever it is aligned.
        unsafe {
            let mut next = libc::CMSG_FIRSTHDR(header);
            while let Some(control) = next.as_ref() {
                let data = libc::CMSG_DATA(next);
                match (control.cmsg_level, control.cmsg_type) {
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        let info: libc::in6_pktinfo = ptr::read_unaligned(data.cast());
                        beside.destination = Some(info.ipi6_addr.s6_addr.into());
                    }
                    // An octet in an int.
                    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                        beside.class = Some(ptr::read_unaligned(data.cast::<libc::c_int>()) as u8);
                    }
                    _ => {}
                }
                next = libc::CMSG_NXTHDR(header, next);
            }
        }
        beside
    }
}

fn ip_of(name: &libc::sockaddr_storage) -> Option<IpAddr> {
    let name: *const libc::sockaddr_storage = name;
    // SAFETY: a sockaddr_storage is large enough for and aligned as any address, and the family says which one it is.
    unsafe {
        match libc::c_int::from((*name).ss_family) {
            libc::AF_INET => {
                Some(Ipv4Addr::from(u32::from_be((*name.cast::<libc::sockaddr_in>()).sin_addr.s_addr)).into())
            }
            libc::AF_INET6 => Some(Ipv6Addr::from((*name.cast::<libc::sockaddr_in6>()).sin6_addr.s6_addr).into()),
            _ => None,
        }
    }
}

/// A packet to be sent: its octets, where to, and its outer DSCP and ECN.
pub(super) struct Parcel<'a> {
    pub(super) packet: &'a [u8],
    pub(super) to: SockAddr,
    pub(super) class: u8,
}

/// What packets are sent from.
pub(super) struct Outbox {
    headers: Vec<libc::mmsghdr>,
    pieces: Vec<libc::iovec>,
    names: Vec<SockAddr>,
    controls: Vec<Control>,
}

impl Outbox {
    pub(super) fn new() -> Self {
        let names = Vec::with_capacity(MOST);
        let Inbox { headers, pieces, controls, .. } = Inbox::new();
        Outbox { headers, pieces, names, controls }
    }

    /// Sends `parcels` in order; tells of each whether the kernel took it.
    pub(super) fn send<'a>(
        &mut self,
        socket: BorrowedFd<'_>,
        ipv4: bool,
        parcels: impl Iterator<Item = Parcel<'a>>,
        mut told: impl FnMut(io::Result<()>),
    ) {
        let (mut parcels, mut flags) = (parcels.peekable(), 0);
        while parcels.peek().is_some() {
            self.names.clear();
            let mut count = 0;
            for Parcel { packet, to, class } in parcels.by_ref().take(MOST) {
                self.names.push(to);
                self.write(count, packet, class, ipv4);
                count += 1;
            }
            self.send_written(socket, count, &mut flags, &mut told);
        }
    }

    fn write(&mut self, at: usize, packet: &[u8], class: u8, ipv4: bool) {
        self.pieces[at] = libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() };
        let header = &mut self.headers[at].msg_hdr;
        // The names have room for all: they do not move until they are cleared.
        header.msg_name = self.names[at].as_ptr().cast_mut().cast();
        header.msg_namelen = self.names[at].len();
        header.msg_iov = &raw mut self.pieces[at];
        header.msg_iovlen = 1;
        if class == 0 {
            (header.msg_control, header.msg_controllen) = (ptr::null_mut(), 0);
            return;
        }
        header.msg_control = self.controls[at].as_mut_ptr().cast();
        let (level, kind) =
            if ipv4 { (libc::IPPROTO_IP, libc::IP_TOS) } else { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) };
        let int = mem::size_of::<libc::c_int>() as libc::c_uint;
        // SAFETY: a control message with an int has its place in `Control`, which is aligned for its header.
        unsafe {
            header.msg_controllen = libc::CMSG_SPACE(int) as usize;
            let control = &mut *libc::CMSG_FIRSTHDR(header);
            (control.cmsg_level, control.cmsg_type) = (level, kind);
            control.cmsg_len = libc::CMSG_LEN(int) as usize;
            ptr::write_unaligned(libc::CMSG_DATA(control).cast::<libc::c_int>(), class.into());
        }
    }

    /// `flags`: becomes MSG_DONTWAIT when one had to wait too long, so that a queue that stands is waited for once.
    fn send_written(
        &mut self,
        socket: BorrowedFd<'_>,
        count: usize,
        flags: &mut libc::c_int,
        told: &mut impl FnMut(io::Result<()>),
    ) {
        let mut done = 0;
        while done < count {
            let rest = &mut self.headers[done..count];
            // SAFETY: these headers were written by `write` for this call and point to packets that `send` has borrowed
            // from its caller, and to names and controls of this struct, all live and in place; the kernel only reads them.
            let sent =
                unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as libc::c_uint, *flags) };
            match usize::try_from(sent) {
                Ok(sent) if sent > 0 => {
                    (0..sent).for_each(|_| told(Ok(())));
                    done += sent;
                }
                // The first of the rest was refused.
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() == io::ErrorKind::WouldBlock {
                        *flags = libc::MSG_DONTWAIT;
                    }
                    told(Err(error));
                    done += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::AsFd;

    use super::*;
    use nix::sys::socket::{setsockopt, sockopt};

    #[test]
    fn packets_arrive_with_what_stands_beside_them() {
        let (from, to) = (UdpSocket::bind("[::1]:0").unwrap(), UdpSocket::bind("[::1]:0").unwrap());
        setsockopt(&to, sockopt::Ipv6RecvPacketInfo, &true).unwrap();
        setsockopt(&to, sockopt::Ipv6RecvTClass, &true).unwrap();
        let packets: Vec<Vec<u8>> = (0..150_u8).map(|n| vec![n; usize::from(n)]).collect();
        let address: SocketAddr = to.local_addr().unwrap();
        let parcels = packets.iter().zip(0..).map(|(packet, class)| Parcel { packet, to: address.into(), class });
        let mut taken = 0;
        Outbox::new().send(from.as_fd(), false, parcels, |sent| taken += usize::from(sent.is_ok()));
        assert_eq!(taken, packets.len());

        let mut inbox = Inbox::new();
        let mut memory = vec![0; MOST * 200];
        let mut buffers = Buffer::divide(&mut memory, 200);
        let mut got = Vec::new();
        while got.len() < packets.len() {
            let received = inbox.receive(to.as_fd(), &mut buffers).unwrap();
            for (at, buffer) in buffers[..received].iter().enumerate() {
                got.push((buffer.as_ref().to_vec(), inbox.beside(at)));
            }
        }
        for ((nth, expected), (packet, beside)) in (0..).zip(&packets).zip(&got) {
            assert_eq!(packet, expected);
            let here = std::net::Ipv6Addr::LOCALHOST;
            assert_eq!(*beside, Beside { source: Some(here.into()), destination: Some(here), class: Some(nth) });
        }
        assert_eq!(inbox.receive(to.as_fd(), &mut buffers).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_is_refused_keeps_nothing_else_back() {
        let (from, to) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let (good, bad) = (vec![1; 10], vec![2; 70_000]);
        let packets = [&good, &bad, &good, &bad, &good];
        let address: SocketAddr = to.local_addr().unwrap();
        let parcels = packets.iter().map(|packet| Parcel { packet, to: address.into(), class: 0xb8 });
        let mut taken = Vec::new();
        Outbox::new().send(from.as_fd(), true, parcels, |sent| taken.push(sent.is_ok()));
        assert_eq!(taken, [true, false, true, false, true]);
        let mut memory = vec![0; MOST * 200];
        let mut buffers = Buffer::divide(&mut memory, 200);
        let mut inbox = Inbox::new();
        assert_eq!(inbox.receive(to.as_fd(), &mut buffers).unwrap(), 3);
        assert!(inbox.beside(0).source.is_some_and(|source| source.is_ipv4()));
    }
}
