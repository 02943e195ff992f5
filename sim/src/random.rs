//! Chance, from the seed.

use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// Draws numbers. One for each purpose, so that what one part draws does not shift what another gets.
pub struct Dice(ChaCha20Rng);

impl Dice {
    /// The dice of `purpose` in the run of `seed`.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(seed.to_be_bytes());
        hash.update(purpose);
        Self(ChaCha20Rng::from_seed(hash.finalize().into()))
    }

    /// 0 to `limit` − 1; 0 if `limit` is.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.0.next_u64() % limit.max(1) as u64) as usize
    }

    /// From `least` to `most`, microseconds apart.
    pub fn duration(&mut self, least: Duration, most: Duration) -> Duration {
        let span = most.saturating_sub(least).as_micros() as u64;
        least + Duration::from_micros(self.0.next_u64() % (span + 1))
    }

    /// From `least` to `most` milliseconds.
    pub fn ms(&mut self, least: u64, most: u64) -> Duration {
        self.duration(Duration::from_millis(least), Duration::from_millis(most))
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.0.next_u64() % 100 < u64::from(percent)
    }

    /// `count` different numbers below `limit`, in random order.
    pub fn choose(&mut self, count: usize, limit: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..limit).collect();
        (0..count.min(limit)).map(|_| all.swap_remove(self.below(all.len()))).collect()
    }

    /// What nobody could guess.
    pub fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.0.fill_bytes(&mut seed);
        seed
    }
}
