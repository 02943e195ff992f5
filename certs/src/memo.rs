//! Checks that have been passed, so that the simulator need not make each of them once a receiver: whether a signature
//! is right depends on key, signature and bytes alone.

use std::cell::RefCell;
use std::collections::HashSet;

use sha2::{Digest, Sha256};

use crate::CertError;

/// Emptied when full.
const MAX_PASSED: usize = 1 << 16;

thread_local! {
    static PASSED: RefCell<HashSet<[u8; 32]>> = RefCell::default();
}

/// What `check` says of these parts; not asked again once it has said yes.
pub(crate) fn once(parts: &[&[u8]; 3], check: impl FnOnce() -> Result<(), CertError>) -> Result<(), CertError> {
    let mut hash = Sha256::new();
    // The first two are of fixed length.
    parts.iter().for_each(|part| hash.update(part));
    let name: [u8; 32] = hash.finalize().into();
    if PASSED.with_borrow(|passed| passed.contains(&name)) {
        return Ok(());
    }
    check()?;
    PASSED.with_borrow_mut(|passed| {
        if passed.len() >= MAX_PASSED {
            passed.clear();
        }
        passed.insert(name);
    });
    Ok(())
}
