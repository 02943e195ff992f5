//! An SA that no exchange has made: its key was put at both ends by hand (draft 6.1).

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use muster_wire::Time;

use super::sa::Features;
use super::{Authentication, IsakmpSa, SaId, Suite};
use crate::crypto::dh::Group;
use crate::crypto::skeyid::{KeyExchange, Keys};
use crate::crypto::{Cipher, CryptoError, HashAlgorithm, SecretBytes};
use crate::isakmp::{Cookie, Identity};

/// Octets of a key, at least: with no Diffie-Hellman beside it, whoever hears one message may try keys at leisure.
const LEAST: usize = 32;
const CIPHER: Cipher = Cipher::Aes256;
const HASH: HashAlgorithm = HashAlgorithm::Sha256;

/// What the key server and a member without a return channel share: "all SA attributes and policy (keys included) will be
/// manually and initially configured in GCKS and Group member (one distinct SA for each member)" (draft 6.1). Says nothing of it
/// in a log.
#[derive(Clone)]
pub struct ManualKey(SecretBytes);

impl ManualKey {
    /// Of these octets, which are drawn at random.
    ///
    /// # Errors
    /// [`CryptoError::KeyLength`] when they are fewer than 32.
    pub fn new(octets: SecretBytes) -> Result<Self, CryptoError> {
        match octets.as_bytes().len() {
            LEAST.. => Ok(ManualKey(octets)),
            length => Err(CryptoError::KeyLength(length)),
        }
    }

    /// The SA between these two. All that phase 1 would agree on or draw is fixed, or derived from the key: whoever has that can
    /// read everything that was ever said under it. It does not end.
    pub fn sa(&self, doi: u32, server: IpAddr, member: IpAddr) -> IsakmpSa {
        let addresses = [server, member].map(|address| match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        });
        // HKDF-Expand of one block each (RFC 5869 2.3). With the addresses in it, two members that were given one key have two SAs.
        let expand = |label: &[u8]| {
            HASH.prf(self.0.as_bytes(), &[label, &doi.to_be_bytes(), &addresses[0], &addresses[1], &[1]])
        };
        let [cookies, root, shared, iv] =
            [&b"muster manual cookies"[..], b"muster manual key", b"muster manual shared", b"muster manual iv"]
                .map(expand);
        let half = |at: usize| {
            let mut cookie = [0; 8];
            cookie.copy_from_slice(&cookies.as_bytes()[at..at + 8]);
            cookie
        };
        let exchange = KeyExchange {
            initiator_cookie: half(0),
            responder_cookie: half(8),
            initiator_nonce: &[],
            responder_nonce: &[],
            initiator_public: &[],
            responder_public: &[],
        };
        let suite = Suite {
            cipher: CIPHER,
            hash: HASH,
            authentication: Authentication::PreSharedKey,
            // None was computed.
            group: Group::Curve25519,
        };
        IsakmpSa {
            id: SaId { initiator: Cookie(half(0)), responder: Cookie(half(8)) },
            doi,
            suite,
            keys: Keys::from_pre_shared_key(HASH, CIPHER, root.as_bytes(), &exchange, &shared),
            last_block: iv.as_bytes()[..CIPHER.block_len()].to_vec(),
            peer: Identity::Address(member),
            established: Time(0),
            lifetime: Duration::MAX,
            features: Features::default(),
        }
    }
}

impl PartialEq for ManualKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.matches(other.0.as_bytes())
    }
}

impl Eq for ManualKey {}

impl fmt::Debug for ManualKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ManualKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isakmp::{Chain, Header, exchange, kind};

    const SERVER: &str = "192.0.2.1";

    fn sa(octets: &[u8], doi: u32, server: &str, member: &str) -> IsakmpSa {
        let key = ManualKey::new(SecretBytes::from(octets)).unwrap();
        key.sa(doi, server.parse().unwrap(), member.parse().unwrap())
    }

    #[test]
    fn both_ends_have_one_sa_and_nobody_else_has_it() {
        let server = sa(&[7; 32], 2, SERVER, "192.0.2.2");
        let mut chain = Chain::new();
        chain.add(kind::SEQ, &[0, 0, 0, 9]);
        server.add_hash(&[], &mut chain);
        let datagram = server.seal(exchange::UNICAST_PUSH, 9, &chain);
        let reads = |sa: &IsakmpSa, datagram: &[u8]| {
            let (header, first, body) = Header::parse(datagram).unwrap();
            let message = sa.open(&header, first, body).ok()?;
            let payloads = message.payloads().ok()?;
            sa.check_hash(&[], &payloads).ok().map(<[_]>::len)
        };
        assert_eq!(reads(&sa(&[7; 32], 2, SERVER, "192.0.2.2"), &datagram), Some(1));
        let others = [
            sa(&[8; 32], 2, SERVER, "192.0.2.2"),
            sa(&[7; 33], 2, SERVER, "192.0.2.2"),
            sa(&[7; 32], 1, SERVER, "192.0.2.2"),
            sa(&[7; 32], 2, "192.0.2.3", "192.0.2.2"),
            sa(&[7; 32], 2, SERVER, "192.0.2.3"),
        ];
        for other in &others {
            assert!(other.id() != server.id() && reads(other, &datagram).is_none());
        }
        // Whatever of it is changed, the message id too, it is not authentic. (The type of the exchange the receiver looks at.)
        for place in (0..datagram.len()).filter(|place| *place != 18) {
            let mut changed = datagram.clone();
            changed[place] ^= 1;
            if Header::parse(&changed).is_ok() {
                assert_eq!(reads(&server, &changed), None, "octet {place}");
            }
        }
    }

    #[test]
    fn a_short_key_is_refused_and_none_is_shown() {
        assert_eq!(ManualKey::new(SecretBytes::from(&[7; 31][..])).err(), Some(CryptoError::KeyLength(31)));
        assert_eq!(format!("{:?}", ManualKey::new(SecretBytes::from(&[7; 32][..])).unwrap()), "ManualKey");
    }
}
