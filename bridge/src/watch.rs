//! Says when an interface or an address of this machine has changed.

use std::io;

use nix::sys::socket::SockProtocol;

use crate::announcements::Announcements;

/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV6_IFADDR` of `linux/rtnetlink.h`.
const GROUPS: u32 = 0x1 | 0x10 | 0x100;

/// The kernel's announcements for links and addresses. What they say is not read: they are a reason to look, so that a
/// lost one costs nothing.
pub(crate) struct Watch(Announcements);

impl Watch {
    /// From now on no change is missed: make it first, then look.
    pub(crate) fn start() -> io::Result<Watch> {
        Announcements::of(SockProtocol::NetlinkRoute, GROUPS, None).map(Watch)
    }

    /// Waits for a change; those of one moment count as one. Dropping the future loses none.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        self.0.hear(|_| true).await
    }
}
