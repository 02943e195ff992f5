//! An authority whose certificates centralised mode takes: RSA and ECDSA, where the mesh has Ed25519.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

/// Of a certificate.
#[derive(Clone, Copy, Debug)]
pub enum KeyKind {
    /// 2,048 bits.
    Rsa,
    /// On P-256.
    Ecdsa,
}

/// A private authority.
pub struct Authority {
    /// Its certificate.
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// With a new key of ECDSA.
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyKind::Ecdsa.key();
        let pem = params.self_signed(&key).expect("an authority").pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate for this domain name or address, and its private key.
    pub fn issue(&self, name: &str, kind: KeyKind, serial: u64) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.try_into().expect("a domain name")),
        }];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // id-kp-ipsecIKE (RFC 4945 5.1.3.12).
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 17])];
        params.serial_number = Some(SerialNumber::from(serial));
        let key = kind.key();
        (params.signed_by(&key, &self.issuer).expect("a certificate").pem(), key.serialize_pem())
    }

    /// A revocation list.
    pub fn revoke(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2126, 1, 1),
            crl_number: SerialNumber::from(serials.len() as u64 + 1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("a list").pem().expect("a text")
    }
}

impl Default for Authority {
    fn default() -> Self {
        Authority::new()
    }
}

impl KeyKind {
    fn key(self) -> KeyPair {
        match self {
            KeyKind::Rsa => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048),
            KeyKind::Ecdsa => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        }
        .expect("a key")
    }
}
