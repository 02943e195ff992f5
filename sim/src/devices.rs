//! Devices with real certificates, the same in every process: keys come from fixed seeds, Ed25519 signs the same
//! bytes the same way, and the dates are constant.

use std::sync::LazyLock;

use muster_certs::{SigningKey, TrustStore};
use muster_wire::MemberId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use sha2::{Digest, Sha256};

/// How many there are.
pub const DEVICES: usize = 48;
/// The wall clock when a run begins.
pub(crate) const UNIX: u64 = 1_800_000_000;

/// Device n is of nation n modulo this.
pub const NATIONS: usize = 4;
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
    &POOL.devices[number % DEVICES]
}

/// Trusts all nations.
pub fn trust() -> TrustStore {
    POOL.trust.clone()
}

/// A revocation list of a nation, of these devices.
pub fn crl(nation: usize, revoked: &[usize], number: u64) -> Vec<u8> {
    let revoked = revoked.iter().map(|number| RevokedCertParams {
        serial_number: serial(*number),
        revocation_time: rcgen::date_time_ymd(2021, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2021, 1, 1),
        next_update: rcgen::date_time_ymd(2060, 1, 1),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = params.signed_by(&POOL.nations[nation].issuer).expect("a list from constants");
    list.der().to_vec()
}

/// What a nation's root signs, whatever it is: for attackers who have its key.
pub fn signed_by_nation(nation: usize, bytes: &[u8]) -> Vec<u8> {
    rcgen::SigningKey::sign(POOL.nations[nation].issuer.key(), bytes).expect("Ed25519 signs anything")
}

/// A nation's trust anchor (DER).
pub fn anchor(nation: usize) -> &'static [u8] {
    &POOL.nations[nation].anchor
}

struct Pool {
    trust: TrustStore,
    nations: Vec<Nation>,
    devices: Vec<Device>,
}

struct Nation {
    anchor: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

static POOL: LazyLock<Pool> = LazyLock::new(|| {
    let nations: Vec<_> = (0..NATIONS).map(|nation| root(&format!("nation{nation}"))).collect();
    let anchors = nations.iter().map(|nation| nation.anchor.clone()).collect();
    // Our own anchors are well formed.
    let trust = TrustStore::new(anchors, Vec::new()).expect("anchors that parse");
    let devices = (0..DEVICES).map(|number| issue(number, &nations[number % NATIONS].issuer)).collect();
    Pool { trust, nations, devices }
});

fn root(organisation: &str) -> Nation {
    let key = key_pair(&Sha256::digest(organisation).into());
    let mut params = params(organisation, "root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let anchor = params.self_signed(&key).expect("a certificate from constants").der().to_vec();
    Nation { anchor, issuer: Issuer::new(params, key) }
}

fn issue(number: usize, issuer: &Issuer<'static, KeyPair>) -> Device {
    let seed: [u8; 32] = Sha256::digest(format!("device {number}")).into();
    let mut params = params(&format!("nation{}", number % NATIONS), &format!("device{number}"));
    params.serial_number = Some(serial(number));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(IPSEC_IKE.to_vec())];
    let leaf = params.signed_by(&key_pair(&seed), issuer).expect("a certificate from constants").der().to_vec();
    let member = MemberId(Sha256::digest(&leaf).into());
    Device { key: SigningKey::from_seed(&seed), chain: vec![leaf], member }
}

fn serial(number: usize) -> SerialNumber {
    SerialNumber::from(number as u64 + 1)
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
