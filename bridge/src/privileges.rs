//! What the daemon may do, cut down to what it needs.

use std::io;

use caps::{CapSet, Capability, CapsHashSet};

/// Gives everything else up, for this thread and those that it will start.
pub(crate) fn keep_only(keep: &[Capability]) -> Result<(), caps::errors::CapsError> {
    let keep: CapsHashSet = keep.iter().copied().collect();
    // First, for it needs CAP_SETPCAP, which goes with the rest. Without it the bounding set stays as it is.
    for capability in caps::read(None, CapSet::Bounding)?.difference(&keep) {
        let _ = caps::drop(None, CapSet::Bounding, *capability);
    }
    let held = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = held.intersection(&keep).copied().collect();
    caps::clear(None, CapSet::Ambient).ok();
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

/// Keys do not go into core dumps, nor to a debugger of the same user.
pub(crate) fn forbid_core_dumps() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}
