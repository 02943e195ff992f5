//! What strangers can take up.

use std::time::Duration;

use muster_wire::Time;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::network::*;
use crate::isakmp::{Cookie, Header, exchange, kind};
use crate::phase1::main_mode::{opening, read_opening};
use crate::phase1::sa::Features;
use crate::phase1::{Limits, Proposals, Rate, Refused};

/// Message 1 as `proposals` have it, under a cookie of its own.
fn first(proposals: &Proposals, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut member = initiator(proposals.clone(), 1, Time(0));
    member.handle_timeout(Time(0), rng);
    member.poll_transmit().unwrap().bytes
}

#[test]
fn a_flood_of_first_messages_takes_no_more_than_its_share_and_no_computation() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let none = Rate { per_second: 0, burst: 0 };
    let limits = Limits { exchanges: 100, exchanges_of_address: 16, computations: none, computations_of_address: none };
    let mut server = responder(Proposals::default(), limits, &mut rng);
    let directory = Directory::of(50);
    for round in 0..2_000_u32 {
        let from = member_address(1 + (round % 50) as u8);
        let message = first(&Proposals::default(), &mut rng);
        server.handle_datagram(Time(u64::from(round)), from, &message, &directory, &mut rng).unwrap();
        let answer = server.poll_transmit().expect("an answer");
        assert!(answer.to == from && answer.bytes.len() <= message.len(), "no more than was asked");
        assert!(server.poll_transmit().is_none());
        assert!(server.exchanges() <= 100);
    }
    server.handle_timeout(Time(200_000_000), &mut rng);
    assert_eq!((server.exchanges(), server.poll_timeout()), (0, None));
}

#[test]
fn a_flood_with_a_members_address_does_not_shut_it_out() {
    let mut network = Network::new(5, Proposals::default(), Proposals::default());
    network.run(Duration::from_secs(1));
    assert!(network.common_sa().is_some(), "so that its words are familiar");
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    network.member = initiator(Proposals::default(), 1, network.now);
    // Between any two datagrams of the member and the server come so many with a forged address.
    let mut before = network.log.len();
    for step in 0..100_u32 {
        network.run(Duration::from_secs(1) + step * Duration::from_millis(5));
        for _ in 0..50 {
            let forged = first(&Proposals::default(), &mut rng);
            network
                .server
                .handle_datagram(network.now, member_address(1), &forged, &network.directory, &mut rng)
                .unwrap();
            while network.server.poll_transmit().is_some() {}
        }
        before = before.max(network.log.len());
    }
    assert!(network.common_sa().is_some());
    assert_eq!(before, 12, "without a single repetition");
}

#[test]
fn diffie_hellman_takes_our_cookie_and_has_a_budget() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    // Of the last 125 there is none.
    let limits = Limits { computations: Rate { per_second: 1, burst: 3 + 124 }, ..Limits::default() };
    let mut server = responder(Proposals::default(), limits, &mut rng);
    let directory = Directory::of(50);
    let mut results = Vec::new();
    for number in 1..=10 {
        let mut member = initiator(Proposals::default(), number, Time(0));
        member.handle_timeout(Time(0), &mut rng);
        let message_1 = member.poll_transmit().unwrap().bytes;
        server.handle_datagram(Time(0), member_address(number), &message_1, &directory, &mut rng).unwrap();
        let message_2 = server.poll_transmit().unwrap().bytes;
        member.handle_datagram(Time(0), server_address(), &message_2, &(), &mut rng).unwrap();
        let message_3 = member.poll_transmit().unwrap().bytes;
        // Another cookie, another address: no computation.
        let mut other = message_3.clone();
        other[8..16].fill(7);
        let unknown = server.handle_datagram(Time(0), member_address(number), &other, &directory, &mut rng);
        assert_eq!(unknown.err(), Some(Refused::UnknownSa));
        let elsewhere = server.handle_datagram(Time(0), member_address(number + 20), &message_3, &directory, &mut rng);
        assert_eq!(elsewhere.err(), Some(Refused::UnknownSa));
        results.push(server.handle_datagram(Time(0), member_address(number), &message_3, &directory, &mut rng).err());
        // The same again costs none of it.
        if results.last() == Some(&None) {
            let message_4 = server.poll_transmit().unwrap();
            for _ in 0..20 {
                server.handle_datagram(Time(0), member_address(number), &message_3, &directory, &mut rng).unwrap();
                assert_eq!(server.poll_transmit(), Some(message_4.clone()));
            }
        }
    }
    assert_eq!(results[..3], [None; 3]);
    assert_eq!(results[3..], [Some(Refused::Busy); 7]);
}

/// Thousands that come at once, and whoever has come in: each takes a place among exchanges for as long as it needs it, so that none
/// of the others goes, and who lost the last message gets it again.
#[test]
fn who_has_come_in_neither_takes_a_place_nor_loses_one() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let limits = Limits { exchanges: 4, ..Limits::default() };
    let mut server = responder(Proposals::default(), limits, &mut rng);
    let directory = Directory::of(50);
    let mut said = Vec::new();
    for number in 1..=50 {
        let mut member = initiator(Proposals::default(), number, Time(0));
        member.handle_timeout(Time(0), &mut rng);
        let mut turn = || {
            let message = member.poll_transmit().unwrap().bytes;
            server.handle_datagram(Time(0), member_address(number), &message, &directory, &mut rng).unwrap();
            let answer = server.poll_transmit().unwrap();
            member.handle_datagram(Time(0), server_address(), &answer.bytes, &(), &mut rng).unwrap();
            (message, answer)
        };
        turn();
        turn();
        said.push(turn());
        assert_eq!(server.exchanges(), 0);
    }
    assert_eq!(server.sas().count(), 50);
    for (number, (message_5, message_6)) in (1..).zip(&said) {
        server.handle_datagram(Time(59_000_000), member_address(number), message_5, &directory, &mut rng).unwrap();
        assert_eq!(server.poll_transmit().as_ref(), Some(message_6));
        let elsewhere =
            server.handle_datagram(Time(0), member_address(number % 50 + 1), message_5, &directory, &mut rng);
        assert!(elsewhere.is_err() && server.poll_transmit().is_none());
    }
    server.handle_timeout(Time(60_000_000), &mut rng);
    while server.poll_transmit().is_some() {}
    let (message_5, _) = &said[0];
    let late = server.handle_datagram(Time(60_000_000), member_address(1), message_5, &directory, &mut rng);
    assert_eq!(late.err(), Some(Refused::OutOfPlace));
    assert_eq!(server.sas().count(), 50);
}

/// Nor one whom nobody asks whether it is still there, so that its SA is looked at only when its lifetime is over.
#[test]
fn who_comes_again_and_again_leaves_nothing_behind() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut server = responder(Proposals::default(), Limits::default(), &mut rng);
    let directory = Directory::of(1);
    for _ in 0..100 {
        let mut member = initiator(Proposals::default(), 1, Time(0));
        member.handle_timeout(Time(0), &mut rng);
        for message in 0..3 {
            let mut bytes = member.poll_transmit().unwrap().bytes;
            if message == 0 {
                let (header, first, body) = Header::parse(&bytes).unwrap();
                let without = opening(&read_opening(first, body).unwrap().offer, Features::default());
                bytes = header.write(without.first(), without.bytes());
            }
            server.handle_datagram(Time(0), member_address(1), &bytes, &directory, &mut rng).unwrap();
            // The last ones are farewells to those before.
            let answer = server.poll_transmit().unwrap();
            member.handle_datagram(Time(0), server_address(), &answer.bytes, &(), &mut rng).unwrap();
        }
        while server.poll_transmit().is_some() {}
        assert!(server.sas().count() <= 2 && server.timers() == server.sas().count());
    }
}

#[test]
fn noise_is_refused() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut server = responder(Proposals::default(), Limits::default(), &mut rng);
    let mut member = initiator(Proposals::default(), 1, Time(0));
    let directory = Directory::of(1);
    for round in 0..20_000_u32 {
        let header = Header {
            initiator: Cookie(rng.next_u64().to_be_bytes()),
            responder: Cookie(if round % 2 == 0 { [0; 8] } else { rng.next_u64().to_be_bytes() }),
            exchange: [exchange::MAIN, exchange::INFORMATIONAL, exchange::UNICAST_PUSH][round as usize % 3],
            flags: (round / 7 % 2) as u8,
            message_id: round % 2,
        };
        let mut body = vec![0; (rng.next_u32() % 100) as usize];
        rng.fill_bytes(&mut body);
        let first = [kind::SA, kind::KE, kind::HASH, kind::FRAGMENT, kind::ID][round as usize % 5];
        let datagram = header.write(first, &body);
        assert!(server.handle_datagram(Time(0), member_address(1), &datagram, &directory, &mut rng).is_err());
        assert!(member.handle_datagram(Time(0), server_address(), &datagram, &(), &mut rng).is_err());
    }
    assert_eq!((server.exchanges(), server.poll_transmit(), server.poll_event()), (0, None, None));
}
