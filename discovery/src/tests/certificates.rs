//! Real certificates from fixed keys, so that a test is the same in every run.

use std::sync::LazyLock;
use std::time::Duration;

use muster_certs::{SigningKey, TrustStore};
use muster_wire::MemberId;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use sha2::{Digest, Sha256};

use super::UNIX;

/// Much later than any test.
pub(super) const FAR: u64 = UNIX + 1_000_000_000;

const IPSEC_IKE: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 17];
const TRUSTED: usize = 32;

#[derive(Clone)]
pub(super) struct Device {
    pub(super) key: SigningKey,
    pub(super) chain: Vec<Vec<u8>>,
    pub(super) member: MemberId,
}

/// Trusts `alpha`, `short`, `nation1`, `nation2` …
pub(super) fn trust() -> TrustStore {
    static STORE: LazyLock<TrustStore> = LazyLock::new(|| {
        let nations: Vec<String> = (1..TRUSTED).map(|n| format!("nation{n}")).collect();
        trust_in(&nations.iter().map(String::as_str).chain(["alpha", "short"]).collect::<Vec<_>>())
    });
    STORE.clone()
}

pub(super) fn trust_in(organisations: &[&str]) -> TrustStore {
    let anchors = organisations.iter().map(|organisation| root(organisation).0.der().to_vec());
    TrustStore::new(anchors.collect(), Vec::new()).unwrap()
}

/// A device of an organisation, with a certificate until `not_after`.
pub(super) fn issue(seed: u8, organisation: &str, not_after: u64) -> Device {
    let (_, issuer) = root(organisation);
    let mut params = params(organisation, &format!("{organisation}-{seed}"), not_after);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(IPSEC_IKE.to_vec())];
    params.serial_number = Some(SerialNumber::from(u64::from(seed) + 1));
    let leaf = params.signed_by(&key_pair(&[seed; 32]), &issuer).unwrap().der().to_vec();
    let member = MemberId(Sha256::digest(&leaf).into());
    Device { key: SigningKey::from_seed(&[seed; 32]), chain: vec![leaf], member }
}

/// An organisation's revocation list: devices by the seeds that they were issued with.
pub(super) fn list(organisation: &str, number: u64, revoked: &[u64]) -> Vec<u8> {
    let entry = |seed: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(seed + 1),
        revocation_time: rcgen::date_time_ymd(2026, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2026, 1, 1),
        next_update: rcgen::date_time_ymd(2036, 1, 1),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&root(organisation).1).unwrap().der().to_vec()
}

/// As [`trust`], with this list.
pub(super) fn trust_with(list: &[u8]) -> TrustStore {
    let mut trust = trust();
    assert_eq!(trust.offer(list), Ok(true));
    trust
}

fn root(organisation: &str) -> (Certificate, Issuer<'static, KeyPair>) {
    let key = key_pair(&Sha256::digest(organisation).into());
    let mut params = params(organisation, "root", FAR);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.self_signed(&key).unwrap(), Issuer::new(params, key))
}

fn params(organisation: &str, name: &str, not_after: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, organisation);
    params.distinguished_name.push(DnType::CommonName, name);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(UNIX - 1000);
    params.not_after = epoch + Duration::from_secs(not_after);
    params
}

/// PKCS#8 of an Ed25519 seed (RFC 8410, section 7).
fn key_pair(seed: &[u8; 32]) -> KeyPair {
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend(seed);
    KeyPair::try_from(der).unwrap()
}
