//! FMKE: keys from a key server.
//!
//! A group controller and key server (GCKS) authenticates its clients (IKEv1 main mode), pushes to each the SAs of its
//! profile, and changes what a group shares by one multicast message. Server and client are state machines; they know no
//! clock, socket or task. `SPEC.md` beside this crate is the protocol.
//!
//! To read: [`isakmp`], the bytes; [`phase1`], how the two find out who they are (`responder.rs` is the key server's end, `initiator.rs`
//! the client's); `push`, what a client is told, and how that is protected; [`gcks`] and [`member`], the two machines, each from its
//! `machine.rs`. [`crypto`] has the primitives as ISAKMP uses them, [`lkh`] the key tree by which one of many is excluded.

pub mod crypto;
pub mod gcks;
pub mod isakmp;
pub mod lkh;
pub mod member;
pub mod phase1;
mod push;
mod refusal;

pub use push::PushError;
pub use refusal::Refusal;
