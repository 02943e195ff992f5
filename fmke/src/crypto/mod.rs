//! What ISAKMP and its kin compute: hashes, ciphers, Diffie-Hellman, signatures, and the keys of RFC 2409.
//!
//! The primitives are libraries'; here stands what IKEv1, GDOI and FMKE make of them. All randomness comes from the
//! caller, and what is secret is a [`SecretBytes`].

pub mod cipher;
pub mod dh;
mod ecdsa;
mod error;
pub mod hash;
mod modp;
pub mod rekey;
mod secret;
pub mod signature;
pub mod skeyid;
#[cfg(test)]
mod vectors;

pub use cipher::Cipher;
pub use error::CryptoError;
pub use hash::HashAlgorithm;
pub use secret::SecretBytes;
