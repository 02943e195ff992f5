//! Why a message of the key agreement was refused.

use muster_certs::CertError;
use muster_wire::{MemberId, WireError};
use thiserror::Error;

/// Why a message was refused. A refused message has changed nothing.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// Does not decode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A signature in it is wrong.
    #[error(transparent)]
    Signature(#[from] CertError),
    /// It speaks of a member whose certificate is not here (yet).
    #[error("the certificate of {0} is not known")]
    UnknownMember(MemberId),
    /// Its author's certificate is not valid any more, or it was caught lying.
    #[error("{0} is not trusted any more")]
    NotTrusted(MemberId),
    /// It breaks a rule of the protocol.
    #[error("{0}")]
    Rule(&'static str),
    /// A public key that makes every shared secret zero.
    #[error("a public key of low order")]
    LowOrderKey,
    /// A secret that does not fit its public key: the author of the node lied, or somebody changed it.
    #[error("a node's public key does not belong to its secret")]
    PublicKey,
    /// A sealed secret that does not open.
    #[error("a sealed secret does not open")]
    Ciphertext,
    /// Another key than the transaction manager computed.
    #[error("the confirmation tag is wrong")]
    Confirmation,
    /// The own leaf is not in it, or its secret is not here any more.
    #[error("the own leaf is not in the tree")]
    NotMember,
}
