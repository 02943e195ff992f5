//! A group by multicast, and what is asked for when something is missing.

use muster_wire::Time;

use super::server::{DOI, GroupServer, traffic};
use crate::isakmp::{HEADER_LEN, Header, Malformed, Range, RekeySa, kek_attribute};
use crate::lkh::LKH_VERSION;
use crate::member::group::{Due, GroupView, Next};
use crate::push::{Push, PushError, SILENCE};

fn view(server: &GroupServer) -> GroupView {
    GroupView::new(Time(0), &server.sa, &server.download, true).unwrap()
}

/// How many messages are handed on.
fn open(server: &mut GroupServer, view: &mut GroupView, now: Time, datagram: &[u8]) -> Result<usize, PushError> {
    let (header, first, body) = Header::parse(datagram)?;
    let message = (&header, &datagram[..HEADER_LEN], first, body);
    view.open(now, message, DOI, &mut server.rng).map(|pushes| pushes.len())
}

/// "Next sequence number used by the GCKS (configuration) : 5 … Nack : 5-5 , Nack : 8-8" (draft 4.2)
#[test]
fn what_is_missing_is_asked_for_and_what_was_here_is_deleted() {
    let mut server = GroupServer::new();
    let mut view = view(&server);
    let datagrams: Vec<Vec<u8>> =
        (5..=9).map(|number| server.seal(number, traffic(300 + number, 36).chain(number, DOI))).collect();
    for number in [6, 7, 9] {
        assert_eq!(open(&mut server, &mut view, Time(0), &datagrams[number - 5]), Ok(0), "{number} waits");
    }
    assert_eq!(open(&mut server, &mut view, Time(0), &datagrams[1]), Err(PushError::Number(6)), "it was here");
    let due = view.timeout();
    let Due::Ask(asked) = view.due(due, &mut server.rng) else { panic!("no negative acknowledgement") };
    let (header, first, body) = Header::parse(&asked).unwrap();
    let missing = [Range { first: 5, last: 5 }, Range { first: 8, last: 8 }];
    assert_eq!(server.keys.open_missing(&header, first, body), Ok(missing.to_vec()));
    assert_eq!(view.source(), server.sa.source, "where it goes");
    assert_eq!(open(&mut server, &mut view, due, &datagrams[0]), Ok(3));
    assert_eq!(open(&mut server, &mut view, due, &datagrams[3]), Ok(2));
    assert_eq!(view.timeout(), due + SILENCE, "nothing is missing");
}

/// "this payload is used to enable reliability" (draft 4.1); nobody can say an old one again.
#[test]
fn the_last_number_tells_what_is_missing_and_is_taken_once() {
    let mut server = GroupServer::new();
    let mut view = view(&server);
    let told = server.told(7, 4);
    assert_eq!(open(&mut server, &mut view, Time(0), &told), Ok(0));
    assert_eq!(view.timeout(), Time(0) + SILENCE, "4 is before all");
    for again in [told, server.told(6, 9)] {
        assert!(matches!(open(&mut server, &mut view, Time(9), &again), Err(PushError::Number(_))));
    }
    let told = server.told(8, 6);
    assert_eq!(open(&mut server, &mut view, Time(9), &told), Ok(0));
    let due = view.timeout();
    let Due::Ask(asked) = view.due(due, &mut server.rng) else { panic!("no negative acknowledgement") };
    let (header, first, body) = Header::parse(&asked).unwrap();
    assert_eq!(server.keys.open_missing(&header, first, body), Ok(vec![Range { first: 5, last: 6 }]));
}

#[test]
fn a_rekey_sa_without_what_it_must_say_is_refused() {
    let server = GroupServer::new();
    let with = |class: u16, value: Option<u32>| {
        GroupView::new(Time(0), &server.with(class, value), &server.download, true).err()
    };
    assert_eq!(with(kek_attribute::LIFETIME, Some(60)), None);
    let classes = [
        kek_attribute::ALGORITHM,
        kek_attribute::KEY_LENGTH,
        kek_attribute::LIFETIME,
        kek_attribute::MANAGEMENT,
        kek_attribute::SIGNATURE,
        kek_attribute::NEXT_SEQUENCE,
        LKH_VERSION,
    ];
    for class in classes {
        assert!(matches!(with(class, None), Some(PushError::Malformed(Malformed::Missing(_)))), "{class}");
        assert!(matches!(with(class, Some(0)), Some(PushError::Malformed(Malformed::Field { .. }))), "{class}");
    }
    // AES with 128 bits is another cipher; and the hash of negative acknowledgements is not mentioned.
    let (field, value) = ("KEK_KEY_LENGTH", 128);
    assert_eq!(with(kek_attribute::KEY_LENGTH, Some(128)), Some(Malformed::Field { field, value }.into()));
    let (field, value) = ("HASH_ALGORITHM", 2);
    assert_eq!(with(kek_attribute::HASH, Some(2)), Some(Malformed::Field { field, value }.into()));
}

/// "the maximum time for which the KEK is valid" (draft 7.7.5): to be heard does not make it longer, the next KEK does.
#[test]
fn a_kek_that_nobody_renews_is_valid_for_its_lifetime() {
    const SECOND: u64 = 1_000_000;
    let mut server = GroupServer::new();
    server.sa = server.with(kek_attribute::LIFETIME, Some(60));
    let mut view = view(&server);
    let told = server.told(7, 4);
    assert_eq!(open(&mut server, &mut view, Time(50 * SECOND), &told), Ok(0));
    assert_eq!(view.timeout(), Time(60 * SECOND));
    assert!(matches!(view.due(Time(60 * SECOND - 1), &mut server.rng), Due::Nothing));
    assert!(matches!(view.due(Time(60 * SECOND), &mut server.rng), Due::Lost));
    let (sa, keys) = server.join();
    assert!(matches!(view.follow(Time(50 * SECOND), &sa, &keys), Ok(Next::Replaced)));
    assert_eq!(view.timeout(), Time(110 * SECOND));
}

/// "In phase 3, there may be zero or one SAK Payload" (draft 7.6.1)
#[test]
fn one_message_of_phase_3_has_one_rekey_sa_at_most() {
    let mut server = GroupServer::new();
    let mut view = view(&server);
    let mut push = Push::default();
    push.add_rekey(server.sa.clone(), vec![]);
    push.add_rekey(RekeySa { spi: [9; 16], ..server.sa.clone() }, vec![]);
    let datagram = server.seal(1, push.chain(5, DOI));
    assert!(matches!(open(&mut server, &mut view, Time(0), &datagram), Err(PushError::Malformed(_))));
    let datagram = server.seal(2, traffic(300, 36).chain(5, DOI));
    assert_eq!(open(&mut server, &mut view, Time(0), &datagram), Ok(1), "its number is still awaited");
}

/// All or nothing is taken of a message: were it refused later, its number would be spent.
#[test]
fn a_key_of_another_length_is_refused_in_phase_3() {
    let mut server = GroupServer::new();
    let mut view = view(&server);
    let datagram = server.seal(1, traffic(300, 35).chain(5, DOI));
    assert!(matches!(open(&mut server, &mut view, Time(0), &datagram), Err(PushError::Malformed(_))));
    let datagram = server.seal(2, traffic(300, 36).chain(5, DOI));
    assert_eq!(open(&mut server, &mut view, Time(0), &datagram), Ok(1));
}
