//! The devices whose certificates are known: up, gone, refused.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use muster_certs::{Identity, SequenceWindow};
use muster_wire::idp::Hello;
use muster_wire::{Kind, MemberId, Nonce, Time};

use crate::config::{DEAD_INTERVALS, MAX_GONE, MAX_REFUSED, MAX_UP, MIN_SUSPECT_SPACING};
use crate::event::Refusal;
use crate::message;
use crate::pairwise::Pair;
use crate::prefixes::{Announced, Announcing};

/// A device whose certificate is known.
pub(crate) enum Peer {
    Up(Box<Up>),
    Gone(Box<Gone>),
    Refused(Refused),
}

impl Peer {
    /// What is shared with a neighbour that is up, or silent.
    pub(crate) fn pair(&self) -> Option<&Pair> {
        match self {
            Peer::Up(up) => Some(&up.pair),
            Peer::Gone(gone) => gone.pair.as_ref(),
            Peer::Refused(_) => None,
        }
    }
}

/// A neighbour.
pub(crate) struct Up {
    pub(crate) identity: Identity,
    /// To validate again when the trust anchors or revocation lists change.
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) run: Run,
    pub(crate) address: SocketAddr,
    /// The last verified one.
    pub(crate) hello: Hello,
    pub(crate) last_hello: Time,
    /// The sequence number of the hello that brought its present hello key.
    pub(crate) keyed: u64,
    /// The last verified datagram of whatever kind.
    pub(crate) last_life: Time,
    pub(crate) suspicion: Option<Suspicion>,
    pub(crate) pair: Pair,
    pub(crate) announcing: Announcing,
    pub(crate) announced: Option<Announced>,
}

/// A neighbour that is silent is asked.
#[derive(Clone, Copy)]
pub(crate) struct Suspicion {
    /// To be repeated in the answer; the same until it is there.
    pub(crate) nonce: Nonce,
    pub(crate) next_probe: Time,
}

/// What is kept of a neighbour that is gone.
pub(crate) struct Gone {
    pub(crate) identity: Identity,
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) run: Run,
    pub(crate) since: Time,
    /// What we share with it, under the own hello key as it changes: it may hear us, and send under that. `None`: it
    /// said goodbye, this run is over.
    pub(crate) pair: Option<Pair>,
    /// It may not have noticed that it was gone, and will then not announce again what we acknowledged.
    pub(crate) announced: Option<Announced>,
}

/// A device that cannot be a neighbour.
pub(crate) struct Refused {
    pub(crate) reason: Refusal,
    pub(crate) address: SocketAddr,
    /// Not asked again before.
    pub(crate) until: Time,
    /// Its last hello, not verified.
    pub(crate) last_hello: Time,
}

/// One run of a device's process, and which of its datagrams have been here.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) startup: u64,
    window: SequenceWindow,
    /// Hellos overtake none of their own kind: what they say of the group must not go back.
    last_hello: u64,
}

impl Run {
    pub(crate) fn new(startup: u64) -> Self {
        Self { startup, window: SequenceWindow::default(), last_hello: 0 }
    }

    pub(crate) fn is_new(&self, kind: Kind, sequence: u64) -> bool {
        self.window.is_new(sequence) && (kind != Kind::Hello || sequence > self.last_hello)
    }

    /// Only what is verified may be marked.
    pub(crate) fn mark(&mut self, kind: Kind, sequence: u64) {
        self.window.mark(sequence);
        if kind == Kind::Hello {
            self.last_hello = self.last_hello.max(sequence);
        }
    }
}

impl Up {
    pub(crate) fn interval(&self) -> Duration {
        message::interval(&self.hello)
    }

    pub(crate) fn dead_at(&self) -> Time {
        self.last_life + self.interval() * DEAD_INTERVALS
    }

    /// When something is to be done about its silence, unless it is heard before: to ask it whether it lives, or to give
    /// it up.
    pub(crate) fn silence_due(&self) -> Time {
        match self.suspicion {
            Some(suspicion) => suspicion.next_probe.min(self.dead_at()),
            None => Time(self.last_life.0.saturating_add(u64::from(self.hello.interval_ms) * 1500)),
        }
    }

    /// Between two probes of a suspect: a quarter of its interval, in its last interval an eighth. So a fifth of all
    /// datagrams may be lost, and each of the probes of a living neighbour fails once in hundred million times.
    pub(crate) fn probe_spacing(&self, now: Time) -> Duration {
        let last = now.since(self.last_life) >= self.interval() * (DEAD_INTERVALS - 1);
        (self.interval() / if last { 8 } else { 4 }).max(MIN_SUSPECT_SPACING)
    }

    /// A verified datagram of this run.
    pub(crate) fn sign_of_life(&mut self, now: Time, kind: Kind, sequence: u64) {
        self.run.mark(kind, sequence);
        self.last_life = now;
        self.suspicion = None;
    }

    pub(crate) fn into_gone(self, now: Time, farewell: bool) -> Gone {
        let Up { identity, chain, run, announced, pair, .. } = self;
        Gone { identity, chain, run, since: now, pair: (!farewell).then_some(pair), announced }
    }
}

/// All of them, bounded.
#[derive(Default)]
pub(crate) struct Peers(BTreeMap<MemberId, Peer>);

impl Peers {
    pub(crate) fn get(&self, member: &MemberId) -> Option<&Peer> {
        self.0.get(member)
    }

    pub(crate) fn get_mut(&mut self, member: &MemberId) -> Option<&mut Peer> {
        self.0.get_mut(member)
    }

    pub(crate) fn up(&self, member: &MemberId) -> Option<&Up> {
        match self.0.get(member) {
            Some(Peer::Up(up)) => Some(up),
            _ => None,
        }
    }

    pub(crate) fn up_mut(&mut self, member: &MemberId) -> Option<&mut Up> {
        match self.0.get_mut(member) {
            Some(Peer::Up(up)) => Some(up),
            _ => None,
        }
    }

    /// Up neighbours.
    pub(crate) fn ups(&self) -> impl Iterator<Item = (MemberId, &Up)> {
        self.0.iter().filter_map(|(member, peer)| match peer {
            Peer::Up(up) => Some((*member, &**up)),
            _ => None,
        })
    }

    pub(crate) fn ups_mut(&mut self) -> impl Iterator<Item = (MemberId, &mut Up)> {
        self.0.iter_mut().filter_map(|(member, peer)| match peer {
            Peer::Up(up) => Some((*member, &mut **up)),
            _ => None,
        })
    }

    /// What is shared with a neighbour that is up, or silent.
    pub(crate) fn pair(&self, member: &MemberId) -> Option<&Pair> {
        self.0.get(member)?.pair()
    }

    /// The same of all.
    pub(crate) fn pairs_mut(&mut self) -> impl Iterator<Item = &mut Pair> {
        self.0.values_mut().filter_map(|peer| match peer {
            Peer::Up(up) => Some(&mut up.pair),
            Peer::Gone(gone) => gone.pair.as_mut(),
            Peer::Refused(_) => None,
        })
    }

    /// No room for another neighbour.
    pub(crate) fn is_full(&self) -> bool {
        self.ups().count() >= MAX_UP
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (MemberId, &Peer)> {
        self.0.iter().map(|(member, peer)| (*member, peer))
    }

    /// What a certificate said, of neighbours up and gone.
    pub(crate) fn identity(&self, member: &MemberId) -> Option<&Identity> {
        match self.0.get(member)? {
            Peer::Up(up) => Some(&up.identity),
            Peer::Gone(gone) => Some(&gone.identity),
            Peer::Refused(_) => None,
        }
    }

    /// The run of a neighbour up or gone.
    pub(crate) fn run(&self, member: &MemberId) -> Option<&Run> {
        match self.0.get(member)? {
            Peer::Up(up) => Some(&up.run),
            Peer::Gone(gone) => Some(&gone.run),
            Peer::Refused(_) => None,
        }
    }

    pub(crate) fn remove(&mut self, member: &MemberId) -> Option<Peer> {
        self.0.remove(member)
    }

    /// Puts a peer in; the oldest of those refused makes room.
    pub(crate) fn insert(&mut self, member: MemberId, peer: Peer) {
        self.0.insert(member, peer);
        let surplus = self.surplus(MAX_REFUSED, |peer| match peer {
            Peer::Refused(refused) => Some(refused.last_hello),
            _ => None,
        });
        surplus.iter().for_each(|member| drop(self.0.remove(member)));
    }

    /// Forgets the refused that `forget` says.
    pub(crate) fn forget_refused(&mut self, mut forget: impl FnMut(&Refused) -> bool) {
        self.0.retain(|_, peer| !matches!(peer, Peer::Refused(refused) if forget(refused)));
    }

    /// Forgets the gone that `forget` says, and gives those of them whose run was not over: they were silent.
    pub(crate) fn forget_gone(&mut self, mut forget: impl FnMut(&MemberId, &mut Gone) -> bool) -> Vec<MemberId> {
        let mut silent = Vec::new();
        self.0.retain(|member, peer| {
            let Peer::Gone(gone) = peer else { return true };
            let forgotten = forget(member, gone);
            silent.extend((forgotten && gone.pair.is_some()).then_some(*member));
            !forgotten
        });
        silent
    }

    /// Forgets the oldest of too many that are gone; gives the same.
    pub(crate) fn forget_surplus_gone(&mut self) -> Vec<MemberId> {
        let surplus = self.surplus(MAX_GONE, |peer| match peer {
            Peer::Gone(gone) => Some(gone.since),
            _ => None,
        });
        if surplus.is_empty() { Vec::new() } else { self.forget_gone(|member, _| surplus.contains(member)) }
    }

    /// The oldest of more than `most` that have an age.
    fn surplus(&self, most: usize, age: impl Fn(&Peer) -> Option<Time>) -> Vec<MemberId> {
        let mut ages: Vec<(Time, MemberId)> =
            self.0.iter().filter_map(|(member, peer)| Some((age(peer)?, *member))).collect();
        ages.sort_unstable();
        ages.truncate(ages.len().saturating_sub(most));
        ages.into_iter().map(|(_, member)| member).collect()
    }
}
