//! Which keys were ever installed: invariant 4, freshness.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};

use crate::{Error, Sa, SaKey};

/// Remembers a fingerprint of every key that this process has installed, in either direction, for as long as it
/// lives. A daemon that starts its data plane anew hands the same ledger on (clones share their content).
///
/// It holds 16 octets a key, some 25 with the table's own, and never forgets: 1,000 members that rekey once a minute make
/// 35 MB a day.
#[derive(Clone, Default)]
pub struct KeyLedger(Arc<Mutex<HashSet<Fingerprint>>>);

type Fingerprint = [u8; 16];

impl KeyLedger {
    /// Empty: for the start of a process.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records the keys of all `sas`, or none of them if one has been here before.
    pub(crate) fn record(&self, sas: &[Sa]) -> Result<(), Error> {
        // A panic elsewhere cannot leave the set half changed: `insert` is the only change.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = HashSet::with_capacity(sas.len());
        for sa in sas {
            let fingerprint = fingerprint(&sa.key);
            if known.contains(&fingerprint) || !new.insert(fingerprint) {
                return Err(Error::KeyReused { spi: sa.spi });
            }
        }
        known.extend(new);
        Ok(())
    }
}

/// Of the cipher key alone: with another salt the nonces differ, but no honest derivation gives one key twice.
fn fingerprint(key: &SaKey) -> Fingerprint {
    let mut fingerprint = [0; 16];
    fingerprint.copy_from_slice(&digest(&SHA256, &key.bytes()[..32]).as_ref()[..16]);
    fingerprint
}
