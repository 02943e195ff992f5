//! The own leaves: the one in the tree, those offered, those of yesterday.

use std::time::Duration;

use muster_certs::Author;
use muster_wire::Time;
use muster_wire::mike::Leaf;

use crate::Refusal;
use crate::roster::AGREEMENT;
use crate::secret::{Secret, SecretSource};
use crate::tree::LeafNode;

/// Offered leaves that are kept at once; more only a device that is refused everywhere ever makes.
const MAX_KEPT: usize = 8;

/// The secrets of the own leaves that are still of use.
#[derive(Default)]
pub(crate) struct OwnLeaves {
    generation: u64,
    leaves: Vec<OwnLeaf>,
}

struct OwnLeaf {
    public: [u8; 32],
    secret: Secret,
    generation: u64,
    in_use: bool,
    /// Since when a later one has been in its place.
    superseded: Option<Time>,
}

impl OwnLeaves {
    /// A fresh leaf with the next generation.
    pub(crate) fn fresh(&mut self, author: &Author, source: &mut SecretSource) -> Result<(LeafNode, Secret), Refusal> {
        self.generation += 1;
        let secret = source.draw();
        let leaf = Leaf {
            mode: AGREEMENT,
            group: author.group(),
            member: author.member(),
            startup: author.startup(),
            generation: self.generation,
            public: secret.public(),
        };
        let signed = author.key().sign_value(&leaf)?;
        if self.leaves.len() >= MAX_KEPT
            && let Some(oldest) = self.leaves.iter().position(|leaf| !leaf.in_use)
        {
            self.leaves.remove(oldest);
        }
        self.leaves.push(OwnLeaf {
            public: leaf.public,
            secret: secret.clone(),
            generation: self.generation,
            in_use: false,
            superseded: None,
        });
        Ok((LeafNode { signed, leaf }, secret))
    }

    #[cfg(test)]
    pub(crate) fn forget_offers(&mut self) {
        self.leaves.retain(|leaf| leaf.in_use || leaf.superseded.is_some());
    }

    /// The secret of one of the own public keys.
    pub(crate) fn secret(&self, public: &[u8; 32]) -> Option<&Secret> {
        self.leaves.iter().find(|leaf| leaf.public == *public).map(|leaf| &leaf.secret)
    }

    /// An epoch with this leaf was entered. What is older is kept for a while: should a rival claim win, its tree
    /// holds the leaf of before.
    pub(crate) fn entered(&mut self, public: &[u8; 32], now: Time) {
        let generation = self.leaves.iter().find(|leaf| leaf.public == *public).map_or(0, |leaf| leaf.generation);
        for leaf in &mut self.leaves {
            leaf.in_use = leaf.public == *public;
            if leaf.generation < generation && leaf.superseded.is_none() {
                leaf.superseded = Some(now);
            }
            if leaf.in_use {
                leaf.superseded = None;
            }
        }
    }

    /// Erases all others than the one in the tree.
    pub(crate) fn forget_all_but_current(&mut self) {
        self.leaves.retain(|leaf| leaf.in_use);
    }

    /// Erases what was superseded longer than `keep` ago.
    pub(crate) fn expire(&mut self, now: Time, keep: Duration) {
        self.leaves.retain(|leaf| leaf.in_use || leaf.superseded.is_none_or(|since| now.since(since) < keep));
    }

    /// When [`OwnLeaves::expire`] has something to do.
    pub(crate) fn next_expiry(&self, keep: Duration) -> Option<Time> {
        self.leaves.iter().filter(|leaf| !leaf.in_use).filter_map(|leaf| Some(leaf.superseded? + keep)).min()
    }
}
