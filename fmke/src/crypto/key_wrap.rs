//! AES Key Wrap (RFC 3394) under keys of 256 bits: a key for who holds another one.

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap};

use super::{CryptoError, SecretBytes};

/// Octets that a wrapped key has more than the key.
pub const OVERHEAD: usize = 8;

/// Wraps `secret` under `key`. The same two give the same result.
///
/// # Errors
/// `key` is not of 32 octets, or `secret` is not of 16, 24, 32, … octets.
pub fn wrap(key: &SecretBytes, secret: &SecretBytes) -> Result<Vec<u8>, CryptoError> {
    let key = wrapping_key(key)?;
    let length = secret.as_bytes().len();
    let mut wrapped = vec![0; length + OVERHEAD];
    key.wrap(secret.as_bytes(), &mut wrapped).map_err(|_| CryptoError::KeyLength(length))?;
    Ok(wrapped)
}

/// Takes out what [`wrap`] has put in.
///
/// # Errors
/// `key` is not of 32 octets; it is another than `wrapped` was made with, or `wrapped` was altered.
pub fn unwrap(key: &SecretBytes, wrapped: &[u8]) -> Result<SecretBytes, CryptoError> {
    let key = wrapping_key(key)?;
    let mut secret = SecretBytes::zeros(wrapped.len().saturating_sub(OVERHEAD));
    key.unwrap(wrapped, secret.as_mut_bytes()).map_err(|_| CryptoError::Unwrap)?;
    Ok(secret)
}

fn wrapping_key(key: &SecretBytes) -> Result<AesKek, CryptoError> {
    AesKek::new(&AES_256, key.as_bytes()).map_err(|_| CryptoError::KeyLength(key.as_bytes().len()))
}

#[cfg(test)]
mod tests {
    use super::super::vectors::octets;
    use super::*;

    fn secret(hex: &str) -> SecretBytes {
        SecretBytes::from(octets(hex).as_slice())
    }

    /// RFC 3394, section 4.6.
    #[test]
    fn a_key_of_256_bits_under_one_of_256_bits() {
        let key = secret("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
        let data = secret("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f");
        let wrapped = wrap(&key, &data).unwrap();
        assert_eq!(wrapped, octets("28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21"));
        assert!(unwrap(&key, &wrapped).unwrap().matches(data.as_bytes()));
    }

    #[test]
    fn what_was_altered_does_not_unwrap() {
        let key = SecretBytes::from(&[1; 32][..]);
        let wrapped = wrap(&key, &SecretBytes::from(&[2; 32][..])).unwrap();
        for at in 0..wrapped.len() {
            let mut altered = wrapped.clone();
            altered[at] ^= 1;
            assert_eq!(unwrap(&key, &altered).err(), Some(CryptoError::Unwrap));
        }
        assert_eq!(unwrap(&SecretBytes::from(&[3; 32][..]), &wrapped).err(), Some(CryptoError::Unwrap));
        for length in 0..wrapped.len() {
            assert_eq!(unwrap(&key, &wrapped[..length]).err(), Some(CryptoError::Unwrap));
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let key = SecretBytes::zeros(32);
        for length in [0, 8, 15, 17, 31, 33] {
            let error = Some(CryptoError::KeyLength(length));
            assert_eq!(wrap(&key, &SecretBytes::zeros(length)).err(), error);
        }
        for length in [0, 16, 24, 31, 33] {
            let short = SecretBytes::zeros(length);
            assert_eq!(wrap(&short, &key).err(), Some(CryptoError::KeyLength(length)));
            assert_eq!(unwrap(&short, &[0; 40]).err(), Some(CryptoError::KeyLength(length)));
        }
    }
}
