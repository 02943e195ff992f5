//! What the draft demands of the key server, asked by a client made by hand that has phase 1 and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use muster_fmke::Refusal;
use muster_fmke::crypto::SecretBytes;
use muster_fmke::crypto::rekey::RekeyAlgorithm;
use muster_fmke::gcks::{self, Credential, Event, Flow, FlowSelector, Gcks, Group, Profiles};
use muster_fmke::isakmp::{
    Chain, Cookie, Delays, Header, Identity, KeyDownload, Policy, exchange, flags, kek_attribute, kek_key, key_type,
    kind, number, tek_key,
};
use muster_fmke::phase1::{
    Authority, CertificateError, Client, Clients, Credentials, Initiator, Limits, Liveness, Message, Proposals,
    Refused, SaId, Server, Verified,
};
use muster_wire::Time;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

const DOI: u32 = 2;

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
    fn client(&self, address: IpAddr) -> Option<Client<'_>> {
        (address == client().ip()).then_some(Client { secret: Some(&self.0), identity: None })
    }
}

struct Scene {
    now: Time,
    rng: ChaCha20Rng,
    secret: Secret,
    gcks: Gcks,
    initiator: Initiator,
    /// Of phase 2, in order.
    heard: Vec<Message>,
    /// To us, all.
    datagrams: Vec<Vec<u8>>,
    events: Vec<Event>,
}

impl Scene {
    fn new() -> Self {
        let now = Time(1_000_000_000_000);
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let secret = SecretBytes::from(&b"of the two"[..]);
        let own =
            |address: SocketAddr| Credentials { identity: Identity::Address(address.ip()), certificates: Vec::new() };
        let settings = gcks::Settings {
            doi: DOI,
            address: server(),
            proposals: Proposals::default(),
            credentials: own(server()),
            liveness: Liveness::default(),
            limits: Limits::default(),
            join_window: Duration::from_millis(20),
            one_way_period: Duration::from_secs(60),
            signature: RekeyAlgorithm::EcdsaP256,
        };
        let seed = SecretBytes::generate(32, &mut rng);
        let gcks = Gcks::new(now, 1_700_000_000, settings, profiles(), BTreeMap::new(), &seed).unwrap();
        let at = Server { address: server(), secret: Some(secret.clone()), identity: None };
        let initiator = Initiator::new(DOI, Proposals::default(), own(client()), at, Liveness::default(), now);
        let (heard, datagrams, events) = (Vec::new(), Vec::new(), Vec::new());
        Scene { now, rng, secret: Secret(secret), gcks, initiator, heard, datagrams, events }
    }

    /// The client answers what phase 1 asks (is it there?), and nothing else.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            while self.deliver() {}
            self.events.extend(std::iter::from_fn(|| self.gcks.poll_event()));
            let timeouts = [self.gcks.poll_timeout(), self.initiator.poll_timeout()];
            let Some(next) = timeouts.into_iter().flatten().min().filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            self.gcks.handle_timeout(self.now);
            self.initiator.handle_timeout(self.now, &mut self.rng);
        }
        self.now = end;
    }

    fn deliver(&mut self) -> bool {
        drop(self.gcks.poll_writes());
        if let Some(datagram) = self.gcks.poll_transmit() {
            if datagram.to == client() {
                // Whoever is asked may ask at the same time: an answer that is of no use any longer is refused.
                let message = self.initiator.handle_datagram(self.now, server(), &datagram.bytes, &(), &mut self.rng);
                self.heard.extend(message.ok().flatten());
                self.datagrams.push(datagram.bytes);
            }
            return true;
        }
        let Some(datagram) = self.initiator.poll_transmit() else { return false };
        let _ = self.say(&datagram.bytes);
        true
    }

    fn say(&mut self, datagram: &[u8]) -> Result<(), Refusal> {
        self.gcks.handle_datagram(self.now, client(), datagram, &self.secret)
    }

    /// A datagram under the SA, with a right HASH.
    fn sealed(&self, exchange: u8, payloads: &[(u8, &[u8])]) -> Vec<u8> {
        let sa = self.initiator.current().expect("an SA");
        let mut chain = Chain::new();
        payloads.iter().for_each(|(kind, body)| _ = chain.add(*kind, body));
        sa.add_hash(&[], &mut chain);
        sa.seal(exchange, 77, &chain)
    }
}

fn profiles() -> Profiles {
    let group: IpAddr = "239.1.1.1".parse().unwrap();
    let source = ("10.3.0.0/16".parse().unwrap(), 0);
    let selector = FlowSelector { protocol: 17, source, destination: (group, 5004), outer: group };
    let one = Group {
        members: BTreeSet::from(["one".to_owned()]),
        rekey: ("239.255.0.1".parse().unwrap(), 848),
        flows: vec![Flow { senders: BTreeSet::from(["one".to_owned()]), selector }],
        tek_lifetime: Duration::from_secs(3600),
        kek_lifetime: Duration::from_secs(86_400),
        delays: Delays { activation: 2, deactivation: 5 },
        rekey_on_join: true,
    };
    let mut profiles = Profiles::default();
    let client = gcks::Client {
        address: client().ip(),
        credential: Credential::default(),
        bypass: BTreeSet::new(),
        one_way: None,
    };
    profiles.clients.insert("one".to_owned(), client);
    profiles.groups.insert("video".to_owned(), one);
    profiles.check().unwrap();
    profiles
}

/// `HDR*, HASH(1), SEQ, SA, KD` (draft 3.1), begun by the GCKS (3.0), numbered from 1 (7.5), with the number of phase 3's next
/// message (4.1, 7.5), and no KEK_ALGORITHM_KEY (SPEC 5).
#[test]
fn phase_2_is_as_the_draft_draws_it() {
    let mut scene = Scene::new();
    scene.run(Duration::from_millis(500));
    let sa = scene.initiator.current().unwrap();
    for (message, expected) in scene.heard.iter().zip(1..) {
        assert_eq!((message.header.exchange, message.header.flags), (240, 1));
        assert_eq!(SaId::of(&message.header), sa.id());
        assert_ne!(message.header.message_id, 0);
        let payloads = message.payloads().unwrap();
        let kinds: Vec<u8> = payloads.iter().map(|raw| raw.kind).collect();
        assert_eq!(kinds, [kind::HASH, kind::SEQ, kind::SA, kind::KD]);
        // HASH(1) = prf(SKEYID_a, SEQ | SA | KD): not over the message id, as in phase 2 of IKE.
        assert!(sa.check_hash(&[], &payloads).is_ok());
        assert!(sa.check_hash(&message.header.message_id.to_be_bytes(), &payloads).is_err());
        assert_eq!(number(payloads[1].body), Ok(expected));
    }
    // What is to be protected (SPEC 4.1), then the group.
    let [_, group] = scene.heard.as_slice() else { panic!("{} messages", scene.heard.len()) };
    let payloads = group.payloads().unwrap();
    let policy = Policy::parse(payloads[2].body, DOI).unwrap();
    let [rekey] = policy.rekey.as_slice() else { panic!("{policy:?}") };
    assert_eq!(rekey.attribute(kek_attribute::NEXT_SEQUENCE, "NEXT_SEQ_NUMBER"), Ok(1));
    assert_eq!(rekey.attribute(kek_attribute::LIFETIME, "KEK_KEY_LIFETIME"), Ok(86_400));
    assert_eq!(rekey.attribute(kek_attribute::KEY_LENGTH, "KEK_KEY_LENGTH"), Ok(256));
    assert_eq!((rekey.source, rekey.destination.1), ((server().ip(), server().port()), 848));
    let keys = KeyDownload::parse(payloads[3].body).unwrap();
    let kek = keys.packet(key_type::KEK, &rekey.spi).unwrap();
    assert!(kek.key(kek_key::SIGNATURE, "SIG_ALGORITHM_KEY").is_ok() && kek.key(kek_key::ALGORITHM, "no").is_err());
    assert!(keys.packet(key_type::LKH, &rekey.spi).is_ok());
    for sa in &policy.traffic {
        let tek = keys.packet(key_type::TEK, &sa.spi.to_be_bytes()).unwrap();
        assert_eq!(tek.key(tek_key::ALGORITHM, "key").map(<[u8]>::len), Ok(36));
    }
    assert_eq!(policy.traffic.len(), 1);
}

/// "If the member cannot acknowledge the GCKS messages, the connection is closed." (draft 3.1)
#[test]
fn a_client_that_is_there_but_does_not_acknowledge_is_closed() {
    let mut scene = Scene::new();
    let closed = |events: &[Event]| {
        let why = |event: &Event| match event {
            Event::Closed { why, .. } => Some(why.clone()),
            _ => None,
        };
        events.iter().filter_map(why).collect::<Vec<_>>()
    };
    scene.run(Duration::from_secs(30));
    assert_eq!(closed(&scene.events), [""; 0]);
    scene.run(Duration::from_secs(2));
    assert_eq!(closed(&scene.events), ["it does not acknowledge"]);
}

/// Meanwhile its group changes again and again: of what was not under way yet it is told the last.
#[test]
fn a_client_that_acknowledges_late_is_told_what_counts_now() {
    let mut scene = Scene::new();
    scene.run(Duration::from_millis(500));
    for _ in 0..100 {
        scene.gcks.rekey(scene.now, Some("video"));
        scene.run(Duration::from_millis(10));
    }
    let sequence = |message: &Message| number(message.payloads().unwrap()[1].body).unwrap();
    let told = |scene: &Scene| scene.heard.iter().map(sequence).collect::<BTreeSet<u32>>();
    assert_eq!(told(&scene), (1..=16).collect());
    let last = |scene: &Scene| {
        let last = scene.heard.iter().max_by_key(|message| sequence(message)).unwrap();
        Policy::parse(last.payloads().unwrap()[2].body, DOI).unwrap()
    };
    let before = last(&scene);
    for _ in 0..2 {
        let number = told(&scene).into_iter().max().unwrap().to_be_bytes();
        let datagram = scene.sealed(exchange::UNICAST_PUSH, &[(kind::ACK, &number)]);
        scene.say(&datagram).unwrap();
        scene.run(Duration::from_millis(100));
    }
    // What is gone, and the group.
    assert_eq!(told(&scene), (1..=18).collect());
    let now = last(&scene);
    assert_ne!((now.rekey[0].spi, now.traffic[0].spi), (before.rekey[0].spi, before.traffic[0].spi));
}

#[test]
fn under_the_sa_nothing_but_an_acknowledgement_is_taken() {
    let mut scene = Scene::new();
    scene.run(Duration::from_millis(500));
    let ack: (u8, &[u8]) = (kind::ACK, &[0, 0, 0, 0]);
    // Quick mode, new group mode, a transaction: "The Exchange Type field is set to FMKE_unicast_Push" (draft 3.3).
    for other in [32, 33, 6] {
        let datagram = scene.sealed(other, &[ack]);
        assert!(matches!(scene.say(&datagram), Err(Refusal::Exchange(exchange)) if exchange == other));
    }
    // A push of its own: phase 2 is "initiated by the GCKS" (draft 3.0).
    let datagram = scene.sealed(exchange::UNICAST_PUSH, &[(kind::SEQ, &[0, 0, 0, 1]), ack]);
    assert!(matches!(scene.say(&datagram), Err(Refusal::Push(_))));
    // What it sent itself, come back (draft 9.2.4).
    let echoes: Vec<Vec<u8>> = scene.datagrams.iter().filter(|bytes| bytes[18] == 240).cloned().collect();
    assert!(!echoes.is_empty());
    for echo in echoes {
        assert!(matches!(scene.say(&echo), Err(Refusal::Push(_))));
    }
    // Other cookies: "a message with invalid cookies will be discarded" (draft 9.2.5).
    let mut datagram = scene.sealed(exchange::UNICAST_PUSH, &[ack]);
    datagram[8] ^= 1;
    assert!(matches!(scene.say(&datagram), Err(Refusal::Phase1(Refused::UnknownSa))));
    // A changed octet: the HASH.
    let mut datagram = scene.sealed(exchange::UNICAST_PUSH, &[ack]);
    datagram[30] ^= 1;
    assert!(scene.say(&datagram).is_err());
    let datagram = scene.sealed(exchange::UNICAST_PUSH, &[ack]);
    scene.say(&datagram).unwrap();
}

#[test]
fn a_negative_acknowledgement_of_no_group_or_of_a_stranger_is_refused() {
    let mut scene = Scene::new();
    scene.run(Duration::from_millis(500));
    let header = Header {
        initiator: Cookie([1; 8]),
        responder: Cookie([2; 8]),
        exchange: exchange::MULTICAST_PUSH,
        flags: flags::ENCRYPTION,
        message_id: 5,
    };
    let datagram = header.write(kind::HASH, &[0; 64]);
    assert!(matches!(scene.say(&datagram), Err(Refusal::Phase1(Refused::UnknownSa))));
    let stranger = "192.0.2.77:848".parse().unwrap();
    let refused = scene.gcks.handle_datagram(scene.now, stranger, &datagram, &scene.secret);
    assert!(matches!(refused, Err(Refusal::Phase1(Refused::UnknownAddress))));
}
