//! Who takes part: the simulator's devices. Those of the last nation are strangers to all others.

use std::sync::LazyLock;

use muster_certs::TrustStore;
use muster_sim::{Device, anchor, device};
use muster_wire::{GroupTag, MemberId};

pub(crate) const GROUP: GroupTag = GroupTag([7; 16]);
/// Wall clock at the start.
pub(crate) const UNIX: u64 = 1_800_000_000;
/// The device of a nation that the others do not trust.
pub(crate) const STRANGER: usize = muster_sim::NATIONS - 1;

/// Trusts all nations but the stranger's.
pub(crate) fn trust() -> TrustStore {
    static TRUST: LazyLock<TrustStore> = LazyLock::new(|| with_crls(Vec::new()));
    TRUST.clone()
}

/// The same, with revocation lists.
pub(crate) fn with_crls(crls: Vec<Vec<u8>>) -> TrustStore {
    let anchors = (0..STRANGER).map(|nation| anchor(nation).to_vec()).collect();
    TrustStore::new(anchors, crls).expect("anchors and lists of our own")
}

/// By its place on the network.
pub(crate) fn at(index: usize) -> &'static Device {
    device(index)
}

/// Whether this is the stranger.
pub(crate) fn is_stranger(member: &MemberId) -> bool {
    device(STRANGER).member == *member
}
