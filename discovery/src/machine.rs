//! The machine: what goes in, what comes out, and what stands between.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use muster_certs::{Author, Identity, Queued, Standing, TrustStore, Waiting};
use muster_wire::idp::{GroupState, MAX_CERTIFICATE, MAX_CHAIN, ProbeAnswer};
use muster_wire::{Body, Bytes, Destination, Envelope, Header, List, MemberId, Nonce, Time, Transmit};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::candidates::{Candidates, Greeting};
use crate::config::{MIN_INTERVAL, REFUSED_LIFE, check_interval};
use crate::counters::{Counters, Dropped};
use crate::event::Event;
use crate::hello::Schedule;
use crate::limits::{Limiter, Rate};
use crate::lists::Fetches;
use crate::message::Message;
use crate::pairwise::{KeySource, OwnKey, derive};
use crate::peers::{Peer, Peers};
use crate::prefixes::OwnPrefixes;
use crate::probe::Answers;
use crate::{Config, SetupError};

/// The discovery protocol of one device.
pub struct Discovery {
    pub(crate) config: Config,
    pub(crate) author: Author,
    pub(crate) chain: Chain,
    pub(crate) own: Identity,
    pub(crate) keys: KeySource,
    pub(crate) key: OwnKey,
    /// When the key is to be renewed.
    pub(crate) key_due: Time,
    pub(crate) trust: TrustStore,
    pub(crate) rng: ChaCha20Rng,
    /// What the wall clock showed, and when.
    pub(crate) clock: (Time, u64),

    pub(crate) group: Option<GroupState>,
    pub(crate) prefixes: OwnPrefixes,
    pub(crate) schedule: Schedule,
    pub(crate) peers: Peers,
    pub(crate) candidates: Candidates,
    /// Probes to strangers …
    pub(crate) strangers: Limiter,
    /// … and to neighbours that come back, which no flood of strangers delays.
    pub(crate) returning: Limiter,
    pub(crate) answers: Answers,
    pub(crate) fetches: Fetches,

    waiting: Waiting,
    transmits: VecDeque<Transmit>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) counters: Counters,
    pub(crate) stopped: bool,
}

/// A certificate chain as it is sent.
pub(crate) type Chain = List<Bytes<MAX_CERTIFICATE>, MAX_CHAIN>;

impl Discovery {
    /// `chain` is the device's certificate and the intermediates above it, `author` signs with its key, `rng_seed` is
    /// secret and different at every start, `unix` the wall clock in seconds.
    ///
    /// The first hello leaves as soon as [`Discovery::set_group_state`] has said what to put into it.
    pub fn new(
        config: Config,
        author: Author,
        chain: Vec<Vec<u8>>,
        mut trust: TrustStore,
        rng_seed: [u8; 32],
        now: Time,
        unix: u64,
    ) -> Result<Discovery, SetupError> {
        check_interval(config.hello_interval)?;
        let own = trust.validate(&chain, unix)?;
        if own.member != author.member() || own.key != author.key().public() {
            return Err(SetupError::Key);
        }
        let chain = sendable(chain, &author)?;
        let rng_seed = Zeroizing::new(rng_seed);
        // The generator's state stays in memory and draws what everybody sees: the secret keys do not come from it.
        let mut rng = ChaCha20Rng::from_seed(*derive(&rng_seed, b"muster 1 nonces"));
        let mut keys = KeySource::new(derive(&rng_seed, b"muster 1 hello keys"));
        let key = OwnKey::first(&mut keys, author.group(), author.member(), author.startup());
        let mut discovery = Discovery {
            schedule: Schedule::new(now, &mut rng),
            strangers: Limiter::new(Rate { burst: 256, per_second: 500 }, Rate { burst: 16, per_second: 8 }, now),
            returning: Limiter::new(Rate { burst: 256, per_second: 500 }, Rate { burst: 16, per_second: 8 }, now),
            answers: Answers::new(now),
            fetches: Fetches::default(),
            config,
            author,
            chain,
            own,
            keys,
            key,
            key_due: now,
            trust,
            rng,
            clock: (now, unix),
            group: None,
            prefixes: OwnPrefixes::default(),
            peers: Peers::default(),
            candidates: Candidates::default(),
            waiting: Waiting::new((64, 1024), (32, 256)),
            transmits: VecDeque::new(),
            events: VecDeque::from([Event::SelfJoined]),
            counters: Counters::default(),
            stopped: false,
        };
        discovery.key_due = discovery.key_end(now);
        Ok(discovery)
    }

    /// Takes an envelope from the socket: checks what costs nothing, and queues it for [`Discovery::process`].
    /// `vouched`: a member of the group has sent it. That says what is looked at first, and nothing else.
    pub fn handle_datagram(&mut self, now: Time, from: SocketAddr, bytes: &[u8], vouched: bool) {
        if self.stopped {
            return;
        }
        if let Err(reason) = self.queue(now, from, bytes, vouched) {
            self.counters.count(reason);
        }
    }

    /// Handles one queued datagram; `false` when there is none. The driver takes turns between this and receiving, so
    /// that a flood fills the queue of its own address and no other.
    pub fn process(&mut self, now: Time) -> bool {
        let Some((from, envelope)) = self.waiting.pop() else { return false };
        if !self.stopped
            && let Err(reason) = self.handle(now, from, envelope)
        {
            self.counters.count(reason);
        }
        true
    }

    /// Does what has become due. Calls before [`Discovery::poll_timeout`] do nothing.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.stopped {
            return;
        }
        self.forgive_own_sleep(now);
        if now >= self.key_due {
            self.renew_key(now);
        }
        self.hello_if_due(now);
        self.look_at_certificates(now);
        self.look_at_silence(now);
        self.ask_candidates(now);
        self.announce_if_due(now);
        self.fetch_if_due(now);
        self.candidates.expire(now);
        self.peers.forget_refused(|refused| now.since(refused.last_hello) >= REFUSED_LIFE);
    }

    /// When [`Discovery::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.stopped {
            return None;
        }
        let hello = self.group.map(|_| self.schedule.due());
        // Asked after each datagram, with as many neighbours as there may be: no more than has to be done for each.
        let (mut silence, mut announcing, mut expiry) = (None, None, None);
        for (_, peer) in self.peers.iter() {
            match peer {
                Peer::Up(up) => {
                    silence = earlier(silence, Some(up.silence_due()));
                    announcing = earlier(announcing, up.announcing.due());
                    expiry = earlier(expiry, Some(up.identity.not_after));
                }
                Peer::Gone(gone) => expiry = earlier(expiry, Some(gone.identity.not_after)),
                Peer::Refused(_) => {}
            }
        }
        let expiry = expiry.map(|not_after| self.when(not_after.saturating_add(1)));
        let asking = [self.candidates.next_timer(), self.fetches.next_timer()];
        [silence, announcing, expiry].into_iter().chain(asking).flatten().chain(hello).chain([self.key_due]).min()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// What has happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

/// Inside.
impl Discovery {
    fn queue(&mut self, now: Time, from: SocketAddr, bytes: &[u8], vouched: bool) -> Result<(), Dropped> {
        let envelope = Envelope::parse(bytes).map_err(|_| Dropped::Malformed)?;
        match self.admit(now, from, &envelope) {
            // The answer that makes it a neighbour may wait just before this.
            Err(Dropped::UnknownSender) if self.candidates.is_asked(from, envelope.header()) => {}
            admitted => drop(admitted?),
        }
        match self.waiting.push(self.standing(from, envelope.header(), vouched), from, envelope) {
            Queued::Waits => Ok(()),
            Queued::Repeated => Err(Dropped::Replayed),
            Queued::Full => Err(Dropped::QueueFull),
        }
    }

    fn standing(&self, from: SocketAddr, header: &Header, vouched: bool) -> Standing {
        match self.peers.up(&header.sender) {
            Some(up) if up.address.ip() != from.ip() => Standing::Unfamiliar,
            // What is handled of an up neighbour's run is marked. Of anybody else nothing says what was here before.
            Some(up) if vouched && up.run.startup == header.startup => Standing::Vouched,
            Some(_) => Standing::Familiar,
            None => Standing::Unfamiliar,
        }
    }

    fn handle(&mut self, now: Time, from: SocketAddr, envelope: Envelope) -> Result<(), Dropped> {
        // Again: what was handled while it waited may have used up its nonce or sequence number.
        match self.admit(now, from, &envelope)? {
            Message::Hello(hello) => self.handle_hello(now, Greeting { from, envelope, hello }),
            Message::Probe(probe) => self.handle_probe(now, from, envelope, probe),
            Message::Answer(answer) => self.handle_answer(now, from, envelope, answer),
            Message::Prefixes(prefixes) => self.handle_prefixes(now, envelope, prefixes),
            Message::Ack(_) => self.handle_ack(now, envelope),
            Message::Goodbye => self.handle_goodbye(now, envelope),
            Message::CrlRequest(request) => self.handle_crl_request(now, from, envelope, request),
            Message::CrlPart(part) => self.handle_crl_part(now, envelope, part),
        }
    }

    /// All that can be checked without cryptography. Changes nothing.
    fn admit(&self, now: Time, from: SocketAddr, envelope: &Envelope) -> Result<Message, Dropped> {
        let header = envelope.header();
        if header.group != self.author.group() {
            return Err(Dropped::OtherGroup);
        }
        if header.sender == self.author.member() {
            return Err(Dropped::Own);
        }
        let peer = self.peers.get(&header.sender);
        // `Some`: of the run that we know of its sender.
        let run = self.peers.run(&header.sender).filter(|run| run.startup == header.startup);
        if run.is_some_and(|run| !run.is_new(header.kind, header.sequence)) {
            return Err(Dropped::Replayed);
        }
        let message = Message::decode(envelope)?;
        match (&message, peer) {
            (_, Some(Peer::Gone(gone))) if run.is_some() && gone.pair.is_none() => Err(Dropped::Replayed),
            (Message::Hello(_), Some(Peer::Refused(refused))) if now < refused.until => Err(Dropped::Refused),
            (Message::Hello(_), _) => Ok(message),
            (Message::Probe(probe), _) if !self.schedule.is_recent(&probe.hello_nonce) => Err(Dropped::StaleNonce),
            (Message::Probe(_), _) => Ok(message),
            (Message::Answer(answer), _) if !self.is_asked(from, header, answer) => Err(Dropped::NotAsked),
            (Message::Answer(_), _) => Ok(message),
            (Message::Ack(ack), Some(Peer::Up(_))) if run.is_some() => {
                let current = ack.startup == self.author.startup() && ack.version == self.prefixes.version();
                if current { Ok(message) } else { Err(Dropped::NotAsked) }
            }
            (Message::Prefixes(_), Some(Peer::Up(_))) if run.is_some() => Ok(message),
            (Message::Goodbye, Some(Peer::Up(_) | Peer::Gone(_))) if run.is_some() => Ok(message),
            (Message::CrlRequest(request), _) => {
                if self.schedule.is_recent(&request.hello_nonce) {
                    Ok(message)
                } else {
                    Err(Dropped::StaleNonce)
                }
            }
            (Message::CrlPart(part), Some(Peer::Up(_))) if run.is_some() => {
                if self.fetches.wants(&header.sender, part) { Ok(message) } else { Err(Dropped::NotAsked) }
            }
            (Message::Ack(_) | Message::Prefixes(_) | Message::Goodbye | Message::CrlPart(_), _) => {
                Err(Dropped::UnknownSender)
            }
        }
    }

    /// When this machine's process slept (a suspended laptop, a paused virtual machine, a busy driver), its neighbours'
    /// datagrams still wait in the socket: they are not to be called silent for the time that it was deaf.
    fn forgive_own_sleep(&mut self, now: Time) {
        let late = self.poll_timeout().map_or(Duration::ZERO, |due| now.since(due));
        if late >= MIN_INTERVAL {
            // Who was heard before this was noticed needs no pardon.
            self.peers.ups_mut().for_each(|(_, up)| up.last_life = (up.last_life + late).min(now));
        }
    }

    /// The handlers' way out.
    pub(crate) fn send<T: Body>(&mut self, to: Destination, body: &T) {
        // Every body of ours is smaller than a datagram; the one that might not be, the chain, was tried at the start.
        if let Ok(bytes) = self.author.seal(body) {
            self.transmits.push_back(Transmit { to, bytes });
        }
    }

    pub(crate) fn send_bytes(&mut self, to: Destination, bytes: Vec<u8>) {
        self.transmits.push_back(Transmit { to, bytes });
    }

    pub(crate) fn draw_nonce(&mut self) -> Nonce {
        let mut nonce = [0; 16];
        self.rng.fill_bytes(&mut nonce);
        Nonce(nonce)
    }

    pub(crate) fn unix(&self, now: Time) -> u64 {
        self.clock.1.saturating_add(now.since(self.clock.0).as_secs())
    }

    /// When the wall clock will show `unix`.
    fn when(&self, unix: u64) -> Time {
        self.clock.0 + Duration::from_secs(unix.saturating_sub(self.clock.1))
    }

    #[cfg(test)]
    pub(crate) fn candidate_count(&self) -> usize {
        self.candidates.len()
    }
}

/// The lesser of two of which each may be missing.
fn earlier<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

/// The chain, if an answer with it fits into a datagram.
fn sendable(chain: Vec<Vec<u8>>, author: &Author) -> Result<Chain, SetupError> {
    let chain = chain.into_iter().map(Bytes::new).collect::<Option<Vec<_>>>().ok_or(SetupError::Chain)?;
    let chain = List::new(chain).ok_or(SetupError::Chain)?;
    let answer = ProbeAnswer { nonce: Nonce([0; 16]), chain: chain.clone() };
    author.seal_as(0, &answer).map_err(|_| SetupError::Chain)?;
    Ok(chain)
}

/// The member id of a certificate.
pub(crate) fn fingerprint(certificate: &[u8]) -> MemberId {
    MemberId(Sha256::digest(certificate).into())
}
