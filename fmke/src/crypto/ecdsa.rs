//! ECDSA on the two curves that IKEv1 and GDOI share. A signature is r and s one after the other, each in the width of
//! the curve's order (RFC 4754, section 7).

use aws_lc_rs::digest::{Digest, SHA256, SHA384};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ParsedPublicKey, UnparsedPublicKey};
use rsa::pkcs8::ObjectIdentifier;
use rsa::pkcs8::spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};

use super::CryptoError;

/// id-ecPublicKey (RFC 5480, section 2.1.1).
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// secp256r1.
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
/// secp384r1.
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// A curve, with the hash algorithm that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
}

impl Curve {
    /// The curve that the algorithm of a key names, if it is one of these.
    pub(super) fn of(algorithm: &AlgorithmIdentifierRef<'_>) -> Option<Self> {
        match algorithm.oids() {
            Ok((EC, Some(P256))) => Some(Self::P256),
            Ok((EC, Some(P384))) => Some(Self::P384),
            _ => None,
        }
    }
}

/// A public key of ECDSA. Verifying takes no random numbers, so aws-lc may do it, in a third of the time.
pub(super) struct PublicKey {
    curve: Curve,
    key: ParsedPublicKey,
}

impl PublicKey {
    /// The point in `spki`, which must name `curve`.
    pub(super) fn from_spki(curve: Curve, spki: &SubjectPublicKeyInfoRef<'_>) -> Result<Self, CryptoError> {
        if Curve::of(&spki.algorithm) != Some(curve) {
            return Err(CryptoError::UnsupportedKey);
        }
        let algorithm = match curve {
            Curve::P256 => &ECDSA_P256_SHA256_FIXED,
            Curve::P384 => &ECDSA_P384_SHA384_FIXED,
        };
        let point = spki.subject_public_key.as_bytes().ok_or(CryptoError::MalformedKey)?;
        let key = UnparsedPublicKey::new(algorithm, point).parse().map_err(|_| CryptoError::MalformedKey)?;
        Ok(Self { curve, key })
    }

    pub(super) fn curve(&self) -> Curve {
        self.curve
    }

    /// Whether `signature` is this key's over `hash`.
    pub(super) fn verify(&self, hash: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let algorithm = match self.curve {
            Curve::P256 => &SHA256,
            Curve::P384 => &SHA384,
        };
        let hash = Digest::import_less_safe(hash, algorithm).map_err(|_| CryptoError::HashLength(hash.len()))?;
        self.key.verify_digest_sig(&hash, signature).map_err(|_| CryptoError::Signature)
    }
}
