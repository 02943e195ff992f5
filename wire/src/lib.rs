//! Bytes of both Muster protocols: one envelope, one codec, limits.
//!
//! Every datagram is an [`Envelope`]: a fixed header, a body whose form the header's [`Kind`] names, and the sender's
//! signature over both. The bodies are in [`idp`] (discovery) and [`mike`] (key agreement). Nothing here trusts
//! anything: decoding is bounded, canonical (what decodes, encodes to the same bytes) and refuses trailing bytes.

pub mod codec;
mod envelope;
mod hex;
pub mod idp;
mod ids;
mod list;
pub mod mike;
mod signed;
mod time;
mod transmit;
mod voucher;

pub use codec::WireError;
pub use envelope::{Body, Envelope, HEADER_LEN, Header, Kind, MAX_DATAGRAM, SIGNATURE_LEN, VERSION};
pub use hex::hex;
pub use ids::{GroupTag, Hash, Instance, MemberId, Nonce, Signature};
pub use list::{Bytes, List};
pub use signed::{Signable, Signed};
pub use time::Time;
pub use transmit::{Destination, Transmit};
pub use voucher::{MAC_LEN, VOUCHER_LEN, Voucher};
