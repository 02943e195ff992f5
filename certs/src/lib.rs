#![doc = env!("CARGO_PKG_DESCRIPTION")]

mod author;
mod cache;
mod certificate;
mod error;
mod identity;
mod intake;
mod keys;
#[cfg(feature = "memo")]
mod memo;
pub mod pki;
mod revocation;
mod sequence;
mod small_order;
mod trust;
mod waiting;

pub use author::Author;
pub use certificate::{Description, ListDescription, certificates_from_pem, crls_from_pem, describe, describe_list};
pub use error::CertError;
pub use identity::{Device, Identity};
pub use keys::{PublicKey, SigningKey, Verified};
pub use muster_wire::{Signable, Signed};
pub use revocation::RevocationList;
pub use sequence::SequenceWindow;
pub use trust::TrustStore;
pub use waiting::{Queued, Standing, Waiting};
