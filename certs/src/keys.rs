//! Ed25519 keys, and what their signatures prove.

use std::ops::Deref;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use ed25519_dalek::Signer;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, KeypairBytes};
use muster_wire::{Envelope, Header, Signable, Signature, Signed, WireError};
use zeroize::Zeroizing;

use crate::CertError;
use crate::small_order::SMALL_ORDER;

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
            // Strict: every implementation accepts the same signatures (RFC 8032, 5.1.7, without cofactor), and none with
            // a point of small order, in which whoever made the key could sign one thing and mean any. Not by
            // ed25519-dalek, which makes the signatures, because checking them is most of a daemon's work and this is
            // faster by a sixth.
            let small = SMALL_ORDER.iter().any(|point| signature.starts_with(point));
            let checked = UnparsedPublicKey::new(&ED25519, self.0.as_bytes()).verify(bytes, signature);
            if small || checked.is_err() { Err(CertError::Signature) } else { Ok(()) }
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

    /// The checker that we had, and the one that we have.
    fn both(key: &SigningKey, bytes: &[u8], signature: &[u8; 64]) -> (bool, bool) {
        let strict = ed25519_dalek::Signature::from_bytes(signature);
        let strict = key.0.verifying_key().verify_strict(bytes, &strict).is_ok();
        (strict, key.public().check_x509(bytes, signature).is_ok())
    }

    #[test]
    fn a_signature_with_a_point_of_small_order_is_refused() {
        // R is the neutral point and S = H(R, A, M)·a: the equation holds, and the library alone takes it.
        let mut signature = [0; 64];
        signature[0] = 1;
        signature[32..].copy_from_slice(&[
            0x40, 0xca, 0xa6, 0x40, 0x97, 0x3a, 0x93, 0x58, 0x5e, 0x49, 0x33, 0x1c, 0xd6, 0x9c, 0xae, 0xe7, 0xac, 0xbb,
            0x62, 0x99, 0x30, 0x35, 0x0e, 0x34, 0xb8, 0xed, 0xd3, 0x97, 0x92, 0x56, 0x82, 0x07,
        ]);
        let key = key(1);
        let lax = UnparsedPublicKey::new(&ED25519, key.public().to_bytes()).verify(b"bytes", &signature);
        assert!(lax.is_ok());
        assert_eq!(both(&key, b"bytes", &signature), (false, false));
    }

    proptest::proptest! {
        #[test]
        fn it_agrees_with_the_strict_check_of_another_library(
            seed: [u8; 32], bytes: Vec<u8>, at in 0..64_usize, flip: u8, carry: bool,
        ) {
            let key = SigningKey::from_seed(&seed);
            let mut signature = key.sign_x509(&bytes);
            proptest::prop_assert_eq!(both(&key, &bytes, &signature), (true, true));
            signature[at] ^= flip;
            if carry {
                add_order(&mut signature);
            }
            let (strict, ours) = both(&key, &bytes, &signature);
            proptest::prop_assert_eq!(strict, ours);
            proptest::prop_assert_eq!(ours, flip == 0 && !carry);
        }
    }

    /// Adds the order of the base point to the second half: the same number modulo the order, and not canonical.
    fn add_order(signature: &mut [u8; 64]) {
        let order = order_bytes();
        let mut carry = 0_u16;
        for (byte, add) in signature[32..].iter_mut().zip(order) {
            carry += u16::from(*byte) + u16::from(add);
            *byte = carry as u8;
            carry >>= 8;
        }
    }

    /// 2^252 + 27742317777372353535851937790883648493, least first.
    fn order_bytes() -> [u8; 32] {
        let mut order = [0; 32];
        order[..16].copy_from_slice(&27742317777372353535851937790883648493_u128.to_le_bytes());
        order[31] = 0x10;
        order
    }
}
