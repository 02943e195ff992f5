//! FMKE: keys from a key server.
//!
//! A group controller and key server (GCKS) authenticates its clients (IKEv1 main mode), pushes to each the SAs of its
//! profile, and changes what a group shares by one multicast message. Server and client are state machines; they know no
//! clock, socket or task. `SPEC.md` beside this crate is the protocol.

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
