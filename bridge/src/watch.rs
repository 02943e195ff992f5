//! Says when an interface or an address of this machine has changed, without asking again and again.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV6_IFADDR` of `linux/rtnetlink.h`.
const GROUPS: u32 = 0x1 | 0x10 | 0x100;

/// The kernel's announcements for links and addresses of this network namespace. What they say is not read: they are
/// a reason to look, so that a lost one costs nothing.
pub(crate) struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    /// From now on no change is missed: make it first, then look.
    pub(crate) fn start() -> io::Result<Watch> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        // What makes it deprecated are inner types whose descriptor may change; a socket's own does not.
        #[expect(deprecated, reason = "the one that replaces it is unsafe")]
        let registered = AsyncFd::with_interest(socket, Interest::READABLE);
        Ok(Watch(registered?))
    }

    /// Waits for a change; those of one moment count as one. Dropping the future loses none.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            if self.drain()? {
                return Ok(());
            }
            ready.clear_ready();
        }
    }

    /// Whether anything was there.
    fn drain(&self) -> io::Result<bool> {
        let (mut buffer, mut any) = ([0; 64], false);
        loop {
            match recv(self.0.get_ref().as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                // More than the socket holds: some were lost, and it says so.
                Ok(_) | Err(Errno::ENOBUFS) => any = true,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(any),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
