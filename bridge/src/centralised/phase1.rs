//! Who may connect, and how the two show who they are.

use std::collections::HashMap;
use std::net::IpAddr;

use muster_fmke::crypto::dh::Group;
use muster_fmke::crypto::signature::Method;
use muster_fmke::crypto::{Cipher, HashAlgorithm, SecretBytes};
use muster_fmke::isakmp::Identity;
use muster_fmke::phase1::{self, Authentication, Authority, CertificateError, Clients, Proposals, Verified};

use super::certificates::Certificates;

/// Who may connect from where, and what the key server shows.
pub(crate) struct Known {
    pub(super) clients: HashMap<IpAddr, Expected>,
    pub(crate) certificates: Certificates,
}

/// Who is expected at an address.
pub(super) struct Expected {
    /// Without one it is a certificate that shows who it is.
    pub(super) secret: Option<SecretBytes>,
    pub(super) identity: Identity,
}

impl Known {
    /// The last second (Unix) at which the client there may show this chain (DER), as it still may.
    ///
    /// # Errors
    /// Why it may not.
    pub(crate) fn check_again(&self, address: IpAddr, chain: &[&[u8]]) -> Result<u64, CertificateError> {
        let expected = self.clients.get(&address).ok_or(CertificateError::Name)?;
        self.certificates.check(chain, &expected.identity).map(|verified| verified.until)
    }
}

impl Authority for Known {
    fn check(&self, chain: &[&[u8]], identity: &Identity) -> Result<Verified, CertificateError> {
        self.certificates.check(chain, identity)
    }
}

impl Clients for Known {
    fn client(&self, address: IpAddr) -> Option<phase1::Client<'_>> {
        let Expected { secret, identity } = self.clients.get(&address)?;
        Some(phase1::Client { secret: secret.as_ref(), identity: Some(identity) })
    }
}

/// An address, `user@domain`, or a domain name.
///
/// # Errors
/// None of them.
pub(crate) fn identity(text: &str) -> Result<Identity, String> {
    let identity = match text.parse() {
        Ok(address) => Identity::Address(address),
        Err(_) if text.contains('@') => Identity::User(text.to_owned()),
        Err(_) => Identity::Name(text.to_owned()),
    };
    // As whoever gets it will read it.
    match Identity::parse(&identity.to_body()) {
        Ok(read) if read == identity => Ok(identity),
        _ => Err(format!("{text:?} is no address, domain name or user@domain")),
    }
}

/// What phase 1 offers and takes: with `legacy` also what old devices alone have. Of the ways to show who one is those count that
/// both have.
pub(crate) fn proposals(legacy: bool) -> Proposals {
    let mut proposals = Proposals { legacy, ..Proposals::default() };
    let signatures = [Method::EcdsaP256, Method::EcdsaP384, Method::Rsa].map(Authentication::Signature);
    proposals.authentications.extend(signatures);
    if legacy {
        proposals.ciphers.extend([Cipher::TripleDes, Cipher::Des]);
        proposals.hashes.extend([HashAlgorithm::Sha1, HashAlgorithm::Md5]);
        proposals.groups.extend([Group::Modp1024, Group::Modp768]);
    }
    proposals
}
