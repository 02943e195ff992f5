//! Revocation lists (RFC 5280 5): whose they are, and whom they take back.
//!
//! Not webpki's check of revocation: that one takes the first list with the issuer's *name*, and refuses every certificate of the
//! issuer when another key has signed it. So a spoilt list would take all clients out at once, and of two lists the first would
//! count. Here each list is checked when it is loaded, and is its issuer's: of that name and of that key.

use rustls_pki_types::CertificateDer;
use thiserror::Error;
use webpki::{Cert, CertRevocationList, EndEntityCert, OwnedCertRevocationList};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::x509::{ALGORITHMS, parse};
use crate::crypto::HashAlgorithm;
use crate::isakmp::{Malformed, Reader};

/// "CRL verifiers MUST be able to handle CRLNumber values up to 20 octets." (RFC 5280 5.2.3)
type Number = [u8; 20];
/// SHA-256.
type Digest = [u8; 32];

/// Why revocation lists are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ListError {
    /// No list of version 2, or with something critical in it that is not understood.
    #[error("malformed")]
    Malformed,
    /// It is of some of its issuer's certificates alone (RFC 5280 5.2.5): of the others it says nothing.
    #[error("it has an issuing distribution point: only lists of all of an authority's certificates are understood")]
    Partial,
    /// An anchor's or a known intermediate's name is not in it, the signature is not theirs, or they may not sign lists.
    #[error(
        "none of the trust anchors (nor an intermediate authority whose certificate stands beside it) that may sign lists has \
         signed it"
    )]
    Issuer,
    /// It has no number (RFC 5280 5.2.3), or there is another one with the same.
    #[error("it has no number, or that of another list of its issuer")]
    Number,
    /// A certificate beside the lists is no authority's, or leads to no anchor.
    #[error("a certificate beside it is no authority's, or no trust anchor has signed it")]
    Authority,
    /// One that is in force is newer, or its issuer has none any longer.
    #[error("a newer list of the same issuer is or was in force: load that one, or one with a higher number")]
    Older,
}

/// The newest list of each authority.
#[derive(Default)]
pub(super) struct Lists(Vec<List>);

struct List {
    issuer: Issuer,
    number: Number,
    der: Vec<u8>,
    list: CertRevocationList<'static>,
}

/// What is remembered of a list: whether another is newer, or this one, can be said without it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListMark {
    /// Of the authority's name and key.
    pub(crate) issuer: Digest,
    /// Of the key of the anchor that it leads to.
    anchor: Digest,
    number: Number,
    /// Of the whole list.
    list: Digest,
}

/// An authority: who has its name and its key.
#[derive(Clone)]
struct Issuer {
    /// As webpki has names: without what stands before their content.
    name: Vec<u8>,
    /// SubjectPublicKeyInfo (DER), as all keys here.
    key: Vec<u8>,
    /// Of the anchor that it leads to: its own, or another's.
    anchor: Vec<u8>,
    may_sign_lists: bool,
    der: Vec<u8>,
}

impl Lists {
    /// Lists of these anchors, or of intermediate `authorities` that they have signed (all DER).
    pub(super) fn new(anchors: &[&[u8]], authorities: &[Vec<u8>], lists: &[Vec<u8>]) -> Result<Self, ListError> {
        let issuers = Issuer::all(anchors, authorities)?;
        let mut newest: Vec<List> = Vec::new();
        for der in lists {
            let list = List::read(der, &issuers)?;
            match newest.iter_mut().find(|known| known.issuer.is(&list.issuer)) {
                Some(known) if known.number == list.number && known.der != list.der => return Err(ListError::Number),
                Some(known) if known.number < list.number => *known = list,
                Some(_) => {}
                None => newest.push(list),
            }
        }
        Ok(Lists(newest))
    }

    /// Whether this certificate, signed with `key`, was taken back.
    pub(super) fn revoke(&self, certificate: &Cert<'_>, key: &[u8]) -> bool {
        let of_issuer = |list: &&List| list.issuer.key == key && list.issuer.name == certificate.issuer();
        // An error: of entries that are read when they are asked for, which those of a list that was read whole are not.
        let takes_back = |list: &List| !matches!(list.list.find_serial(certificate.serial()), Ok(None));
        self.0.iter().find(of_issuer).is_some_and(takes_back)
    }

    pub(super) fn marks(&self) -> Vec<ListMark> {
        self.0.iter().map(List::mark).collect()
    }

    /// Whether these may take the place of those before: what was taken back stays so. `anchors`: whose lists still count.
    pub(super) fn follow<'a>(
        &self,
        before: impl IntoIterator<Item = &'a ListMark>,
        anchors: &[&[u8]],
    ) -> Result<(), ListError> {
        let (marks, anchors) = (self.marks(), anchors.iter().map(|key| sha256(&[key])).collect::<Vec<_>>());
        let is_kept = |old: &ListMark| {
            let new = marks.iter().find(|new| new.issuer == old.issuer);
            new.is_some_and(|new| new.number > old.number || new.list == old.list)
        };
        match before.into_iter().filter(|old| anchors.contains(&old.anchor)).all(is_kept) {
            true => Ok(()),
            false => Err(ListError::Older),
        }
    }
}

impl List {
    fn read(der: &[u8], issuers: &[Issuer]) -> Result<Self, ListError> {
        // Strict about the encoding; refuses deltas, indirect lists and unknown critical extensions.
        let list = OwnedCertRevocationList::from_der(der).map_err(|_| ListError::Malformed)?;
        let list = CertRevocationList::from(list);
        if list.issuing_distribution_point().is_some() {
            return Err(ListError::Partial);
        }
        let (_, parsed) = CertificateRevocationList::from_der(der).map_err(|_| ListError::Malformed)?;
        let (signed, signature) = (parsed.tbs_cert_list.as_ref(), parsed.signature_value.data.as_ref());
        let signer = issuers.iter().find(|issuer| {
            issuer.may_sign_lists && issuer.name == list.issuer() && issuer.has_signed(signed, signature)
        });
        let issuer = signer.ok_or(ListError::Issuer)?.clone();
        let octets = parsed.crl_number().ok_or(ListError::Number)?.to_bytes_be();
        let mut number = Number::default();
        let place = number.len().checked_sub(octets.len()).ok_or(ListError::Number)?;
        number[place..].copy_from_slice(&octets);
        Ok(List { issuer, number, der: der.to_vec(), list })
    }

    fn mark(&self) -> ListMark {
        let Issuer { name, key, anchor, .. } = &self.issuer;
        ListMark {
            issuer: sha256(&[&sha256(&[name]), key]),
            anchor: sha256(&[anchor]),
            number: self.number,
            list: sha256(&[&self.der]),
        }
    }
}

impl ListMark {
    /// Octets in a store.
    pub(crate) const BYTES: usize = 32 + 32 + 20 + 32;

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        [&self.issuer[..], &self.anchor, &self.number, &self.list].concat()
    }

    /// # Errors
    /// Too few octets, or too many.
    pub(crate) fn from_bytes(octets: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(octets);
        let (issuer, anchor, number, list) = (reader.array()?, reader.array()?, reader.array()?, reader.array()?);
        reader.end()?;
        Ok(ListMark { issuer, anchor, number, list })
    }
}

fn sha256(parts: &[&[u8]]) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(&HashAlgorithm::Sha256.digest(parts));
    digest
}

impl Issuer {
    /// The anchors, and the authorities that these lead to.
    fn all(anchors: &[&[u8]], authorities: &[Vec<u8>]) -> Result<Vec<Self>, ListError> {
        let mut all: Vec<Issuer> = anchors.iter().map(|der| Issuer::read(der)).collect::<Result<_, _>>()?;
        let mut waiting: Vec<&[u8]> = authorities.iter().map(Vec::as_slice).collect();
        while !waiting.is_empty() {
            let before = waiting.len();
            let mut still = Vec::new();
            for der in waiting {
                match Issuer::signed_by_one_of(&all, der)? {
                    Some(issuer) => all.push(issuer),
                    None => still.push(der),
                }
            }
            waiting = still;
            if waiting.len() == before {
                return Err(ListError::Authority);
            }
        }
        Ok(all)
    }

    fn signed_by_one_of(known: &[Issuer], der: &[u8]) -> Result<Option<Self>, ListError> {
        let own = Issuer::read(der)?;
        let certificate = parse(der).map_err(|_| ListError::Authority)?;
        let may_sign = certificate.key_usage().map_err(|_| ListError::Authority)?;
        if !certificate.is_ca() || may_sign.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(ListError::Authority);
        }
        let (signed, signature) = (certificate.tbs_certificate.as_ref(), certificate.signature_value.data.as_ref());
        let encoded = CertificateDer::from(der);
        let issuer = EndEntityCert::try_from(&encoded).map_err(|_| ListError::Authority)?.issuer().to_vec();
        let signer = known.iter().find(|known| known.name == issuer && known.has_signed(signed, signature));
        Ok(signer.map(|signer| Issuer { anchor: signer.anchor.clone(), ..own }))
    }

    /// One that leads to itself.
    fn read(der: &[u8]) -> Result<Self, ListError> {
        let usage = parse(der).and_then(|certificate| {
            let usage = certificate.key_usage().map_err(|_| super::CertificateError::Malformed)?;
            Ok(usage.is_none_or(|usage| usage.value.crl_sign()))
        });
        let may_sign_lists = usage.map_err(|_| ListError::Authority)?;
        let encoded = CertificateDer::from(der);
        let certificate = EndEntityCert::try_from(&encoded).map_err(|_| ListError::Authority)?;
        let key = certificate.subject_public_key_info().to_vec();
        let name = certificate.subject().to_vec();
        Ok(Issuer { name, anchor: key.clone(), key, may_sign_lists, der: der.to_vec() })
    }

    fn is(&self, other: &Issuer) -> bool {
        self.name == other.name && self.key == other.key
    }

    fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let der = CertificateDer::from(self.der.as_slice());
        let Ok(certificate) = EndEntityCert::try_from(&der) else { return false };
        ALGORITHMS.iter().any(|algorithm| certificate.verify_signature(*algorithm, message, signature).is_ok())
    }
}
