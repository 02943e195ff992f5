//! Diffie-Hellman in the groups of RFC 2409 (1 and 2) and RFC 3526 (14): powers of 2 modulo a safe prime.
//!
//! Exponents are of 256 bits. That is twice the security of the strongest of the groups, which RFC 3526, section 8, puts
//! at 110 to 160 bits for group 14. Short exponents are safe here because the primes are: the order of 2 is the prime
//! (p - 1) / 2, and there is no small subgroup in which a peer could learn an exponent piece by piece.

use crypto_bigint::modular::{ConstMontyForm, ConstMontyParams};
use crypto_bigint::{Limb, U256, U768, U1024, U2048, Uint, const_monty_params};
use zeroize::Zeroizing;

use super::{CryptoError, SecretBytes};

/// `2^exponent`, as wide as the modulus.
pub(super) fn public<M: ConstMontyParams<L>, const L: usize>(exponent: &SecretBytes) -> Vec<u8> {
    to_octets(&power::<M, L>(&Uint::from(2u8), exponent)).as_bytes().to_vec()
}

/// `peer^exponent`, as wide as the modulus (RFC 2409, section 5: a group's secret has no zeros stripped).
///
/// # Errors
/// `peer` is of another width, or not in 2..=p - 2: 0, 1 and p - 1 make the secret one that everybody knows.
pub(super) fn agree<M: ConstMontyParams<L>, const L: usize>(
    exponent: &SecretBytes,
    peer: &[u8],
) -> Result<SecretBytes, CryptoError> {
    if peer.len() != Uint::<L>::BYTES {
        return Err(CryptoError::PublicValueLength(peer.len()));
    }
    let peer = Uint::<L>::from_be_slice(peer);
    let last = M::PARAMS.modulus().as_ref().wrapping_sub(&Uint::ONE);
    if peer <= Uint::ONE || peer >= last {
        return Err(CryptoError::PublicValue);
    }
    Ok(to_octets(&power::<M, L>(&peer, exponent)))
}

/// In a time that depends on neither.
fn power<M: ConstMontyParams<L>, const L: usize>(base: &Uint<L>, exponent: &SecretBytes) -> Zeroizing<Uint<L>> {
    let exponent = Zeroizing::new(U256::from_be_slice(exponent.as_bytes()));
    Zeroizing::new(ConstMontyForm::<M, L>::new(base).pow(&*exponent).retrieve())
}

fn to_octets<const L: usize>(number: &Uint<L>) -> SecretBytes {
    let mut octets = SecretBytes::zeros(Uint::<L>::BYTES);
    for (octets, limb) in octets.as_mut_bytes().rchunks_exact_mut(Limb::BYTES).zip(number.as_limbs()) {
        octets.copy_from_slice(&limb.0.to_be_bytes());
    }
    octets
}

const_monty_params!(
    Modp768,
    U768,
    concat!(
        "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD",
        "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A63A3620FFFFFFFFFFFFFFFF",
    ),
    "Group 1: RFC 2409, section 6.1."
);
const_monty_params!(
    Modp1024,
    U1024,
    concat!(
        "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD",
        "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED",
        "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE65381FFFFFFFFFFFFFFFF",
    ),
    "Group 2: RFC 2409, section 6.2."
);
const_monty_params!(
    Modp2048,
    U2048,
    concat!(
        "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD",
        "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED",
        "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F",
        "83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B",
        "E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510",
        "15728E5A8AACAA68FFFFFFFFFFFFFFFF",
    ),
    "Group 14: RFC 3526, section 3."
);
