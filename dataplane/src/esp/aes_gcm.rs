//! AES-256-GCM as ESP uses it (RFC 4106).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::packet::{HEADER_LEN, ICV_LEN};
use crate::SaKey;

/// The key of one SA, ready for use.
pub(super) struct Aead {
    key: LessSafeKey,
    salt: [u8; 4],
}

impl Aead {
    pub(super) fn new(key: &SaKey) -> Self {
        let bytes = key.bytes();
        let mut salt = [0; 4];
        salt.copy_from_slice(&bytes[32..]);
        // Fails for a key of another length than 32 only.
        let key = UnboundKey::new(&AES_256_GCM, &bytes[..32]).expect("an AES-256 key is 32 octets long");
        Aead { key: LessSafeKey::new(key), salt }
    }

    /// Encrypts in place behind an ESP header; the ICV.
    pub(super) fn seal(&self, head: &[u8], plaintext: &mut [u8]) -> Option<[u8; ICV_LEN]> {
        let tag = self.key.seal_in_place_separate_tag(self.nonce(head), Aad::from(&head[..8]), plaintext).ok()?;
        tag.as_ref().try_into().ok()
    }

    /// Checks the ICV at the end of `rest` and decrypts what is before it in place.
    pub(super) fn open<'a>(&self, head: &[u8], rest: &'a mut [u8]) -> Option<&'a mut [u8]> {
        self.key.open_in_place(self.nonce(head), Aad::from(&head[..8]), rest).ok()
    }

    /// RFC 4106 4: salt, then IV.
    fn nonce(&self, head: &[u8]) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.salt);
        nonce[4..].copy_from_slice(&head[8..HEADER_LEN]);
        Nonce::assume_unique_for_key(nonce)
    }
}
