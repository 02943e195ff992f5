//! Ed25519 keys, and what their signatures prove.

use std::ops::Deref;

use ed25519_dalek::Signer;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, KeypairBytes};
use muster_wire::{Envelope, Header, Signable, Signature, Signed, WireError};
use zeroize::Zeroizing;

use crate::CertError;

/// A device's private key. Erased when dropped; has no `Debug`.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// From the 32-byte seed of RFC 8032.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// From a PKCS#8 file (PEM), as [`crate::pki`] and OpenSSL write it (RFC 8410, section 7).
    pub fn from_pkcs8_pem(pem: &str) -> Result<Self, CertError> {
        // The reasons of the parser are about ASN.1, and could quote the key: one plain text instead.
        ed25519_dalek::SigningKey::from_pkcs8_pem(pem.trim()).map(Self).map_err(|_| CertError::PrivateKey)
    }

    /// As a PKCS#8 file (PEM).
    pub(crate) fn to_pkcs8_pem(&self) -> Result<Zeroizing<String>, CertError> {
        // Without the public key, that is version 1: older OpenSSL does not read version 2 (RFC 5958).
        let key = KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        key.to_pkcs8_pem(LineEnding::LF).map_err(|_| CertError::PrivateKey)
    }

    /// The key that checks this one's signatures.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs `bytes` for the use that `label` names.
    pub fn sign(&self, label: &[u8], bytes: &[u8]) -> Signature {
        Signature(self.0.sign(&labelled(label, bytes)).to_bytes())
    }

    /// Signs what X.509 signs: no label, so only for certificates and revocation lists.
    pub(crate) fn sign_x509(&self, bytes: &[u8]) -> [u8; 64] {
        self.0.sign(bytes).to_bytes()
    }

    /// A datagram signed by this key.
    pub fn seal(&self, header: &Header, body: &[u8]) -> Result<Vec<u8>, WireError> {
        Envelope::seal(header, body, |bytes| self.sign(Envelope::LABEL, bytes))
    }

    /// A value signed by this key.
    pub fn sign_value<T: Signable>(&self, value: &T) -> Result<Signed<T>, WireError> {
        Signed::new(value, |label, bytes| self.sign(label, bytes))
    }
}

/// The public key of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(ed25519_dalek::VerifyingKey);

impl PublicKey {
    /// From the 32 bytes in a certificate; refuses what is no point of the curve, and points of small order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, CertError> {
        match ed25519_dalek::VerifyingKey::from_bytes(bytes) {
            Ok(key) if !key.is_weak() => Ok(Self(key)),
            _ => Err(CertError::Key),
        }
    }

    /// The 32 bytes.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// Checks a signature made by [`SigningKey::sign`] with the same label.
    pub fn check(&self, label: &[u8], bytes: &[u8], signature: &Signature) -> Result<(), CertError> {
        self.check_x509(&labelled(label, bytes), &signature.0)
    }

    /// Checks a signature over bytes without a label, as X.509 has it.
    pub(crate) fn check_x509(&self, bytes: &[u8], signature: &[u8; 64]) -> Result<(), CertError> {
        let verify = || {
            let signature = ed25519_dalek::Signature::from_bytes(signature);
            // Strict: every implementation accepts the same signatures (RFC 8032, 5.1.7, without cofactor).
            self.0.verify_strict(bytes, &signature).map_err(|_| CertError::Signature)
        };
        #[cfg(feature = "memo")]
        return crate::memo::once(&[self.0.as_bytes(), signature, bytes], verify);
        #[cfg(not(feature = "memo"))]
        verify()
    }

    /// Checks the signature of a datagram. That this key is its sender's is for the caller to know.
    pub fn open(&self, envelope: Envelope) -> Result<Verified<Envelope>, CertError> {
        self.check(Envelope::LABEL, envelope.signed_bytes(), &envelope.signature())?;
        Ok(Verified(envelope))
    }

    /// Checks the signature of a value and decodes it.
    pub fn verify<T: Signable>(&self, signed: &Signed<T>) -> Result<Verified<T>, CertError> {
        self.check(T::LABEL, signed.signed_bytes(), &signed.signature())?;
        signed.decode().map(Verified).map_err(CertError::Wire)
    }
}

/// A value whose signature was checked: only [`PublicKey`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// The value.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// The label's length first, so that no label can be the beginning of another's bytes.
fn labelled(label: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::with_capacity(8 + label.len() + bytes.len());
    all.extend_from_slice(&(label.len() as u64).to_be_bytes());
    all.extend_from_slice(label);
    all.extend_from_slice(bytes);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_wire::mike::Leaf;
    use muster_wire::{GroupTag, MemberId};

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32])
    }

    #[test]
    fn a_signature_holds_for_its_key_label_and_bytes_only() {
        let signature = key(1).sign(b"label", b"bytes");
        assert!(key(1).public().check(b"label", b"bytes", &signature).is_ok());
        assert!(key(2).public().check(b"label", b"bytes", &signature).is_err());
        assert!(key(1).public().check(b"labelb", b"ytes", &signature).is_err());
        assert!(key(1).public().check(b"label", b"bytez", &signature).is_err());
    }

    #[test]
    fn a_value_passes_through_others_and_still_verifies() {
        let leaf = Leaf {
            mode: 1,
            group: GroupTag([1; 16]),
            member: MemberId([2; 32]),
            startup: 3,
            generation: 4,
            public: [5; 32],
        };
        let signed = key(1).sign_value(&leaf).unwrap();
        let bytes = muster_wire::codec::encode(&signed).unwrap();
        let passed_on: Signed<Leaf> = muster_wire::codec::decode(&bytes).unwrap();
        assert_eq!(*key(1).public().verify(&passed_on).unwrap(), leaf);
        assert!(key(2).public().verify(&passed_on).is_err());
    }

    #[test]
    fn keys_of_small_order_are_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert!(PublicKey::from_bytes(&identity).is_err());
    }
}
