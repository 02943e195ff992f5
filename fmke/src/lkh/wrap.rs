//! AES key wrap with a 256-bit key (RFC 3394).

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap};

use super::key::KEY;

/// Octets of a wrapped key: 8 more than the key, by which unwrapping sees what is wrong.
pub(super) const WRAPPED: usize = KEY + 8;

pub(super) fn wrap(kek: &[u8; KEY], key: &[u8; KEY]) -> [u8; WRAPPED] {
    let mut wrapped = [0; WRAPPED];
    // Fails only for lengths that are not as here.
    kek_of(kek).wrap(key, &mut wrapped).expect("32 octets into 40");
    wrapped
}

/// Whether it was wrapped with this key; else nothing of use is in `key`.
pub(super) fn unwrap(kek: &[u8; KEY], wrapped: &[u8; WRAPPED], key: &mut [u8; KEY]) -> bool {
    kek_of(kek).unwrap(wrapped, key).is_ok()
}

fn kek_of(kek: &[u8; KEY]) -> AesKek {
    AesKek::new(&AES_256, kek).expect("a key of 256 bits")
}

#[cfg(test)]
mod tests {
    use muster_wire::hex;

    use super::*;

    /// RFC 3394, section 4.6.
    #[test]
    fn the_vector_of_the_rfc() {
        let kek = hex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
        let key = hex("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f");
        let mut wrapped = [0; WRAPPED];
        wrapped[..32].copy_from_slice(&hex("28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43b"));
        wrapped[32..].copy_from_slice(&0xfb98_8b9b_7a02_dd21_u64.to_be_bytes());
        assert_eq!(wrap(&kek, &key), wrapped);
        let mut back = [0; KEY];
        assert!(unwrap(&kek, &wrapped, &mut back));
        assert_eq!(back, key);
    }
}
