//! A group's re-key SA: what protects the messages of phase 3 (draft 4.1, 4.3).

use crate::crypto::{Cipher, CryptoError, HashAlgorithm, SecretBytes};
use crate::isakmp::{
    Chain, Cookie, HEADER_LEN, Header, Malformed, Range, Raw, exchange, flags, kind, payloads, ranges,
};
use crate::lkh;
use zeroize::Zeroizing;

use super::PushError;

#[cfg(test)]
mod tests;

/// Ciphers, hash and prf of re-key messages: always these.
const CIPHER: Cipher = Cipher::Aes256;
const HASH: HashAlgorithm = HashAlgorithm::Sha256;

/// The keys of one re-key SA. They come from the root of the group's key tree, so whoever computes the root has them.
pub(crate) struct RekeyKeys {
    spi: [u8; 16],
    cipher: SecretBytes,
    iv: SecretBytes,
    authentication: SecretBytes,
}

/// A message of the key server that was found authentic. **Secret.**
pub(crate) struct Opened {
    first: u8,
    text: Zeroizing<Vec<u8>>,
    count: usize,
}

impl Opened {
    /// Its payloads, without the signature.
    pub(crate) fn payloads(&self) -> Vec<Raw<'_>> {
        // They were read before.
        let mut list = payloads(self.first, &self.text, true).unwrap_or_default();
        list.truncate(self.count);
        list
    }
}

impl RekeyKeys {
    /// Octets of [`to_bytes`](Self::to_bytes).
    pub(crate) const LEN: usize = 16 + 3 * 32;

    /// For the store.
    pub(crate) fn to_bytes(&self) -> SecretBytes {
        let keys = [&self.cipher, &self.iv, &self.authentication].map(SecretBytes::as_bytes);
        SecretBytes::concatenated(&[&self.spi, keys[0], keys[1], keys[2]])
    }

    /// Out of the store.
    pub(crate) fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let mut spi = [0; 16];
        spi.copy_from_slice(&bytes[..16]);
        let [cipher, iv, authentication] = [16, 48, 80].map(|at| SecretBytes::from(&bytes[at..at + 32]));
        RekeyKeys { spi, cipher, iv, authentication }
    }

    /// Those of the SA `spi` under this root.
    pub(crate) fn new(root: &lkh::Key, spi: [u8; 16]) -> Self {
        // HKDF-Expand of one block each (RFC 5869 2.3): a key of the tree serves for nothing else.
        let expand = |label: &[u8]| HASH.prf(root.bytes(), &[label, &spi, &[1]]);
        RekeyKeys {
            spi,
            cipher: expand(b"muster kek cipher"),
            iv: expand(b"muster kek iv"),
            authentication: expand(b"muster kek group authentication"),
        }
    }

    /// Both cookies.
    pub(crate) fn spi(&self) -> [u8; 16] {
        self.spi
    }

    /// Whether this is the header of one of its messages: "The cookie pair identifies the Re-key SA." (draft 4.3)
    pub(crate) fn is_of(&self, header: &Header) -> bool {
        header.initiator.0 == self.spi[..8] && header.responder.0 == self.spi[8..]
    }

    /// The message of the key server with these payloads and a signature over them, encrypted.
    pub(crate) fn seal(
        &self,
        message_id: u32,
        mut chain: Chain,
        signature_len: usize,
        sign: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Vec<u8> {
        // "the digital signature of the entire message before encryption (including the header and excluding the SIG payload
        // itself)" (draft 4.1): the header as it is sent, with the length that encryption gives, and the payload before saying that SIG
        // comes next.
        let header = self.header(message_id);
        let unsigned = chain.bytes().len();
        chain.add(kind::SIG, &vec![0; signature_len]);
        let len = HEADER_LEN + chain.bytes().len().next_multiple_of(CIPHER.block_len());
        let head = header.write_head(chain.first(), len);
        let signature = sign(&Zeroizing::new([&head, &chain.bytes()[..unsigned]].concat()));
        // Room for the padding, too: a vector that grows leaves its old content behind.
        let mut text = Zeroizing::new(Vec::with_capacity(len));
        text.extend_from_slice(&chain.bytes()[..chain.bytes().len() - signature_len]);
        text.extend_from_slice(&signature);
        self.encrypt(message_id, &mut text);
        header.write(chain.first(), &text)
    }

    /// Opens a message of the key server, given its head and the rest: the payloads before the signature, which `verify`
    /// has found to be over what it is given.
    ///
    /// # Errors
    /// Not encrypted, another form, no signature at the end, a wrong one. Nothing but decryption is done for who does not
    /// have the keys.
    pub(crate) fn open(
        &self,
        (header, head, first, body): (&Header, &[u8], u8, &[u8]),
        verify: impl FnOnce(&[u8], &[u8]) -> Result<(), CryptoError>,
    ) -> Result<Opened, PushError> {
        let text = self.decrypt(header, body)?;
        let payloads = payloads(first, &text, true)?;
        let (signature, rest) = payloads.split_last().ok_or(Malformed::Missing("SIG"))?;
        if signature.kind != kind::SIG {
            return Err(Malformed::Missing("SIG").into());
        }
        let signed: usize = rest.iter().map(|raw| raw.whole.len()).sum();
        let signed = Zeroizing::new([head, &text[..signed]].concat());
        verify(&signed, signature.body).map_err(|_| PushError::Authentication)?;
        let count = rest.len();
        Ok(Opened { first, text, count })
    }

    /// A member's message: what it misses.
    pub(crate) fn seal_missing(&self, message_id: u32, missing: &[Range]) -> Vec<u8> {
        let mut chain = Chain::new();
        for range in missing {
            chain.add(kind::NACK, &range.to_body());
        }
        let hash = HASH.prf(self.authentication.as_bytes(), &[chain.bytes()]);
        chain.precede(kind::HASH, hash.as_bytes());
        let mut text = chain.bytes().to_vec();
        self.encrypt(message_id, &mut text);
        self.header(message_id).write(chain.first(), &text)
    }

    /// What a member misses. The hash shows "that the source is a Group member. We do not need to know exactly which" (draft 4.1).
    ///
    /// # Errors
    /// Not encrypted, another form, a wrong hash.
    pub(crate) fn open_missing(&self, header: &Header, first: u8, body: &[u8]) -> Result<Vec<Range>, PushError> {
        let text = self.decrypt(header, body)?;
        let payloads = payloads(first, &text, true)?;
        let (hash, rest) = payloads.split_first().ok_or(Malformed::Missing("HASH"))?;
        // "The Group member sends only one type of messages." (draft 4.1)
        if hash.kind != kind::HASH || rest.is_empty() || rest.iter().any(|raw| raw.kind != kind::NACK) {
            return Err(Malformed::Missing("HASH, NACK").into());
        }
        let parts: Vec<&[u8]> = rest.iter().map(|raw| raw.whole).collect();
        if !HASH.prf(self.authentication.as_bytes(), &parts).matches(hash.body) {
            return Err(PushError::Authentication);
        }
        Ok(ranges(rest, kind::NACK)?)
    }

    fn header(&self, message_id: u32) -> Header {
        // "The first 8 octets of the cookie pair become the "Initiator Cookie" field and the second 8 octets become the "Responder
        // Cookie" field" (draft 4.3)
        let [initiator, responder] = [&self.spi[..8], &self.spi[8..]].map(|half| {
            let mut cookie = [0; 8];
            cookie.copy_from_slice(half);
            Cookie(cookie)
        });
        Header { initiator, responder, exchange: exchange::MULTICAST_PUSH, flags: flags::ENCRYPTION, message_id }
    }

    fn encrypt(&self, message_id: u32, text: &mut Vec<u8>) {
        // Key and IV are made for it.
        CIPHER.encrypt(self.cipher.as_bytes(), &self.iv(message_id), text).expect("a key that fits");
    }

    fn decrypt(&self, header: &Header, body: &[u8]) -> Result<Zeroizing<Vec<u8>>, PushError> {
        // "In the Flags field, the encryption bit is set to 1 and the others bits MUST be set to 0." (draft 4.3)
        if header.flags != flags::ENCRYPTION {
            return Err(Malformed::Field { field: "flags", value: u32::from(header.flags) }.into());
        }
        let mut text = Zeroizing::new(body.to_vec());
        CIPHER.decrypt(self.cipher.as_bytes(), &self.iv(header.message_id), &mut text)?;
        Ok(text)
    }

    /// Messages come out of order, so none can go on from the last block of another: each has an IV by its message id.
    fn iv(&self, message_id: u32) -> Vec<u8> {
        let mut iv = HASH.digest(&[self.iv.as_bytes(), &message_id.to_be_bytes()]);
        iv.truncate(CIPHER.block_len());
        iv
    }
}
