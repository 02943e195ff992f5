//! Which keys were ever installed: invariant 4, freshness.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};

use crate::{Error, Sa, SaKey};

/// Remembers a fingerprint of every key that this process has installed, in either direction, for as long as it
/// lives. A daemon that starts its data plane anew hands the same ledger on (clones share their content).
///
/// It holds 17 octets a key, some 25 with the table's own, and never forgets: 1,000 members that rekey once a minute make
/// 35 MB a day.
#[derive(Clone, Default)]
pub struct KeyLedger(Arc<Mutex<HashMap<Fingerprint, Use>>>);

type Fingerprint = [u8; 16];

/// What a key was installed for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Sent,
    Received,
    /// By a client that has started anew since.
    ReceivedBefore,
}

impl KeyLedger {
    /// Empty: for the start of a process.
    pub fn new() -> Self {
        Self::default()
    }

    /// Each key that was received under until now may be received under once more: a client of a key server starts anew, with a
    /// data plane that holds nothing, and may be told of others' SAs again. No nonce comes twice by that; sent under it is never.
    pub fn begin_anew(&self) {
        let before = |known: &mut Use| {
            if *known == Use::Received {
                *known = Use::ReceivedBefore
            }
        };
        self.known().values_mut().for_each(before);
    }

    /// Records the keys of all `sas`, which are sent under, or none of them if one has been here before.
    pub(crate) fn record_outbound(&self, sas: &[Sa]) -> Result<(), Error> {
        self.record(sas, Use::Sent)
    }

    /// The same of SAs that are received under.
    pub(crate) fn record_inbound(&self, sas: &[Sa]) -> Result<(), Error> {
        self.record(sas, Use::Received)
    }

    fn record(&self, sas: &[Sa], used: Use) -> Result<(), Error> {
        let mut known = self.known();
        let mut replaced = Vec::with_capacity(sas.len());
        for sa in sas {
            let fingerprint = fingerprint(&sa.key);
            let before = known.insert(fingerprint, used);
            replaced.push((fingerprint, before));
            let may_be = before.is_none_or(|before| (before, used) == (Use::ReceivedBefore, Use::Received));
            if !may_be {
                // Backwards: one key may be here twice.
                for (fingerprint, before) in replaced.into_iter().rev() {
                    match before {
                        Some(before) => known.insert(fingerprint, before),
                        None => known.remove(&fingerprint),
                    };
                }
                return Err(Error::KeyReused { spi: sa.spi });
            }
        }
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Fingerprint, Use>> {
        // A panic elsewhere leaves at worst keys that were not installed, and those never are.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of the cipher key alone: with another salt the nonces differ, but no honest derivation gives one key twice.
fn fingerprint(key: &SaKey) -> Fingerprint {
    let mut fingerprint = [0; 16];
    fingerprint.copy_from_slice(&digest(&SHA256, &key.bytes()[..32]).as_ref()[..16]);
    fingerprint
}
