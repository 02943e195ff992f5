//! Octets that may hold a key.

use std::ops::{Deref, DerefMut};

use zeroize::optimization_barrier;

/// Erased when it goes, at once: `Zeroizing` writes octet by octet, which of an SA's message costs more than all else that is done
/// before the kernel has it.
///
/// Not for a buffer that grows, or is used again for less: what it held before is not within its length.
pub(crate) struct Erased(Vec<u8>);

impl From<Vec<u8>> for Erased {
    fn from(octets: Vec<u8>) -> Self {
        Erased(octets)
    }
}

impl Deref for Erased {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Erased {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for Erased {
    fn drop(&mut self) {
        self.0.fill(0);
        // The compiler must not take it for a write that nobody reads.
        optimization_barrier(self.0.as_slice());
    }
}
