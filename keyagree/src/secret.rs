//! Secrets and everything that is derived from them. Every use has its label, every input its length.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use hkdf::Hkdf;
use muster_wire::{GroupTag, Hash, hex};
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::Refusal;
use crate::tree::{Node, ParentIndex};

const SALT: &[u8] = b"muster 1";

/// The points of X25519 of low order, as their coordinate may be written below 2^255: with each of them every shared
/// secret is zero.
const LOW_ORDER: [[u8; 32]; 7] = [
    hex("0000000000000000000000000000000000000000000000000000000000000000"),
    hex("0100000000000000000000000000000000000000000000000000000000000000"),
    hex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    hex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    hex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    hex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    hex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
];

/// 32 bytes that only some may know. Erased when dropped; has no `Debug`.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Secret([u8; 32]);

impl Secret {
    /// From bytes that are as good as random.
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// HKDF-SHA256 (RFC 5869) of this secret for the use that `label` names.
    pub(crate) fn derive(&self, label: &str, context: &[&[u8]]) -> Secret {
        let mut bytes = [0; 32];
        self.expand(label, context, &mut bytes);
        Secret(bytes)
    }

    /// Like [`Secret::derive`], as many bytes as `out` has room for (at most 8,160).
    pub(crate) fn expand(&self, label: &str, context: &[&[u8]], out: &mut [u8]) {
        // expand() fails only beyond 255 blocks of 32 bytes; every caller passes a fixed array of at most 36.
        Hkdf::<Sha256>::new(Some(SALT), &self.0).expand(&prefixed(label, context), out).expect("a short output");
    }

    /// The group key: HKDF-Extract(context, root secret).
    pub(crate) fn group_key(&self, context: &Hash) -> Secret {
        let (bytes, _) = Hkdf::<Sha256>::extract(Some(&context.0), &self.0);
        Secret(bytes.into())
    }

    /// The public key of the pair that comes from this secret.
    pub(crate) fn public(&self) -> [u8; 32] {
        PublicKey::from(&self.private()).to_bytes()
    }

    /// For what may be shown: a confirmation tag, a fingerprint.
    pub(crate) fn to_hash(&self) -> Hash {
        Hash(self.0)
    }

    /// Whether every shared secret with this public key would be zero (RFC 7748, 6.1).
    pub(crate) fn is_low_order(public: &[u8; 32]) -> bool {
        let mut masked = *public;
        masked[31] &= 0x7f;
        LOW_ORDER.contains(&masked)
    }

    fn private(&self) -> StaticSecret {
        StaticSecret::from(self.derive("key pair", &[]).0)
    }

    fn agree(&self, other: &[u8; 32]) -> Result<Secret, Refusal> {
        let shared = self.private().diffie_hellman(&PublicKey::from(*other));
        if !shared.was_contributory() {
            return Err(Refusal::LowOrderKey);
        }
        Ok(Secret(shared.to_bytes()))
    }
}

/// Draws secrets, and forgets at each what it would take to draw it again: a device captured later does not reveal
/// what its generator gave before.
pub(crate) struct SecretSource(Secret);

impl SecretSource {
    /// From a seed that nothing else uses.
    pub(crate) fn new(seed: Secret) -> Self {
        Self(seed)
    }

    /// The next secret.
    pub(crate) fn draw(&mut self) -> Secret {
        let drawn = self.0.derive("drawn", &[]);
        // The old state is erased as it is dropped.
        self.0 = self.0.derive("next", &[]);
        drawn
    }
}

/// The secret of an agreed parent: from one child's secret and both children's public keys.
pub(crate) fn agreed(
    group: GroupTag,
    node: ParentIndex,
    own: &Secret,
    own_is_left: bool,
    left: &[u8; 32],
    right: &[u8; 32],
) -> Result<Secret, Refusal> {
    let shared = own.agree(if own_is_left { right } else { left })?;
    Ok(shared.derive("agreed", &[&group.0, &node.number().to_be_bytes(), left, right]))
}

/// The secret of a lifted parent.
pub(crate) fn lifted(group: GroupTag, node: ParentIndex, child: &Secret) -> Secret {
    child.derive("lifted", &[&group.0, &node.number().to_be_bytes()])
}

/// The secret of a sealed parent.
pub(crate) fn sealed(group: GroupTag, node: ParentIndex, epoch: u64, source: &Secret) -> Secret {
    source.derive("sealed", &[&group.0, &node.number().to_be_bytes(), &epoch.to_be_bytes()])
}

/// Where a ciphertext belongs; it opens nowhere else.
pub(crate) struct SealContext {
    pub(crate) group: GroupTag,
    pub(crate) epoch: u64,
    pub(crate) node: ParentIndex,
    pub(crate) recipient: Node,
    pub(crate) ephemeral: [u8; 32],
    pub(crate) public: [u8; 32],
}

impl SealContext {
    /// Encrypts a sealed parent's secret to one node of the resolution.
    pub(crate) fn seal(&self, ephemeral: &Secret, secret: &Secret) -> Result<[u8; 48], Refusal> {
        let mut sealed = [0; 48];
        sealed[..32].copy_from_slice(&secret.0);
        let (key, aad) = self.key(&ephemeral.agree(&self.public)?);
        let tag = key
            .seal_in_place_separate_tag(once(), Aad::from(aad), &mut sealed[..32])
            .map_err(|_| Refusal::Ciphertext)?;
        sealed[32..].copy_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Opens it with the recipient node's secret.
    pub(crate) fn open(&self, recipient: &Secret, sealed: &[u8; 48]) -> Result<Secret, Refusal> {
        let mut bytes = *sealed;
        let (key, aad) = self.key(&recipient.agree(&self.ephemeral)?);
        let plain = key.open_in_place(once(), Aad::from(aad), &mut bytes).map_err(|_| Refusal::Ciphertext)?;
        let mut secret = [0; 32];
        secret.copy_from_slice(plain);
        bytes.zeroize();
        Ok(Secret(secret))
    }

    fn key(&self, shared: &Secret) -> (LessSafeKey, Vec<u8>) {
        let (epoch, node, recipient) =
            (self.epoch.to_be_bytes(), self.node.number().to_be_bytes(), self.recipient.number().to_be_bytes());
        let context: [&[u8]; 6] = [&self.group.0, &epoch, &node, &recipient, &self.ephemeral, &self.public];
        let key = shared.derive("seal", &context);
        // new() fails only for a key of the wrong length.
        let key = UnboundKey::new(&AES_256_GCM, &key.0).expect("a 32-byte key");
        (LessSafeKey::new(key), prefixed("seal", &context))
    }
}

/// How datagrams name a group: black does not learn its name.
pub fn group_tag(name: &str) -> GroupTag {
    let Hash(hash) = hash("group tag", &[name.as_bytes()]);
    let mut tag = [0; 16];
    tag.copy_from_slice(&hash[..16]);
    GroupTag(tag)
}

/// SHA-256 over a label and length-prefixed parts.
pub(crate) fn hash(label: &str, parts: &[&[u8]]) -> Hash {
    Hash(Sha256::digest(prefixed(label, parts)).into())
}

/// The key of a [`SealContext`] serves one message only, so its nonce may be constant.
fn once() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn prefixed(label: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + label.len() + parts.iter().map(|part| 8 + part.len()).sum::<usize>());
    for part in std::iter::once(label.as_bytes()).chain(parts.iter().copied()) {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_list_holds_what_agrees_on_nothing() {
        for point in LOW_ORDER {
            for top in [0, 0x80] {
                let mut public = point;
                public[31] |= top;
                assert!(Secret::is_low_order(&public));
                assert!(Secret([1; 32]).agree(&public).is_err());
                public[0] ^= 0x20;
                assert!(!Secret::is_low_order(&public));
                assert!(Secret([1; 32]).agree(&public).is_ok());
            }
        }
    }

    proptest! {
        #[test]
        fn and_nothing_else(public in any::<[u8; 32]>(), low in 0..40_u8) {
            let near_zero = { let mut bytes = [0; 32]; bytes[0] = low; bytes };
            let near_prime = { let mut bytes = [0xff; 32]; bytes[0] = 0xff - low; bytes };
            for public in [public, near_zero, near_prime] {
                prop_assert_eq!(Secret::is_low_order(&public), Secret([1; 32]).agree(&public).is_err());
            }
        }
    }
}
