//! What renews the keys that an excluded member knew, as it is multicast.

use super::node::{MAX_DEPTH, NodeId, Place};
use super::wrap::WRAPPED;
use super::{FORMAT, ParseError, expect_length, take, take_header, take_version};

/// The attribute of an update in a KD payload of type LKH: of the range for private use (RFC 6407, section 5.6.3).
///
/// GDOI's LKH_UPDATE_ARRAY (2) is a chain of keys under one key, so the keys of an exclusion, each under another, would
/// be an array of 72 octets each: 1,008 for one of 10,000 members, where the layout here takes 600. It leaves out what
/// the receiver knows: a key under node `n` is that of the node above `n`, all are set by one version, wrapped for AES,
/// without dates.
pub const LKH_COMPACT_UPDATE: u16 = 128;

/// Octets before moves and items.
const HEAD: usize = 12;
const MOVE: usize = 4;
const ITEM: usize = 2 + WRAPPED;

/// New keys after an exclusion, or a part of them: what the members below one node need ([`Update::parts`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    pub(super) version: u32,
    pub(super) depth: u8,
    /// The members below here find all they need.
    pub(super) scope: NodeId,
    /// By places, which rise in step.
    pub(super) moves: Vec<Move>,
    /// By number, each once.
    pub(super) items: Vec<Item>,
}

/// A member that sits elsewhere from now on. Its own key stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Where it sat, in the half of the tree that goes.
    pub from: Place,
    /// Where it sits now.
    pub to: Place,
}

/// The new key of the node above `under`, for those who hold the key of `under`: the new one, if that is renewed, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) under: NodeId,
    pub(super) wrapped: [u8; WRAPPED],
}

impl Update {
    /// The version that the tree has after it.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// How many wrapped keys there are.
    pub fn wrapped_keys(&self) -> usize {
        self.items.len()
    }

    /// The item under this node.
    pub(super) fn item(&self, under: NodeId) -> Option<&Item> {
        let at = self.items.binary_search_by_key(&under, |item| item.under).ok()?;
        self.items.get(at)
    }

    /// The update in parts of at most so many octets, but never less than one member needs (684 and a move). Each part
    /// says whom it serves and is all that these need, so a lost part concerns nobody else.
    pub fn parts(self, octets: usize) -> Vec<Update> {
        let mut done = Vec::new();
        let mut left = vec![self];
        while let Some(update) = left.pop() {
            // With no key under a node below, all below need the same.
            let is_one = update.items.iter().all(|item| item.under.covers(update.scope));
            if update.octets() <= octets || is_one {
                done.push(update);
            } else {
                // The left one is to be done first.
                left.extend(update.scope.children().into_iter().rev().filter_map(|half| update.for_half(half)));
            }
        }
        done
    }

    /// What the members below a child of the scope need; `None` if there are none. (A key under a node below the scope
    /// says that the scope is renewed. So a child with members has an item, or is renewed itself and has some below.)
    fn for_half(&self, half: NodeId) -> Option<Update> {
        let items = self.items.iter().filter(|item| half.covers(item.under) || item.under.covers(half));
        let items: Vec<_> = items.copied().collect();
        if !items.iter().any(|item| half.covers(item.under)) {
            return None;
        }
        let moves = self.moves.iter().filter(|moved| moved.to.leaf().is_some_and(|leaf| half.covers(leaf)));
        Some(Update { scope: half, moves: moves.copied().collect(), items, ..*self })
    }

    fn octets(&self) -> usize {
        HEAD + MOVE * self.moves.len() + ITEM * self.items.len()
    }

    /// The value of the attribute [`LKH_COMPACT_UPDATE`]:
    ///
    /// ```text
    /// | LKH version = 1 |      # of LKH keys      |    depth    |     head as of RFC 6407's LKH_UPDATE_ARRAY,
    /// |           LKH ID          |     # of moves            |     whose two reserved fields say depth and moves;
    /// |                       key handle                      |     LKH ID: the node whose members it serves
    /// |            from           |            to             |     each move: places
    /// |           LKH ID          |   wrapped key, 40 octets  |     each key: what wraps it, and the key above that
    /// ```
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.octets());
        bytes.push(FORMAT);
        // At most two keys for each of 32,767 nodes.
        bytes.extend((self.items.len() as u16).to_be_bytes());
        bytes.push(self.depth);
        bytes.extend(self.scope.0.to_be_bytes());
        bytes.extend((self.moves.len() as u16).to_be_bytes());
        bytes.extend(self.version.to_be_bytes());
        for Move { from, to } in &self.moves {
            bytes.extend(from.0.to_be_bytes());
            bytes.extend(to.0.to_be_bytes());
        }
        for Item { under, wrapped } in &self.items {
            bytes.extend(under.0.to_be_bytes());
            bytes.extend(wrapped);
        }
        bytes
    }

    /// Reverses [`Update::encode`].
    pub fn decode(mut bytes: &[u8]) -> Result<Self, ParseError> {
        let (items, depth) = take_header(&mut bytes)?;
        if !(1..=MAX_DEPTH).contains(&depth) {
            return Err(ParseError::Field("the depth"));
        }
        let scope = NodeId(u16::from_be_bytes(take(&mut bytes)?));
        if !scope.is_within(depth) {
            return Err(ParseError::Field("the LKH ID of the scope"));
        }
        let moves = u16::from_be_bytes(take(&mut bytes)?);
        let version = take_version(&mut bytes)?;
        expect_length(bytes, MOVE * usize::from(moves) + ITEM * usize::from(items))?;
        let moves = (0..moves).map(|_| take_move(&mut bytes)).collect::<Result<_, _>>()?;
        let items = (0..items).map(|_| take_item(&mut bytes)).collect::<Result<_, _>>()?;
        let update = Self { version, depth, scope, moves, items };
        update.check()?;
        Ok(update)
    }

    /// Refuses what no server sends.
    fn check(&self) -> Result<(), ParseError> {
        let Self { depth, scope, moves, items, .. } = self;
        let moved = |Move { from, to }: &Move| {
            let serves = to.is_within(*depth) && to.leaf().is_some_and(|leaf| scope.covers(leaf));
            serves && !from.is_within(*depth) && from.is_within(MAX_DEPTH)
        };
        if !moves.is_sorted_by(|a, b| a.from < b.from && a.to < b.to) || !moves.iter().all(moved) {
            return Err(ParseError::Field("a move"));
        }
        let serves = |under: NodeId| scope.covers(under) || under.covers(*scope);
        let wraps = |item: &Item| item.under.is_within(*depth) && item.under != NodeId::root(*depth);
        if !items.is_sorted_by(|a, b| a.under < b.under) || !items.iter().all(|item| wraps(item) && serves(item.under))
        {
            return Err(ParseError::Field("an LKH ID"));
        }
        Ok(())
    }
}

fn take_move(bytes: &mut &[u8]) -> Result<Move, ParseError> {
    let from = Place(u16::from_be_bytes(take(bytes)?));
    let to = Place(u16::from_be_bytes(take(bytes)?));
    Ok(Move { from, to })
}

fn take_item(bytes: &mut &[u8]) -> Result<Item, ParseError> {
    let under = NodeId(u16::from_be_bytes(take(bytes)?));
    Ok(Item { under, wrapped: take(bytes)? })
}
