//! What happens in the kernel without our doing: an SA is worn, or somebody has removed one.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use libc::{EAGAIN, EINTR, ENOBUFS, MSG_DONTWAIT};
use netlink_packet_xfrm::UserSaInfo;
use netlink_packet_xfrm::constants::{
    XFRM_MSG_DELSA, XFRM_MSG_EXPIRE, XFRM_MSG_FLUSHSA, XFRMNLGRP_EXPIRE, XFRMNLGRP_SA,
};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_XFRM;
use nix::poll::PollTimeout;
use tracing::debug;
use zeroize::Zeroizing;

use super::socket::messages;
use super::{State, id_of};
use crate::Error;
use crate::stop::Stop;

/// Listens to XFRM's announcements, and removes what has been retired long enough.
pub(super) struct Monitor(Socket);

impl Monitor {
    pub(super) fn open() -> Result<Self, Error> {
        let open = || {
            let mut socket = Socket::new(NETLINK_XFRM)?;
            socket.bind_auto()?;
            socket.add_membership(XFRMNLGRP_EXPIRE)?;
            socket.add_membership(XFRMNLGRP_SA)?;
            Ok(Monitor(socket))
        };
        open().map_err(Error::io::<io::Error>(|| "listening to the kernel's XFRM".into()))
    }

    /// Until it is to stop, or what was installed is not there any more.
    pub(super) fn run(&self, state: &Mutex<State>, stop: &Stop) -> Result<(), Error> {
        let locked = || state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let next = locked().next_retirement();
            let wait = next.map(|at| at.saturating_duration_since(Instant::now()).as_millis().min(60_000) as u16 + 1);
            let limit = wait.map_or(PollTimeout::NONE, PollTimeout::from);
            if !stop.wait_at_most(self.0.as_fd(), limit).map_err(Error::io(|| "waiting for XFRM".into()))? {
                return Ok(());
            }
            let is_suspicious = self.listen(state).map_err(Error::io(|| "reading XFRM's announcements".into()))?;
            let mut state = locked();
            state.remove_retired(Instant::now())?;
            if is_suspicious {
                state.check()?;
            }
        }
    }

    /// Takes what has been announced; whether one of ours may be gone.
    fn listen(&self, state: &Mutex<State>) -> io::Result<bool> {
        let mut is_suspicious = false;
        // That an SA has come is announced with its key.
        let mut buffer = Zeroizing::new(Vec::with_capacity(1 << 16));
        loop {
            buffer.clear();
            match self.0.recv(&mut *buffer, MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(EAGAIN) => return Ok(is_suspicious),
                    Some(EINTR) => continue,
                    // Something was missed.
                    Some(ENOBUFS) => is_suspicious = true,
                    _ => return Err(error),
                },
            }
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            for (_, kind, payload) in messages(&buffer) {
                match kind {
                    XFRM_MSG_FLUSHSA => is_suspicious = true,
                    XFRM_MSG_DELSA => is_suspicious |= id_of(payload).is_some_and(|id| state.sas.contains_key(&id)),
                    XFRM_MSG_EXPIRE => {
                        let expired = UserSaInfo::parse(payload).ok().map(|info| super::id_in(&info));
                        let kind = expired.and_then(|id| state.sas.get(&id)).map(|sa| sa.kind);
                        debug!(?kind, "an SA has carried many packets");
                        state.worn.extend(kind);
                    }
                    _ => {}
                }
            }
        }
    }
}
