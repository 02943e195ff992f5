//! The envelope around every message.
//!
//! ```text
//!  0      4   5   6        22       54        62         70              len-64
//!  | MSTR | v | k | group  | sender | startup | sequence | body …        | signature |
//! ```
//! The signature is over [`Envelope::LABEL`] and all bytes before it, as received.

use bincode::{Decode, Encode};

use crate::codec::{self, WireError};
use crate::{GroupTag, MemberId, Signature};

/// The version of the formats in this crate.
pub const VERSION: u8 = 1;
/// Bytes before the body.
pub const HEADER_LEN: usize = 70;
/// Bytes after the body.
pub const SIGNATURE_LEN: usize = 64;
/// No envelope of ours is larger; before it a voucher may stand. Larger messages go in chunks ([`crate::mike::Chunk`]); only a certificate chain with
/// intermediates comes near, and relies on fragmentation by IP.
pub const MAX_DATAGRAM: usize = 8192;

const MAGIC: [u8; 4] = *b"MSTR";

macro_rules! kinds {
    ($($(#[$doc:meta])* $module:ident::$name:ident = $number:literal,)*) => {
        /// What the body is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $name = $number,)* }

        impl Kind {
            /// Every kind there is.
            pub const ALL: &'static [Kind] = &[$(Kind::$name),*];

            fn from_number(number: u8) -> Result<Kind, WireError> {
                match number {
                    $($number => Ok(Kind::$name),)*
                    other => Err(WireError::Kind(other)),
                }
            }
        }

        $(impl Body for crate::$module::$name {
            const KIND: Kind = Kind::$name;
        })*
    };
}
kinds! {
    /// [`crate::idp::Hello`]
    idp::Hello = 1,
    /// [`crate::idp::Probe`]
    idp::Probe = 2,
    /// [`crate::idp::ProbeAnswer`]
    idp::ProbeAnswer = 3,
    /// [`crate::idp::Prefixes`]
    idp::Prefixes = 4,
    /// [`crate::idp::PrefixesAck`]
    idp::PrefixesAck = 5,
    /// [`crate::idp::Goodbye`]
    idp::Goodbye = 6,
    /// [`crate::idp::CrlRequest`]
    idp::CrlRequest = 7,
    /// [`crate::idp::CrlPart`]
    idp::CrlPart = 8,
    /// [`crate::mike::Chunk`]
    mike::Chunk = 16,
    /// [`crate::mike::Request`]
    mike::Request = 17,
    /// [`crate::mike::HandoverRefused`]
    mike::HandoverRefused = 18,
    /// [`crate::mike::Ack`]
    mike::Ack = 19,
    /// [`crate::mike::Activate`]
    mike::Activate = 20,
    /// [`crate::mike::Leave`]
    mike::Leave = 21,
    /// [`crate::mike::RekeyRequest`]
    mike::RekeyRequest = 22,
    /// [`crate::mike::Fills`]
    mike::Fills = 23,
    /// [`crate::mike::FillsWanted`]
    mike::FillsWanted = 24,
    /// [`crate::mike::Objection`]
    mike::Objection = 25,
    /// [`crate::mike::Refresh`]
    mike::Refresh = 26,
    /// [`crate::mike::Exposure`]
    mike::Exposure = 27,
}

/// The fixed part of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the body is.
    pub kind: Kind,
    /// Which group it belongs to.
    pub group: GroupTag,
    /// Whose certificate key signed it.
    pub sender: MemberId,
    /// The sender's startup stamp: rises with every start of its process.
    pub startup: u64,
    /// Rises with every datagram of a sender on one port since its start.
    pub sequence: u64,
}

/// A datagram whose outer form is right. Whether the sender wrote it only its signature tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    header: Header,
    bytes: Vec<u8>,
}

impl Envelope {
    /// Stands before the signed bytes, so that a signature means nothing elsewhere.
    pub const LABEL: &'static [u8] = b"muster 1 envelope";

    /// Checks length, magic, version and kind; copies nothing until they are right.
    pub fn parse(bytes: &[u8]) -> Result<Envelope, WireError> {
        if bytes.len() < HEADER_LEN + SIGNATURE_LEN || bytes.len() > MAX_DATAGRAM {
            return Err(WireError::Length(bytes.len()));
        }
        if bytes[..4] != MAGIC {
            return Err(WireError::Magic);
        }
        if bytes[4] != VERSION {
            return Err(WireError::Version(bytes[4]));
        }
        let kind = Kind::from_number(bytes[5])?;
        let (group, sender, startup, sequence) = codec::decode(&bytes[6..HEADER_LEN])?;
        Ok(Envelope { header: Header { kind, group, sender, startup, sequence }, bytes: bytes.to_vec() })
    }

    /// The bytes of a datagram; `sign` gets what is to be signed (without [`Envelope::LABEL`]).
    ///
    /// Fails when it would be larger than [`MAX_DATAGRAM`].
    pub fn seal(header: &Header, body: &[u8], sign: impl FnOnce(&[u8]) -> Signature) -> Result<Vec<u8>, WireError> {
        let length = HEADER_LEN + body.len() + SIGNATURE_LEN;
        if length > MAX_DATAGRAM {
            return Err(WireError::Length(length));
        }
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&MAGIC);
        bytes.push(VERSION);
        bytes.push(header.kind as u8);
        bytes.extend(codec::encode(&(header.group, header.sender, header.startup, header.sequence))?);
        bytes.extend_from_slice(body);
        let signature = sign(&bytes);
        bytes.extend_from_slice(&signature.0);
        Ok(bytes)
    }

    /// The fixed part.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The body, still encoded.
    pub fn body(&self) -> &[u8] {
        &self.bytes[HEADER_LEN..self.bytes.len() - SIGNATURE_LEN]
    }

    /// The body, decoded; refused when the datagram is of another kind.
    pub fn decode<T: Body>(&self) -> Result<T, WireError> {
        if self.header.kind != T::KIND {
            return Err(WireError::Kind(self.header.kind as u8));
        }
        codec::decode(self.body())
    }

    /// What the signature is over, without [`Envelope::LABEL`].
    pub fn signed_bytes(&self) -> &[u8] {
        &self.bytes[..self.bytes.len() - SIGNATURE_LEN]
    }

    /// The signature that came with it.
    pub fn signature(&self) -> Signature {
        let mut signature = [0; SIGNATURE_LEN];
        signature.copy_from_slice(&self.bytes[self.bytes.len() - SIGNATURE_LEN..]);
        Signature(signature)
    }
}

/// What can be the body of a datagram.
pub trait Body: Encode + Decode<()> {
    /// Its kind.
    const KIND: Kind;
}
