//! The key server's end of phase 1.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use muster_wire::Time;
use rand_core::CryptoRng;

use super::budget::{Rate, Shares};
use super::cookie::{Cookies, Opening};
use super::fragment::{Reassembly, split};
use super::main_mode::{Agreed, Keyed, Role, Share, opening, read_opening};
use super::session::{Due, Heard, Last, Session};
use super::suite::MOST_OFFER;
use super::table::Table;
use super::{
    Client, Clients, Closed, Credentials, Datagram, Event, IsakmpSa, Liveness, Message, Proposals, Refused, SaId,
    ShownChain,
};
use crate::crypto::dh::{Group, Secret};
use crate::isakmp::{Cookie, Header, Identity, Transform, exchange, flags, kind, write_proposal};

/// An exchange lives for so long after its first message, and for so long again after its third; for so long after its fifth the
/// last message is sent again to whoever lost it.
const HALF_OPEN: Duration = Duration::from_secs(60);
/// Checking a signature and making one, beside Diffie-Hellman on a curve.
const SIGNATURE: u32 = 25;
/// Diffie-Hellman is refused unless there is so much, of whatever group it is: who chooses the cheap one is not to shut out who needs
/// the dearest, and after it a signature.
const LEAST: u32 = 100 + SIGNATURE;
/// So often signatures are looked at in one exchange: whoever wants more of that makes more exchanges. A member's own message may
/// have been changed on its way.
const MOST_CHECKS: u32 = 3;
/// SAs of one identity, at most: the one in use, and the one that takes its place.
const MOST_OF_IDENTITY: usize = 2;

/// What strangers can take up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Exchanges that wait for a third message, and as many that wait for a fifth. Who has completed one takes no one's place here.
    pub exchanges: usize,
    /// The same of one address.
    pub exchanges_of_address: usize,
    /// Diffie-Hellman exchanges and checks of signatures, in exchanges on a curve: one of group 14 counts as 100 of those, a
    /// signature as 25. Unless there are 125, no Diffie-Hellman is done: a burst below that never lets one through.
    pub computations: Rate,
    /// The same of one address.
    pub computations_of_address: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            exchanges: 4096,
            exchanges_of_address: 16,
            computations: Rate { per_second: 4000, burst: 8000 },
            computations_of_address: Rate { per_second: 250, burst: 500 },
        }
    }
}

/// The key server's end of phase 1, with all its members.
///
/// What others can do to it. From an address that is nobody's: nothing. With a forged address of a member, unseen: at most
/// [`Limits::exchanges_of_address`] entries of under 3 KiB, and one answer, hardly longer than the question, to each; an exchange of
/// the true member is not hindered if its first message is one with which members of its kind came in before (see `cookie.rs`),
/// else it survives `n` forged messages within a round trip with probability `(1 − 1/limit)^n`. Who sees the cookies can do
/// computations at the rate of [`Limits::computations_of_address`], and compete with the true member for them; who sees those of
/// sixteen, as one beside the key server may, at that of [`Limits::computations`], and with all. Of signatures it is who knows whom the
/// key server expects there.
pub struct Responder {
    doi: u32,
    proposals: Proposals,
    own: Credentials,
    liveness: Liveness,
    cookies: Cookies,
    budget: Shares,
    opened: Table<Opened>,
    halves: Table<Half>,
    reassembly: Reassembly,
    /// By our cookie.
    sessions: BTreeMap<Cookie, Session>,
    of_identity: BTreeMap<Identity, Vec<Cookie>>,
    /// When to look at which, once each; it may be too early, for a peer that was heard meanwhile.
    timers: BTreeSet<(Time, Cookie)>,
    /// Which sessions still have the last message of phase 1, and until when.
    answered: VecDeque<(Time, Cookie)>,
    datagrams: VecDeque<Datagram>,
    events: VecDeque<Event>,
}

/// After messages 1 and 2, whose first message was not familiar.
struct Opened {
    initiator: Cookie,
    address: SocketAddr,
    received: Vec<u8>,
    sent: Vec<u8>,
}

/// After messages 3 and 4.
struct Half {
    initiator: Cookie,
    address: SocketAddr,
    takes_fragments: bool,
    keyed: Box<Keyed>,
    received: Vec<u8>,
    sent: Vec<u8>,
    /// How often signatures were looked at.
    checks: u32,
}

impl Responder {
    /// Nobody is there yet.
    pub fn new(
        doi: u32,
        proposals: Proposals,
        own: Credentials,
        liveness: Liveness,
        limits: Limits,
        now: Time,
        rng: &mut impl CryptoRng,
    ) -> Self {
        Responder {
            doi,
            proposals,
            own,
            liveness,
            cookies: Cookies::new(rng),
            budget: Shares::new(limits.computations, limits.computations_of_address, now),
            opened: Table::new(limits.exchanges, limits.exchanges_of_address, HALF_OPEN),
            halves: Table::new(limits.exchanges, limits.exchanges_of_address, HALF_OPEN),
            reassembly: Reassembly::new(),
            sessions: BTreeMap::new(),
            of_identity: BTreeMap::new(),
            timers: BTreeSet::new(),
            answered: VecDeque::new(),
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
        clients: &impl Clients,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Message>, Refused> {
        let client = clients.client(from.ip()).ok_or(Refused::UnknownAddress)?;
        let (header, first, body) = Header::parse(datagram)?;
        if first != kind::FRAGMENT {
            return self.handle_message(now, from, datagram, (&client, clients), rng);
        }
        let id = SaId::of(&header);
        let is_half =
            self.halves.get(id.responder).is_some_and(|half| half.initiator == id.initiator && half.address == from);
        if !is_half && self.session(id).is_none_or(|session| session.address != from) {
            return Err(Refused::UnknownSa);
        }
        let Some(whole) = self.reassembly.add(now, from, &header, body, rng)? else { return Ok(None) };
        let (inner, first, _) = Header::parse(&whole)?;
        if SaId::of(&inner) != id || first == kind::FRAGMENT {
            return Err(Refused::OutOfPlace);
        }
        self.handle_message(now, from, &whole, (&client, clients), rng)
    }

    /// The next datagram to be sent.
    pub fn poll_transmit(&mut self) -> Option<Datagram> {
        self.datagrams.pop_front()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Responder::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Time> {
        let tables = [self.opened.expires(), self.halves.expires(), self.reassembly.expires()];
        let answered = self.answered.front().map(|(until, _)| *until);
        tables.into_iter().flatten().chain(answered).chain(self.timers.first().map(|(at, _)| *at)).min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Time, rng: &mut impl CryptoRng) {
        self.opened.expire(now);
        self.halves.expire(now);
        self.reassembly.expire(now);
        while let Some(&(_, cookie)) = self.answered.front().filter(|(until, _)| *until <= now) {
            self.answered.pop_front();
            if let Some(session) = self.sessions.get_mut(&cookie) {
                session.last = None;
            }
        }
        while let Some(&(at, cookie)) = self.timers.first().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, cookie));
            let Some(session) = self.sessions.get_mut(&cookie) else { continue };
            match session.handle_timeout(now, &self.liveness, rng) {
                Due::Nothing => {}
                Due::Send(bytes) => self.datagrams.push_back(Datagram { to: session.address, bytes }),
                Due::Close(why) => {
                    if why == Closed::Expired {
                        self.datagrams.push_back(Datagram { to: session.address, bytes: session.farewell(rng) });
                    }
                    self.remove(cookie, why);
                    continue;
                }
            }
            self.set_timer(Time(0), cookie);
        }
    }

    /// An established SA.
    pub fn sa(&self, id: SaId) -> Option<&IsakmpSa> {
        self.session(id).map(|session| &session.sa)
    }

    /// All established SAs.
    pub fn sas(&self) -> impl Iterator<Item = &IsakmpSa> {
        self.sessions.values().map(|session| &session.sa)
    }

    /// Exchanges that are not complete.
    pub fn exchanges(&self) -> usize {
        self.opened.len() + self.halves.len()
    }

    /// Of them, how many ever had to go for others: too many were begun.
    pub fn displaced(&self) -> u64 {
        self.opened.displaced() + self.halves.displaced()
    }

    /// How many SAs are to be looked at some time.
    #[cfg(test)]
    pub(super) fn timers(&self) -> usize {
        self.timers.len()
    }

    /// Sends what [`IsakmpSa::seal`] gave, in pieces if it must be.
    pub fn send(&mut self, id: SaId, datagram: Vec<u8>) {
        if let Some((to, takes_fragments)) =
            self.session(id).map(|session| (session.address, session.sa.features.fragments))
        {
            self.transmit(to, datagram, takes_fragments);
        }
    }

    /// Something authentic and new came under this SA: the peer is there.
    pub fn heard(&mut self, now: Time, id: SaId) {
        if let Some(session) = self.sessions.get_mut(&id.responder).filter(|session| session.sa.id() == id) {
            session.heard(now);
        }
    }

    /// What we show from now on, to whom we are not connected yet.
    pub fn present(&mut self, own: Credentials) {
        self.own = own;
    }

    /// Who is at this address is another from now on: what the one before has begun there is void.
    pub fn abandon(&mut self, address: IpAddr) {
        self.halves.remove_of(address);
    }

    /// Ends an SA, and tells the peer.
    pub fn close(&mut self, id: SaId, rng: &mut impl CryptoRng) {
        let Some(farewell) = self.session(id).map(|session| (session.address, session.farewell(rng))) else { return };
        self.datagrams.push_back(Datagram { to: farewell.0, bytes: farewell.1 });
        self.remove(id.responder, Closed::Commanded);
    }

    fn session(&self, id: SaId) -> Option<&Session> {
        self.sessions.get(&id.responder).filter(|session| session.sa.id() == id)
    }

    fn handle_message(
        &mut self,
        now: Time,
        from: SocketAddr,
        datagram: &[u8],
        peer: (&Client<'_>, &impl Clients),
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Message>, Refused> {
        let (header, first, body) = Header::parse(datagram)?;
        let id = SaId::of(&header);
        if header.exchange != exchange::MAIN {
            return self.handle_session(now, from, (&header, first, body), rng);
        }
        //= RFC 2408 3.1: "During Phase 1 negotiations, the value MUST be set to 0."
        if header.message_id != 0 || header.flags & !flags::ENCRYPTION != 0 || id.initiator == Cookie::default() {
            return Err(Refused::OutOfPlace);
        }
        if id.responder == Cookie::default() {
            self.handle_first(now, from, datagram, peer.0, rng)?;
        } else if let Some(half) = self.halves.get(id.responder) {
            if half.initiator != id.initiator || half.address != from {
                return Err(Refused::UnknownSa);
            }
            if half.received == datagram {
                let (again, takes_fragments) = (half.sent.clone(), half.takes_fragments);
                self.transmit(from, again, takes_fragments);
                return Ok(None);
            }
            self.handle_fifth(now, from, datagram, peer, rng)?;
        } else if let Some(again) = self.answer_of(id, from, datagram) {
            self.transmit(from, again.0, again.1);
        } else {
            self.handle_third(now, from, datagram, peer.0, rng)?;
        }
        Ok(None)
    }

    /// What was said to the last message of phase 1, if this is that message, and whether in pieces.
    fn answer_of(&self, id: SaId, from: SocketAddr, datagram: &[u8]) -> Option<(Vec<u8>, bool)> {
        let session = self.session(id).filter(|session| session.address == from)?;
        let last = session.last.as_ref().filter(|last| last.received == datagram)?;
        Some((last.sent.clone(), session.sa.features.fragments))
    }

    /// Message 1: an offer. It costs an entry, and not even that if it is familiar.
    fn handle_first(
        &mut self,
        now: Time,
        from: SocketAddr,
        datagram: &[u8],
        client: &Client<'_>,
        rng: &mut impl CryptoRng,
    ) -> Result<(), Refused> {
        let (header, first, body) = Header::parse(datagram)?;
        if header.is_encrypted() || datagram.len() > MOST_OFFER {
            return Err(Refused::OutOfPlace);
        }
        let again = |opened: &&Opened| {
            opened.initiator == header.initiator && opened.address == from && opened.received == datagram
        };
        let sent = self.opened.of(from.ip()).find(again).map(|opened| opened.sent.clone());
        if let Some(sent) = sent {
            self.transmit(from, sent, false);
            return Ok(());
        }
        let read = read_opening(first, body)?;
        let (cookie, is_familiar) = self.cookies.bake(now, from, header.initiator, &read);
        let id = SaId { responder: cookie, initiator: header.initiator };
        let (agreed, answer) = self.agree(id, &read, client)?;
        let chain = opening(&answer, read.features);
        let sent = agreed.header(0).write(chain.first(), chain.bytes());
        if !is_familiar {
            let opened =
                Opened { initiator: header.initiator, address: from, received: datagram.to_vec(), sent: sent.clone() };
            self.opened.insert(now, cookie, from.ip(), opened, rng);
        }
        self.transmit(from, sent, false);
        Ok(())
    }

    /// What was offered and is chosen, and the body of the SA payload that says so.
    fn agree(&self, id: SaId, opening: &Opening, client: &Client<'_>) -> Result<(Agreed, Vec<u8>), Refused> {
        let (doi, offered) = Transform::offer(&opening.offer)?;
        // "the DOI value … MUST correspond to the DOI which defines the FMKE exchanges" (draft 2.0)
        if doi != self.doi {
            return Err(Refused::NoProposal);
        }
        let fits = |suite: super::Suite| client.fits(suite.authentication) && self.own.fit(suite.authentication);
        let choice = self.proposals.choose(&offered, fits).ok_or(Refused::NoProposal)?;
        let agreed = Agreed {
            id,
            doi,
            suite: choice.suite,
            lifetime: choice.lifetime,
            offer: opening.offer.clone(),
            features: opening.features,
        };
        //= RFC 2408 4.2: "the initiator MUST verify that the Security Association payload received from the responder matches
        //= one of the proposals sent initially": it goes back unchanged
        Ok((agreed, write_proposal(doi, &[choice.transform])))
    }

    /// Message 3, which brings our cookie back: now Diffie-Hellman.
    fn handle_third(
        &mut self,
        now: Time,
        from: SocketAddr,
        datagram: &[u8],
        client: &Client<'_>,
        rng: &mut impl CryptoRng,
    ) -> Result<(), Refused> {
        let (header, first, body) = Header::parse(datagram)?;
        let id = SaId::of(&header);
        if header.is_encrypted() || self.sessions.contains_key(&id.responder) {
            return Err(Refused::OutOfPlace);
        }
        let is_theirs = |opened: &&Opened| opened.initiator == id.initiator && opened.address == from;
        let opening = match self.opened.get(id.responder).filter(is_theirs) {
            Some(opened) => {
                let (_, first, body) = Header::parse(&opened.received)?;
                read_opening(first, body)?
            }
            None => self.cookies.recall(now, from, id.initiator, id.responder).cloned().ok_or(Refused::UnknownSa)?,
        };
        let (agreed, _) = self.agree(id, &opening, client)?;
        let theirs = Share::read(first, body, agreed.suite)?;
        let cost = cost(agreed.suite.group);
        if !self.budget.take(now, from.ip(), cost, LEAST - cost) {
            return Err(Refused::Busy);
        }
        let secret = Secret::generate(agreed.suite.group, rng).map_err(|_| Refused::Key)?;
        let ours = Share::draw(&secret, rng);
        let shared = secret.agree(&theirs.public).map_err(|_| Refused::Key)?;
        let chain = ours.to_chain(agreed.suite.authentication);
        let sent = agreed.header(0).write(chain.first(), chain.bytes());
        let takes_fragments = agreed.features.fragments;
        let keyed = Keyed::new(agreed, theirs, ours, &shared, client.secret)?;
        let half = Half {
            initiator: id.initiator,
            address: from,
            takes_fragments,
            keyed: Box::new(keyed),
            received: datagram.to_vec(),
            sent: sent.clone(),
            checks: 0,
        };
        self.opened.remove(id.responder);
        self.halves.insert(now, id.responder, from.ip(), half, rng);
        self.transmit(from, sent, takes_fragments);
        Ok(())
    }

    /// Message 5: who it is. What can be refused without computing is refused first.
    fn handle_fifth(
        &mut self,
        now: Time,
        from: SocketAddr,
        datagram: &[u8],
        (client, clients): (&Client<'_>, &impl Clients),
        rng: &mut impl CryptoRng,
    ) -> Result<(), Refused> {
        let (header, first, body) = Header::parse(datagram)?;
        let cookie = header.responder;
        let Half { keyed, checks, .. } = self.halves.get_mut(cookie).ok_or(Refused::UnknownSa)?;
        if !header.is_encrypted() {
            return Err(Refused::OutOfPlace);
        }
        // What is expected may have changed since the third message.
        if !client.fits(keyed.agreed.suite.authentication) {
            return Err(Refused::Authentication);
        }
        let plaintext = keyed.open(keyed.keys.first_iv(), body)?;
        let theirs = (first, plaintext.as_slice());
        let budget = &mut self.budget;
        let may_compute = || {
            let may = *checks < MOST_CHECKS && budget.take(now, from.ip(), SIGNATURE, 0);
            *checks += u32::from(may);
            may
        };
        let shown = keyed.check(Role::Initiator, theirs, (client, from.ip()), clients, may_compute)?;
        let chain = keyed.prove(Role::Responder, &self.own, rng)?;
        let sent = keyed.seal(keyed.agreed.suite.cipher.last_block(body), &chain)?;

        let Half { keyed, .. } = self.halves.remove(cookie).ok_or(Refused::UnknownSa)?;
        let opening = Opening { offer: keyed.agreed.offer.clone(), features: keyed.agreed.features };
        self.cookies.learn(&opening, &shown.identity);
        let sa = keyed.into_sa(&sent, shown.identity, now);
        self.transmit(from, sent.clone(), sa.features.fragments);
        let mut session = Session::new(sa, from, now, rng);
        session.last = Some(Box::new(Last { received: datagram.to_vec(), sent }));
        self.answered.push_back((now + HALF_OPEN, cookie));
        self.establish(now, session, shown.certificates, shown.begins_anew, rng);
        Ok(())
    }

    /// Puts a session into the list of those that are to be looked at.
    fn set_timer(&mut self, earliest: Time, cookie: Cookie) {
        if let Some(session) = self.sessions.get_mut(&cookie) {
            session.timer = session.due(&self.liveness).max(earliest);
            self.timers.insert((session.timer, cookie));
        }
    }

    fn establish(
        &mut self,
        now: Time,
        session: Session,
        certificates: Option<ShownChain>,
        began_anew: bool,
        rng: &mut impl CryptoRng,
    ) {
        let (sa, peer, address) = (session.sa.id(), session.sa.peer().clone(), session.address);
        let own = self.of_identity.entry(peer.clone()).or_default();
        own.push(sa.responder);
        let surplus = own.len().saturating_sub(MOST_OF_IDENTITY);
        let oldest: Vec<Cookie> = own.iter().copied().take(surplus).collect();
        self.sessions.insert(sa.responder, session);
        self.set_timer(now, sa.responder);
        self.events.push_back(Event::Established { sa, peer: peer.clone(), address, certificates, began_anew });
        if began_anew {
            self.forget_before(sa.responder, &peer);
        } else {
            for cookie in oldest {
                if let Some(session) = self.sessions.get(&cookie) {
                    self.datagrams.push_back(Datagram { to: session.address, bytes: session.farewell(rng) });
                }
                self.remove(cookie, Closed::Replaced);
            }
        }
    }

    /// The SAs of an identity that are older than this one are void. A replay finds the same ones, which are gone.
    fn forget_before(&mut self, cookie: Cookie, peer: &Identity) {
        let own = self.of_identity.get(peer).cloned().unwrap_or_default();
        own.into_iter().take_while(|other| *other != cookie).for_each(|older| self.remove(older, Closed::Restarted));
    }

    fn handle_session(
        &mut self,
        now: Time,
        from: SocketAddr,
        message: (&Header, u8, &[u8]),
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Message>, Refused> {
        let id = SaId::of(message.0);
        let session = self.sessions.get_mut(&id.responder).filter(|session| session.sa.id() == id);
        let session = session.ok_or(Refused::UnknownSa)?;
        match session.handle(now, from, message, rng)? {
            Heard::Message(message) => return Ok(Some(message)),
            Heard::Notices(notices) => {
                let peer = session.sa.peer().clone();
                self.datagrams.extend(notices.answer.map(|bytes| Datagram { to: from, bytes }));
                if notices.begins_anew {
                    self.forget_before(id.responder, &peer);
                }
                if notices.is_deleted {
                    self.remove(id.responder, Closed::Deleted);
                }
            }
        }
        Ok(None)
    }

    fn remove(&mut self, cookie: Cookie, why: Closed) {
        let Some(session) = self.sessions.remove(&cookie) else { return };
        self.timers.remove(&(session.timer, cookie));
        let (sa, peer) = (session.sa.id(), session.sa.peer().clone());
        if let Some(own) = self.of_identity.get_mut(&peer) {
            own.retain(|other| *other != cookie);
            if own.is_empty() {
                self.of_identity.remove(&peer);
            }
        }
        self.events.push_back(Event::Closed { sa, peer, why });
    }

    fn transmit(&mut self, to: SocketAddr, message: Vec<u8>, takes_fragments: bool) {
        self.datagrams.extend(split(message, takes_fragments).into_iter().map(|bytes| Datagram { to, bytes }));
    }
}

/// Of Diffie-Hellman, beside that on a curve (measured: P-256 takes 2 of Curve25519, group 14 some 290, groups 1 and 2 some 50).
fn cost(group: Group) -> u32 {
    match group {
        Group::Curve25519 | Group::P256 => 1,
        Group::Modp768 | Group::Modp1024 => 25,
        Group::Modp2048 => 100,
    }
}
