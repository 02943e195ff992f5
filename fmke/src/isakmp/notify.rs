//! Notifications (RFC 2408 3.14).

use std::borrow::Cow;

use super::bytes::{Malformed, Reader};

/// ISAKMP itself (RFC 2407 4.4.1).
const PROTO_ISAKMP: u8 = 1;

/// Types of notifications.
pub mod notification {
    /// Those below are errors, the others say how things are (RFC 2408 3.14.1).
    pub const FIRST_STATUS: u16 = 16384;
    /// No proposal is acceptable.
    pub const NO_PROPOSAL_CHOSEN: u16 = 14;
    /// Who it says it is could not be shown.
    pub const AUTHENTICATION_FAILED: u16 = 24;
    /// All that was sent to a peer before is void (RFC 2407 4.6.3.3).
    pub const INITIAL_CONTACT: u16 = 24578;
    /// Are you there? (RFC 3706)
    pub const R_U_THERE: u16 = 36136;
    /// I am (RFC 3706).
    pub const R_U_THERE_ACK: u16 = 36137;
}

/// The name of an error, as RFC 2408 3.14.1 has it.
pub fn error_name(kind: u16) -> Cow<'static, str> {
    const NAMES: [&str; 30] = [
        "INVALID-PAYLOAD-TYPE",
        "DOI-NOT-SUPPORTED",
        "SITUATION-NOT-SUPPORTED",
        "INVALID-COOKIE",
        "INVALID-MAJOR-VERSION",
        "INVALID-MINOR-VERSION",
        "INVALID-EXCHANGE-TYPE",
        "INVALID-FLAGS",
        "INVALID-MESSAGE-ID",
        "INVALID-PROTOCOL-ID",
        "INVALID-SPI",
        "INVALID-TRANSFORM-ID",
        "ATTRIBUTES-NOT-SUPPORTED",
        "NO-PROPOSAL-CHOSEN",
        "BAD-PROPOSAL-SYNTAX",
        "PAYLOAD-MALFORMED",
        "INVALID-KEY-INFORMATION",
        "INVALID-ID-INFORMATION",
        "INVALID-CERT-ENCODING",
        "INVALID-CERTIFICATE",
        "CERT-TYPE-UNSUPPORTED",
        "INVALID-CERT-AUTHORITY",
        "INVALID-HASH-INFORMATION",
        "AUTHENTICATION-FAILED",
        "INVALID-SIGNATURE",
        "ADDRESS-NOTIFICATION",
        "NOTIFY-SA-LIFETIME",
        "CERTIFICATE-UNAVAILABLE",
        "UNSUPPORTED-EXCHANGE-TYPE",
        "UNEQUAL-PAYLOAD-LENGTHS",
    ];
    let name = usize::from(kind).checked_sub(1).and_then(|place| NAMES.get(place));
    name.map_or_else(|| format!("number {kind}").into(), |name| (*name).into())
}

/// The body of a notification payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notify<'a> {
    /// Of whose numbers.
    pub doi: u32,
    /// 1: ISAKMP itself.
    pub protocol: u8,
    /// Of what; of an SA of phase 1 both cookies, or nothing.
    pub spi: &'a [u8],
    /// One of [`notification`], or another.
    pub kind: u16,
    /// As the type says.
    pub data: &'a [u8],
}

impl<'a> Notify<'a> {
    /// Reads it.
    ///
    /// # Errors
    /// Too short, a longer SPI of ISAKMP than both cookies.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let (doi, protocol, spi_len, kind) = (reader.u32()?, reader.u8()?, reader.u8()?, reader.u16()?);
        // "the SPI Size is irrelevant and MAY be from zero (0) to sixteen (16)" (RFC 2408 3.14)
        if protocol == PROTO_ISAKMP && spi_len > 16 {
            return Err(Malformed::Field { field: "SPI Size", value: spi_len.into() });
        }
        Ok(Notify { doi, protocol, kind, spi: reader.bytes(usize::from(spi_len))?, data: reader.rest() })
    }

    /// The body.
    pub fn to_body(&self) -> Vec<u8> {
        let mut body = self.doi.to_be_bytes().to_vec();
        body.extend_from_slice(&[self.protocol, u8::try_from(self.spi.len()).unwrap_or(u8::MAX)]);
        body.extend_from_slice(&self.kind.to_be_bytes());
        body.extend_from_slice(self.spi);
        body.extend_from_slice(self.data);
        body
    }
}
