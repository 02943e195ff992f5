#![doc = env!("CARGO_PKG_DESCRIPTION")]
//!
//! Hosts say by IGMP (RFC 3376, and the versions before it) and MLD (RFC 3810, RFC 2710) which groups they listen to;
//! a router asks them. [`packet`] reads and writes whole IP packets, [`Querier`] holds what is wanted on one interface in
//! one family: it gets messages and the time, and says what to send and which sources of a group are wanted. Both
//! protocols are one algorithm with other numbers.
//!
//! Not here: multicast routing between routers, and the host's side.

mod group;
mod message;
pub mod packet;
mod querier;

pub use message::{Change, Message, Query, Record, Version};
pub use querier::{Changed, GroupStatus, MAX_GROUPS, Querier, Role};

#[cfg(test)]
mod tests;
