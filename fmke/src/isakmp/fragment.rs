//! A piece of a message of phase 1 that is too large for one datagram, as Cisco began it and others took it over.

use super::bytes::{Malformed, Reader};

/// The body of a fragment payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// Which message it is a piece of.
    pub id: u16,
    /// From 1.
    pub number: u8,
    /// None comes after it.
    pub is_last: bool,
    /// Of the message, its header included.
    pub data: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// Reads the body of a fragment payload.
    ///
    /// # Errors
    /// Too short, the number 0, an unknown flag.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let (id, number, last) = (reader.u16()?, reader.u8()?, reader.u8()?);
        if number == 0 {
            return Err(Malformed::Field { field: "Fragment Number", value: 0 });
        }
        if last > 1 {
            return Err(Malformed::Field { field: "Fragment Flags", value: u32::from(last) });
        }
        Ok(Fragment { id, number, is_last: last == 1, data: reader.rest() })
    }

    /// The body of the payload.
    pub fn to_body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(4 + self.data.len());
        body.extend_from_slice(&self.id.to_be_bytes());
        body.extend_from_slice(&[self.number, u8::from(self.is_last)]);
        body.extend_from_slice(self.data);
        body
    }
}
