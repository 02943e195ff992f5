//! The Internet checksum (RFC 1071).

/// Of an IPv4 header whose checksum field is zero (RFC 791 3.1), say; zero over what has a right one.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// Of the addresses, the protocol and the length of what stands behind the IP header (RFC 768, RFC 8200 8.1), not
/// complemented: to begin a transport's checksum with.
pub(crate) fn pseudo_header(addresses: &[u8], protocol: u8, len: usize) -> u16 {
    // A transport's length fits into 16 bits: there are no jumbograms here.
    fold(sum(addresses) + u64::from(protocol) + len as u64)
}

/// Whether the transport's packet has the checksum that it says; `pseudo` as of [`pseudo_header`].
pub(crate) fn is_right(pseudo: u16, transport: &[u8]) -> bool {
    fold(u64::from(pseudo) + sum(transport)) == u16::MAX
}

/// Eight octets at a time, which the compiler does in wide registers. One's complement does not mind where the carries go, nor
/// the order of octets until the end.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let wide: u64 =
        words.iter().map(|word| u64::from_ne_bytes(*word)).map(|word| (word & 0xffff_ffff) + (word >> 32)).sum();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let last = u64::from_ne_bytes(last);
    let folded = fold(wide + (last & 0xffff_ffff) + (last >> 32));
    u64::from(u16::from_be_bytes(folded.to_ne_bytes()))
}

fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The example of RFC 1071, 3.
    #[test]
    fn the_rfcs_example() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    proptest! {
        /// As RFC 1071 has it, two octets at a time.
        #[test]
        fn as_two_octets_at_a_time(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let words = bytes.chunks(2).map(|word| u64::from(word[0]) << 8 | word.get(1).copied().map_or(0, u64::from));
            prop_assert_eq!(checksum(&bytes), !fold(words.sum()));
        }

        #[test]
        fn a_right_one_is_told_from_a_wrong_one(mut bytes in proptest::collection::vec(any::<u8>(), 8..200), pseudo: u16, bit: u8) {
            bytes[6..8].fill(0);
            let right = !fold(u64::from(pseudo) + sum(&bytes));
            bytes[6..8].copy_from_slice(&right.to_be_bytes());
            prop_assert!(is_right(pseudo, &bytes));
            let at = usize::from(bit) % bytes.len();
            bytes[at] ^= 1;
            prop_assert!(!is_right(pseudo, &bytes));
        }
    }
}
