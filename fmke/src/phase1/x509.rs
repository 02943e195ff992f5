//! Certificates of phase 1 (RFC 5280, RFC 4945): RSA and ECDSA, up to an anchor that one's own side trusts.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{Cert, EndEntityCert, Error, KeyUsage, VerifiedPath, aws_lc_rs};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

pub use super::revocation::ListError;
use super::revocation::{ListMark, Lists};
use super::{CertificateError, Verified};
use crate::isakmp::Identity;

/// What certificates and lists may be signed with.
pub(super) static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    aws_lc_rs::ECDSA_P256_SHA256,
    aws_lc_rs::ECDSA_P256_SHA384,
    aws_lc_rs::ECDSA_P384_SHA256,
    aws_lc_rs::ECDSA_P384_SHA384,
    aws_lc_rs::RSA_PKCS1_2048_8192_SHA256,
    aws_lc_rs::RSA_PKCS1_2048_8192_SHA384,
    aws_lc_rs::RSA_PKCS1_2048_8192_SHA512,
];
/// id-kp-ipsecIKE, 1.3.6.1.5.5.7.3.17 (RFC 4945 5.1.3.12).
const IPSEC_IKE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 17];

/// Trust anchors and revocation lists.
pub struct Anchors {
    anchors: Vec<Anchor>,
    lists: Lists,
}

struct Anchor {
    anchor: TrustAnchor<'static>,
    der: Vec<u8>,
    /// SubjectPublicKeyInfo, DER.
    key: Vec<u8>,
    /// Unix seconds; webpki does not look at them.
    not_before: u64,
    not_after: u64,
}

impl Anchors {
    /// Certificates of authorities (DER). Nothing is revoked.
    ///
    /// # Errors
    /// One that cannot be read, or is no authority's.
    pub fn new(anchors: &[Vec<u8>]) -> Result<Self, CertificateError> {
        let anchors = anchors.iter().map(|der| Anchor::new(der)).collect::<Result<_, _>>()?;
        Ok(Anchors { anchors, lists: Lists::default() })
    }

    /// With these revocation lists, of the anchors or of intermediate `authorities` that they lead to (all DER). Of an
    /// authority's lists the newest counts, by their numbers, and beyond its next update, too; a certificate of whose issuer
    /// there is none is not revoked.
    ///
    /// # Errors
    /// A list that is nobody's of those, so that it would revoke nothing, or that is not understood.
    pub fn with_lists(self, authorities: &[Vec<u8>], lists: &[Vec<u8>]) -> Result<Self, ListError> {
        let anchors: Vec<&[u8]> = self.anchors.iter().map(|anchor| anchor.der.as_slice()).collect();
        Ok(Anchors { lists: Lists::new(&anchors, authorities, lists)?, ..self })
    }

    /// Whether the lists may take the place of those of `before`: each one whose anchor is still there is as it was, or newer.
    ///
    /// # Errors
    /// What was revoked would count again.
    pub fn follow(&self, before: &Anchors) -> Result<(), ListError> {
        self.follow_marks(&before.marks())
    }

    /// The same of lists of which this is remembered.
    pub(crate) fn follow_marks<'a>(&self, before: impl IntoIterator<Item = &'a ListMark>) -> Result<(), ListError> {
        let keys: Vec<&[u8]> = self.anchors.iter().map(|anchor| anchor.key.as_slice()).collect();
        self.lists.follow(before, &keys)
    }

    /// What is to be remembered of the lists.
    pub(crate) fn marks(&self) -> Vec<ListMark> {
        self.lists.marks()
    }

    /// Checks a chain that shall show `identity` at `now_unix` (Unix seconds): for [`Authority::check`](super::Authority::check).
    /// A distinguished name must be the certificate's subject, octet by octet; an address, a domain name or a mail address must
    /// be one of its alternative names (RFC 4945 3.1). An extended key usage, if there is one, must be ipsecIKE; a key usage,
    /// digital signature.
    ///
    /// # Errors
    /// As there.
    pub fn check(&self, chain: &[&[u8]], identity: &Identity, now_unix: u64) -> Result<Verified, CertificateError> {
        let chain: Vec<CertificateDer<'_>> = chain.iter().map(|der| CertificateDer::from(*der)).collect();
        let (first, intermediates) = chain.split_first().ok_or(CertificateError::Missing)?;
        let leaf = EndEntityCert::try_from(first).map_err(refusal)?;
        let valid_now = |anchor: &&Anchor| (anchor.not_before..=anchor.not_after).contains(&now_unix);
        let anchors: Vec<_> = self.anchors.iter().filter(valid_now).map(|anchor| anchor.anchor.clone()).collect();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now_unix));
        let usage = KeyUsage::required_if_present(IPSEC_IKE);
        let counts = |path: &VerifiedPath<'_>| if self.is_revoked(path) { Err(Error::CertRevoked) } else { Ok(()) };
        let path = leaf
            .verify_for_usage(ALGORITHMS, &anchors, intermediates, now, usage, None, Some(&counts))
            .map_err(refusal)?;
        let certificate = parse(first)?;
        let key_usage = certificate.key_usage().map_err(|_| CertificateError::Malformed)?;
        if key_usage.is_some_and(|usage| !usage.value.digital_signature()) {
            return Err(CertificateError::Key);
        }
        if !has(&certificate, identity)? {
            return Err(CertificateError::Name);
        }
        let mut until = self.anchor_of(&path).map_or(0, |anchor| anchor.not_after);
        for certificate in certificates(&path) {
            until = until.min(validity(&certificate.der())?.1);
        }
        Ok(Verified { key: leaf.subject_public_key_info().to_vec(), until })
    }

    /// Whether a certificate of this path was taken back by who has signed it.
    fn is_revoked(&self, path: &VerifiedPath<'_>) -> bool {
        let Some(anchor) = self.anchor_of(path) else { return true };
        let keys = path.intermediate_certificates().map(|certificate| certificate.subject_public_key_info().to_vec());
        let keys = keys.chain([anchor.key.clone()]);
        certificates(path).zip(keys).any(|(certificate, key)| self.lists.revoke(certificate, &key))
    }

    fn anchor_of(&self, path: &VerifiedPath<'_>) -> Option<&Anchor> {
        self.anchors.iter().find(|anchor| anchor.anchor == *path.anchor())
    }
}

/// Of a path, its own first, each followed by its issuer's, without the anchor's.
fn certificates<'a>(path: &'a VerifiedPath<'a>) -> impl Iterator<Item = &'a Cert<'a>> {
    std::iter::once(&**path.end_entity()).chain(path.intermediate_certificates())
}

impl Anchor {
    fn new(der: &[u8]) -> Result<Self, CertificateError> {
        let certificate = parse(der)?;
        let may_sign = certificate.key_usage().map_err(|_| CertificateError::Malformed)?;
        if !certificate.is_ca() || may_sign.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(CertificateError::Key);
        }
        let (not_before, not_after) = validity(der)?;
        let encoded = CertificateDer::from(der);
        let anchor = webpki::anchor_from_trusted_cert(&encoded).map_err(refusal)?.to_owned();
        Ok(Anchor { anchor, der: der.to_vec(), key: public_key(der)?, not_before, not_after })
    }
}

pub(super) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CertificateError::Malformed),
    }
}

fn has(certificate: &X509Certificate<'_>, identity: &Identity) -> Result<bool, CertificateError> {
    let alternatives = certificate.subject_alternative_name().map_err(|_| CertificateError::Malformed)?;
    let any = |is: &dyn Fn(&GeneralName<'_>) -> bool| {
        alternatives.as_ref().is_some_and(|names| names.value.general_names.iter().any(is))
    };
    Ok(match identity {
        Identity::DistinguishedName(name) => certificate.subject().as_raw() == name,
        Identity::Address(address) => {
            let octets = match address {
                std::net::IpAddr::V4(address) => address.octets().to_vec(),
                std::net::IpAddr::V6(address) => address.octets().to_vec(),
            };
            any(&|name| matches!(name, GeneralName::IPAddress(bytes) if *bytes == octets))
        }
        Identity::Name(wanted) => {
            any(&|name| matches!(name, GeneralName::DNSName(text) if text.eq_ignore_ascii_case(wanted)))
        }
        Identity::User(wanted) => any(&|name| matches!(name, GeneralName::RFC822Name(text) if text == wanted)),
        Identity::Subnet(_) | Identity::KeyId(_) => false,
    })
}

fn refusal(error: Error) -> CertificateError {
    match error {
        Error::CertExpired { .. } | Error::CertNotValidYet { .. } => CertificateError::Time,
        Error::CertRevoked => CertificateError::Revoked,
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => CertificateError::UnknownIssuer,
        Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        | Error::RequiredEkuNotFoundContext(_) => CertificateError::Key,
        _ => CertificateError::Malformed,
    }
}

/// Whether a certificate (DER) bears this identity: as [`Anchors::check`] has it.
///
/// # Errors
/// It cannot be read.
pub fn bears(der: &[u8], identity: &Identity) -> Result<bool, CertificateError> {
    has(&parse(der)?, identity)
}

/// The first and the last second of a certificate's (DER) validity (Unix seconds; times before 1970 count as 1970).
///
/// # Errors
/// It cannot be read.
pub fn validity(der: &[u8]) -> Result<(u64, u64), CertificateError> {
    let certificate = parse(der)?;
    let [from, to] = [certificate.validity().not_before, certificate.validity().not_after];
    Ok((u64::try_from(from.timestamp()).unwrap_or(0), u64::try_from(to.timestamp()).unwrap_or(0)))
}

/// The SubjectPublicKeyInfo (DER) of a certificate (DER).
///
/// # Errors
/// It cannot be read.
pub(super) fn public_key(der: &[u8]) -> Result<Vec<u8>, CertificateError> {
    Ok(parse(der)?.public_key().raw.to_vec())
}

/// The identity that a certificate (DER) shows in any case: its subject.
///
/// # Errors
/// It cannot be read.
pub fn subject(der: &[u8]) -> Result<Identity, CertificateError> {
    Ok(Identity::DistinguishedName(parse(der)?.subject().as_raw().to_vec()))
}
