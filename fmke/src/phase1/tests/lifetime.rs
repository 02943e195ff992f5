//! What keeps an SA alive, and what ends it.

use std::time::Duration;

use muster_wire::Time;

use super::network::*;
use crate::isakmp::{Chain, exchange, kind};
use crate::phase1::{Closed, Event, Proposals, Refused};

const SECOND: Duration = Duration::from_secs(1);

fn closed(events: &[Event]) -> Vec<Closed> {
    let why = |event: &Event| if let Event::Closed { why, .. } = event { Some(*why) } else { None };
    events.iter().filter_map(why).collect()
}

#[test]
fn a_silent_peer_is_asked_and_answers() {
    let mut network = Network::new(1, Proposals::default(), Proposals::default());
    network.run(19 * SECOND);
    assert_eq!(network.log.len(), 6, "nothing before it is idle");
    network.run(100 * SECOND);
    // Both ask once in 20 s at most; a question is a sign of life, too.
    assert!((8..=22).contains(&network.log.len()), "{}", network.log.len());
    assert_eq!((network.member_events.len(), network.server_events.len()), (1, 1));
    assert_eq!(network.refused, []);
}

#[test]
fn a_peer_that_is_heard_is_not_asked() {
    let mut network = Network::new(1, Proposals::default(), Proposals::default());
    network.run(SECOND);
    let sa = network.common_sa().unwrap();
    for second in 1..100 {
        network.run(second * SECOND);
        network.member.heard(network.now, sa);
        network.server.heard(network.now, sa);
    }
    assert_eq!(network.log.len(), 6);
}

#[test]
fn a_dead_peer_is_found_out_and_begun_anew_with() {
    let mut network = Network::new(1, Proposals::default(), Proposals::default());
    network.run(SECOND);
    network.weather = Box::new(|_, _| vec![]);
    // 20 s of silence, five questions 2 s apart.
    network.run(29 * SECOND);
    assert_eq!((closed(&network.member_events), closed(&network.server_events)), (vec![], vec![]));
    network.run(32 * SECOND);
    assert_eq!(
        (closed(&network.member_events), closed(&network.server_events)),
        (vec![Closed::Dead], vec![Closed::Dead])
    );
    assert_eq!(network.server.sas().count(), 0);
    network.weather = Box::new(|_, _| vec![Duration::from_millis(10)]);
    network.run(60 * SECOND);
    assert!(network.common_sa().is_some());
}

#[test]
fn our_own_question_is_not_taken_for_the_peers() {
    let mut network = Network::new(1, Proposals::default(), Proposals::default());
    network.run(SECOND);
    network.weather = Box::new(|_, _| vec![]);
    network.run(22 * SECOND);
    let questions: Vec<_> = network.log[6..].to_vec();
    assert!(!questions.is_empty());
    for (from, question) in questions {
        let (server, member) = (&mut network.server, &mut network.member);
        let echo = match from == server_address() {
            true => {
                server.handle_datagram(network.now, member_address(1), &question, &network.directory, &mut network.rng)
            }
            false => member.handle_datagram(network.now, server_address(), &question, &(), &mut network.rng),
        };
        assert_eq!(echo.err(), Some(Refused::Replay));
    }
    assert!(network.server.poll_transmit().is_none() && network.member.poll_transmit().is_none());
}

#[test]
fn another_sa_takes_the_place_before_the_lifetime_is_over() {
    let lifetime = Duration::from_secs(1000);
    let proposals = Proposals { lifetime, ..Proposals::default() };
    let mut network = Network::new(1, proposals.clone(), proposals);
    let mut current = None;
    let mut changes = 0;
    for second in 1..5000 {
        network.run(second * SECOND);
        let sa = network.common_sa();
        assert!(sa.is_some(), "at {second} s");
        changes += u32::from(sa != current);
        current = sa;
        assert!(network.server.sas().count() <= 2);
    }
    assert!((5..=7).contains(&changes), "{changes}");
    assert!(closed(&network.member_events).iter().all(|why| *why == Closed::Replaced));
    assert!(closed(&network.server_events).iter().all(|why| *why == Closed::Deleted));
    assert!(!closed(&network.server_events).is_empty());
}

#[test]
fn an_sa_whose_lifetime_is_over_is_gone() {
    let proposals = Proposals { lifetime: Duration::from_secs(100), ..Proposals::default() };
    let mut network = Network::new(1, proposals.clone(), proposals);
    network.run(SECOND);
    let sa = network.common_sa().unwrap();
    // Nothing arrives, but both believe that the other is there.
    network.weather = Box::new(|_, _| vec![]);
    for second in 1..=101 {
        network.run(second * SECOND);
        network.member.heard(network.now, sa);
        network.server.heard(network.now, sa);
    }
    assert_eq!(
        (closed(&network.member_events), closed(&network.server_events)),
        (vec![Closed::Expired], vec![Closed::Expired])
    );
}

#[test]
fn either_end_may_end_it() {
    let mut network = Network::new(1, Proposals::default(), Proposals::default());
    network.run(SECOND);
    let first = network.common_sa().unwrap();
    network.server.close(first, &mut network.rng);
    network.run(20 * SECOND);
    assert_eq!(
        (closed(&network.member_events), closed(&network.server_events)),
        (vec![Closed::Deleted], vec![Closed::Commanded])
    );
    let second = network.common_sa().expect("the member comes again");
    assert_ne!(first, second);
    network.member.close(&mut network.rng);
    network.run(200 * SECOND);
    assert_eq!((network.server.sas().count(), network.member.poll_timeout()), (0, None));
}

#[test]
fn messages_of_other_exchanges_are_decrypted_and_checked_and_go_in_pieces() {
    let mut network = Network::new(1, Proposals::default(), Proposals::default());
    network.run(SECOND);
    let sa = network.common_sa().unwrap();
    for length in [10, 1100, 1200, 5000, 30_000] {
        let body: Vec<u8> = (0..length).map(|octet| octet as u8).collect();
        let mut chain = Chain::new();
        chain.add(kind::KD, &body);
        let server = network.server.sa(sa).unwrap();
        server.add_hash(&[], &mut chain);
        let datagram = server.seal(exchange::UNICAST_PUSH, 77 + length, &chain);
        let before = network.log.len();
        network.server.send(sa, datagram.clone());
        // Any order.
        network.weather = storm(0, 30);
        network.run(network.now.since(Time(0)) + 2 * SECOND);
        let sent = &network.log[before..];
        assert!(sent.iter().all(|(_, bytes)| bytes.len() <= 1200));
        assert_eq!(sent.len(), if datagram.len() <= 1200 { 1 } else { datagram.len().div_ceil(1200 - 36) });
        let message = network.messages.pop().expect("it arrives");
        assert_eq!((message.sa, message.header.exchange), (sa, exchange::UNICAST_PUSH));
        let payloads = message.payloads().unwrap();
        let member = network.member.sa(sa).unwrap();
        let rest = member.check_hash(&[], &payloads).unwrap();
        assert_eq!((rest.len(), rest[0].body), (1, body.as_slice()));
        assert!(member.check_hash(&[1], &payloads).is_err());
        network.messages.clear();
    }
}

#[test]
fn a_piece_that_is_lost_loses_the_message_and_no_more() {
    let mut network = Network::new(1, Proposals::default(), Proposals::default());
    network.run(SECOND);
    let sa = network.common_sa().unwrap();
    let mut chain = Chain::new();
    chain.add(kind::KD, &[5; 4000]);
    let datagram = network.server.sa(sa).unwrap().seal(exchange::UNICAST_PUSH, 9, &chain);
    let mut number = 0;
    network.weather = Box::new(move |_, _| {
        number += 1;
        if number == 2 { vec![] } else { vec![Duration::from_millis(number)] }
    });
    network.server.send(sa, datagram.clone());
    network.run(2 * SECOND);
    assert!(network.messages.is_empty());
    network.server.send(sa, datagram);
    network.run(3 * SECOND);
    assert!(!network.messages.is_empty());
}

#[test]
fn a_member_may_renew_before_it_must() {
    let mut network = Network::new(1, Proposals::default(), Proposals::default());
    network.run(SECOND);
    let first = network.common_sa().unwrap();
    network.member.renew(network.now);
    network.run(2 * SECOND);
    let second = network.common_sa().unwrap();
    assert_ne!(first, second);
    assert!(matches!(network.server_events.last(), Some(Event::Established { began_anew: false, .. })));
    assert!(network.server.sa(first).is_some(), "for what is under way");
    network.run(40 * SECOND);
    assert!(network.server.sa(first).is_none());
}
