//! What a member puts before its envelopes.
//!
//! ```text
//!  0      4     6                 22
//!  | MSTV | tag | mac             | envelope …
//! ```
//! The MAC is over the whole envelope, under a key of the group. It can be checked at a small part of what a signature
//! costs, and authorises nothing: it says what is to be looked at first.

/// Bytes before the envelope.
pub const VOUCHER_LEN: usize = 22;
/// Bytes of the MAC.
pub const MAC_LEN: usize = 16;

const MAGIC: [u8; 4] = *b"MSTV";

/// Says that some member of an epoch has sent the envelope behind it. Whether that is so only the epoch's key tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voucher {
    /// The SPI tag of the epoch.
    pub tag: u16,
    /// HMAC-SHA-256 of the envelope, cut to 16 bytes (RFC 2104, section 5).
    pub mac: [u8; MAC_LEN],
}

impl Voucher {
    /// A datagram's voucher, if it has one, and what is to be its envelope. Of what begins like a voucher and ends
    /// within it nothing is taken off: it is no envelope either.
    pub fn split(datagram: &[u8]) -> (Option<Voucher>, &[u8]) {
        let behind_magic = datagram.strip_prefix(&MAGIC);
        let fields = behind_magic.and_then(|bytes| bytes.split_first_chunk::<2>());
        let fields = fields.and_then(|(tag, bytes)| Some((tag, bytes.split_first_chunk()?)));
        match fields {
            Some((tag, (mac, envelope))) => (Some(Voucher { tag: u16::from_be_bytes(*tag), mac: *mac }), envelope),
            None => (None, datagram),
        }
    }

    /// The datagram of an envelope.
    pub fn before(&self, envelope: &[u8]) -> Vec<u8> {
        [&MAGIC, self.tag.to_be_bytes().as_slice(), &self.mac, envelope].concat()
    }
}
