//! Certificates of phase 1 (RFC 5280, RFC 4945): RSA and ECDSA, up to an anchor that one's own side trusts.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, Error, KeyUsage, OwnedCertRevocationList, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy, aws_lc_rs,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::CertificateError;
use crate::isakmp::Identity;

/// What certificates and lists may be signed with.
static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
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
    lists: Vec<CertRevocationList<'static>>,
}

struct Anchor {
    anchor: TrustAnchor<'static>,
    /// Unix seconds; webpki does not look at them.
    not_before: i64,
    not_after: i64,
}

impl Anchors {
    /// Certificates of authorities, and their revocation lists (DER). A certificate of whose issuer there is no list is not
    /// revoked; a list counts beyond its next update, too.
    ///
    /// # Errors
    /// One that cannot be read.
    pub fn new(anchors: &[Vec<u8>], lists: &[Vec<u8>]) -> Result<Self, CertificateError> {
        let anchors = anchors.iter().map(|der| Anchor::new(der)).collect::<Result<_, _>>()?;
        let lists = lists
            .iter()
            .map(|der| OwnedCertRevocationList::from_der(der).map(CertRevocationList::from))
            .collect::<Result<_, _>>()
            .map_err(refusal)?;
        Ok(Anchors { anchors, lists })
    }

    /// Checks a chain that shall show `identity` at `now_unix` (Unix seconds): for [`Authority::check`](super::Authority::check).
    /// A distinguished name must be the certificate's subject, octet by octet; an address, a domain name or a mail address must
    /// be one of its alternative names (RFC 4945 3.1). An extended key usage, if there is one, must be ipsecIKE; a key usage,
    /// digital signature.
    ///
    /// # Errors
    /// As there.
    pub fn check(&self, chain: &[&[u8]], identity: &Identity, now_unix: u64) -> Result<Vec<u8>, CertificateError> {
        let chain: Vec<CertificateDer<'_>> = chain.iter().map(|der| CertificateDer::from(*der)).collect();
        let (first, intermediates) = chain.split_first().ok_or(CertificateError::Missing)?;
        let leaf = EndEntityCert::try_from(first).map_err(refusal)?;
        let valid_now = |anchor: &&Anchor| {
            i64::try_from(now_unix).is_ok_and(|now| (anchor.not_before..=anchor.not_after).contains(&now))
        };
        let anchors: Vec<_> = self.anchors.iter().filter(valid_now).map(|anchor| anchor.anchor.clone()).collect();
        let lists: Vec<&CertRevocationList<'_>> = self.lists.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|builder| {
            builder.with_depth(RevocationCheckDepth::Chain).with_status_policy(UnknownStatusPolicy::Allow).build()
        });
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now_unix));
        let usage = KeyUsage::required_if_present(IPSEC_IKE);
        leaf.verify_for_usage(ALGORITHMS, &anchors, intermediates, now, usage, revocation, None).map_err(refusal)?;
        let certificate = parse(first)?;
        let key_usage = certificate.key_usage().map_err(|_| CertificateError::Malformed)?;
        if key_usage.is_some_and(|usage| !usage.value.digital_signature()) {
            return Err(CertificateError::Key);
        }
        if !has(&certificate, identity)? {
            return Err(CertificateError::Name);
        }
        Ok(leaf.subject_public_key_info().to_vec())
    }
}

impl Anchor {
    fn new(der: &[u8]) -> Result<Self, CertificateError> {
        let certificate = parse(der)?;
        let may_sign = certificate.key_usage().map_err(|_| CertificateError::Malformed)?;
        if !certificate.is_ca() || may_sign.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(CertificateError::Key);
        }
        let validity = certificate.validity();
        let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let der = CertificateDer::from(der);
        Ok(Anchor {
            anchor: webpki::anchor_from_trusted_cert(&der).map_err(refusal)?.to_owned(),
            not_before,
            not_after,
        })
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
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
