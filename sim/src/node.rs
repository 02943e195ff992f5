//! A device: its engine while it runs, driven as the daemon drives it.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use muster_bridge::{Action, Engine, Port, Start};
use muster_certs::{Author, TrustStore};
use muster_keyagree::{Counters, group_tag};
use muster_wire::{Hash, Time, Transmit};

use crate::devices::{Device, UNIX, trust};
use crate::{Entered, Fact, NodeView};

/// The hello interval of all nodes.
pub(crate) const HELLO: Duration = Duration::from_secs(1);

const GROUP: &str = "coalition";
const DISCOVERY_PORT: u16 = 4860;
/// What the sockets hold while the process sleeps.
const SOCKET_BUFFER: usize = 200;

/// A datagram at a socket.
pub(crate) type Datagram = (Port, SocketAddr, Rc<[u8]>);

/// What a node does.
pub enum Output {
    /// Something happened.
    Fact(Fact),
    /// It sends.
    Send(Port, Transmit),
}

/// A device and its process, if that runs.
pub struct Node {
    index: usize,
    device: &'static Device,
    engine: Option<Engine>,
    startup: u64,
    /// The process sleeps; these wait.
    asleep: Option<Vec<Datagram>>,
    timer: Option<Time>,
    /// Revocation lists that it keeps over restarts, by issuer.
    lists: BTreeMap<Hash, Vec<u8>>,
    /// Its certificate is revoked, and it knows.
    is_revoked: bool,
}

impl Node {
    /// Not started.
    pub fn new(index: usize, device: &'static Device) -> Self {
        Self {
            index,
            device,
            engine: None,
            startup: 0,
            asleep: None,
            timer: None,
            lists: BTreeMap::new(),
            is_revoked: false,
        }
    }

    /// Starts the process; the startup stamp rises by at least one.
    pub fn start(&mut self, now: Time, stamp: u64, leaf_refresh: Duration, seeds: [[u8; 32]; 2]) -> Vec<Output> {
        if self.is_revoked {
            return Vec::new();
        }
        self.startup = stamp.max(self.startup + 1);
        let (key, member) = (self.device.key.clone(), self.device.member);
        let net = Ipv6Addr::new(0xfd00, 0, 0, self.index as u16 + 1, 0, 0, 0, 0);
        let start = Start {
            discovery: muster_discovery::Config { hello_interval: HELLO, key_life: Duration::from_secs(3600) },
            keyagree: muster_keyagree::Config {
                name: GROUP.into(),
                hello_interval: HELLO,
                batch_window: Duration::from_millis(20),
                activation_delay: Duration::from_millis(200),
                deactivation_delay: Duration::from_secs(2),
                lifetime: Duration::from_secs(3600),
                leaf_refresh,
            },
            author: Author::new(key, group_tag(GROUP), member, self.startup),
            chain: self.device.chain.clone(),
            trust: self.trust(),
            seeds,
            prefixes: ipnet::Ipv6Net::new(net, 64).map(Into::into).into_iter().collect(),
        };
        // Certificate, key and prefix are ours and right.
        self.engine = Some(Engine::new(start, now, UNIX + now.0 / 1_000_000).expect("a device that may start"));
        self.asleep = None;
        let mut outputs = vec![Output::Fact(Fact::Started { node: self.index, startup: self.startup })];
        outputs.extend(self.drive(now));
        outputs
    }

    /// Kill -9; gives what it had counted.
    pub fn crash(&mut self) -> Option<Counters> {
        self.timer = None;
        self.asleep = None;
        self.engine.take().map(|engine| engine.keyagree().counters())
    }

    /// A datagram arrives.
    pub fn receive(&mut self, now: Time, datagram: Datagram) -> Vec<Output> {
        let Some(engine) = &mut self.engine else { return Vec::new() };
        if let Some(buffer) = &mut self.asleep {
            if buffer.len() < SOCKET_BUFFER {
                buffer.push(datagram);
            }
            return Vec::new();
        }
        let (port, from, bytes) = datagram;
        engine.handle_datagram(now, port, from, &bytes);
        self.drive(now)
    }

    /// Its timer has expired.
    pub fn timeout(&mut self, now: Time) -> Vec<Output> {
        self.command(|engine| engine.handle_timeout(now), now)
    }

    /// The process is stopped.
    pub fn sleep(&mut self) {
        if self.engine.is_some() {
            self.asleep.get_or_insert_default();
            self.timer = None;
        }
    }

    /// It goes on: first what its timers say, or first what waits in the sockets.
    pub fn wake(&mut self, now: Time, timers_first: bool) -> Vec<Output> {
        let Some(buffer) = self.asleep.take() else { return Vec::new() };
        let mut outputs = Vec::new();
        if timers_first {
            outputs.extend(self.timeout(now));
        }
        for datagram in buffer {
            outputs.extend(self.receive(now, datagram));
        }
        outputs.extend(self.drive(now));
        outputs
    }

    /// The operator does something.
    pub fn command(&mut self, command: impl FnOnce(&mut Engine), now: Time) -> Vec<Output> {
        match &mut self.engine {
            Some(engine) if self.asleep.is_none() => {
                command(engine);
                self.drive(now)
            }
            _ => Vec::new(),
        }
    }

    /// The operator loads a revocation list (DER).
    pub fn load_list(&mut self, now: Time, list: &[u8]) -> Vec<Output> {
        let mut trust = self.trust();
        // Of one of the nations.
        trust.offer(list).expect("a list that a nation signed");
        let kept = trust.revocation_lists().map(|kept| (kept.issuer, kept.der.to_vec()));
        self.lists.extend(kept);
        self.command(|engine| engine.set_trust(now, trust), now)
    }

    fn trust(&self) -> TrustStore {
        let mut trust = trust();
        for list in self.lists.values() {
            trust.offer(list).expect("a list that was in force before");
        }
        trust
    }

    /// When [`Node::timeout`] is to be called.
    pub fn timer(&self) -> Option<Time> {
        self.timer
    }

    /// What each of its two machines waits for.
    pub fn timers(&self) -> String {
        let engine = self.engine.as_ref();
        let (discovery, keyagree) =
            (engine.and_then(|e| e.discovery().poll_timeout()), engine.and_then(|e| e.keyagree().poll_timeout()));
        format!("discovery {discovery:?}, key agreement {keyagree:?}")
    }

    /// Its process's stamp.
    pub fn startup(&self) -> u64 {
        self.startup
    }

    /// Its process runs and is awake.
    pub fn is_awake(&self) -> bool {
        self.engine.is_some() && self.asleep.is_none()
    }

    /// Its process exists.
    pub fn is_running(&self) -> bool {
        self.engine.is_some()
    }

    /// How it looks.
    pub fn view(&self, now: Time) -> Option<NodeView> {
        Some(NodeView::new(self.index, self.device.member, self.engine.as_ref()?, now))
    }

    /// What its key agreement has counted.
    pub fn counters(&self) -> Counters {
        self.engine.as_ref().map(|engine| engine.keyagree().counters()).unwrap_or_default()
    }

    /// Datagrams that its process has turned away.
    pub fn dropped(&self) -> u64 {
        let Some(engine) = &self.engine else { return 0 };
        let c = engine.keyagree().counters();
        let agreed = c.malformed + c.other_group + c.reflected + c.unknown + c.replayed + c.queue_full + c.signature;
        agreed + c.refused + engine.discovery().counters().iter().map(|(_, count)| count).sum::<u64>()
    }

    /// Where its sockets are.
    pub fn address(index: usize, port: Port) -> SocketAddr {
        let port = DISCOVERY_PORT + u16::from(port == Port::KeyAgreement);
        SocketAddr::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, index as u16 + 1).into(), port)
    }

    /// The node with this address.
    pub fn at(address: SocketAddr) -> Option<usize> {
        match address {
            SocketAddr::V6(v6) => usize::from(v6.ip().segments()[7]).checked_sub(1),
            SocketAddr::V4(_) => None,
        }
    }

    /// Handles what waits, and does what the engine wants, until it wants nothing more.
    fn drive(&mut self, now: Time) -> Vec<Output> {
        let mut outputs = Vec::new();
        let Some(engine) = &mut self.engine else { return outputs };
        let (node, member) = (self.index, self.device.member);
        let mut left = false;
        loop {
            while engine.process(now) {}
            if let Some(action) = engine.poll_action() {
                let fact = match action {
                    Action::Install(keys) => {
                        let current = engine.keyagree().group_state().header == keys.header;
                        let tree = current.then(|| engine.keyagree().tree());
                        engine.installed(now, keys.header);
                        Fact::Entered(Box::new(Entered::new(node, member, &keys, tree)))
                    }
                    Action::Activate { header } => Fact::Activated { node, header },
                    Action::Retire { header } => Fact::Retired { node, header },
                    Action::Record(record) => Fact::Recorded { node, record },
                    Action::Prefixes { .. } | Action::Reach { .. } | Action::Unicast(_) => continue,
                    Action::Keep { issuer, list } => {
                        self.lists.insert(issuer, list);
                        continue;
                    }
                    Action::Revoked => {
                        self.is_revoked = true;
                        left = true;
                        continue;
                    }
                    Action::Left => {
                        left = true;
                        continue;
                    }
                };
                outputs.push(Output::Fact(fact));
            } else if let Some((port, transmit)) = engine.poll_transmit() {
                outputs.push(Output::Send(port, transmit));
            } else {
                break;
            }
        }
        self.timer = engine.poll_timeout();
        if left {
            outputs.push(Output::Fact(Fact::Stopped { node }));
        }
        outputs
    }
}
