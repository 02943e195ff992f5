//! Senders of hellos that have not signed a nonce of ours: strangers, and neighbours in another run.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use muster_wire::idp::Hello;
use muster_wire::{Envelope, Header, MemberId, Nonce, Time};

use crate::config::{
    ASKS_FOR_A_HELLO, CANDIDATE_LIFE, FIRST_RETRY, LAST_RETRY, MAX_CANDIDATES, OLD_NONCES, TIMED_ASKS,
};

/// Which hello: nobody at another address can take a candidate's place.
pub(crate) type Key = (MemberId, IpAddr);

/// A hello as it came, not verified.
#[derive(Clone, PartialEq)]
pub(crate) struct Greeting {
    pub(crate) from: SocketAddr,
    pub(crate) envelope: Envelope,
    pub(crate) hello: Hello,
}

/// A device that is being asked who it is.
pub(crate) struct Candidate {
    /// The hello whose nonce the probe repeats. Once the answer is there, this hello is known to be recent.
    pub(crate) asked: Greeting,
    /// The latest hello, if that is another.
    pub(crate) later: Option<Greeting>,
    /// Hello nonces heard after that of `asked`.
    overtaken: u32,
    /// To be repeated in the answer.
    pub(crate) nonce: Nonce,
    pub(crate) want_chain: bool,
    pub(crate) asks: u32,
    pub(crate) next_ask: Time,
    last_ask: Time,
    last_hello: Time,
}

impl Candidate {
    pub(crate) fn new(now: Time, greeting: Greeting, nonce: Nonce, want_chain: bool) -> Self {
        Self {
            asked: greeting,
            later: None,
            overtaken: 0,
            nonce,
            want_chain,
            asks: 1,
            next_ask: now + FIRST_RETRY,
            last_ask: now,
            last_hello: now,
        }
    }

    /// Said hello again while it is being asked. A hello with another nonce is the next periodic one: it may have been
    /// the network that swallowed probes or answers, and the device is there.
    pub(crate) fn heard(&mut self, now: Time, greeting: Greeting) {
        self.last_hello = now;
        let latest = self.later.as_ref().unwrap_or(&self.asked);
        if greeting.hello.nonce != latest.hello.nonce {
            self.asks = self.asks.min(ASKS_FOR_A_HELLO);
            self.next_ask = self.next_ask.min(now.max(self.last_ask + FIRST_RETRY));
            self.overtaken = self.overtaken.saturating_add(1);
        }
        if greeting != self.asked {
            self.later = Some(greeting);
        }
    }

    /// Is asked once more. About the same hello as long as that is recent, so that an answer that takes longer than the next
    /// hello still counts.
    pub(crate) fn ask_again(&mut self, now: Time, fresh: Nonce, want_chain: bool) {
        let asked = &self.asked;
        let is_next = |later: &mut Greeting| {
            let another_run = later.envelope.header().startup != asked.envelope.header().startup;
            later.hello.nonce == asked.hello.nonce || another_run || self.overtaken >= OLD_NONCES
        };
        if let Some(later) = self.later.take_if(is_next) {
            // The answer says that the hello nonce is recent. If that is another, an answer to the last probe, still
            // under way, says nothing of it.
            if later.hello.nonce != self.asked.hello.nonce {
                self.nonce = fresh;
                self.overtaken = 0;
            }
            self.asked = later;
        }
        self.want_chain = want_chain;
        self.last_ask = now;
        self.asks = self.asks.saturating_add(1);
        self.back_off(now);
    }

    /// The hello that it was asked about is not its own: the next one is asked about.
    pub(crate) fn disown(&mut self) {
        self.overtaken = OLD_NONCES;
    }

    /// Waits, twice as long with every time it was asked.
    pub(crate) fn back_off(&mut self, now: Time) {
        let doublings = self.asks.saturating_sub(1).min(16);
        self.next_ask = now + FIRST_RETRY.saturating_mul(1 << doublings).min(LAST_RETRY);
    }

    /// When it is asked again though it says nothing.
    pub(crate) fn timer(&self) -> Option<Time> {
        (self.asks < TIMED_ASKS).then_some(self.next_ask)
    }
}

/// All of them, bounded.
#[derive(Default)]
pub(crate) struct Candidates(BTreeMap<Key, Candidate>);

impl Candidates {
    pub(crate) fn get(&self, key: &Key) -> Option<&Candidate> {
        self.0.get(key)
    }

    /// The sender, in this run and at this address, is being asked.
    pub(crate) fn is_asked(&self, from: SocketAddr, header: &Header) -> bool {
        let candidate = self.0.get(&(header.sender, from.ip()));
        candidate.is_some_and(|candidate| candidate.asked.envelope.header().startup == header.startup)
    }

    pub(crate) fn get_mut(&mut self, key: &Key) -> Option<&mut Candidate> {
        self.0.get_mut(key)
    }

    pub(crate) fn remove(&mut self, key: &Key) -> Option<Candidate> {
        self.0.remove(key)
    }

    /// A new one. When there is no room, one drawn by `random` makes it: a real device answers within a round trip,
    /// and in that time a flood, held by the limit of probes, draws few.
    pub(crate) fn insert(&mut self, key: Key, candidate: Candidate, random: u64) {
        if self.0.len() >= MAX_CANDIDATES {
            let index = (random % self.0.len() as u64) as usize;
            if let Some(unlucky) = self.0.keys().nth(index).copied() {
                self.0.remove(&unlucky);
            }
        }
        self.0.insert(key, candidate);
    }

    /// The device is known now, or refused.
    pub(crate) fn settle(&mut self, member: MemberId) {
        self.0.retain(|(candidate, _), _| *candidate != member);
    }

    /// Those whose timer is due.
    pub(crate) fn due(&self, now: Time) -> Vec<Key> {
        self.0.iter().filter(|(_, c)| c.timer().is_some_and(|at| at <= now)).map(|(key, _)| *key).collect()
    }

    pub(crate) fn next_timer(&self) -> Option<Time> {
        self.0.values().filter_map(Candidate::timer).min()
    }

    /// Forgets those that have not said hello for long. Needs no timer: what is forgotten late does no harm.
    pub(crate) fn expire(&mut self, now: Time) {
        let silent = |candidate: &Candidate| -> Duration { now.since(candidate.last_hello) };
        self.0.retain(|_, candidate| silent(candidate) < CANDIDATE_LIFE);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
