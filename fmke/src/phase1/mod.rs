//! Phase 1: who is who, and the keys that protect what two say to each other (IKEv1 main mode, RFC 2409 5.1 and 5.4).
//!
//! A member is an [`Initiator`], the key server the [`Responder`] to all of them. Both are state machines: datagrams and the
//! time go in (`handle_*`), datagrams, events and the next time come out (`poll_*`). What is not phase 1 itself, they decrypt
//! and hand on as a [`Message`]; answers are sealed by the [`IsakmpSa`].
//!
//! Read `suite.rs`, then `main_mode.rs` (what both compute), `initiator.rs`, `responder.rs` with `cookie.rs` and `table.rs`
//! (what a flood can reach), then `session.rs` (what an SA is kept alive by).

mod attempt;
mod budget;
mod cookie;
mod credentials;
mod failed;
mod fragment;
mod informational;
mod initiator;
mod liveness;
mod main_mode;
mod manual;
mod message;
mod refused;
mod responder;
mod revocation;
mod sa;
mod session;
mod suite;
mod table;
pub mod x509;

#[cfg(test)]
mod tests;

pub use budget::Rate;
pub use credentials::{Authority, Certificate, CertificateError, Client, Clients, Credentials, Verified};
pub use failed::Failed;
pub use initiator::{Initiator, Server};
pub use liveness::Liveness;
pub use manual::ManualKey;
pub use message::{Closed, Datagram, Event, Message, SaId, ShownChain};
pub use refused::Refused;
pub use responder::{Limits, Responder};
pub(crate) use revocation::ListMark;
pub use sa::IsakmpSa;
pub use suite::{Authentication, Proposals, Suite};
