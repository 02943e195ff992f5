//! A datagram's body, decoded.

use std::time::Duration;

use muster_wire::idp::{CrlPart, CrlRequest, Goodbye, Hello, Prefixes, PrefixesAck, Probe, ProbeAnswer};
use muster_wire::{Envelope, Kind};

use crate::config::{MAX_INTERVAL, MIN_INTERVAL};
use crate::counters::Dropped;

/// The messages of this protocol.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Hello(Hello),
    Probe(Probe),
    Answer(ProbeAnswer),
    Prefixes(Prefixes),
    Ack(PrefixesAck),
    Goodbye,
    CrlRequest(CrlRequest),
    CrlPart(CrlPart),
}

impl Message {
    /// Refuses the kinds of the other protocol, and intervals out of bounds.
    pub(crate) fn decode(envelope: &Envelope) -> Result<Message, Dropped> {
        let message = match envelope.header().kind {
            Kind::Hello => envelope.decode().map(Message::Hello),
            Kind::Probe => envelope.decode().map(Message::Probe),
            Kind::ProbeAnswer => envelope.decode().map(Message::Answer),
            Kind::Prefixes => envelope.decode().map(Message::Prefixes),
            Kind::PrefixesAck => envelope.decode().map(Message::Ack),
            Kind::Goodbye => envelope.decode::<Goodbye>().map(|_| Message::Goodbye),
            Kind::CrlRequest => envelope.decode().map(Message::CrlRequest),
            Kind::CrlPart => envelope.decode().map(Message::CrlPart),
            _ => return Err(Dropped::Malformed),
        };
        match message {
            Ok(Message::Hello(hello)) if !(MIN_INTERVAL..=MAX_INTERVAL).contains(&interval(&hello)) => {
                Err(Dropped::Malformed)
            }
            Ok(message) => Ok(message),
            Err(_) => Err(Dropped::Malformed),
        }
    }
}

/// The interval that a hello states.
pub(crate) fn interval(hello: &Hello) -> Duration {
    Duration::from_millis(hello.interval_ms.into())
}
