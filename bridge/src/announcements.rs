//! What the kernel announces to whoever listens, without asking again and again (multicast netlink, netlink(7)).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket, sockopt,
};
use socket2::{SockFilter, SockRef};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Of a longer one the beginning is read.
const LONGEST: usize = 4096;
/// A machine with many devices says much at once.
const ROOM: usize = 1 << 20;

/// A socket that hears the announcements of this network namespace.
pub(crate) struct Announcements(AsyncFd<OwnedFd>);

/// What came.
pub(crate) enum Heard<'a> {
    /// One from the kernel itself: its beginning.
    One(&'a [u8]),
    /// More than the socket holds: some were lost.
    Lost,
}

impl Announcements {
    /// From now on none is missed without a word. What `filter` does not let through takes none of the socket's room.
    pub(crate) fn of(protocol: SockProtocol, groups: u32, filter: Option<&[SockFilter]>) -> io::Result<Announcements> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        setsockopt(&socket, sockopt::RcvBuf, &ROOM)?;
        if let Some(filter) = filter {
            SockRef::from(&socket).attach_filter(filter)?;
        }
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        // What makes it deprecated are inner types whose descriptor may change; a socket's own does not.
        #[expect(deprecated, reason = "the one that replaces it is unsafe")]
        let registered = AsyncFd::with_interest(socket, Interest::READABLE);
        Ok(Announcements(registered?))
    }

    /// Waits for one that is `wanted`; those of one moment count as one. Dropping the future loses none.
    pub(crate) async fn hear(&self, wanted: impl Fn(Heard<'_>) -> bool) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            if self.drain(&wanted)? {
                return Ok(());
            }
            ready.clear_ready();
        }
    }

    /// Takes what is there without waiting for more; whether any of it was `wanted`.
    pub(crate) fn drain(&self, wanted: impl Fn(Heard<'_>) -> bool) -> io::Result<bool> {
        let (mut buffer, mut any) = ([0; LONGEST], false);
        loop {
            match recvfrom::<NetlinkAddr>(self.0.get_ref().as_raw_fd(), &mut buffer) {
                // Port 0 is the kernel.
                Ok((length, Some(from))) if from.pid() == 0 => any |= wanted(Heard::One(&buffer[..length])),
                Err(Errno::ENOBUFS) => any |= wanted(Heard::Lost),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(any),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
