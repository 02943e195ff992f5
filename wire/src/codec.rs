//! The one codec: big-endian, fixed-width integers, bounded, canonical.
//!
//! The crate behind it is archived; it is used here alone, pinned, and the golden vectors in `tests/golden.rs` make a
//! change of it a change of this file.

use bincode::config::{self, BigEndian, Configuration, Fixint, Limit};
use bincode::{Decode, Encode};
use thiserror::Error;

/// No message of either protocol is larger than this, in bytes.
pub const MAX_MESSAGE: usize = 1 << 20;

const CONFIG: Configuration<BigEndian, Fixint, Limit<MAX_MESSAGE>> =
    config::standard().with_big_endian().with_fixed_int_encoding().with_limit::<MAX_MESSAGE>();

/// Why bytes were refused, or could not be made.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum WireError {
    /// Shorter than the fixed parts, or longer than any datagram of ours.
    #[error("{0} bytes are not a datagram of this protocol")]
    Length(usize),
    /// Does not begin with our magic number.
    #[error("not a datagram of this protocol")]
    Magic,
    /// Another version of the protocol.
    #[error("protocol version {0}, this is version {VERSION}", VERSION = crate::VERSION)]
    Version(u8),
    /// A kind of message that this version does not know.
    #[error("unknown kind of message {0}")]
    Kind(u8),
    /// The body does not decode.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The body decodes, and bytes are left over.
    #[error("{0} trailing bytes")]
    Trailing(usize),
}

/// Encodes `value`; fails when it is larger than [`MAX_MESSAGE`].
pub fn encode<T: Encode>(value: &T) -> Result<Vec<u8>, WireError> {
    let bytes = bincode::encode_to_vec(value, CONFIG).map_err(|error| WireError::Malformed(error.to_string()))?;
    if bytes.len() > MAX_MESSAGE {
        return Err(WireError::Length(bytes.len()));
    }
    Ok(bytes)
}

/// Decodes a `T` that takes all of `bytes`.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, WireError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(WireError::Length(bytes.len()));
    }
    let (value, consumed) =
        bincode::decode_from_slice(bytes, CONFIG).map_err(|error| WireError::Malformed(error.to_string()))?;
    match bytes.len() - consumed {
        0 => Ok(value),
        left => Err(WireError::Trailing(left)),
    }
}
