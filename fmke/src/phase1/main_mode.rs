//! What both ends of main mode write, read and compute alike (RFC 2409 5, 5.1, 5.4).

use std::net::IpAddr;
use std::time::Duration;

use muster_wire::Time;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::cookie::Opening;
use super::credentials::MOST_CERTIFICATES;
use super::sa::Features;
use super::{
    Authentication, Authority, CertificateError, Client, Credentials, IsakmpSa, Refused, SaId, ShownChain, Suite,
};
use crate::crypto::SecretBytes;
use crate::crypto::dh::Secret;
use crate::crypto::signature::Verifier;
use crate::crypto::skeyid::{KeyExchange, Keys};
use crate::isakmp::{Chain, Header, Identity, Malformed, Notify, Raw, exchange, flags, kind, notification, payloads};

/// "Detecting dead peers" 1.0 (RFC 3706 5.1).
const LIVENESS: [u8; 16] = *b"\xaf\xca\xd7\x13\x68\xa1\xf1\xc9\x6b\x86\x96\xfc\x77\x57\x01\x00";
/// "FRAGMENTATION", and a bit that says: in main mode too.
const FRAGMENTATION: [u8; 20] = *b"\x40\x48\xb7\xd5\x6e\xbc\xe8\x85\x25\xe7\xde\x7f\x00\xd6\xc2\xd3\x80\x00\x00\x00";
/// Octets of it that all send.
const FRAGMENTATION_ALL: usize = 16;
/// Octets of our nonces.
const NONCE_LEN: usize = 32;
/// `X.509 Certificate - Signature` (RFC 2408 3.9).
const X509_SIGNATURE: u8 = 4;
/// ISAKMP itself (RFC 2407 4.4.1), in what is said of an SA of phase 1.
pub(super) const PROTO_ISAKMP: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Initiator,
    Responder,
}

/// The payloads of one message, of which only those may be there that belong there.
pub(super) struct Parts<'a>(Vec<Raw<'a>>);

impl<'a> Parts<'a> {
    /// `once`: at most one of each; `any`: as many as there are.
    pub(super) fn read(first: u8, body: &'a [u8], padded: bool, once: &[u8], any: &[u8]) -> Result<Self, Refused> {
        let list = payloads(first, body, padded)?;
        for (place, payload) in list.iter().enumerate() {
            // What is not known is not passed over: "the message is discarded" (RFC 2408 5.3).
            let is_second = list[..place].iter().any(|before| before.kind == payload.kind);
            if !any.contains(&payload.kind) && (!once.contains(&payload.kind) || is_second) {
                return Err(Malformed::Field { field: "Next Payload", value: u32::from(payload.kind) }.into());
            }
        }
        Ok(Parts(list))
    }

    pub(super) fn get(&self, kind: u8, name: &'static str) -> Result<&'a [u8], Refused> {
        self.all(kind).next().ok_or(Malformed::Missing(name).into())
    }

    fn all(&self, kind: u8) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |payload| payload.kind == kind).map(|payload| payload.body)
    }

    /// What the vendor ids say.
    pub(super) fn features(&self) -> Features {
        let has = |id: &[u8]| self.all(kind::VENDOR).any(|vendor| vendor.starts_with(id));
        Features { liveness: has(&LIVENESS), fragments: has(&FRAGMENTATION[..FRAGMENTATION_ALL]) }
    }
}

/// Message 1 or 2 after the header: the SA payload, and what we can and the peer may.
pub(super) fn opening(proposal: &[u8], features: Features) -> Chain {
    let mut chain = Chain::new();
    //= RFC 2409 5: "the SA payload … MUST precede all other payloads in a phase 1 exchange"
    chain.add(kind::SA, proposal);
    if features.liveness {
        chain.add(kind::VENDOR, &LIVENESS);
    }
    if features.fragments {
        chain.add(kind::VENDOR, &FRAGMENTATION);
    }
    chain
}

/// Reads message 1 or 2: the body of the SA payload, and what the peer can.
pub(super) fn read_opening(first: u8, body: &[u8]) -> Result<Opening, Refused> {
    //= RFC 2409 5: "the SA payload … MUST precede all other payloads in a phase 1 exchange"
    if first != kind::SA {
        return Err(Malformed::Field { field: "Next Payload", value: u32::from(first) }.into());
    }
    let parts = Parts::read(first, body, false, &[kind::SA], &[kind::VENDOR])?;
    Ok(Opening { offer: parts.get(kind::SA, "SA")?.to_vec(), features: parts.features() })
}

/// One end's part of messages 3 and 4.
#[derive(Clone)]
pub(super) struct Share {
    pub(super) public: Vec<u8>,
    pub(super) nonce: Vec<u8>,
}

impl Share {
    pub(super) fn draw(secret: &Secret, rng: &mut impl CryptoRng) -> Self {
        let mut nonce = vec![0; NONCE_LEN];
        rng.fill_bytes(&mut nonce);
        Share { public: secret.public().to_vec(), nonce }
    }

    /// Message 3 or 4 after the header.
    pub(super) fn to_chain(&self, authentication: Authentication) -> Chain {
        let mut chain = Chain::new();
        chain.add(kind::KE, &self.public).add(kind::NONCE, &self.nonce);
        if authentication.signature().is_some() {
            // Of whichever authority (RFC 2408 3.10).
            chain.add(kind::CERTREQ, &[X509_SIGNATURE]);
        }
        chain
    }

    /// Reads message 3 or 4. Whether the key is one of the group, Diffie-Hellman says.
    pub(super) fn read(first: u8, body: &[u8], suite: Suite) -> Result<Self, Refused> {
        let parts = Parts::read(first, body, false, &[kind::KE, kind::NONCE], &[kind::VENDOR, kind::CERTREQ])?;
        let (public, nonce) = (parts.get(kind::KE, "KE")?.to_vec(), parts.get(kind::NONCE, "NONCE")?.to_vec());
        if public.len() != suite.group.public_len() {
            return Err(Refused::Key);
        }
        //= RFC 2409 5: "The length of nonce payload MUST be between 8 and 256 bytes inclusive."
        if !(8..=256).contains(&nonce.len()) {
            return Err(Malformed::Field { field: "nonce of length", value: nonce.len() as u32 }.into());
        }
        Ok(Share { public, nonce })
    }
}

/// What is settled by messages 1 and 2.
#[derive(Clone)]
pub(super) struct Agreed {
    pub(super) id: SaId,
    pub(super) doi: u32,
    pub(super) suite: Suite,
    pub(super) lifetime: Duration,
    /// `SAi_b`.
    pub(super) offer: Vec<u8>,
    /// The peer's.
    pub(super) features: Features,
}

impl Agreed {
    /// The header of this exchange's next message.
    pub(super) fn header(&self, flags: u8) -> Header {
        let SaId { initiator, responder } = self.id;
        Header { initiator, responder, exchange: exchange::MAIN, flags, message_id: 0 }
    }
}

/// After messages 3 and 4: the keys.
pub(super) struct Keyed {
    pub(super) agreed: Agreed,
    initiator: Share,
    responder: Share,
    pub(super) keys: Keys,
}

impl Keyed {
    /// `shared`: what Diffie-Hellman gave. `secret`: the pre-shared key, if that is the method.
    pub(super) fn new(
        agreed: Agreed,
        initiator: Share,
        responder: Share,
        shared: &SecretBytes,
        secret: Option<&SecretBytes>,
    ) -> Result<Self, Refused> {
        let Suite { hash, cipher, authentication, .. } = agreed.suite;
        let exchange = key_exchange(&agreed, &initiator, &responder);
        let keys = match (authentication, secret) {
            (Authentication::PreSharedKey, Some(secret)) => {
                Keys::from_pre_shared_key(hash, cipher, secret.as_bytes(), &exchange, shared)
            }
            (Authentication::PreSharedKey, None) => return Err(Refused::UnknownAddress),
            _ => Keys::from_signatures(hash, cipher, &exchange, shared),
        };
        Ok(Keyed { agreed, initiator, responder, keys })
    }

    /// Adds who we are, and what shows it: message 5 or 6 after the header.
    pub(super) fn prove(&self, role: Role, own: &Credentials, rng: &mut impl CryptoRng) -> Result<Chain, Refused> {
        let id = own.identity.to_body();
        let hash = self.hash(role, &id);
        let mut chain = Chain::new();
        chain.add(kind::ID, &id);
        match self.agreed.suite.authentication.signature() {
            None => {
                chain.add(kind::HASH, hash.as_bytes());
            }
            Some(method) => {
                let certificate = own.certificate(method).ok_or(Refused::NoProposal)?;
                for der in &certificate.chain {
                    chain.add(kind::CERT, &[&[X509_SIGNATURE], der.as_slice()].concat());
                }
                let signature = certificate.key.sign(rng, hash.as_bytes()).map_err(|_| Refused::Key)?;
                chain.add(kind::SIG, &signature);
            }
        }
        Ok(chain)
    }

    /// Encrypts message 5 or 6.
    pub(super) fn seal(&self, iv: &[u8], chain: &Chain) -> Result<Vec<u8>, Refused> {
        let mut text = chain.bytes().to_vec();
        self.keys.encrypt(iv, &mut text).map_err(|_| Refused::Key)?;
        Ok(self.agreed.header(flags::ENCRYPTION).write(chain.first(), &text))
    }

    /// Decrypts message 5 or 6 after the header.
    pub(super) fn open(&self, iv: &[u8], body: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refused> {
        let mut text = Zeroizing::new(body.to_vec());
        self.keys.decrypt(iv, &mut text).map_err(|_| Refused::Authentication)?;
        Ok(text)
    }

    /// Checks what message 5 or 6 of the other end, who speaks as `role`, shows. Signatures, those of certificates, too, are looked
    /// at last, and only when `may_compute` says so: what is no message under these keys never asks it.
    pub(super) fn check(
        &self,
        role: Role,
        (first, plaintext): (u8, &[u8]),
        (client, address): (&Client<'_>, IpAddr),
        authority: &impl Authority,
        may_compute: impl FnOnce() -> bool,
    ) -> Result<Shown, Refused> {
        let once = [kind::ID, kind::HASH, kind::SIG];
        let any = [kind::CERT, kind::CERTREQ, kind::VENDOR, kind::NOTIFY];
        let parts = Parts::read(first, plaintext, true, &once, &any).map_err(|_| Refused::Authentication)?;
        let id = parts.get(kind::ID, "ID")?;
        let hash = self.hash(role, id);
        let suite = self.agreed.suite;
        let identity = Identity::parse(id)?;
        let begins_anew = self.begins_anew(role, &parts)?;
        let mut certificates = None;
        match suite.authentication.signature() {
            None => {
                if !hash.matches(parts.get(kind::HASH, "HASH")?) {
                    return Err(Refused::Authentication);
                }
                if !client.may_be(&identity, address, suite.authentication) {
                    return Err(Refused::Identity);
                }
            }
            Some(method) => {
                let signature = parts.get(kind::SIG, "SIG")?;
                if !client.may_be(&identity, address, suite.authentication) {
                    return Err(Refused::Identity);
                }
                let chain: Vec<&[u8]> = parts
                    .all(kind::CERT)
                    .filter_map(|certificate| certificate.strip_prefix(&[X509_SIGNATURE]))
                    .collect();
                if chain.is_empty() || chain.len() > MOST_CERTIFICATES {
                    return Err(CertificateError::Missing.into());
                }
                if !may_compute() {
                    return Err(Refused::Busy);
                }
                let verified = authority.check(&chain, &identity)?;
                let key = Verifier::from_spki(&verified.key).map_err(|_| CertificateError::Key)?;
                if key.method() != method {
                    return Err(CertificateError::Key.into());
                }
                key.verify(hash.as_bytes(), signature).map_err(|_| Refused::Authentication)?;
                let chain = chain.into_iter().map(<[u8]>::to_vec).collect();
                certificates = Some(ShownChain { chain, until: verified.until });
            }
        }
        Ok(Shown { identity, certificates, begins_anew })
    }

    /// Whether message 5, or 6, says that its sender knows of nothing that was before.
    fn begins_anew(&self, role: Role, parts: &Parts<'_>) -> Result<bool, Refused> {
        // No hash is over them, and who garbles the one block that says INITIAL-CONTACT must not make it something else that is
        // passed over: what a member says is of this SA (RFC 2407 4.6.3.3: its cookies), or its message was changed.
        let notices = parts.all(kind::NOTIFY).map(Notify::parse).collect::<Result<Vec<_>, _>>();
        let notices = notices.map_err(|_| Refused::Authentication)?;
        let spi = self.agreed.id.octets();
        let is_ours = |notice: &Notify<'_>| {
            (notice.doi, notice.protocol, notice.spi) == (self.agreed.doi, PROTO_ISAKMP, spi.as_slice())
        };
        if role == Role::Initiator && !notices.iter().all(is_ours) {
            return Err(Refused::Authentication);
        }
        Ok(notices.iter().any(|notice| notice.kind == notification::INITIAL_CONTACT))
    }

    /// The SA that is established: `message_6` is the last message, encrypted.
    pub(super) fn into_sa(self, message_6: &[u8], peer: Identity, now: Time) -> IsakmpSa {
        let Agreed { id, doi, suite, lifetime, features, .. } = self.agreed;
        let last_block = suite.cipher.last_block(message_6).into();
        IsakmpSa { id, doi, suite, keys: self.keys, last_block, peer, established: now, lifetime, features }
    }

    /// `HASH_I` or `HASH_R`.
    fn hash(&self, role: Role, id: &[u8]) -> SecretBytes {
        let exchange = key_exchange(&self.agreed, &self.initiator, &self.responder);
        let suite = self.agreed.suite;
        let prf = suite.authentication.signature().map_or(suite.hash, |method| method.hash(suite.hash));
        match role {
            Role::Initiator => self.keys.hash_i(prf, &exchange, &self.agreed.offer, id),
            Role::Responder => self.keys.hash_r(prf, &exchange, &self.agreed.offer, id),
        }
    }
}

/// What the other end has shown.
pub(super) struct Shown {
    pub(super) identity: Identity,
    /// With a signature.
    pub(super) certificates: Option<ShownChain>,
    /// It knows of nothing that was before.
    pub(super) begins_anew: bool,
}

fn key_exchange<'a>(agreed: &Agreed, initiator: &'a Share, responder: &'a Share) -> KeyExchange<'a> {
    KeyExchange {
        initiator_cookie: agreed.id.initiator.0,
        responder_cookie: agreed.id.responder.0,
        initiator_nonce: &initiator.nonce,
        responder_nonce: &responder.nonce,
        initiator_public: &initiator.public,
        responder_public: &responder.public,
    }
}
