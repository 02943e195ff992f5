//! The logical key hierarchy: how one message excludes one of thousands.
//!
//! The members of a group are leaves of a binary tree (RFC 2627, section 5.4). A node's key is known to the members
//! below it and to nobody else; what all share is the root's key. The key server holds the [`KeyTree`], each member its
//! [`MemberPath`], which begins with a [`Download`] under the member's own phase 1 SA. From then on:
//!
//! - *An exclusion* ([`KeyTree::stage_exclusion`]) renews every key that the excluded knew. The lowest of them are drawn
//!   at random; each one above is derived from *one* renewed child and wrapped (RFC 3394) for the other child, so that
//!   an exclusion is one wrapped key a level (Canetti et al., INFOCOM 1999). It is multicast as an [`Update`]. With
//!   nobody to exclude it renews the root alone: the periodic change.
//! - *A join* ([`KeyTree::stage_joins`]) renews every key that the newcomers are given by a one-way function of the old
//!   one. Who held the old key computes the new one; all it takes is an announcement of the places, [`Joins`].
//!
//! Every change has the next version, and changes the root. The version is GDOI's key handle for all keys that the
//! change sets (RFC 6407, section 5.6.3.1), so a member that holds version `v` takes version `v + 1` and nothing else,
//! and sees what it missed. All labels of derivations contain node and version.
//!
//! Read `node` (numbers), `key`, `tree`, `exclusion` and `joining` (the server), `path` (the member), `update`.

mod download;
mod exclusion;
mod joining;
mod key;
mod node;
mod path;
mod staging;
mod tree;
mod update;
mod wrap;

pub use download::{Download, LKH_DOWNLOAD_ARRAY};
pub use joining::{Joins, LKH_JOINS, MAX_JOINS};
pub use key::{Key, Node};
pub use node::{MAX_DEPTH, MAX_MEMBERS, NodeId, Place};
pub use path::{MemberPath, PathError};
pub use staging::Change;
pub use tree::{KeyTree, TreeError};
pub use update::{LKH_COMPACT_UPDATE, Move, Update};

use thiserror::Error;

/// KEK_MANAGEMENT_ALGORITHM: a logical key hierarchy whose renewed keys are chained (private range).
pub const LKH_CHAINED: u32 = 128;
/// Attribute of a SAK payload (private range): the version of the tree whose root its keys come from.
pub const LKH_VERSION: u16 = 129;

/// Why octets are no download, update or announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ParseError {
    /// The octets end early.
    #[error("too short")]
    Short,
    /// There are more octets than the number of keys says.
    #[error("octets left over")]
    Long,
    /// A field has a value that it may not have.
    #[error("{0} is out of range")]
    Field(&'static str),
}

/// The version of the LKH data format in every header (RFC 6407, section 5.6.3.1).
const FORMAT: u8 = 1;

/// Takes `N` octets off the front.
fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], ParseError> {
    let (head, rest) = bytes.split_first_chunk().ok_or(ParseError::Short)?;
    *bytes = rest;
    Ok(*head)
}

/// Takes what all headers begin with: the format's version, the number of keys, and the octet that RFC 6407 reserves.
fn take_header(bytes: &mut &[u8]) -> Result<(u16, u8), ParseError> {
    let [format] = take(bytes)?;
    if format != FORMAT {
        return Err(ParseError::Field("the LKH version"));
    }
    let count = u16::from_be_bytes(take(bytes)?);
    let [reserved] = take(bytes)?;
    Ok((count, reserved))
}

/// Refuses a wrong number of octets before anything is allocated for them.
fn expect_length(bytes: &[u8], length: usize) -> Result<(), ParseError> {
    match bytes.len().cmp(&length) {
        std::cmp::Ordering::Less => Err(ParseError::Short),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(ParseError::Long),
    }
}

/// Takes a key handle: the version of the change that set a key. The first change has version 1.
fn take_version(bytes: &mut &[u8]) -> Result<u32, ParseError> {
    match u32::from_be_bytes(take(bytes)?) {
        0 => Err(ParseError::Field("the key handle")),
        version => Ok(version),
    }
}

#[cfg(test)]
mod tests;
