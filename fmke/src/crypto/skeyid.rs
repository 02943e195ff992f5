//! The keys of phase 1 (RFC 2409, section 5 and appendix B).

use super::{Cipher, CryptoError, HashAlgorithm, SecretBytes};

/// What both sides of a phase 1 have seen of each other.
#[derive(Clone, Copy, Debug)]
pub struct KeyExchange<'a> {
    /// CKY-I.
    pub initiator_cookie: [u8; 8],
    /// CKY-R.
    pub responder_cookie: [u8; 8],
    /// Ni_b: the body of the initiator's nonce payload.
    pub initiator_nonce: &'a [u8],
    /// Nr_b: the body of the responder's nonce payload.
    pub responder_nonce: &'a [u8],
    /// g^xi: the body of the initiator's KE payload.
    pub initiator_public: &'a [u8],
    /// g^xr: the body of the responder's KE payload.
    pub responder_public: &'a [u8],
}

/// The keys of an ISAKMP SA.
pub struct Keys {
    hash: HashAlgorithm,
    cipher: Cipher,
    skeyid: SecretBytes,
    skeyid_d: SecretBytes,
    skeyid_a: SecretBytes,
    /// What SKEYID_e gives the cipher.
    encryption: SecretBytes,
    first_iv: Vec<u8>,
}

impl Keys {
    /// The keys where a pre-shared key authenticates: SKEYID = prf(pre-shared key, Ni_b | Nr_b).
    ///
    /// `shared` is g^xy.
    pub fn from_pre_shared_key(
        hash: HashAlgorithm,
        cipher: Cipher,
        pre_shared_key: &[u8],
        exchange: &KeyExchange<'_>,
        shared: &SecretBytes,
    ) -> Self {
        let skeyid = hash.prf(pre_shared_key, &[exchange.initiator_nonce, exchange.responder_nonce]);
        Self::new(hash, cipher, skeyid, exchange, shared)
    }

    /// The keys where signatures authenticate: SKEYID = prf(Ni_b | Nr_b, g^xy).
    ///
    /// `shared` is g^xy.
    pub fn from_signatures(
        hash: HashAlgorithm,
        cipher: Cipher,
        exchange: &KeyExchange<'_>,
        shared: &SecretBytes,
    ) -> Self {
        let nonces = [exchange.initiator_nonce, exchange.responder_nonce].concat();
        let skeyid = hash.prf(&nonces, &[shared.as_bytes()]);
        Self::new(hash, cipher, skeyid, exchange, shared)
    }

    fn new(
        hash: HashAlgorithm,
        cipher: Cipher,
        skeyid: SecretBytes,
        exchange: &KeyExchange<'_>,
        shared: &SecretBytes,
    ) -> Self {
        let next = |before: &[u8], number: u8| {
            let KeyExchange { initiator_cookie, responder_cookie, .. } = exchange;
            hash.prf(skeyid.as_bytes(), &[before, shared.as_bytes(), initiator_cookie, responder_cookie, &[number]])
        };
        let skeyid_d = next(&[], 0);
        let skeyid_a = next(skeyid_d.as_bytes(), 1);
        let skeyid_e = next(skeyid_a.as_bytes(), 2);
        let first_iv = iv(hash, cipher, &[exchange.initiator_public, exchange.responder_public]);
        Self { hash, cipher, encryption: encryption_key(hash, cipher, &skeyid_e), skeyid, skeyid_d, skeyid_a, first_iv }
    }

    /// The negotiated hash algorithm.
    pub fn hash(&self) -> HashAlgorithm {
        self.hash
    }

    /// The negotiated cipher.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// What Wireshark wants to know.
    #[cfg(test)]
    pub(crate) fn encryption_key(&self) -> &SecretBytes {
        &self.encryption
    }

    /// SKEYID_d, from which keys of other SAs come.
    pub fn skeyid_d(&self) -> &SecretBytes {
        &self.skeyid_d
    }

    /// prf(SKEYID_a, parts): the HASH payloads of what follows phase 1.
    pub fn authenticate(&self, parts: &[&[u8]]) -> SecretBytes {
        self.hash.prf(self.skeyid_a.as_bytes(), parts)
    }

    /// HASH_I = prf(SKEYID, g^xi | g^xr | CKY-I | CKY-R | SAi_b | IDii_b).
    ///
    /// `prf` is the negotiated hash algorithm, unless the method of authentication has one of its own (RFC 2409,
    /// section 5.1; see [`super::signature::Method::hash`]). `sa` is SAi_b, the body of the initiator's SA payload;
    /// `id` is IDii_b.
    pub fn hash_i(&self, prf: HashAlgorithm, exchange: &KeyExchange<'_>, sa: &[u8], id: &[u8]) -> SecretBytes {
        let KeyExchange { initiator_cookie, responder_cookie, initiator_public, responder_public, .. } = exchange;
        prf.prf(
            self.skeyid.as_bytes(),
            &[initiator_public, responder_public, initiator_cookie, responder_cookie, sa, id],
        )
    }

    /// HASH_R = prf(SKEYID, g^xr | g^xi | CKY-R | CKY-I | SAi_b | IDir_b).
    ///
    /// As for [`Keys::hash_i`]; `sa` is the initiator's here too, `id` is IDir_b.
    pub fn hash_r(&self, prf: HashAlgorithm, exchange: &KeyExchange<'_>, sa: &[u8], id: &[u8]) -> SecretBytes {
        let KeyExchange { initiator_cookie, responder_cookie, initiator_public, responder_public, .. } = exchange;
        prf.prf(
            self.skeyid.as_bytes(),
            &[responder_public, initiator_public, responder_cookie, initiator_cookie, sa, id],
        )
    }

    /// The initialisation vector of the first encrypted message of phase 1: hash(g^xi | g^xr). Each later one has the
    /// last block of the ciphertext before it, whoever sent that ([`Cipher::last_block`]).
    pub fn first_iv(&self) -> &[u8] {
        &self.first_iv
    }

    /// The initialisation vector of the first message of an exchange after phase 1: hash(last block of phase 1 |
    /// message id). Later ones as in phase 1.
    pub fn exchange_iv(&self, last_block: &[u8], message_id: u32) -> Vec<u8> {
        iv(self.hash, self.cipher, &[last_block, &message_id.to_be_bytes()])
    }

    /// Fills the last block with zeros and encrypts.
    ///
    /// # Errors
    /// As [`Cipher::encrypt`].
    pub fn encrypt(&self, iv: &[u8], text: &mut Vec<u8>) -> Result<(), CryptoError> {
        self.cipher.encrypt(self.encryption.as_bytes(), iv, text)
    }

    /// Decrypts; the padding stays.
    ///
    /// # Errors
    /// As [`Cipher::decrypt`].
    pub fn decrypt(&self, iv: &[u8], text: &mut [u8]) -> Result<(), CryptoError> {
        self.cipher.decrypt(self.encryption.as_bytes(), iv, text)
    }
}

/// The first octets of SKEYID_e, or, where it has too few, of Ka = K1 | K2 | …, with K1 = prf(SKEYID_e, 0) and
/// Kn+1 = prf(SKEYID_e, Kn) (appendix B).
fn encryption_key(hash: HashAlgorithm, cipher: Cipher, skeyid_e: &SecretBytes) -> SecretBytes {
    let length = cipher.key_len();
    if skeyid_e.as_bytes().len() >= length {
        return skeyid_e.truncated(length);
    }
    let mut key = SecretBytes::zeros(length);
    let mut block = hash.prf(skeyid_e.as_bytes(), &[&[0]]);
    for part in key.as_mut_bytes().chunks_mut(hash.output_len()) {
        part.copy_from_slice(&block.as_bytes()[..part.len()]);
        block = hash.prf(skeyid_e.as_bytes(), &[block.as_bytes()]);
    }
    key
}

fn iv(hash: HashAlgorithm, cipher: Cipher, parts: &[&[u8]]) -> Vec<u8> {
    let mut iv = hash.digest(parts);
    iv.truncate(cipher.block_len());
    iv
}

#[cfg(test)]
mod tests {
    use super::super::vectors::octets;
    use super::*;

    const SA: &[u8] = b"the body of SA";

    struct Vector {
        d: &'static str,
        /// prf(SKEYID_a, "text").
        authenticator: &'static str,
        encryption: &'static str,
        first_iv: &'static str,
        /// After a last block of 00 01 02 …, for the message id 0x01020304.
        exchange_iv: &'static str,
        hash_i: &'static str,
        hash_r: &'static str,
        /// HASH_I with HMAC-SHA-256 whatever was negotiated, as ECDSA on P-256 signs it.
        hash_i_sha256: &'static str,
    }

    /// Every vector was computed by Python's hmac and hashlib from the same inputs.
    fn check(keys: &Keys, vector: &Vector) {
        let exchange = exchange();
        let last_block: Vec<u8> = (0..).take(keys.cipher().block_len()).collect();
        assert!(keys.skeyid_d().matches(&octets(vector.d)));
        assert!(keys.authenticate(&[b"te", b"xt"]).matches(&octets(vector.authenticator)));
        assert!(keys.encryption.matches(&octets(vector.encryption)));
        assert_eq!(keys.first_iv(), octets(vector.first_iv));
        assert_eq!(keys.exchange_iv(&last_block, 0x01020304), octets(vector.exchange_iv));
        assert!(keys.hash_i(keys.hash(), &exchange, SA, b"initiator").matches(&octets(vector.hash_i)));
        assert!(keys.hash_r(keys.hash(), &exchange, SA, b"responder").matches(&octets(vector.hash_r)));
        let tied = keys.hash_i(HashAlgorithm::Sha256, &exchange, SA, b"initiator");
        assert!(tied.matches(&octets(vector.hash_i_sha256)));
    }

    fn exchange() -> KeyExchange<'static> {
        KeyExchange {
            initiator_cookie: [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18],
            responder_cookie: [0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8],
            initiator_nonce: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
            responder_nonce: &[
                0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f, 0x90,
                0x91, 0x92, 0x93,
            ],
            initiator_public: &[0x31; 32],
            responder_public: &[0x32; 32],
        }
    }

    fn shared() -> SecretBytes {
        SecretBytes::from((0..32).collect::<Vec<u8>>().as_slice())
    }

    fn from_pre_shared_key(hash: HashAlgorithm, cipher: Cipher) -> Keys {
        Keys::from_pre_shared_key(hash, cipher, b"a pre-shared key", &exchange(), &shared())
    }

    fn from_signatures(hash: HashAlgorithm, cipher: Cipher) -> Keys {
        Keys::from_signatures(hash, cipher, &exchange(), &shared())
    }

    #[test]
    fn a_pre_shared_key_with_sha256_and_aes256() {
        let vector = Vector {
            d: "60cd03376e357a6f5672d94dc109e5c65bf0699cf68b3cf0e5675a57a0f203bd",
            authenticator: "1a67695d5dc883bb2d3462b1dcfbfde992e949e8ab327483b0be9de89f61afa9",
            encryption: "03e8176780bfebaae2018fbf35c62fa1616df491516270b49a94c02900d0f37a",
            first_iv: "e202864e38dd6b50c255f37d3492bc32",
            exchange_iv: "76e6a0745829ba68200a947256cd8438",
            hash_i: "ca625ddea55192180e14f9ef35f8e39433f4c30632c81b5fb9bacd4958bf308a",
            hash_r: "4077a235e26936cbeac7c8c06d3d1590a5deca907e2494aee8b63cbe5e8c317d",
            hash_i_sha256: "ca625ddea55192180e14f9ef35f8e39433f4c30632c81b5fb9bacd4958bf308a",
        };
        check(&from_pre_shared_key(HashAlgorithm::Sha256, Cipher::Aes256), &vector);
    }

    /// SKEYID_e has 20 octets and the key 24: it is stretched once.
    #[test]
    fn signatures_with_sha1_and_triple_des() {
        let vector = Vector {
            d: "12ac595c23460284f586854f629507a000df8ee3",
            authenticator: "b4dc06e91ca12b1786e5945e7baa7a5af5df4205",
            encryption: "8b5d91b56f4972c56986cf754bc71edad15c0fb4e7d0e385",
            first_iv: "bb5f905d3d2fda8d",
            exchange_iv: "bd6373b563c70068",
            hash_i: "e519f437386313d7d5be35eeb9fa1c6cc47c78c5",
            hash_r: "2114fe9a3c2cbabe4cee52e73dc895236cf54ba0",
            hash_i_sha256: "a3ca7a139f60305afca42ffda671d201e39ad9a426c080516bc029f5aab382aa",
        };
        check(&from_signatures(HashAlgorithm::Sha1, Cipher::TripleDes), &vector);
    }

    /// The key is two whole blocks of the pseudo-random function.
    #[test]
    fn a_pre_shared_key_with_md5_and_aes256() {
        let vector = Vector {
            d: "7a85c9f95ca9bc5f9cc1d3b172679e15",
            authenticator: "2619af41ffff5ca74c120508621fa23e",
            encryption: "669e80d794fd0095bddea0a66e426242da0a6e32fac371f911223fc044b3c422",
            first_iv: "846561904750555293980a84ecdee8a9",
            exchange_iv: "eb71289dd234e50f5cbbf56ff7ca18fd",
            hash_i: "05160f5881e0e4565f2014cf5128f578",
            hash_r: "fdeaadc9a916bbe68b24a9e585934596",
            hash_i_sha256: "630fb5d6e4e9c15f22243f46636ccb3cec77bbe484b207c8cb0182b54ff53324",
        };
        check(&from_pre_shared_key(HashAlgorithm::Md5, Cipher::Aes256), &vector);
    }

    #[test]
    fn signatures_with_sha512_and_aes128() {
        let vector = Vector {
            d: "526073e2b0dda39d93f4b6b88e5bd2a7759744c9111c58e70749c10cb95c1b20
                45ca4aa4bbde793f074be43808c15f86e1d50d516816cba07db3db600ea2acd3",
            authenticator: "42084d11fe24b60aa61a0c46ceed539906c421719934821917819dea46bf5a81
                57c57201c6b46070031531504ae5eb899720cc2cf4dba5589b4c86bba5f07df1",
            encryption: "43774c58acedb1ef82bac9b5a5d6c195",
            first_iv: "976da1fa2290277bd60293b141db0570",
            exchange_iv: "058efda620075d1413cdb5191bb45b53",
            hash_i: "587a9f78511b35e3a6b01f6e878818abbf0c52286507f338c1b7ae6554d39962
                2773a36da6a8f503059390ce3b9937f4c3a7209f472ed26dad9136a3b2b1e500",
            hash_r: "06e869e3182b7dd44b3e25a1d11722b835ed15a5d6848408badadfd6e0a20bc6
                d8197f373b2a8a6cfdfc73d8f8f47ddc2b42d1ab904db7d794d08c304dd75891",
            hash_i_sha256: "1dc5f08660d7a950abc83071d95d8eabb5dfd1cd8c1ef65d6844263eb1a59872",
        };
        check(&from_signatures(HashAlgorithm::Sha512, Cipher::Aes128), &vector);
    }

    #[test]
    fn every_algorithm_has_keys_that_fit_it() {
        for hash in HashAlgorithm::ALL {
            for cipher in Cipher::ALL {
                let keys = from_signatures(hash, cipher);
                let mut text = b"a message".to_vec();
                keys.encrypt(keys.first_iv(), &mut text).unwrap();
                let iv = keys.exchange_iv(cipher.last_block(&text), 1);
                keys.decrypt(keys.first_iv(), &mut text).unwrap();
                assert_eq!(text[..9], *b"a message");
                keys.encrypt(&iv, &mut text).unwrap();
            }
        }
    }

    #[test]
    fn everything_that_was_exchanged_is_in_the_keys() {
        let keys = |exchange: &KeyExchange<'_>| {
            Keys::from_pre_shared_key(HashAlgorithm::Sha256, Cipher::Aes256, b"key", exchange, &shared())
        };
        let original = exchange();
        let changed = [
            KeyExchange { initiator_cookie: [0; 8], ..original },
            KeyExchange { responder_cookie: [0; 8], ..original },
            KeyExchange { initiator_nonce: &[0; 16], ..original },
            KeyExchange { responder_nonce: &[0; 20], ..original },
        ];
        for exchange in &changed {
            assert!(!keys(exchange).encryption.matches(keys(&original).encryption.as_bytes()));
        }
        let hash = |exchange: &KeyExchange<'_>, sa: &[u8], id: &[u8]| {
            keys(&original).hash_i(HashAlgorithm::Sha256, exchange, sa, id).as_bytes().to_vec()
        };
        let expected = hash(&original, SA, b"id");
        assert_ne!(hash(&KeyExchange { initiator_public: &[0; 32], ..original }, SA, b"id"), expected);
        assert_ne!(hash(&KeyExchange { responder_public: &[0; 32], ..original }, SA, b"id"), expected);
        assert_ne!(hash(&original, b"another", b"id"), expected);
        assert_ne!(hash(&original, SA, b"another"), expected);
    }
}
