#![doc = env!("CARGO_PKG_DESCRIPTION")]
//!
//! A target takes arbitrary bytes and panics if something is wrong. `libfuzzer/` looks for such bytes; `corpus/` holds
//! what it found worth keeping, and the tests of this crate replay that.

mod centralised;
mod certificates;
mod control;
mod devices;
mod discovery;
mod isakmp;
mod keyagree;
mod membership;
mod network;
mod settings;
mod wire;

/// What a fuzzer calls.
pub type Target = fn(&[u8]);

/// All targets, by the names of their folders in `corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("wire", wire::decoders),
    ("certificates", certificates::certificates),
    ("settings", settings::settings),
    ("control", control::control),
    ("esp", muster_dataplane::fuzzing::esp),
    ("kernel", muster_dataplane::fuzzing::kernel),
    ("membership", membership::membership),
    ("isakmp", isakmp::datagram),
    ("discovery", discovery::operations),
    ("keyagree", keyagree::operations),
    ("centralised", centralised::operations),
];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
