//! What one certificate says, whoever signed it.

use muster_wire::{Hash, MemberId};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;
use x509_parser::x509::AttributeTypeAndValue;

use crate::{CertError, PublicKey};

/// id-kp-ipsecIKE, 1.3.6.1.5.5.7.3.17 (RFC 4945, section 5.1.3.12), as DER has it.
pub(crate) const IPSEC_IKE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 17];

/// What stands before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo: SEQUENCE { SEQUENCE { 1.3.101.112 },
/// BIT STRING { no unused bits (RFC 8410, section 4). DER allows no other way to write it.
const ED25519: &[u8] = &[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 101, 112, 3, 0x21, 0];

/// The certificates (DER) of a PEM text, in its order; other sections are passed over. Fails if there are none.
pub fn certificates_from_pem(pem: &str) -> Result<Vec<Vec<u8>>, CertError> {
    sections::<CertificateDer<'static>>(pem, "certificate (PEM)")
}

/// The revocation lists (DER) of a PEM text, in its order; other sections are passed over. Fails if there are none.
pub fn crls_from_pem(pem: &str) -> Result<Vec<Vec<u8>>, CertError> {
    sections::<CertificateRevocationListDer<'static>>(pem, "revocation list (PEM)")
}

/// A certificate for people to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Whose.
    pub subject: String,
    /// Who signed it, as it says itself.
    pub issuer: String,
    /// First second of its validity (Unix).
    pub not_before: u64,
    /// Last second of its validity (Unix).
    pub not_after: u64,
    /// SHA-256 of it (DER); of a device's certificate it is the member id.
    pub fingerprint: Hash,
    /// By which revocation lists name it: hexadecimal, octet by octet.
    pub serial: String,
    /// May sign others.
    pub is_ca: bool,
}

/// A revocation list for people to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListDescription {
    /// Who signed it, as it says itself.
    pub issuer: String,
    /// Rises with every list of the issuer.
    pub number: Option<String>,
    /// When it was issued (Unix).
    pub this_update: u64,
    /// When there will be another (Unix).
    pub next_update: Option<u64>,
    /// Serial numbers, as [`Description::serial`].
    pub revoked: Vec<String>,
}

/// Describes the first certificate of a PEM text. Checks no signature, and takes any key.
pub fn describe(pem: &str) -> Result<Description, CertError> {
    // certificates_from_pem() returns at least one.
    let der = certificates_from_pem(pem)?.swap_remove(0);
    let certificate = parse(&der)?;
    let (not_before, not_after) = validity(&certificate);
    Ok(Description {
        subject: printable(&certificate.subject().to_string()),
        issuer: printable(&certificate.issuer().to_string()),
        not_before,
        not_after,
        fingerprint: Hash(Sha256::digest(&der).into()),
        serial: certificate.raw_serial_as_string(),
        is_ca: certificate.is_ca(),
    })
}

/// Describes the first revocation list of a PEM text. Checks no signature, and takes any key.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn describe_list(pem: &str) -> Result<ListDescription, CertError> {
    let der = crls_from_pem(pem)?.swap_remove(0);
    let (_, list) = CertificateRevocationList::from_der(&der).map_err(malformed)?;
    let unix = |time: ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    Ok(ListDescription {
        issuer: printable(&list.issuer().to_string()),
        number: list.crl_number().map(ToString::to_string),
        this_update: unix(list.last_update()),
        next_update: list.next_update().map(unix),
        revoked: list.iter_revoked_certificates().map(|entry| entry.raw_serial_as_string()).collect(),
    })
}

/// What trust needs to know of a certificate. Its signature has to be checked elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) member: MemberId,
    /// Subject and issuer as encoded (DER): names are compared by their bytes.
    pub(crate) subject: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    /// As encoded (DER).
    pub(crate) serial: Vec<u8>,
    /// The one common name, if usable.
    pub(crate) name: Option<String>,
    /// The one organisation, if usable.
    pub(crate) organisation: Option<String>,
    pub(crate) key: PublicKey,
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
    pub(crate) is_ca: bool,
    /// How many intermediates may stand below (RFC 5280, section 4.2.1.9).
    pub(crate) path_length: Option<u32>,
    pub(crate) ipsec_ike: bool,
    /// A certificate without a key usage may be used for everything (RFC 5280, section 4.2.1.3).
    pub(crate) may_sign: bool,
    pub(crate) may_sign_certificates: bool,
    pub(crate) may_sign_crls: bool,
}

impl Certificate {
    pub(crate) fn parse(der: &[u8]) -> Result<Certificate, CertError> {
        let certificate = parse(der)?;
        let key_usage = certificate.key_usage().map_err(malformed)?.map(|extension| extension.value);
        let extended = certificate.extended_key_usage().map_err(malformed)?.map(|extension| extension.value);
        let constraints = certificate.basic_constraints().map_err(malformed)?.map(|extension| extension.value);
        let (not_before, not_after) = validity(&certificate);
        Ok(Certificate {
            member: MemberId(Sha256::digest(der).into()),
            subject: certificate.subject().as_raw().to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
            serial: certificate.raw_serial().to_vec(),
            name: only_text(certificate.subject().iter_common_name()),
            organisation: only_text(certificate.subject().iter_organization()),
            key: public_key(certificate.public_key().raw)?,
            not_before,
            not_after,
            is_ca: constraints.is_some_and(|constraints| constraints.ca),
            path_length: constraints.and_then(|constraints| constraints.path_len_constraint),
            ipsec_ike: extended.is_some_and(|usage| usage.other.iter().any(|oid| oid.as_bytes() == IPSEC_IKE)),
            may_sign: key_usage.is_none_or(|usage| usage.digital_signature()),
            may_sign_certificates: key_usage.is_none_or(|usage| usage.key_cert_sign()),
            may_sign_crls: key_usage.is_none_or(|usage| usage.crl_sign()),
        })
    }
}

/// The key in a SubjectPublicKeyInfo (DER).
pub(crate) fn public_key(info: &[u8]) -> Result<PublicKey, CertError> {
    let bytes = info.strip_prefix(ED25519).and_then(|bytes| bytes.try_into().ok()).ok_or(CertError::Key)?;
    PublicKey::from_bytes(bytes)
}

/// 1 to 64 characters (RFC 5280, appendix A: ub-common-name, ub-organization-name) that a terminal or a log shows as
/// they are: no control characters, nothing that turns the direction of the text.
pub(crate) fn is_usable_text(text: &str) -> bool {
    (1..=64).contains(&text.chars().count()) && text.chars().all(is_printable) && text.trim() == text
}

pub(crate) fn malformed(error: impl std::fmt::Display) -> CertError {
    CertError::Malformed(error.to_string())
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(malformed("trailing bytes")),
        Err(error) => Err(malformed(error)),
    }
}

fn sections<T: PemObject + AsRef<[u8]>>(pem: &str, what: &'static str) -> Result<Vec<Vec<u8>>, CertError> {
    let found: Result<Vec<Vec<u8>>, _> =
        T::pem_slice_iter(pem.as_bytes()).map(|section| section.map(|der| der.as_ref().to_vec())).collect();
    let found = found.map_err(|error| CertError::Malformed(format!("PEM: {error}")))?;
    if found.is_empty() { Err(CertError::Missing(what)) } else { Ok(found) }
}

/// Times before 1970 count as 1970.
fn validity(certificate: &X509Certificate<'_>) -> (u64, u64) {
    let validity = certificate.validity();
    let [not_before, not_after] =
        [validity.not_before, validity.not_after].map(|time| u64::try_from(time.timestamp()).unwrap_or(0));
    (not_before, not_after)
}

/// With two of them, two programs may take one each.
fn only_text<'a>(mut attributes: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>) -> Option<String> {
    match (attributes.next(), attributes.next()) {
        (Some(attribute), None) => attribute.as_str().ok().filter(|text| is_usable_text(text)).map(str::to_owned),
        _ => None,
    }
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if is_printable(c) { c } else { '\u{fffd}' }).collect()
}

fn is_printable(c: char) -> bool {
    c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric()
}
