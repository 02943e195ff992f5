//! Exchanges that come to an end, and what spoils them.

use std::time::Duration;

use muster_wire::Time;
use proptest::prelude::*;

use super::network::*;
use crate::isakmp::Identity;
use crate::phase1::{Closed, Credentials, Event, Failed, Initiator, Liveness, Proposals, Refused, Server};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn six_messages_and_both_have_the_same_keys() {
    let mut network = Network::new(1, Proposals::default(), Proposals::default());
    network.run(SECOND);
    let sa = network.common_sa().expect("an SA");
    assert_eq!(network.log.len(), 6);
    assert_eq!(network.refused, []);
    let peer = Identity::Address(server_address().ip());
    assert_eq!(
        network.member_events,
        [Event::Established { sa, peer, address: server_address(), certificates: None, began_anew: true }]
    );
    let peer = Identity::Address(member_address(1).ip());
    assert_eq!(
        network.server_events,
        [Event::Established { sa, peer, address: member_address(1), certificates: None, began_anew: true }]
    );
}

#[test]
fn every_message_but_one_is_sent_again_until_it_is_answered() {
    for lost in 0..6 {
        let mut network = Network::new(1, Proposals::default(), Proposals::default());
        let mut number = 0;
        network.weather = Box::new(move |_, _| {
            number += 1;
            if number == lost + 1 { vec![] } else { vec![Duration::from_millis(10)] }
        });
        network.run(3 * SECOND);
        assert!(network.common_sa().is_some(), "message {} lost", lost + 1);
        // The lost one, or the one that asked for it, and what came of it.
        assert_eq!(network.log.len(), if lost % 2 == 0 { 7 } else { 8 }, "message {} lost", lost + 1);
        let unique: std::collections::BTreeSet<_> = network.log.iter().collect();
        assert_eq!(unique.len(), 6, "what is sent again is the same, octet by octet");
    }
}

#[test]
fn a_message_that_comes_twice_changes_nothing() {
    let mut network = Network::new(1, Proposals::default(), Proposals::default());
    network.weather = Box::new(|_, _| vec![Duration::from_millis(10), Duration::from_millis(15)]);
    network.run(SECOND);
    assert!(network.common_sa().is_some());
    assert_eq!((network.member_events.len(), network.server_events.len()), (1, 1));
}

#[test]
fn no_answer_is_waited_for_so_long_and_then_begun_again() {
    let mut network = Network::new(1, Proposals::default(), Proposals::default());
    network.weather = Box::new(|_, _| vec![]);
    network.run(62 * SECOND - Duration::from_micros(1));
    assert_eq!((network.log.len(), network.member_events.len()), (5, 0));
    network.run(62 * SECOND);
    assert_eq!(network.member_events, [Event::Failed(Failed::Silent)]);
    network.run(73 * SECOND);
    assert!(network.log.len() > 5, "within ten seconds");
    let first = |place: usize| &network.log[place].1[..8];
    assert_ne!(first(0), first(5), "another cookie");
    network.weather = Box::new(|_, _| vec![Duration::from_millis(300)]);
    network.run(140 * SECOND);
    assert!(network.common_sa().is_some());
}

#[test]
fn another_secret_is_no_sa_at_either_end() {
    let mut network = Network::new(1, Proposals::default(), Proposals::default());
    network.directory.0.insert(member_address(1).ip(), secret(2));
    network.run(100 * SECOND);
    assert_eq!(network.member_events, [Event::Failed(Failed::NotTaken)]);
    assert_eq!(network.server_events, []);
    assert!(network.refused.iter().all(|refused| *refused == Refused::Authentication));
}

#[test]
fn with_a_secret_a_member_is_whoever_is_expected_at_its_address() {
    let mut network = Network::new(1, Proposals::default(), Proposals::default());
    network.member = {
        let server = Server { address: server_address(), secret: Some(secret(1)), identity: None };
        let own = Credentials { identity: Identity::Address(member_address(2).ip()), certificates: Vec::new() };
        Initiator::new(DOI, Proposals::default(), own, server, Liveness::default(), Time(0))
    };
    network.run(50 * SECOND);
    assert_eq!((network.server_events.len(), network.member_events.len()), (0, 0));
    assert!(network.refused.contains(&Refused::Identity), "{:?}", network.refused);
}

#[test]
fn another_doi_is_not_answered() {
    let mut network = Network::new(1, Proposals::default(), Proposals::default());
    let server = Server { address: server_address(), secret: Some(secret(1)), identity: None };
    network.member =
        Initiator::new(1, Proposals::default(), own(member_address(1)), server, Liveness::default(), Time(0));
    network.run(SECOND);
    assert_eq!((network.log.len(), network.refused.as_slice()), (1, [Refused::NoProposal].as_slice()));
    network.run(62 * SECOND);
    assert_eq!(network.member_events, [Event::Failed(Failed::Silent)]);
}

#[test]
fn a_member_that_begins_anew_ends_what_was_before() {
    let mut network = Network::new(1, Proposals::default(), Proposals::default());
    network.run(SECOND);
    let first = network.common_sa().unwrap();
    network.member = initiator(Proposals::default(), 1, network.now);
    network.run(2 * SECOND);
    let second = network.common_sa().unwrap();
    assert_ne!(first, second);
    assert_eq!(network.server.sas().count(), 1);
    let peer = Identity::Address(member_address(1).ip());
    assert!(network.server_events.contains(&Event::Closed { sa: first, peer, why: Closed::Restarted }));
}

#[test]
fn whoever_is_unknown_hears_nothing() {
    let mut network = Network::new(1, Proposals::default(), Proposals::default());
    network.directory.0.remove(&member_address(1).ip());
    network.run(10 * SECOND);
    assert!(network.log.iter().all(|(from, _)| *from == member_address(1)));
    assert!(network.refused.iter().all(|refused| *refused == Refused::UnknownAddress));
}

#[test]
fn a_client_with_its_keys_takes_under_half_a_kibibyte() {
    let mut network = Network::new(1, Proposals::default(), Proposals::default());
    network.run(SECOND);
    let sa = network.member.current().unwrap();
    // SKEYID, _d, _a, the cipher's key, its first initialisation vector, the last block.
    let hash = sa.suite().hash.output_len();
    let heap = 3 * hash + sa.suite().cipher.key_len() + 2 * sa.suite().cipher.block_len();
    assert!(matches!(sa.peer(), Identity::Address(_)), "which takes nothing more");
    let taken = std::mem::size_of::<crate::phase1::session::Session>() + heap;
    assert!(taken <= 500, "{taken}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Loss of up to a half, doubling, delay past the repetition, any order: in the end both have the same SA, and nobody is
    /// told anything that is not so.
    #[test]
    fn any_weather_ends_in_an_sa(seed: u64, loss in 0_u32..50, double in 0_u32..60) {
        let mut network = Network::new(seed, Proposals::default(), Proposals::default());
        network.weather = storm(loss, double);
        for minutes in 1..30 {
            network.run(minutes * 60 * SECOND);
            if network.common_sa().is_some() {
                break;
            }
        }
        prop_assert!(network.common_sa().is_some());
        prop_assert!(network.server.sas().count() <= 2);
    }
}

/// Another secret counts from now on: who knew the one before does not finish what it began with that.
#[test]
fn what_was_begun_before_another_came_is_void() {
    let round_trips = |abandoned: bool| {
        let mut network = Network::new(5, Proposals::default(), Proposals::default());
        // Messages 1 to 4, of which each takes 10 ms; 5 is on its way.
        network.run(Duration::from_millis(45));
        assert!(network.common_sa().is_none() && network.server.exchanges() > 0);
        if abandoned {
            network.server.abandon(member_address(1).ip());
            assert_eq!(network.server.exchanges(), 0);
        }
        network.run(Duration::from_millis(200));
        (network.common_sa().is_some(), network.refused)
    };
    assert_eq!(round_trips(false), (true, vec![]));
    let (is_established, refused) = round_trips(true);
    assert!(!is_established && !refused.is_empty(), "{refused:?}");
}
