//! Sequence numbers and what is said of them: LSEQ, ACK, SEQ (draft 7.1, 7.2, 7.5); SACK, NACK (7.3, 7.4).

use super::bytes::{Malformed, Reader};
use super::chain::Raw;
use super::kind::NACK;

/// Numbers from the first to the last, both included: up to all there are, so nobody counts them through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// The first.
    pub first: u32,
    /// Not below it.
    pub last: u32,
}

impl Range {
    /// The body of a SACK or NACK payload.
    pub fn to_body(self) -> [u8; 8] {
        let mut body = [0; 8];
        body[..4].copy_from_slice(&self.first.to_be_bytes());
        body[4..].copy_from_slice(&self.last.to_be_bytes());
        body
    }
}

/// The number in the body of a SEQ, LSEQ or ACK payload.
///
/// # Errors
/// A body that is not four octets.
pub fn number(body: &[u8]) -> Result<u32, Malformed> {
    let mut reader = Reader::new(body);
    let number = reader.u32()?;
    reader.end()?;
    Ok(number)
}

/// The ranges in all payloads of one kind, SACK or NACK, in their order.
///
/// # Errors
/// A body that is not eight octets, a last number below the first.
pub fn ranges(payloads: &[Raw<'_>], kind: u8) -> Result<Vec<Range>, Malformed> {
    payloads.iter().filter(|raw| raw.kind == kind).map(range).collect()
}

fn range(raw: &Raw<'_>) -> Result<Range, Malformed> {
    let mut reader = Reader::new(raw.body);
    let range = Range { first: reader.u32()?, last: reader.u32()? };
    reader.end()?;
    // "a counter value >= Start Acknowledged Sequence Number value" (draft 7.3, 7.4)
    match range.last < range.first {
        true if raw.kind == NACK => {
            Err(Malformed::Field { field: "End Non Acknowledged Sequence Number", value: range.last })
        }
        true => Err(Malformed::Field { field: "End Acknowledged Sequence Number", value: range.last }),
        false => Ok(range),
    }
}
