//! Every suite, and what is refused.

use std::time::Duration;

use super::network::*;
use crate::crypto::dh::Group;
use crate::crypto::{Cipher, HashAlgorithm};
use crate::isakmp::{Attribute, Transform, phase1_attribute as class};
use crate::phase1::{Proposals, Refused};

fn only(group: Group, hash: HashAlgorithm, cipher: Cipher, legacy: bool) -> Proposals {
    Proposals { groups: vec![group], hashes: vec![hash], ciphers: vec![cipher], legacy, ..Proposals::default() }
}

/// Every group with every hash or cipher at least once.
fn suites() -> impl Iterator<Item = (Group, HashAlgorithm, Cipher)> {
    let groups = Group::ALL.into_iter().map(|group| (group, HashAlgorithm::Sha256, Cipher::Aes256));
    let hashes = HashAlgorithm::ALL.into_iter().map(|hash| (Group::Curve25519, hash, Cipher::Aes256));
    let ciphers = Cipher::ALL.into_iter().map(|cipher| (Group::Curve25519, HashAlgorithm::Md5, cipher));
    groups.chain(hashes).chain(ciphers)
}

#[test]
fn every_suite_works_where_it_is_allowed() {
    for (group, hash, cipher) in suites() {
        let proposals = only(group, hash, cipher, true);
        let mut network = Network::new(7, proposals.clone(), proposals);
        network.run(Duration::from_secs(1));
        assert!(network.common_sa().is_some(), "{group:?} {hash:?} {cipher:?}");
    }
}

#[test]
fn what_is_weak_is_neither_offered_nor_accepted() {
    for (group, hash, cipher) in suites() {
        let weak = group.is_legacy() || hash.is_legacy() || cipher != Cipher::Aes256;
        let strict = only(group, hash, cipher, false);
        assert_eq!(strict.suites().count(), usize::from(!weak), "{group:?} {hash:?} {cipher:?}");
        let mut network = Network::new(7, only(group, hash, cipher, true), strict);
        network.run(Duration::from_secs(1));
        assert_eq!(network.common_sa().is_some(), !weak, "{group:?} {hash:?} {cipher:?}");
        if weak {
            assert_eq!(network.refused, [Refused::NoProposal]);
            assert_eq!(network.log.len(), 1, "and nothing is answered");
        }
    }
}

/// RFC 2409 Appendix A: "Attributes described as basic MUST NOT be encoded as variable. Variable length attributes MAY be encoded as
/// basic attributes if their value can fit into two octets."
#[test]
fn a_basic_attribute_is_not_variable() {
    use class::{AUTHENTICATION, ENCRYPTION, GROUP, HASH, KEY_LENGTH, LIFE_DURATION, LIFE_TYPE};

    let proposals = Proposals::default();
    let offer = proposals.offer(DOI);
    let (_, offered) = Transform::offer(&offer).unwrap();
    let list = offered[0].attributes().unwrap();
    let is_chosen = |change: &dyn Fn(&Attribute<'_>) -> Option<Attribute<'static>>| {
        let mut attributes = Vec::new();
        list.iter().for_each(|attribute| change(attribute).as_ref().unwrap_or(attribute).write(&mut attributes));
        proposals.choose(&[Transform { attributes: &attributes, ..offered[0] }], |_| true).is_some()
    };
    assert!(is_chosen(&|_| None));
    for class in [ENCRYPTION, HASH, AUTHENTICATION, GROUP, LIFE_TYPE, KEY_LENGTH] {
        let variable = |attribute: &Attribute<'_>| {
            let number = attribute.to_number().unwrap();
            (attribute.class == class).then(|| Attribute::number(class, number))
        };
        assert!(!is_chosen(&variable), "{class}");
    }
    let basic =
        |attribute: &Attribute<'_>| (attribute.class == LIFE_DURATION).then(|| Attribute::basic(LIFE_DURATION, 3600));
    assert!(is_chosen(&basic));
}

#[test]
fn the_server_prefers_and_the_shorter_lifetime_holds() {
    let member = Proposals { lifetime: Duration::from_secs(7200), ..Proposals::default() };
    let server = Proposals {
        groups: vec![Group::Modp2048, Group::P256],
        hashes: vec![HashAlgorithm::Sha512, HashAlgorithm::Sha256],
        lifetime: Duration::from_secs(3600),
        ..Proposals::default()
    };
    let mut network = Network::new(7, member, server);
    network.run(Duration::from_secs(1));
    let suite = network.member.current().unwrap().suite();
    assert_eq!((suite.group, suite.hash), (Group::Modp2048, HashAlgorithm::Sha512));
    let sa = network.common_sa().unwrap();
    let theirs = network.server.sa(sa).unwrap();
    assert_eq!(theirs.expires().0 / 1_000_000, 3600);
}
