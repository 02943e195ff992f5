//! Why something was not computed.

use thiserror::Error;

/// Why something was not computed. None of them says anything about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CryptoError {
    /// A key of another length than its algorithm takes.
    #[error("a key of {0} octets does not fit its algorithm")]
    KeyLength(usize),
    /// One of the weak or semi-weak keys of DES (RFC 2409, appendix A).
    #[error("a weak key of DES")]
    WeakKey,
    /// An initialisation vector of another length than the cipher's block.
    #[error("an initialisation vector of {0} octets does not fit its cipher")]
    IvLength(usize),
    /// A ciphertext that is empty or no multiple of the cipher's block.
    #[error("a ciphertext of {0} octets is no whole number of blocks")]
    CiphertextLength(usize),
    /// A public Diffie-Hellman value of another length than its group's.
    #[error("a public value of {0} octets does not fit its group")]
    PublicValueLength(usize),
    /// A public Diffie-Hellman value outside its group, or one that makes the secret known to all.
    #[error("a public value that is no member of its group")]
    PublicValue,
    /// The source of randomness gives no usable number.
    #[error("the random numbers are not random")]
    Randomness,
    /// A key that is not the DER it should be, or does not hold together.
    #[error("a key that cannot be read")]
    MalformedKey,
    /// A key of an algorithm or size that is not taken.
    #[error("a key of an algorithm or size that is not taken")]
    UnsupportedKey,
    /// A hash of another length than the signature algorithm signs.
    #[error("a hash of {0} octets does not fit the signature algorithm")]
    HashLength(usize),
    /// Signing failed: the private key does not hold together.
    #[error("the private key does not sign")]
    Signing,
    /// A signature that is not of this key over this text.
    #[error("a wrong signature")]
    Signature,
}
