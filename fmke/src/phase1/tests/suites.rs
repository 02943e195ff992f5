//! Every suite, and what is refused.

use std::time::Duration;

use super::network::*;
use crate::crypto::dh::Group;
use crate::crypto::{Cipher, HashAlgorithm};
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
