//! The hash algorithms of phase 1, and the pseudo-random function that goes with each: its HMAC (RFC 2409, section 4).

use aws_lc_rs::{digest, hmac};
use md5::Md5;

use super::SecretBytes;

/// A hash algorithm of IKEv1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HashAlgorithm {
    /// MD5 (RFC 1321), for peers that have nothing else.
    Md5,
    /// SHA-1, for peers that have nothing else.
    Sha1,
    /// SHA-2 of 256 bits.
    Sha256,
    /// SHA-2 of 384 bits.
    Sha384,
    /// SHA-2 of 512 bits.
    Sha512,
}

impl HashAlgorithm {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The value of attribute 2 of a transform of phase 1 (IANA, "Internet Key Exchange (IKE) Attributes").
    pub fn number(self) -> u16 {
        match self {
            Self::Md5 => 1,
            Self::Sha1 => 2,
            Self::Sha256 => 4,
            Self::Sha384 => 5,
            Self::Sha512 => 6,
        }
    }

    /// The algorithm that `number` names, if it is one of these.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.number() == number)
    }

    /// Whether it is offered and taken only where an administrator allows what is outdated.
    pub fn is_legacy(self) -> bool {
        matches!(self, Self::Md5 | Self::Sha1)
    }

    /// Octets of a hash and of what the pseudo-random function puts out.
    pub fn output_len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The hash of the parts, one after the other. For what everybody may know: see [`HashAlgorithm::prf`] for secrets.
    pub fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        let Some((algorithm, _)) = self.aws_lc() else {
            use md5::Digest as _;
            return parts.iter().fold(Md5::new(), Md5::chain_update).finalize().to_vec();
        };
        let mut context = digest::Context::new(algorithm);
        for part in parts {
            context.update(part);
        }
        context.finish().as_ref().to_vec()
    }

    /// The pseudo-random function: HMAC (RFC 2104) of the parts, one after the other, under `key`.
    pub fn prf(self, key: &[u8], parts: &[&[u8]]) -> SecretBytes {
        // In one piece, because HMAC in several leaves its result in memory that nobody erases.
        let text = SecretBytes::concatenated(parts);
        let mut output = SecretBytes::zeros(self.output_len());
        match self.aws_lc() {
            Some((_, algorithm)) => {
                // It fails only where the output has too little room.
                hmac::sign_to_buffer(&hmac::Key::new(algorithm, key), text.as_bytes(), output.as_mut_bytes())
                    .expect("room for the output");
            }
            None => {
                use ::hmac::{Hmac, KeyInit, Mac};
                // HMAC takes keys of every length.
                let mac = Hmac::<Md5>::new_from_slice(key).expect("a key of any length");
                output.as_mut_bytes().copy_from_slice(&mac.chain_update(text.as_bytes()).finalize().into_bytes());
            }
        }
        output
    }

    /// The algorithm and its HMAC in aws-lc, which has no MD5.
    fn aws_lc(self) -> Option<(&'static digest::Algorithm, hmac::Algorithm)> {
        match self {
            Self::Md5 => None,
            Self::Sha1 => Some((&digest::SHA1_FOR_LEGACY_USE_ONLY, hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY)),
            Self::Sha256 => Some((&digest::SHA256, hmac::HMAC_SHA256)),
            Self::Sha384 => Some((&digest::SHA384, hmac::HMAC_SHA384)),
            Self::Sha512 => Some((&digest::SHA512, hmac::HMAC_SHA512)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::octets;
    use super::*;

    #[test]
    fn digests_of_abc() {
        let digest = |algorithm: HashAlgorithm| algorithm.digest(&[b"a", b"", b"bc"]);
        assert_eq!(digest(HashAlgorithm::Md5), octets("900150983cd24fb0d6963f7d28e17f72"));
        assert_eq!(digest(HashAlgorithm::Sha1), octets("a9993e364706816aba3e25717850c26c9cd0d89d"));
        assert_eq!(
            digest(HashAlgorithm::Sha256),
            octets("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        );
        assert_eq!(digest(HashAlgorithm::Sha384)[..8], octets("cb00753f45a35e8b"));
        assert_eq!(digest(HashAlgorithm::Sha512)[..8], octets("ddaf35a193617aba"));
    }

    /// RFC 2202, test case 2 of both, and RFC 4231, test case 2.
    #[test]
    fn the_function_is_hmac() {
        let expected = [
            (HashAlgorithm::Md5, "750c783e6ab0b503eaa86e310a5db738"),
            (HashAlgorithm::Sha1, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
            (HashAlgorithm::Sha256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
            (
                HashAlgorithm::Sha384,
                "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
            ),
            (
                HashAlgorithm::Sha512,
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fd
                 caeab1a34d4a6b4b636e070a38bce737",
            ),
        ];
        for (algorithm, output) in expected {
            let computed = algorithm.prf(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
            assert_eq!(computed.as_bytes(), octets(output), "{algorithm:?}");
            assert_eq!(computed.as_bytes().len(), algorithm.output_len());
        }
    }

    /// RFC 2202 and RFC 4231, test case 6: a key longer than a block is hashed first.
    #[test]
    fn a_key_may_be_longer_than_a_block() {
        let text: &[&[u8]] = &[b"Test Using Larger Than Block-Size Key - Hash Key First"];
        let short = |algorithm: HashAlgorithm, key: &[u8]| algorithm.prf(key, text);
        assert!(short(HashAlgorithm::Md5, &[0xaa; 80]).matches(&octets("6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd")));
        assert!(short(HashAlgorithm::Sha1, &[0xaa; 80]).matches(&octets("aa4ae5e15272d00e95705637ce8a3b55ed402112")));
        assert!(
            short(HashAlgorithm::Sha256, &[0xaa; 131])
                .matches(&octets("60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"))
        );
    }

    #[test]
    fn a_number_names_one_algorithm() {
        for algorithm in HashAlgorithm::ALL {
            assert_eq!(HashAlgorithm::from_number(algorithm.number()), Some(algorithm));
            assert_eq!(algorithm.digest(&[]).len(), algorithm.output_len());
        }
        assert_eq!(HashAlgorithm::ALL.map(HashAlgorithm::number), [1, 2, 4, 5, 6]);
        assert_eq!(HashAlgorithm::ALL.map(HashAlgorithm::is_legacy), [true, true, false, false, false]);
        // Tiger.
        assert_eq!(HashAlgorithm::from_number(3), None);
    }
}
