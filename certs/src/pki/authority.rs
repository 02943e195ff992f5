//! Signing certificates and revocation lists.

use std::ops::RangeInclusive;

use ed25519_dalek::pkcs8::spki::der::pem::{self, LineEnding};
use muster_wire::idp::MAX_CHAIN;
use rcgen::{
    CertificateParams, CertificateRevocationListParams, Issuer, KeyIdMethod, PublicKeyData, RevokedCertParams,
    SerialNumber, SignatureAlgorithm,
};
use rustls_pki_types::CertificateDer;
use x509_parser::time::ASN1Time;
use zeroize::Zeroizing;

use super::Issued;
use crate::certificate::{Certificate, malformed};
use crate::{CertError, SigningKey, certificates_from_pem};

/// A day in seconds.
const DAY: u64 = 24 * 60 * 60;
/// Certificates begin this long before they are made, for devices whose clock is behind.
const CLOCK_SKEW: u64 = 5 * 60;

/// A certificate that may sign others, and its key.
pub(super) struct Authority {
    pub(super) certificate: Certificate,
    /// Its certificate, then those that lead to the root (DER).
    chain: Vec<Vec<u8>>,
    key: SigningKey,
}

impl Authority {
    pub(super) fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Authority, CertError> {
        let chain = certificates_from_pem(certificate_pem)?;
        // A device's certificate goes before them.
        if chain.len() > MAX_CHAIN {
            return Err(CertError::ChainTooLong(chain.len()));
        }
        // certificates_from_pem() returns at least one.
        let certificate = Certificate::parse(&chain[0])?;
        let key = SigningKey::from_pkcs8_pem(key_pem)?;
        if key.public() != certificate.key {
            return Err(CertError::KeyMismatch);
        }
        if !certificate.is_ca || !certificate.may_sign_certificates {
            return Err(CertError::NotCa);
        }
        Ok(Authority { certificate, chain, key })
    }

    pub(super) fn der(&self) -> Result<&[u8], CertError> {
        self.chain.first().map(Vec::as_slice).ok_or(CertError::Missing("certificate"))
    }

    pub(super) fn organisation(&self) -> Result<&str, CertError> {
        self.certificate.organisation.as_deref().ok_or(CertError::Organisation)
    }

    pub(super) fn issue(&self, mut params: CertificateParams, days: u32, now_unix: u64) -> Result<Issued, CertError> {
        let ca = &self.certificate;
        if now_unix < ca.not_before {
            return Err(CertError::NotYetValid { not_before: ca.not_before });
        }
        if now_unix > ca.not_after {
            return Err(CertError::Expired { not_after: ca.not_after });
        }
        set_validity(&mut params, days, now_unix, ca.not_before..=ca.not_after)?;
        params.use_authority_key_identifier_extension = true;
        let key = new_key()?;
        let der = params.signed_by(&Signer::new(&key), &self.issuer()?).map_err(issue_error)?;
        let mut certificate_pem = der.pem();
        // rcgen writes the issuer's name anew; where it cannot repeat it byte by byte, nobody would find the issuer.
        if Certificate::parse(der.der())?.issuer != ca.subject {
            return Err(CertError::Issue("the CA's subject name has a form that cannot be repeated".to_owned()));
        }
        for der in &self.chain {
            let certificate = Certificate::parse(der)?;
            // The root goes to nobody: who trusts it has it.
            if certificate.subject != certificate.issuer {
                certificate_pem.push_str(&pem::encode_string("CERTIFICATE", LineEnding::LF, der).map_err(malformed)?);
            }
        }
        Ok(Issued { certificate_pem, key_pem: key.to_pkcs8_pem()? })
    }

    /// Never out of date before the authority is: a list counts until a newer one comes.
    pub(super) fn crl(&self, number: u64, revoked: Vec<RevokedCertParams>, now_unix: u64) -> Result<String, CertError> {
        let params = CertificateRevocationListParams {
            this_update: date(now_unix)?.to_datetime(),
            next_update: date(self.certificate.not_after)?.to_datetime(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer()?).and_then(|crl| crl.pem()).map_err(issue_error)
    }

    fn issuer(&self) -> Result<Issuer<'_, Signer<'_>>, CertError> {
        Issuer::from_ca_cert_der(&CertificateDer::from(self.der()?), Signer::new(&self.key)).map_err(issue_error)
    }
}

/// A root with a new key.
pub(super) fn self_signed(mut params: CertificateParams, days: u32, now_unix: u64) -> Result<Issued, CertError> {
    set_validity(&mut params, days, now_unix, 0..=u64::MAX)?;
    let key = new_key()?;
    let certificate = params.self_signed(&Signer::new(&key)).map_err(issue_error)?;
    Ok(Issued { certificate_pem: certificate.pem(), key_pem: key.to_pkcs8_pem()? })
}

/// Up to the year 9999, where X.509 ends (RFC 5280, section 4.1.2.5).
pub(super) fn date(unix: u64) -> Result<ASN1Time, CertError> {
    let seconds = i64::try_from(unix).map_err(malformed)?;
    ASN1Time::from_timestamp(seconds).map_err(malformed)
}

/// Signs for rcgen, so that private keys stay in a type that erases them.
struct Signer<'a> {
    key: &'a SigningKey,
    public: [u8; 32],
}

impl<'a> Signer<'a> {
    fn new(key: &'a SigningKey) -> Signer<'a> {
        Signer { key, public: key.public().to_bytes() }
    }
}

impl PublicKeyData for Signer<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for Signer<'_> {
    fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.key.sign_x509(bytes).to_vec())
    }
}

fn new_key() -> Result<SigningKey, CertError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).map_err(|_| CertError::Issue("no random numbers".to_owned()))?;
    Ok(SigningKey::from_seed(&seed))
}

/// From a little before now for `days` days, within what the issuer's own validity allows.
fn set_validity(
    params: &mut CertificateParams,
    days: u32,
    now_unix: u64,
    within: RangeInclusive<u64>,
) -> Result<(), CertError> {
    if days == 0 {
        return Err(CertError::Issue("a certificate of no days".to_owned()));
    }
    let not_before = now_unix.saturating_sub(CLOCK_SKEW).max(*within.start());
    let not_after = now_unix.saturating_add(u64::from(days) * DAY).min(*within.end());
    params.not_before = date(not_before)?.to_datetime();
    params.not_after = date(not_after)?.to_datetime();
    Ok(())
}

fn issue_error(error: rcgen::Error) -> CertError {
    CertError::Issue(error.to_string())
}
