//! Notices that this virtual machine was rolled back to a snapshot, or is a copy of one.
//!
//! What the snapshot holds may have gone on being used: each counter under each key, each secret. The hypervisor says so
//! by a new VM generation id; since 6.10 Linux tells user space by the event `NEW_VMGENID=1`, and draws its own random
//! numbers anew. Older kernels and hypervisors without one say nothing.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket, sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The kernel's own announcements, not those of a device manager.
const KERNEL: u32 = 1;
/// No event of the kernel is longer (`UEVENT_BUFFER_SIZE` and its head).
const LONGEST: usize = 4096;
/// A machine with many devices says much at once, and what is lost may be what counts.
const ROOM: usize = 1 << 20;

/// The kernel's announcements of what happens to devices.
pub(crate) struct Rollback(AsyncFd<OwnedFd>);

impl Rollback {
    /// From now on nothing is missed.
    pub(crate) fn watch() -> io::Result<Rollback> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::NetlinkKObjectUEvent;
        let socket = socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol)?;
        setsockopt(&socket, sockopt::RcvBuf, &ROOM)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL))?;
        // As in `watch.rs`.
        #[expect(deprecated, reason = "the one that replaces it is unsafe")]
        let registered = AsyncFd::with_interest(socket, Interest::READABLE);
        Ok(Rollback(registered?))
    }

    /// Waits until it happens. Dropping the future loses nothing.
    pub(crate) async fn noticed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            if self.drain()? {
                return Ok(());
            }
            ready.clear_ready();
        }
    }

    fn drain(&self) -> io::Result<bool> {
        let mut buffer = [0; LONGEST];
        loop {
            match recvfrom::<NetlinkAddr>(self.0.get_ref().as_raw_fd(), &mut buffer) {
                // Port 0 is the kernel.
                Ok((length, Some(from))) if from.pid() == 0 && is_rollback(&buffer[..length.min(LONGEST)]) => {
                    return Ok(true);
                }
                // Lost ones are most likely about other devices; a new start for each would be worse.
                Ok(_) | Err(Errno::EINTR | Errno::ENOBUFS) => {}
                Err(Errno::EAGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// An event is `action@device` and `KEY=value` strings, each ended by a zero.
fn is_rollback(event: &[u8]) -> bool {
    event.split(|byte| *byte == 0).skip(1).any(|field| field == b"NEW_VMGENID=1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_event_itself_counts() {
        assert!(is_rollback(b"change@/devices/x\0ACTION=change\0NEW_VMGENID=1\0SEQNUM=7\0"));
        for other in [
            &b""[..],
            b"NEW_VMGENID=1",
            b"change@/devices/x\0SYNTH_ARG_NEW_VMGENID=1\0",
            b"change@/devices/x\0NEW_VMGENID=10\0",
            b"add@/devices/x\0ACTION=add\0\0\0",
        ] {
            assert!(!is_rollback(other), "{other:?}");
        }
    }

    #[tokio::test]
    async fn it_can_be_watched_by_anybody_and_nothing_has_happened() {
        let rollback = Rollback::watch().unwrap();
        assert!(!rollback.drain().unwrap());
    }
}
