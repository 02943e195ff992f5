//! Payloads, each of which says what the next one is (RFC 2408 3.2).

use std::fmt;

use zeroize::Zeroizing;

use super::bytes::{Malformed, Reader, expect};
use super::kind;

/// Payloads of one message, at most: many more than any exchange has.
pub const MOST_PAYLOADS: usize = 64;
/// Octets of a payload's own header.
const GENERIC_LEN: usize = 4;
/// Padding after the last payload, at most: a block of AES.
const MOST_PADDING: usize = 16;
/// Octets that a chain has room for at first: a datagram.
const ROOM: usize = 2048;
/// What stands within an SA payload alone: "The next payload MUST NOT be a SAK Payload or SAT Payload type, but the next
/// non-Security Association type payload" (draft 7.6); of proposals and transforms RFC 2408 3.4 says the same.
const WITHIN_AN_SA: [u8; 5] = [kind::PROPOSAL, kind::TRANSFORM, kind::SAK, kind::SAT, kind::GAP];

/// One payload as it stands. It may hold keys: what it holds is not printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Raw<'a> {
    /// One of [`kind`].
    pub kind: u8,
    /// After its generic header.
    pub body: &'a [u8],
    /// With its generic header.
    pub whole: &'a [u8],
}

impl fmt::Debug for Raw<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "payload {} of {} octets", self.kind, self.whole.len())
    }
}

/// The payloads of a message, whose first has the type `first`. If it was `padded` for a cipher, up to a block may follow
/// the last one, of whatever octets: RFC 2409 Appendix B wants zeros and less than a block, some peers add random octets, or
/// a whole block to what needs none. Nothing is read from it.
///
/// # Errors
/// A length that does not fit, a reserved octet that is set, a payload that stands within another only, octets after the
/// end, more than [`MOST_PAYLOADS`].
pub fn payloads(first: u8, bytes: &[u8], padded: bool) -> Result<Vec<Raw<'_>>, Malformed> {
    let (list, rest) = walk(first, bytes, |kind| !WITHIN_AN_SA.contains(&kind))?;
    let padding = if padded { MOST_PADDING } else { 0 };
    if rest.len() <= padding { Ok(list) } else { Err(Malformed::Trailing) }
}

/// The payloads within another one, of these types only; they go to its end.
pub(super) fn within<'a>(first: u8, bytes: &'a [u8], kinds: &[u8]) -> Result<Vec<Raw<'a>>, Malformed> {
    let (list, rest) = walk(first, bytes, |kind| kinds.contains(&kind))?;
    if rest.is_empty() { Ok(list) } else { Err(Malformed::Trailing) }
}

/// Payload by payload until one says that none follows; and what follows all the same.
fn walk(first: u8, bytes: &[u8], is_taken: impl Fn(u8) -> bool) -> Result<(Vec<Raw<'_>>, &[u8]), Malformed> {
    let mut list = Vec::new();
    let mut reader = Reader::new(bytes);
    let mut kind = first;
    while kind != kind::NONE {
        if !is_taken(kind) {
            return Err(Malformed::Field { field: "Next Payload", value: kind.into() });
        }
        if list.len() == MOST_PAYLOADS {
            return Err(Malformed::TooMany);
        }
        let (raw, next) = payload(kind, &mut reader)?;
        list.push(raw);
        kind = next;
    }
    Ok((list, reader.rest()))
}

/// One payload, and the type of the next.
fn payload<'a>(kind: u8, reader: &mut Reader<'a>) -> Result<(Raw<'a>, u8), Malformed> {
    let mut inside = *reader;
    let next = inside.u8()?;
    // "RESERVED (1 octet) - Unused, set to zero" (draft 7.1 to 7.9, RFC 2408 3.2)
    expect("RESERVED", inside.u8()?, 0u8)?;
    let len = usize::from(inside.u16()?);
    if len < GENERIC_LEN {
        return Err(Malformed::Field { field: "Payload Length", value: len as u32 });
    }
    let whole = reader.bytes(len)?;
    Ok((Raw { kind, body: &whole[GENERIC_LEN..], whole }, next))
}

/// Payloads being written. What they hold may be secret: it is erased when dropped.
pub struct Chain {
    first: u8,
    bytes: Zeroizing<Vec<u8>>,
    /// Where the last payload says what comes next.
    last: Option<usize>,
}

impl Default for Chain {
    fn default() -> Self {
        Self::new()
    }
}

impl Chain {
    /// Of no payload.
    pub fn new() -> Self {
        Chain { first: kind::NONE, bytes: Zeroizing::new(Vec::with_capacity(ROOM)), last: None }
    }

    /// Adds a payload with this body, of at most 65,531 octets: what exceeds them is a message that no reader takes.
    pub fn add(&mut self, kind: u8, body: &[u8]) -> &mut Self {
        self.reserve(GENERIC_LEN + body.len());
        match self.last {
            // "If the current payload is the last in the message, then this field will be zero." (draft 7.1)
            Some(last) => self.bytes[last] = kind,
            None => self.first = kind,
        }
        self.last = Some(self.bytes.len());
        write_generic(&mut self.bytes, body.len());
        self.bytes.extend_from_slice(body);
        self
    }

    /// Puts a payload with this body before all others: a hash over them, say.
    pub fn precede(&mut self, kind: u8, body: &[u8]) -> &mut Self {
        let mut bytes = Zeroizing::new(Vec::with_capacity(ROOM.max(GENERIC_LEN + body.len() + self.bytes.len())));
        write_generic(&mut bytes, body.len());
        bytes[0] = self.first;
        bytes.extend_from_slice(body);
        self.last = Some(self.last.map_or(0, |last| last + bytes.len()));
        bytes.extend_from_slice(&self.bytes);
        (self.first, self.bytes) = (kind, bytes);
        self
    }

    /// The type of the first payload.
    pub fn first(&self) -> u8 {
        self.first
    }

    /// The payloads with their headers.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Room for so many octets more: a vector that grew by itself would leave its old content behind.
    fn reserve(&mut self, more: usize) {
        if self.bytes.capacity() - self.bytes.len() < more {
            let mut larger = Zeroizing::new(Vec::with_capacity((self.bytes.len() + more).next_power_of_two()));
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger;
        }
    }
}

fn write_generic(bytes: &mut Vec<u8>, body: usize) {
    bytes.extend_from_slice(&[kind::NONE, 0]);
    bytes.extend_from_slice(&u16::try_from(body + GENERIC_LEN).unwrap_or(u16::MAX).to_be_bytes());
}
