//! A member's end of phase 1.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use muster_wire::Time;
use rand_core::CryptoRng;

use super::attempt::{Attempt, Context};
use super::fragment::{Reassembly, split};
use super::session::{Due, Heard, Session};
use super::{
    Authority, CertificateError, Client, Closed, Credentials, Datagram, Event, IsakmpSa, Liveness, Message, Proposals,
    Refused, SaId, ShownChain,
};
use crate::crypto::SecretBytes;
use crate::isakmp::{Header, Identity, Notify, exchange, kind, notification, payloads};

/// Between an attempt that failed and the next one: this, and as much again at random, so that all members of a server that
/// comes back do not come at once.
const PAUSE: Duration = Duration::from_secs(5);
/// How long an SA stays after another took its place, for what is under way.
const OVERLAP: Duration = Duration::from_secs(30);
/// Of an SA's lifetime, in per cent: from here on, at random within [`SPREAD`], another takes its place.
const RENEWAL: u32 = 80;
const SPREAD: u32 = 10;

/// The key server, as a member knows it.
pub struct Server {
    /// Where it is.
    pub address: SocketAddr,
    /// The secret shared with it; without one it needs a certificate.
    pub secret: Option<SecretBytes>,
    /// Who it must be; see [`Client::identity`].
    pub identity: Option<Identity>,
}

/// A member's end of phase 1: keeps an SA with its key server, whatever happens.
pub struct Initiator {
    doi: u32,
    proposals: Proposals,
    own: Credentials,
    server: Server,
    liveness: Liveness,
    attempt: Option<Attempt>,
    /// When the next attempt begins, if none is under way.
    next: Option<Time>,
    /// There has been an SA.
    was_established: bool,
    /// Who the server was then, and what it has shown, if that was not a secret.
    shown: Option<(Identity, Vec<Vec<u8>>)>,
    /// The latest last: it is the one in use.
    sessions: Vec<(Session, Option<Time>)>,
    reassembly: Reassembly,
    datagrams: VecDeque<Datagram>,
    events: VecDeque<Event>,
}

impl Initiator {
    /// Begins at once, that is with the first [`Initiator::handle_timeout`].
    pub fn new(
        doi: u32,
        proposals: Proposals,
        own: Credentials,
        server: Server,
        liveness: Liveness,
        now: Time,
    ) -> Self {
        Initiator {
            doi,
            proposals,
            own,
            server,
            liveness,
            attempt: None,
            next: Some(now),
            was_established: false,
            shown: None,
            sessions: Vec::new(),
            reassembly: Reassembly::new(),
            datagrams: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// A datagram came. Returns it decrypted if it is of another exchange than phase 1's.
    ///
    /// # Errors
    /// It was refused; nothing changed.
    pub fn handle_datagram(
        &mut self,
        now: Time,
        from: SocketAddr,
        datagram: &[u8],
        authority: &impl Authority,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Message>, Refused> {
        if from != self.server.address {
            return Err(Refused::UnknownAddress);
        }
        let (header, first, body) = Header::parse(datagram)?;
        if first != kind::FRAGMENT {
            return self.handle_message(now, datagram, authority, rng);
        }
        let id = SaId::of(&header);
        if !self.attempt.as_ref().is_some_and(|attempt| attempt.is_of(id)) && self.session(id).is_none() {
            return Err(Refused::UnknownSa);
        }
        let Some(whole) = self.reassembly.add(now, from, &header, body, rng)? else { return Ok(None) };
        let (inner, first, _) = Header::parse(&whole)?;
        if SaId::of(&inner) != id || first == kind::FRAGMENT {
            return Err(Refused::OutOfPlace);
        }
        self.handle_message(now, &whole, authority, rng)
    }

    /// The next datagram to be sent.
    pub fn poll_transmit(&mut self) -> Option<Datagram> {
        self.datagrams.pop_front()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Initiator::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Time> {
        let sessions = self.sessions.iter().map(|(session, ends)| {
            let due = session.due(&self.liveness);
            ends.map_or(due, |ends| ends.min(due))
        });
        let attempt = self.attempt.as_ref().map(Attempt::due);
        sessions.chain(attempt).chain(self.next).chain(self.reassembly.expires()).min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Time, rng: &mut impl CryptoRng) {
        self.reassembly.expire(now);
        self.handle_sessions(now, rng);
        if let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.due() <= now) {
            if attempt.retry(now) {
                self.transmit_attempt();
            } else {
                self.events.push_back(Event::Failed(attempt.failed()));
                self.attempt = None;
                self.next = Some(now + PAUSE + random(PAUSE, rng));
            }
        }
        if self.attempt.is_none() && self.next.is_some_and(|next| next <= now) {
            self.next = None;
            self.attempt = Some(Attempt::new(now, self.doi, &self.offered(), rng));
            self.transmit_attempt();
        }
    }

    /// The SA in use.
    pub fn current(&self) -> Option<&IsakmpSa> {
        self.sessions.last().map(|(session, _)| &session.sa)
    }

    /// An SA, be it the one in use or the one before.
    pub fn sa(&self, id: SaId) -> Option<&IsakmpSa> {
        self.session(id).map(|session| &session.sa)
    }

    /// Sends what [`IsakmpSa::seal`] gave, in pieces if it must be.
    pub fn send(&mut self, id: SaId, datagram: Vec<u8>) {
        if let Some(takes_fragments) = self.session(id).map(|session| session.sa.features.fragments) {
            self.transmit(datagram, takes_fragments);
        }
    }

    /// Something authentic and new came under this SA: the server is there.
    pub fn heard(&mut self, now: Time, id: SaId) {
        if let Some((session, _)) = self.sessions.iter_mut().find(|(session, _)| session.sa.id() == id) {
            session.heard(now);
        }
    }

    /// What we show from now on, be it a secret: another SA takes the place of the one in use, and another attempt that of one
    /// under way.
    pub fn present(&mut self, now: Time, own: Credentials, secret: Option<SecretBytes>) {
        (self.own, self.server.secret, self.attempt) = (own, secret, None);
        self.renew(now);
    }

    /// Looks again at the certificate that the server has shown: other anchors or revocation lists count now. When it does not
    /// count any longer, the SA ends, and another attempt begins soon.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn review(
        &mut self,
        now: Time,
        authority: &impl Authority,
        rng: &mut impl CryptoRng,
    ) -> Result<(), CertificateError> {
        let Some((server, chain)) = &self.shown else { return Ok(()) };
        let chain: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
        let Err(why) = authority.check(&chain, server) else { return Ok(()) };
        self.shown = None;
        for (session, _) in std::mem::take(&mut self.sessions) {
            self.end(session, Closed::Distrusted, rng);
        }
        self.resume(now, rng);
        Err(why)
    }

    /// Another SA takes the place of the one in use, now.
    pub fn renew(&mut self, now: Time) {
        if self.attempt.is_none() {
            self.next = Some(now);
        }
    }

    /// Ends all, and tells the server. Nothing begins again.
    pub fn close(&mut self, rng: &mut impl CryptoRng) {
        (self.attempt, self.next) = (None, None);
        for (session, _) in std::mem::take(&mut self.sessions) {
            self.end(session, Closed::Commanded, rng);
        }
    }

    fn session(&self, id: SaId) -> Option<&Session> {
        self.sessions.iter().map(|(session, _)| session).find(|session| session.sa.id() == id)
    }

    /// What our credentials do for.
    fn offered(&self) -> Proposals {
        let server = self.client();
        let mut proposals = self.proposals.clone();
        proposals.authentications.retain(|way| server.fits(*way) && self.own.fit(*way));
        proposals
    }

    fn client(&self) -> Client<'_> {
        Client { secret: self.server.secret.as_ref(), identity: self.server.identity.as_ref() }
    }

    fn handle_message(
        &mut self,
        now: Time,
        datagram: &[u8],
        authority: &impl Authority,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Message>, Refused> {
        let (header, first, body) = Header::parse(datagram)?;
        let id = SaId::of(&header);
        if let Some(place) = self.sessions.iter().position(|(session, _)| session.sa.id() == id) {
            return self.handle_session(now, place, (&header, first, body), rng);
        }
        let Some(mut attempt) = self.attempt.take_if(|attempt| attempt.is_of(id) && header.exchange == exchange::MAIN)
        else {
            return Err(self.beside(id, &header, first, body));
        };
        let context = Context {
            doi: self.doi,
            proposals: &self.offered(),
            own: &self.own,
            server: self.client(),
            address: self.server.address.ip(),
            authority,
            // Else what the server told us is still here, though no SA of phase 1 may be.
            begins_anew: !self.was_established,
        };
        match attempt.handle(now, datagram, &context, rng) {
            Ok(None) => {
                self.attempt = Some(attempt);
                self.transmit_attempt();
            }
            Ok(Some(server)) => {
                if let Some(sa) = attempt.complete(now, body, server.identity) {
                    self.establish(now, sa, server.certificates, rng);
                }
            }
            Err(refused) => {
                attempt.note(refused);
                self.attempt = Some(attempt);
                return Err(refused);
            }
        }
        Ok(None)
    }

    /// What is of no SA, nor of main mode. A notification in clear of the exchange under way is anybody's: it is told, and nothing
    /// else comes of it.
    fn beside(&mut self, id: SaId, header: &Header, first: u8, body: &[u8]) -> Refused {
        let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.is_of(id)) else {
            return Refused::UnknownSa;
        };
        if header.exchange != exchange::INFORMATIONAL || header.is_encrypted() {
            return Refused::UnknownSa;
        }
        let payloads = payloads(first, body, false).unwrap_or_default();
        let notify = payloads.iter().find(|payload| payload.kind == kind::NOTIFY);
        match notify.and_then(|payload| Notify::parse(payload.body).ok()) {
            Some(Notify { kind, .. }) if kind < notification::FIRST_STATUS => {
                let refused = Refused::Notified(kind);
                attempt.note(refused);
                refused
            }
            _ => Refused::UnknownSa,
        }
    }

    fn establish(&mut self, now: Time, sa: IsakmpSa, certificates: Option<ShownChain>, rng: &mut impl CryptoRng) {
        let spread = sa.lifetime * SPREAD / 100;
        self.next = Some(now + sa.lifetime * RENEWAL / 100 + random(spread, rng));
        let (id, peer, address) = (sa.id(), sa.peer().clone(), self.server.address);
        let began_anew = !std::mem::replace(&mut self.was_established, true);
        self.shown = certificates.as_ref().map(|shown| (peer.clone(), shown.chain.clone()));
        self.events.push_back(Event::Established { sa: id, peer, address, certificates, began_anew });
        for (_, ends) in &mut self.sessions {
            ends.get_or_insert(now + OVERLAP);
        }
        self.sessions.push((Session::new(sa, address, now, rng), None));
    }

    fn handle_session(
        &mut self,
        now: Time,
        place: usize,
        message: (&Header, u8, &[u8]),
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Message>, Refused> {
        match self.sessions[place].0.handle(now, self.server.address, message, rng)? {
            Heard::Message(message) => return Ok(Some(message)),
            Heard::Notices(notices) => {
                let to = self.server.address;
                self.datagrams.extend(notices.answer.map(|bytes| Datagram { to, bytes }));
                if notices.begins_anew {
                    let older: Vec<_> = self.sessions.drain(..place).collect();
                    older.into_iter().for_each(|(session, _)| self.end(session, Closed::Restarted, rng));
                } else if notices.is_deleted {
                    let (session, _) = self.sessions.remove(place);
                    self.end(session, Closed::Deleted, rng);
                    self.resume(now, rng);
                }
            }
        }
        Ok(None)
    }

    fn handle_sessions(&mut self, now: Time, rng: &mut impl CryptoRng) {
        for (mut session, ends) in std::mem::take(&mut self.sessions) {
            let due = match ends {
                Some(ends) if ends <= now => Due::Close(Closed::Replaced),
                _ => session.handle_timeout(now, &self.liveness, rng),
            };
            match due {
                Due::Nothing => {}
                Due::Send(bytes) => self.datagrams.push_back(Datagram { to: self.server.address, bytes }),
                Due::Close(why) => {
                    self.end(session, why, rng);
                    continue;
                }
            }
            self.sessions.push((session, ends));
        }
        self.resume(now, rng);
    }

    /// Without an SA, and none coming, one is begun: not at the time at which the last one would have been replaced, but soon,
    /// and not with all others whom the same server has left.
    fn resume(&mut self, now: Time, rng: &mut impl CryptoRng) {
        let is_soon = self.next.is_none_or(|next| next <= now + 2 * PAUSE);
        if self.sessions.is_empty() && self.attempt.is_none() && !is_soon {
            self.next = Some(now + random(PAUSE, rng));
        }
    }

    fn end(&mut self, session: Session, why: Closed, rng: &mut impl CryptoRng) {
        if matches!(why, Closed::Expired | Closed::Replaced | Closed::Commanded | Closed::Distrusted) {
            self.datagrams.push_back(Datagram { to: session.address, bytes: session.farewell(rng) });
        }
        self.events.push_back(Event::Closed { sa: session.sa.id(), peer: session.sa.peer().clone(), why });
    }

    fn transmit_attempt(&mut self) {
        if let Some((message, takes_fragments)) = self.attempt.as_ref().map(Attempt::sent) {
            self.transmit(message, takes_fragments);
        }
    }

    fn transmit(&mut self, message: Vec<u8>, takes_fragments: bool) {
        let to = self.server.address;
        self.datagrams.extend(split(message, takes_fragments).into_iter().map(|bytes| Datagram { to, bytes }));
    }
}

/// Up to `most`.
fn random(most: Duration, rng: &mut impl CryptoRng) -> Duration {
    let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX - 1);
    Duration::from_micros(rng.next_u64() % (micros + 1))
}
