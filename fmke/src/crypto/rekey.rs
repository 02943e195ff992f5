//! The signature of the key server under what it sends to a whole group (RFC 6407, sections 3.4 and 4.3): every member
//! could make such a message with the key that it shares with the others, so no shared key can say who did.

use ed25519_dalek::Signer as _;
use p256::ecdsa::signature::hazmat::PrehashSigner as _;
use rand_core::CryptoRng;
use rsa::pkcs8::EncodePublicKey;
use rsa::pkcs8::spki::SubjectPublicKeyInfoRef;

use zeroize::Zeroizing;

use super::ecdsa::{self, Curve};
use super::{CryptoError, HashAlgorithm, SecretBytes};

/// What is signed before the message, so that the signature can be taken for no other of the same key: "prefixed with the string
/// "rekey" like in GDOI" (draft 4.1).
const PREFIX: &[u8] = b"rekey";

/// Octets of a private key: a scalar of P-256, or what RFC 8032, section 5.1.5, makes a key of Ed25519 of.
const SECRET_LEN: usize = 32;

/// A signature algorithm of a re-key SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RekeyAlgorithm {
    /// ECDSA on P-256 with SHA-256. A signature is r and s one after the other (RFC 4754, section 7).
    EcdsaP256,
    /// Ed25519 (RFC 8032), in the range for private use: GDOI knows no such algorithm.
    Ed25519,
}

impl RekeyAlgorithm {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::EcdsaP256, Self::Ed25519];

    /// The value of SIG_ALGORITHM (RFC 6407, section 5.3.7).
    pub fn number(self) -> u16 {
        match self {
            Self::EcdsaP256 => 4,
            Self::Ed25519 => 128,
        }
    }

    /// The algorithm that `number` names, if it is one of these.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.number() == number)
    }

    /// Octets of a signature.
    pub fn signature_len(self) -> usize {
        match self {
            Self::EcdsaP256 | Self::Ed25519 => 64,
        }
    }
}

/// The key server's private key of a re-key SA. The libraries erase it when it is dropped.
pub struct RekeySigner(Private);

enum Private {
    EcdsaP256(p256::ecdsa::SigningKey),
    Ed25519(Box<ed25519_dalek::SigningKey>),
}

impl RekeySigner {
    /// A fresh key.
    ///
    /// # Errors
    /// [`CryptoError::Randomness`] when `rng` does not give random numbers.
    pub fn generate(algorithm: RekeyAlgorithm, rng: &mut impl CryptoRng) -> Result<Self, CryptoError> {
        // A scalar of P-256 must be below the order and not zero; one that is not comes up once in 2^32 times.
        const TRIES: usize = 8;
        (0..TRIES)
            .find_map(|_| Self::from_secret(algorithm, &SecretBytes::generate(SECRET_LEN, rng)).ok())
            .ok_or(CryptoError::Randomness)
    }

    /// The key that [`RekeySigner::secret`] gave.
    ///
    /// # Errors
    /// It is not of 32 octets, or no scalar of P-256.
    pub fn from_secret(algorithm: RekeyAlgorithm, secret: &SecretBytes) -> Result<Self, CryptoError> {
        let octets = secret.as_bytes();
        let length = |_| CryptoError::KeyLength(octets.len());
        let octets: &[u8; SECRET_LEN] = octets.try_into().map_err(length)?;
        Ok(Self(match algorithm {
            RekeyAlgorithm::EcdsaP256 => {
                Private::EcdsaP256(p256::ecdsa::SigningKey::from_slice(octets).map_err(|_| CryptoError::MalformedKey)?)
            }
            RekeyAlgorithm::Ed25519 => Private::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(octets))),
        }))
    }

    /// The private key, for the key server's store.
    pub fn secret(&self) -> SecretBytes {
        match &self.0 {
            Private::EcdsaP256(key) => SecretBytes::from(Zeroizing::new(key.to_bytes()).as_slice()),
            Private::Ed25519(key) => SecretBytes::from(key.as_bytes().as_slice()),
        }
    }

    /// The algorithm that goes with the key.
    pub fn algorithm(&self) -> RekeyAlgorithm {
        match self.0 {
            Private::EcdsaP256(_) => RekeyAlgorithm::EcdsaP256,
            Private::Ed25519(_) => RekeyAlgorithm::Ed25519,
        }
    }

    /// The public key, for SIG_ALGORITHM_KEY: a SubjectPublicKeyInfo (RFC 5280, section 4.1) in DER.
    pub fn public_spki(&self) -> Vec<u8> {
        // A key of either algorithm has one encoding, of less than 100 octets.
        match &self.0 {
            Private::EcdsaP256(key) => key.verifying_key().to_public_key_der(),
            Private::Ed25519(key) => key.verifying_key().to_public_key_der(),
        }
        .expect("a public key that is encoded")
        .into_vec()
    }

    /// The body of a SIG payload over `message`: the whole of it in the clear, header included, SIG payload left out
    /// (draft 4.1). The same message has the same signature; the nonce comes from the key and the message (RFC
    /// 6979, RFC 8032).
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.0 {
            Private::EcdsaP256(key) => {
                // SHA-256 has the length that P-256 signs.
                let signature: p256::ecdsa::Signature =
                    key.sign_prehash(&HashAlgorithm::Sha256.digest(&[PREFIX, message])).expect("a hash of its length");
                signature.to_bytes().to_vec()
            }
            Private::Ed25519(key) => key.sign(&[PREFIX, message].concat()).to_vec(),
        }
    }
}

/// The key server's public key of a re-key SA.
pub struct RekeyVerifier(Public);

enum Public {
    EcdsaP256(ecdsa::PublicKey),
    Ed25519(ed25519_dalek::VerifyingKey),
}

impl RekeyVerifier {
    /// The key of SIG_ALGORITHM_KEY.
    ///
    /// # Errors
    /// It is no SubjectPublicKeyInfo in DER, or its key is not one of `algorithm`.
    pub fn from_spki(algorithm: RekeyAlgorithm, der: &[u8]) -> Result<Self, CryptoError> {
        let spki = SubjectPublicKeyInfoRef::try_from(der).map_err(|_| CryptoError::MalformedKey)?;
        Ok(Self(match algorithm {
            RekeyAlgorithm::EcdsaP256 => Public::EcdsaP256(ecdsa::PublicKey::from_spki(Curve::P256, &spki)?),
            RekeyAlgorithm::Ed25519 => {
                Public::Ed25519(ed25519_dalek::VerifyingKey::try_from(spki).map_err(|_| CryptoError::MalformedKey)?)
            }
        }))
    }

    /// Whether `signature`, the body of a SIG payload, is this key's over `message`.
    ///
    /// # Errors
    /// [`CryptoError::Signature`] if it is not.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let wrong = |_| CryptoError::Signature;
        match &self.0 {
            Public::EcdsaP256(key) => key.verify(&HashAlgorithm::Sha256.digest(&[PREFIX, message]), signature),
            Public::Ed25519(key) => {
                let signature = ed25519_dalek::Signature::from_slice(signature).map_err(wrong)?;
                key.verify_strict(&[PREFIX, message].concat(), &signature).map_err(wrong)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::{octets, rng};
    use super::*;

    const SECRET: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const P256_SPKI: &str = "3059301306072a8648ce3d020106082a8648ce3d03010703420004
        667fef5f7578a801037ed144092dcf7c7c44e3bf3e09cfc8a67fcf70fcd8123a
        3a29739e598824b33aef8068c6057a2f9fa1661253f1ea799e6ef7ce89a00438";
    const P256_SIGNATURE: &str = "ba39381f57942fcb35579967d4d50831305f601856cecc13b2f90213a9730bac
        96555943b9307e6a6d754a3fd2f842e899a0d3b18b161622eeffb85d870eb0f0";
    const ED25519_SPKI: &str =
        "302a300506032b6570032100d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    const ED25519_SIGNATURE: &str = "c934e71c505a26dbb5bcbad8a244d037daf609a273569a45b73bd038ecdd93f2
        e0631be755fffaf0609c8eb8bab86869e445e2cc922f88c7a9fb1c676514540a";

    fn signer(algorithm: RekeyAlgorithm) -> RekeySigner {
        RekeySigner::from_secret(algorithm, &SecretBytes::from(octets(SECRET).as_slice())).unwrap()
    }

    fn verifier(signer: &RekeySigner) -> RekeyVerifier {
        RekeyVerifier::from_spki(signer.algorithm(), &signer.public_spki()).unwrap()
    }

    /// Computed by OpenSSL over "rekeya message", with the nonce of RFC 6979 for ECDSA.
    #[test]
    fn signatures_and_keys_are_those_of_openssl() {
        let expected = [
            (RekeyAlgorithm::EcdsaP256, P256_SPKI, P256_SIGNATURE),
            (RekeyAlgorithm::Ed25519, ED25519_SPKI, ED25519_SIGNATURE),
        ];
        for (algorithm, spki, signature) in expected {
            let signer = signer(algorithm);
            assert_eq!(signer.public_spki(), octets(spki));
            assert_eq!(signer.sign(b"a message"), octets(signature));
            assert_eq!(verifier(&signer).verify(b"a message", &octets(signature)), Ok(()));
            assert!(signer.secret().matches(&octets(SECRET)));
        }
    }

    #[test]
    fn what_was_altered_does_not_verify() {
        for algorithm in RekeyAlgorithm::ALL {
            let signer = RekeySigner::generate(algorithm, &mut rng()).unwrap();
            let verifier = verifier(&signer);
            let signature = signer.sign(b"a message");
            assert_eq!(signature.len(), algorithm.signature_len());
            assert_eq!(verifier.verify(b"a message", &signature), Ok(()));
            let wrong = Err(CryptoError::Signature);
            assert_eq!(verifier.verify(b"a messagE", &signature), wrong);
            assert_eq!(verifier.verify(b"", &signature), wrong);
            for at in 0..signature.len() {
                let mut altered = signature.clone();
                altered[at] ^= 1;
                assert_eq!(verifier.verify(b"a message", &altered), wrong);
            }
            for length in 0..signature.len() {
                assert_eq!(verifier.verify(b"a message", &signature[..length]), wrong);
            }
            assert_eq!(verifier.verify(b"a message", &[&signature[..], &[0]].concat()), wrong);
            assert_eq!(self::verifier(&self::signer(algorithm)).verify(b"a message", &signature), wrong);
        }
    }

    #[test]
    fn a_signature_without_the_prefix_does_not_verify() {
        use p256::ecdsa::signature::Signer as _;
        let seed = [7; 32];
        let secret = SecretBytes::from(&seed[..]);
        let of = |algorithm| verifier(&RekeySigner::from_secret(algorithm, &secret).unwrap());
        let bare = ed25519_dalek::SigningKey::from_bytes(&seed).sign(b"a message").to_vec();
        assert_eq!(of(RekeyAlgorithm::Ed25519).verify(b"a message", &bare), Err(CryptoError::Signature));
        let bare: p256::ecdsa::Signature = p256::ecdsa::SigningKey::from_slice(&seed).unwrap().sign(b"a message");
        assert_eq!(of(RekeyAlgorithm::EcdsaP256).verify(b"a message", &bare.to_bytes()), Err(CryptoError::Signature));
    }

    #[test]
    fn a_key_goes_to_the_store_and_back() {
        for algorithm in RekeyAlgorithm::ALL {
            let signer = RekeySigner::generate(algorithm, &mut rng()).unwrap();
            let stored = RekeySigner::from_secret(algorithm, &signer.secret()).unwrap();
            assert_eq!(stored.algorithm(), algorithm);
            assert_eq!(stored.public_spki(), signer.public_spki());
        }
    }

    #[test]
    fn keys_that_do_not_fit_are_refused() {
        for algorithm in RekeyAlgorithm::ALL {
            for length in [0, 31, 33, 64] {
                let refused = RekeySigner::from_secret(algorithm, &SecretBytes::zeros(length)).err();
                assert_eq!(refused, Some(CryptoError::KeyLength(length)));
            }
        }
        for octets in [[0; 32], [0xff; 32]] {
            let refused = RekeySigner::from_secret(RekeyAlgorithm::EcdsaP256, &SecretBytes::from(&octets[..])).err();
            assert_eq!(refused, Some(CryptoError::MalformedKey));
        }
    }

    #[test]
    fn a_public_key_that_is_cut_or_of_the_other_algorithm_is_refused() {
        let spki = RekeyAlgorithm::ALL.map(|algorithm| signer(algorithm).public_spki());
        for (algorithm, (own, other)) in
            RekeyAlgorithm::ALL.into_iter().zip([(&spki[0], &spki[1]), (&spki[1], &spki[0])])
        {
            assert!(RekeyVerifier::from_spki(algorithm, own).is_ok());
            assert!(RekeyVerifier::from_spki(algorithm, other).is_err());
            for length in 0..own.len() {
                assert_eq!(RekeyVerifier::from_spki(algorithm, &own[..length]).err(), Some(CryptoError::MalformedKey));
            }
        }
    }

    /// The neutral element, with which every message has a signature.
    #[test]
    fn a_weak_key_of_ed25519_verifies_nothing() {
        let spki = octets("302a300506032b65700321000100000000000000000000000000000000000000000000000000000000000000");
        let signature = octets(
            "0100000000000000000000000000000000000000000000000000000000000000
             0000000000000000000000000000000000000000000000000000000000000000",
        );
        let verified = RekeyVerifier::from_spki(RekeyAlgorithm::Ed25519, &spki)
            .and_then(|verifier| verifier.verify(b"a message", &signature));
        assert!(verified.is_err());
    }

    #[test]
    fn a_number_names_one_algorithm() {
        for algorithm in RekeyAlgorithm::ALL {
            assert_eq!(RekeyAlgorithm::from_number(algorithm.number()), Some(algorithm));
        }
        assert_eq!(RekeyAlgorithm::ALL.map(RekeyAlgorithm::number), [4, 128]);
        assert_eq!(RekeyAlgorithm::from_number(1), None);
    }
}
