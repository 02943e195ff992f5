//! Red prefixes: announced to each neighbour under the pair's key until it acknowledges, and checked on arrival.

use std::time::Duration;

use ipnet::IpNet;
use muster_wire::idp::{MAX_PREFIXES, Prefix, PrefixList, Prefixes, PrefixesAck};
use muster_wire::{Bytes, Destination, Envelope, Kind, MemberId, Time, codec};

use crate::Discovery;
use crate::config::{PREFIX_PROMPT, PREFIX_RETRY, PREFIX_RETRY_INTERVALS};
use crate::counters::Dropped;
use crate::event::{Event, PrefixError};
use crate::networks::{allowed, from_wire, to_wire};

/// The own ones.
#[derive(Debug, Default)]
pub(crate) struct OwnPrefixes {
    version: u32,
    list: Vec<IpNet>,
}

impl OwnPrefixes {
    pub(crate) fn version(&self) -> u32 {
        self.version
    }
}

/// How far one neighbour is with ours.
#[derive(Debug)]
pub(crate) struct Announcing {
    /// `None`: acknowledged.
    next: Option<Time>,
    times: u32,
}

impl Announcing {
    /// At once, or after `wait` if nothing is heard from the neighbour before.
    pub(crate) fn new(now: Time, wait: Option<Duration>) -> Self {
        Self { next: Some(wait.map_or(now, |wait| now + wait)), times: 0 }
    }

    pub(crate) fn due(&self) -> Option<Time> {
        self.next
    }

    /// From the beginning: another version, or another key.
    pub(crate) fn restart(&mut self, now: Time) {
        *self = Self::new(now, None);
    }

    /// The neighbour has us up: no need to wait.
    fn hurry(&mut self, now: Time) {
        if self.times == 0 && self.next.is_some() {
            self.next = Some(now);
        }
    }

    fn sent(&mut self, now: Time, interval: Duration) {
        let doublings = self.times.saturating_add(1).saturating_sub(PREFIX_PROMPT).min(16);
        let wait = PREFIX_RETRY.min(interval).saturating_mul(1 << doublings);
        self.next = Some(now + wait.min(interval * PREFIX_RETRY_INTERVALS));
        self.times = self.times.saturating_add(1);
    }
}

/// What a neighbour announces.
#[derive(Clone, Debug)]
pub(crate) struct Announced {
    version: u32,
    list: Vec<IpNet>,
    /// Refused: none of them counts.
    refused: Option<PrefixError>,
}

impl Announced {
    pub(crate) fn accepted(&self) -> &[IpNet] {
        if self.refused.is_none() { &self.list } else { &[] }
    }
}

/// Whether these can be announced as the networks on the red side.
pub fn check_prefixes(prefixes: &[IpNet]) -> Result<(), PrefixError> {
    acceptable(prefixes.to_vec()).map(drop)
}

/// Each once, in order.
fn acceptable(mut prefixes: Vec<IpNet>) -> Result<Vec<IpNet>, PrefixError> {
    prefixes.iter_mut().for_each(|net| *net = net.trunc());
    prefixes.sort_unstable();
    prefixes.dedup();
    if prefixes.len() > MAX_PREFIXES {
        return Err(PrefixError::TooMany);
    }
    prefixes.iter().try_for_each(allowed)?;
    Ok(prefixes)
}

impl Discovery {
    /// The networks on the red side. A change is announced to every neighbour.
    pub fn set_prefixes(&mut self, now: Time, prefixes: Vec<IpNet>) -> Result<(), PrefixError> {
        let prefixes = acceptable(prefixes)?;
        if self.prefixes.version > 0 && prefixes == self.prefixes.list {
            return Ok(());
        }
        self.prefixes = OwnPrefixes { version: self.prefixes.version.saturating_add(1), list: prefixes };
        self.peers.ups_mut().for_each(|(_, up)| up.announcing.restart(now));
        Ok(())
    }

    pub(crate) fn announce_if_due(&mut self, now: Time) {
        let due: Vec<MemberId> = self
            .peers
            .ups()
            .filter(|(_, up)| up.announcing.due().is_some_and(|at| at <= now))
            .map(|(member, _)| member)
            .collect();
        for member in due {
            let list: Vec<Prefix> = self.prefixes.list.iter().map(to_wire).collect();
            let sequence = self.author.next_sequence();
            let version = self.prefixes.version;
            let Some(up) = self.peers.up_mut(&member) else { continue };
            up.announcing.sent(now, self.config.hello_interval);
            // None of these fails: the list has at most 64 prefixes, for which the message has room.
            let Some(list) = PrefixList::new(list) else { continue };
            let Ok(plain) = codec::encode(&list) else { continue };
            let Some(sealed) = up.pair.seal(sequence, version, plain).and_then(Bytes::new) else { continue };
            let to = Destination::Unicast(up.address);
            let Ok(bytes) = self.author.seal_as(sequence, &Prefixes { version, sealed }) else { continue };
            self.send_bytes(to, bytes);
        }
    }

    pub(crate) fn handle_prefixes(&mut self, now: Time, envelope: Envelope, prefixes: Prefixes) -> Result<(), Dropped> {
        let header = *envelope.header();
        let up = self.peers.up_mut(&header.sender).ok_or(Dropped::UnknownSender)?;
        let Prefixes { version, sealed } = prefixes;
        // What opens under the pair's key is of this run of the neighbour: nobody else has the key. The signature would
        // say no more.
        let plain = up.pair.open(header.sequence, version, sealed.into_vec()).map_err(|_| Dropped::BadPrefixes);
        if plain.is_err() {
            up.identity.key.open(envelope).map_err(|_| Dropped::BadSignature)?;
        }
        up.sign_of_life(now, Kind::Prefixes, header.sequence);
        // It has us up.
        up.announcing.hurry(now);

        let known = up.announced.as_ref().map(|announced| announced.version);
        if known.is_some_and(|known| version < known) {
            return Err(Dropped::Replayed);
        }
        let plain = plain?;
        self.events.push_back(Event::Confirmed { member: header.sender });
        // Also when it is not acceptable: repeating it would not make it better. Also again: the last may be lost.
        let to = Destination::Unicast(up.address);
        let ack = PrefixesAck { startup: header.startup, version };
        let mut result = Ok(());
        if known != Some(version) {
            let before = up.announced.take().is_some_and(|announced| !announced.accepted().is_empty());
            let (list, refused) = match from_wire(&plain) {
                Ok(list) => (list, None),
                Err(error) => (Vec::new(), Some(error)),
            };
            if refused.is_some() {
                result = Err(Dropped::BadPrefixes);
            }
            up.announced = Some(Announced { version, list, refused });
            self.report_prefixes(header.sender, before);
        }
        self.send(to, &ack);
        result
    }

    pub(crate) fn handle_ack(&mut self, now: Time, envelope: Envelope) -> Result<(), Dropped> {
        let header = *envelope.header();
        let up = self.peers.up_mut(&header.sender).ok_or(Dropped::UnknownSender)?;
        up.identity.key.open(envelope).map_err(|_| Dropped::BadSignature)?;
        up.sign_of_life(now, Kind::PrefixesAck, header.sequence);
        // An older one may be for what was sealed under its key before, which says nothing of the present one.
        if header.sequence > up.keyed {
            up.announcing.next = None;
            self.events.push_back(Event::Assured { member: header.sender });
        }
        Ok(())
    }

    /// Tells again what a neighbour announces, because it has come back.
    pub(crate) fn repeat_prefixes(&mut self, member: MemberId) {
        self.report_prefixes(member, true);
    }

    /// `before`: a list was accepted until now, and not empty.
    fn report_prefixes(&mut self, member: MemberId, before: bool) {
        let Some(announced) = self.peers.up(&member).and_then(|up| up.announced.as_ref()) else { return };
        let prefixes = announced.accepted().to_vec();
        if let Some(reason) = announced.refused.clone() {
            self.events.push_back(Event::PrefixesRefused { member, reason });
            if !before {
                return;
            }
        }
        self.events.push_back(Event::PrefixesChanged { member, prefixes });
    }
}
