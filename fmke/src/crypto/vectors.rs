//! What the tests of this module share.

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

/// The octets of a test vector, from hex digits; white space between them is left out.
pub(super) fn octets(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        hex.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).expect("a hex digit") as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// `1, 2, 3, …`, for keys whose value does not matter.
pub(super) fn counting(length: u8) -> Vec<u8> {
    (1..=length).collect()
}

/// Random numbers that are the same in every run.
pub(super) fn rng() -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(1)
}
