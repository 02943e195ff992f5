//! The state machine: what goes in, what comes out, what it holds.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use muster_certs::{Author, PublicKey, Queued, Standing, Waiting};
use muster_wire::idp::GroupState;
use muster_wire::mike::{CHUNK_LEN, Chunk, MessageKind};
use muster_wire::{Destination, Envelope, Hash, Instance, Kind, MemberId, Nonce, Time, Transmit};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::activation::LiveEpoch;
use crate::epoch::Epoch;
use crate::exposure::SeenHeaders;
use crate::filling::Filling;
use crate::joining::Join;
use crate::message::{Assembly, Message, Sent};
use crate::own::OwnLeaves;
use crate::patience::Patience;
use crate::recovery::Recovery;
use crate::refresh::Refreshing;
use crate::roster::Roster;
use crate::secret::{Secret, SecretSource};
use crate::succession::{Claim, Departure};
use crate::transaction::{Pending, Transaction, Wish};
use crate::{Config, Counters, Event, Refusal};

/// Waiting datagrams of one source and sources that wait: those at whose address a neighbour was heard, or of whose
/// datagrams a voucher says that a member has sent them; and all others.
const FAMILIAR: (usize, usize) = (64, 1024);
const UNFAMILIAR: (usize, usize) = (16, 64);
/// No datagram of ours is larger: a chunk, its place and the envelope.
const MAX_LENGTH: usize = CHUNK_LEN + 300;
/// Messages whose hashes are remembered, so that a repetition costs nothing.
const MAX_HANDLED: usize = 64;
/// Messages that wait for a certificate.
const MAX_DEFERRED: usize = 16;
/// How long they wait.
const DEFER_FOR: Duration = Duration::from_secs(3);

/// A message that cannot be checked before a certificate comes.
struct Deferred {
    since: Time,
    sender: MemberId,
    message: Message,
    /// Whose certificate it is.
    lacks: MemberId,
}

/// The key agreement of one device in one group.
///
/// Inputs are [`handle_datagram`](Self::handle_datagram) with [`process`](Self::process), the reports of discovery
/// (`neighbour_*`), the driver's [`installed`](Self::installed), time and commands. After each, drain
/// [`poll_transmit`](Self::poll_transmit), [`poll_event`](Self::poll_event) and [`poll_timeout`](Self::poll_timeout).
/// There is always an epoch: a device that is alone is a group of one under its own management.
pub struct KeyAgreement {
    pub(crate) config: Config,
    pub(crate) author: Author,
    /// Where secrets come from …
    pub(crate) secrets: SecretSource,
    /// … and what anybody may know in the end: waits, tags.
    pub(crate) rng: ChaCha20Rng,
    pub(crate) roster: Roster,
    pub(crate) own: OwnLeaves,
    /// The current epoch.
    pub(crate) epoch: Epoch,
    /// The header of the epoch that we send under, one of the live; the current one's when it is active.
    pub(crate) outbound: Hash,
    /// When the current epoch was entered.
    pub(crate) entered_at: Time,
    /// When its transaction manager became ours.
    pub(crate) reign_since: Time,
    /// All epochs whose SAs are installed, the current one last.
    pub(crate) live: Vec<LiveEpoch>,
    /// SPI tags that devices reported when they joined, and until when these may still receive under them.
    pub(crate) reported_tags: Vec<(u16, Time)>,
    /// Every header ever entered: a key is installed once in a process's life.
    pub(crate) entered: BTreeSet<Hash>,
    pub(crate) acknowledge_at: Option<Time>,

    pub(crate) pending: Pending,
    pub(crate) transaction: Option<Transaction>,
    pub(crate) last_commit: Option<Time>,
    pub(crate) join: Option<Join>,
    /// Transaction managers that did not take us.
    pub(crate) left_alone: Patience,
    /// Members that joined and did not acknowledge.
    pub(crate) sluggish: Patience,
    pub(crate) filling: Filling,
    pub(crate) refreshing: Refreshing,
    pub(crate) wish: Option<Wish>,
    pub(crate) seen: SeenHeaders,
    pub(crate) claim: Option<Claim>,
    pub(crate) recovery: Option<Recovery>,
    pub(crate) departure: Option<Departure>,

    waiting: Waiting,
    pub(crate) assembly: Assembly,
    pub(crate) sent: Sent,
    pub(crate) handled: VecDeque<Hash>,
    deferred: VecDeque<Deferred>,
    pub(crate) own_nonces: Vec<Nonce>,
    transmits: VecDeque<Transmit>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) counters: Counters,
}

impl KeyAgreement {
    /// A group of one. `seed` must be unpredictable and used once.
    pub fn new(config: Config, author: Author, seed: [u8; 32], now: Time) -> Result<Self, Refusal> {
        let seed = Secret::from_bytes(seed);
        let mut rng = ChaCha20Rng::from_seed(seed.derive("public values", &[]).to_hash().0);
        let mut secrets = SecretSource::new(seed.derive("secret values", &[]));
        let mut own = OwnLeaves::default();
        let roster = Roster::new(author.group(), author.member(), author.key().public());
        let epoch = Epoch::of_one(&config, &author, &mut own, (&mut secrets, &mut rng), 1, BTreeSet::new())?;
        let mut machine = Self {
            config,
            author,
            secrets,
            rng,
            roster,
            own,
            outbound: Hash::NONE,
            entered_at: now,
            reign_since: now,
            live: Vec::new(),
            reported_tags: Vec::new(),
            entered: BTreeSet::new(),
            acknowledge_at: None,
            pending: Pending::default(),
            transaction: None,
            last_commit: None,
            join: None,
            left_alone: Patience::default(),
            sluggish: Patience::default(),
            filling: Filling::new(&epoch),
            refreshing: Refreshing::default(),
            wish: None,
            seen: SeenHeaders::default(),
            epoch,
            claim: None,
            recovery: None,
            departure: None,
            waiting: Waiting::new(FAMILIAR, UNFAMILIAR),
            assembly: Assembly::default(),
            sent: Sent::default(),
            handled: VecDeque::new(),
            deferred: VecDeque::new(),
            own_nonces: Vec::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        };
        machine.announce_epoch(now, Duration::ZERO);
        machine.activate(now);
        Ok(machine)
    }

    // --- What the network brings ---

    /// Takes an envelope: the cheap checks at once, the rest in [`process`](Self::process). `vouched`: a member of the
    /// group has sent it. That says what is looked at first, and nothing else.
    pub fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8], vouched: bool) {
        match self.admit(bytes) {
            Ok(envelope) => {
                let sender = self.roster.get(&envelope.header().sender);
                let standing = match sender.is_some_and(|peer| peer.address.ip() == from.ip()) {
                    // admit() lets nothing through of another run than the one whose sequence numbers we know.
                    true if vouched => Standing::Vouched,
                    true => Standing::Familiar,
                    false => Standing::Unfamiliar,
                };
                match self.waiting.push(standing, from, envelope) {
                    Queued::Waits => {}
                    Queued::Repeated => self.counters.replayed += 1,
                    Queued::Full => self.counters.queue_full += 1,
                }
            }
            Err(counter) => *counter(&mut self.counters) += 1,
        }
    }

    /// Checks and handles one waiting datagram; `false` when none waits.
    pub fn process(&mut self, now: Time) -> bool {
        let Some((_, envelope)) = self.waiting.pop() else { return false };
        let sender = envelope.header().sender;
        if let Err(reason) = self.open(now, envelope) {
            self.refuse(sender, reason);
        }
        self.consider(now);
        true
    }

    // --- What discovery reports ---

    /// A neighbour came up, or came up again: with another startup stamp it is another process, with the same one
    /// (`restored`) its link was down for longer than the dead time.
    pub fn neighbour_up(
        &mut self,
        now: Time,
        member: MemberId,
        key: PublicKey,
        startup: u64,
        address: SocketAddr,
        restored: bool,
    ) {
        self.roster.up(member, key, startup, address);
        self.left_alone.forgive(&member);
        self.pending.leaving.remove(&member);
        let within = self.epoch.tree().slot_of(&member).is_some();
        if restored && within && self.roster.get_mut(&member).is_some_and(|peer| peer.may_ask_for_key(now)) {
            // A forced rejoin renews the key: it may have missed anything.
            self.pending.rekey = true;
        }
        self.retry_deferred(now, &member);
        self.check_manager(now);
        self.consider(now);
    }

    /// A verified hello of a neighbour.
    pub fn neighbour_heard(
        &mut self,
        now: Time,
        member: MemberId,
        address: SocketAddr,
        nonce: Nonce,
        interval: Duration,
        group: GroupState,
    ) {
        let ours = group.instance == self.epoch.instance();
        let Some(peer) = self.roster.get_mut(&member) else { return };
        peer.address = address;
        peer.nonce = nonce;
        peer.interval = interval;
        peer.group = Some(group);
        peer.heard_at = now;
        peer.astray_since = if ours { None } else { Some(peer.astray_since.unwrap_or(now)) };
        if ours && member == self.epoch.tm() && group.header == self.epoch.public.hash && group.active {
            self.activate(now);
        }
        if ours && group.header == self.epoch.public.hash && group.installed && self.is_tm() {
            self.acknowledged(now, member);
        }
        if ours && group.epoch > self.epoch.number() {
            self.recover(now, member);
        }
        if ours && group.epoch == self.epoch.number() && group.header != self.epoch.public.hash {
            self.ask_for_other_header(now, &member);
        }
        self.check_manager(now);
        self.consider(now);
    }

    /// A neighbour is gone; `announced` when it said so itself.
    pub fn neighbour_gone(&mut self, now: Time, member: MemberId, announced: bool) {
        if let Some(peer) = self.roster.get_mut(&member) {
            peer.up = false;
            peer.group = None;
        }
        if announced {
            self.pending.leaving.insert(member);
        }
        self.check_manager(now);
        self.consider(now);
    }

    /// A device's certificate has expired or was revoked: it is excluded, and nothing that it says counts any more.
    pub fn certificate_refused(&mut self, now: Time, member: MemberId) {
        self.roster.refuse(&member, now);
        self.check_manager(now);
        self.consider(now);
    }

    /// The nonces of the own recent hellos: a request that repeats one comes from the same network.
    pub fn set_hello_nonces(&mut self, nonces: &[Nonce]) {
        self.own_nonces = nonces.to_vec();
    }

    /// Other times, for what begins from now on. The group's name stays what it is.
    pub fn set_times(&mut self, config: Config) {
        self.config = Config { name: std::mem::take(&mut self.config.name), ..config };
    }

    // --- Time ---

    /// Does what is due. Called too early or too often, it does nothing.
    pub fn handle_timeout(&mut self, now: Time) {
        let keep = self.keep_leaves_for();
        self.own.expire(now, keep);
        self.deferred.retain(|deferred| now.since(deferred.since) < DEFER_FOR);
        self.handle_activation_timers(now);
        self.handle_repairs(now);
        self.handle_recovery_timer(now);
        self.handle_transaction_timers(now);
        self.handle_join_timers(now);
        self.handle_departure_timer(now);
        self.handle_claim_timer(now);
        self.handle_filling_timers(now);
        self.handle_refresh_timer(now);
        self.handle_wish_timer(now);
        self.consider(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Time> {
        [
            self.own.next_expiry(self.keep_leaves_for()),
            self.deferred.front().map(|deferred| deferred.since + DEFER_FOR),
            self.next_activation_timer(),
            self.assembly.next_repair(),
            self.recovery.as_ref().map(|recovery| recovery.at),
            self.next_transaction_timer(),
            self.next_join_timer(),
            self.departure.as_ref().map(|departure| departure.next()),
            self.claim.as_ref().map(|claim| claim.at),
            self.next_filling_timer(),
            self.next_refresh_timer(),
            self.wish.as_ref().map(|wish| wish.say_at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    // --- What comes out ---

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    // --- What it holds ---

    /// What hellos say of the group.
    pub fn group_state(&self) -> GroupState {
        let installed = self.live.iter().any(|live| live.header == self.epoch.public.hash && live.installed);
        self.epoch.state(installed, self.is_active())
    }

    /// The members of the current epoch with their slots, rising.
    pub fn members(&self) -> impl Iterator<Item = (u32, MemberId)> {
        self.epoch.tree().members().map(|(slot, node)| (slot.0, node.leaf.member))
    }

    /// The reign of the current epoch.
    pub fn instance(&self) -> Instance {
        self.epoch.instance()
    }

    /// What the data plane needs of the current epoch.
    pub fn keys(&self) -> crate::EpochKeys {
        self.epoch.keys(&self.config.name)
    }

    /// Whether we send under the current epoch.
    pub fn is_active(&self) -> bool {
        self.outbound == self.epoch.public.hash
    }

    /// Whether a greater group is being joined.
    pub fn is_joining(&self) -> bool {
        self.join.is_some()
    }

    /// Counted so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    // --- Shared by the parts ---

    pub(crate) fn me(&self) -> MemberId {
        self.author.member()
    }

    pub(crate) fn is_tm(&self) -> bool {
        self.epoch.tm() == self.author.member()
    }

    /// What may have become possible after any input.
    pub(crate) fn consider(&mut self, now: Time) {
        if self.departure.is_none() && self.is_tm() {
            self.consider_transaction(now);
            self.consider_joining(now);
        }
    }

    pub(crate) fn send<T: muster_wire::Body>(&mut self, to: Destination, body: &T) {
        // Sealing fails only for a body larger than a datagram; ours are bounded by their types.
        if let Ok(bytes) = self.author.seal(body) {
            self.transmits.push_back(Transmit { to, bytes });
        }
    }

    pub(crate) fn send_message(&mut self, to: Destination, message: &Message, only: Option<&[u16]>) {
        for chunk in message.chunks(only) {
            self.send(to, &chunk);
        }
    }

    pub(crate) fn random_below(&mut self, limit: Duration) -> Duration {
        let micros = limit.as_micros().max(1) as u64;
        Duration::from_micros(self.rng.next_u64() % micros)
    }

    pub(crate) fn refuse(&mut self, member: MemberId, reason: Refusal) {
        match reason {
            Refusal::Signature(_) => self.counters.signature += 1,
            _ => self.counters.refused += 1,
        }
        self.events.push_back(Event::Refused { member, reason });
    }

    /// A message that cannot be checked before the certificate of `lacks` comes.
    pub(crate) fn defer(&mut self, now: Time, sender: MemberId, message: Message, lacks: MemberId) {
        if self.deferred.len() >= MAX_DEFERRED {
            self.deferred.pop_front();
        }
        if message.kind == MessageKind::Snapshot {
            self.observe_later(&sender);
        }
        self.deferred.push_back(Deferred { since: now, sender, message, lacks });
    }

    pub(crate) fn remember_handled(&mut self, hash: Hash) {
        if self.handled.len() >= MAX_HANDLED {
            self.handled.pop_front();
        }
        self.handled.push_back(hash);
    }

    /// A part of a message that was handled, unless we have asked for it again: a snapshot that led to nothing when it
    /// came may now.
    pub(crate) fn is_handled(&self, chunk: &Chunk) -> bool {
        let asked = chunk.kind == MessageKind::Snapshot
            && !self.entered.contains(&chunk.header)
            && (self.recovery.is_some() || self.join.as_ref().is_some_and(Join::is_fetching));
        !asked && self.handled.contains(&chunk.message)
    }

    fn keep_leaves_for(&self) -> Duration {
        self.config.deactivation_delay + self.config.hello_interval * 4
    }

    /// The certificate of `came` is here.
    fn retry_deferred(&mut self, now: Time, came: &MemberId) {
        let (ready, waiting) = std::mem::take(&mut self.deferred).into_iter().partition(|d| d.lacks == *came);
        self.deferred = waiting;
        let ready: VecDeque<Deferred> = ready;
        for Deferred { since, sender, message, .. } in ready {
            if now.since(since) < DEFER_FOR {
                self.handle_message(now, sender, message);
            }
        }
    }

    /// Everything that can be checked without looking at a signature; else the counter that counts it.
    fn admit(&self, bytes: &[u8]) -> Result<Envelope, fn(&mut Counters) -> &mut u64> {
        let envelope = Envelope::parse(bytes).map_err(|_| counter(|c| &mut c.malformed))?;
        let header = envelope.header();
        if header.kind < Kind::Chunk || bytes.len() > MAX_LENGTH {
            return Err(|c| &mut c.malformed);
        }
        if header.group != self.author.group() {
            return Err(|c| &mut c.other_group);
        }
        if header.sender == self.author.member() {
            return Err(|c| &mut c.reflected);
        }
        let Some(peer) = self.roster.get(&header.sender).filter(|peer| peer.is_trusted()) else {
            return Err(|c| &mut c.unknown);
        };
        if peer.startup != header.startup || !peer.window.is_new(header.sequence) {
            return Err(|c| &mut c.replayed);
        }
        if self.is_idle_repetition(&envelope) {
            return Err(|c| &mut c.replayed);
        }
        Ok(envelope)
    }

    /// A part of a message that was handled, and that asks for nothing more.
    fn is_idle_repetition(&self, envelope: &Envelope) -> bool {
        if envelope.header().kind != Kind::Chunk {
            return false;
        }
        match envelope.decode::<Chunk>() {
            Ok(chunk) => {
                let current = chunk.header == self.epoch.public.hash;
                // The current commit once more: its author misses our acknowledgement.
                let repeated = current && chunk.kind == MessageKind::Commit;
                !repeated && (self.is_handled(&chunk) || (current && chunk.kind == MessageKind::Snapshot))
            }
            Err(_) => false,
        }
    }

    fn open(&mut self, now: Time, envelope: Envelope) -> Result<(), Refusal> {
        let header = *envelope.header();
        let Some(peer) = self.roster.get_mut(&header.sender) else { return Ok(()) };
        if peer.startup != header.startup || !peer.window.is_new(header.sequence) {
            self.counters.replayed += 1;
            return Ok(());
        }
        let Ok(envelope) = peer.key.open(envelope) else {
            // Whoever this was, it was not the sender that it names: counted, and nobody is told of it.
            self.counters.signature += 1;
            return Ok(());
        };
        peer.window.mark(header.sequence);
        match header.kind {
            Kind::Chunk => self.handle_chunk(now, header.sender, envelope.decode()?),
            Kind::Request => self.handle_request(now, header.sender, &envelope.decode()?),
            Kind::HandoverRefused => self.handle_handover_refused(now, &header.sender, &envelope.decode()?),
            Kind::Ack => self.handle_ack(now, header.sender, &envelope.decode()?),
            Kind::Activate => self.handle_activate(now, header.sender, &envelope.decode()?),
            Kind::Leave => self.handle_leave(now, header.sender, &envelope.decode()?),
            Kind::RekeyRequest => self.handle_rekey_request(now, header.sender, &envelope.decode()?),
            Kind::Fills => self.handle_fills(now, &header.sender, &envelope.decode()?),
            Kind::FillsWanted => self.handle_fills_wanted(now, &header.sender, &envelope.decode()?),
            Kind::Objection => self.handle_objection(&header.sender, &envelope.decode()?),
            Kind::Refresh => self.handle_refresh(now, header.sender, &envelope.decode()?),
            Kind::Exposure => self.handle_exposure(now, &envelope.decode()?),
            // admit() let no other kind through.
            _ => Ok(()),
        }
    }
}

/// Helps the compiler to see a closure as a function.
fn counter(which: fn(&mut Counters) -> &mut u64) -> fn(&mut Counters) -> &mut u64 {
    which
}
