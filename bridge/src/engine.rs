//! Discovery and key agreement as one machine: what one learns, the other is told. Pure: the daemon and the simulator
//! both drive this.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use muster_certs::{Author, TrustStore};
use muster_discovery::{Discovery, GoneReason, JoinKind, SetupError};
use muster_keyagree::{EpochKeys, KeyAgreement};
use muster_wire::{Hash, MemberId, Time, Transmit};

use crate::event::{EventKind, Record};
use crate::pairing::{Pairing, UnicastChange};
use crate::vouching::Vouching;

/// Which of the two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// Discovery.
    Discovery,
    /// Key agreement: the next one.
    KeyAgreement,
}

/// What the driver does for the engine.
pub enum Action {
    /// Install the inbound SAs of this epoch, then say [`Engine::installed`].
    Install(EpochKeys),
    /// Send under this epoch.
    Activate {
        /// Its header.
        header: Hash,
    },
    /// Stop receiving under this epoch.
    Retire {
        /// Its header.
        header: Hash,
    },
    /// What a neighbour's red side is; empty when it is gone.
    Prefixes {
        /// The neighbour.
        member: MemberId,
        /// Its prefixes.
        prefixes: Vec<IpNet>,
    },
    /// A revocation list (DER) has come from a neighbour and is in force: keep it over restarts.
    Keep {
        /// Its issuer, by a hash.
        issuer: Hash,
        /// The list.
        list: Vec<u8>,
    },
    /// The own certificate is revoked: nothing is sent any more, and the process is to end.
    Revoked,
    /// A neighbour has come up: unicast goes to its prefixes; or is gone: it does not. Or it is where it was not
    /// before.
    Reach {
        /// The neighbour.
        member: MemberId,
        /// Its black address while it is up.
        address: Option<IpAddr>,
    },
    /// The unicast SAs change; if one cannot be received or sent on, say [`Engine::renew_hello_key`].
    Unicast(UnicastChange),
    /// For the operator.
    Record(Record),
    /// The process can end.
    Left,
}

/// What is known of a device from its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceName {
    /// Its name.
    pub name: String,
    /// Its nation.
    pub organisation: String,
    /// Its black address, when it was heard.
    pub address: Option<SocketAddr>,
}

/// The two protocols of one device in one group.
pub struct Engine {
    discovery: Discovery,
    keyagree: KeyAgreement,
    names: BTreeMap<MemberId, DeviceName>,
    /// Devices whose red prefixes are known. A link that was down does not change them.
    announced: BTreeSet<MemberId>,
    /// An installed epoch, some of whose members have not announced their prefixes here yet.
    unannounced: Option<(Hash, Time)>,
    /// How long an acknowledgement waits for announcements.
    patience: Duration,
    /// Since when refusals are counted, and how many there were.
    refusals: (Time, u32),
    pairing: Pairing,
    vouching: Vouching,
    /// When another hello key that was asked for is made, and when the last one was.
    renewal: (Option<Time>, Option<Time>),
    /// Between two hello keys that are asked for.
    spacing: Duration,
    actions: VecDeque<Action>,
    left: bool,
}

/// What a start needs besides time: see [`Discovery::new`] and [`KeyAgreement::new`].
pub struct Start {
    /// Of discovery.
    pub discovery: muster_discovery::Config,
    /// Of the key agreement.
    pub keyagree: muster_keyagree::Config,
    /// The device in this group.
    pub author: Author,
    /// Its certificates.
    pub chain: Vec<Vec<u8>>,
    /// Whom it trusts.
    pub trust: TrustStore,
    /// Unpredictable, one for each of the two machines.
    pub seeds: [[u8; 32]; 2],
    /// Own red prefixes.
    pub prefixes: Vec<IpNet>,
}

/// Why an engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Discovery refuses its set-up.
    #[error(transparent)]
    Discovery(#[from] SetupError),
    /// The own red prefixes.
    #[error("red.prefixes: {0}")]
    Prefixes(#[from] muster_discovery::PrefixError),
    /// The key agreement refuses its set-up.
    #[error(transparent)]
    KeyAgreement(#[from] muster_keyagree::Refusal),
}

impl Engine {
    /// Starts both machines.
    pub fn new(start: Start, now: Time, unix: u64) -> Result<Engine, StartError> {
        let Start { discovery, keyagree, author, chain, trust, seeds, prefixes } = start;
        let me = author.member();
        let (spacing, grace) = (spacing(&discovery, &keyagree), keyagree.deactivation_delay);
        let mut discovery = Discovery::new(discovery, author.clone(), chain, trust, seeds[0], now, unix)?;
        discovery.set_prefixes(now, prefixes)?;
        let patience = keyagree.activation_delay / 2;
        let keyagree = KeyAgreement::new(keyagree, author, seeds[1], now)?;
        let own = discovery.own_identity();
        let own = DeviceName { name: own.name.clone(), organisation: own.organisation.clone(), address: None };
        let mut engine = Engine {
            discovery,
            keyagree,
            names: BTreeMap::from([(me, own)]),
            announced: BTreeSet::from([me]),
            unannounced: None,
            patience,
            refusals: (now, 0),
            pairing: Pairing::new(grace),
            vouching: Vouching::default(),
            renewal: (None, None),
            spacing,
            actions: VecDeque::new(),
            left: false,
        };
        engine.record(EventKind::Started, Some(me), String::new());
        engine.settle(now);
        Ok(engine)
    }

    /// A datagram from one of the two sockets.
    pub fn handle_datagram(&mut self, now: Time, port: Port, from: SocketAddr, bytes: &[u8]) {
        let (envelope, vouched) = self.vouching.unwrap(bytes);
        match port {
            Port::Discovery => self.discovery.handle_datagram(now, from, envelope, vouched),
            Port::KeyAgreement => self.keyagree.handle_datagram(from, envelope, vouched),
        }
    }

    /// Handles one waiting datagram of each machine; `false` when none waits.
    pub fn process(&mut self, now: Time) -> bool {
        let discovered = self.discovery.process(now);
        self.settle(now);
        self.keyagree.set_hello_nonces(&self.discovery.recent_nonces());
        let agreed = self.keyagree.process(now);
        self.settle(now);
        discovered || agreed
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.discovery.handle_timeout(now);
        self.keyagree.handle_timeout(now);
        if self.renewal.0.is_some_and(|at| at <= now) {
            self.renewal = (None, Some(now));
            self.discovery.renew_key(now);
        }
        self.pairing.handle_timeout(now);
        self.settle(now);
        if let Some((header, until)) = self.unannounced
            && until <= now
        {
            self.unannounced = None;
            self.keyagree.installed(now, header);
            self.settle(now);
        }
    }

    /// When [`Engine::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Time> {
        let unannounced = self.unannounced.map(|(_, until)| until);
        let unicast = [self.pairing.poll_timeout(), self.renewal.0];
        let protocols = [self.discovery.poll_timeout(), self.keyagree.poll_timeout(), unannounced];
        protocols.into_iter().chain(unicast).flatten().min()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<(Port, Transmit)> {
        let discovery = self.discovery.poll_transmit().map(|transmit| (Port::Discovery, transmit));
        let next = discovery.or_else(|| self.keyagree.poll_transmit().map(|transmit| (Port::KeyAgreement, transmit)));
        next.map(|(port, Transmit { to, bytes })| (port, Transmit { to, bytes: self.vouching.wrap(bytes) }))
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The inbound SAs of an epoch are in place.
    ///
    /// To receive under it takes also the senders' prefixes: while some are missing the key agreement is not told, for
    /// a while, so that nobody sends yet.
    pub fn installed(&mut self, now: Time, header: Hash) {
        self.unannounced = Some((header, now + self.patience));
        self.confirm_installed(now);
        self.settle(now);
    }

    /// Asks for a new group key.
    pub fn rekey(&mut self, now: Time) {
        self.keyagree.rekey(now);
        self.settle(now);
    }

    /// Leaves the group; [`Action::Left`] follows when the others have a key without us.
    pub fn leave(&mut self, now: Time) {
        self.keyagree.leave(now);
        self.settle(now);
    }

    /// Other trust anchors or revocation lists. Newer lists that have come from neighbours stay in force.
    pub fn set_trust(&mut self, now: Time, trust: TrustStore) {
        self.discovery.set_trust(now, trust);
        self.settle(now);
    }

    /// Asks for another hello key, and so for other unicast SAs: one has carried all that it may, its key was in use
    /// before, or its SPI is another's. At once, or when the neighbours have had time to follow the last one.
    pub fn renew_hello_key(&mut self, now: Time) {
        let earliest = self.renewal.1.map_or(now, |last| now.max(last + self.spacing));
        self.renewal.0.get_or_insert(earliest);
    }

    /// The wall clock was set.
    pub fn set_wall_clock(&mut self, now: Time, unix: u64) {
        self.discovery.set_wall_clock(now, unix);
        self.settle(now);
    }

    /// Says hello at once: the black address has changed.
    pub fn announce(&mut self, now: Time) {
        self.discovery.announce(now);
    }

    /// Other own red prefixes.
    pub fn set_prefixes(&mut self, now: Time, prefixes: Vec<IpNet>) -> Result<(), muster_discovery::PrefixError> {
        self.discovery.set_prefixes(now, prefixes)?;
        self.settle(now);
        Ok(())
    }

    /// Other times; the group's name stays what it is.
    pub fn set_times(
        &mut self,
        now: Time,
        discovery: &muster_discovery::Config,
        keyagree: muster_keyagree::Config,
    ) -> Result<(), SetupError> {
        self.discovery.set_hello_interval(now, discovery.hello_interval)?;
        self.discovery.set_key_life(now, discovery.key_life);
        self.patience = keyagree.activation_delay / 2;
        self.spacing = spacing(discovery, &keyagree);
        self.pairing.set_grace(keyagree.deactivation_delay);
        self.keyagree.set_times(keyagree);
        self.settle(now);
        Ok(())
    }

    /// Discovery, to look at.
    pub fn discovery(&self) -> &Discovery {
        &self.discovery
    }

    /// Key agreement, to look at.
    pub fn keyagree(&self) -> &KeyAgreement {
        &self.keyagree
    }

    /// What is known of a device.
    pub fn name(&self, member: &MemberId) -> Option<&DeviceName> {
        self.names.get(member)
    }

    /// Adds a record for the operator.
    pub fn record(&mut self, kind: EventKind, member: Option<MemberId>, detail: String) {
        let epoch = self.keyagree.group_state().epoch;
        self.record_in(epoch, kind, member, detail);
    }

    fn record_in(&mut self, epoch: u64, kind: EventKind, member: Option<MemberId>, detail: String) {
        self.actions.push_back(Action::Record(Record { kind, member, epoch, detail }));
    }

    fn confirm_installed(&mut self, now: Time) {
        let complete = self.keyagree.members().all(|(_, member)| self.announced.contains(&member));
        if complete && let Some((header, _)) = self.unannounced.take() {
            self.keyagree.installed(now, header);
        }
    }

    /// A record of something refused. Whoever can cause them must not fill the log, nor push everything else out of it.
    pub fn record_refusal(&mut self, now: Time, member: MemberId, detail: String) {
        const PER_SECOND: u32 = 10;
        if now.since(self.refusals.0) >= Duration::from_secs(1) {
            self.refusals = (now, 0);
        }
        self.refusals.1 += 1;
        if self.refusals.1 <= PER_SECOND {
            self.record(EventKind::Refused, Some(member), detail);
        }
    }

    /// Carries events across until neither machine has any.
    fn settle(&mut self, now: Time) {
        loop {
            if let Some(event) = self.discovery.poll_event() {
                self.on_discovery(now, event);
            } else if let Some(event) = self.keyagree.poll_event() {
                self.on_keyagree(now, event);
            } else if let Some(change) = self.pairing.poll_change() {
                self.actions.push_back(Action::Unicast(change));
            } else if self.pairing.have_met() {
                self.renew_hello_key(now);
            } else {
                return;
            }
        }
    }

    fn on_discovery(&mut self, now: Time, event: muster_discovery::Event) {
        use muster_discovery::Event;
        match event {
            Event::SelfJoined => {
                let me = self.discovery.own_identity().member;
                self.record(EventKind::Join, Some(me), "self".into());
            }
            Event::HelloSent => self.record(EventKind::HelloSent, None, String::new()),
            Event::Joined { member, identity, startup, address, kind } => {
                let address = key_address(address);
                let name =
                    DeviceName { name: identity.name, organisation: identity.organisation, address: Some(address) };
                let (event, restored) = match kind {
                    JoinKind::Join => (EventKind::Join, false),
                    JoinKind::Restore => (EventKind::Restore, true),
                };
                self.record(event, Some(member), name.name.clone());
                self.names.insert(member, name);
                self.actions.push_back(Action::Reach { member, address: Some(address.ip()) });
                self.keyagree.neighbour_up(now, member, identity.key, startup, address, restored);
            }
            Event::Heard { member, address, nonce, interval, group, .. } => {
                let address = key_address(address);
                if let Some(name) = self.names.get_mut(&member)
                    && name.address.replace(address).map(|before| before.ip()) != Some(address.ip())
                {
                    self.actions.push_back(Action::Reach { member, address: Some(address.ip()) });
                }
                self.pairing.heard(now, member, &self.discovery);
                self.keyagree.neighbour_heard(now, member, address, nonce, interval, group);
            }
            Event::Gone { member, reason } => {
                self.record(EventKind::Leave, Some(member), format!("{reason:?}").to_lowercase());
                match reason {
                    GoneReason::CertificateExpired | GoneReason::CertificateRefused => {
                        self.keyagree.certificate_refused(now, member);
                    }
                    _ => self.keyagree.neighbour_gone(now, member, reason == GoneReason::Goodbye),
                }
                // Who is silent may be back in a moment: its SAs and prefixes stay.
                self.actions.push_back(Action::Reach { member, address: None });
            }
            Event::Over { member } => {
                self.pairing.gone(&member);
                self.announced.remove(&member);
                self.actions.push_back(Action::Prefixes { member, prefixes: Vec::new() });
                self.forget_strangers();
            }
            Event::Refused { member, address, reason } => {
                self.record_refusal(now, member, format!("{address}: {reason}"));
            }
            Event::PrefixesChanged { member, prefixes } => {
                let list = prefixes.iter().map(IpNet::to_string).collect::<Vec<_>>().join(" ");
                self.record(EventKind::Prefixes, Some(member), list);
                self.announced.insert(member);
                self.actions.push_back(Action::Prefixes { member, prefixes });
                self.confirm_installed(now);
            }
            Event::Renewed => self.pairing.renewed(now, &self.discovery),
            Event::Confirmed { member } => self.pairing.confirmed(now, member, &self.discovery),
            Event::Assured { member } => self.pairing.assured(now, &member),
            Event::PrefixesRefused { member, reason } => {
                self.record_refusal(now, member, format!("prefixes: {reason}"));
            }
            Event::ListTaken { from, issuer, organisation, number, der } => {
                self.record(EventKind::RevocationList, Some(from), format!("{organisation} {number}"));
                self.actions.push_back(Action::Keep { issuer, list: der });
            }
            Event::ListRefused { from, reason } => {
                self.record_refusal(now, from, format!("revocation list: {reason}"));
            }
            Event::SelfRevoked => {
                let me = self.discovery.own_identity().member;
                self.record(EventKind::Refused, Some(me), "the own certificate is revoked".into());
                self.left = true;
                self.actions.push_back(Action::Revoked);
            }
        }
    }

    fn on_keyagree(&mut self, now: Time, event: muster_keyagree::Event) {
        use muster_keyagree::Event;
        match event {
            Event::Epoch(keys) => {
                let detail = format!("{} members", keys.members.len());
                self.record_in(keys.epoch, EventKind::Epoch, Some(keys.instance.tm), detail);
                self.vouching.enter(&keys);
                self.actions.push_back(Action::Install(keys));
            }
            Event::Activate { header, epoch } => {
                self.vouching.activate(header);
                self.actions.push_back(Action::Activate { header });
                self.record_in(epoch, EventKind::Activated, None, String::new());
            }
            Event::Retire { header } => {
                self.vouching.retire(&header);
                self.actions.push_back(Action::Retire { header });
            }
            Event::State(state) => self.discovery.set_group_state(now, state),
            Event::Acknowledge => self.discovery.tell_group_state(now),
            Event::Election { tm, epoch } => {
                let name = self.names.get(&tm).map(|name| name.name.clone()).unwrap_or_default();
                self.record_in(epoch, EventKind::Election, Some(tm), name);
            }
            Event::Exposed { tm } => {
                self.record_refusal(now, tm, "signed two headers for one epoch".into());
            }
            Event::Excluded { by } => self.record(EventKind::Excluded, Some(by), String::new()),
            Event::Refused { member, reason } => {
                self.record_refusal(now, member, reason.to_string());
            }
            Event::Left => {
                if !self.left {
                    self.left = true;
                    self.discovery.shutdown(now);
                    self.actions.push_back(Action::Left);
                }
            }
        }
    }

    /// Names of devices that are neither neighbours, up or silent, nor members are kept up to a bound.
    fn forget_strangers(&mut self) {
        const MAX_NAMES: usize = 4096;
        if self.names.len() > MAX_NAMES {
            let members: Vec<MemberId> = self.keyagree.members().map(|(_, member)| member).collect();
            let discovery = &self.discovery;
            let known = |member: &MemberId| members.contains(member) || discovery.certificate_key(member).is_some();
            self.names.retain(|member, _| known(member));
        }
    }
}

/// Between two hello keys that are asked for: the dead time, in which neighbours hear of the last one as a rule, and the
/// time for which they keep what they had before.
fn spacing(discovery: &muster_discovery::Config, keyagree: &muster_keyagree::Config) -> Duration {
    discovery.hello_interval * 4 + keyagree.deactivation_delay
}

/// Key agreement listens on the port after discovery's.
fn key_address(mut address: SocketAddr) -> SocketAddr {
    address.set_port(address.port().wrapping_add(1));
    address
}
