//! Names that both protocols use: devices, groups, instances, hashes.

use std::fmt;

use bincode::{Decode, Encode};

/// SHA-256 of a device's certificate (DER). A device keeps it as long as it keeps the certificate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct MemberId(pub [u8; 32]);

/// A 32-byte hash (SHA-256) of something named by the field that holds it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Stands where there is nothing to hash: the parent of a first header, no hand-overs.
    pub const NONE: Hash = Hash([0; 32]);
}

/// The first 16 bytes of a hash over the group's name: black does not learn the name itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct GroupTag(pub [u8; 16]);

/// A random number that its answer repeats, so that the answer is known to be fresh.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Nonce(pub [u8; 16]);

/// One reign of one transaction manager: who, in which run of its process, which time.
///
/// Every change of the transaction manager begins a new instance, so that the two sides of a partition can
/// never be taken for one group, and so that (instance, epoch) names at most one honest header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Instance {
    /// The transaction manager.
    pub tm: MemberId,
    /// Its startup stamp.
    pub startup: u64,
    /// Drawn at random by it when the reign began.
    pub random: u64,
}

/// An Ed25519 signature. What was signed is said where it is checked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Signature(pub [u8; 64]);

macro_rules! hex_format {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}(", stringify!($name))?;
                self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str("…)")
            }
        }
    )*};
}
hex_format!(MemberId, Hash, GroupTag, Nonce, Signature);

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Instance({:?}, {}, {:x})", self.tm, self.startup, self.random)
    }
}
