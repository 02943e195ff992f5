#![doc = env!("CARGO_PKG_DESCRIPTION")]

mod author;
mod error;
mod intake;
mod keys;
mod sequence;

pub use author::Author;
pub use error::CertError;
pub use intake::Intake;
pub use keys::{PublicKey, SigningKey, Verified};
pub use muster_wire::{Signable, Signed};
pub use sequence::SequenceWindow;
