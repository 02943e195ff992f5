//! A node's key and what is computed from it. A key is used as the PRK of HKDF-Expand alone (RFC 5869, section 2.3), so
//! that what wraps, what is derived and what the caller makes of the root's key never coincide.

use aws_lc_rs::hkdf::{HKDF_SHA256, Prk};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::node::NodeId;
use super::wrap::{self, WRAPPED};

/// Octets of a key.
pub(super) const KEY: usize = 32;

/// 32 octets that only some may know. Erased when dropped; has no `Debug`.
#[derive(Clone)]
pub struct Key(Box<Zeroizing<[u8; KEY]>>);

impl Key {
    /// A key of these octets.
    pub fn from_bytes(bytes: &[u8; KEY]) -> Self {
        Self::filled(|key| key.copy_from_slice(bytes))
    }

    /// The octets.
    pub fn bytes(&self) -> &[u8; KEY] {
        &self.0
    }

    pub(super) fn random(rng: &mut impl CryptoRng) -> Self {
        Self::filled(|key| rng.fill_bytes(key))
    }

    /// The key of the node above, `parent`, that this renewed key of a child brings about.
    pub(super) fn derive_parent(&self, parent: NodeId, version: u32) -> Self {
        self.expand(b"muster lkh parent", parent, version)
    }

    /// What this key of `node` becomes when somebody joins below.
    pub(super) fn derive_joined(&self, node: NodeId, version: u32) -> Self {
        self.expand(b"muster lkh join", node, version)
    }

    /// The key of `under`'s parent, for those who hold this key of `under`.
    pub(super) fn wrap(&self, under: NodeId, version: u32, key: &Key) -> [u8; WRAPPED] {
        wrap::wrap(self.wrapping(under, version).bytes(), key.bytes())
    }

    /// Reverses [`Key::wrap`]; `None` if it was wrapped with another key, for another node or version.
    pub(super) fn unwrap(&self, under: NodeId, version: u32, wrapped: &[u8; WRAPPED]) -> Option<Self> {
        let kek = self.wrapping(under, version);
        let mut key = Box::new(Zeroizing::new([0; KEY]));
        wrap::unwrap(kek.bytes(), wrapped, &mut key).then_some(Self(key))
    }

    fn wrapping(&self, under: NodeId, version: u32) -> Self {
        self.expand(b"muster lkh wrap", under, version)
    }

    fn expand(&self, label: &[u8], node: NodeId, version: u32) -> Self {
        Self::filled(|out| {
            let info: [&[u8]; 3] = [label, &node.0.to_be_bytes(), &version.to_be_bytes()];
            // Both fail only beyond 255 blocks of output; this is one.
            let prk = Prk::new_less_safe(HKDF_SHA256, self.bytes());
            prk.expand(&info, HKDF_SHA256).and_then(|okm| okm.fill(out)).expect("one block of HKDF");
        })
    }

    /// Filled where it lies, so that the stack holds no copy.
    fn filled(fill: impl FnOnce(&mut [u8; KEY])) -> Self {
        let mut key = Box::new(Zeroizing::new([0; KEY]));
        fill(&mut key);
        Self(key)
    }
}

/// What a node of the tree holds.
#[derive(Clone)]
pub struct Node {
    pub(super) key: Key,
    pub(super) version: u32,
}

impl Node {
    /// Octets of [`Node::to_bytes`].
    pub const BYTES: usize = 4 + KEY;

    /// The key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The version of the change that set the key.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// For the store: the version, most significant octet first, then the key.
    pub fn to_bytes(&self) -> Zeroizing<[u8; Self::BYTES]> {
        let mut bytes = Zeroizing::new([0; Self::BYTES]);
        bytes[..4].copy_from_slice(&self.version.to_be_bytes());
        bytes[4..].copy_from_slice(self.key.bytes());
        bytes
    }

    /// Reverses [`Node::to_bytes`].
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let (version, key) = bytes.split_first_chunk().expect("36 octets");
        let key = Key::filled(|out| out.copy_from_slice(key));
        Self { key, version: u32::from_be_bytes(*version) }
    }
}

#[cfg(test)]
mod tests {
    use muster_wire::hex;

    use super::*;

    /// HKDF-Expand of one block is HMAC-SHA-256(key, info | 01); computed with Python's hmac.
    #[test]
    fn derivations_are_hkdf_expand() {
        let key = Key::from_bytes(&[7; KEY]);
        let expected: [u8; KEY] = hex("f5a8962ece201870cec89495b5d0f9d034fdda3e1ae696ea821ec50d61dbda34");
        assert_eq!(key.derive_parent(NodeId(0x0103), 5).bytes(), &expected);
        let expected: [u8; KEY] = hex("1e8571e264be3e884e8cd6297fd5000fef18b0b0bb9559a3caae40e93fe90d06");
        assert_eq!(key.derive_joined(NodeId(0x0103), 5).bytes(), &expected);
    }

    #[test]
    fn a_wrapped_key_opens_with_its_key_node_and_version_only() {
        let (key, inner) = (Key::from_bytes(&[7; KEY]), Key::from_bytes(&[8; KEY]));
        let wrapped = key.wrap(NodeId(2), 9, &inner);
        assert_eq!(key.unwrap(NodeId(2), 9, &wrapped).unwrap().bytes(), inner.bytes());
        assert!(key.unwrap(NodeId(4), 9, &wrapped).is_none());
        assert!(key.unwrap(NodeId(2), 8, &wrapped).is_none());
        assert!(inner.unwrap(NodeId(2), 9, &wrapped).is_none());
        for octet in 0..WRAPPED {
            let mut wrong = wrapped;
            wrong[octet] ^= 1;
            assert!(key.unwrap(NodeId(2), 9, &wrong).is_none(), "octet {octet}");
        }
    }

    #[test]
    fn a_stored_node_comes_back() {
        let node = Node { key: Key::from_bytes(&[3; KEY]), version: 0x0102_0304 };
        let bytes = node.to_bytes();
        assert_eq!(bytes[..5], [1, 2, 3, 4, 3]);
        let back = Node::from_bytes(&bytes);
        assert_eq!((back.key.bytes(), back.version), (node.key.bytes(), node.version));
    }
}
