#![doc = env!("CARGO_PKG_DESCRIPTION")]

mod error;
mod keys;

pub use error::CertError;
pub use keys::{PublicKey, SigningKey, Verified};
pub use muster_wire::{Signable, Signed};
