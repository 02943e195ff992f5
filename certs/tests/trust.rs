//! Which chains are trusted, and why others are not.

mod common;

use common::{DAY, NOW, Nation, certificates, ipsec_ike, odd_certificate, store, store_with_crls};
use muster_certs::pki::{self, Root};
use muster_certs::{CertError, Device, TrustStore};
use muster_wire::MemberId;
use sha2::{Digest, Sha256};

#[test]
fn a_device_is_who_its_chain_says() {
    let (alpha, bravo) = (Nation::new("Alpha"), Nation::new("Bravo"));
    let mut store = store(&[&alpha, &bravo]);
    for (nation, organisation) in [(&alpha, "Alpha"), (&bravo, "Bravo")] {
        let issued = nation.device("router-1");
        let device = Device::from_pem(&issued.certificate_pem, &issued.key_pem).unwrap();
        let identity = store.validate(&device.chain, NOW).unwrap();
        assert_eq!(identity.member, MemberId(Sha256::digest(&device.chain[0]).into()));
        assert_eq!(identity.member, device.member);
        assert_eq!((identity.name.as_str(), identity.organisation.as_str()), ("router-1", organisation));
        assert_eq!(identity.key, device.key.public());
        assert_eq!((identity.not_before, identity.not_after), (NOW - 300, NOW + 365 * DAY));
    }
}

#[test]
fn the_organisation_is_the_anchors() {
    let alpha = Nation::new("Alpha");
    let (leaf, _) =
        alpha.odd_certificate(|params| params.distinguished_name.push(rcgen::DnType::OrganizationName, "Bravo"));
    assert_eq!(store(&[&alpha]).validate(&[leaf], NOW).unwrap().organisation, "Alpha");
}

#[test]
fn validity_is_of_the_moment_even_from_the_cache() {
    let alpha = Nation::new("Alpha");
    let chain = alpha.chain("a");
    let mut store = store(&[&alpha]);
    let (first, last) = (NOW - 300, NOW + 365 * DAY);
    for _ in 0..2 {
        assert_eq!(store.validate(&chain, first - 1), Err(CertError::NotYetValid { not_before: first }));
        assert!(store.validate(&chain, first).is_ok());
        assert!(store.validate(&chain, last).is_ok());
        assert_eq!(store.validate(&chain, last + 1), Err(CertError::Expired { not_after: last }));
    }
    assert_eq!(CertError::Expired { not_after: NOW }.to_string(), "certificate expired on Jan 15 08:00:00 2027 +00:00");
}

#[test]
fn an_expired_root_vouches_for_nobody() {
    let alpha = Nation::new("Alpha");
    let root_end = NOW + 3653 * DAY;
    let (long, _) = alpha.odd_certificate(|params| params.not_after = rcgen::date_time_ymd(2060, 1, 1));
    let mut store = store(&[&alpha]);
    assert_eq!(store.validate(std::slice::from_ref(&long), root_end).unwrap().not_after, root_end);
    assert_eq!(store.validate(&[long], root_end + 1), Err(CertError::Expired { not_after: root_end }));
}

#[test]
fn strangers_are_refused_namesakes_too() {
    let (alpha, bravo, false_alpha) = (Nation::new("Alpha"), Nation::new("Bravo"), Nation::new("Alpha"));
    let mut store = store(&[&alpha]);
    for stranger in [&bravo, &false_alpha] {
        assert_eq!(store.validate(&stranger.chain("a"), NOW), Err(CertError::UnknownIssuer));
    }
    let mut with_their_root = bravo.chain("a");
    with_their_root.push(bravo.der());
    assert_eq!(store.validate(&with_their_root, NOW), Err(CertError::UnknownIssuer));
    assert!(TrustStore::new(vec![], vec![]).unwrap().validate(&alpha.chain("a"), NOW).is_err());
}

#[test]
fn a_nation_may_change_its_root() {
    let (old, new) = (Nation::new("Alpha"), Nation::new("Alpha"));
    let mut store = store_with_crls(&[&old, &new, &new], &[&old.0.crl_pem, &new.0.crl_pem]);
    assert_eq!(store.validate(&old.chain("a"), NOW).unwrap().organisation, "Alpha");
    assert_eq!(store.validate(&new.chain("a"), NOW).unwrap().organisation, "Alpha");
}

#[test]
fn a_renewed_root_takes_over_from_the_expired_one() {
    let alpha = Nation::new("Alpha");
    let root_end = NOW + 3653 * DAY;
    let key = rcgen::KeyPair::from_pem(&alpha.0.key_pem).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "Alpha");
    params.distinguished_name.push(rcgen::DnType::CommonName, "Alpha root");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_after = rcgen::date_time_ymd(2080, 1, 1);
    let renewed = params.self_signed(&key).unwrap().der().to_vec();
    let (leaf, _) = alpha.odd_certificate(|params| params.not_after = rcgen::date_time_ymd(2070, 1, 1));
    let leaf = [leaf];
    for anchors in [vec![alpha.der(), renewed.clone()], vec![renewed, alpha.der()]] {
        let mut store = TrustStore::new(anchors, vec![]).unwrap();
        assert!(store.validate(&leaf, NOW).is_ok());
        assert!(store.validate(&leaf, root_end + 1).unwrap().not_after > root_end);
    }
}

#[test]
fn intermediates_count_within_the_roots_path_length() {
    let alpha = Nation::new("Alpha");
    let (root, root_key) = (&alpha.0.certificate_pem, &alpha.0.key_pem);
    let army = pki::intermediate(root, root_key, "Alpha army", 3000, NOW).unwrap();
    let device = pki::issue(&army.certificate_pem, &army.key_pem, "tank-7", 365, NOW).unwrap();
    let chain = certificates(&device.certificate_pem);
    assert_eq!(chain.len(), 2, "the root does not travel");
    let mut store = store(&[&alpha]);
    let identity = store.validate(&chain, NOW).unwrap();
    assert_eq!((identity.name.as_str(), identity.organisation.as_str()), ("tank-7", "Alpha"));
    assert_eq!(store.validate(&chain[..1], NOW), Err(CertError::UnknownIssuer));
    // An intermediate's own certificate is no device's.
    assert_eq!(store.validate(&certificates(&army.certificate_pem), NOW), Err(CertError::CaAsDevice));
    assert!(pki::intermediate(&army.certificate_pem, &army.key_pem, "Alpha platoon", 1, NOW).is_err());
}

#[test]
fn the_anchors_own_path_length_holds() {
    let alpha = Nation::new("Alpha");
    let make = |issuer: Option<&rcgen::Issuer<'_, rcgen::KeyPair>>, name: &str| {
        let change = |params: &mut rcgen::CertificateParams| {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
        };
        let (der, key) = match issuer {
            Some(issuer) => odd_certificate(issuer, &rcgen::PKCS_ED25519, change),
            None => alpha.odd_certificate(change),
        };
        let issuer = rcgen::Issuer::from_ca_cert_der(&der.as_slice().into(), key).unwrap();
        (der, issuer)
    };
    let (first_der, first) = make(None, "first");
    let (second_der, second) = make(Some(&first), "second");
    let mut store = store(&[&alpha]);
    let (below_first, _) = odd_certificate(&first, &rcgen::PKCS_ED25519, |_| {});
    assert!(store.validate(&[below_first, first_der.clone()], NOW).is_ok());
    let (below_second, _) = odd_certificate(&second, &rcgen::PKCS_ED25519, |_| {});
    assert_eq!(store.validate(&[below_second, second_der, first_der], NOW), Err(CertError::Constraint));
}

#[test]
fn a_device_is_no_authority() {
    let alpha = Nation::new("Alpha");
    let (device, key) = alpha.odd_certificate(|_| {});
    let as_ca = rcgen::Issuer::from_ca_cert_der(&device.as_slice().into(), key).unwrap();
    let (forged, _) = odd_certificate(&as_ca, &rcgen::PKCS_ED25519, |_| {});
    let mut store = store(&[&alpha]);
    assert_eq!(store.validate(&[forged, device.clone()], NOW), Err(CertError::NotCa));
    assert!(store.validate(&[device], NOW).is_ok());

    // Nor is a CA whose key usage leaves out keyCertSign.
    let (ca, key) = alpha.odd_certificate(|params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
    });
    let issuer = rcgen::Issuer::from_ca_cert_der(&ca.as_slice().into(), key).unwrap();
    let (leaf, _) = odd_certificate(&issuer, &rcgen::PKCS_ED25519, |_| {});
    assert_eq!(store.validate(&[leaf, ca], NOW), Err(CertError::NotCa));
}

#[test]
fn a_device_certificate_is_for_ike_and_signatures() {
    let alpha = Nation::new("Alpha");
    let mut store = store(&[&alpha]);
    let mut validate = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        store.validate(&[alpha.odd_certificate(change).0], NOW).map(|identity| identity.name)
    };
    assert_eq!(validate(&|_| {}).unwrap(), "odd-1");
    assert_eq!(validate(&|params| params.extended_key_usages.clear()), Err(CertError::MissingEku));
    let server = rcgen::ExtendedKeyUsagePurpose::ServerAuth;
    let other = |params: &mut rcgen::CertificateParams| params.extended_key_usages = vec![server.clone()];
    assert_eq!(validate(&other), Err(CertError::MissingEku));
    assert!(validate(&|params| params.extended_key_usages = vec![server.clone(), ipsec_ike()]).is_ok());
    let agreement = |params: &mut rcgen::CertificateParams| {
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyAgreement];
    };
    assert_eq!(validate(&agreement), Err(CertError::KeyUsage));
    let nameless = |params: &mut rcgen::CertificateParams| {
        params.distinguished_name.remove(rcgen::DnType::CommonName);
    };
    assert_eq!(validate(&nameless), Err(CertError::CommonName));
    for name in ["", " a", "a\u{1b}[2J", "a\u{202e}b", &"x".repeat(65)] {
        let named = |params: &mut rcgen::CertificateParams| {
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
        };
        assert_eq!(validate(&named), Err(CertError::CommonName), "{name:?}");
    }
}

#[test]
fn only_ed25519_counts() {
    let alpha = Nation::new("Alpha");
    let mut store = store(&[&alpha]);
    let ca_key = rcgen::KeyPair::from_pem(&alpha.0.key_pem).unwrap();
    let ca = rcgen::Issuer::from_ca_cert_pem(&alpha.0.certificate_pem, ca_key).unwrap();
    let (leaf, _) = odd_certificate(&ca, &rcgen::PKCS_ECDSA_P256_SHA256, |_| {});
    assert_eq!(store.validate(&[leaf], NOW), Err(CertError::Key));

    let (p256_ca, key) = odd_certificate(&ca, &rcgen::PKCS_ECDSA_P256_SHA256, |params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "P-256");
    });
    let issuer = rcgen::Issuer::from_ca_cert_der(&p256_ca.as_slice().into(), key).unwrap();
    let (leaf, _) = odd_certificate(&issuer, &rcgen::PKCS_ED25519, |_| {});
    assert_eq!(store.validate(&[leaf, p256_ca.clone()], NOW), Err(CertError::NotEd25519));
    assert_eq!(
        TrustStore::new(vec![p256_ca], vec![]).err(),
        Some(CertError::Anchor { index: 0, reason: Box::new(CertError::Key) })
    );
}

#[test]
fn a_bad_anchor_or_list_is_named() {
    let alpha = Nation::new("Alpha");
    let no_ca = alpha.chain("a").remove(0);
    let error = TrustStore::new(vec![alpha.der(), no_ca], vec![]).err().unwrap();
    assert_eq!(error, CertError::Anchor { index: 1, reason: Box::new(CertError::NotCa) });
    assert!(error.to_string().starts_with("trust anchor 2: "), "{error}");

    let (without_organisation, _) =
        alpha.odd_certificate(|params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    let error = TrustStore::new(vec![without_organisation], vec![]).err().unwrap();
    assert_eq!(error, CertError::Anchor { index: 0, reason: Box::new(CertError::Organisation) });

    let garbage = || vec![0x30, 0x03, 1, 2, 3];
    assert!(matches!(TrustStore::new(vec![garbage()], vec![]), Err(CertError::Anchor { index: 0, .. })));
    assert!(matches!(TrustStore::new(vec![], vec![garbage()]), Err(CertError::Crl { index: 0, .. })));
    let other = muster_certs::crls_from_pem(&Nation::new("Alpha").0.crl_pem).unwrap();
    let error = TrustStore::new(vec![alpha.der()], other).err().unwrap();
    assert_eq!(error, CertError::Crl { index: 0, reason: Box::new(CertError::Signature) });
}

#[test]
fn chains_are_bounded() {
    let alpha = Nation::new("Alpha");
    let chain = alpha.chain("a");
    let mut store = store(&[&alpha]);
    assert_eq!(store.validate(&[], NOW), Err(CertError::Missing("certificate")));
    assert_eq!(store.validate(&vec![chain[0].clone(); 5], NOW), Err(CertError::ChainTooLong(5)));
    assert_eq!(store.validate(&[vec![0; 2049]], NOW), Err(CertError::TooLarge(2049)));
    assert_eq!(store.validate(&vec![vec![0; 2048]; 4], NOW), Err(CertError::ChainTooLarge(8192)));
    assert!(matches!(store.validate(&[vec![0; 100]], NOW), Err(CertError::Malformed(_))));
    assert!(matches!(store.validate(&[vec![]], NOW), Err(CertError::Malformed(_))));
    let mut longer = chain[0].clone();
    longer.push(0);
    assert!(matches!(store.validate(&[longer], NOW), Err(CertError::Malformed(_))));
}

#[test]
fn a_chain_costs_one_validation() {
    let (alpha, bravo) = (Nation::new("Alpha"), Nation::new("Bravo"));
    let (good, bad) = (alpha.chain("a"), bravo.chain("b"));
    let mut store = store(&[&alpha]);
    for _ in 0..10 {
        assert!(store.validate(&good, NOW).is_ok());
        assert!(store.validate(&bad, NOW).is_err());
    }
    assert_eq!(store.path_validations(), 2);
    // Junk pushes out junk only.
    for n in 0..300_u32 {
        assert!(store.validate(&[n.to_be_bytes().to_vec()], NOW).is_err());
    }
    assert!(store.validate(&good, NOW).is_ok());
    assert_eq!(store.path_validations(), 302);
}

#[test]
fn a_revoked_device_is_refused_and_no_other() {
    let alpha = Nation::new("Alpha");
    let (lost, kept) = (alpha.device("lost"), alpha.device("kept"));
    let crl = pki::revoke(&alpha.0.certificate_pem, &alpha.0.key_pem, &alpha.0.crl_pem, &lost.certificate_pem, NOW);
    let crl = crl.unwrap();
    let lost = certificates(&lost.certificate_pem);
    // The newest list counts, in whatever order they come, and however old it is.
    for crls in [[crl.as_str(), &alpha.0.crl_pem], [&alpha.0.crl_pem, crl.as_str()]] {
        let mut store = store_with_crls(&[&alpha], &crls);
        assert_eq!(store.validate(&lost, NOW), Err(CertError::Revoked));
        assert_eq!(store.validate(&lost, NOW + 364 * DAY), Err(CertError::Revoked));
        assert!(store.validate(&certificates(&kept.certificate_pem), NOW).is_ok());
    }
    assert!(store_with_crls(&[&alpha], &[&alpha.0.crl_pem]).validate(&lost, NOW).is_ok());
    // Another nation's list says nothing of it.
    let bravo = Nation::new("Bravo");
    assert!(store_with_crls(&[&alpha, &bravo], &[&bravo.0.crl_pem]).validate(&lost, NOW).is_ok());
}

#[test]
fn an_intermediate_is_revoked_and_revokes() {
    let alpha = Nation::new("Alpha");
    let (root, root_key) = (&alpha.0.certificate_pem, &alpha.0.key_pem);
    let army = pki::intermediate(root, root_key, "Alpha army", 3000, NOW).unwrap();
    let device = pki::issue(&army.certificate_pem, &army.key_pem, "tank-7", 365, NOW).unwrap();
    let chain = certificates(&device.certificate_pem);
    let crl = pki::revoke(root, root_key, &alpha.0.crl_pem, &army.certificate_pem, NOW).unwrap();
    assert_eq!(store_with_crls(&[&alpha], &[&crl]).validate(&chain, NOW), Err(CertError::Revoked));

    let empty = pki::empty_crl(&army.certificate_pem, &army.key_pem, NOW).unwrap();
    let crl = pki::revoke(&army.certificate_pem, &army.key_pem, &empty, &device.certificate_pem, NOW).unwrap();
    assert!(store_with_crls(&[&alpha], &[&empty]).validate(&chain, NOW).is_ok());
    assert_eq!(store_with_crls(&[&alpha], &[&crl]).validate(&chain, NOW), Err(CertError::Revoked));

    // A list in an intermediate's name that another key signed is as good as none, alone and beside the true one.
    let impostor = Nation::new("Alpha");
    let other = pki::intermediate(&impostor.0.certificate_pem, &impostor.0.key_pem, "Alpha army", 9, NOW).unwrap();
    let forged = pki::empty_crl(&other.certificate_pem, &other.key_pem, NOW).unwrap();
    let forged = pki::revoke(&other.certificate_pem, &other.key_pem, &forged, &device.certificate_pem, NOW).unwrap();
    assert!(store_with_crls(&[&alpha], &[&forged]).validate(&chain, NOW).is_ok());
    assert!(store_with_crls(&[&alpha], &[&forged, &empty]).validate(&chain, NOW).is_ok());
    assert_eq!(store_with_crls(&[&alpha], &[&forged, &crl]).validate(&chain, NOW), Err(CertError::Revoked));
}

fn revoked(nation: &Nation, crl_pem: &str, device: &pki::Issued) -> String {
    let Root { certificate_pem, key_pem, .. } = &nation.0;
    pki::revoke(certificate_pem, key_pem, crl_pem, &device.certificate_pem, NOW).unwrap()
}

#[test]
fn a_list_that_is_offered_counts_when_it_is_signed_and_newer() {
    let (alpha, bravo) = (Nation::new("Alpha"), Nation::new("Bravo"));
    let (first, second) = (alpha.device("first"), alpha.device("second"));
    let one = revoked(&alpha, &alpha.0.crl_pem, &first);
    let two = revoked(&alpha, &one, &second);
    let der = |pem: &str| muster_certs::crls_from_pem(pem).unwrap().remove(0);
    let mut store = store(&[&alpha, &bravo]);
    assert!(store.validate(&certificates(&first.certificate_pem), NOW).is_ok());
    assert_eq!(store.revocation_lists().count(), 0);

    assert_eq!(store.offer(&der(&one)), Ok(true));
    assert_eq!(store.validate(&certificates(&first.certificate_pem), NOW), Err(CertError::Revoked), "not from cache");
    assert_eq!(store.offer(&der(&one)), Ok(false), "known");
    assert_eq!(store.offer(&der(&two)), Ok(true));
    assert_eq!(store.validate(&certificates(&second.certificate_pem), NOW), Err(CertError::Revoked));
    assert_eq!(store.offer(&der(&one)), Ok(false), "older");
    assert_eq!(store.validate(&certificates(&second.certificate_pem), NOW), Err(CertError::Revoked));

    let list = store.revocation_lists().next().unwrap();
    assert_eq!((list.organisation, list.number, list.der), ("Alpha", 3, der(&two).as_slice()));
    let issuer = list.issuer;
    assert!(store.lacks(&issuer, 4) && !store.lacks(&issuer, 3));
    assert!(!store.lacks(&muster_wire::Hash([7; 32]), 4), "a stranger's list is no news");

    // Signed by nobody whom we trust, or by another in the nation's name.
    let stranger = Nation::new("Charlie");
    assert_eq!(store.offer(&der(&stranger.0.crl_pem)), Err(CertError::UnknownIssuer));
    let impostor = Nation::new("Alpha");
    let lost = impostor.device("lost");
    let forged = (0..9).fold(impostor.0.crl_pem.clone(), |crl, _| revoked(&impostor, &crl, &lost));
    assert_eq!(store.offer(&der(&forged)), Err(CertError::Signature));
    let mut spoilt = der(&revoked(&alpha, &two, &alpha.device("third")));
    *spoilt.last_mut().unwrap() ^= 1;
    assert_eq!(store.offer(&spoilt), Err(CertError::Signature));
    assert!(matches!(store.offer(&[]), Err(CertError::Malformed(_))));
    assert_eq!(store.revocation_lists().count(), 1);

    // A store from older files does not fall back; one without the anchor does not take its list.
    let mut files = store_with_crls(&[&alpha, &bravo], &[&one, &bravo.0.crl_pem]);
    files.keep_lists_of(&store);
    let numbers: Vec<(String, u64)> =
        files.revocation_lists().map(|list| (list.organisation.to_owned(), list.number)).collect();
    assert_eq!(numbers.len(), 2);
    assert!(numbers.contains(&("Alpha".into(), 3)) && numbers.contains(&("Bravo".into(), 1)));
    let mut without = self::store(&[&bravo]);
    without.keep_lists_of(&store);
    assert_eq!(without.revocation_lists().count(), 0);
}

#[test]
fn roots_of_one_name_count_their_lists_apart() {
    let (old, new) = (Nation::new("Alpha"), Nation::new("Alpha"));
    let lost = old.device("lost");
    let der = |pem: &str| muster_certs::crls_from_pem(pem).unwrap().remove(0);
    let list = (0..5).fold(old.0.crl_pem.clone(), |crl, _| revoked(&old, &crl, &lost));
    let mut store = store(&[&old, &new]);
    assert_eq!(store.offer(&der(&list)), Ok(true));
    assert_eq!(store.offer(&der(&new.0.crl_pem)), Ok(true), "number 1, but of another key");
    assert_eq!(store.revocation_lists().count(), 2);
    assert_eq!(store.validate(&certificates(&lost.certificate_pem), NOW), Err(CertError::Revoked));
}

#[test]
fn what_openssl_makes_is_read() {
    let device = Device::from_pem(include_str!("openssl/device.pem"), include_str!("openssl/device.key")).unwrap();
    let anchors = certificates(include_str!("openssl/ca.pem"));
    let crls = muster_certs::crls_from_pem(include_str!("openssl/crl.pem")).unwrap();
    let mut store = TrustStore::new(anchors.clone(), vec![]).unwrap();
    let identity = store.validate(&device.chain, NOW).unwrap();
    assert_eq!((identity.name.as_str(), identity.organisation.as_str()), ("delta-1", "Delta Forces"));
    let mut store = TrustStore::new(anchors, crls).unwrap();
    assert_eq!(store.validate(&device.chain, NOW), Err(CertError::Revoked));
}
