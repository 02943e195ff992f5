//! Datagrams that a machine refused, counted by reason.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use muster_fmke::Refusal;
use tracing::debug;

/// Since the start.
#[derive(Default)]
pub(super) struct Refusals(BTreeMap<&'static str, u64>);

impl Refusals {
    /// One more.
    pub(super) fn add(&mut self, from: SocketAddr, why: &Refusal) {
        *self.0.entry(why.reason()).or_default() += 1;
        debug!(%from, "refused: {why}");
    }

    /// All of them.
    pub(super) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// By reason.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(reason, count)| (*reason, *count))
    }
}
