//! What the outer header takes from the inner one, and what it hands back: DSCP (RFC 4301 5.1.2) and ECN (RFC 6040).
//!
//! The traffic class octet (IPv6) or TOS octet (IPv4) is DSCP in its upper six bits, ECN in its lower two.

const DSCP: u8 = 0xfc;
const ECN: u8 = 0x03;

const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// The class of an IP packet whose header has been checked to be there.
pub(crate) fn class_of(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 6 => first << 4 | second >> 4,
        [_, second, ..] => *second,
        _ => 0,
    }
}

/// The outer class of a packet with this inner class. ECN is copied (RFC 6040 4.1, normal mode); DSCP where the
/// operator does not forbid it: six bits that red can show to black.
pub(crate) fn encapsulate(inner: u8, copy_dscp: bool) -> u8 {
    if copy_dscp { inner } else { inner & ECN }
}

/// Carries congestion that black has marked into the inner packet (RFC 6040 4.2). False: the packet must be dropped,
/// for its transport could not understand the mark. The inner DSCP stays as it was.
pub(crate) fn decapsulate(packet: &mut [u8], outer: u8) -> bool {
    let inner = class_of(packet) & ECN;
    let ecn = match (inner, outer & ECN) {
        (NOT_ECT, CE) => return false,
        (NOT_ECT, _) => NOT_ECT,
        (CE, _) | (_, CE) => CE,
        (ECT_0, ECT_1) => ECT_1,
        _ => inner,
    };
    if ecn != inner {
        set_ecn(packet, ecn);
    }
    true
}

fn set_ecn(packet: &mut [u8], ecn: u8) {
    match packet {
        [first, second, ..] if *first >> 4 == 6 => *second = *second & !(ECN << 4) | ecn << 4,
        [first, second, _, _, _, _, _, _, _, _, high, low, ..] => {
            let old = u16::from_be_bytes([*first, *second]);
            *second = *second & DSCP | ecn;
            let new = u16::from_be_bytes([*first, *second]);
            [*high, *low] = update_checksum(u16::from_be_bytes([*high, *low]), old, new).to_be_bytes();
        }
        _ => {}
    }
}

/// RFC 1624, equation 3.
fn update_checksum(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esp::checksum::checksum;
    use crate::inner::tests::{packet_v4, packet_v6};
    use proptest::prelude::*;

    /// A packet of either family with this class, its IPv4 checksum right.
    fn packet(ipv4: bool, class: u8) -> Vec<u8> {
        if ipv4 {
            let mut packet = packet_v4("10.1.0.1", "10.2.0.1", b"payload");
            packet[1] = class;
            let sum = checksum(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            packet
        } else {
            let mut packet = packet_v6("2001:db8:a::1", "2001:db8:b::1", b"payload");
            (packet[0], packet[1]) = (0x60 | class >> 4, class << 4 | 0x5);
            packet
        }
    }

    /// The table of RFC 6040 4.2 as it stands there: rows inner, columns outer, each Not-ECT, ECT(0), ECT(1), CE.
    #[test]
    fn the_table_of_rfc_6040() {
        let order = [NOT_ECT, ECT_0, ECT_1, CE];
        let table = [
            [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None],
            [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)],
            [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)],
            [Some(CE), Some(CE), Some(CE), Some(CE)],
        ];
        for ipv4 in [false, true] {
            for (inner, row) in order.into_iter().zip(table) {
                for (outer, expected) in order.into_iter().zip(row) {
                    let mut packet = packet(ipv4, 0xb8 | inner);
                    let kept = decapsulate(&mut packet, 0x28 | outer);
                    let got = kept.then_some(class_of(&packet));
                    assert_eq!(got, expected.map(|ecn| 0xb8 | ecn), "inner {inner:02b}, outer {outer:02b}");
                }
            }
        }
    }

    #[test]
    fn outer_classes() {
        assert_eq!(encapsulate(0xbb, true), 0xbb, "all of it, congestion experienced too");
        assert_eq!(encapsulate(0xbb, false), 0x03, "ECN alone");
    }

    proptest! {
        /// Nothing but the two bits changes, and the IPv4 checksum stays right.
        #[test]
        fn no_other_bit_changes(ipv4: bool, inner: u8, outer: u8, copy_dscp: bool) {
            let before = packet(ipv4, inner);
            prop_assert_eq!(class_of(&before), inner);
            prop_assert_eq!(encapsulate(inner, copy_dscp) & ECN, inner & ECN);
            let mut after = before.clone();
            if decapsulate(&mut after, outer) {
                prop_assert_eq!(class_of(&after) & DSCP, inner & DSCP);
                if ipv4 {
                    prop_assert_eq!(checksum(&after[..20]), 0);
                    prop_assert_eq!(&after[12..], &before[12..]);
                    prop_assert_eq!(&after[2..10], &before[2..10]);
                } else {
                    prop_assert_eq!(&after[2..], &before[2..]);
                    prop_assert_eq!(after[1] & 0xf, before[1] & 0xf);
                }
            } else {
                prop_assert_eq!((inner & ECN, outer & ECN), (NOT_ECT, CE));
                prop_assert_eq!(after, before);
            }
        }

        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..30), outer: u8) {
            class_of(&bytes);
            decapsulate(&mut bytes, outer);
        }
    }
}
