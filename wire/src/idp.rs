//! Bodies of the discovery protocol (IDP).

use bincode::{Decode, Encode};

use crate::{Bytes, Hash, Instance, List, Nonce};

/// Certificates in a chain: the device's and at most three intermediates.
pub const MAX_CHAIN: usize = 4;
/// Bytes of a certificate (DER).
pub const MAX_CERTIFICATE: usize = 2048;
/// Red prefixes that one router announces.
pub const MAX_PREFIXES: usize = 64;
/// Revocation lists named in a hello.
pub const MAX_CRLS: usize = 16;
/// Bytes of a revocation list (DER) that travels.
pub const MAX_CRL: usize = MAX_CRL_PARTS * CRL_PART;
/// Bytes of a revocation list in one datagram.
pub const CRL_PART: usize = 1024;
/// Parts of a revocation list: as many as a [`CrlRequest`] can name.
pub const MAX_CRL_PARTS: usize = 64;
/// Bytes of sealed prefixes: 64 × 18, the count and the authentication tag.
pub const MAX_SEALED_PREFIXES: usize = 2 + MAX_PREFIXES * 18 + 16;

/// "I am here", multicast every interval and at every change of the group's state.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// The sender's own interval in milliseconds: it is gone after four of these.
    pub interval_ms: u32,
    /// Whoever heard this recently can repeat it; changes with every periodic hello.
    pub nonce: Nonce,
    /// X25519 public key for everything between this device and one other; fresh per start.
    pub public: [u8; 32],
    /// The sender's group.
    pub group: GroupState,
    /// The newest revocation list that the sender knows of each issuer.
    pub crls: List<CrlNumber, MAX_CRLS>,
}

/// What a device says of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct GroupState {
    /// Whose reign.
    pub instance: Instance,
    /// The epoch in it.
    pub epoch: u64,
    /// Members.
    pub size: u32,
    /// The hash of the epoch's header.
    pub header: Hash,
    /// The sender receives under this epoch's keys.
    pub installed: bool,
    /// The sender sends under this epoch's key.
    pub active: bool,
}

/// A revocation list, by its issuer and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct CrlNumber {
    /// Hash of the issuer's subject name and key.
    pub issuer: Hash,
    /// The list's number.
    pub number: u64,
}

/// "Send me this list", to a device whose hello names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CrlRequest {
    /// From a recent hello of the device asked: the answer goes only to who is on the same network.
    pub hello_nonce: Nonce,
    /// Which one.
    pub list: CrlNumber,
    /// Bit n: part n is wanted.
    pub wanted: u64,
}

/// A part of a revocation list.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CrlPart {
    /// Of which one.
    pub list: CrlNumber,
    /// Bytes of the whole list.
    pub length: u32,
    /// Which part: [`CRL_PART`] bytes each, the last one what is left.
    pub index: u8,
    /// The part.
    pub data: Bytes<CRL_PART>,
}

/// "Show me that you are there, and who you are", to a sender not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Probe {
    /// From a recent hello of the device asked: the answer goes only to who is on the same network.
    pub hello_nonce: Nonce,
    /// To be repeated in the answer.
    pub nonce: Nonce,
    /// The asker does not have the certificate chain.
    pub want_chain: bool,
}

/// The answer to a [`Probe`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ProbeAnswer {
    /// The probe's.
    pub nonce: Nonce,
    /// Device certificate first, then intermediates (DER); empty when not wanted.
    pub chain: List<Bytes<MAX_CERTIFICATE>, MAX_CHAIN>,
}

/// Red prefixes for one neighbour, sealed under the pair's key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Prefixes {
    /// Rises with every change; repeated until acknowledged.
    pub version: u32,
    /// A [`PrefixList`], AES-256-GCM; the nonce is the envelope's sequence number.
    pub sealed: Bytes<MAX_SEALED_PREFIXES>,
}

/// The prefixes inside [`Prefixes`].
pub type PrefixList = List<Prefix, MAX_PREFIXES>;

/// One prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Prefix {
    /// 4 or 6.
    pub family: u8,
    /// Bits.
    pub length: u8,
    /// The address; IPv4 in the first four bytes, the rest zero.
    pub address: [u8; 16],
}

/// [`Prefixes`] of this version have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PrefixesAck {
    /// The announcer's startup stamp.
    pub startup: u64,
    /// The version.
    pub version: u32,
}

/// "I am going", in place of a silence of four intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Goodbye {}
