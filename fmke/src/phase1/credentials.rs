//! How the two show who they are.

use std::net::IpAddr;
use std::sync::Arc;

use thiserror::Error;

use super::{Authentication, x509};
use crate::crypto::SecretBytes;
use crate::crypto::signature::{Method, Signer, Verifier};
use crate::isakmp::Identity;

/// Certificates of one chain, at most.
pub(super) const MOST_CERTIFICATES: usize = 4;

/// A certificate of one's own.
pub struct Certificate {
    /// DER: the certificate, then those between it and the anchor.
    pub chain: Vec<Vec<u8>>,
    /// Its private key.
    pub key: Signer,
}

impl Certificate {
    /// # Errors
    /// No certificate, more than a peer takes, one that cannot be read, or a key that is not the first one's.
    pub fn new(chain: Vec<Vec<u8>>, key: Signer) -> Result<Self, CertificateError> {
        let first = chain.first().filter(|_| chain.len() <= MOST_CERTIFICATES).ok_or(CertificateError::Missing)?;
        let public = Verifier::from_spki(&x509::public_key(first)?).map_err(|_| CertificateError::Key)?;
        match key.is_of(&public) {
            true => Ok(Certificate { chain, key }),
            false => Err(CertificateError::Key),
        }
    }
}

/// Who one is. Without a certificate only a pre-shared key can show it.
#[derive(Clone)]
pub struct Credentials {
    /// What stands in the ID payload. In main mode with a pre-shared key usually the address.
    pub identity: Identity,
    /// For signatures. Both ends sign with keys of one kind, so a key server has a certificate for each kind that its clients
    /// have; of two of one kind the first counts.
    pub certificates: Vec<Arc<Certificate>>,
}

impl Credentials {
    /// Whether they do for it.
    pub(super) fn fit(&self, authentication: Authentication) -> bool {
        authentication.signature().is_none_or(|method| self.certificate(method).is_some())
    }

    /// What shows it by this method.
    pub(super) fn certificate(&self, method: Method) -> Option<&Certificate> {
        self.certificates.iter().map(Arc::as_ref).find(|own| own.key.method() == method)
    }
}

/// Who is expected at an address.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    /// The secret shared with it; without one it needs a certificate.
    pub secret: Option<&'a SecretBytes>,
    /// Who it must be. Without one: with a secret its address, with a certificate whoever the authority takes.
    pub identity: Option<&'a Identity>,
}

impl Client<'_> {
    /// Whether it may authenticate so: by its secret if it has one, else by a certificate. Nobody's certificate takes the place of
    /// a secret.
    pub(super) fn fits(&self, authentication: Authentication) -> bool {
        (authentication == Authentication::PreSharedKey) == self.secret.is_some()
    }

    /// Whether it may be this one.
    pub(super) fn may_be(&self, identity: &Identity, address: IpAddr, authentication: Authentication) -> bool {
        match (self.identity, authentication) {
            (Some(expected), _) => expected == identity,
            //= RFC 2409 5.4: "the key can only be identified by the IP address of the peers"
            (None, Authentication::PreSharedKey) => *identity == Identity::Address(address),
            (None, _) => true,
        }
    }
}

/// What there is to know of a chain that is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The certificate's public key (SubjectPublicKeyInfo, DER).
    pub key: Vec<u8>,
    /// The last second at which all of it counts, the anchor included (Unix).
    pub until: u64,
}

/// Says whose certificates are taken. It knows the time of day.
pub trait Authority {
    /// Checks a chain (DER: the certificate, then those between it and an anchor) that shall show `identity`.
    ///
    /// # Errors
    /// Not signed by an anchor, not valid now, revoked, or of somebody else.
    fn check(&self, chain: &[&[u8]], identity: &Identity) -> Result<Verified, CertificateError>;
}

/// Takes no certificate: for those who have pre-shared keys only.
impl Authority for () {
    fn check(&self, _: &[&[u8]], _: &Identity) -> Result<Verified, CertificateError> {
        Err(CertificateError::UnknownIssuer)
    }
}

/// Who may speak to the key server. To an address that this does not know nothing is ever sent.
pub trait Clients: Authority {
    /// Who is expected there.
    fn client(&self, address: IpAddr) -> Option<Client<'_>>;
}

/// Why a certificate is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// There is none, or more than four.
    #[error("none, or too many")]
    Missing,
    /// Not X.509, or with something critical in it that is not understood.
    #[error("malformed")]
    Malformed,
    /// No anchor signed it.
    #[error("unknown issuer")]
    UnknownIssuer,
    /// Not valid yet, or no longer.
    #[error("not valid at this time")]
    Time,
    /// Taken back by its issuer.
    #[error("revoked")]
    Revoked,
    /// It does not bear the identity that it is to show.
    #[error("of somebody else")]
    Name,
    /// Of another kind than the method of authentication needs.
    #[error("a key of another kind")]
    Key,
}
