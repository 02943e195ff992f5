//! Who may connect, and how the two show who they are.

use std::collections::HashMap;
use std::net::IpAddr;

use muster_fmke::crypto::dh::Group;
use muster_fmke::crypto::{Cipher, HashAlgorithm, SecretBytes};
use muster_fmke::isakmp::Identity;
use muster_fmke::phase1::{self, Authority, CertificateError, Clients, Proposals};

/// Who may connect from where.
pub(crate) struct Known(pub(super) HashMap<IpAddr, (SecretBytes, Option<Identity>)>);

impl Authority for Known {
    /// Pre-shared keys alone.
    fn check(&self, _: &[&[u8]], _: &Identity) -> Result<Vec<u8>, CertificateError> {
        Err(CertificateError::UnknownIssuer)
    }
}

impl Clients for Known {
    fn client(&self, address: IpAddr) -> Option<phase1::Client<'_>> {
        let (secret, identity) = self.0.get(&address)?;
        Some(phase1::Client { secret: Some(secret), identity: identity.as_ref() })
    }
}

/// An address, `user@domain`, or a domain name.
pub(crate) fn identity(text: &str) -> Identity {
    match text.parse() {
        Ok(address) => Identity::Address(address),
        Err(_) if text.contains('@') => Identity::User(text.to_owned()),
        Err(_) => Identity::Name(text.to_owned()),
    }
}

/// What phase 1 offers and takes: with `legacy` also what old devices alone have.
pub(crate) fn proposals(legacy: bool) -> Proposals {
    let mut proposals = Proposals { legacy, ..Proposals::default() };
    if legacy {
        proposals.ciphers.extend([Cipher::TripleDes, Cipher::Des]);
        proposals.hashes.extend([HashAlgorithm::Sha1, HashAlgorithm::Md5]);
        proposals.groups.extend([Group::Modp1024, Group::Modp768]);
    }
    proposals
}
