//! Certificates, revocation lists, keys: from files and from strangers.

use std::sync::LazyLock;

use muster_certs::{Device, SigningKey, TrustStore, certificates_from_pem, crls_from_pem, describe};
use muster_sim::forge::scramble;
use muster_sim::{Input, anchor, signed_by_nation};

use crate::devices::{UNIX, at, with_crls};

/// The first byte chooses what the rest is.
pub(crate) fn certificates(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(7) {
        0 => pem(input.rest()),
        1 => chain(vec![input.rest().to_vec()]),
        2 => {
            let split = usize::from(input.word());
            let (leaf, intermediate) = input.rest().split_at_checked(split).unwrap_or_default();
            chain(vec![leaf.to_vec(), intermediate.to_vec()]);
        }
        3 => drop(TrustStore::new(vec![input.rest().to_vec()], Vec::new())),
        4 => drop(TrustStore::new(vec![anchor(0).to_vec()], vec![input.rest().to_vec()])),
        5 => hostile_nation(&mut input, at(0).chain[0].clone(), |der| {
            // Whatever its nation signs: who it is, is refused or a usable name.
            if let Ok(identity) = trust().validate(&[der], UNIX) {
                assert!((1..=64).contains(&identity.name.chars().count()));
                assert!(identity.organisation == "nation0");
                assert!((identity.not_before..=identity.not_after).contains(&UNIX));
            }
        }),
        _ => hostile_nation(&mut input, muster_sim::crl(0, &[0], 7), |der| {
            if let Ok(mut trust) = TrustStore::new(vec![anchor(0).to_vec(), anchor(1).to_vec()], vec![der]) {
                let _ = trust.validate(&at(0).chain, UNIX);
                assert!(trust.validate(&at(1).chain, UNIX).is_ok(), "a nation revokes another's device");
            }
        }),
    }
}

fn trust() -> TrustStore {
    static TRUST: LazyLock<TrustStore> = LazyLock::new(|| with_crls(Vec::new()));
    TRUST.clone()
}

fn pem(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = (crls_from_pem(text), describe(text), SigningKey::from_pkcs8_pem(text), Device::from_pem(text, text));
    if let Ok(certificates) = certificates_from_pem(text) {
        assert!(!certificates.is_empty());
        let _ = TrustStore::new(certificates, crls_from_pem(text).unwrap_or_default());
    }
}

/// Only what the nations signed is anybody.
fn chain(chain: Vec<Vec<u8>>) {
    if let Ok(identity) = trust().validate(&chain, UNIX) {
        let known = (0..muster_sim::DEVICES).map(at).find(|device| device.chain[0] == chain[0]);
        assert_eq!(known.map(|device| device.member), Some(identity.member), "a certificate out of nothing");
    }
}

/// Changes what a nation signed, and signs it again.
fn hostile_nation(input: &mut Input<'_>, der: Vec<u8>, check: impl FnOnce(Vec<u8>)) {
    // SEQUENCE { what is signed: SEQUENCE { … }, algorithm, BIT STRING of 64 bytes }, lengths in one to three bytes.
    let Some(outer) = header_len(&der) else { return };
    let Some((inner, length)) = header_len(&der[outer..]).zip(content_len(&der[outer..])) else { return };
    let mut signed = der[outer..outer + inner + length].to_vec();
    let algorithm = der[outer + signed.len()..der.len() - 64].to_vec();
    scramble(&mut signed, input);
    let signature = signed_by_nation(0, &signed);
    let content = [signed, algorithm, signature].concat();
    let length = (content.len() as u16).to_be_bytes();
    check([&[0x30, 0x82, length[0], length[1]], content.as_slice()].concat());
}

fn header_len(der: &[u8]) -> Option<usize> {
    Some(if *der.get(1)? < 128 { 2 } else { 2 + usize::from(der[1] & 127) })
}

fn content_len(der: &[u8]) -> Option<usize> {
    let header = header_len(der)?;
    match header {
        2 => Some(usize::from(der[1])),
        _ => Some(der.get(2..header)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))),
    }
}
