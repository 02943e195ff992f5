//! Bytes: ISAKMP (RFC 2408), the payloads of GDOI (RFC 6407) and those that FMKE adds.
//!
//! [`Header::parse`], then [`payloads`], then each payload by its own `parse`. The other way: a [`Chain`] of payloads, then
//! [`Header::write`]. Every number is big-endian.

mod attribute;
mod bytes;
mod chain;
mod delete;
mod ends;
mod fragment;
mod header;
mod identity;
mod key_download;
mod notify;
mod policy;
mod proposal;
mod rekey_sa;
mod sequence;
mod spd;
mod traffic_sa;

pub use attribute::{Attribute, AttributeValue, attributes};
pub use bytes::Malformed;
pub(crate) use bytes::Reader;
pub use chain::{Chain, MOST_PAYLOADS, Raw, payloads};
pub use delete::Delete;
pub use fragment::Fragment;
pub use header::{Cookie, HEADER_LEN, Header, exchange, flags};
pub use identity::Identity;
pub use key_download::{KeyDownload, KeyPacket, kek_key, key_type, tek_key};
pub use notify::{Notify, error_name, notification};
pub use policy::{Delays, Policy};
pub use proposal::{Transform, phase1_attribute, write_proposal};
pub use rekey_sa::{RekeySa, kek_attribute};
pub use sequence::{Range, number, ranges};
pub(crate) use spd::{LONGEST_ENTRY, PROTO_SPD};
pub use spd::{SpdAction, SpdPart, TrafficSelector};
pub use traffic_sa::{PreservedAddress, TrafficSa};

/// Payload types: RFC 2408 3.1, RFC 6407 5, the draft's 7.0, and IKE fragmentation.
pub mod kind {
    /// No further payload.
    pub const NONE: u8 = 0;
    /// Security association.
    pub const SA: u8 = 1;
    /// Proposal, within an SA of phase 1.
    pub const PROPOSAL: u8 = 2;
    /// Transform, within a proposal.
    pub const TRANSFORM: u8 = 3;
    /// Key exchange.
    pub const KE: u8 = 4;
    /// Identification.
    pub const ID: u8 = 5;
    /// Certificate.
    pub const CERT: u8 = 6;
    /// Certificate request.
    pub const CERTREQ: u8 = 7;
    /// Hash.
    pub const HASH: u8 = 8;
    /// Signature.
    pub const SIG: u8 = 9;
    /// Nonce.
    pub const NONCE: u8 = 10;
    /// Notification.
    pub const NOTIFY: u8 = 11;
    /// Delete.
    pub const DELETE: u8 = 12;
    /// Vendor id.
    pub const VENDOR: u8 = 13;
    /// SA KEK, within an SA of FMKE.
    pub const SAK: u8 = 15;
    /// SA TEK, within an SA of FMKE.
    pub const SAT: u8 = 16;
    /// Key download.
    pub const KD: u8 = 17;
    /// Sequence number.
    pub const SEQ: u8 = 18;
    /// Group associated policy, within an SA of FMKE.
    pub const GAP: u8 = 22;
    /// A piece of a message too large for one datagram.
    pub const FRAGMENT: u8 = 132;
    /// Last sequence number.
    pub const LSEQ: u8 = 133;
    /// Acknowledgement.
    pub const ACK: u8 = 134;
    /// Selective acknowledgement.
    pub const SACK: u8 = 135;
    /// Negative acknowledgement.
    pub const NACK: u8 = 136;
}

#[cfg(test)]
mod tests;
