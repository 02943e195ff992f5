//! Devices with real certificates, the same in every process: keys come from fixed seeds, Ed25519 signs the same
//! bytes the same way, and the dates are constant.

use std::sync::LazyLock;

use muster_certs::{SigningKey, TrustStore};
use muster_wire::MemberId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use sha2::{Digest, Sha256};

/// How many there are.
pub const DEVICES: usize = 48;
/// The wall clock when a run begins.
pub(crate) const UNIX: u64 = 1_800_000_000;

const NATIONS: usize = 4;
const IPSEC_IKE: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 17];

/// A device, with what it keeps over restarts.
pub struct Device {
    /// Its certificate's private key.
    pub key: SigningKey,
    /// Its certificate.
    pub chain: Vec<Vec<u8>>,
    /// That one's hash.
    pub member: MemberId,
}

/// The device with this number.
pub fn device(number: usize) -> &'static Device {
    &POOL.1[number % DEVICES]
}

/// Trusts all nations.
pub(crate) fn trust() -> TrustStore {
    POOL.0.clone()
}

static POOL: LazyLock<(TrustStore, Vec<Device>)> = LazyLock::new(|| {
    let nations: Vec<_> = (0..NATIONS).map(|nation| root(&format!("nation{nation}"))).collect();
    let anchors = nations.iter().map(|(der, _)| der.clone()).collect();
    // Our own anchors are well formed.
    let trust = TrustStore::new(anchors, Vec::new()).expect("anchors that parse");
    (trust, (0..DEVICES).map(|number| issue(number, &nations[number % NATIONS].1)).collect())
});

fn root(organisation: &str) -> (Vec<u8>, Issuer<'static, KeyPair>) {
    let key = key_pair(&Sha256::digest(organisation).into());
    let mut params = params(organisation, "root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).expect("a certificate from constants");
    (certificate.der().to_vec(), Issuer::new(params, key))
}

fn issue(number: usize, issuer: &Issuer<'static, KeyPair>) -> Device {
    let seed: [u8; 32] = Sha256::digest(format!("device {number}")).into();
    let mut params = params(&format!("nation{}", number % NATIONS), &format!("device{number}"));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(IPSEC_IKE.to_vec())];
    let leaf = params.signed_by(&key_pair(&seed), issuer).expect("a certificate from constants").der().to_vec();
    let member = MemberId(Sha256::digest(&leaf).into());
    Device { key: SigningKey::from_seed(&seed), chain: vec![leaf], member }
}

fn params(organisation: &str, name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, organisation);
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2060, 1, 1);
    params
}

/// PKCS#8 of an Ed25519 seed (RFC 8410, section 7).
fn key_pair(seed: &[u8; 32]) -> KeyPair {
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend(seed);
    KeyPair::try_from(der).expect("a key from constants")
}
