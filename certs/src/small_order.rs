//! The eight points of edwards25519 whose order divides the cofactor, as RFC 8032 encodes them.

use muster_wire::hex;

pub(crate) const SMALL_ORDER: [[u8; 32]; 8] = [
    hex("0000000000000000000000000000000000000000000000000000000000000000"),
    hex("0000000000000000000000000000000000000000000000000000000000000080"),
    hex("0100000000000000000000000000000000000000000000000000000000000000"),
    hex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    hex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85"),
    hex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    hex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"),
    hex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_points_and_weak_and_eight() {
        for point in SMALL_ORDER {
            assert!(ed25519_dalek::VerifyingKey::from_bytes(&point).is_ok_and(|key| key.is_weak()));
        }
        let distinct: std::collections::BTreeSet<_> = SMALL_ORDER.into_iter().collect();
        assert_eq!(distinct.len(), 8);
    }
}
