//! A client before a key server that says what cannot be used.

use std::net::{IpAddr, SocketAddr};

use muster_wire::Time;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::server::{DOI, GroupServer, traffic};
use crate::Refusal;
use crate::crypto::SecretBytes;
use crate::isakmp::{
    Delete, Header, Identity, KeyPacket, Malformed, PreservedAddress, TrafficSa, exchange, kek_attribute, key_type,
    kind, number, tek_key,
};
use crate::lkh::LKH_JOINS;
use crate::member::machine::check;
use crate::member::{Change, Event, Member, Settings};
use crate::phase1::{
    self, Authority, CertificateError, Client, Clients, Credentials, Limits, Liveness, Proposals, Responder, SaId,
    Server, Verified,
};
use crate::push::{Push, PushError};

fn server() -> SocketAddr {
    "192.0.2.1:848".parse().unwrap()
}

fn client() -> SocketAddr {
    "192.0.2.10:848".parse().unwrap()
}

struct Secret(SecretBytes);

impl Authority for Secret {
    fn check(&self, _: &[&[u8]], _: &Identity) -> Result<Verified, CertificateError> {
        Err(CertificateError::UnknownIssuer)
    }
}

impl Clients for Secret {
    fn client(&self, _: IpAddr) -> Option<Client<'_>> {
        Some(Client { secret: Some(&self.0), identity: None })
    }
}

/// A client that is connected, and an SA of phase 1 under which the test speaks.
struct Scene {
    now: Time,
    rng: ChaCha20Rng,
    secret: Secret,
    member: Member,
    responder: Responder,
    sa: SaId,
}

impl Scene {
    fn new() -> Self {
        let (now, mut rng) = (Time(0), ChaCha20Rng::seed_from_u64(1));
        let secret = SecretBytes::from(&b"of the two"[..]);
        let own =
            |address: SocketAddr| Credentials { identity: Identity::Address(address.ip()), certificates: Vec::new() };
        let (proposals, liveness) = (Proposals::default(), Liveness::default());
        let mut responder =
            Responder::new(DOI, proposals.clone(), own(server()), liveness, Limits::default(), now, &mut rng);
        let settings = Settings {
            doi: DOI,
            address: client().ip(),
            proposals,
            credentials: own(client()),
            server: Server { address: server(), secret: Some(secret.clone()), identity: None },
            liveness,
        };
        let mut member = Member::new(now, settings, &SecretBytes::generate(32, &mut rng));
        let secret = Secret(secret);
        member.handle_timeout(now);
        while let Some(datagram) = member.poll_transmit() {
            responder.handle_datagram(now, client(), &datagram.bytes, &secret, &mut rng).unwrap();
            while let Some(datagram) = responder.poll_transmit() {
                member.handle_datagram(now, server(), &datagram.bytes, &()).unwrap();
            }
        }
        let Some(phase1::Event::Established { sa, .. }) = responder.poll_event() else { panic!("no SA") };
        assert_eq!(member.poll_event(), Some(Event::Connected));
        Scene { now, rng, secret, member, responder, sa }
    }

    /// Says it by phase 2.
    fn push(&mut self, number: u32, push: &Push) -> Result<(), Refusal> {
        let sa = self.responder.sa(self.sa).unwrap();
        let mut chain = push.chain(number, DOI);
        sa.add_hash(&[], &mut chain);
        let datagram = sa.seal(exchange::UNICAST_PUSH, 1000 + number, &chain);
        self.member.handle_datagram(self.now, server(), &datagram, &())
    }

    /// The number that the client acknowledges by the time at which it does anything next.
    fn acknowledged(&mut self) -> u32 {
        self.now = self.member.poll_timeout().unwrap();
        self.member.handle_timeout(self.now);
        let datagram = std::iter::from_fn(|| self.member.poll_transmit()).last().expect("an acknowledgement");
        let message = self.responder.handle_datagram(self.now, client(), &datagram.bytes, &self.secret, &mut self.rng);
        let message = message.unwrap().expect("a message of phase 2");
        let payloads = message.payloads().unwrap();
        assert_eq!(payloads[1].kind, kind::ACK);
        number(payloads[1].body).unwrap()
    }

    /// SPIs of what it may receive under now.
    fn receives(&mut self) -> Vec<u32> {
        let spi = |change| if let Change::Receive { spi, .. } = change { Some(spi) } else { None };
        std::iter::from_fn(|| self.member.poll_change()).filter_map(spi).collect()
    }
}

/// The SA of a group, told by phase 2.
fn rekey(group: &GroupServer) -> Push {
    let mut push = Push::default();
    let packet = |kind| {
        let packet = group.download.packets.iter().find(|packet| packet.kind == kind).unwrap();
        packet.keys.iter().fold(KeyPacket::new(kind, &packet.spi), |packet, (class, key)| packet.with(*class, key))
    };
    push.add_rekey(group.sa.clone(), vec![packet(key_type::KEK), packet(key_type::LKH)]);
    push
}

/// "the sequence number of the last correctly received message" (draft 3.2): the second is, though the first is not understood.
#[test]
fn what_cannot_be_used_by_phase_2_keeps_nothing_back() {
    let mut scene = Scene::new();
    let mut group = GroupServer::new();
    group.sa = group.with(kek_attribute::SIGNATURE, Some(99));
    scene.push(2, &traffic(300, 36)).unwrap();
    assert_eq!(scene.receives(), [0; 0], "it waits for the first");
    assert!(matches!(scene.push(1, &rekey(&group)), Err(Refusal::Push(PushError::Malformed(_)))));
    assert_eq!(scene.receives(), [300]);
    assert_eq!((scene.acknowledged(), scene.member.listens_to().count()), (2, 0));
}

/// The SAs of ESP that stand in the same message are good.
#[test]
fn a_rekey_sa_that_cannot_be_used_keeps_back_nothing_of_its_message() {
    let mut scene = Scene::new();
    let mut group = GroupServer::new();
    group.sa = group.with(kek_attribute::SIGNATURE, Some(99));
    let (mut push, more) = (rekey(&group), traffic(300, 36));
    push.policy.traffic.extend(more.policy.traffic);
    push.keys.packets.extend(more.keys.packets);
    assert!(matches!(scene.push(1, &push), Err(Refusal::Push(PushError::Malformed(_)))));
    assert_eq!(scene.receives(), [300]);
    assert_eq!((scene.acknowledged(), scene.member.listens_to().count()), (1, 0));
}

/// It would open a socket for each.
#[test]
fn a_mad_server_opens_no_sockets_without_end() {
    let mut scene = Scene::new();
    let mut group = GroupServer::new();
    let [a, b] = ["192.0.2.77", "ff1e::1"].map(|address| address.parse::<IpAddr>().unwrap());
    group.sa.destination.0 = a;
    let refused = scene.push(1, &rekey(&group));
    assert!(matches!(refused, Err(Refusal::Push(PushError::Malformed(Malformed::Missing("a multicast destination"))))));
    assert_eq!(scene.member.listens_to().count(), 0);
    (group.sa.destination.0, group.sa.source.0) = (b, "2001:db8::1".parse().unwrap());
    for number in 0..256 {
        group.sa.destination.1 = 1000 + number;
        scene.push(2 + u32::from(number), &rekey(&group)).unwrap();
    }
    group.sa.destination.1 = 2000;
    let refused = scene.push(258, &rekey(&group));
    assert!(matches!(refused, Err(Refusal::Push(PushError::Malformed(Malformed::TooMany)))));
    // One that it is in goes on.
    group.sa.destination.1 = 1000;
    scene.push(259, &rekey(&group)).unwrap();
    assert_eq!(scene.member.listens_to().count(), 256);
}

/// On every connection, and to who is behind, all is told again: that brings nobody in.
#[test]
fn a_group_is_joined_once() {
    let mut scene = Scene::new();
    let mut group = GroupServer::new();
    let place = group.sa.destination;
    scene.push(1, &rekey(&group)).unwrap();
    assert_eq!(scene.member.poll_event(), Some(Event::Joined { group: place }));
    scene.push(2, &rekey(&group)).unwrap();
    assert_eq!(scene.member.poll_event(), None, "it is told what it has");
    group.renew();
    scene.push(3, &rekey(&group)).unwrap();
    assert_eq!(scene.member.poll_event(), Some(Event::Rekeyed { group: place }));
    assert_eq!(scene.member.poll_event(), None);
}

/// What is said once to all is not said again to who has it: the group must be told anew.
#[test]
fn what_cannot_be_used_by_multicast_is_asked_for_by_phase_2() {
    let mut scene = Scene::new();
    let mut group = GroupServer::new();
    scene.push(1, &rekey(&group)).unwrap();
    assert_eq!(scene.acknowledged(), 1);
    assert_eq!(scene.member.poll_event(), Some(Event::Joined { group: group.sa.destination }));
    let (next, _) = group.join();
    let mut push = Push::default();
    let packets = vec![KeyPacket::new(key_type::LKH, &next.spi).with(LKH_JOINS, b"what no reader takes")];
    push.add_rekey(next, packets);
    let datagram = group.seal(1, push.chain(5, DOI));
    let refused = scene.member.handle_datagram(scene.now, server(), &datagram, &());
    assert!(matches!(refused, Err(Refusal::Push(PushError::Malformed(Malformed::Field { field: "LKH joins", .. })))));
    assert_eq!(scene.member.poll_event(), Some(Event::Lost { group: group.sa.destination }));
    scene.member.handle_timeout(scene.now);
    let first = scene.member.poll_transmit().expect("it connects anew");
    assert_eq!(Header::parse(&first.bytes).unwrap().0.exchange, exchange::MAIN);
}

/// Found by fuzzing: a client that was behind, and connected anew, was told what is gone before the message that it had missed came
/// again, and received under an excluded one's SA until its lifetime was over.
#[test]
fn what_phase_2_has_taken_away_no_late_multicast_brings_back() {
    let mut scene = Scene::new();
    let group = GroupServer::new();
    scene.push(1, &rekey(&group)).unwrap();
    let says = |scene: &mut Scene, number: u32, spi| {
        let datagram = group.seal(number, traffic(spi, 36).chain(number, DOI));
        scene.member.handle_datagram(scene.now, server(), &datagram, &()).unwrap();
        scene.receives()
    };
    assert_eq!(says(&mut scene, 5, 300), [300]);
    let gone = Delete { doi: DOI, protocol: 1, spis: [301_u32, 302].map(|spi| spi.to_be_bytes().to_vec()).into() };
    scene.push(2, &Push { deletes: vec![gone], ..Push::default() }).unwrap();
    assert_eq!(says(&mut scene, 6, 301), [0; 0], "late");
    assert_eq!(says(&mut scene, 7, 303), [303]);
    // What is so now is said by phase 2.
    scene.push(3, &traffic(302, 36)).unwrap();
    assert_eq!(scene.receives(), [302]);
    let again = Delete { doi: DOI, protocol: 1, spis: vec![302_u32.to_be_bytes().to_vec()] };
    let datagram = group.seal(8, Push { deletes: vec![again], ..traffic(304, 36) }.chain(8, DOI));
    scene.member.handle_datagram(scene.now, server(), &datagram, &()).unwrap();
    assert_eq!(scene.receives(), [304]);
    assert_eq!(says(&mut scene, 9, 302), [302], "it was told since, and what multicast takes away it may bring back");
}

#[test]
fn each_sa_has_its_key_or_nothing_is_taken() {
    let sa = |spi| TrafficSa {
        protocol: 0,
        source: ("10.1.0.0/16".parse().unwrap(), 0),
        destination: ("239.1.1.1/32".parse().unwrap(), 0),
        tunnel: ("192.0.2.1".parse().unwrap(), "239.1.1.1".parse().unwrap()),
        spi,
        lifetime: 100,
        preserved: PreservedAddress::Destination,
    };
    let packet = |kind, spi: u32, len| KeyPacket::new(kind, &spi.to_be_bytes()).with(tek_key::ALGORITHM, &vec![7; len]);
    let of = |packets: Vec<KeyPacket>| {
        let mut push = Push::default();
        push.policy.traffic = vec![sa(300), sa(301)];
        push.keys.packets = packets;
        check(&push)
    };
    let first = || packet(key_type::TEK, 300, 36);
    assert_eq!(of(vec![first(), packet(key_type::TEK, 301, 36)]), Ok(()));
    let missing = Err(PushError::Malformed(Malformed::Missing("key packet")));
    assert_eq!(of(vec![first()]), missing);
    assert_eq!(of(vec![first(), packet(key_type::TEK, 302, 36)]), missing);
    assert_eq!(of(vec![first(), packet(key_type::KEK, 301, 36)]), missing);
    for len in [0, 32, 35, 37] {
        let error = Malformed::Field { field: "length of TEK_ALGORITHM_KEY", value: len as u32 };
        assert_eq!(of(vec![first(), packet(key_type::TEK, 301, len)]), Err(error.into()));
    }
    let twice = Err(PushError::Malformed(Malformed::Conflict("key packet")));
    assert_eq!(of(vec![first(), packet(key_type::TEK, 301, 36), packet(key_type::TEK, 301, 36)]), twice);
    let none = KeyPacket::new(key_type::TEK, &301u32.to_be_bytes());
    assert_eq!(of(vec![first(), none]), Err(Malformed::Missing("TEK_ALGORITHM_KEY").into()));
}
