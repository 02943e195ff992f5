//! Notices that this virtual machine was rolled back to a snapshot, or is a copy of one.
//!
//! What the snapshot holds may have gone on being used: each counter under each key, each secret. The hypervisor says so
//! by a new VM generation id; since 6.10 Linux tells user space by the event `NEW_VMGENID=1`, and draws its own random
//! numbers anew. Older kernels and hypervisors without one say nothing.

use std::io;

use nix::sys::socket::SockProtocol;

use crate::announcements::{Announcements, Heard};

/// The kernel's own announcements, not those of a device manager.
const KERNEL: u32 = 1;

/// The kernel's announcements of what happens to devices.
pub(crate) struct Rollback(Announcements);

impl Rollback {
    /// From now on nothing is missed.
    pub(crate) fn watch() -> io::Result<Rollback> {
        Announcements::of(SockProtocol::NetlinkKObjectUEvent, KERNEL).map(Rollback)
    }

    /// Waits until it happens. Dropping the future loses nothing.
    pub(crate) async fn noticed(&self) -> io::Result<()> {
        // Lost ones are most likely about other devices; a new start for each would be worse.
        self.0.hear(|heard| matches!(heard, Heard::One(event) if is_rollback(event))).await
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
}
