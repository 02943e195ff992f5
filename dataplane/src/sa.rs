//! Security associations: what is installed, what is told of them, and their keys.

use std::net::IpAddr;

use muster_wire::MemberId;
use zeroize::{Zeroize, Zeroizing};

use crate::{Error, Selector};

/// The one algorithm: AES-256-GCM with 16 octets of ICV (RFC 4106), by the kernel's name for it.
pub const ALGORITHM: &str = "rfc4106(gcm(aes))";

/// After so many packets an outbound SA is worn: another should be asked for. Sequence numbers are 32 bits wide and never
/// wrap: at 2^32 − 1 packets the SA stops.
pub(crate) const REKEY_AT: u64 = 1 << 30;

/// Key and salt of one SA: 32 octets of AES-256 key, 4 of salt (RFC 4106 8.1). Zeroised on drop, not printable,
/// not copyable; on the heap, so that moving it leaves nothing behind.
pub struct SaKey(Box<[u8; SaKey::LEN]>);

impl SaKey {
    /// Octets of key and salt together.
    pub const LEN: usize = 36;

    /// Copies `bytes`; zeroising those is the caller's.
    pub fn new(bytes: &[u8; Self::LEN]) -> Self {
        // Allocated first and filled in place: no copy on this stack.
        let mut key = Self(Box::new([0; Self::LEN]));
        key.0.copy_from_slice(bytes);
        key
    }

    pub(crate) fn bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl Drop for SaKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What traffic an SA carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SaKind {
    /// Red multicast, from one sender to all.
    Group,
    /// Red unicast, between two routers.
    Unicast,
}

impl SaKind {
    /// As in the output of `sas`.
    pub fn as_str(self) -> &'static str {
        match self {
            SaKind::Group => "group",
            SaKind::Unicast => "unicast",
        }
    }

    fn traffic(self) -> &'static str {
        match self {
            SaKind::Group => "multicast",
            SaKind::Unicast => "unicast",
        }
    }
}

/// Number of a flow, which is also its place among the others: the lower comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub u32);

/// Which way an SA carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Black to red.
    In,
    /// Red to black.
    Out,
}

impl Direction {
    /// As in the output of `sas`.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::In => "in",
            Direction::Out => "out",
        }
    }
}

/// A security association to be installed. ESP in tunnel mode, [`ALGORITHM`], 32-bit sequence numbers.
pub struct Sa {
    /// Above 255.
    pub spi: u32,
    /// What it carries.
    pub kind: SaKind,
    /// The sender's black address, if known: for display. Not checked against packets, since an address may change
    /// without a rekey and the key already says who sent (Linux does the same).
    pub source: Option<IpAddr>,
    /// Outer destination: the group's address, or a router's.
    pub destination: IpAddr,
    /// Of the group key that the key was derived from; 0 for a unicast SA.
    pub epoch: u64,
    /// Who sends on it.
    pub sender: MemberId,
    /// What inner packets it may carry. `None`, in the mesh: what its sender's prefixes say. An outbound one has that of its
    /// flow, whatever stands here.
    pub selector: Option<Selector>,
    /// Key and salt.
    pub key: SaKey,
}

impl Sa {
    /// By what receivers find it.
    pub fn id(&self) -> SaId {
        SaId { destination: self.destination, spi: self.spi }
    }

    /// Whether SPI, kind, destination and selector go together.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let Sa { spi, kind, destination, selector, .. } = self;
        // RFC 4303 2.1.
        if *spi <= 255 {
            return Err(Error::ReservedSpi { spi: *spi });
        }
        if destination.is_multicast() != (*kind == SaKind::Group) {
            return Err(Error::KindMismatch { kind: kind.as_str(), destination: *destination });
        }
        let Some(selector) = selector else { return Ok(()) };
        selector.check()?;
        if selector.is_multicast() != (*kind == SaKind::Group) {
            return Err(Error::Config(format!("selector {selector}: its SA is for {}", kind.traffic())));
        }
        Ok(())
    }
}

/// What identifies an SA on the wire (the protocol is always ESP).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SaId {
    /// Outer destination.
    pub destination: IpAddr,
    /// Security parameters index.
    pub spi: u32,
}

/// One line of `sas`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaStatus {
    /// Which way.
    pub direction: Direction,
    /// What it carries.
    pub kind: SaKind,
    /// The sender's black address, if known.
    pub source: Option<IpAddr>,
    /// Outer destination.
    pub destination: IpAddr,
    /// Security parameters index.
    pub spi: u32,
    /// Of its group key.
    pub epoch: u64,
    /// Who sends on it.
    pub sender: MemberId,
    /// Of an outbound unicast SA to a router: who receives.
    pub receiver: Option<MemberId>,
    /// Of an outbound SA: which flow it carries.
    pub flow: Option<FlowId>,
    /// What inner packets it may carry.
    pub selector: Option<Selector>,
    /// Carried: sent, or received and authentic.
    pub packets: u64,
    /// Of inner packets.
    pub bytes: u64,
    /// Received twice or too late.
    pub replay_drops: u64,
    /// ICV wrong.
    pub auth_failures: u64,
    /// The last sequence number sent, or the highest received.
    pub sequence: u64,
}

/// **Secret.** Key and salt of one SA in hexadecimal; zeroised on drop, not printable by accident.
pub struct ExportedKey {
    /// Which SA.
    pub id: SaId,
    /// Always [`ALGORITHM`].
    pub algorithm: &'static str,
    /// 72 hex digits: 32 octets of key, 4 of salt.
    pub key_hex: Zeroizing<String>,
}

impl ExportedKey {
    pub(crate) fn new(id: SaId, key: &SaKey) -> Self {
        ExportedKey { id, algorithm: ALGORITHM, key_hex: hex(key.bytes()) }
    }
}

/// A key in hexadecimal, erased when dropped.
fn hex(bytes: &[u8]) -> Zeroizing<String> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    // Room for all of it first: a string that grows leaves its old content behind.
    let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len()));
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 0xf)]));
    }
    text
}
