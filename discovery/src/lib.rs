#![doc = env!("CARGO_PKG_DESCRIPTION")]
//!
//! The IPsec discovery protocol as a state machine without clock, socket, task or global randomness; `SPEC.md` beside
//! this crate's `Cargo.toml` describes it. The driver calls [`Discovery`]'s `handle_*` methods and commands, and after
//! each of them drains `poll_transmit`, `poll_event` and asks `poll_timeout`.

mod candidates;
mod commands;
mod config;
mod counters;
mod event;
mod hello;
mod limits;
mod lists;
mod machine;
mod message;
mod networks;
mod pairwise;
mod peers;
mod prefixes;
mod probe;
mod status;
#[cfg(test)]
mod tests;
mod unicast;

pub use config::{Config, SetupError};
pub use counters::{Counters, Dropped};
pub use event::{Event, GoneReason, JoinKind, ListError, PrefixError, Refusal};
pub use machine::Discovery;
pub use pairwise::Direction;
pub use prefixes::check_prefixes;
pub use status::{NeighborState, NeighborStatus};
pub use unicast::{Basis, UnicastKey};
