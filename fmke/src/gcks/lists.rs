//! Which revocation lists are in force at the key server, over its restarts, too.

use std::collections::BTreeMap;

use super::machine::Gcks;
use super::store::Write;
use crate::phase1::ListMark;
use crate::phase1::x509::{Anchors, ListError};

/// By authority. Of those that are not trusted now, too: should they be again.
pub(super) type Lists = BTreeMap<[u8; 32], ListMark>;

impl Gcks {
    /// The revocation lists of these anchors are in force from now on; the certificates that clients have shown are to be
    /// [reviewed](Self::review) by them.
    ///
    /// # Errors
    /// One that was in force is newer, or its authority has none here: nothing has changed.
    pub fn enforce(&mut self, anchors: &Anchors) -> Result<(), ListError> {
        anchors.follow_marks(self.lists.values())?;
        for mark in anchors.marks() {
            if self.lists.get(&mark.issuer) != Some(&mark) {
                self.writes.push(Write::list(&mark));
                self.lists.insert(mark.issuer, mark);
            }
        }
        Ok(())
    }
}
