//! **No cipher.** Packets of the same sizes, in clear text, whose ICV nobody checks: what is left of the data plane's cost
//! without cryptography. For measuring, in no program but one built with the feature `null-cipher`.

use super::packet::ICV_LEN;
use crate::SaKey;

/// In the place of a key.
pub(super) struct Aead;

impl Aead {
    pub(super) fn new(_: &SaKey) -> Self {
        Aead
    }

    pub(super) fn seal(&self, _: &[u8], _: &mut [u8]) -> Option<[u8; ICV_LEN]> {
        Some([0; ICV_LEN])
    }

    pub(super) fn open<'a>(&self, _: &[u8], rest: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let plaintext = rest.len().checked_sub(ICV_LEN)?;
        Some(&mut rest[..plaintext])
    }
}
