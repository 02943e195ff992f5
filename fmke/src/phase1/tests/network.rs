//! A key server, its members, and what lies between them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use muster_wire::Time;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::crypto::SecretBytes;
use crate::isakmp::Identity;
use crate::phase1::{
    Authority, CertificateError, Client, Clients, Credentials, Datagram, Event, Initiator, Limits, Liveness, Message,
    Proposals, Refused, Responder, SaId, Server, Verified,
};

pub(super) const DOI: u32 = 2;

pub(super) fn server_address() -> SocketAddr {
    "198.51.100.1:848".parse().unwrap()
}

pub(super) fn member_address(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 848))
}

/// The members that have a secret.
pub(super) struct Directory(pub(super) BTreeMap<IpAddr, SecretBytes>);

impl Directory {
    pub(super) fn of(members: u8) -> Self {
        Directory((1..=members).map(|number| (member_address(number).ip(), secret(number))).collect())
    }
}

impl Authority for Directory {
    fn check(&self, _: &[&[u8]], _: &Identity) -> Result<Verified, CertificateError> {
        Err(CertificateError::UnknownIssuer)
    }
}

impl Clients for Directory {
    fn client(&self, address: IpAddr) -> Option<Client<'_>> {
        self.0.get(&address).map(|secret| Client { secret: Some(secret), identity: None })
    }
}

pub(super) fn secret(number: u8) -> SecretBytes {
    SecretBytes::from(format!("secret of {number}").as_bytes())
}

pub(super) fn own(address: SocketAddr) -> Credentials {
    Credentials { identity: Identity::Address(address.ip()), certificates: Vec::new() }
}

pub(super) fn responder(proposals: Proposals, limits: Limits, rng: &mut ChaCha8Rng) -> Responder {
    Responder::new(DOI, proposals, own(server_address()), Liveness::default(), limits, Time(0), rng)
}

pub(super) fn initiator(proposals: Proposals, number: u8, now: Time) -> Initiator {
    let server = Server { address: server_address(), secret: Some(secret(number)), identity: None };
    Initiator::new(DOI, proposals, own(member_address(number)), server, Liveness::default(), now)
}

/// What the network does to a datagram: how many copies arrive, and when.
pub(super) type Weather = Box<dyn FnMut(&mut ChaCha8Rng, &mut Datagram) -> Vec<Duration>>;

/// One member and its server, with the datagrams under way.
pub(super) struct Network {
    pub(super) now: Time,
    pub(super) rng: ChaCha8Rng,
    pub(super) member: Initiator,
    pub(super) server: Responder,
    pub(super) directory: Directory,
    /// Arrival, an order, and whence.
    under_way: BTreeMap<(Time, u64), (SocketAddr, Datagram)>,
    sent: u64,
    pub(super) weather: Weather,
    pub(super) member_events: Vec<Event>,
    pub(super) server_events: Vec<Event>,
    /// All that was sent, in order: from whom, and what.
    pub(super) log: Vec<(SocketAddr, Vec<u8>)>,
    pub(super) refused: Vec<Refused>,
    pub(super) messages: Vec<Message>,
}

impl Network {
    pub(super) fn new(seed: u64, proposals: Proposals, of_server: Proposals) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let server = responder(of_server, Limits::default(), &mut rng);
        Network {
            now: Time(0),
            member: initiator(proposals, 1, Time(0)),
            server,
            rng,
            directory: Directory::of(9),
            under_way: BTreeMap::new(),
            sent: 0,
            weather: Box::new(|_, _| vec![Duration::from_millis(10)]),
            member_events: Vec::new(),
            server_events: Vec::new(),
            log: Vec::new(),
            refused: Vec::new(),
            messages: Vec::new(),
        }
    }

    /// Runs until `end`.
    pub(super) fn run(&mut self, end: Duration) {
        let end = Time(0) + end;
        loop {
            self.collect();
            let timers = [self.member.poll_timeout(), self.server.poll_timeout()].into_iter().flatten();
            let arrival = self.under_way.keys().next().map(|(at, _)| *at);
            let Some(next) = timers.chain(arrival).min().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if arrival == Some(next) {
                self.deliver();
            } else {
                self.member.handle_timeout(self.now, &mut self.rng);
                self.server.handle_timeout(self.now, &mut self.rng);
            }
        }
        self.now = end;
    }

    fn collect(&mut self) {
        while let Some(datagram) = self.member.poll_transmit() {
            self.send(member_address(1), datagram);
        }
        while let Some(datagram) = self.server.poll_transmit() {
            self.send(server_address(), datagram);
        }
        self.member_events.extend(std::iter::from_fn(|| self.member.poll_event()));
        self.server_events.extend(std::iter::from_fn(|| self.server.poll_event()));
    }

    fn send(&mut self, from: SocketAddr, mut datagram: Datagram) {
        self.log.push((from, datagram.bytes.clone()));
        for delay in (self.weather)(&mut self.rng, &mut datagram) {
            self.sent += 1;
            self.under_way.insert((self.now + delay, self.sent), (from, datagram.clone()));
        }
    }

    fn deliver(&mut self) {
        let Some((_, (from, Datagram { to, bytes }))) = self.under_way.pop_first() else { return };
        let result = match to == server_address() {
            true => self.server.handle_datagram(self.now, from, &bytes, &self.directory, &mut self.rng),
            false => self.member.handle_datagram(self.now, from, &bytes, &self.directory, &mut self.rng),
        };
        match result {
            Ok(message) => self.messages.extend(message),
            Err(refused) => self.refused.push(refused),
        }
    }

    /// The SA that both have, if the keys of both are the same.
    pub(super) fn common_sa(&self) -> Option<SaId> {
        let ours = self.member.current()?;
        let theirs = self.server.sa(ours.id())?;
        let same = ours.skeyid_d().matches(theirs.skeyid_d().as_bytes()) && ours.suite() == theirs.suite();
        same.then(|| ours.id())
    }
}

/// Loses, doubles and delays by up to a second.
pub(super) fn storm(loss: u32, double: u32) -> Weather {
    Box::new(move |rng, _| {
        let copies = match (rng.next_u32() % 100, rng.next_u32() % 100) {
            (drawn, _) if drawn < loss => 0,
            (_, drawn) if drawn < double => 2,
            _ => 1,
        };
        (0..copies).map(|_| Duration::from_micros(u64::from(rng.next_u32() % 1_000_000))).collect()
    })
}
