//! An established SA, and what keeps it alive or ends it.

use std::net::SocketAddr;

use muster_wire::Time;
use rand_core::CryptoRng;

use super::informational::{self, Notice};
use super::liveness::{Liveness, Step, Watch, message_id};
use super::{Closed, IsakmpSa, Message, Refused};
use crate::isakmp::{Header, exchange};

pub(super) struct Session {
    pub(super) sa: IsakmpSa,
    /// Where the peer was in phase 1, and still is.
    pub(super) address: SocketAddr,
    watch: Watch,
    /// At the key server: when it is looked at next, in the list of those.
    pub(super) timer: Time,
    /// For a while, at the key server: the last message of phase 1 that came, and our answer, which may be lost.
    pub(super) last: Option<Box<Last>>,
}

pub(super) struct Last {
    pub(super) received: Vec<u8>,
    pub(super) sent: Vec<u8>,
}

/// What a datagram under an SA is.
pub(super) enum Heard {
    /// Of another exchange.
    Message(Message),
    /// Of an informational exchange.
    Notices(Notices),
}

/// What came of an informational exchange.
#[derive(Default)]
pub(super) struct Notices {
    pub(super) answer: Option<Vec<u8>>,
    pub(super) is_deleted: bool,
    pub(super) begins_anew: bool,
}

/// What is due.
pub(super) enum Due {
    Nothing,
    Send(Vec<u8>),
    Close(Closed),
}

impl Session {
    pub(super) fn new(sa: IsakmpSa, address: SocketAddr, now: Time, rng: &mut impl CryptoRng) -> Self {
        Session { sa, address, watch: Watch::new(now, rng), timer: now, last: None }
    }

    /// A datagram whose cookies are this SA's.
    pub(super) fn handle(
        &mut self,
        now: Time,
        from: SocketAddr,
        (header, first, body): (&Header, u8, &[u8]),
        rng: &mut impl CryptoRng,
    ) -> Result<Heard, Refused> {
        if from != self.address {
            return Err(Refused::UnknownAddress);
        }
        if header.exchange == exchange::MAIN {
            return Err(Refused::OutOfPlace);
        }
        let message = self.sa.open(header, first, body)?;
        if header.exchange != exchange::INFORMATIONAL {
            return Ok(Heard::Message(message));
        }
        let mut heard = Notices::default();
        for notice in informational::read(&self.sa, &message)? {
            match notice {
                Notice::Question(number) => {
                    self.watch.questioned(now, header.message_id, number)?;
                    heard.answer = Some(informational::write(&self.sa, message_id(rng), Notice::Answer(number)));
                }
                Notice::Answer(number) => self.watch.answered(now, number)?,
                Notice::Deleted => heard.is_deleted = true,
                Notice::InitialContact => heard.begins_anew = true,
            }
        }
        Ok(Heard::Notices(heard))
    }

    /// Something authentic and new came.
    pub(super) fn heard(&mut self, now: Time) {
        self.watch.heard(now);
    }

    /// When [`Session::handle_timeout`] has something to do.
    pub(super) fn due(&self, liveness: &Liveness) -> Time {
        let expires = self.sa.expires();
        if self.sa.features.liveness { expires.min(self.watch.due(liveness)) } else { expires }
    }

    pub(super) fn handle_timeout(&mut self, now: Time, liveness: &Liveness, rng: &mut impl CryptoRng) -> Due {
        if now >= self.sa.expires() {
            return Due::Close(Closed::Expired);
        }
        if !self.sa.features.liveness {
            return Due::Nothing;
        }
        match self.watch.step(now, liveness, rng) {
            Step::Wait => Due::Nothing,
            Step::Ask(message_id, number) => {
                Due::Send(informational::write(&self.sa, message_id, Notice::Question(number)))
            }
            Step::Dead => Due::Close(Closed::Dead),
        }
    }

    /// Tells the peer that the SA is no more.
    pub(super) fn farewell(&self, rng: &mut impl CryptoRng) -> Vec<u8> {
        informational::write(&self.sa, message_id(rng), Notice::Deleted)
    }
}
