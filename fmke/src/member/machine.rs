//! A client of the key server as a state machine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use muster_wire::Time;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use zeroize::Zeroizing;

use super::event::Event;
use super::gone::Gone;
use super::group::{Due, GroupView, Next};
use super::oneway::{OneWay, OneWaySettings};
use super::session::Session;
use super::traffic::{Change, Role, Traffic};
use crate::Refusal;
use crate::crypto::SecretBytes;
use crate::isakmp::{Delays, Delete, HEADER_LEN, Header, Malformed, RekeySa, exchange, key_type, tek_key};
use crate::phase1::{
    self, Authority, CertificateError, Credentials, Datagram, Initiator, Liveness, Message, Proposals, Refused, Server,
};
use crate::push::{MOST_GROUPS, Push, PushError, Spd};

/// Octets of key and salt (RFC 4106 8.1).
const KEY_LEN: usize = 36;
/// Of SAs that come without any.
const NO_DELAYS: Delays = Delays { activation: 0, deactivation: 0 };

/// What a client is started with.
pub struct Settings {
    /// Of ISAKMP messages and payloads.
    pub doi: u32,
    /// Its own black address: it sends under the SAs whose tunnels begin there.
    pub address: IpAddr,
    /// What phase 1 offers.
    pub proposals: Proposals,
    /// Who it is in phase 1.
    pub credentials: Credentials,
    /// The key server.
    pub server: Server,
    /// How it finds out that the key server is gone.
    pub liveness: Liveness,
}

/// A client: it connects, and holds what it is told.
pub struct Member {
    doi: u32,
    address: IpAddr,
    link: Link,
    /// By where their re-key messages come to.
    groups: BTreeMap<(IpAddr, u16), GroupView>,
    traffic: Traffic,
    gone: Gone,
    /// What it was told last of what is to be protected.
    spd: Option<Spd>,
    rng: ChaCha20Rng,
    out: VecDeque<Datagram>,
    changes: VecDeque<Change>,
    events: VecDeque<Event>,
}

/// The way to the key server.
enum Link {
    /// There and back: phase 1, and what is under way under its SA.
    Both(Box<Initiator>, Option<Session>),
    /// From it alone.
    OneWay(OneWay),
}

impl Member {
    /// It connects with the first [`handle_timeout`](Self::handle_timeout).
    pub fn new(now: Time, settings: Settings, seed: &SecretBytes) -> Self {
        let Settings { doi, address, proposals, credentials, server, liveness } = settings;
        let initiator = Initiator::new(doi, proposals, credentials, server, liveness, now);
        Self::with_link(doi, address, Link::Both(Box::new(initiator), None), seed)
    }

    /// One without a return channel: it takes what it is told, and sends nothing.
    pub fn one_way(settings: &OneWaySettings, seed: &SecretBytes) -> Self {
        Self::with_link(settings.doi, settings.address, Link::OneWay(OneWay::new(settings)), seed)
    }

    fn with_link(doi: u32, address: IpAddr, link: Link, seed: &SecretBytes) -> Self {
        let mut octets = Zeroizing::new([0; 32]);
        octets.iter_mut().zip(seed.as_bytes()).for_each(|(octet, seed)| *octet = *seed);
        Member {
            doi,
            address,
            link,
            groups: BTreeMap::new(),
            traffic: Traffic::default(),
            gone: Gone::default(),
            spd: None,
            rng: ChaCha20Rng::from_seed(*octets),
            out: VecDeque::new(),
            changes: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// A datagram came, be it to us or to a group.
    ///
    /// # Errors
    /// It was refused, and nothing has changed. Or the key server has said, in good form, what cannot be used: then all else that
    /// came with it counts, and to hear of a group by which that came the client connects anew.
    pub fn handle_datagram(
        &mut self,
        now: Time,
        from: SocketAddr,
        datagram: &[u8],
        authority: &impl Authority,
    ) -> Result<(), Refusal> {
        let (header, first, body) = Header::parse(datagram)?;
        if header.exchange == exchange::MULTICAST_PUSH {
            return self.handle_multicast(now, &header, &datagram[..HEADER_LEN], first, body);
        }
        match &mut self.link {
            Link::Both(initiator, _) => {
                let message = initiator.handle_datagram(now, from, datagram, authority, &mut self.rng)?;
                self.follow_phase1();
                message.map_or(Ok(()), |message| self.handle_push(now, &message))
            }
            Link::OneWay(one_way) => {
                let pushes = one_way.open(now, from, (&header, first, body), self.doi)?;
                // One that cannot be taken keeps none of the others back.
                let taken: Vec<_> = pushes.iter().map(|push| self.apply(now, push, None)).collect();
                taken.into_iter().collect()
            }
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Time) {
        match &mut self.link {
            Link::Both(initiator, _) => {
                initiator.handle_timeout(now, &mut self.rng);
                self.follow_phase1();
                self.acknowledge(now);
            }
            Link::OneWay(one_way) => {
                for push in one_way.due(now) {
                    // It was checked when it came; what its group makes of it is its own matter.
                    let _ = self.apply(now, &push, None);
                }
            }
        }
        self.changes.extend(self.traffic.due(now));
        let due: Vec<_> =
            self.groups.iter().filter(|(_, group)| group.timeout() <= now).map(|(place, _)| *place).collect();
        for place in due {
            let Some(group) = self.groups.get_mut(&place) else { continue };
            let (spi, to) = (group.spi(), group.source().into());
            match group.due(now, &mut self.rng) {
                Due::Ask(bytes) => self.out.push_back(Datagram { to, bytes }),
                // As above.
                Due::Take(pushes) => drop(self.hear(now, place, spi, pushes)),
                Due::Nothing => {}
                Due::Lost => self.lose(now, place),
            }
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Time> {
        let groups = self.groups.values().map(GroupView::timeout);
        let link = match &self.link {
            Link::Both(initiator, session) => {
                [initiator.poll_timeout(), session.as_ref().and_then(Session::timeout)].into_iter().flatten().min()
            }
            Link::OneWay(one_way) => one_way.timeout(),
        };
        groups.chain(self.traffic.timeout()).chain(link).min()
    }

    /// The next datagram.
    pub fn poll_transmit(&mut self) -> Option<Datagram> {
        match &mut self.link {
            Link::Both(initiator, _) => self.out.pop_front().or_else(|| initiator.poll_transmit()),
            Link::OneWay(_) => None,
        }
    }

    /// What the data plane is to do next.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// What has happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Where re-key messages come to: multicast groups on black to be joined, with their ports.
    pub fn listens_to(&self) -> impl Iterator<Item = (IpAddr, u16)> {
        self.groups.keys().copied()
    }

    /// Whether there is an SA with the key server.
    pub fn is_connected(&self) -> bool {
        matches!(&self.link, Link::Both(_, Some(_)))
    }

    /// Without a return channel: the number of the next message that is taken. It is to be kept before anything is done that
    /// [`poll_change`](Self::poll_change) says, or a replay would be taken after a restart.
    pub fn next_number(&self) -> Option<u32> {
        match &self.link {
            Link::Both(..) => None,
            Link::OneWay(one_way) => Some(one_way.next()),
        }
    }

    /// Without a return channel: when the key server said something new to us alone.
    pub fn heard(&self) -> Option<Time> {
        match &self.link {
            Link::Both(..) => None,
            Link::OneWay(one_way) => one_way.heard,
        }
    }

    /// How many SAs of ESP there are.
    pub fn sas(&self) -> usize {
        self.traffic.len()
    }

    /// What we show from now on, be it a secret: we connect anew, and hold what we hold.
    pub fn present(&mut self, now: Time, credentials: Credentials, secret: Option<SecretBytes>) {
        if let Link::Both(initiator, _) = &mut self.link {
            initiator.present(now, credentials, secret);
        }
    }

    /// Without a return channel: what we take from now on is said under this key. We hold what we hold.
    pub fn take_under(&mut self, settings: &OneWaySettings) {
        if let Link::OneWay(one_way) = &mut self.link {
            *one_way = OneWay::new(settings);
        }
    }

    /// Looks again at the certificate that the key server has shown: other anchors or revocation lists count now. When it does not
    /// count any longer, the key server is not obeyed until it shows another: not in phase 2, nor in phase 3. What traffic goes
    /// under stays until its lifetime is over.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn review(&mut self, now: Time, authority: &impl Authority) -> Result<(), CertificateError> {
        let Link::Both(initiator, _) = &mut self.link else { return Ok(()) };
        let verdict = initiator.review(now, authority, &mut self.rng);
        if verdict.is_err() {
            let groups = std::mem::take(&mut self.groups);
            self.events.extend(groups.into_keys().map(|group| Event::Lost { group }));
        }
        self.follow_phase1();
        verdict
    }

    /// Takes leave of the key server.
    pub fn close(&mut self) {
        if let Link::Both(initiator, _) = &mut self.link {
            initiator.close(&mut self.rng);
        }
        self.follow_phase1();
    }

    fn follow_phase1(&mut self) {
        let Link::Both(initiator, session) = &mut self.link else { return };
        while let Some(event) = initiator.poll_event() {
            match event {
                phase1::Event::Established { sa, .. } => {
                    *session = Some(Session::new(sa));
                    self.events.push_back(Event::Connected);
                }
                // What we hold stays good without the key server, until it says otherwise or its lifetime is over.
                phase1::Event::Closed { sa, why, .. } => {
                    if session.take_if(|session| session.sa == sa).is_some() {
                        self.events.push_back(Event::Disconnected { why });
                    }
                }
                phase1::Event::Failed(failed) => self.events.push_back(Event::Refused(failed)),
            }
        }
    }

    /// A message of phase 2.
    fn handle_push(&mut self, now: Time, message: &Message) -> Result<(), Refusal> {
        // "The Exchange Type field is set to "FMKE_unicast_Push"" (draft 3.3)
        if message.header.exchange != exchange::UNICAST_PUSH {
            return Err(Refusal::Exchange(message.header.exchange));
        }
        let Link::Both(initiator, session) = &mut self.link else { return Err(Refused::UnknownSa.into()) };
        let sa = initiator.sa(message.sa).ok_or(Refused::UnknownSa)?;
        let payloads = message.payloads()?;
        // "HASH(1) = prf(SKEYID_a, SEQ | SA |KD )" (draft 3.1)
        let (number, push) = Push::parse(sa.check_hash(&[], &payloads)?, self.doi)?;
        check(&push)?;
        let Some(session) = session.as_mut().filter(|session| session.sa == message.sa) else {
            // Of an SA that another has replaced, under which all is told again.
            return Ok(());
        };
        let (pushes, is_new) = session.take(now, number, push)?;
        // One that is not new may be a replay.
        if is_new {
            initiator.heard(now, message.sa);
        }
        // It is acknowledged, so nobody says it again: one that cannot be used keeps none of the others back.
        let taken: Vec<_> = pushes.iter().map(|push| self.apply(now, push, None)).collect();
        self.acknowledge(now);
        taken.into_iter().collect()
    }

    /// A message of phase 3.
    fn handle_multicast(
        &mut self,
        now: Time,
        header: &Header,
        head: &[u8],
        first: u8,
        body: &[u8],
    ) -> Result<(), Refusal> {
        let found = self.groups.iter_mut().find(|(_, group)| group.is_of(header));
        let (place, group) = found.ok_or(Refused::UnknownSa)?;
        let (place, spi) = (*place, group.spi());
        let pushes = group.open(now, (header, head, first, body), self.doi, &mut self.rng)?;
        self.hear(now, place, spi, pushes)
    }

    /// Takes what was said to a group under its re-key SA with this SPI.
    fn hear(&mut self, now: Time, place: (IpAddr, u16), spi: [u8; 16], pushes: Vec<Push>) -> Result<(), Refusal> {
        for push in pushes {
            if let Err(refusal) = self.apply(now, &push, Some(place)) {
                // Nobody says it again, and what it was to bring is missing.
                self.lose(now, place);
                return Err(refusal);
            }
            // The rest was said under a re-key SA that is no more: for others.
            if self.groups.get(&place).is_none_or(|group| group.spi() != spi) {
                break;
            }
        }
        Ok(())
    }

    /// Takes what is said; by multicast it is of one group.
    fn apply(&mut self, now: Time, push: &Push, group: Option<(IpAddr, u16)>) -> Result<(), Refusal> {
        self.delete(&push.deletes, group);
        // What cannot be used of it keeps nothing else back.
        let rekeyed: Vec<_> = push.policy.rekey.iter().map(|sa| self.take_rekey(now, sa, push, group)).collect();
        let told = self.take_spd(push);
        let delays = push.policy.delays.unwrap_or(NO_DELAYS);
        for sa in &push.policy.traffic {
            let key =
                push.keys.packet(key_type::TEK, &sa.spi.to_be_bytes())?.key(tek_key::ALGORITHM, "TEK_ALGORITHM_KEY")?;
            match group {
                Some(_) if self.gone.contains(sa.spi) => continue,
                Some(_) => {}
                None => self.gone.tell(sa.spi),
            }
            let role = if sa.tunnel.0 == self.address { Role::Sender } else { Role::Receiver };
            if role == Role::Sender && self.is_one_way() {
                continue;
            }
            self.changes.extend(self.traffic.install(now, role, sa, key, delays));
        }
        rekeyed.into_iter().chain([told]).collect()
    }

    /// A re-key SA; by multicast it is of one group.
    fn take_rekey(
        &mut self,
        now: Time,
        sa: &RekeySa,
        push: &Push,
        group: Option<(IpAddr, u16)>,
    ) -> Result<(), Refusal> {
        let Some(place) = group else { return self.enter(now, sa, push) };
        let Some(view) = self.groups.get_mut(&place) else { return Ok(()) };
        match view.follow(now, sa, &push.keys)? {
            Next::Replaced => self.events.push_back(Event::Rekeyed { group: place }),
            Next::Nothing => {}
            Next::Lost => self.lose(now, place),
        }
        Ok(())
    }

    /// What is to be protected, in parts.
    fn take_spd(&mut self, push: &Push) -> Result<(), Refusal> {
        if let (Some(part), Link::Both(_, Some(session))) = (&push.policy.spd, &mut self.link)
            && let Some(spd) = session.spd.take(part)?
            && self.spd.as_ref() != Some(&spd)
        {
            self.spd = Some(spd.clone());
            self.changes.push_back(Change::Follow(spd));
        }
        Ok(())
    }

    /// We are told of a group. Without a return channel we are told all the time: what we hold may be newer than what comes, which was
    /// said before something that came by multicast.
    fn enter(&mut self, now: Time, sa: &RekeySa, push: &Push) -> Result<(), Refusal> {
        let view = GroupView::new(now, sa, &push.keys, !self.is_one_way())?;
        let group = view.destination();
        if !self.groups.contains_key(&group) && self.groups.len() >= MOST_GROUPS {
            return Err(Malformed::TooMany.into());
        }
        match self.groups.get(&group) {
            Some(held) if self.is_one_way() && held.is_as_new_as(&view) => return Ok(()),
            // Told again, as on every connection.
            Some(held) if held.spi() == view.spi() => {}
            Some(_) => self.events.push_back(Event::Rekeyed { group }),
            None => self.events.push_back(Event::Joined { group }),
        }
        self.groups.insert(group, view);
        Ok(())
    }

    fn is_one_way(&self) -> bool {
        matches!(self.link, Link::OneWay(_))
    }

    /// What is no more; by multicast it is of one group.
    fn delete(&mut self, deletes: &[Delete], group: Option<(IpAddr, u16)>) {
        let mut spis = BTreeSet::new();
        for spi in deletes.iter().flat_map(|delete| &delete.spis) {
            if let Ok(octets) = <[u8; 4]>::try_from(spi.as_slice()) {
                spis.insert(u32::from_be_bytes(octets));
            } else if let Some(place) =
                self.groups.iter().find(|(_, group)| group.spi() == spi.as_slice()).map(|(p, _)| *p)
            {
                self.groups.remove(&place);
                self.events.push_back(Event::Left { group: place });
            }
        }
        self.changes.extend(self.traffic.delete(&spis));
        // Who is in no group hears no multicast of before.
        if group.is_none() && !self.groups.is_empty() {
            self.gone.add(&spis);
        }
    }

    /// A group is not received any longer: the key server, asked anew (or, of itself, when it next tells us all), tells us where it
    /// is; if it does not, we are out.
    fn lose(&mut self, now: Time, place: (IpAddr, u16)) {
        self.groups.remove(&place);
        self.events.push_back(Event::Lost { group: place });
        if let Link::Both(initiator, _) = &mut self.link {
            initiator.renew(now);
        }
    }

    fn acknowledge(&mut self, now: Time) {
        let Link::Both(initiator, Some(session)) = &mut self.link else { return };
        let sa = session.sa;
        let Some(mut chain) = session.due(now) else { return };
        let Some(phase1) = initiator.sa(sa) else { return };
        // "HASH(2) = prf(SKEYID_a, ACK [ | SACK ])" (draft 3.1)
        phase1.add_hash(&[], &mut chain);
        let datagram = phase1.seal(exchange::UNICAST_PUSH, self.rng.next_u32().max(1), &chain);
        initiator.send(sa, datagram);
    }
}

/// Whether each SA has a key of its length: all or nothing is taken of a message.
///
/// "If one or more Data SAs are defined in the SA payload, KD will contains the TEKs." (draft 3.1; of phase 3, 4.1)
pub(super) fn check(push: &Push) -> Result<(), PushError> {
    for sa in &push.policy.traffic {
        let key =
            push.keys.packet(key_type::TEK, &sa.spi.to_be_bytes())?.key(tek_key::ALGORITHM, "TEK_ALGORITHM_KEY")?;
        if key.len() != KEY_LEN {
            return Err(Malformed::Field { field: "length of TEK_ALGORITHM_KEY", value: key.len() as u32 }.into());
        }
    }
    Ok(())
}
