//! The SA payload of phases 2 and 3: what the SAs are (RFC 6407 5.2, draft 7.6).
//!
//! SAK, GAP and SAT payloads stand within the SA payload, one after the other, and are written in the order of RFC 6407 5.2.1.
//! The draft has no GAP: what it says may come next (7.6 to 7.8) is a SAK or a SAT. A SAT payload is an SA of ESP, or, with a
//! private Protocol-ID, what is to be protected at all.

use std::time::Duration;

use super::attribute::{Attribute, attributes, only};
use super::bytes::{Malformed, Reader, expect};
use super::chain::{Chain, within};
use super::kind;
use super::rekey_sa::RekeySa;
use super::spd::{PROTO_SPD, SpdPart};
use super::traffic_sa::TrafficSa;

/// Attributes of a GAP payload (RFC 6407 5.4).
mod gap_attribute {
    pub(super) const ACTIVATION: u16 = 1;
    pub(super) const DEACTIVATION: u16 = 2;
}

/// The body of an SA payload of FMKE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Re-key SAs.
    pub rekey: Vec<RekeySa>,
    /// When the SAs come into force.
    pub delays: Option<Delays>,
    /// SAs of ESP.
    pub traffic: Vec<TrafficSa>,
    /// What is to be protected, and what is not.
    pub spd: Option<SpdPart>,
}

/// ATD and DTD in seconds, both from the receipt of the message on (RFC 5374 4.2.1, RFC 6407 5.4.1); the second should be
/// the larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delays {
    /// After how long a sender takes the new SA.
    pub activation: u16,
    /// After how long the old one goes.
    pub deactivation: u16,
}

impl Policy {
    /// Whether no SAK and no SAT is in it.
    pub fn is_empty(&self) -> bool {
        self.rekey.is_empty() && self.traffic.is_empty() && self.spd.is_none()
    }

    /// The body of the SA payload.
    pub fn to_body(&self, doi: u32) -> Vec<u8> {
        let mut inside = Chain::new();
        for sa in &self.rekey {
            inside.add(kind::SAK, &sa.to_body());
        }
        if let Some(delays) = self.delays {
            inside.add(kind::GAP, &delays.to_body());
        }
        for sa in &self.traffic {
            inside.add(kind::SAT, &sa.to_body());
        }
        if let Some(spd) = &self.spd {
            inside.add(kind::SAT, &spd.to_body());
        }
        let mut body = doi.to_be_bytes().to_vec();
        // Situation; SA Attribute Next Payload, two octets as in the figure (the draft's text says one); RESERVED2.
        body.extend_from_slice(&[0, 0, 0, 0, 0, inside.first(), 0, 0]);
        body.extend_from_slice(inside.bytes());
        body
    }

    /// Reads it.
    ///
    /// # Errors
    /// Another DOI, a situation, another payload within, none, more than 64, two SPDs; and as each of them says.
    pub fn parse(body: &[u8], doi: u32) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        expect("DOI", reader.u32()?, doi)?;
        // "Situation (4 octets) -- Must be zero", "RESERVED (2 octets) -- Must be zero" (draft 7.6)
        expect("Situation", reader.u32()?, 0u32)?;
        let first = reader.u16()?;
        let first = u8::try_from(first)
            .map_err(|_| Malformed::Field { field: "SA Attribute Next Payload", value: first.into() })?;
        expect("RESERVED2", reader.u16()?, 0u16)?;
        let mut policy = Policy::default();
        for raw in within(first, reader.rest(), &[kind::SAK, kind::GAP, kind::SAT])? {
            match raw.kind {
                kind::SAK => policy.rekey.push(RekeySa::parse(raw.body)?),
                kind::SAT => match raw.body.split_first() {
                    Some((&PROTO_SPD, _)) if policy.spd.is_some() => return Err(Malformed::Conflict("SPD")),
                    Some((&PROTO_SPD, spd)) => policy.spd = Some(SpdPart::parse(spd)?),
                    _ => policy.traffic.push(TrafficSa::parse(raw.body)?),
                },
                _ if policy.delays.is_some() => return Err(Malformed::Conflict("GAP")),
                _ => policy.delays = Some(Delays::parse(raw.body)?),
            }
        }
        // "either one SAK or SAT payload MUST be present" (draft 7.6.1)
        if policy.is_empty() { Err(Malformed::Missing("SAK or SAT")) } else { Ok(policy) }
    }
}

impl Delays {
    /// From when a new SA comes until the one before has gone.
    pub fn change(self) -> Duration {
        Duration::from_secs(u64::from(self.activation) + u64::from(self.deactivation))
    }

    fn to_body(self) -> Vec<u8> {
        let mut body = Vec::new();
        Attribute::basic(gap_attribute::ACTIVATION, self.activation).write(&mut body);
        Attribute::basic(gap_attribute::DEACTIVATION, self.deactivation).write(&mut body);
        body
    }

    /// A request for sender ids, which GDOI may put here, too, is none of a push: it is passed over.
    fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let list = attributes(body)?;
        Ok(Delays {
            activation: only(&list, gap_attribute::ACTIVATION, "ACTIVATION_TIME_DELAY")?.to_basic()?,
            deactivation: only(&list, gap_attribute::DEACTIVATION, "DEACTIVATION_TIME_DELAY")?.to_basic()?,
        })
    }
}
