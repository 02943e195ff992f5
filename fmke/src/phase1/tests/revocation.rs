//! Whose revocation lists are taken, and whom they take back.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    CrlIssuingDistributionPoint, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    date_time_ymd,
};

use super::certificates::{Ca, key, params};
use crate::crypto::signature::Method;
use crate::phase1::CertificateError::{self, Revoked};
use crate::phase1::x509::{Anchors, ListError, subject};

/// 2026-06-01.
const NOW: u64 = 1_780_272_000;

/// What an authority has taken back.
fn list_with(
    issuer: &Issuer<'static, KeyPair>,
    number: u64,
    serials: &[u64],
    change: impl FnOnce(&mut CertificateRevocationListParams),
) -> Vec<u8> {
    let revoked = |serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: date_time_ymd(2026, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let mut list = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        // It counts beyond that.
        next_update: date_time_ymd(2026, 2, 1),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    change(&mut list);
    list.signed_by(issuer).unwrap().der().to_vec()
}

fn list(ca: &Ca, number: u64, serials: &[u64]) -> Vec<u8> {
    list_with(&ca.issuer, number, serials, |_| ())
}

fn member(ca: &Ca, serial: u64) -> Vec<u8> {
    let mut params = params("member");
    params.serial_number = Some(SerialNumber::from(serial));
    ca.issue(params, &key(Method::EcdsaP256))
}

/// An authority below this one.
fn below(ca: &Ca, name: &str, serial: u64) -> Ca {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.serial_number = Some(SerialNumber::from(serial));
    let key = key(Method::EcdsaP256);
    Ca { der: ca.issue(params.clone(), &key), issuer: Issuer::new(params, key) }
}

fn check(anchors: &Anchors, chain: &[&[u8]]) -> Result<(), CertificateError> {
    anchors.check(chain, &subject(chain[0]).unwrap(), NOW).map(drop)
}

fn anchors(of: &[&Ca]) -> Anchors {
    Anchors::new(&of.iter().map(|ca| ca.der.clone()).collect::<Vec<_>>()).unwrap()
}

fn refused(of: &[&Ca], beside: &[&Ca], lists: &[Vec<u8>]) -> Option<ListError> {
    let beside: Vec<_> = beside.iter().map(|ca| ca.der.clone()).collect();
    anchors(of).with_lists(&beside, lists).err()
}

fn usages(usages: &[KeyUsagePurpose]) -> CertificateParams {
    let mut params = params("authority");
    params.key_usages = usages.to_vec();
    params
}

#[test]
fn what_is_revoked_is_refused_and_what_is_not_is_not() {
    let ca = Ca::with(usages(&[KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign]));
    let with = anchors(&[&ca]).with_lists(&[], &[list(&ca, 1, &[7])]).unwrap();
    assert_eq!(check(&with, &[&member(&ca, 7)]), Err(Revoked));
    assert_eq!(check(&with, &[&member(&ca, 8)]), Ok(()));
    assert_eq!(check(&anchors(&[&ca]), &[&member(&ca, 7)]), Ok(()), "without a list");
}

#[test]
fn a_list_that_no_anchor_vouches_for_is_refused() {
    let (ca, stranger) = (Ca::new(), Ca::with(params("stranger")));
    let good = list(&ca, 1, &[7]);
    assert_eq!(refused(&[&ca], &[], std::slice::from_ref(&good)), None);
    // Every bit of its signature, which is at its end.
    for bit in 0..256 {
        let mut changed = good.clone();
        let place = changed.len() - 1 - bit / 8;
        changed[place] ^= 1 << (bit % 8);
        assert_eq!(refused(&[&ca], &[], &[changed]), Some(ListError::Issuer), "bit {bit}");
    }
    assert_eq!(refused(&[&ca], &[], &[list(&stranger, 1, &[7])]), Some(ListError::Issuer));
    // Of its name, with another key.
    assert_eq!(refused(&[&ca], &[], &[list(&Ca::new(), 1, &[7])]), Some(ListError::Issuer));
    assert_eq!(refused(&[&ca], &[], &[good.clone(), list(&Ca::new(), 2, &[])]), Some(ListError::Issuer));
    assert_eq!(refused(&[], &[], std::slice::from_ref(&good)), Some(ListError::Issuer));
    for len in [0, 1, good.len() / 2, good.len() - 1] {
        assert_eq!(refused(&[&ca], &[], &[good[..len].to_vec()]), Some(ListError::Malformed), "{len}");
    }
    assert_eq!(refused(&[&ca], &[], std::slice::from_ref(&ca.der)), Some(ListError::Malformed));
}

#[test]
fn who_may_not_sign_lists_signs_none() {
    let without = Ca::with(usages(&[KeyUsagePurpose::KeyCertSign]));
    let key = KeyPair::from_pem(&without.issuer.key().serialize_pem()).unwrap();
    let same_key = Issuer::new(usages(&[KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign]), key);
    let signed = list_with(&same_key, 1, &[7], |_| ());
    assert_eq!(refused(&[&without], &[], &[signed]), Some(ListError::Issuer));
}

/// With lists checked by the issuer's name alone, all clients with certificates of the other key would be out.
#[test]
fn two_keys_of_one_name_have_a_list_each() {
    let (old, new) = (Ca::new(), Ca::new());
    for lists in [vec![list(&new, 1, &[7])], vec![list(&new, 1, &[7]), list(&old, 9, &[8])]] {
        let both = anchors(&[&old, &new]).with_lists(&[], &lists).unwrap();
        assert_eq!(check(&both, &[&member(&old, 7)]), Ok(()));
        assert_eq!(check(&both, &[&member(&new, 7)]), Err(Revoked));
        assert_eq!(check(&both, &[&member(&old, 8)]), if lists.len() == 2 { Err(Revoked) } else { Ok(()) });
        assert_eq!(check(&both, &[&member(&new, 8)]), Ok(()));
    }
}

#[test]
fn the_newest_of_an_issuers_lists_counts_wherever_it_stands() {
    let ca = Ca::new();
    let (first, second) = (list(&ca, 255, &[7]), list(&ca, 256, &[7, 8]));
    for lists in [[first.clone(), second.clone()], [second.clone(), first.clone()]] {
        let with = anchors(&[&ca]).with_lists(&[], &lists).unwrap();
        assert_eq!(check(&with, &[&member(&ca, 8)]), Err(Revoked));
    }
    assert_eq!(refused(&[&ca], &[], &[first.clone(), first.clone()]), None);
    assert_eq!(refused(&[&ca], &[], &[first, list(&ca, 255, &[])]), Some(ListError::Number));
}

#[test]
fn what_was_revoked_stays_so() {
    let (ca, other) = (Ca::new(), Ca::with(params("other")));
    let with = |lists: &[Vec<u8>]| anchors(&[&ca, &other]).with_lists(&[], lists).unwrap();
    let fifth = list(&ca, 5, &[7]);
    let in_force = with(std::slice::from_ref(&fifth));
    let also = list(&other, 1, &[]);
    assert_eq!(with(&[fifth, also.clone()]).follow(&in_force), Ok(()));
    assert_eq!(with(&[list(&ca, 6, &[])]).follow(&in_force), Ok(()), "its issuer says so");
    assert_eq!(with(&[list(&ca, 4, &[7])]).follow(&in_force), Err(ListError::Older));
    assert_eq!(with(&[list(&ca, 5, &[])]).follow(&in_force), Err(ListError::Older), "another of this number");
    assert_eq!(with(&[also]).follow(&in_force), Err(ListError::Older), "none");
    assert_eq!(anchors(&[&other]).follow(&in_force), Ok(()), "of an authority that is no longer trusted");
}

#[test]
fn a_list_of_a_part_is_refused() {
    let ca = Ca::new();
    let part = list_with(&ca.issuer, 1, &[7], |list| {
        let distribution_point = CrlDistributionPoint { uris: vec!["http://example.com/crl".to_owned()] };
        list.issuing_distribution_point = Some(CrlIssuingDistributionPoint { distribution_point, scope: None });
    });
    assert_eq!(refused(&[&ca], &[], &[part]), Some(ListError::Partial));
}

#[test]
fn an_intermediate_authority_has_a_list_where_its_certificate_stands_beside_it() {
    let root = Ca::new();
    let middle = below(&root, "middle", 100);
    let lowest = below(&middle, "lowest", 200);
    let lists = [list(&lowest, 1, &[7]), list(&middle, 1, &[])];
    assert_eq!(refused(&[&root], &[&middle], &lists), Some(ListError::Issuer));
    assert_eq!(refused(&[&root], &[&lowest], &lists), Some(ListError::Authority), "it leads nowhere");
    let beside = [lowest.der.clone(), middle.der.clone()];
    let with = anchors(&[&root]).with_lists(&beside, &lists).unwrap();
    let chain = |serial| [member(&lowest, serial), lowest.der.clone(), middle.der.clone()];
    let verdict = |with: &Anchors, chain: [Vec<u8>; 3]| check(with, &chain.each_ref().map(Vec::as_slice));
    assert_eq!(verdict(&with, chain(7)), Err(Revoked));
    assert_eq!(verdict(&with, chain(8)), Ok(()));
    // Taken back itself, by whoever is above it.
    for taken_back in [list(&root, 1, &[100]), list(&middle, 2, &[200])] {
        let with = anchors(&[&root]).with_lists(&beside, &[taken_back]).unwrap();
        assert_eq!(verdict(&with, chain(8)), Err(Revoked));
    }
    let no_authority = Ca { der: member(&root, 9), issuer: Ca::new().issuer };
    assert_eq!(refused(&[&root], &[&no_authority], &[]), Some(ListError::Authority));
    // Its list goes with it, unless its root is gone.
    let none = anchors(&[&root]);
    assert_eq!(none.follow(&with), Err(ListError::Older));
    assert_eq!(anchors(&[&Ca::new()]).follow(&with), Ok(()));
}

#[test]
fn a_chain_counts_until_the_first_of_it_or_its_anchor_ends() {
    let ends = |at: [(i32, u8); 3]| {
        let [of_root, of_middle, of_member] = at.map(|(year, month)| date_time_ymd(year, month, 1));
        let mut root = params("authority");
        root.not_after = of_root;
        let root = Ca::with(root);
        let mut middle = params("middle");
        (middle.is_ca, middle.not_after) = (IsCa::Ca(BasicConstraints::Unconstrained), of_middle);
        let issuing = key(Method::EcdsaP256);
        let middle = Ca { der: root.issue(middle.clone(), &issuing), issuer: Issuer::new(middle, issuing) };
        let mut member = params("member");
        member.not_after = of_member;
        let der = middle.issue(member, &key(Method::EcdsaP256));
        let anchors = anchors(&[&root]);
        // What is shown beside and is of no path says nothing.
        let mut idle = params("idle");
        idle.not_after = date_time_ymd(2026, 6, 2);
        let idle = Ca::with(idle);
        let chain = [der.as_slice(), &middle.der, &idle.der];
        let until = anchors.check(&chain, &subject(&der).unwrap(), NOW).unwrap().until;
        assert!(anchors.check(&chain, &subject(&der).unwrap(), until + 1).is_err());
        assert!(anchors.check(&chain, &subject(&der).unwrap(), until).is_ok());
        until
    };
    let july = 1_782_864_000;
    for at in [[(2026, 7), (2027, 1), (2027, 1)], [(2027, 1), (2026, 7), (2027, 1)], [(2027, 1), (2027, 1), (2026, 7)]]
    {
        assert_eq!(ends(at), july, "{at:?}");
    }
}
