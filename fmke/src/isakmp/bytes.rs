//! A reader that never reads past the end.

use thiserror::Error;

/// Why bytes are no message. Whoever sent them learns nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// Fewer octets than a length or a fixed part demands.
    #[error("ends too early")]
    Truncated,
    /// Octets after the end.
    #[error("goes on after its end")]
    Trailing,
    /// More parts than are taken.
    #[error("has too many parts")]
    TooMany,
    /// A field has a value that it may not have.
    #[error("{field} is {value}")]
    Field {
        /// Its name in the RFC or the draft.
        field: &'static str,
        /// What it holds.
        value: u32,
    },
    /// An attribute is there twice, with two values.
    #[error("says two things of {0}")]
    Conflict(&'static str),
    /// A payload or an attribute that must be there is not.
    #[error("lacks {0}")]
    Missing(&'static str),
}

/// Reads from the front.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (read, rest) = self.0.split_at_checked(len).ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(read)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (read, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(*read)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[octet]| octet)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// What is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing may be left.
    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(Malformed::Trailing) }
    }
}

/// A field that must have one value.
pub(crate) fn expect(field: &'static str, value: impl Into<u32>, wanted: impl Into<u32>) -> Result<(), Malformed> {
    let (value, wanted) = (value.into(), wanted.into());
    if value == wanted { Ok(()) } else { Err(Malformed::Field { field, value }) }
}
