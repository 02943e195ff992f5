//! Probes and their answers: how a stranger becomes a neighbour, and a neighbour proves that it still lives.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use muster_certs::{CertError, Identity};
use muster_wire::idp::{Probe, ProbeAnswer};
use muster_wire::{Bytes, Destination, Envelope, Header, Kind, Time};
use rand_core::Rng;

use crate::Discovery;
use crate::candidates::{Candidate, Greeting, Key};
use crate::counters::Dropped;
use crate::event::{Event, GoneReason, JoinKind, Refusal};
use crate::limits::{Limiter, Rate};
use crate::machine::fingerprint;
use crate::pairwise::End;
use crate::peers::{Peer, Run, Up};
use crate::prefixes::Announcing;

/// Whom we have answered, and how much more we will.
pub(crate) struct Answers {
    /// Up neighbours, whose signature is checked before: who asks in their name from their address takes nothing of this.
    neighbours: Limits,
    others: Limits,
    /// The run of the device that asked last from an address, and when. Not verified: it saves a hello, no more.
    last: BTreeMap<IpAddr, (u64, Time)>,
}

impl Answers {
    const MAX_ADDRESSES: usize = 1024;

    pub(crate) fn new(now: Time) -> Self {
        Self { neighbours: Limits::new(now), others: Limits::new(now), last: BTreeMap::new() }
    }

    pub(crate) fn take_list(&mut self, now: Time, address: IpAddr, is_neighbour: bool) -> bool {
        self.limits(is_neighbour).lists.take(address, now)
    }

    fn take(&mut self, now: Time, address: IpAddr, is_neighbour: bool, with_chain: bool) -> bool {
        let limits = self.limits(is_neighbour);
        let limiter = if with_chain { &mut limits.chains } else { &mut limits.short };
        limiter.take(address, now)
    }

    fn limits(&mut self, is_neighbour: bool) -> &mut Limits {
        if is_neighbour { &mut self.neighbours } else { &mut self.others }
    }

    fn note(&mut self, now: Time, address: IpAddr, startup: u64) {
        if self.last.len() >= Self::MAX_ADDRESSES && !self.last.contains_key(&address) {
            self.last.clear();
        }
        self.last.insert(address, (startup, now));
    }

    /// A device in this run has asked us from there within the last `interval`: it has heard us.
    fn has_asked(&self, address: IpAddr, startup: u64, now: Time, interval: Duration) -> bool {
        self.last.get(&address).is_some_and(|(run, at)| *run == startup && now.since(*at) < interval)
    }
}

struct Limits {
    /// Answers with a chain are larger than the probe.
    chains: Limiter,
    /// Those without are smaller; a neighbour that fears for us asks often.
    short: Limiter,
    /// Revocation lists: four parts are half as large as a chain may be.
    lists: Limiter,
}

impl Limits {
    fn new(now: Time) -> Self {
        Self {
            chains: Limiter::new(Rate { burst: 256, per_second: 500 }, Rate { burst: 8, per_second: 4 }, now),
            short: Limiter::new(Rate { burst: 512, per_second: 4000 }, Rate { burst: 64, per_second: 200 }, now),
            lists: Limiter::new(Rate { burst: 256, per_second: 500 }, Rate { burst: 16, per_second: 8 }, now),
        }
    }
}

impl Discovery {
    /// A hello that cannot be verified yet: asks its sender to sign a nonce, and for its chain if that is not here.
    pub(crate) fn challenge(&mut self, now: Time, greeting: Greeting) -> Result<(), Dropped> {
        let key = (greeting.envelope.header().sender, greeting.from.ip());
        if let Some(candidate) = self.candidates.get_mut(&key) {
            candidate.heard(now, greeting);
            return if now < candidate.next_ask { Ok(()) } else { self.ask_again(now, key) };
        }
        let stranger = self.peers.identity(&key.0).is_none();
        let full = stranger && self.peers.is_full();
        if full || !self.may_ask(now, &key, stranger) {
            return Err(Dropped::RateLimited);
        }
        let nonce = self.draw_nonce();
        let random = self.rng.next_u64();
        self.candidates.insert(key, Candidate::new(now, greeting, nonce, stranger), random);
        self.ask(&key);
        Ok(())
    }

    /// Asks again those that have not answered.
    pub(crate) fn ask_candidates(&mut self, now: Time) {
        for key in self.candidates.due(now) {
            // Too many at once: it waits and keeps its place.
            if self.ask_again(now, key).is_err()
                && let Some(candidate) = self.candidates.get_mut(&key)
            {
                candidate.back_off(now);
            }
        }
    }

    fn ask_again(&mut self, now: Time, key: Key) -> Result<(), Dropped> {
        let stranger = self.peers.identity(&key.0).is_none();
        if !self.may_ask(now, &key, stranger) {
            return Err(Dropped::RateLimited);
        }
        let fresh = self.draw_nonce();
        if let Some(candidate) = self.candidates.get_mut(&key) {
            candidate.ask_again(now, fresh, stranger);
            self.ask(&key);
        }
        Ok(())
    }

    fn may_ask(&mut self, now: Time, (_, address): &Key, stranger: bool) -> bool {
        let limiter = if stranger { &mut self.strangers } else { &mut self.returning };
        limiter.take(*address, now)
    }

    fn ask(&mut self, key: &Key) {
        let Some(Candidate { asked, nonce, want_chain, .. }) = self.candidates.get(key) else { return };
        let probe = Probe { hello_nonce: asked.hello.nonce, nonce: *nonce, want_chain: *want_chain };
        let to = Destination::Unicast(asked.from);
        self.send(to, &probe);
    }

    /// Answers who repeats a nonce of our recent hellos, known or not.
    pub(crate) fn handle_probe(
        &mut self,
        now: Time,
        from: SocketAddr,
        envelope: Envelope,
        probe: Probe,
    ) -> Result<(), Dropped> {
        let startup = envelope.header().startup;
        let is_neighbour = self.is_neighbours(now, envelope)?;
        if !self.answers.take(now, from.ip(), is_neighbour, probe.want_chain) {
            return Err(Dropped::RateLimited);
        }
        self.answers.note(now, from.ip(), startup);
        let chain = if probe.want_chain { self.chain.clone() } else { Default::default() };
        self.send(Destination::Unicast(from), &ProbeAnswer { nonce: probe.nonce, chain });
        Ok(())
    }

    /// Whether something that anybody may ask is of an up neighbour, in the run that we know: then its signature has
    /// been checked, and is a sign of life.
    pub(crate) fn is_neighbours(&mut self, now: Time, envelope: Envelope) -> Result<bool, Dropped> {
        let header = *envelope.header();
        let Some(up) = self.peers.up_mut(&header.sender).filter(|up| up.run.startup == header.startup) else {
            return Ok(false);
        };
        up.identity.key.open(envelope).map_err(|_| Dropped::BadSignature)?;
        up.sign_of_life(now, header.kind, header.sequence);
        Ok(true)
    }

    /// We have asked for this answer, and it repeats our nonce.
    pub(crate) fn is_asked(&self, from: SocketAddr, header: &Header, answer: &ProbeAnswer) -> bool {
        let suspect = self.peers.up(&header.sender).is_some_and(|up| {
            up.run.startup == header.startup && up.suspicion.is_some_and(|s| s.nonce == answer.nonce)
        });
        let candidate = self.candidates.get(&(header.sender, from.ip())).is_some_and(|candidate| {
            candidate.asked.envelope.header().startup == header.startup && candidate.nonce == answer.nonce
        });
        suspect || candidate
    }

    pub(crate) fn handle_answer(
        &mut self,
        now: Time,
        from: SocketAddr,
        envelope: Envelope,
        answer: ProbeAnswer,
    ) -> Result<(), Dropped> {
        let header = *envelope.header();
        if let Some(up) = self.peers.up_mut(&header.sender)
            && up.run.startup == header.startup
        {
            up.identity.key.open(envelope).map_err(|_| Dropped::BadSignature)?;
            up.sign_of_life(now, Kind::ProbeAnswer, header.sequence);
            return Ok(());
        }
        let key = (header.sender, from.ip());
        let (identity, chain) = match self.known(&header) {
            Some(known) => known,
            None => self.validate(now, from, &header, answer)?,
        };
        if self.unix(now) > identity.not_after {
            let expired = Refusal::Certificate(CertError::Expired { not_after: identity.not_after });
            self.refuse(now, header.sender, Some(from), expired, GoneReason::CertificateExpired);
            return Err(Dropped::Refused);
        }
        identity.key.open(envelope).map_err(|_| Dropped::BadSignature)?;
        let candidate = self.candidates.get_mut(&key).ok_or(Dropped::NotAsked)?;
        // Somebody else may have put the device's nonce into a hello of his own: then the next hello is asked about.
        if identity.key.open(candidate.asked.envelope.clone()).is_err() {
            candidate.disown();
            return Err(Dropped::BadSignature);
        }
        if let Some(candidate) = self.candidates.remove(&key) {
            self.bring_up(now, candidate, header, identity, chain);
        }
        Ok(())
    }

    /// The certificate of a neighbour, up in another run or gone.
    fn known(&self, header: &Header) -> Option<(Identity, Vec<Vec<u8>>)> {
        match self.peers.get(&header.sender)? {
            Peer::Up(up) => Some((up.identity.clone(), up.chain.clone())),
            Peer::Gone(gone) => Some((gone.identity.clone(), gone.chain.clone())),
            Peer::Refused(_) => None,
        }
    }

    fn validate(
        &mut self,
        now: Time,
        from: SocketAddr,
        header: &Header,
        answer: ProbeAnswer,
    ) -> Result<(Identity, Vec<Vec<u8>>), Dropped> {
        let chain: Vec<Vec<u8>> = answer.chain.into_vec().into_iter().map(Bytes::into_vec).collect();
        if chain.first().is_none_or(|certificate| fingerprint(certificate) != header.sender) {
            return Err(Dropped::Malformed);
        }
        match self.trust.validate(&chain, self.unix(now)) {
            Ok(identity) => Ok((identity, chain)),
            Err(error) => {
                let gone = GoneReason::CertificateRefused;
                self.refuse(now, header.sender, Some(from), Refusal::Certificate(error), gone);
                Err(Dropped::Refused)
            }
        }
    }

    /// The device has signed our nonce, and the hello that we asked about is its own and recent.
    fn bring_up(&mut self, now: Time, candidate: Candidate, answer: Header, identity: Identity, chain: Vec<Vec<u8>>) {
        let Candidate { asked: Greeting { from: address, envelope, hello }, later, .. } = candidate;
        let hello_header = *envelope.header();
        let (member, startup) = (answer.sender, answer.startup);
        let Some(pair) = self.key.pair(End { member, startup, public: hello.public }) else {
            self.refuse(now, member, Some(address), Refusal::WeakKey, GoneReason::Restarted);
            return;
        };
        let (kind, run, announced) = match self.peers.remove(&member) {
            Some(Peer::Gone(gone)) if gone.run.startup == startup => (JoinKind::Restore, gone.run, gone.announced),
            before => {
                if let Some(Peer::Up(_)) = before {
                    self.events.push_back(Event::Gone { member, reason: GoneReason::Restarted });
                }
                if before.is_some_and(|before| before.pair().is_some()) {
                    self.over([member]);
                }
                (JoinKind::Join, Run::new(startup), None)
            }
        };
        let interval = self.config.hello_interval;
        // It has asked us itself: it needs no hello, and is about to have us up.
        let knows_us = self.answers.has_asked(address.ip(), startup, now, interval);
        let mut up = Up {
            identity: identity.clone(),
            chain,
            run,
            address,
            hello,
            last_hello: now,
            keyed: hello_header.sequence,
            last_life: now,
            suspicion: None,
            pair,
            announcing: Announcing::new(now, if knows_us { None } else { Some(interval) }),
            announced,
        };
        up.sign_of_life(now, Kind::Hello, hello_header.sequence);
        up.sign_of_life(now, Kind::ProbeAnswer, answer.sequence);
        self.peers.insert(member, Peer::Up(Box::new(up)));
        self.candidates.settle(member);
        self.events.push_back(Event::Joined { member, identity, startup, address, kind });
        self.report_heard(member);
        self.compare_lists(now, member);
        if kind == JoinKind::Restore {
            self.repeat_prefixes(member);
        }
        if !knows_us {
            self.answer_newcomer(address);
        }
        if let Some(later) = later
            && later.envelope.header().startup == startup
            && later.envelope.header().sequence > hello_header.sequence
        {
            // Not verified yet; if it is not the neighbour's, nothing has happened.
            let _ = self.handle_hello(now, later);
        }
    }
}
