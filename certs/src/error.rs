//! Why a certificate or signature was refused.

use muster_wire::WireError;
use muster_wire::idp::{MAX_CERTIFICATE, MAX_CHAIN};
use thiserror::Error;
use x509_parser::time::ASN1Time;

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

    /// No trust anchor signed the chain, or one whose name it bears did not.
    #[error("unknown issuer: no trust anchor of ours signed it")]
    UnknownIssuer,
    /// A certificate of the path, or its anchor's, is over.
    #[error("certificate expired on {}", utc(*not_after))]
    Expired {
        /// Its last second (Unix).
        not_after: u64,
    },
    /// A certificate of the path, or its anchor's, has not begun; the clock may be wrong.
    #[error("certificate not valid before {}", utc(*not_before))]
    NotYetValid {
        /// Its first second (Unix).
        not_before: u64,
    },
    /// Its issuer has revoked a certificate of the path.
    #[error("certificate revoked")]
    Revoked,
    /// The device certificate is not for IPsec.
    #[error("the certificate lacks the extended key usage ipsecIKE (1.3.6.1.5.5.7.3.17)")]
    MissingEku,
    /// The device certificate has a key usage, and it does not allow signatures.
    #[error("the certificate's key usage does not allow digital signatures")]
    KeyUsage,
    /// Signed by another algorithm.
    #[error("not signed with Ed25519")]
    NotEd25519,
    /// A certificate that may not sign certificates has signed one.
    #[error("a certificate in the chain is signed by one that may not sign certificates")]
    NotCa,
    /// An authority's certificate in the place of a device's.
    #[error("a CA's certificate is no device's")]
    CaAsDevice,
    /// Longer than an authority allows, or outside the names that it allows.
    #[error("the chain breaks a constraint of its CA (path length or names)")]
    Constraint,
    /// Does not parse.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Too many certificates.
    #[error("a chain of {0} certificates; at most {MAX_CHAIN} are allowed")]
    ChainTooLong(usize),
    /// A certificate too long for the protocol.
    #[error("a certificate of {0} bytes; at most {MAX_CERTIFICATE} are allowed")]
    TooLarge(usize),
    /// The certificates do not fit into one datagram together.
    #[error("the chain's certificates have {0} bytes together, too many for one datagram")]
    ChainTooLarge(usize),

    /// A subject without exactly one usable organisation (O).
    #[error("the subject needs one organisation (O) of 1 to 64 printable characters")]
    Organisation,
    /// A subject without exactly one usable common name (CN).
    #[error("the subject needs one common name (CN) of 1 to 64 printable characters")]
    CommonName,
    /// A device name that would make no file name.
    #[error("a device name has 1 to 64 characters, letters, digits, '.', '_' and '-', and does not begin with '.'")]
    DeviceName,
    /// Not a private key that we can use.
    #[error("not an Ed25519 private key (PKCS#8, PEM)")]
    PrivateKey,
    /// The private key is another certificate's.
    #[error("certificate and private key do not match")]
    KeyMismatch,
    /// A PEM text without what it should hold.
    #[error("no {0} in it")]
    Missing(&'static str),

    /// This trust anchor is not one.
    #[error("trust anchor {}: {reason}", index + 1)]
    Anchor {
        /// Which of those given, from 0.
        index: usize,
        /// What is wrong with it.
        reason: Box<CertError>,
    },
    /// This revocation list is not one.
    #[error("revocation list {}: {reason}", index + 1)]
    Crl {
        /// Which of those given, from 0.
        index: usize,
        /// What is wrong with it.
        reason: Box<CertError>,
    },
    /// An authority could not make what was asked for.
    #[error("cannot issue: {0}")]
    Issue(String),
}

impl From<webpki::Error> for CertError {
    fn from(error: webpki::Error) -> Self {
        use webpki::Error;
        match error {
            // A wrong signature under an anchor's name is just that: the anchor did not sign it.
            Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => CertError::UnknownIssuer,
            Error::CertExpired { not_after, .. } => CertError::Expired { not_after: not_after.as_secs() },
            Error::CertNotValidYet { not_before, .. } => CertError::NotYetValid { not_before: not_before.as_secs() },
            Error::CertRevoked => CertError::Revoked,
            Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => CertError::MissingEku,
            Error::UnsupportedSignatureAlgorithmContext(_)
            | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
            | Error::SignatureAlgorithmMismatch => CertError::NotEd25519,
            Error::EndEntityUsedAsCa => CertError::NotCa,
            Error::CaUsedAsEndEntity => CertError::CaAsDevice,
            Error::PathLenConstraintViolated | Error::NameConstraintViolation => CertError::Constraint,
            other => CertError::Malformed(format!("{other:?}")),
        }
    }
}

fn utc(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| ASN1Time::from_timestamp(seconds).ok());
    time.map_or_else(|| format!("second {seconds}"), |time| time.to_string())
}
