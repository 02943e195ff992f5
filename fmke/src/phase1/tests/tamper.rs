//! A changed octet anywhere.

use std::time::Duration;

use muster_wire::Time;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::network::*;
use crate::crypto::{Cipher, HashAlgorithm};
use crate::isakmp::HEADER_LEN;
use crate::phase1::{Event, Initiator, Limits, Proposals, Refused, Responder};

/// Every octet of every message once, its first transmission only: the repetition is whole, and both come together or not at
/// all, under the same keys.
#[test]
fn no_changed_octet_makes_keys_that_differ_or_an_identity_that_is_not_there() {
    let mut lengths = Network::new(1, Proposals::default(), Proposals::default());
    lengths.run(Duration::from_secs(1));
    let lengths: Vec<usize> = lengths.log.iter().map(|(_, bytes)| bytes.len()).collect();
    for (place, length) in lengths.iter().enumerate() {
        for octet in 0..*length {
            let mut network = Network::new(1, Proposals::default(), Proposals::default());
            let (mut number, change) = (0, 1 << (octet % 8));
            network.weather = Box::new(move |_, datagram| {
                if number == place {
                    datagram.bytes[octet] ^= change;
                }
                number += 1;
                vec![Duration::from_millis(10)]
            });
            network.run(Duration::from_secs(1));
            let established = |events: &[Event]| events.iter().any(|event| matches!(event, Event::Established { .. }));
            let (member, server) = (established(&network.member_events), established(&network.server_events));
            let at = format!("message {} octet {octet}", place + 1);
            if member {
                assert!(network.common_sa().is_some(), "{at}");
            }
            // Of message 5 only padding and what nobody reads may change, of message 6 nothing concerns the server.
            assert!(!server || member || place >= 4, "{at}");
            network.weather = Box::new(|_, _| vec![Duration::from_millis(10)]);
            network.run(Duration::from_secs(200));
            assert!(network.common_sa().is_some(), "{at}: nobody is shut out");
        }
    }
}

/// With blocks of 8 octets one of message 5 holds just what the notification is and whom it is of. Garbled, it must not be a
/// message without INITIAL-CONTACT: the server would let the member send under the keys that it sent under before.
#[test]
fn who_garbles_initial_contact_does_not_make_it_go_away() {
    let mut proposals = Proposals { legacy: true, ..Proposals::default() };
    (proposals.ciphers, proposals.hashes) = (vec![Cipher::TripleDes], vec![HashAlgorithm::Sha1]);
    let mut network = Network::new(1, proposals.clone(), proposals);
    let mut number = 0;
    network.weather = Box::new(move |_, datagram| {
        number += 1;
        if number == 5 {
            // After the identity's 12 octets, the hash's 24, and the notification's header of 4.
            datagram.bytes[HEADER_LEN + 40] ^= 1;
        }
        vec![Duration::from_millis(10)]
    });
    network.run(Duration::from_secs(10));
    assert_eq!(network.refused, [Refused::Authentication]);
    let anew = |event: &Event| matches!(event, Event::Established { began_anew: true, .. });
    assert!(network.server_events.len() == 1 && network.server_events.iter().all(anew), "{:?}", network.server_events);
}

/// Who sees the cookies can send what looks like the next message. What cannot be read is refused, however often, and the true
/// one is still taken.
#[test]
fn forged_messages_under_true_cookies_change_nothing() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let directory = Directory::of(1);
    let mut server = responder(Proposals::default(), Limits::default(), &mut rng);
    let mut member = initiator(Proposals::default(), 1, Time(0));
    member.handle_timeout(Time(0), &mut rng);
    for number in 1..=6 {
        let to_server = number % 2 == 1;
        let sent = if to_server { member.poll_transmit() } else { server.poll_transmit() };
        let datagram = sent.unwrap().bytes;
        let deliver =
            |datagram: &[u8], rng: &mut ChaCha8Rng, server: &mut Responder, member: &mut Initiator| match to_server {
                true => server.handle_datagram(Time(0), member_address(1), datagram, &directory, rng).err(),
                false => member.handle_datagram(Time(0), server_address(), datagram, &(), rng).err(),
            };
        for _ in 0..200 {
            let mut forged = datagram.clone();
            rng.fill_bytes(&mut forged[HEADER_LEN..]);
            let refused = deliver(&forged, &mut rng, &mut server, &mut member);
            assert!(refused.is_some(), "message {number}");
        }
        assert!(server.poll_transmit().is_none() && member.poll_transmit().is_none(), "nothing is answered");
        assert_eq!(deliver(&datagram, &mut rng, &mut server, &mut member), None, "message {number}");
    }
    assert!(member.current().is_some_and(|sa| server.sa(sa.id()).is_some()));
}
