//! A member without a return channel (draft 6.1): its SA with the key server was put there by hand, and it sends nothing.

use std::net::{IpAddr, SocketAddr};

use muster_wire::Time;

use super::machine::check;
use crate::Refusal;
use crate::isakmp::{Header, exchange};
use crate::phase1::{IsakmpSa, ManualKey, Refused};
use crate::push::{PatientWindow, Push, PushError};

/// What such a client is started with.
pub struct OneWaySettings {
    /// Of ISAKMP messages and payloads.
    pub doi: u32,
    /// Its own black address.
    pub address: IpAddr,
    /// The key server.
    pub server: SocketAddr,
    /// What the two share.
    pub key: ManualKey,
    /// What [`Member::next_number`](super::Member::next_number) said last, also before a restart; with another key 1.
    pub next: u32,
}

pub(super) struct OneWay {
    pub(super) sa: IsakmpSa,
    server: SocketAddr,
    window: PatientWindow<Push>,
    /// When something new came last.
    pub(super) heard: Option<Time>,
}

impl OneWay {
    pub(super) fn new(settings: &OneWaySettings) -> Self {
        let OneWaySettings { doi, address, server, key, next } = settings;
        // Numbers begin at 1 (draft 7.5).
        let window = PatientWindow::new((*next).max(1));
        OneWay { sa: key.sa(*doi, server.ip(), *address), server: *server, window, heard: None }
    }

    /// A datagram that is not multicast: what it says, with what had waited for it, in order.
    pub(super) fn open(
        &mut self,
        now: Time,
        from: SocketAddr,
        (header, first, body): (&Header, u8, &[u8]),
        doi: u32,
    ) -> Result<Vec<Push>, Refusal> {
        if from != self.server {
            return Err(Refused::UnknownAddress.into());
        }
        if header.exchange != exchange::UNICAST_PUSH {
            return Err(Refusal::Exchange(header.exchange));
        }
        // The message id is the number, so that no IV ever comes twice: a replay is refused before it is decrypted.
        let number = header.message_id;
        if !self.window.wants(number) {
            return Err(PushError::Number(number).into());
        }
        let message = self.sa.open(header, first, body)?;
        let payloads = message.payloads()?;
        let (inner, push) = Push::parse(self.sa.check_hash(&[], &payloads)?, doi)?;
        if inner != number {
            return Err(PushError::Number(inner).into());
        }
        check(&push)?;
        self.heard = Some(now);
        Ok(self.window.take(now, number, push))
    }

    /// The number of the next message.
    pub(super) fn next(&self) -> u32 {
        self.window.next()
    }

    /// When to ask [`due`](Self::due).
    pub(super) fn timeout(&self) -> Option<Time> {
        self.window.timeout()
    }

    /// What is to be done by `now` though something before it is missing.
    pub(super) fn due(&mut self, now: Time) -> Vec<Push> {
        self.window.due(now)
    }
}
