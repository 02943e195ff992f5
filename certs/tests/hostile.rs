//! Junk neither passes nor panics.

mod common;

use std::sync::LazyLock;

use common::{NOW, Nation, certificates, store};
use muster_certs::{Device, SigningKey, TrustStore, certificates_from_pem, crls_from_pem, describe, pki};
use proptest::prelude::*;

static ALPHA: LazyLock<Nation> = LazyLock::new(|| Nation::new("Alpha"));
static STORE: LazyLock<TrustStore> = LazyLock::new(|| store(&[&*ALPHA]));
/// Device, intermediate: no byte of either may change.
static CHAIN: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let army = pki::intermediate(&ALPHA.0.certificate_pem, &ALPHA.0.key_pem, "Alpha army", 3000, NOW).unwrap();
    certificates(&pki::issue(&army.certificate_pem, &army.key_pem, "tank-7", 365, NOW).unwrap().certificate_pem)
});

#[test]
fn no_bit_of_a_chain_may_change() {
    let mut store = STORE.clone();
    assert!(store.validate(&CHAIN, NOW).is_ok());
    for certificate in 0..CHAIN.len() {
        for bit in 0..8 * CHAIN[certificate].len() {
            let mut chain = CHAIN.clone();
            chain[certificate][bit / 8] ^= 1 << (bit % 8);
            assert!(store.validate(&chain, NOW).is_err(), "bit {bit} of certificate {certificate}");
        }
    }
}

#[test]
fn no_bit_of_an_anchor_or_list_makes_it_panic() {
    let (anchor, crl) = (ALPHA.der(), crls_from_pem(&ALPHA.0.crl_pem).unwrap().remove(0));
    for bit in 0..8 * anchor.len() {
        let mut changed = anchor.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let _ = TrustStore::new(vec![changed], vec![]);
    }
    for bit in 0..8 * crl.len() {
        let mut changed = crl.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let _ = TrustStore::new(vec![anchor.clone()], vec![changed]);
    }
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..most)
}

proptest! {
    #[test]
    fn random_chains_are_refused(chain in prop::collection::vec(bytes(300), 0..5), now: u64) {
        prop_assert!(STORE.clone().validate(&chain, now).is_err());
    }

    #[test]
    fn spoilt_chains_are_refused(
        certificate in 0..2_usize,
        at in any::<prop::sample::Index>(),
        cut in 0..40_usize,
        splice in bytes(40),
    ) {
        let mut chain = CHAIN.clone();
        let der = &mut chain[certificate];
        let start = at.index(der.len());
        let end = (start + cut).min(der.len());
        der.splice(start..end, splice);
        prop_assume!(chain != *CHAIN);
        prop_assert!(STORE.clone().validate(&chain, NOW).is_err());
    }

    #[test]
    fn random_text_is_refused(text in "\\PC{0,200}", body in "[A-Za-z0-9+/=\n]{0,400}") {
        for label in ["CERTIFICATE", "X509 CRL", "PRIVATE KEY", "RSA PRIVATE KEY"] {
            let framed = format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
            for pem in [text.as_str(), &framed] {
                prop_assert!(Device::from_pem(pem, pem).is_err());
                prop_assert!(SigningKey::from_pkcs8_pem(pem).is_err());
                prop_assert!(describe(pem).is_err());
                prop_assert!(pki::issue(pem, pem, "a", 1, NOW).is_err());
                let anchors = certificates_from_pem(pem).and_then(|anchors| TrustStore::new(anchors, vec![]));
                prop_assert!(anchors.is_err());
                let lists = crls_from_pem(pem).and_then(|crls| TrustStore::new(vec![], crls));
                prop_assert!(lists.is_err());
            }
        }
    }
}
