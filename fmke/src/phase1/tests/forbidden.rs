//! What may not be in a message that is otherwise good.

use muster_wire::Time;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use super::network::*;
use crate::crypto::HashAlgorithm;
use crate::crypto::dh::Group;
use crate::isakmp::{
    Chain, Cookie, Delete, HEADER_LEN, Header, Malformed, Notify, exchange, flags, kind, notification, payloads,
};
use crate::phase1::{Event, Failed, Initiator, Limits, Proposals, Refused, Responder, SaId};

/// Both ends in the middle of an exchange.
struct Scene {
    rng: ChaCha8Rng,
    directory: Directory,
    server: Responder,
    member: Initiator,
}

impl Scene {
    /// The messages before this one have arrived; and this one, which has not.
    fn before(number: usize, proposals: Proposals) -> (Self, Vec<u8>) {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let server = responder(Proposals::default(), Limits::default(), &mut rng);
        let member = initiator(proposals, 1, Time(0));
        let mut scene = Scene { rng, directory: Directory::of(1), server, member };
        scene.member.handle_timeout(Time(0), &mut scene.rng);
        for before in 1..number {
            let datagram = scene.sent(before);
            assert_eq!(scene.deliver(before, &datagram), None);
        }
        let datagram = scene.sent(number);
        (scene, datagram)
    }

    fn sent(&mut self, number: usize) -> Vec<u8> {
        let sent = if number % 2 == 1 { self.member.poll_transmit() } else { self.server.poll_transmit() };
        sent.expect("a message").bytes
    }

    fn deliver(&mut self, number: usize, datagram: &[u8]) -> Option<Refused> {
        let Scene { rng, directory, server, member } = self;
        match number % 2 {
            1 => server.handle_datagram(Time(0), member_address(1), datagram, &*directory, rng).err(),
            _ => member.handle_datagram(Time(0), server_address(), datagram, &(), rng).err(),
        }
    }

    /// It is refused, unanswered.
    fn refuses(&mut self, number: usize, datagram: &[u8], what: &str) -> Refused {
        let refused = self.deliver(number, datagram);
        assert!(self.server.poll_transmit().is_none() && self.member.poll_transmit().is_none(), "{what}: an answer");
        refused.unwrap_or_else(|| panic!("message {number} with {what} is taken"))
    }
}

fn malformed(field: &'static str, value: u32) -> Refused {
    Refused::Malformed(Malformed::Field { field, value })
}

/// The same message of other payloads.
fn rebuilt(datagram: &[u8], change: impl Fn(u8, &[u8]) -> Vec<(u8, Vec<u8>)>) -> Vec<u8> {
    let (header, first, body) = Header::parse(datagram).unwrap();
    let mut chain = Chain::new();
    for raw in payloads(first, body, false).unwrap() {
        for (kind, body) in change(raw.kind, raw.body) {
            chain.add(kind, &body);
        }
    }
    header.write(chain.first(), chain.bytes())
}

/// "During Phase 1 negotiations, the value MUST be set to 0" of the message id; cookies are not zero; only one exchange is main mode;
/// encryption from message 5 on, and no other flag.
#[test]
fn headers_of_main_mode() {
    type Change = fn(&mut Header);
    let changes: [(&str, Change); 9] = [
        ("a message id", |header| header.message_id = 1),
        ("the commit bit", |header| header.flags |= 2),
        ("authentication only", |header| header.flags |= 4),
        ("encryption where none is, or none where it is", |header| header.flags ^= flags::ENCRYPTION),
        ("no initiator cookie", |header| header.initiator = Cookie::default()),
        ("base exchange", |header| header.exchange = 1),
        ("aggressive mode", |header| header.exchange = 4),
        ("an informational exchange", |header| header.exchange = exchange::INFORMATIONAL),
        ("quick mode", |header| header.exchange = 32),
    ];
    for number in 1..=6 {
        let (mut scene, datagram) = Scene::before(number, Proposals::default());
        for (what, change) in changes {
            let (mut header, first, body) = Header::parse(&datagram).unwrap();
            change(&mut header);
            scene.refuses(number, &header.write(first, body), what);
        }
        if number > 1 {
            let (mut header, first, body) = Header::parse(&datagram).unwrap();
            header.responder = Cookie::default();
            scene.refuses(number, &header.write(first, body), "no responder cookie");
        }
        assert_eq!(scene.deliver(number, &datagram), None, "message {number}: the true one is still taken");
    }
}

/// RFC 2409 5: "The length of nonce payload MUST be between 8 and 256 bytes inclusive."
#[test]
fn nonces_have_8_to_256_octets() {
    let with = |datagram: &[u8], len: usize| {
        rebuilt(datagram, |kind, body| vec![(kind, if kind == kind::NONCE { vec![7; len] } else { body.to_vec() })])
    };
    for number in [3, 4] {
        for (len, is_taken) in [(0, false), (7, false), (8, true), (256, true), (257, false)] {
            let (mut scene, datagram) = Scene::before(number, Proposals::default());
            let changed = with(&datagram, len);
            match is_taken {
                true => assert_eq!(scene.deliver(number, &changed), None, "{len}"),
                false => {
                    assert_eq!(scene.refuses(number, &changed, "a nonce"), malformed("nonce of length", len as u32))
                }
            }
        }
    }
}

#[test]
fn payloads_of_main_mode() {
    for number in 1..=4 {
        let (mut scene, datagram) = Scene::before(number, Proposals::default());
        let (_, main, _) = Header::parse(&datagram).unwrap();
        // Reserved, NAT traversal's, a delete, private use; and what is there already.
        for kind in [14, 20, kind::DELETE, kind::NOTIFY, 127, 200, main] {
            let changed = rebuilt(&datagram, |own, body| {
                let more = (own == main).then(|| (kind, body.to_vec()));
                std::iter::once((own, body.to_vec())).chain(more).collect()
            });
            assert_eq!(scene.refuses(number, &changed, "a payload"), malformed("Next Payload", kind.into()));
        }
        let without = rebuilt(&datagram, |own, body| if own == main { vec![] } else { vec![(own, body.to_vec())] });
        scene.refuses(number, &without, "no SA or no KE");
        let mut reserved = datagram.clone();
        reserved[HEADER_LEN + 1] = 1;
        assert_eq!(scene.refuses(number, &reserved, "a reserved octet"), malformed("RESERVED", 1));
        // "vendor ids" that nobody knows are passed over.
        let vendor = rebuilt(&datagram, |own, body| {
            let more = (own == main).then(|| (kind::VENDOR, b"of another house".to_vec()));
            std::iter::once((own, body.to_vec())).chain(more).collect()
        });
        assert_eq!(scene.deliver(number, &vendor), None, "message {number}");
    }
}

/// RFC 2409 5: "the SA payload … MUST precede all other payloads in a phase 1 exchange"
#[test]
fn the_sa_payload_is_first() {
    for number in [1, 2] {
        let (mut scene, datagram) = Scene::before(number, Proposals::default());
        let late = rebuilt(&datagram, |own, body| match own {
            kind::SA => vec![(kind::VENDOR, vec![1; 16]), (own, body.to_vec())],
            _ => vec![(own, body.to_vec())],
        });
        assert_eq!(scene.refuses(number, &late, "a late SA"), malformed("Next Payload", kind::VENDOR.into()));
    }
}

#[test]
fn a_key_has_the_length_of_its_group() {
    for number in [3, 4] {
        let (mut scene, datagram) = Scene::before(number, Proposals::default());
        for len in [0, 31, 33, 64] {
            let changed = rebuilt(&datagram, |kind, body| {
                vec![(kind, if kind == kind::KE { vec![9; len] } else { body.to_vec() })]
            });
            assert_eq!(scene.refuses(number, &changed, "a key"), Refused::Key);
        }
    }
}

/// "the initiator MUST verify that the Security Association payload received from the responder matches one of the proposals sent
/// initially" (RFC 2408 4.2); and the DOI "MUST correspond to the DOI which defines the FMKE exchanges" (draft 2.0).
#[test]
fn what_was_not_offered_cannot_be_chosen() {
    let offered = Proposals { groups: vec![Group::P256], ..Proposals::default() };
    let (mut scene, datagram) = Scene::before(2, offered.clone());
    let answer = |proposals: &Proposals, doi: u32| {
        let body = proposals.offer(doi);
        rebuilt(&datagram, |own, old| vec![(own, if own == kind::SA { body.clone() } else { old.to_vec() })])
    };
    let one = |group| Proposals { groups: vec![group], hashes: vec![HashAlgorithm::Sha256], ..Proposals::default() };
    let legacy = Proposals { legacy: true, ..one(Group::Modp1024) };
    for (what, changed) in [
        ("another group", answer(&one(Group::Curve25519), DOI)),
        ("a weak group", answer(&legacy, DOI)),
        ("two transforms", answer(&Proposals { hashes: offered.hashes[..2].to_vec(), ..offered.clone() }, DOI)),
        ("another DOI", answer(&one(Group::P256), 1)),
    ] {
        assert_eq!(scene.refuses(2, &changed, what), Refused::NoProposal, "{what}");
    }
    assert_eq!(scene.deliver(2, &answer(&one(Group::P256), DOI)), None);
}

/// Whoever sees the cookies can say anything in clear.
#[test]
fn what_is_said_in_clear_ends_nothing() {
    for number in 2..=6 {
        let (mut scene, datagram) = Scene::before(number, Proposals::default());
        let (header, ..) = Header::parse(&datagram).unwrap();
        let spi = SaId::of(&header).octets();
        let of = |kind| Notify { doi: DOI, protocol: 1, spi: &spi, kind, data: &[] }.to_body();
        let delete = Delete { doi: DOI, protocol: 1, spis: vec![spi.to_vec()] }.to_body();
        for (kind, body) in [
            (kind::NOTIFY, of(notification::NO_PROPOSAL_CHOSEN)),
            (kind::NOTIFY, of(notification::AUTHENTICATION_FAILED)),
            (kind::NOTIFY, of(notification::INITIAL_CONTACT)),
            (kind::DELETE, delete),
        ] {
            let mut chain = Chain::new();
            chain.add(kind, &body);
            for message_id in [0, 9] {
                let header = Header { exchange: exchange::INFORMATIONAL, flags: 0, message_id, ..header };
                let datagram = header.write(chain.first(), chain.bytes());
                // To either end.
                let at_server = scene.refuses(1, &datagram, "a notice");
                assert!(matches!(at_server, Refused::UnknownSa | Refused::OutOfPlace), "{at_server}");
                let told = scene.refuses(2, &datagram, "a notice");
                // An error is told to the operator of the member, while it waits for an answer to a message of its own.
                let is_error = kind == kind::NOTIFY && body != of(notification::INITIAL_CONTACT);
                assert_eq!(matches!(told, Refused::Notified(14 | 24)), is_error, "{told}");
            }
        }
        assert_eq!(scene.deliver(number, &datagram), None);
    }
}

/// Which end an attempt comes to is told by how far it came; only where nobody answers it may be what anybody can have said.
#[test]
fn what_is_said_in_clear_hides_no_reason() {
    let said = Refused::Notified(notification::AUTHENTICATION_FAILED);
    for (number, expected) in [(2, Failed::Refused(said)), (4, Failed::Broken), (6, Failed::NotTaken)] {
        let (mut scene, datagram) = Scene::before(number, Proposals::default());
        let (header, ..) = Header::parse(&datagram).unwrap();
        let spi = SaId::of(&header).octets();
        let notify = Notify { doi: DOI, protocol: 1, spi: &spi, kind: notification::AUTHENTICATION_FAILED, data: &[] };
        let mut chain = Chain::new();
        chain.add(kind::NOTIFY, &notify.to_body());
        let header = Header { exchange: exchange::INFORMATIONAL, flags: 0, message_id: 9, ..header };
        assert_eq!(scene.refuses(2, &header.write(chain.first(), chain.bytes()), "a notice"), said);
        let failed = loop {
            let at = scene.member.poll_timeout().unwrap();
            scene.member.handle_timeout(at, &mut scene.rng);
            if let Some(event) = scene.member.poll_event() {
                break event;
            }
        };
        assert_eq!(failed, Event::Failed(expected), "instead of message {number}");
    }
}

/// "protect against the replay or reflection of previous key management messages" (draft 9.1.4)
#[test]
fn a_message_that_comes_back_to_its_sender_is_refused() {
    for number in 1..=6 {
        let (mut scene, datagram) = Scene::before(number, Proposals::default());
        scene.refuses(number + 1, &datagram, "an echo");
        assert_eq!(scene.deliver(number, &datagram), None);
    }
}

/// "all exchanges after phase 1 are encrypted", and have a message id (RFC 2409 5).
#[test]
fn what_follows_phase_1_is_encrypted_and_has_a_message_id() {
    let (mut scene, datagram) = Scene::before(6, Proposals::default());
    assert_eq!(scene.deliver(6, &datagram), None);
    let id = scene.member.current().unwrap().id();
    let sa = scene.server.sa(id).unwrap();
    let mut chain = Chain::new();
    chain.add(kind::SEQ, &[0, 0, 0, 1]);
    sa.add_hash(&[], &mut chain);
    let good = sa.seal(exchange::UNICAST_PUSH, 9, &chain);
    let clear = Header { flags: 0, ..Header::parse(&good).unwrap().0 }.write(chain.first(), chain.bytes());
    assert_eq!(scene.refuses(2, &clear, "no encryption"), Refused::OutOfPlace);
    let sa = scene.server.sa(id).unwrap();
    let nameless = sa.seal(exchange::UNICAST_PUSH, 0, &chain);
    assert_eq!(scene.refuses(2, &nameless, "message id 0"), Refused::OutOfPlace);
    let (mut header, first, body) = Header::parse(&good).unwrap();
    header.flags |= 2;
    assert_eq!(scene.refuses(2, &header.write(first, body), "commit"), Refused::OutOfPlace);
    assert_eq!(scene.deliver(2, &good), None);
}
