//! MIKE: what key we share.
//!
//! A tree of Diffie-Hellman keys over the members, changed by one signed multicast commit at a time, from an elected
//! transaction manager. [`KeyAgreement`] is the state machine; it knows no clock, socket or task. `SPEC.md` beside
//! this crate is the protocol.

mod activation;
mod commit;
mod config;
mod epoch;
mod event;
mod exposure;
mod filling;
mod joining;
mod machine;
mod message;
mod own;
mod patience;
mod receive;
mod recovery;
mod refresh;
mod refusal;
mod roster;
mod secret;
mod succession;
mod transaction;
mod tree;
mod view;
mod voucher;

#[cfg(test)]
mod tests;

pub use config::Config;
pub use epoch::EpochKeys;
pub use event::{Counters, Event};
pub use machine::KeyAgreement;
pub use refusal::Refusal;
pub use secret::group_tag;
pub use view::{ParentView, TreeView};
pub use voucher::VoucherKey;
