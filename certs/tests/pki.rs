//! The small certificate authority.

mod common;

use common::{DAY, NOW, Nation, certificates, store};
use muster_certs::{CertError, Device, describe, pki};
use muster_wire::Hash;
use sha2::{Digest, Sha256};

#[test]
fn a_root_and_a_device_describe_themselves() {
    let alpha = Nation::new("Alpha");
    let root = describe(&alpha.0.certificate_pem).unwrap();
    assert_eq!((root.subject.as_str(), root.issuer.as_str()), ("O=Alpha, CN=Alpha root", "O=Alpha, CN=Alpha root"));
    assert_eq!((root.not_before, root.not_after, root.is_ca), (NOW - 300, NOW + 3653 * DAY, true));
    assert_eq!(root.fingerprint, Hash(Sha256::digest(alpha.der()).into()));
    let device = describe(&alpha.device("alpha-1").certificate_pem).unwrap();
    assert_eq!((device.subject.as_str(), device.issuer.as_str()), ("O=Alpha, CN=alpha-1", "O=Alpha, CN=Alpha root"));
    assert!(!device.is_ca);
    assert_eq!(describe("nothing"), Err(CertError::Missing("certificate (PEM)")));
    assert!(matches!(
        describe("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        Err(CertError::Malformed(_))
    ));
}

#[test]
fn what_a_certificate_says_cannot_steer_a_terminal() {
    let (der, _) = Nation::new("Alpha").odd_certificate(|params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "a\u{1b}[2J\u{202e}\nb");
    });
    let pem = pem(&der);
    assert_eq!(describe(&pem).unwrap().subject, "CN=a\u{fffd}[2J\u{fffd}\u{fffd}b");
}

#[test]
fn keys_and_serial_numbers_are_fresh() {
    let alpha = Nation::new("Alpha");
    let (one, two) = (alpha.device("same"), alpha.device("same"));
    assert_ne!(*one.key_pem, *two.key_pem);
    assert_ne!(alpha.0.key_pem, Nation::new("Alpha").0.key_pem);
    let mut store = store(&[&alpha]);
    let mut member = |pem: &str| store.validate(&certificates(pem), NOW).unwrap().member;
    assert_ne!(member(&one.certificate_pem), member(&two.certificate_pem));
}

#[test]
fn a_device_does_not_outlive_its_root() {
    let alpha = Nation::new("Alpha");
    let issue = |days, now| pki::issue(&alpha.0.certificate_pem, &alpha.0.key_pem, "a", days, now);
    let root_end = NOW + 3653 * DAY;
    let long = issue(u32::MAX, NOW).unwrap();
    assert_eq!(describe(&long.certificate_pem).unwrap().not_after, root_end);
    assert_eq!(issue(1, root_end + 1).err(), Some(CertError::Expired { not_after: root_end }));
    assert_eq!(issue(1, NOW - 301).err(), Some(CertError::NotYetValid { not_before: NOW - 300 }));
    assert!(matches!(issue(0, NOW), Err(CertError::Issue(_))));
    assert!(pki::init("Alpha", u64::MAX).is_err(), "no time for X.509");
}

#[test]
fn keys_belong_to_their_certificates() {
    let alpha = Nation::new("Alpha");
    let (one, two) = (alpha.device("one"), alpha.device("two"));
    let device = |certificate: &str, key: &str| Device::from_pem(certificate, key).map(|device| device.name);
    assert_eq!(device(&one.certificate_pem, &one.key_pem).unwrap(), "one");
    assert_eq!(device(&one.certificate_pem, &two.key_pem), Err(CertError::KeyMismatch));
    assert_eq!(device(&one.certificate_pem, &one.certificate_pem), Err(CertError::PrivateKey));
    assert_eq!(device(&one.key_pem, &one.key_pem), Err(CertError::Missing("certificate (PEM)")));
    assert_eq!(device("", ""), Err(CertError::Missing("certificate (PEM)")));
    let issue = |ca: &str, key: &str| pki::issue(ca, key, "a", 1, NOW).err();
    assert_eq!(issue(&alpha.0.certificate_pem, &one.key_pem), Some(CertError::KeyMismatch));
    assert_eq!(issue(&one.certificate_pem, &one.key_pem), Some(CertError::NotCa));
    // Both in one file are fine.
    let both = format!("{}{}", *one.key_pem, one.certificate_pem);
    assert_eq!(device(&both, &one.key_pem).unwrap(), "one");
}

#[test]
fn names_are_checked() {
    let alpha = Nation::new("Alpha");
    let issue = |name: &str| pki::issue(&alpha.0.certificate_pem, &alpha.0.key_pem, name, 1, NOW).err();
    assert_eq!(issue("A-z_0.9"), None);
    assert_eq!(issue(&"x".repeat(64)), None);
    for name in ["", "..", ".ssh", "a/b", "a b", "ä", "a\0", &"x".repeat(65)] {
        assert_eq!(issue(name), Some(CertError::DeviceName), "{name:?}");
    }
    for organisation in ["Österreich", "Two words, Inc.", &"x".repeat(64), &"é".repeat(64)] {
        let nation = Nation::new(organisation);
        assert_eq!(store(&[&nation]).validate(&nation.chain("a"), NOW).unwrap().organisation, organisation);
    }
    for organisation in ["", " ", "a\nb", "a\u{200b}b", &"x".repeat(65)] {
        assert_eq!(pki::init(organisation, NOW).err(), Some(CertError::Organisation), "{organisation:?}");
    }
}

#[test]
fn revoking_keeps_what_was_revoked() {
    let alpha = Nation::new("Alpha");
    let revoke = |crl: &str, pem: &str| pki::revoke(&alpha.0.certificate_pem, &alpha.0.key_pem, crl, pem, NOW);
    let devices: Vec<_> = (0..20).map(|n| alpha.device(&format!("d{n}")).certificate_pem).collect();
    let crl = devices.iter().fold(alpha.0.crl_pem.clone(), |crl, device| revoke(&crl, device).unwrap());
    let crl = revoke(&crl, &devices[0]).unwrap();
    let mut store = common::store_with_crls(&[&alpha], &[&crl]);
    for device in &devices {
        assert_eq!(store.validate(&certificates(device), NOW), Err(CertError::Revoked));
    }
    assert!(store.validate(&alpha.chain("d0"), NOW).is_ok(), "a new certificate of a revoked name");

    let bravo = Nation::new("Bravo");
    assert_eq!(revoke(&bravo.0.crl_pem, &devices[0]).err(), Some(CertError::Signature));
    assert_eq!(revoke(&crl, &bravo.device("b").certificate_pem).err(), Some(CertError::UnknownIssuer));
    assert_eq!(revoke("", &devices[0]).err(), Some(CertError::Missing("revocation list (PEM)")));
}

fn pem(der: &[u8]) -> String {
    use std::fmt::Write;
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for three in der.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for n in 0..4 {
            let digit = if n <= three.len() { alphabet[(bits >> (18 - 6 * n)) as usize & 63] } else { b'=' };
            text.push(char::from(digit));
        }
        text.push('\n');
    }
    write!(text, "-----END CERTIFICATE-----").unwrap();
    text
}
