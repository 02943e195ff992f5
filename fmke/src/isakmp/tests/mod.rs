//! The codec against figures written out by hand, against chance, and against what no peer of good will sends.

mod fmke;
mod isakmp;
mod round_trip;

use super::{Malformed, Raw};

/// Octets from digits; `#` begins a remark.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .lines()
        .flat_map(|line| line.split('#').next().unwrap().chars())
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).unwrap() as u8)
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// The same with one octet changed.
fn with(octets: &[u8], at: usize, octet: u8) -> Vec<u8> {
    let mut changed = octets.to_vec();
    assert_ne!(changed[at], octet);
    changed[at] = octet;
    changed
}

fn field(field: &'static str, value: u32) -> Malformed {
    Malformed::Field { field, value }
}

/// Cut short, it is refused wherever the cut is; and with an octet more.
fn is_exact(octets: &[u8], is_taken: impl Fn(&[u8]) -> bool) {
    assert!(is_taken(octets));
    for len in 0..octets.len() {
        assert!(!is_taken(&octets[..len]), "taken with {len} octets");
    }
    assert!(!is_taken(&[octets, &[0]].concat()));
}

fn kinds(list: &[Raw<'_>]) -> Vec<u8> {
    list.iter().map(|raw| raw.kind).collect()
}
