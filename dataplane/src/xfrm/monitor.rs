//! What happens in the kernel without our doing: an SA is worn, or somebody has removed one.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use netlink_packet_xfrm::constants::{
    XFRM_MSG_DELSA, XFRM_MSG_EXPIRE, XFRM_MSG_FLUSHSA, XFRMNLGRP_EXPIRE, XFRMNLGRP_SA,
};
use netlink_sys::protocols::NETLINK_XFRM;
use nix::poll::PollTimeout;
use tracing::debug;

use super::dump::{id_of_gone, id_of_worn};
use super::state::State;
use crate::Error;
use crate::netlink::batch::Message;
use crate::netlink::listener::Listener;
use crate::stop::Stop;

/// Listens to XFRM's announcements, and removes what has been retired long enough.
pub(super) struct Monitor(Listener);

impl Monitor {
    pub(super) fn open() -> Result<Self, Error> {
        Listener::open(NETLINK_XFRM, &[XFRMNLGRP_EXPIRE, XFRMNLGRP_SA], "listening to the kernel's XFRM").map(Monitor)
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
        let is_missed = self.0.take(|Message { kind, payload, .. }| {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            match kind {
                XFRM_MSG_FLUSHSA => is_suspicious = true,
                XFRM_MSG_DELSA => {
                    is_suspicious |= id_of_gone(payload).is_some_and(|id| state.sas.contains_key(&id));
                }
                XFRM_MSG_EXPIRE => {
                    let worn = id_of_worn(payload).filter(|id| state.sas.contains_key(id));
                    debug!(?worn, "an SA has carried many packets");
                    state.worn.extend(worn);
                }
                _ => {}
            }
        })?;
        Ok(is_suspicious || is_missed)
    }
}
