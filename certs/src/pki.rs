//! A nation's certificate authority, small: makes roots, devices' certificates and revocation lists.
//!
//! The one part of this crate that is not pure: it draws keys from the system's random number generator, because a key
//! that could be drawn from anything else would one day be. It is for the operator's commands; no protocol calls it.
//! Time comes in, files are the caller's.

mod authority;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    RevokedCertParams, SerialNumber,
};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use zeroize::Zeroizing;

use self::authority::{Authority, date, self_signed};
use crate::certificate::{Certificate, is_usable_text, malformed};
use crate::revocation::Crl;
use crate::{CertError, TrustStore, certificates_from_pem, crls_from_pem};

/// Validity of a root: ten years.
const ROOT_DAYS: u32 = 3653;
/// One level of intermediates below a root.
const ROOT_PATH_LENGTH: u8 = 1;

/// A new authority.
pub struct Root {
    /// Its self-signed certificate.
    pub certificate_pem: String,
    /// Its private key (PKCS#8); erased when dropped.
    pub key_pem: Zeroizing<String>,
    /// Its first revocation list, empty.
    pub crl_pem: String,
}

/// A new certificate and its key.
pub struct Issued {
    /// The certificate, then the intermediates that lead to the root.
    pub certificate_pem: String,
    /// Its private key (PKCS#8); erased when dropped.
    pub key_pem: Zeroizing<String>,
}

/// A nation's root: an Ed25519 key, and a certificate for ten years with which it may sign devices' certificates, one
/// level of intermediates and revocation lists. `organisation`: 1 to 64 printable characters; `now_unix`: Unix seconds.
pub fn init(organisation: &str, now_unix: u64) -> Result<Root, CertError> {
    if !is_usable_text(organisation) {
        return Err(CertError::Organisation);
    }
    let mut params = subject(organisation, &root_name(organisation));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(ROOT_PATH_LENGTH));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let Issued { certificate_pem, key_pem } = self_signed(params, ROOT_DAYS, now_unix)?;
    let crl_pem = empty_crl(&certificate_pem, &key_pem, now_unix)?;
    Ok(Root { certificate_pem, key_pem, crl_pem })
}

/// A device's certificate for `days` days, at most as long as its authority's, with a new Ed25519 key.
///
/// `ca_certificate_pem`, `ca_key_pem`: a root's, or an intermediate's followed by what leads to the root.
/// `device_name`: 1 to 64 of `A-Z a-z 0-9 . _ -`, not beginning with a dot, because files are named after it.
pub fn issue(
    ca_certificate_pem: &str,
    ca_key_pem: &str,
    device_name: &str,
    days: u32,
    now_unix: u64,
) -> Result<Issued, CertError> {
    if !is_device_name(device_name) {
        return Err(CertError::DeviceName);
    }
    let authority = Authority::from_pem(ca_certificate_pem, ca_key_pem)?;
    let mut params = subject(authority.organisation()?, device_name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 17])];
    let issued = authority.issue(params, days, now_unix)?;
    // What others will ask of it, asked here: an authority that has expired or may not sign shows now, not in the field.
    let leaf = certificates_from_pem(&issued.certificate_pem)?.swap_remove(0);
    TrustStore::new(vec![authority.der()?.to_vec()], Vec::new())?.validate(&[leaf], now_unix)?;
    Ok(issued)
}

/// An intermediate authority for `days` days, at most as long as its root, with a new Ed25519 key; it may sign devices'
/// certificates and revocation lists. `name`: its common name, 1 to 64 printable characters.
pub fn intermediate(
    ca_certificate_pem: &str,
    ca_key_pem: &str,
    name: &str,
    days: u32,
    now_unix: u64,
) -> Result<Issued, CertError> {
    if !is_usable_text(name) {
        return Err(CertError::CommonName);
    }
    let authority = Authority::from_pem(ca_certificate_pem, ca_key_pem)?;
    if authority.certificate.path_length == Some(0) {
        return Err(CertError::Constraint);
    }
    let mut params = subject(authority.organisation()?, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.issue(params, days, now_unix)
}

/// The first revocation list of an authority: number 1, empty. [`init`] makes a root's.
pub fn empty_crl(ca_certificate_pem: &str, ca_key_pem: &str, now_unix: u64) -> Result<String, CertError> {
    Authority::from_pem(ca_certificate_pem, ca_key_pem)?.crl(1, Vec::new(), now_unix)
}

/// The authority's next revocation list: all that `crl_pem` revokes, and the first certificate of `certificate_pem`.
///
/// Revoking twice changes nothing but the number. Reason codes are not carried over.
pub fn revoke(
    ca_certificate_pem: &str,
    ca_key_pem: &str,
    crl_pem: &str,
    certificate_pem: &str,
    now_unix: u64,
) -> Result<String, CertError> {
    let authority = Authority::from_pem(ca_certificate_pem, ca_key_pem)?;
    let certificate = Certificate::parse(&certificates_from_pem(certificate_pem)?.swap_remove(0))?;
    if certificate.issuer != authority.certificate.subject {
        return Err(CertError::UnknownIssuer);
    }
    let old_der = crls_from_pem(crl_pem)?.swap_remove(0);
    let old = Crl::parse(&old_der)?;
    if !old.is_signed_by(&authority.certificate) {
        return Err(CertError::Signature);
    }
    let (_, entries) = CertificateRevocationList::from_der(&old_der).map_err(malformed)?;
    let mut revoked = Vec::new();
    for entry in entries.iter_revoked_certificates() {
        let date = u64::try_from(entry.revocation_date.timestamp()).unwrap_or(0);
        revoked.push(revocation(entry.raw_serial(), date)?);
    }
    if !old.revokes(&certificate) {
        revoked.push(revocation(&certificate.serial, now_unix)?);
    }
    let number = old.number.checked_add(1).ok_or_else(|| malformed("no number above the list's"))?;
    let crl_pem = authority.crl(number, revoked, now_unix)?;
    // rcgen writes numbers anew, and could not repeat one that is no positive number.
    let new = Crl::parse(&crls_from_pem(&crl_pem)?.swap_remove(0))?;
    if !new.revokes(&certificate) || !old.is_subset_of(&new) {
        return Err(CertError::Issue("a serial number that cannot be repeated".to_owned()));
    }
    Ok(crl_pem)
}

/// The serial number is rcgen's: 20 bytes of the SHA-256 of the public key. The key is new and random, so it is, too
/// (RFC 5280, section 4.1.2.2).
fn subject(organisation: &str, name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organisation);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Of a long organisation the beginning, because a common name has at most 64 characters.
fn root_name(organisation: &str) -> String {
    let beginning: String = organisation.chars().take(59).collect();
    format!("{beginning} root")
}

fn is_device_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn revocation(serial: &[u8], unix: u64) -> Result<RevokedCertParams, CertError> {
    Ok(RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial),
        revocation_time: date(unix)?.to_datetime(),
        reason_code: None,
        invalidity_date: None,
    })
}
