//! The header of every message (RFC 2408 3.1).

use super::bytes::{Malformed, Reader, expect};

/// Octets of the header.
pub const HEADER_LEN: usize = 28;
/// Major 1, minor 0.
const VERSION: u8 = 0x10;

/// What one end calls an SA of phase 1 by; of a re-key SA, half of its SPI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cookie(pub [u8; 8]);

/// Exchange types.
pub mod exchange {
    /// Main mode (RFC 2409 5), ISAKMP's identity protection.
    pub const MAIN: u8 = 2;
    /// A notification or a delete of its own (RFC 2408 4.8).
    pub const INFORMATIONAL: u8 = 5;
    /// Phase 2: `FMKE_unicast_Push` (draft 8.2).
    pub const UNICAST_PUSH: u8 = 240;
    /// Phase 3: `FMKE_multicast_Push` (draft 8.2).
    pub const MULTICAST_PUSH: u8 = 241;
}

/// Bits of the header's flags.
pub mod flags {
    /// All after the header is encrypted.
    pub const ENCRYPTION: u8 = 1;
    /// All that may be set: encryption, commit, authentication only.
    pub(crate) const KNOWN: u8 = 7;
}

/// Of a message: all but its length and the type of its first payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The member's cookie; of a re-key SA, the first half of its SPI.
    pub initiator: Cookie,
    /// The key server's; zero in the first message.
    pub responder: Cookie,
    /// One of [`exchange`].
    pub exchange: u8,
    /// Of [`flags`].
    pub flags: u8,
    /// 0 in phase 1.
    pub message_id: u32,
}

impl Header {
    /// Reads a datagram: the header, the type of the first payload, and what follows the header.
    ///
    /// # Errors
    /// Too short, another version, flags that may not be, a length that is not the datagram's.
    pub fn parse(datagram: &[u8]) -> Result<(Header, u8, &[u8]), Malformed> {
        let mut reader = Reader::new(datagram);
        let (initiator, responder) = (Cookie(reader.array()?), Cookie(reader.array()?));
        let first = reader.u8()?;
        // "Major Version is 1 and Minor Version is 0" (draft 3.3, 4.3)
        expect("Version", reader.u8()?, VERSION)?;
        let (exchange, flags) = (reader.u8()?, reader.u8()?);
        let is_wrong = match exchange {
            // "In the Flags field, the encryption bit is set to 1 and the others bits MUST be set to 0" (draft 4.3)
            exchange::MULTICAST_PUSH => flags != flags::ENCRYPTION,
            // "The remaining bits of the Flags field MUST be set to 0" (RFC 2408 3.1)
            _ => flags & !flags::KNOWN != 0,
        };
        if is_wrong {
            return Err(Malformed::Field { field: "Flags", value: flags.into() });
        }
        let (message_id, len) = (reader.u32()?, reader.u32()?);
        match (len as usize).cmp(&datagram.len()) {
            std::cmp::Ordering::Less => return Err(Malformed::Trailing),
            std::cmp::Ordering::Greater => return Err(Malformed::Truncated),
            std::cmp::Ordering::Equal => {}
        }
        Ok((Header { initiator, responder, exchange, flags, message_id }, first, reader.rest()))
    }

    /// A whole datagram: this header before `body`, whose first payload has the type `first`.
    pub fn write(&self, first: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
        bytes.extend_from_slice(&self.write_head(first, HEADER_LEN + body.len()));
        bytes.extend_from_slice(body);
        bytes
    }

    /// The header alone, of a message of `len` octets.
    pub fn write_head(&self, first: u8, len: usize) -> [u8; HEADER_LEN] {
        let mut head = [0; HEADER_LEN];
        head[..8].copy_from_slice(&self.initiator.0);
        head[8..16].copy_from_slice(&self.responder.0);
        head[16..20].copy_from_slice(&[first, VERSION, self.exchange, self.flags]);
        head[20..24].copy_from_slice(&self.message_id.to_be_bytes());
        // No datagram is longer.
        head[24..].copy_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
        head
    }

    /// Whether what follows is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.flags & flags::ENCRYPTION != 0
    }
}
