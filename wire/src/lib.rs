#![doc = env!("CARGO_PKG_DESCRIPTION")]

mod ids;

pub use ids::{GroupTag, Hash, Instance, MemberId, Nonce, Signature};
