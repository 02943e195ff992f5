//! What happens in the kernel without our doing: an SA is worn, or somebody has removed one, or the packet filter.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use libc::{EAGAIN, EINTR, ENOBUFS, MSG_DONTWAIT};
use netlink_packet_xfrm::constants::{
    XFRM_MSG_DELSA, XFRM_MSG_EXPIRE, XFRM_MSG_FLUSHSA, XFRMNLGRP_EXPIRE, XFRMNLGRP_SA,
};
use netlink_sys::Socket;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_XFRM};
use nix::poll::PollTimeout;
use nix::sys::socket::{setsockopt, sockopt};
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::dump::{id_of_gone, id_of_worn};
use super::state::State;
use crate::Error;
use crate::netlink::batch::messages;
use crate::policy::Policies;
use crate::stop::Stop;

const NFNLGRP_NFTABLES: u32 = 7;
/// A kilobyte an SA, and thousands of them.
const RECEIVED: usize = 8 << 20;

/// Listens to XFRM's announcements, and removes what has been retired long enough.
pub(super) struct Monitor(Socket);

impl Monitor {
    pub(super) fn open() -> Result<Self, Error> {
        listen(NETLINK_XFRM, &[XFRMNLGRP_EXPIRE, XFRMNLGRP_SA], "listening to the kernel's XFRM").map(Monitor)
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
            let is_suspicious = self.take(state).map_err(Error::io(|| "reading XFRM's announcements".into()))?;
            let mut state = locked();
            state.remove_retired(Instant::now())?;
            if is_suspicious {
                state.check()?;
            }
        }
    }

    /// Takes what has been announced; whether one of ours may be gone.
    fn take(&self, state: &Mutex<State>) -> io::Result<bool> {
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
                    XFRM_MSG_DELSA => {
                        is_suspicious |= id_of_gone(payload).is_some_and(|id| state.sas.contains_key(&id))
                    }
                    XFRM_MSG_EXPIRE => {
                        let worn = id_of_worn(payload).filter(|id| state.sas.contains_key(id));
                        debug!(?worn, "an SA has carried many packets");
                        state.worn.extend(worn);
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Listens to the packet filter's announcements: whoever loads rules of his own may flush all others before.
pub(super) struct FilterMonitor(Socket);

impl FilterMonitor {
    pub(super) fn open() -> Result<Self, Error> {
        listen(NETLINK_NETFILTER, &[NFNLGRP_NFTABLES], "listening to the kernel's packet filter").map(FilterMonitor)
    }

    /// Until it is to stop, sets the filter again when it is gone. Until then the SAs let through what it stops.
    pub(super) fn run(&self, state: &Mutex<State>, policies: &Policies, stop: &Stop) -> Result<(), Error> {
        while stop.wait(self.0.as_fd()).map_err(Error::io(|| "waiting for the packet filter".into()))? {
            let mut buffer = Vec::with_capacity(1 << 16);
            // What is announced does not matter: it is looked whether all is there.
            while self.0.recv(&mut buffer, MSG_DONTWAIT).is_ok() {
                buffer.clear();
            }
            let state = &mut *state.lock().unwrap_or_else(PoisonError::into_inner);
            if !state.filter.stands() {
                warn!("somebody has removed the packet filter that checks inner sources; it is set again");
                state.filter.set_again(&policies.load(), &state.reqids)?;
            }
        }
        Ok(())
    }
}

fn listen(protocol: isize, groups: &[u32], what: &str) -> Result<Socket, Error> {
    let open = || {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        groups.iter().try_for_each(|group| socket.add_membership(*group))?;
        // An epoch's SAs are announced at once, with their keys. Without the right to more the default has to do.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVED);
        Ok(socket)
    };
    open().map_err(Error::io::<io::Error>(|| what.to_owned()))
}
