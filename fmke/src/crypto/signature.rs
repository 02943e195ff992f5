//! Signatures that authenticate phase 1 (RFC 2409, section 5.1): over HASH_I or HASH_R, by the key of a certificate.
//!
//! The hash is signed as it is. RSA takes it into PKCS#1 v1.5 without the DigestInfo that names a hash algorithm, as RFC
//! 2409 wants it; ECDSA takes it for its digest and does not hash it again, and the signature is r and s one after the
//! other (RFC 4754, section 7).

use p256::ecdsa::signature::hazmat::RandomizedPrehashSigner as _;
use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRng, SeedableRng};
use rsa::pkcs8::der::pem::PemLabel as _;
use rsa::pkcs8::spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};
use rsa::pkcs8::{DecodePrivateKey, PrivateKeyInfoRef, SecretDocument};
use rsa::traits::PublicKeyParts;
use rsa::{Pkcs1v15Sign, pkcs1};

use super::ecdsa::{self, Curve};
use super::{CryptoError, HashAlgorithm};

/// Bits of a modulus of RSA that are taken. Fewer are too weak, more cost a verifier what no certificate needs.
const RSA_BITS: std::ops::RangeInclusive<u32> = 2048..=4096;

/// The least public exponent that is taken. Padding that is not checked to the last octet was forged with 3 more than
/// once.
const RSA_EXPONENT: u64 = 65537;

/// A method of authentication that signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// RSA, PKCS#1 v1.5 (RFC 2409, section 5.1).
    Rsa,
    /// ECDSA on P-256 (RFC 4754).
    EcdsaP256,
    /// ECDSA on P-384 (RFC 4754).
    EcdsaP384,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rsa, Self::EcdsaP256, Self::EcdsaP384];

    /// The value of attribute 3 of a transform of phase 1 (IANA, "Internet Key Exchange (IKE) Attributes").
    pub fn number(self) -> u16 {
        match self {
            Self::Rsa => 3,
            Self::EcdsaP256 => 9,
            Self::EcdsaP384 => 10,
        }
    }

    /// The method that `number` names, if it is one of these.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.number() == number)
    }

    /// The hash algorithm whose HMAC makes the HASH_I and HASH_R that are signed: the one that the method is tied to,
    /// else the negotiated one (RFC 2409, section 5.1).
    pub fn hash(self, negotiated: HashAlgorithm) -> HashAlgorithm {
        match self {
            Self::Rsa => negotiated,
            Self::EcdsaP256 => HashAlgorithm::Sha256,
            Self::EcdsaP384 => HashAlgorithm::Sha384,
        }
    }

    fn of(algorithm: &AlgorithmIdentifierRef<'_>) -> Result<Self, CryptoError> {
        match Curve::of(algorithm) {
            Some(Curve::P256) => Ok(Self::EcdsaP256),
            Some(Curve::P384) => Ok(Self::EcdsaP384),
            None if algorithm.oid == pkcs1::ALGORITHM_OID => Ok(Self::Rsa),
            None => Err(CryptoError::UnsupportedKey),
        }
    }
}

/// A private key that authenticates its owner. The libraries erase it when it is dropped.
pub struct Signer(Private);

enum Private {
    Rsa(Box<rsa::PrivateKey>),
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
}

impl Signer {
    /// The key in a PKCS#8 PrivateKeyInfo (RFC 5958), in DER and not encrypted.
    ///
    /// # Errors
    /// It is not one, its parts do not belong together, or it is of another algorithm or size than those above.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, CryptoError> {
        let malformed = |_| CryptoError::MalformedKey;
        let info = PrivateKeyInfoRef::try_from(der).map_err(|_| CryptoError::MalformedKey)?;
        Ok(Self(match Method::of(&info.algorithm)? {
            Method::Rsa => {
                let key = rsa::PrivateKey::try_from(info).map_err(malformed)?;
                check_rsa(&key)?;
                Private::Rsa(Box::new(key))
            }
            Method::EcdsaP256 => Private::P256(p256::SecretKey::from_pkcs8_der(der).map_err(malformed)?.into()),
            Method::EcdsaP384 => Private::P384(p384::SecretKey::from_pkcs8_der(der).map_err(malformed)?.into()),
        }))
    }

    /// As [`from_pkcs8`](Self::from_pkcs8), in PEM (RFC 7468).
    ///
    /// # Errors
    /// As there.
    pub fn from_pem(pem: &str) -> Result<Self, CryptoError> {
        let (label, key) = SecretDocument::from_pem(pem.trim()).map_err(|_| CryptoError::MalformedKey)?;
        PrivateKeyInfoRef::validate_pem_label(label).map_err(|_| CryptoError::MalformedKey)?;
        Self::from_pkcs8(key.as_bytes())
    }

    /// The method that goes with the key.
    pub fn method(&self) -> Method {
        match self.0 {
            Private::Rsa(_) => Method::Rsa,
            Private::P256(_) => Method::EcdsaP256,
            Private::P384(_) => Method::EcdsaP384,
        }
    }

    /// Whether it is the private key of this public one.
    pub fn is_of(&self, public: &Verifier) -> bool {
        // What is signed goes nowhere, so the same numbers do each time.
        let mut rng = ChaCha20Rng::from_seed([0; 32]);
        let hash = vec![0; self.method().hash(HashAlgorithm::Sha256).output_len()];
        self.method() == public.method()
            && self.sign(&mut rng, &hash).is_ok_and(|signature| public.verify(&hash, &signature).is_ok())
    }

    /// The body of a SIG payload over `hash`. Random numbers blind RSA, and go into the nonce of ECDSA beside the key and
    /// the hash (RFC 6979, section 3.6), so that neither a bad generator nor a fault shows the key.
    ///
    /// # Errors
    /// [`CryptoError::HashLength`] for a hash that is not of the length that [`Method::hash`] has.
    pub fn sign(&self, rng: &mut impl CryptoRng, hash: &[u8]) -> Result<Vec<u8>, CryptoError> {
        check_hash(self.method(), hash)?;
        match &self.0 {
            Private::Rsa(key) => key.sign_with_rng(rng, Pkcs1v15Sign::new_unprefixed(), hash).map_err(|_| ()),
            Private::P256(key) => key
                .sign_prehash_with_rng(rng, hash)
                .map(|signature: p256::ecdsa::Signature| signature.to_bytes().to_vec())
                .map_err(|_| ()),
            Private::P384(key) => key
                .sign_prehash_with_rng(rng, hash)
                .map(|signature: p384::ecdsa::Signature| signature.to_bytes().to_vec())
                .map_err(|_| ()),
        }
        .map_err(|()| CryptoError::Signing)
    }
}

/// The public key of a certificate that somebody claims to own.
pub struct Verifier(Public);

enum Public {
    Rsa(rsa::PublicKey),
    Ecdsa(ecdsa::PublicKey),
}

impl Verifier {
    /// The key in a SubjectPublicKeyInfo (RFC 5280, section 4.1), in DER.
    ///
    /// # Errors
    /// It is not one, or it is of another algorithm or size than those above. RSA has 2,048 to 4,096 bits and an odd
    /// exponent of 65,537 or more; a point is on its curve.
    pub fn from_spki(der: &[u8]) -> Result<Self, CryptoError> {
        let spki = SubjectPublicKeyInfoRef::try_from(der).map_err(|_| CryptoError::MalformedKey)?;
        Ok(Self(match Method::of(&spki.algorithm)? {
            Method::Rsa => {
                let key = rsa::PublicKey::try_from(spki).map_err(|_| CryptoError::MalformedKey)?;
                check_rsa(&key)?;
                Public::Rsa(key)
            }
            Method::EcdsaP256 => Public::Ecdsa(ecdsa::PublicKey::from_spki(Curve::P256, &spki)?),
            Method::EcdsaP384 => Public::Ecdsa(ecdsa::PublicKey::from_spki(Curve::P384, &spki)?),
        }))
    }

    /// The method that goes with the key.
    pub fn method(&self) -> Method {
        match &self.0 {
            Public::Rsa(_) => Method::Rsa,
            Public::Ecdsa(key) => match key.curve() {
                Curve::P256 => Method::EcdsaP256,
                Curve::P384 => Method::EcdsaP384,
            },
        }
    }

    /// Whether `signature`, the body of a SIG payload, is this key's over `hash`.
    ///
    /// # Errors
    /// [`CryptoError::Signature`] if it is not; [`CryptoError::HashLength`] for a hash that is not of the length that
    /// [`Method::hash`] has.
    pub fn verify(&self, hash: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        check_hash(self.method(), hash)?;
        match &self.0 {
            Public::Rsa(key) => {
                key.verify(Pkcs1v15Sign::new_unprefixed(), hash, signature).map_err(|_| CryptoError::Signature)
            }
            Public::Ecdsa(key) => key.verify(hash, signature),
        }
    }
}

fn check_rsa(key: &impl PublicKeyParts) -> Result<(), CryptoError> {
    let exponent = key.e_bytes();
    let odd = exponent.last().is_some_and(|octet| octet % 2 == 1);
    let value = exponent.iter().try_fold(0u64, |value, octet| value.checked_mul(256)?.checked_add(u64::from(*octet)));
    let large_enough = value.is_none_or(|value| value >= RSA_EXPONENT);
    if odd && large_enough && RSA_BITS.contains(&key.n().bit_width()) {
        Ok(())
    } else {
        Err(CryptoError::UnsupportedKey)
    }
}

/// RSA takes the hash of every algorithm, ECDSA the one of its own.
fn check_hash(method: Method, hash: &[u8]) -> Result<(), CryptoError> {
    let fits = |algorithm: HashAlgorithm| method.hash(algorithm).output_len() == hash.len();
    if HashAlgorithm::ALL.into_iter().any(fits) { Ok(()) } else { Err(CryptoError::HashLength(hash.len())) }
}

#[cfg(test)]
mod tests {
    use rsa::BoxedUint;
    use rsa::pkcs8::{EncodePrivateKey, EncodePublicKey};

    use super::super::vectors::{octets, rng};
    use super::*;

    // Keys and signatures that OpenSSL made: `pkeyutl -sign` without a digest, as strongSwan has it do.
    const RSA_PRIVATE: &[u8] = include_bytes!("testdata/rsa2048.pk8");
    const RSA_PUBLIC: &[u8] = include_bytes!("testdata/rsa2048.spki");
    const RSA_SIGNATURE: &[u8] = include_bytes!("testdata/rsa2048.sig");
    const P256_PRIVATE: &[u8] = include_bytes!("testdata/p256.pk8");
    const P256_PUBLIC: &[u8] = include_bytes!("testdata/p256.spki");
    const P256_SIGNATURE: &str = "9220dae0bbd165e1c75e650cebbce02cab9867479353d8e9f268f199118b144a
        70061df21de6cca1020ddb5b082a6602b3cb8de5833643aed382747c3f635142";
    const P384_PRIVATE: &[u8] = include_bytes!("testdata/p384.pk8");
    const P384_PUBLIC: &[u8] = include_bytes!("testdata/p384.spki");
    const P384_SIGNATURE: &str =
        "06b4ca9aabfb3ad7b49f54c1cd621b1392286ca35f6d0496e1e117f0b9fee2ec84924ea83bc6c392da45cdf9c72e4b98
        23c53b0eb5bf951225e4188e2393a1f0bf55460f2f364d402f77381d24d470ab1b938aa8459de1ef6fe978959a795644";

    const PAIRS: [(Method, &[u8], &[u8]); 3] = [
        (Method::Rsa, RSA_PRIVATE, RSA_PUBLIC),
        (Method::EcdsaP256, P256_PRIVATE, P256_PUBLIC),
        (Method::EcdsaP384, P384_PRIVATE, P384_PUBLIC),
    ];

    fn hash(algorithm: HashAlgorithm) -> Vec<u8> {
        algorithm.digest(&[b"HASH_I"])
    }

    #[test]
    fn signatures_of_openssl_verify() {
        let verify = |spki: &[u8], algorithm, signature: &[u8]| {
            Verifier::from_spki(spki).unwrap().verify(&hash(algorithm), signature)
        };
        assert_eq!(verify(RSA_PUBLIC, HashAlgorithm::Sha256, RSA_SIGNATURE), Ok(()));
        assert_eq!(verify(P256_PUBLIC, HashAlgorithm::Sha256, &octets(P256_SIGNATURE)), Ok(()));
        assert_eq!(verify(P384_PUBLIC, HashAlgorithm::Sha384, &octets(P384_SIGNATURE)), Ok(()));
    }

    /// PKCS#1 v1.5 has one signature only, so it must be that of OpenSSL.
    #[test]
    fn rsa_signs_like_openssl() {
        let signer = Signer::from_pkcs8(RSA_PRIVATE).unwrap();
        assert_eq!(signer.sign(&mut rng(), &hash(HashAlgorithm::Sha256)).unwrap(), RSA_SIGNATURE);
        let of_sha1 = signer.sign(&mut rng(), &hash(HashAlgorithm::Sha1)).unwrap();
        assert_eq!(
            HashAlgorithm::Sha256.digest(&[&of_sha1]),
            octets("8e1903df04f48ef9738fab674abc5934544411b595d532f8e48002e2d156dae8")
        );
    }

    /// RFC 4754, section 8.1: the digest of "abc".
    #[test]
    fn the_vector_of_rfc_4754_verifies() {
        let spki = octets(
            "3059301306072a8648ce3d020106082a8648ce3d03010703420004
             2442a5cc0ecd015fa3ca31dc8e2bbc70bf42d60cbca20085e0822cb04235e970
             6fc98bd7e50211a4a27102fa3549df79ebcb4bf246b80945cddfe7d509bbfd7d",
        );
        let signature = octets(
            "cb28e0999b9c7715fd0a80d8e47a77079716cbbf917dd72e97566ea1c066957c
             86fa3bb4e26cad5bf90b7f81899256ce7594bb1ea0c89212748bff3b3d5b0315",
        );
        let digest = HashAlgorithm::Sha256.digest(&[b"abc"]);
        assert_eq!(Verifier::from_spki(&spki).unwrap().verify(&digest, &signature), Ok(()));
    }

    #[test]
    fn what_is_signed_verifies_and_nothing_else_does() {
        for (method, private, public) in PAIRS {
            let (signer, verifier) = (Signer::from_pkcs8(private).unwrap(), Verifier::from_spki(public).unwrap());
            assert_eq!((signer.method(), verifier.method()), (method, method));
            let hash = hash(method.hash(HashAlgorithm::Sha512));
            let signature = signer.sign(&mut rng(), &hash).unwrap();
            assert_eq!(verifier.verify(&hash, &signature), Ok(()), "{method:?}");

            for at in [0, signature.len() / 2, signature.len() - 1] {
                let mut altered = signature.clone();
                altered[at] ^= 1;
                assert_eq!(verifier.verify(&hash, &altered), Err(CryptoError::Signature), "{method:?}");
            }
            let mut other = hash.clone();
            other[0] ^= 1;
            assert_eq!(verifier.verify(&other, &signature), Err(CryptoError::Signature), "{method:?}");
            for length in [0, 1, signature.len() - 1] {
                assert_eq!(verifier.verify(&hash, &signature[..length]), Err(CryptoError::Signature), "{method:?}");
            }
            let longer = [&signature[..], &[0]].concat();
            assert_eq!(verifier.verify(&hash, &longer), Err(CryptoError::Signature), "{method:?}");
            assert_eq!(verifier.verify(&hash, &vec![0; signature.len()]), Err(CryptoError::Signature));
            assert_eq!(verifier.verify(&hash, &vec![0xff; signature.len()]), Err(CryptoError::Signature));
        }
    }

    #[test]
    fn a_hash_of_another_length_is_refused() {
        for (method, private, public) in PAIRS {
            let (signer, verifier) = (Signer::from_pkcs8(private).unwrap(), Verifier::from_spki(public).unwrap());
            let taken: &[usize] = match method {
                Method::Rsa => &[16, 20, 32, 48, 64],
                Method::EcdsaP256 => &[32],
                Method::EcdsaP384 => &[48],
            };
            for length in (0..100).filter(|length| !taken.contains(length)) {
                let error = CryptoError::HashLength(length);
                assert_eq!(signer.sign(&mut rng(), &vec![1; length]), Err(error));
                assert_eq!(verifier.verify(&vec![1; length], RSA_SIGNATURE), Err(error));
            }
            for &length in taken {
                assert!(signer.sign(&mut rng(), &vec![1; length]).is_ok());
            }
        }
    }

    /// A public key of RSA that nobody needs the private one of.
    fn rsa_spki(bits: u32, exponent: u64) -> Vec<u8> {
        let mut modulus = vec![0xff; bits.div_ceil(8) as usize];
        modulus[0] >>= bits.next_multiple_of(8) - bits;
        let modulus = BoxedUint::from_be_slice(&modulus, bits.next_multiple_of(64)).unwrap();
        rsa::PublicKey::new_unchecked(modulus, BoxedUint::from(exponent)).to_public_key_der().unwrap().into_vec()
    }

    #[test]
    fn rsa_that_is_too_weak_or_too_costly_is_refused() {
        for (bits, exponent) in [(2048, 65537), (3072, 65539), (4096, 65537), (2049, 65537)] {
            assert!(Verifier::from_spki(&rsa_spki(bits, exponent)).is_ok(), "{bits} {exponent}");
        }
        for (bits, exponent) in [
            (512, 65537),
            (1024, 65537),
            (2047, 65537),
            (4097, 65537),
            (8192, 65537),
            (16384, 65537),
            (2048, 1),
            (2048, 3),
            (2048, 65535),
            (2048, 65538),
            (2048, 1 << 40 | 1),
        ] {
            let refused = Verifier::from_spki(&rsa_spki(bits, exponent)).err();
            let expected = [Some(CryptoError::UnsupportedKey), Some(CryptoError::MalformedKey)];
            assert!(expected.contains(&refused), "{bits} {exponent}: {refused:?}");
        }
        let small = rsa::PrivateKey::new(&mut rng(), 1024).unwrap().to_pkcs8_der().unwrap();
        assert_eq!(Signer::from_pkcs8(small.as_bytes()).err(), Some(CryptoError::UnsupportedKey));
    }

    #[test]
    fn keys_of_other_algorithms_are_refused() {
        // Ed25519 (RFC 8410), which IKEv1 has no method for.
        let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
        let spki = key.verifying_key().to_public_key_der().unwrap();
        assert_eq!(Verifier::from_spki(spki.as_bytes()).err(), Some(CryptoError::UnsupportedKey));
        let private = key.to_pkcs8_der().unwrap();
        assert_eq!(Signer::from_pkcs8(private.as_bytes()).err(), Some(CryptoError::UnsupportedKey));
        // secp256k1 in place of P-256.
        let mut spki = P256_PUBLIC.to_vec();
        let curve = octets("06082a8648ce3d030107");
        let at = spki.windows(curve.len()).position(|window| window == curve).unwrap();
        spki[at + curve.len() - 1] = 8;
        assert_eq!(Verifier::from_spki(&spki).err(), Some(CryptoError::UnsupportedKey));
    }

    #[test]
    fn what_is_cut_or_no_key_is_refused() {
        for (_, private, public) in PAIRS {
            for length in 0..public.len() {
                assert!(Verifier::from_spki(&public[..length]).is_err());
            }
            for length in (0..private.len()).step_by(7) {
                assert!(Signer::from_pkcs8(&private[..length]).is_err());
            }
            assert!(Verifier::from_spki(private).is_err());
            assert!(Signer::from_pkcs8(public).is_err());
            assert!(Verifier::from_spki(&[public, &[0]].concat()).is_err());
        }
        // A point that is not on the curve, and one that is compressed.
        let mut off = P256_PUBLIC.to_vec();
        *off.last_mut().unwrap() ^= 1;
        assert_eq!(Verifier::from_spki(&off).err(), Some(CryptoError::MalformedKey));
    }

    #[test]
    fn a_number_names_one_method() {
        for method in Method::ALL {
            assert_eq!(Method::from_number(method.number()), Some(method));
        }
        assert_eq!(Method::ALL.map(Method::number), [3, 9, 10]);
        // A pre-shared key and DSS.
        assert_eq!((Method::from_number(1), Method::from_number(2)), (None, None));
    }

    #[test]
    fn rsa_takes_the_negotiated_hash_and_ecdsa_its_own() {
        for negotiated in HashAlgorithm::ALL {
            assert_eq!(Method::Rsa.hash(negotiated), negotiated);
            assert_eq!(Method::EcdsaP256.hash(negotiated), HashAlgorithm::Sha256);
            assert_eq!(Method::EcdsaP384.hash(negotiated), HashAlgorithm::Sha384);
        }
    }
}
