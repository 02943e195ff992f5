//! Newcomers, and how the others learn of them.

use rand_core::CryptoRng;

use super::key::Key;
use super::node::{MAX_MEMBERS, NodeId, Place};
use super::staging::{Change, Staging};
use super::tree::{KeyTree, TreeError};
use super::{FORMAT, ParseError, expect_length, take_header, take_version};

/// The most newcomers of one announcement, which then has 1,032 octets: one datagram.
pub const MAX_JOINS: usize = 512;

/// The attribute of an announcement in a KD payload of type LKH: of the range for private use (RFC 6407, section
/// 5.6.3), since GDOI leaves a joining member's path alone, or sends it anew to everybody.
pub const LKH_JOINS: u16 = 129;

/// The announcement of newcomers: all who hold keys above these places renew them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joins {
    pub(super) version: u32,
    /// In order; 1 to [`MAX_JOINS`].
    pub(super) places: Vec<Place>,
}

impl KeyTree {
    /// Gives so many newcomers the lowest free places, each with a key of its own, and renews the keys above them.
    /// Changes nothing yet; after [`KeyTree::commit`] each newcomer is to get its [`KeyTree::download`].
    pub fn stage_joins(&self, newcomers: usize, rng: &mut impl CryptoRng) -> Result<(Change, Joins), TreeError> {
        if !(1..=MAX_JOINS).contains(&newcomers) {
            return Err(TreeError::Newcomers(newcomers));
        }
        if self.members() + newcomers > MAX_MEMBERS {
            return Err(TreeError::Full);
        }
        let free = self.places().filter(|(_, taken)| !taken).map(|(place, _)| place);
        let beyond = (1 << self.depth()..).map(Place);
        let places: Vec<Place> = free.chain(beyond).take(newcomers).collect();
        let depth = depth_with(self.depth(), &places);
        let mut staging = Staging::new(self, depth)?;
        let old_root = NodeId::root(self.depth());
        if self.members() > 0 {
            staging.mark_above(old_root);
        }
        for leaf in places.iter().filter_map(|place| place.leaf()) {
            staging.set(leaf, Key::random(rng));
            staging.mark_above(leaf);
        }
        let version = staging.change.version;
        for id in staging.stale() {
            // Those below the old root find their way to the new one as after an exclusion: from the child they are in.
            let below = staging.get(id.children()[0]).filter(|_| self.members() > 0 && id.covers(old_root));
            let key = match (self.node(id), below) {
                (Some(old), _) => old.key.derive_joined(id, version),
                (None, Some(below)) => below.key.derive_parent(id, version),
                (None, None) => Key::random(rng),
            };
            staging.set(id, key);
        }
        Ok((staging.change, Joins { version, places }))
    }
}

impl Joins {
    /// The version that the tree has with the newcomers.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Where the newcomers sit, in order.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// The depth of a tree that had `depth`.
    pub(super) fn depth(&self, depth: u8) -> u8 {
        depth_with(depth, &self.places)
    }

    /// Whether somebody joined below this node.
    pub(super) fn renews(&self, id: NodeId) -> bool {
        // The first leaf from the left end of what the node covers on.
        let next = self.places.partition_point(|place| place.leaf() < Some(id.leftmost()));
        self.places.get(next).and_then(|place| place.leaf()).is_some_and(|leaf| id.covers(leaf))
    }

    /// The value of the attribute [`LKH_JOINS`]: the head of RFC 6407's LKH_DOWNLOAD_ARRAY, the key handle that all
    /// renewed keys have, and two octets for each place.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.extend((self.places.len() as u16).to_be_bytes());
        bytes.push(0);
        bytes.extend(self.version.to_be_bytes());
        bytes.extend(self.places.iter().flat_map(|place| place.0.to_be_bytes()));
        bytes
    }

    /// Reverses [`Joins::encode`].
    pub fn decode(mut bytes: &[u8]) -> Result<Self, ParseError> {
        let (count, reserved) = take_header(&mut bytes)?;
        if reserved != 0 {
            return Err(ParseError::Field("RESERVED"));
        }
        let count = usize::from(count);
        if !(1..=MAX_JOINS).contains(&count) {
            return Err(ParseError::Field("the number of newcomers"));
        }
        let version = take_version(&mut bytes)?;
        expect_length(bytes, 2 * count)?;
        let places: Vec<_> = bytes.chunks_exact(2).map(|two| Place(u16::from_be_bytes([two[0], two[1]]))).collect();
        if !places.is_sorted_by(|a, b| a < b) || places.iter().any(|place| place.leaf().is_none()) {
            return Err(ParseError::Field("a place"));
        }
        Ok(Self { version, places })
    }
}

/// The depth that a tree needs for these places, too, of which the last is the highest.
fn depth_with(depth: u8, places: &[Place]) -> u8 {
    let needed = places.last().map_or(0, |place| u16::BITS - place.0.leading_zeros());
    depth.max(needed as u8)
}
