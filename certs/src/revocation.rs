//! Certificate revocation lists.

use std::collections::BTreeSet;

use muster_wire::Hash;
use sha2::{Digest, Sha256};
use webpki::OwnedCertRevocationList;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::certificate::{Certificate, malformed};
use crate::{CertError, PublicKey};

/// A revocation list (RFC 5280, section 5), complete and direct. Nobody's word until [`Crl::is_signed_by`].
///
/// Not webpki's check of revocation: that one takes the first list with the issuer's *name* and refuses the chain when
/// another key signed it. So a nation that changed its root's key would lose its devices, and anybody who can bring a
/// list in could make it so. Here a list that the issuer did not sign is as good as none.
#[derive(Clone, Debug)]
pub(crate) struct Crl {
    /// The whole of it, as encoded (DER).
    pub(crate) der: Vec<u8>,
    /// The trust anchor that was found to have signed it.
    pub(crate) anchor: Option<Hash>,
    /// As encoded (DER).
    pub(crate) issuer: Vec<u8>,
    /// Rises with every list of an issuer; 0 in a list without.
    pub(crate) number: u64,
    /// Serial numbers as encoded (DER).
    revoked: BTreeSet<Vec<u8>>,
    signed: Vec<u8>,
    signature: [u8; 64],
}

impl Crl {
    pub(crate) fn parse(der: &[u8]) -> Result<Crl, CertError> {
        // Strict about the encoding; refuses partial forms (delta, indirect) and unknown critical extensions.
        OwnedCertRevocationList::from_der(der)?;
        let (_, crl) = CertificateRevocationList::from_der(der).map_err(malformed)?;
        let number = match crl.crl_number() {
            Some(number) => u64::try_from(number).map_err(|_| malformed("number above 64 bits"))?,
            None => 0,
        };
        Ok(Crl {
            der: der.to_vec(),
            anchor: None,
            issuer: crl.issuer().as_raw().to_vec(),
            number,
            revoked: crl.iter_revoked_certificates().map(|entry| entry.raw_serial().to_vec()).collect(),
            signed: crl.tbs_cert_list.as_ref().to_vec(),
            signature: crl.signature_value.data.as_ref().try_into().map_err(|_| CertError::NotEd25519)?,
        })
    }

    pub(crate) fn is_signed_by(&self, issuer: &Certificate) -> bool {
        self.issuer == issuer.subject && issuer.may_sign_crls && self.is_signed_with(&issuer.key)
    }

    pub(crate) fn revokes(&self, certificate: &Certificate) -> bool {
        self.revoked.contains(&certificate.serial)
    }

    pub(crate) fn is_subset_of(&self, other: &Crl) -> bool {
        self.revoked.is_subset(&other.revoked)
    }

    fn is_signed_with(&self, key: &PublicKey) -> bool {
        key.check_x509(&self.signed, &self.signature).is_ok()
    }
}

/// The newest list of a trust anchor: what devices tell each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevocationList<'a> {
    /// SHA-256 of the anchor's subject name (DER, with its length as u64 before it) and public key. The name alone would
    /// not do: a nation may change its root's key and count anew.
    pub issuer: Hash,
    /// The anchor's organisation.
    pub organisation: &'a str,
    /// Rises with every list of the anchor.
    pub number: u64,
    /// The list (DER).
    pub der: &'a [u8],
}

/// See [`RevocationList::issuer`].
pub(crate) fn issuer(anchor: &Certificate) -> Hash {
    let mut hash = Sha256::new();
    hash.update((anchor.subject.len() as u64).to_be_bytes());
    hash.update(&anchor.subject);
    hash.update(anchor.key.to_bytes());
    Hash(hash.finalize().into())
}
