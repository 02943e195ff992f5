//! What the driver can tell the machine besides datagrams and time.

use std::time::Duration;

use muster_certs::TrustStore;
use muster_wire::idp::{Goodbye, GroupState};
use muster_wire::{Destination, Time};

use crate::config::{GOODBYES, REFUSED_HOLD, TRIGGER_SPACING, check_interval};
use crate::{Discovery, SetupError};

impl Discovery {
    /// What key agreement wants the others to know.
    ///
    /// Every hello costs every neighbour the check of a signature, and a change of a group changes the state of all its
    /// members. So only what somebody waits for is told at once: what a transaction manager says of its own group, best
    /// when that sends under its new key. That a member has come to another group is told soon, for a group's size
    /// counts by the hellos that name it; that it has followed its group into another epoch comes with the next hello.
    pub fn set_group_state(&mut self, now: Time, group: GroupState) {
        let Some(before) = self.group.replace(group).filter(|before| *before != group) else { return };
        if group.instance.tm == self.author.member() {
            let wait = if group.active { Duration::ZERO } else { TRIGGER_SPACING };
            self.schedule.trigger_after(now, wait);
        } else if group.instance != before.instance {
            let wait = self.spread();
            self.schedule.trigger_after(now, wait);
        }
    }

    /// Says the group's state soon, to all: it counts as an acknowledgement.
    pub fn tell_group_state(&mut self, now: Time) {
        let wait = self.spread();
        self.schedule.trigger_after(now, wait);
    }

    /// Says what the wall clock shows, at the start and whenever it was set.
    pub fn set_wall_clock(&mut self, now: Time, unix: u64) {
        // A router without a clock of its own learns the time late: who was refused for it may try at once.
        if unix.abs_diff(self.unix(now)) >= REFUSED_HOLD.as_secs() {
            self.peers.forget_refused(|_| true);
        }
        self.clock = (now, unix);
    }

    /// Other trust anchors or revocation lists: neighbours that they do not vouch for are gone, and those refused may
    /// try at once. Newer lists that have come from neighbours stay in force.
    pub fn set_trust(&mut self, now: Time, mut trust: TrustStore) {
        trust.keep_lists_of(&self.trust);
        self.trust = trust;
        self.review_trust(now);
    }

    /// Another hello interval, told to the others at once: they measure our silence by it.
    pub fn set_hello_interval(&mut self, now: Time, interval: Duration) -> Result<(), SetupError> {
        check_interval(interval)?;
        if interval != self.config.hello_interval {
            self.config.hello_interval = interval;
            self.schedule.restart(now);
        }
        Ok(())
    }

    /// Says hello as soon as the distance of triggered hellos allows: the others learn our address by it.
    pub fn announce(&mut self, now: Time) {
        self.schedule.trigger(now);
    }

    /// Says goodbye. The machine does nothing more; what is left to send is to be polled.
    pub fn shutdown(&mut self, _now: Time) {
        if !self.stopped && self.schedule.has_begun() {
            (0..GOODBYES).for_each(|_| self.send(Destination::Group, &Goodbye {}));
        }
        self.stopped = true;
    }
}
