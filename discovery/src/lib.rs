#![doc = env!("CARGO_PKG_DESCRIPTION")]
//!
//! The IPsec discovery protocol as a state machine without clock, socket, task or global randomness; `SPEC.md` beside
//! this crate's `Cargo.toml` describes it. The driver calls [`Discovery`]'s `handle_*` methods and commands, and after
//! each of them drains `poll_transmit`, `poll_event` and asks `poll_timeout`.

mod candidates;
mod config;
mod event;
mod hello;
mod limits;
mod machine;
mod message;
mod pairwise;
mod peers;
mod prefixes;
mod probe;
#[cfg(test)]
mod tests;
mod trust;

pub use config::{Config, SetupError};
pub use event::{Counters, Dropped, Event, GoneReason, JoinKind, NeighborState, NeighborStatus, PrefixError, Refusal};
pub use machine::Discovery;
pub use pairwise::Direction;
pub use trust::{Identity, TrustStore};
