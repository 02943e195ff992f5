//! A key server whose clients show certificates, and what becomes of those whose certificate no longer counts.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use muster_fmke::crypto::SecretBytes;
use muster_fmke::crypto::rekey::RekeyAlgorithm;
use muster_fmke::crypto::signature::Signer;
use muster_fmke::gcks::{self, Event, Gcks, Group, Profiles};
use muster_fmke::isakmp::{Delays, Identity};
use muster_fmke::member::{self, Member};
use muster_fmke::phase1::x509::{Anchors, ListError};
use muster_fmke::phase1::{
    Authentication, Authority, Certificate, CertificateError, Client, Clients, Closed, Credentials, Limits, Liveness,
    Proposals, Server, Verified,
};
use muster_wire::Time;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use zeroize::Zeroizing;

/// 2026-06-01.
const NOW: u64 = 1_780_272_000;
/// 2026-07-01, when one of the certificates ends.
const JULY: u64 = 1_782_864_000;
const GROUP: &str = "group";

struct Ca {
    anchor: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Ca {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Ca { anchor: params.self_signed(&key).unwrap().der().to_vec(), issuer: Issuer::new(params, key) }
    }

    /// Of whoever has this address, until a month's first day.
    fn credentials(&self, address: SocketAddr, until: (i32, u8)) -> Credentials {
        self.credentials_of(address, until, 1)
    }

    /// With a serial number of one's own.
    fn credentials_of(&self, address: SocketAddr, (year, month): (i32, u8), serial: u64) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress(address.ip())];
        params.not_after = date_time_ymd(year, month, 1);
        params.serial_number = Some(SerialNumber::from(serial));
        let chain = vec![params.signed_by(&key, &self.issuer).unwrap().der().to_vec()];
        let own = Certificate::new(chain, Signer::from_pkcs8(&key.serialize_der()).unwrap()).unwrap();
        Credentials { identity: Identity::Address(address.ip()), certificates: vec![Arc::new(own)] }
    }
}

/// What this authority has taken back.
fn taken_back(ca: &Ca, serial: u64) -> Anchors {
    with_list(ca, serial, 1)
}

/// With this number.
fn with_list(ca: &Ca, serial: u64, number: u64) -> Anchors {
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(2027, 1, 1),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&ca.issuer).unwrap().der().to_vec();
    Anchors::new(std::slice::from_ref(&ca.anchor)).unwrap().with_lists(&[], &[list]).unwrap()
}

/// The clients `a` and `b`, with an authority and a clock.
struct Directory {
    anchors: Anchors,
    identities: BTreeMap<IpAddr, Identity>,
    unix: u64,
}

impl Authority for Directory {
    fn check(&self, chain: &[&[u8]], identity: &Identity) -> Result<Verified, CertificateError> {
        self.anchors.check(chain, identity, self.unix)
    }
}

impl Clients for Directory {
    fn client(&self, address: IpAddr) -> Option<Client<'_>> {
        self.identities.get(&address).map(|identity| Client { secret: None, identity: Some(identity) })
    }
}

fn address(name: &str) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, name.as_bytes()[0]], 848))
}

const SERVER: &str = "s";

fn proposals() -> Proposals {
    let methods = muster_fmke::crypto::signature::Method::ALL.map(Authentication::Signature);
    Proposals { authentications: methods.to_vec(), ..Proposals::default() }
}

struct World {
    ca: Ca,
    directory: Directory,
    gcks: Gcks,
    disk: BTreeMap<String, Zeroizing<Vec<u8>>>,
    clients: BTreeMap<&'static str, Member>,
    events: Vec<Event>,
    /// What was multicast: to nobody, of itself.
    multicast: Vec<Vec<u8>>,
    now: Time,
}

impl World {
    /// `a`'s certificate ends in July, `b`'s in two years.
    fn new() -> World {
        let ca = Ca::new();
        let identity = |name: &&str| (address(name).ip(), Identity::Address(address(name).ip()));
        let directory = Directory {
            anchors: Anchors::new(std::slice::from_ref(&ca.anchor)).unwrap(),
            identities: ["a", "b"].iter().map(identity).collect(),
            unix: NOW,
        };
        let now = Time(1_000_000);
        let gcks = key_server(&ca, now, NOW, BTreeMap::new());
        let (disk, events, multicast) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut world = World { ca, directory, gcks, disk, clients: BTreeMap::new(), events, multicast, now };
        world.start("a", (2026, 7));
        world.start("b", (2028, 1));
        world
    }

    fn start(&mut self, name: &'static str, until: (i32, u8)) {
        let credentials = self.ca.credentials(address(name), until);
        self.start_with(name, credentials);
    }

    fn start_with(&mut self, name: &'static str, credentials: Credentials) {
        let settings = member::Settings {
            doi: 2,
            address: address(name).ip(),
            proposals: proposals(),
            credentials,
            server: Server {
                address: address(SERVER),
                secret: None,
                identity: Some(Identity::Address(address(SERVER).ip())),
            },
            liveness: Liveness::default(),
        };
        let member = Member::new(self.now, settings, &SecretBytes::from(&[name.as_bytes()[0]; 32][..]));
        self.clients.insert(name, member);
    }

    /// Unicast alone, without delay: what is asked here is who is in.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + Duration::from_millis(100);
            self.gcks.handle_timeout(self.now);
            self.serve();
            for name in self.clients.keys().copied().collect::<Vec<_>>() {
                self.clients.get_mut(name).unwrap().handle_timeout(self.now);
            }
            while self.pass() {}
        }
    }

    fn pass(&mut self) -> bool {
        let mut passed = false;
        for (name, member) in &mut self.clients {
            while let Some(datagram) = member.poll_transmit() {
                passed = true;
                let _ = self.gcks.handle_datagram(self.now, address(name), &datagram.bytes, &self.directory);
            }
        }
        self.serve();
        passed
    }

    fn serve(&mut self) {
        for write in self.gcks.poll_writes() {
            match write.value {
                Some(value) => drop(self.disk.insert(write.key, value)),
                None => drop(self.disk.remove(&write.key)),
            }
        }
        self.events.extend(std::iter::from_fn(|| self.gcks.poll_event()));
        while let Some(datagram) = self.gcks.poll_transmit() {
            if datagram.to.ip().is_multicast() {
                self.multicast.push(datagram.bytes);
                continue;
            }
            let to = self.clients.iter_mut().find(|(name, _)| address(name) == datagram.to);
            if let Some((_, member)) = to {
                let _ = member.handle_datagram(self.now, address(SERVER), &datagram.bytes, &self.directory);
            }
        }
    }

    /// The key server dies and comes back at this time of day.
    fn restart(&mut self, unix: u64) {
        let disk = self.disk.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        self.directory.unix = unix;
        self.gcks = key_server(&self.ca, self.now, unix, disk);
        self.serve();
    }

    fn review(&mut self) {
        let directory = &self.directory;
        self.gcks.review(self.now, |client, chain| {
            directory.check(chain, &directory.identities[&address(client).ip()]).map(|verified| verified.until)
        });
        self.serve();
    }

    fn members(&self) -> Vec<&str> {
        self.gcks.members(GROUP).collect()
    }

    fn lapsed(&self) -> Vec<(&str, CertificateError)> {
        let lapsed = |event| match event {
            &Event::Lapsed { ref client, why } => Some((client.as_str(), why)),
            _ => None,
        };
        self.events.iter().filter_map(lapsed).collect()
    }
}

fn key_server(ca: &Ca, now: Time, unix: u64, disk: BTreeMap<String, Zeroizing<Vec<u8>>>) -> Gcks {
    let settings = gcks::Settings {
        doi: 2,
        address: address(SERVER),
        proposals: proposals(),
        credentials: ca.credentials(address(SERVER), (2030, 1)),
        liveness: Liveness::default(),
        limits: Limits::default(),
        join_window: Duration::ZERO,
        one_way_period: Duration::from_secs(60),
        signature: RekeyAlgorithm::EcdsaP256,
    };
    let client = |name: &str| {
        (
            name.to_owned(),
            gcks::Client {
                address: address(name).ip(),
                credential: Default::default(),
                bypass: Default::default(),
                one_way: None,
            },
        )
    };
    let group = Group {
        members: ["a", "b"].map(str::to_owned).into(),
        rekey: ([239, 1, 1, 1].into(), 848),
        flows: Vec::new(),
        tek_lifetime: Duration::from_secs(3600),
        kek_lifetime: Duration::from_secs(30 * 86_400),
        delays: Delays { activation: 0, deactivation: 0 },
        rekey_on_join: true,
    };
    let profiles = Profiles {
        clients: ["a", "b"].map(client).into(),
        groups: [(GROUP.to_owned(), group)].into(),
        vpns: BTreeMap::new(),
    };
    profiles.check().unwrap();
    Gcks::new(now, unix, settings, profiles, disk, &SecretBytes::from(&[7; 32][..])).unwrap()
}

fn connected() -> World {
    let mut world = World::new();
    world.run(Duration::from_secs(5));
    assert_eq!(world.members(), ["a", "b"]);
    assert!(["a", "b"].iter().all(|name| world.gcks.is_connected(name)));
    world
}

#[test]
fn whose_certificate_ends_loses_access_until_it_shows_another() {
    let mut world = connected();
    // The last second counts; nobody connects or asks anything meanwhile.
    world.now = world.now + Duration::from_secs(JULY - NOW - 10);
    world.directory.unix = JULY;
    world.gcks.handle_timeout(world.now);
    world.serve();
    assert_eq!((world.members(), world.lapsed()), (vec!["a", "b"], vec![]));
    assert!(world.gcks.poll_timeout().is_some_and(|at| at <= world.now + Duration::from_secs(11)), "it wakes for it");
    world.now = world.now + Duration::from_secs(11);
    world.directory.unix = JULY + 1;
    world.gcks.handle_timeout(world.now);
    world.serve();
    assert_eq!((world.members(), world.lapsed()), (vec!["b"], vec![("a", CertificateError::Time)]));
    // It tries again, with the one that has ended.
    world.run(Duration::from_secs(60));
    assert_eq!(world.members(), ["b"]);
    let why = |world: &World| ["a", "b"].map(|client| world.gcks.lapsed(client));
    assert_eq!(why(&world), [Some(CertificateError::Time), None]);
    world.restart(JULY + 1);
    assert_eq!(why(&world), [Some(CertificateError::Time), None], "it is told after a restart, too");
    world.start("a", (2028, 1));
    world.run(Duration::from_secs(10));
    assert_eq!(world.members(), ["a", "b"]);
    assert_eq!(why(&world), [None, None]);
}

#[test]
fn whose_certificate_ended_while_the_key_server_was_away_is_out() {
    let mut world = connected();
    world.restart(JULY + 1);
    assert_eq!((world.members(), world.lapsed()), (vec!["b"], vec![("a", CertificateError::Time)]));
    // Who was not connected when it died is known, too.
    world.clients.clear();
    world.restart(1_830_297_600 + 1); // 2028-01-01
    assert_eq!(world.members(), Vec::<&str>::new());
}

#[test]
fn other_anchors_cast_out_whom_they_do_not_vouch_for() {
    let mut world = connected();
    world.review();
    assert_eq!((world.members(), world.lapsed()), (vec!["a", "b"], vec![]), "nothing has changed");
    let stranger = Ca::new();
    world.directory.anchors = Anchors::new(std::slice::from_ref(&stranger.anchor)).unwrap();
    world.clients.remove("b");
    world.review();
    world.run(Duration::from_secs(30));
    let unknown = CertificateError::UnknownIssuer;
    assert_eq!((world.members(), world.lapsed()), (vec![], vec![("a", unknown), ("b", unknown)]));
    // Its new authority's certificate brings it back.
    world.ca = stranger;
    let server = world.ca.credentials(address(SERVER), (2030, 1));
    world.gcks.present(server);
    world.start("a", (2028, 1));
    world.run(Duration::from_secs(10));
    assert_eq!(world.members(), ["a"]);
}

#[test]
fn a_renewed_certificate_is_shown_at_once() {
    let mut world = connected();
    let renewed = world.ca.credentials(address("a"), (2028, 1));
    let now = world.now;
    world.clients.get_mut("a").unwrap().present(now, renewed, None);
    world.run(Duration::from_secs(5));
    world.now = world.now + Duration::from_secs(JULY + 10 - NOW);
    world.gcks.handle_timeout(world.now);
    world.serve();
    assert_eq!((world.members(), world.lapsed()), (vec!["a", "b"], vec![]), "the one before no longer counts");
}

/// What a client heard of by multicast.
fn hears(member: &mut Member, now: Time, world: &World, multicast: &[Vec<u8>]) -> Vec<member::Event> {
    while member.poll_event().is_some() {}
    for datagram in multicast {
        let _ = member.handle_datagram(now, address(SERVER), datagram, &world.directory);
    }
    std::iter::from_fn(|| member.poll_event()).collect()
}

/// Whoever has the key of the certificate before may hold all that the client holds. When that one is revoked, the client is found
/// good, by the certificate that it shows now: so he must be out already.
#[test]
fn who_came_in_with_a_stolen_key_is_out_when_the_client_shows_another() {
    let mut world = connected();
    let follows = |world: &mut World, member: &mut Member, multicast: &[Vec<u8>]| {
        hears(member, world.now, world, multicast).iter().any(|event| matches!(event, member::Event::Rekeyed { .. }))
    };
    let mut thief = world.clients.remove("a").unwrap();
    world.gcks.rekey(world.now, None);
    world.serve();
    let mut multicast = std::mem::take(&mut world.multicast);
    assert!(follows(&mut world, &mut thief, &multicast), "he holds all that the client holds");
    let renewed = world.ca.credentials(address("a"), (2028, 1));
    world.start_with("a", renewed);
    world.run(Duration::from_secs(5));
    assert!(world.gcks.is_connected("a") && world.lapsed().is_empty());
    assert_eq!(world.members(), ["a", "b"]);
    // Whatever is said from now on is for the others.
    world.gcks.rekey(world.now, None);
    world.serve();
    let since = std::mem::take(&mut world.multicast);
    assert!(!follows(&mut world, &mut thief, &since));
    multicast.extend(since);
    for name in ["a", "b"] {
        let mut client = world.clients.remove(name).unwrap();
        assert!(follows(&mut world, &mut client, &multicast), "{name}");
    }
}

#[test]
fn a_client_that_shows_ever_other_certificates_does_not_make_keys_new_each_time() {
    let mut world = connected();
    let rekeyed = |world: &World| world.events.iter().filter(|event| matches!(event, Event::Rekeyed { .. })).count();
    let before = rekeyed(&world);
    for _ in 0..20 {
        let now = world.now;
        let another = world.ca.credentials(address("a"), (2028, 1));
        world.clients.get_mut("a").unwrap().present(now, another, None);
        world.run(Duration::from_secs(1));
    }
    assert_eq!(rekeyed(&world), before + 1);
    world.run(Duration::from_secs(120));
    assert!(world.gcks.is_connected("a") && world.members() == ["a", "b"], "the last one counts in the end");
}

/// A list that the key server was begun anew with may be an old copy: who was taken back since would come in again.
#[test]
fn a_revocation_list_gives_way_to_no_older_one_over_a_restart_either() {
    let mut world = World::new();
    let stranger = Ca::new();
    let [none, foreign] = [&world.ca, &stranger].map(|ca| Anchors::new(std::slice::from_ref(&ca.anchor)).unwrap());
    let [first, second, third] = [1, 2, 300].map(|number| with_list(&world.ca, 77, number));
    let another_second = with_list(&world.ca, 78, 2);
    assert_eq!((world.gcks.enforce(&first), world.gcks.enforce(&second)), (Ok(()), Ok(())));
    world.serve();
    for restarted in [false, true] {
        if restarted {
            world.restart(NOW);
        }
        for older in [&first, &another_second, &none] {
            assert_eq!(world.gcks.enforce(older), Err(ListError::Older), "{restarted}");
        }
        assert!(world.gcks.poll_writes().is_empty(), "what is refused changes nothing");
        // The same, and where its anchor is trusted no longer.
        assert_eq!((world.gcks.enforce(&second), world.gcks.enforce(&foreign)), (Ok(()), Ok(())), "{restarted}");
    }
    assert_eq!(world.gcks.enforce(&first), Err(ListError::Older), "its anchor is trusted again");
    assert_eq!(world.gcks.enforce(&third), Ok(()));
    world.serve();
    world.restart(NOW);
    assert_eq!(world.gcks.enforce(&second), Err(ListError::Older));
    assert_eq!(world.gcks.enforce(&third), Ok(()));
}

/// A machine without a clock of its own begins in 1970, or wherever its battery left it.
#[test]
fn certificates_end_by_the_clock_as_it_is_set() {
    let mut world = World::new();
    world.gcks = key_server(&world.ca, world.now, 0, BTreeMap::new());
    world.run(Duration::from_secs(5));
    assert_eq!(world.members(), ["a", "b"]);
    world.directory.unix = JULY + 1;
    world.gcks.set_clock(world.now, JULY);
    assert!(world.gcks.poll_timeout().is_some_and(|at| at <= world.now + Duration::from_secs(1)));
    world.run(Duration::from_secs(2));
    assert_eq!((world.members(), world.lapsed()), (vec!["b"], vec![("a", CertificateError::Time)]));

    // Too late: all are out in the second in which they are in, until it is set.
    let mut world = World::new();
    world.gcks = key_server(&world.ca, world.now, 4_000_000_000, BTreeMap::new());
    world.run(Duration::from_secs(5));
    assert_eq!(world.members(), Vec::<&str>::new());
    world.gcks.set_clock(world.now, NOW);
    world.run(Duration::from_secs(60));
    assert_eq!(world.members(), ["a", "b"]);
}

#[test]
fn a_key_server_whose_certificate_is_revoked_is_not_obeyed() {
    let mut world = connected();
    let server = world.ca.credentials_of(address(SERVER), (2030, 1), 77);
    world.gcks.present(server);
    let (now, own) = (world.now, world.ca.credentials(address("b"), (2028, 1)));
    world.clients.get_mut("b").unwrap().present(now, own, None);
    world.run(Duration::from_secs(5));
    let mut client = world.clients.remove("b").unwrap();
    assert_eq!(client.review(now, &world.directory), Ok(()));
    assert!(client.is_connected() && client.listens_to().count() == 1);
    world.directory.anchors = taken_back(&world.ca, 77);
    assert_eq!(client.review(world.now, &world.directory), Err(CertificateError::Revoked));
    assert!(!client.is_connected() && client.listens_to().next().is_none());
    let heard: Vec<_> = std::iter::from_fn(|| client.poll_event()).collect();
    assert!(heard.contains(&member::Event::Disconnected { why: Closed::Distrusted }), "{heard:?}");
    assert_eq!(client.review(world.now, &world.directory), Ok(()), "it is said once");
    // It tries again, and takes it as little.
    world.clients.insert("b", client);
    world.run(Duration::from_secs(60));
    assert!(!world.clients["b"].is_connected());
    let server = world.ca.credentials_of(address(SERVER), (2030, 1), 78);
    world.gcks.present(server);
    world.run(Duration::from_secs(120));
    assert!(world.clients["b"].is_connected() && world.clients["b"].listens_to().count() == 1);
}
