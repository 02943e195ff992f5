//! The ciphers of phase 1 and of re-key messages: a block cipher in CBC mode.
//!
//! ISAKMP does not use the padding of PKCS#7. RFC 2409, appendix B, leaves the octets of the padding to the sender; here
//! they are zeros, as many as the last block lacks. The receiver does not look at them: the lengths in the payloads say
//! where a message ends.

use aes::{Aes128, Aes192, Aes256};
use cbc::cipher::{
    Block, BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, KeyInit, KeyIvInit,
};
use cbc::{Decryptor, Encryptor};
use des::{Des, TdesEde3};
use zeroize::Zeroizing;

use super::CryptoError;

/// A cipher of IKEv1, with the length of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// DES in CBC mode, for peers that have nothing else.
    Des,
    /// DES three times, with three keys, in CBC mode, for peers that have nothing else.
    TripleDes,
    /// AES in CBC mode (RFC 3602), 128 bits.
    Aes128,
    /// AES in CBC mode, 192 bits.
    Aes192,
    /// AES in CBC mode, 256 bits.
    Aes256,
}

impl Cipher {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Des, Self::TripleDes, Self::Aes128, Self::Aes192, Self::Aes256];

    /// The value of attribute 1 of a transform of phase 1 (IANA, "Internet Key Exchange (IKE) Attributes"): the
    /// encryption algorithm.
    pub fn number(self) -> u16 {
        match self {
            Self::Des => 1,
            Self::TripleDes => 5,
            Self::Aes128 | Self::Aes192 | Self::Aes256 => 7,
        }
    }

    /// The value of attribute 14 of a transform of phase 1, the length of the key in bits. It must not stand with a
    /// cipher whose key has one length only (RFC 2409, appendix A).
    pub fn key_bits(self) -> Option<u16> {
        match self {
            Self::Des | Self::TripleDes => None,
            Self::Aes128 => Some(128),
            Self::Aes192 => Some(192),
            Self::Aes256 => Some(256),
        }
    }

    /// The cipher that the two attributes name, if it is one of these.
    pub fn from_attributes(number: u16, key_bits: Option<u16>) -> Option<Self> {
        Self::ALL.into_iter().find(|cipher| cipher.number() == number && cipher.key_bits() == key_bits)
    }

    /// Whether it is offered and taken only where an administrator allows what is outdated.
    pub fn is_legacy(self) -> bool {
        matches!(self, Self::Des | Self::TripleDes)
    }

    /// Octets of a key.
    pub fn key_len(self) -> usize {
        match self {
            Self::Des => 8,
            Self::TripleDes | Self::Aes192 => 24,
            Self::Aes128 => 16,
            Self::Aes256 => 32,
        }
    }

    /// Octets of a block and of an initialisation vector.
    pub fn block_len(self) -> usize {
        match self {
            Self::Des | Self::TripleDes => 8,
            Self::Aes128 | Self::Aes192 | Self::Aes256 => 16,
        }
    }

    /// The last block of a ciphertext: the initialisation vector of what follows (RFC 2409, appendix B). All of what is
    /// shorter than a block.
    pub fn last_block(self, ciphertext: &[u8]) -> &[u8] {
        &ciphertext[ciphertext.len().saturating_sub(self.block_len())..]
    }

    /// Fills the last block with zeros and encrypts.
    ///
    /// # Errors
    /// A key or an initialisation vector of another length; a weak key of DES. `text` is as it was.
    pub fn encrypt(self, key: &[u8], iv: &[u8], text: &mut Vec<u8>) -> Result<(), CryptoError> {
        self.check(key, iv)?;
        text.resize(text.len().next_multiple_of(self.block_len()), 0);
        match self {
            Self::Des => encrypt::<Des>(key, iv, text),
            Self::TripleDes => encrypt::<TdesEde3>(key, iv, text),
            Self::Aes128 => encrypt::<Aes128>(key, iv, text),
            Self::Aes192 => encrypt::<Aes192>(key, iv, text),
            Self::Aes256 => encrypt::<Aes256>(key, iv, text),
        }
        Ok(())
    }

    /// Decrypts; the padding stays. Nothing is authenticated.
    ///
    /// # Errors
    /// A key or an initialisation vector of another length; a weak key of DES; a ciphertext that is empty or no whole
    /// number of blocks. `text` is as it was.
    pub fn decrypt(self, key: &[u8], iv: &[u8], text: &mut [u8]) -> Result<(), CryptoError> {
        self.check(key, iv)?;
        if text.is_empty() || !text.len().is_multiple_of(self.block_len()) {
            return Err(CryptoError::CiphertextLength(text.len()));
        }
        match self {
            Self::Des => decrypt::<Des>(key, iv, text),
            Self::TripleDes => decrypt::<TdesEde3>(key, iv, text),
            Self::Aes128 => decrypt::<Aes128>(key, iv, text),
            Self::Aes192 => decrypt::<Aes192>(key, iv, text),
            Self::Aes256 => decrypt::<Aes256>(key, iv, text),
        }
        Ok(())
    }

    fn check(self, key: &[u8], iv: &[u8]) -> Result<(), CryptoError> {
        if key.len() != self.key_len() {
            return Err(CryptoError::KeyLength(key.len()));
        }
        if iv.len() != self.block_len() {
            return Err(CryptoError::IvLength(iv.len()));
        }
        if matches!(self, Self::Des | Self::TripleDes) && is_weak(key) { Err(CryptoError::WeakKey) } else { Ok(()) }
    }
}

/// Whether one of the keys of DES is weak or semi-weak, or two of them are the same. RFC 2409, appendix B, wants such
/// octets passed over; they come up once in 2^52 times, and to begin again with other nonces is as good.
fn is_weak(key: &[u8]) -> bool {
    // The lowest bit of an octet is its parity, which DES ignores and the list of weak keys does not.
    let odd: Zeroizing<Vec<u8>> =
        Zeroizing::new(key.iter().map(|octet| octet & 0xfe | u8::from((octet >> 1).count_ones() % 2 == 0)).collect());
    des::weak_key_test(&odd).is_err()
}

// The lengths were checked: the key, the initialisation vector and the blocks fit.

fn encrypt<C: BlockCipherEncrypt + KeyInit>(key: &[u8], iv: &[u8], text: &mut [u8]) {
    let mut mode = Encryptor::<C>::new_from_slices(key, iv).expect("lengths that fit");
    mode.encrypt_blocks(Block::<C>::slice_as_chunks_mut(text).0);
}

fn decrypt<C: BlockCipherDecrypt + KeyInit>(key: &[u8], iv: &[u8], text: &mut [u8]) {
    let mut mode = Decryptor::<C>::new_from_slices(key, iv).expect("lengths that fit");
    mode.decrypt_blocks(Block::<C>::slice_as_chunks_mut(text).0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::vectors::{counting, octets};
    use super::*;

    const TEXT: &[u8] = b"a message of thirty-five octets ok.";

    /// From 0x40 up.
    fn iv(cipher: Cipher) -> Vec<u8> {
        (0x40..).take(cipher.block_len()).collect()
    }

    /// Computed by OpenSSL, with zeros after the text.
    #[test]
    fn ciphertexts_are_those_of_openssl() {
        let expected = [
            "b2fd8aafcc9d0f3670b6a0efaf0338fd729a72bc0e15d456911e6637bf497c2177612283c7d94168",
            "3a7ede1ca97c47145555e3e8a12c83b5dc74ca1aa199d4e0589fe566448c50e650a01f237c8f2710",
            "31fb666d3788958475e1e2fcfaa52410b74b28d3a2ce0be7535c426805bdc994df0c7eba05be96dcd37511c641249874",
            "d6d5b790a91b6e29b5d8a6981534768ee8144481b660e48aa1d77dee5c0895c7910c88d6241cab9964affd3702d50fdb",
            "e00774d7255c0f2ae87ee71c30533ecd7d7d308c8bb185c61bf44379dea7ddd122cfda9f235525199346a3963eb6adc4",
        ];
        for (cipher, expected) in Cipher::ALL.into_iter().zip(expected) {
            let key = counting(cipher.key_len() as u8);
            let mut text = TEXT.to_vec();
            cipher.encrypt(&key, &iv(cipher), &mut text).unwrap();
            assert_eq!(text, octets(expected), "{cipher:?}");
            cipher.decrypt(&key, &iv(cipher), &mut text).unwrap();
            assert_eq!(&text[..TEXT.len()], TEXT, "{cipher:?}");
            assert!(text[TEXT.len()..].iter().all(|octet| *octet == 0));
        }
    }

    #[test]
    fn a_second_message_goes_on_where_the_first_ended() {
        for cipher in Cipher::ALL {
            let key = counting(cipher.key_len() as u8);
            let (first, second) = (vec![1; cipher.block_len()], vec![2; cipher.block_len()]);
            let mut both = [first.clone(), second.clone()].concat();
            cipher.encrypt(&key, &iv(cipher), &mut both).unwrap();

            let (mut first, mut second) = (first, second);
            cipher.encrypt(&key, &iv(cipher), &mut first).unwrap();
            cipher.encrypt(&key, cipher.last_block(&first), &mut second).unwrap();
            assert_eq!([first, second].concat(), both);
        }
        assert_eq!(Cipher::Des.last_block(&[1, 2]), [1, 2]);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_left_alone() {
        for cipher in Cipher::ALL {
            let (key, iv) = (counting(cipher.key_len() as u8), iv(cipher));
            let mut text = vec![7; 48];
            for length in [0, key.len() - 1, key.len() + 8] {
                let wrong = vec![3; length];
                assert_eq!(cipher.encrypt(&wrong, &iv, &mut text), Err(CryptoError::KeyLength(length)));
                assert_eq!(cipher.decrypt(&wrong, &iv, &mut text), Err(CryptoError::KeyLength(length)));
            }
            for length in [0, iv.len() - 1, iv.len() + 1] {
                let wrong = vec![3; length];
                assert_eq!(cipher.encrypt(&key, &wrong, &mut text), Err(CryptoError::IvLength(length)));
                assert_eq!(cipher.decrypt(&key, &wrong, &mut text), Err(CryptoError::IvLength(length)));
            }
            for length in [0, 1, cipher.block_len() - 1, cipher.block_len() + 1] {
                let error = Err(CryptoError::CiphertextLength(length));
                assert_eq!(cipher.decrypt(&key, &iv, &mut text[..length]), error);
            }
            assert_eq!(text, [7; 48]);
        }
    }

    #[test]
    fn weak_keys_of_des_are_refused_whatever_their_parity() {
        let iv = [0; 8];
        for weak in ["0101010101010101", "0000000000000000", "fffefffefffefffe", "01fe01fe01fe01fe", "00ff00ff00ff00ff"]
        {
            let error = Err(CryptoError::WeakKey);
            assert_eq!(Cipher::Des.encrypt(&octets(weak), &iv, &mut vec![0; 8]), error, "{weak}");
            let three = [octets(weak), counting(16)].concat();
            assert_eq!(Cipher::TripleDes.decrypt(&three, &iv, &mut [0; 8]), error, "{weak}");
        }
        // Two keys that differ in parity alone make it a single DES.
        let twice = [counting(8), counting(8).iter().map(|octet| octet ^ 1).collect(), vec![9; 8]].concat();
        assert_eq!(Cipher::TripleDes.encrypt(&twice, &iv, &mut vec![0; 8]), Err(CryptoError::WeakKey));
        assert_eq!(Cipher::Aes256.encrypt(&[0; 32], &[0; 16], &mut vec![0; 16]), Ok(()));
    }

    #[test]
    fn attributes_name_one_cipher() {
        for cipher in Cipher::ALL {
            assert_eq!(Cipher::from_attributes(cipher.number(), cipher.key_bits()), Some(cipher));
        }
        assert_eq!(Cipher::ALL.map(Cipher::number), [1, 5, 7, 7, 7]);
        assert_eq!(Cipher::ALL.map(Cipher::is_legacy), [true, true, false, false, false]);
        for (number, key_bits) in [(7, None), (7, Some(64)), (7, Some(257)), (5, Some(192)), (1, Some(56)), (3, None)] {
            assert_eq!(Cipher::from_attributes(number, key_bits), None);
        }
    }

    proptest! {
        #[test]
        fn what_is_encrypted_is_decrypted(text: Vec<u8>, key: [u8; 32], iv: [u8; 16]) {
            for cipher in Cipher::ALL {
                let (key, iv) = (&key[..cipher.key_len()], &iv[..cipher.block_len()]);
                let mut both = text.clone();
                if cipher.encrypt(key, iv, &mut both).is_err() {
                    prop_assert!(cipher.is_legacy());
                    continue;
                }
                prop_assert!(both.len() < text.len() + cipher.block_len());
                if !both.is_empty() {
                    cipher.decrypt(key, iv, &mut both).unwrap();
                }
                prop_assert_eq!(&both[..text.len()], &text[..]);
            }
        }
    }
}
