//! A netlink socket that hears what the kernel announces, to be read by a thread that waits for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use libc::{EAGAIN, EINTR, ENOBUFS, MSG_DONTWAIT};
use netlink_sys::Socket;
use nix::sys::socket::{setsockopt, sockopt};
use zeroize::Zeroizing;

use super::batch::{Message, messages};
use crate::Error;

/// A kilobyte an SA, and thousands of them; or the elements of somebody's sets.
const RECEIVED: usize = 8 << 20;

pub(crate) struct Listener(Socket);

impl Listener {
    /// `what` is told when it cannot be opened.
    pub(crate) fn open(protocol: isize, groups: &[u32], what: &str) -> Result<Self, Error> {
        let open = || {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            groups.iter().try_for_each(|group| socket.add_membership(*group))?;
            // An epoch's SAs are announced at once, with their keys. Without the right to more the default has to do.
            let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVED);
            Ok(socket)
        };
        open().map(Listener).map_err(Error::io::<io::Error>(|| what.to_owned()))
    }

    /// Hands what has been announced to `each`; whether something was missed.
    pub(crate) fn take(&self, mut each: impl FnMut(Message<'_>)) -> io::Result<bool> {
        let mut is_missed = false;
        // That an SA has come is announced with its key.
        let mut buffer = Zeroizing::new(Vec::with_capacity(1 << 16));
        loop {
            buffer.clear();
            match self.0.recv(&mut *buffer, MSG_DONTWAIT) {
                Ok(_) => messages(&buffer).for_each(&mut each),
                Err(error) => match error.raw_os_error() {
                    Some(EAGAIN) => return Ok(is_missed),
                    Some(EINTR) => {}
                    Some(ENOBUFS) => is_missed = true,
                    _ => return Err(error),
                },
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
