//! A nation to test with.
#![allow(dead_code)] // each test binary uses a part

use muster_certs::pki::{self, Issued, Root};
use muster_certs::{TrustStore, certificates_from_pem, crls_from_pem};

/// 2027-01-15, the day of all tests.
pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const DAY: u64 = 86_400;

pub(crate) struct Nation(pub(crate) Root);

impl Nation {
    pub(crate) fn new(organisation: &str) -> Nation {
        Nation(pki::init(organisation, NOW).unwrap())
    }

    pub(crate) fn device(&self, name: &str) -> Issued {
        pki::issue(&self.0.certificate_pem, &self.0.key_pem, name, 365, NOW).unwrap()
    }

    pub(crate) fn chain(&self, name: &str) -> Vec<Vec<u8>> {
        certificates(&self.device(name).certificate_pem)
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        certificates(&self.0.certificate_pem).remove(0)
    }

    /// A certificate signed by the nation's root, `change`d from a device's.
    pub(crate) fn odd_certificate(
        &self,
        change: impl FnOnce(&mut rcgen::CertificateParams),
    ) -> (Vec<u8>, rcgen::KeyPair) {
        let ca_key = rcgen::KeyPair::from_pem(&self.0.key_pem).unwrap();
        let ca = rcgen::Issuer::from_ca_cert_pem(&self.0.certificate_pem, ca_key).unwrap();
        odd_certificate(&ca, &rcgen::PKCS_ED25519, change)
    }
}

pub(crate) fn odd_certificate(
    ca: &rcgen::Issuer<'_, rcgen::KeyPair>,
    algorithm: &'static rcgen::SignatureAlgorithm,
    change: impl FnOnce(&mut rcgen::CertificateParams),
) -> (Vec<u8>, rcgen::KeyPair) {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "odd-1");
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2028, 1, 1);
    params.extended_key_usages = vec![ipsec_ike()];
    change(&mut params);
    let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
    (params.signed_by(&key, ca).unwrap().der().to_vec(), key)
}

pub(crate) fn ipsec_ike() -> rcgen::ExtendedKeyUsagePurpose {
    rcgen::ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 17])
}

pub(crate) fn store(nations: &[&Nation]) -> TrustStore {
    store_with_crls(nations, &[])
}

pub(crate) fn store_with_crls(nations: &[&Nation], crls_pem: &[&str]) -> TrustStore {
    let crls = crls_pem.iter().flat_map(|pem| crls_from_pem(pem).unwrap()).collect();
    TrustStore::new(nations.iter().map(|nation| nation.der()).collect(), crls).unwrap()
}

pub(crate) fn certificates(pem: &str) -> Vec<Vec<u8>> {
    certificates_from_pem(pem).unwrap()
}
