//! Revocation lists on their way: who hears of a newer one fetches it, checks it, acts on it and names it in turn. So a
//! list that is loaded on one device expels on all.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use muster_certs::{CertError, RevocationList};
use muster_wire::idp::{CRL_PART, CrlNumber, CrlPart, CrlRequest, MAX_CRL, MAX_CRL_PARTS, MAX_CRLS};
use muster_wire::{Bytes, Destination, Envelope, Hash, Kind, List, MemberId, Time};

use crate::Discovery;
use crate::config::{FIRST_RETRY, LAST_RETRY, PARTS_FOR_NEIGHBOR, PARTS_FOR_STRANGER, REFUSED_HOLD, TIMED_ASKS};
use crate::counters::Dropped;
use crate::event::{Event, GoneReason, ListError, Refusal};

/// Lists that are being fetched, one for each issuer.
#[derive(Default)]
pub(crate) struct Fetches {
    under_way: BTreeMap<Hash, Fetch>,
    /// Neighbours that named a list and did not bring it: not asked before this time.
    held: BTreeMap<MemberId, Time>,
    /// Hellos that have named lists: with more lists than a hello can name, they take turns.
    turn: usize,
}

/// A list on its way.
struct Fetch {
    from: MemberId,
    list: CrlNumber,
    /// As long as its first part says.
    bytes: Vec<u8>,
    /// Bit n: part n has not come.
    missing: u64,
    asks: u32,
    next_ask: Time,
}

impl Fetch {
    fn new(now: Time, from: MemberId, list: CrlNumber) -> Self {
        Self { from, list, bytes: Vec::new(), missing: u64::MAX, asks: 0, next_ask: now }
    }

    /// Puts a part in its place. `None`: it does not fit to the others.
    fn put(&mut self, part: &CrlPart) -> Option<()> {
        let length = part.length as usize;
        if self.bytes.is_empty() {
            if length == 0 || length > MAX_CRL {
                return None;
            }
            self.bytes = vec![0; length];
            self.missing = u64::MAX >> (MAX_CRL_PARTS - length.div_ceil(CRL_PART));
        }
        if length != self.bytes.len() {
            return None;
        }
        let start = usize::from(part.index) * CRL_PART;
        let end = self.bytes.len().min(start + CRL_PART);
        let place = self.bytes.get_mut(start..end)?;
        if place.len() != part.data.len() {
            return None;
        }
        place.copy_from_slice(&part.data);
        self.missing &= !(1 << part.index);
        Some(())
    }
}

impl Fetches {
    /// Whether this part of a list is wanted from this neighbour.
    pub(crate) fn wants(&self, from: &MemberId, part: &CrlPart) -> bool {
        let fetch = self.under_way.get(&part.list.issuer);
        fetch.is_some_and(|fetch| {
            let missing = usize::from(part.index) < MAX_CRL_PARTS && fetch.missing >> part.index & 1 == 1;
            fetch.from == *from && fetch.list == part.list && missing
        })
    }

    pub(crate) fn next_timer(&self) -> Option<Time> {
        self.under_way.values().map(|fetch| fetch.next_ask).min()
    }

    fn hold(&mut self, now: Time, member: MemberId) {
        self.held.retain(|_, until| *until > now);
        self.held.insert(member, now + REFUSED_HOLD);
    }

    fn is_held(&self, now: Time, member: &MemberId) -> bool {
        self.held.get(member).is_some_and(|until| now < *until)
    }
}

impl Discovery {
    /// What the next hello says of our lists. One that is too large to travel is not named.
    pub(crate) fn name_lists(&mut self) -> List<CrlNumber, MAX_CRLS> {
        let lists = self.trust.revocation_lists().filter(|list| list.der.len() <= MAX_CRL);
        let mut lists: Vec<CrlNumber> =
            lists.map(|list| CrlNumber { issuer: list.issuer, number: list.number }).collect();
        if lists.len() > MAX_CRLS {
            let first = self.fetches.turn % lists.len();
            lists.rotate_left(first);
            lists.truncate(MAX_CRLS);
            self.fetches.turn = first + MAX_CRLS;
        }
        List::new(lists).unwrap_or_default()
    }

    /// A neighbour's hello is here: whatever list it names and we lack is fetched.
    pub(crate) fn compare_lists(&mut self, now: Time, member: MemberId) {
        let Some(up) = self.peers.up(&member) else { return };
        let news = up.hello.crls.iter().filter(|list| self.trust.lacks(&list.issuer, list.number));
        let news: Vec<CrlNumber> = news.copied().collect();
        if self.fetches.is_held(now, &member) {
            return;
        }
        for list in news {
            if self.fetches.under_way.contains_key(&list.issuer) {
                continue;
            }
            self.fetches.under_way.insert(list.issuer, Fetch::new(now, member, list));
            self.ask_for_list(now, &list.issuer);
        }
    }

    /// Asks again for what has not come; gives up on who does not bring what it named.
    pub(crate) fn fetch_if_due(&mut self, now: Time) {
        let due = self.fetches.under_way.iter().filter(|(_, fetch)| fetch.next_ask <= now);
        let due: Vec<Hash> = due.map(|(issuer, _)| *issuer).collect();
        due.iter().for_each(|issuer| self.ask_for_list(now, issuer));
    }

    fn ask_for_list(&mut self, now: Time, issuer: &Hash) {
        let Some(fetch) = self.fetches.under_way.get_mut(issuer) else { return };
        let (from, still_news) = (fetch.from, self.trust.lacks(issuer, fetch.list.number));
        let asked_enough = fetch.asks >= TIMED_ASKS;
        let Some(up) = self.peers.up(&from).filter(|_| still_news && !asked_enough) else {
            self.fetches.under_way.remove(issuer);
            if asked_enough {
                self.fetches.hold(now, from);
            }
            return;
        };
        let request = CrlRequest { hello_nonce: up.hello.nonce, list: fetch.list, wanted: fetch.missing };
        let to = Destination::Unicast(up.address);
        fetch.next_ask = now + FIRST_RETRY.saturating_mul(1 << fetch.asks.min(16)).min(LAST_RETRY);
        fetch.asks += 1;
        self.send(to, &request);
    }

    /// Answers who repeats a nonce of our recent hellos. A device that is refused learns in this way why: it may itself
    /// be on the list.
    pub(crate) fn handle_crl_request(
        &mut self,
        now: Time,
        from: SocketAddr,
        envelope: Envelope,
        request: CrlRequest,
    ) -> Result<(), Dropped> {
        let is_neighbour = self.is_neighbours(now, envelope)?;
        if !self.answers.take_list(now, from.ip(), is_neighbour) {
            return Err(Dropped::RateLimited);
        }
        let most = if is_neighbour { PARTS_FOR_NEIGHBOR } else { PARTS_FOR_STRANGER };
        let CrlRequest { list, wanted, .. } = request;
        let is_it = |ours: &RevocationList<'_>| ours.issuer == list.issuer && ours.number == list.number;
        let ours = self.trust.revocation_lists().find(is_it);
        let der = ours.map(|ours| ours.der).filter(|der| der.len() <= MAX_CRL).ok_or(Dropped::NoSuchList)?;
        let length = u32::try_from(der.len()).map_err(|_| Dropped::NoSuchList)?;
        let parts = (0..).zip(der.chunks(CRL_PART)).filter(|(index, _)| wanted >> index & 1 == 1).take(most);
        let parts: Vec<CrlPart> = parts
            .filter_map(|(index, part)| Some(CrlPart { list, length, index, data: Bytes::new(part.to_vec())? }))
            .collect();
        parts.iter().for_each(|part| self.send(Destination::Unicast(from), part));
        Ok(())
    }

    pub(crate) fn handle_crl_part(&mut self, now: Time, envelope: Envelope, part: CrlPart) -> Result<(), Dropped> {
        let header = *envelope.header();
        let up = self.peers.up_mut(&header.sender).ok_or(Dropped::UnknownSender)?;
        up.identity.key.open(envelope).map_err(|_| Dropped::BadSignature)?;
        up.sign_of_life(now, Kind::CrlPart, header.sequence);
        let issuer = part.list.issuer;
        let fetch = self.fetches.under_way.get_mut(&issuer).ok_or(Dropped::NotAsked)?;
        if fetch.put(&part).is_none() {
            self.fetches.under_way.remove(&issuer);
            self.fetches.hold(now, header.sender);
            return Err(Dropped::BadList);
        }
        // There is more to come, or to be asked for when it is quiet.
        (fetch.asks, fetch.next_ask) = (0, now + FIRST_RETRY);
        if fetch.missing != 0 {
            return Ok(());
        }
        match self.fetches.under_way.remove(&issuer) {
            Some(fetch) => self.take_list(now, &fetch),
            None => Ok(()),
        }
    }

    /// All of a list is here.
    fn take_list(&mut self, now: Time, fetch: &Fetch) -> Result<(), Dropped> {
        let from = fetch.from;
        let taken = self.trust.offer(&fetch.bytes);
        let promised = !self.trust.lacks(&fetch.list.issuer, fetch.list.number);
        if !promised {
            self.fetches.hold(now, from);
        }
        match taken {
            Ok(true) => {
                self.report_list(from, &fetch.bytes);
                self.review_trust(now);
                Ok(())
            }
            Ok(false) if promised => Ok(()),
            Ok(false) => {
                self.events.push_back(Event::ListRefused { from, reason: ListError::NotAsNamed });
                Err(Dropped::BadList)
            }
            Err(error) => {
                self.events.push_back(Event::ListRefused { from, reason: ListError::Invalid(error) });
                Err(Dropped::BadList)
            }
        }
    }

    fn report_list(&mut self, from: MemberId, der: &[u8]) {
        let list = self.trust.revocation_lists().find(|list| list.der == der);
        let Some(list) = list else { return };
        self.events.push_back(Event::ListTaken {
            from,
            issuer: list.issuer,
            organisation: list.organisation.to_owned(),
            number: list.number,
            der: der.to_vec(),
        });
    }

    /// The trust anchors or lists have changed: looks at every certificate again, the own one too, and says what lists
    /// are here now.
    pub(crate) fn review_trust(&mut self, now: Time) {
        let unix = self.unix(now);
        let own: Vec<Vec<u8>> = self.chain.iter().map(|der| der.to_vec()).collect();
        match self.trust.validate(&own, unix) {
            // The path may end at a renewed root now, and last longer.
            Ok(own) => self.own = own,
            Err(CertError::Revoked) => {
                self.events.push_back(Event::SelfRevoked);
                self.shutdown(now);
                return;
            }
            Err(_) => {}
        }
        self.peers.forget_refused(|_| true);
        let chains: Vec<_> = self.peers.ups().map(|(member, up)| (member, up.chain.clone())).collect();
        for (member, chain) in chains {
            match (self.trust.validate(&chain, unix), self.peers.up_mut(&member)) {
                (Ok(identity), Some(up)) => up.identity = identity,
                (Ok(_), None) => {}
                (Err(error), _) => {
                    self.refuse(now, member, None, Refusal::Certificate(error), GoneReason::CertificateRefused);
                }
            }
        }
        let trust = &mut self.trust;
        let silent = self.peers.forget_gone(|_, gone| match trust.validate(&gone.chain, unix) {
            Ok(identity) => {
                gone.identity = identity;
                false
            }
            Err(_) => true,
        });
        self.over(silent);
        self.schedule.trigger(now);
    }
}
