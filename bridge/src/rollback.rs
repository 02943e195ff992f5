//! Notices that this virtual machine was rolled back to a snapshot, or is a copy of one.
//!
//! What the snapshot holds may have gone on being used: each counter under each key, each secret. The hypervisor says so
//! by a new VM generation id; since 6.10 Linux tells user space by the event `NEW_VMGENID=1`, and draws its own random
//! numbers anew. Older kernels and hypervisors without one say nothing.

use std::io;

use nix::sys::socket::SockProtocol;
use socket2::SockFilter;

use crate::announcements::{Announcements, Heard};

/// The kernel's own announcements, not those of a device manager.
const KERNEL: u32 = 1;

/// Lets through what begins with `change@/`, as the event does: devices that come and go do not fill the socket
/// (`linux/filter.h`: two words are loaded, each compared, and all or nothing returned).
const CHANGES: [SockFilter; 6] = [
    SockFilter::new(0x20, 0, 0, 0),
    SockFilter::new(0x15, 0, 3, u32::from_be_bytes(*b"chan")),
    SockFilter::new(0x20, 0, 0, 4),
    SockFilter::new(0x15, 0, 1, u32::from_be_bytes(*b"ge@/")),
    SockFilter::new(0x06, 0, 0, u32::MAX),
    SockFilter::new(0x06, 0, 0, 0),
];

/// The kernel's announcements of what happens to devices.
pub(crate) struct Rollback(Announcements);

impl Rollback {
    /// From now on nothing is missed.
    pub(crate) fn watch() -> io::Result<Rollback> {
        Announcements::of(SockProtocol::NetlinkKObjectUEvent, KERNEL, Some(&CHANGES)).map(Rollback)
    }

    /// Waits until it happens, or may have happened. Dropping the future loses nothing.
    pub(crate) async fn noticed(&self) -> io::Result<()> {
        self.0.hear(may_be_rollback).await
    }

    /// Whether it has happened, or may have, since the last look. For whoever is about to use what a snapshot holds.
    pub(crate) fn has_happened(&self) -> io::Result<bool> {
        self.0.drain(may_be_rollback)
    }
}

/// What was lost may have been it, and the id itself cannot be read. A new start for nothing costs a join, none costs
/// every key. Events of the right kind fill the socket only while this process stands still, as it does when its machine
/// is stopped for a snapshot.
fn may_be_rollback(heard: Heard<'_>) -> bool {
    match heard {
        Heard::One(event) => is_rollback(event),
        Heard::Lost => true,
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
    fn what_was_lost_may_have_been_it() {
        assert!(may_be_rollback(Heard::Lost));
        assert!(!may_be_rollback(Heard::One(b"change@/devices/x\0ACTION=change\0")));
    }

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
}
