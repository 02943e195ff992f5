//! Octets that only some may know.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use rand_core::CryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Octets that only some may know. They stand on the heap, so that a move leaves no copy behind, are erased when dropped
/// and have no `Debug`.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SecretBytes(Box<[u8]>);

impl SecretBytes {
    /// `length` zeros, to be filled by [`SecretBytes::as_mut_bytes`].
    pub fn zeros(length: usize) -> Self {
        Self(vec![0; length].into_boxed_slice())
    }

    /// `length` random octets.
    pub fn generate(length: usize, rng: &mut impl CryptoRng) -> Self {
        let mut secret = Self::zeros(length);
        rng.fill_bytes(&mut secret.0);
        secret
    }

    /// The parts, one after the other.
    pub fn concatenated(parts: &[&[u8]]) -> Self {
        Self(parts.concat().into_boxed_slice())
    }

    /// The first `length` octets, or all if there are fewer.
    pub fn truncated(&self, length: usize) -> Self {
        Self(self.0.iter().copied().take(length).collect())
    }

    /// The octets.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The octets, to be written.
    pub fn as_mut_bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// Whether these are the octets. The time says nothing but whether the lengths differ.
    pub fn matches(&self, octets: &[u8]) -> bool {
        verify_slices_are_equal(&self.0, octets).is_ok()
    }
}

impl From<&[u8]> for SecretBytes {
    fn from(octets: &[u8]) -> Self {
        Self(octets.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_octets_match() {
        let secret = SecretBytes::from(&b"a secret"[..]);
        assert!(secret.matches(b"a secret"));
        assert!(!secret.matches(b"a secreT"));
        assert!(!secret.matches(b"a secre"));
        assert!(!secret.matches(b""));
    }

    #[test]
    fn no_more_is_truncated_than_there_is() {
        let secret = SecretBytes::from(&[1, 2, 3][..]);
        assert_eq!(secret.truncated(2).as_bytes(), [1, 2]);
        assert_eq!(secret.truncated(4).as_bytes(), [1, 2, 3]);
    }
}
