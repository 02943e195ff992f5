//! Why a certificate or signature was refused.

use muster_wire::WireError;
use thiserror::Error;

/// Why a certificate or signature was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CertError {
    /// The signature is not this key's over these bytes.
    #[error("wrong signature")]
    Signature,
    /// Not an Ed25519 public key.
    #[error("not an Ed25519 public key")]
    Key,
    /// Signed, and still not what it should be.
    #[error(transparent)]
    Wire(#[from] WireError),
}
