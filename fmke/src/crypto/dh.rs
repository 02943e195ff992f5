//! The Diffie-Hellman exchange of phase 1.

use aws_lc_rs::agreement::{self, ECDH_P256, PrivateKey, UnparsedPublicKey, X25519};
use crypto_bigint::{U768, U1024, U2048};
use rand_core::CryptoRng;

use super::modp::{self, Modp768, Modp1024, Modp2048};
use super::{CryptoError, SecretBytes};

/// What stands before the two coordinates of a point that is not compressed (SEC 1, 2.3.3), and not in ISAKMP.
const UNCOMPRESSED: u8 = 4;

/// Octets of what is drawn for a secret.
const SECRET_LEN: usize = 32;

/// A group of IKEv1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// 768 bits (RFC 2409, section 6.1), for peers that have nothing else.
    Modp768,
    /// 1024 bits (RFC 2409, section 6.2), for peers that have nothing else.
    Modp1024,
    /// 2048 bits (RFC 3526, section 3).
    Modp2048,
    /// The curve P-256 (RFC 5903).
    P256,
    /// Curve25519 (RFC 8031).
    Curve25519,
}

impl Group {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Modp768, Self::Modp1024, Self::Modp2048, Self::P256, Self::Curve25519];

    /// The value of attribute 4 of a transform of phase 1 (IANA, "Internet Key Exchange (IKE) Attributes").
    pub fn number(self) -> u16 {
        match self {
            Self::Modp768 => 1,
            Self::Modp1024 => 2,
            Self::Modp2048 => 14,
            Self::P256 => 19,
            Self::Curve25519 => 31,
        }
    }

    /// The group that `number` names, if it is one of these.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.number() == number)
    }

    /// Whether it is offered and taken only where an administrator allows what is outdated.
    pub fn is_legacy(self) -> bool {
        matches!(self, Self::Modp768 | Self::Modp1024)
    }

    /// Octets of a public value in a KE payload.
    pub fn public_len(self) -> usize {
        match self {
            Self::Modp768 => 96,
            Self::Modp1024 => 128,
            Self::Modp2048 => 256,
            Self::P256 => 64,
            Self::Curve25519 => 32,
        }
    }
}

/// The secret of one exchange, and the public value that belongs to it.
pub struct Secret {
    private: Private,
    public: Vec<u8>,
}

/// aws-lc erases its keys when they are dropped.
enum Private {
    Modp768(SecretBytes),
    Modp1024(SecretBytes),
    Modp2048(SecretBytes),
    P256(PrivateKey),
    Curve25519(PrivateKey),
}

impl Secret {
    /// A fresh secret.
    ///
    /// # Errors
    /// [`CryptoError::Randomness`] when `rng` does not give random numbers.
    pub fn generate(group: Group, rng: &mut impl CryptoRng) -> Result<Self, CryptoError> {
        // 32 octets are a secret in each of the groups, but that a scalar of P-256 must be below the order and not zero;
        // one that is not comes up once in 2^32 times.
        const TRIES: usize = 8;
        (0..TRIES)
            .find_map(|_| Self::from_octets(group, SecretBytes::generate(SECRET_LEN, rng)))
            .ok_or(CryptoError::Randomness)
    }

    fn from_octets(group: Group, octets: SecretBytes) -> Option<Self> {
        let (public, private) = match group {
            Group::Modp768 => (modp::public::<Modp768, { U768::LIMBS }>(&octets), Private::Modp768(octets)),
            Group::Modp1024 => (modp::public::<Modp1024, { U1024::LIMBS }>(&octets), Private::Modp1024(octets)),
            Group::Modp2048 => (modp::public::<Modp2048, { U2048::LIMBS }>(&octets), Private::Modp2048(octets)),
            Group::P256 => {
                let private = PrivateKey::from_private_key(&ECDH_P256, octets.as_bytes()).ok()?;
                let point = private.compute_public_key().ok()?;
                (point.as_ref().strip_prefix(&[UNCOMPRESSED])?.to_vec(), Private::P256(private))
            }
            Group::Curve25519 => {
                let private = PrivateKey::from_private_key(&X25519, octets.as_bytes()).ok()?;
                (private.compute_public_key().ok()?.as_ref().to_vec(), Private::Curve25519(private))
            }
        };
        Some(Self { private, public })
    }

    /// The public value, as it stands in a KE payload: a power in the width of its modulus, X and Y of P-256 (RFC 5903,
    /// section 7), or the 32 octets of RFC 7748.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The secret that is shared with the one whose public value is `peer`: g^xy in the width of its modulus, X of
    /// P-256 (RFC 5903, section 7), or the 32 octets of RFC 7748.
    ///
    /// # Errors
    /// `peer` is of another length, no member of the group, or one with which every secret is the same.
    pub fn agree(&self, peer: &[u8]) -> Result<SecretBytes, CryptoError> {
        if peer.len() != self.public.len() {
            return Err(CryptoError::PublicValueLength(peer.len()));
        }
        match &self.private {
            Private::Modp768(exponent) => modp::agree::<Modp768, { U768::LIMBS }>(exponent, peer),
            Private::Modp1024(exponent) => modp::agree::<Modp1024, { U1024::LIMBS }>(exponent, peer),
            Private::Modp2048(exponent) => modp::agree::<Modp2048, { U2048::LIMBS }>(exponent, peer),
            Private::P256(scalar) => {
                on_curve(scalar, UnparsedPublicKey::new(&ECDH_P256, [&[UNCOMPRESSED], peer].concat()))
            }
            Private::Curve25519(scalar) => on_curve(scalar, UnparsedPublicKey::new(&X25519, peer)),
        }
    }
}

/// aws-lc refuses a point that is not on the curve, and a secret of Curve25519 that is zero (RFC 7748, section 6.1).
fn on_curve<B: AsRef<[u8]>>(scalar: &PrivateKey, peer: UnparsedPublicKey<B>) -> Result<SecretBytes, CryptoError> {
    agreement::agree(scalar, peer, CryptoError::PublicValue, |secret| Ok(SecretBytes::from(secret)))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use rand_core::{TryCryptoRng, TryRng};

    use super::super::HashAlgorithm;
    use super::super::vectors::{octets, rng};
    use super::*;

    fn secret(group: Group, octets: &[u8]) -> Secret {
        Secret::from_octets(group, SecretBytes::from(octets)).unwrap()
    }

    /// RFC 5903, section 8.1.
    #[test]
    fn the_vector_of_p256() {
        let i = secret(Group::P256, &octets("c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433"));
        let r = secret(Group::P256, &octets("c6ef9c5d78ae012a011164acb397ce2088685d8f06bf9be0b283ab46476bee53"));
        let (public_i, public_r) = (i.public().to_vec(), r.public().to_vec());
        assert_eq!(
            public_i,
            octets(
                "dad0b65394221cf9b051e1feca5787d098dfe637fc90b9ef945d0c3772581180
                 5271a0461cdb8252d61f1c456fa3e59ab1f45b33accf5f58389e0577b8990bb3"
            )
        );
        assert_eq!(
            public_r,
            octets(
                "d12dfb5289c8d4f81208b70270398c342296970a0bccb74c736fc7554494bf63
                 56fbf3ca366cc23e8157854c13c58d6aac23f046ada30f8353e74f33039872ab"
            )
        );
        let shared = octets("d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de");
        assert!(i.agree(&public_r).unwrap().matches(&shared));
        assert!(r.agree(&public_i).unwrap().matches(&shared));
    }

    /// RFC 7748, section 6.1.
    #[test]
    fn the_vector_of_curve25519() {
        let alice =
            secret(Group::Curve25519, &octets("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"));
        let bob =
            secret(Group::Curve25519, &octets("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"));
        let (public_a, public_b) = (alice.public().to_vec(), bob.public().to_vec());
        assert_eq!(public_a, octets("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"));
        assert_eq!(public_b, octets("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"));
        let shared = octets("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
        assert!(alice.agree(&public_b).unwrap().matches(&shared));
        assert!(bob.agree(&public_a).unwrap().matches(&shared));
    }

    /// SHA-256 of 2^x, 2^y and 2^(xy) as Python's pow() computes them, with x = 01 02 … 20 and y = 65 66 … 84.
    #[test]
    fn the_powers_are_those_of_python() {
        let expected = [
            (
                Group::Modp768,
                "983f65c1780576f288fcef2024c395c3012bcb2ca1894b8d1c7021869db87968",
                "9fd485ab2cfc83797191078a387e5aca3079976b4a6509e4ddf21c6b389103ff",
                "0ad5762f7bad7ba56583ee09ee0b5750a8a02311fc307c474d0398ffd7a4e6ca",
            ),
            (
                Group::Modp1024,
                "3e5e53f04e5eeec9a4732ead2dc7f2ffad5d7f6aab19395b4a8130e8ec660251",
                "d2f19285287e0379e9f9aeb29dc83d10dc413ef6817d478f9b0ef45c752a0c42",
                "7c816b72d5984fe5df9ea7dc06ace7686c5c5753cde72f53d9e077009eadf12e",
            ),
            (
                Group::Modp2048,
                "0b9cb9036d2a594a7e3b43169bdf47ee9c7b64a2292203f1bb137b0b648d7e3c",
                "4a01df5e55eb8980216e99e5dc2bae0d01f99f2cee35e88d04454358d208f03c",
                "b47b4e1281da0a516c04f40f49407b684098d1b227852ee0827f747a9a3b353f",
            ),
        ];
        for (group, power_x, power_y, shared) in expected {
            let x = secret(group, &(1..=32).collect::<Vec<u8>>());
            let y = secret(group, &(101..=132).collect::<Vec<u8>>());
            let (public_x, public_y) = (x.public().to_vec(), y.public().to_vec());
            let hash = |octets: &[u8]| HashAlgorithm::Sha256.digest(&[octets]);
            assert_eq!(hash(&public_x), octets(power_x), "{group:?}");
            assert_eq!(hash(&public_y), octets(power_y), "{group:?}");
            assert_eq!(hash(x.agree(&public_y).unwrap().as_bytes()), octets(shared), "{group:?}");
            assert_eq!(hash(y.agree(&public_x).unwrap().as_bytes()), octets(shared), "{group:?}");
        }
    }

    /// 37^x modulo the prime of group 14 begins with a zero, which stays.
    #[test]
    fn a_shared_power_is_as_wide_as_its_modulus() {
        let mut peer = vec![0; 256];
        peer[255] = 37;
        let shared = secret(Group::Modp2048, &(1..=32).collect::<Vec<u8>>()).agree(&peer).unwrap();
        assert_eq!(shared.as_bytes().len(), 256);
        assert_eq!(shared.as_bytes()[..4], [0, 0x95, 0x0a, 0x1b]);
    }

    #[test]
    fn both_sides_agree() {
        for group in Group::ALL {
            let (one, other) = (Secret::generate(group, &mut rng()).unwrap(), secret(group, &[5; 32]));
            let (public_one, public_other) = (one.public().to_vec(), other.public().to_vec());
            assert_ne!(public_one, public_other);
            assert_eq!(public_one.len(), group.public_len());
            let shared = one.agree(&public_other).unwrap();
            assert!(other.agree(&public_one).unwrap().matches(shared.as_bytes()), "{group:?}");
        }
    }

    #[test]
    fn a_public_value_of_another_length_is_refused() {
        for group in Group::ALL {
            for length in [0, 1, group.public_len() - 1, group.public_len() + 1, 1000] {
                let refused = secret(group, &[5; 32]).agree(&vec![2; length]).err();
                assert_eq!(refused, Some(CryptoError::PublicValueLength(length)), "{group:?}");
            }
        }
    }

    #[test]
    fn a_power_that_all_know_is_refused() {
        for group in [Group::Modp768, Group::Modp1024, Group::Modp2048] {
            let width = group.public_len();
            // The primes end with 64 ones; those of all groups begin with 64 as well.
            let prime = modulus(group);
            let number = |last: u8| [vec![0; width - 1], vec![last]].concat();
            let below = |by: u8| [&prime[..width - 1], &[0xff - by]].concat();
            let refused = |public: &[u8]| secret(group, &[5; 32]).agree(public).err();
            for public in [number(0), number(1), below(1), below(0), vec![0xff; width]] {
                assert_eq!(refused(&public), Some(CryptoError::PublicValue), "{group:?}");
            }
            for public in [number(2), below(2)] {
                assert_eq!(refused(&public), None, "{group:?}");
            }
        }
    }

    fn modulus(group: Group) -> Vec<u8> {
        use crypto_bigint::modular::ConstMontyParams;
        match group {
            Group::Modp768 => Modp768::PARAMS.modulus().to_be_bytes().as_ref().to_vec(),
            Group::Modp1024 => Modp1024::PARAMS.modulus().to_be_bytes().as_ref().to_vec(),
            _ => Modp2048::PARAMS.modulus().to_be_bytes().as_ref().to_vec(),
        }
    }

    #[test]
    fn a_point_that_is_not_on_the_curve_is_refused() {
        let refused = |public: &[u8]| secret(Group::P256, &[5; 32]).agree(public).err();
        let mut public = secret(Group::P256, &[6; 32]).public().to_vec();
        assert_eq!(refused(&public), None);
        public[63] ^= 1;
        assert_eq!(refused(&public), Some(CryptoError::PublicValue));
        assert_eq!(refused(&[0; 64]), Some(CryptoError::PublicValue));
        assert_eq!(refused(&[0xff; 64]), Some(CryptoError::PublicValue));
    }

    /// The points of low order (RFC 7748, section 6.1): 0, 1, one of order 8, p - 1, p and p + 1.
    #[test]
    fn a_point_of_low_order_is_refused() {
        for point in [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        ] {
            let refused = secret(Group::Curve25519, &[5; 32]).agree(&octets(point)).err();
            assert_eq!(refused, Some(CryptoError::PublicValue), "{point}");
        }
    }

    /// A generator that gives the same octet for ever.
    struct Stuck(u8);

    impl TryRng for Stuck {
        type Error = Infallible;
        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            Ok(u32::from_ne_bytes([self.0; 4]))
        }
        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            Ok(u64::from_ne_bytes([self.0; 8]))
        }
        fn try_fill_bytes(&mut self, octets: &mut [u8]) -> Result<(), Infallible> {
            octets.fill(self.0);
            Ok(())
        }
    }

    impl TryCryptoRng for Stuck {}

    #[test]
    fn a_generator_that_gives_no_scalar_is_given_up() {
        for octet in [0, 0xff] {
            let refused = Secret::generate(Group::P256, &mut Stuck(octet)).err();
            assert_eq!(refused, Some(CryptoError::Randomness));
        }
    }

    #[test]
    fn a_number_names_one_group() {
        for group in Group::ALL {
            assert_eq!(Group::from_number(group.number()), Some(group));
        }
        assert_eq!(Group::ALL.map(Group::number), [1, 2, 14, 19, 31]);
        assert_eq!(Group::ALL.map(Group::is_legacy), [true, true, false, false, false]);
        assert_eq!(Group::from_number(5), None);
    }
}
