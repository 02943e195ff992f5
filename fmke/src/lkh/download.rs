//! All keys of one member, as it gets them under its own phase 1 SA.

use zeroize::Zeroizing;

use super::key::{KEY, Key, Node};
use super::node::{MAX_DEPTH, NodeId, Place};
use super::{FORMAT, ParseError, expect_length, take, take_header};

/// The attribute of a download in a KD payload of type LKH (RFC 6407, section 5.6.3).
pub const LKH_DOWNLOAD_ARRAY: u16 = 1;

/// KEK_ALG_AES (RFC 6407, section 5.3.3).
const AES: u8 = 3;

/// Octets of an LKH key: number, type, two dates, handle, key.
const LKH_KEY: usize = 16 + KEY;

/// The keys on the way from a member's leaf to the root.
pub struct Download {
    pub(super) place: Place,
    /// By level, the leaf first: 2 to 16.
    pub(super) nodes: Vec<Node>,
}

impl Download {
    /// Where the member sits.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The version of the tree.
    pub fn version(&self) -> u32 {
        self.nodes.last().map_or(0, |root| root.version)
    }

    /// The value of LKH_DOWNLOAD_ARRAY as in RFC 6407, section 5.6.3.1: the leaf's key first, the root's last. The
    /// dates are zero, "no restriction": a key lives until the next takes its place.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // With all the room at once, or growing would leave keys behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(4 + LKH_KEY * self.nodes.len()));
        bytes.push(FORMAT);
        bytes.extend((self.nodes.len() as u16).to_be_bytes());
        bytes.push(0);
        for (level, node) in (0..).zip(&self.nodes) {
            let id = NodeId(2 * self.place.0).ancestor(level);
            bytes.extend(id.0.to_be_bytes());
            bytes.extend([AES, 0]);
            bytes.extend([0; 8]);
            bytes.extend(node.version.to_be_bytes());
            bytes.extend(node.key.bytes());
        }
        bytes
    }

    /// Reverses [`Download::encode`]; the keys must lie on one way from a leaf to a root.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, ParseError> {
        let (count, reserved) = take_header(&mut bytes)?;
        if reserved != 0 {
            return Err(ParseError::Field("RESERVED"));
        }
        if !(2..=u16::from(MAX_DEPTH) + 1).contains(&count) {
            return Err(ParseError::Field("the number of keys"));
        }
        let depth = count as u8 - 1;
        expect_length(bytes, usize::from(count) * LKH_KEY)?;
        let leaf = NodeId(u16::from_be_bytes([bytes[0], bytes[1]]));
        let place = leaf.place().filter(|place| place.is_within(depth)).ok_or(ParseError::Field("the leaf"))?;
        let nodes = (0..=depth).map(|level| take_node(&mut bytes, leaf.ancestor(level)));
        let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
        // Every change sets all keys up to the root.
        if !nodes.is_sorted_by_key(|node| node.version) || nodes[0].version == 0 {
            return Err(ParseError::Field("a key handle"));
        }
        Ok(Self { place, nodes })
    }
}

/// Takes an LKH key that must be of this node.
fn take_node(bytes: &mut &[u8], id: NodeId) -> Result<Node, ParseError> {
    if u16::from_be_bytes(take(bytes)?) != id.0 {
        return Err(ParseError::Field("an LKH ID"));
    }
    if take(bytes)? != [AES, 0] {
        return Err(ParseError::Field("a key type"));
    }
    if take(bytes)? != [0; 8] {
        return Err(ParseError::Field("a key's date"));
    }
    let version = u32::from_be_bytes(take(bytes)?);
    let (key, rest) = bytes.split_first_chunk().ok_or(ParseError::Short)?;
    *bytes = rest;
    Ok(Node { key: Key::from_bytes(key), version })
}
