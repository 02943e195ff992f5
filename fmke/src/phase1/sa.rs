//! An SA of phase 1: what it protects.

use std::time::Duration;

use muster_wire::Time;
use zeroize::Zeroizing;

use super::{Message, Refused, SaId, Suite};
use crate::crypto::SecretBytes;
use crate::crypto::skeyid::Keys;
use crate::isakmp::{Chain, Header, Identity, Raw, flags, kind};

/// An SA of phase 1. It takes under 500 octets, keys included.
pub struct IsakmpSa {
    pub(super) id: SaId,
    pub(super) doi: u32,
    pub(super) suite: Suite,
    pub(super) keys: Keys,
    /// The last block of message 6, where every other message's initialisation vector comes from.
    pub(super) last_block: Vec<u8>,
    pub(super) peer: Identity,
    pub(super) established: Time,
    pub(super) lifetime: Duration,
    pub(super) features: Features,
}

/// What a peer said that it can (by vendor ids).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Features {
    /// Answers R-U-THERE (RFC 3706).
    pub(super) liveness: bool,
    /// Puts pieces of a message together.
    pub(super) fragments: bool,
}

impl IsakmpSa {
    /// Its cookies.
    pub fn id(&self) -> SaId {
        self.id
    }

    /// The domain of interpretation.
    pub(crate) fn doi(&self) -> u32 {
        self.doi
    }

    /// Who the peer is.
    pub fn peer(&self) -> &Identity {
        &self.peer
    }

    /// What protects it.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// When it ends.
    pub fn expires(&self) -> Time {
        self.established + self.lifetime
    }

    /// `SKEYID_d`, from which keys of other SAs may be made.
    pub fn skeyid_d(&self) -> &SecretBytes {
        self.keys.skeyid_d()
    }

    /// An encrypted datagram. A message id is for one message only and drawn at random: with it goes the initialisation
    /// vector. Who sends a message again sends the same datagram.
    pub fn seal(&self, exchange: u8, message_id: u32, payloads: &Chain) -> Vec<u8> {
        // "HDR is an ISAKMP payload that uses the Phase 1 cookies", "encryption occurs after HDR" (draft 3.1)
        let header = Header {
            initiator: self.id.initiator,
            responder: self.id.responder,
            exchange,
            flags: flags::ENCRYPTION,
            message_id,
        };
        // Room for the padding, too: a vector that grows leaves its old content behind.
        let len = payloads.bytes().len().next_multiple_of(self.suite.cipher.block_len());
        let mut text = Zeroizing::new(Vec::with_capacity(len));
        text.extend_from_slice(payloads.bytes());
        // It encrypted messages 5 and 6.
        self.keys.encrypt(&self.iv(message_id), &mut text).expect("a key that fits");
        header.write(payloads.first(), &text)
    }

    /// Decrypts what follows the header. Only a HASH shows whether it is authentic: [`IsakmpSa::check_hash`].
    ///
    /// # Errors
    /// Not of this SA, not encrypted, not a whole number of blocks.
    pub fn open(&self, header: &Header, first: u8, body: &[u8]) -> Result<Message, Refused> {
        if SaId::of(header) != self.id {
            return Err(Refused::UnknownSa);
        }
        // In clear it would be anybody's: "FMKE MUST be protected by a Phase 1 security association" (draft 1.0).
        //= RFC 2409 5: "all exchanges after phase 1 are encrypted"; a flag beside says something that is not understood
        if header.flags != flags::ENCRYPTION || header.message_id == 0 {
            return Err(Refused::OutOfPlace);
        }
        let mut plaintext = Zeroizing::new(body.to_vec());
        self.keys.decrypt(&self.iv(header.message_id), &mut plaintext).map_err(|_| Refused::Authentication)?;
        Ok(Message { sa: self.id, header: *header, first, plaintext })
    }

    /// Puts the HASH before `payloads`: `prf(SKEYID_a, prefix | payloads)`.
    pub fn add_hash(&self, prefix: &[u8], payloads: &mut Chain) {
        let hash = self.keys.authenticate(&[prefix, payloads.bytes()]);
        payloads.precede(kind::HASH, hash.as_bytes());
    }

    /// Checks the HASH that stands first, and returns what it is over.
    ///
    /// # Errors
    /// It does not stand first, or is another.
    pub fn check_hash<'a, 'b>(&self, prefix: &[u8], payloads: &'a [Raw<'b>]) -> Result<&'a [Raw<'b>], Refused> {
        let (hash, rest) = payloads.split_first().ok_or(Refused::Authentication)?;
        let parts: Vec<&[u8]> = std::iter::once(prefix).chain(rest.iter().map(|payload| payload.whole)).collect();
        let ours = self.keys.authenticate(&parts);
        if hash.kind == kind::HASH && ours.matches(hash.body) { Ok(rest) } else { Err(Refused::Authentication) }
    }

    fn iv(&self, message_id: u32) -> Vec<u8> {
        self.keys.exchange_iv(&self.last_block, message_id)
    }
}
