//! The ESP packet (RFC 4303 2) with AES-256-GCM (RFC 4106), bytes only: no table, no socket, no clock.
//!
//! ```text
//! | SPI 4 | sequence number 4 | IV 8 | inner packet … 1 2 3 | pad length 1 | next header 1 | ICV 16 |
//!   authenticated ─────────┘         └ encrypted and authenticated ────────────────────────┘
//! ```

use std::ops::Range;

#[cfg(not(feature = "null-cipher"))]
use super::aes_gcm::Aead;
#[cfg(feature = "null-cipher")]
use super::null_cipher::Aead;
use crate::SaKey;

/// SPI, sequence number and IV: what stands before the inner packet.
pub(crate) const HEADER_LEN: usize = 16;
/// Integrity check value.
pub(crate) const ICV_LEN: usize = 16;
/// Next header of a dummy packet, discarded without a word (RFC 4303 2.6).
pub(crate) const NEXT_DUMMY: u8 = 59;
/// Next header of an inner IPv4 packet (tunnel mode).
pub(crate) const NEXT_IPV4: u8 = 4;
/// Next header of an inner IPv6 packet (tunnel mode).
pub(crate) const NEXT_IPV6: u8 = 41;

const TRAILER_LEN: usize = 2;
/// The ciphertext ends on a 4-octet boundary (RFC 4303 2.4).
const ALIGN: usize = 4;

/// Octets of an ESP packet around an inner one of `inner` octets, outer IP header not counted.
pub(crate) const fn sealed_len(inner: usize) -> usize {
    HEADER_LEN + (inner + TRAILER_LEN).next_multiple_of(ALIGN) + ICV_LEN
}

/// The largest inner packet whose ESP packet, outer header included, is at most `mtu` octets.
pub(crate) const fn largest_inner(mtu: usize, outer_ipv4: bool) -> usize {
    let outer = if outer_ipv4 { 20 } else { 40 };
    let room = mtu.saturating_sub(outer + HEADER_LEN + ICV_LEN);
    (room - room % ALIGN).saturating_sub(TRAILER_LEN)
}

/// What can be read before decryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) spi: u32,
    pub(crate) sequence: u32,
}

impl Header {
    /// `None` if `datagram` is too short for ESP or its ciphertext does not end on the boundary.
    pub(crate) fn parse(datagram: &[u8]) -> Option<Header> {
        let ciphertext = datagram.len().checked_sub(HEADER_LEN + ICV_LEN)?;
        if ciphertext < ALIGN || !ciphertext.is_multiple_of(ALIGN) {
            return None;
        }
        let (spi, rest) = datagram.split_first_chunk::<4>()?;
        let sequence = rest.first_chunk::<4>()?;
        Some(Header { spi: u32::from_be_bytes(*spi), sequence: u32::from_be_bytes(*sequence) })
    }
}

/// Why a packet could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// The ICV is wrong.
    Auth,
    /// Too short, or authentic with padding that is none.
    Malformed,
}

/// What an authentic packet held: `inner` is where, within the datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) next_header: u8,
    pub(crate) inner: Range<usize>,
}

/// The cipher of one SA, ready for use.
pub(crate) struct Cipher {
    aead: Aead,
    /// The upper half of the IVs of what it seals.
    iv: u32,
}

impl Cipher {
    /// `iv` is random where something is sealed: should another process ever be given this key, and count from 1 as this one
    /// does, no nonce comes twice all the same.
    pub(crate) fn new(key: &SaKey, iv: u32) -> Self {
        Cipher { aead: Aead::new(key), iv }
    }

    /// Makes the ESP packet in place around the inner one at `buffer[HEADER_LEN..HEADER_LEN + inner]`; its length,
    /// or `None` if the buffer has no room for it. The caller never passes one sequence number twice.
    pub(crate) fn seal(&self, header: Header, next_header: u8, buffer: &mut [u8], inner: usize) -> Option<usize> {
        let packet = buffer.get_mut(..sealed_len(inner))?;
        let (head, rest) = packet.split_at_mut(HEADER_LEN);
        let (plaintext, icv) = rest.split_at_mut(rest.len() - ICV_LEN);

        head[..4].copy_from_slice(&header.spi.to_be_bytes());
        head[4..8].copy_from_slice(&header.sequence.to_be_bytes());
        // RFC 4106 3.1: the IV must not repeat under a key; a counter is the way proposed.
        head[8..12].copy_from_slice(&self.iv.to_be_bytes());
        head[12..].copy_from_slice(&header.sequence.to_be_bytes());

        let padding = plaintext.len() - TRAILER_LEN - inner;
        for (byte, value) in plaintext[inner..].iter_mut().zip(1..=padding as u8) {
            *byte = value;
        }
        plaintext[inner + padding] = padding as u8;
        plaintext[inner + padding + 1] = next_header;

        icv.copy_from_slice(&self.aead.seal(head, plaintext)?);
        Some(packet.len())
    }

    /// Checks and decrypts `datagram` in place.
    pub(crate) fn open(&self, datagram: &mut [u8]) -> Result<Opened, OpenError> {
        Header::parse(datagram).ok_or(OpenError::Malformed)?;
        let (head, rest) = datagram.split_at_mut(HEADER_LEN);
        let plaintext = self.aead.open(head, rest).ok_or(OpenError::Auth)?;

        let (rest, [padding, next_header]) = plaintext.split_last_chunk().ok_or(OpenError::Malformed)?;
        let inner = rest.len().checked_sub(usize::from(*padding)).ok_or(OpenError::Malformed)?;
        // RFC 4303 2.4: the receiver should inspect the padding.
        if !rest[inner..].iter().copied().eq(1..=*padding) {
            return Err(OpenError::Malformed);
        }
        Ok(Opened { next_header: *next_header, inner: HEADER_LEN..HEADER_LEN + inner })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inner::tests::{packet_v4, packet_v6};
    use proptest::prelude::*;

    fn cipher() -> Cipher {
        let mut key = [0; 36];
        for (i, byte) in key.iter_mut().enumerate().take(32) {
            *byte = i as u8;
        }
        key[32..].copy_from_slice(&[0xa0, 0xa1, 0xa2, 0xa3]);
        Cipher::new(&SaKey::new(&key), 0)
    }

    const HEADER: Header = Header { spi: 0x1230_0005, sequence: 0x0102_0304 };

    fn seal(header: Header, next_header: u8, inner: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0xee; sealed_len(inner.len())];
        buffer[HEADER_LEN..][..inner.len()].copy_from_slice(inner);
        let len = cipher().seal(header, next_header, &mut buffer, inner.len()).unwrap();
        assert_eq!(len, buffer.len());
        buffer
    }

    /// Seals any plaintext, trailer included, past the rules.
    fn seal_raw(plaintext: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; HEADER_LEN];
        packet[..4].copy_from_slice(&HEADER.spi.to_be_bytes());
        packet[4..8].copy_from_slice(&HEADER.sequence.to_be_bytes());
        let mut rest = plaintext.to_vec();
        let icv = cipher().aead.seal(&packet, &mut rest).unwrap();
        [packet, rest, icv.to_vec()].concat()
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    /// README tells the least MTUs that leave 1280 octets, which IPv6 needs.
    #[test]
    fn the_largest_inner_packet_is_known() {
        let of = |mtu: usize, ipv4| largest_inner(mtu, ipv4);
        assert_eq!([of(1500, false), of(1356, false), of(1355, false)], [1426, 1282, 1278]);
        assert_eq!([of(1500, true), of(1336, true), of(1335, true)], [1446, 1282, 1278]);
    }

    /// Made once by another implementation (OpenSSL's AES-GCM, the packet put together by hand in Python).
    #[test]
    fn golden_vectors() {
        let v6 = packet_v6("2001:db8:a::1", "ff1e::1", b"hello");
        let v4 = packet_v4("10.1.0.1", "239.10.0.1", b"muster");
        let vectors: [(u8, &[u8], &str); 3] = [
            (
                NEXT_IPV6,
                &v6,
                "123000050102030400000000010203049fcb8a4012eba4cd9c967d4a6a29dbb8db4c0084fd9ca057e9f814d0b09f45b3\
                 0053513f0e6d86f28a44fd390beaf8e78f582800f434327c6ef3a9f8d16b5270",
            ),
            (
                NEXT_IPV4,
                &v4,
                "12300005010203040000000001020304bacb8a5a12ee9fc5b48670f26022dbb93446008590e9d322739414d4623b2575\
                 3fc352d54276775fbb3a3881",
            ),
            (NEXT_DUMMY, &[], "12300005010203040000000001020304fec9887b6b999a14a9d153fba3b3526b671c1bd8"),
        ];
        for (next_header, inner, expected) in vectors {
            let mut packet = seal(HEADER, next_header, inner);
            assert_eq!(packet, hex(expected));
            let opened = cipher().open(&mut packet).unwrap();
            assert_eq!((opened.next_header, &packet[opened.inner]), (next_header, inner));
        }
    }

    #[test]
    fn sizes() {
        for (mtu, outer_ipv4) in [(1500, false), (1500, true), (1400, false), (1281, true), (9000, false)] {
            let outer = if outer_ipv4 { 20 } else { 40 };
            let inner = largest_inner(mtu, outer_ipv4);
            assert!(outer + sealed_len(inner) <= mtu && outer + sealed_len(inner + 1) > mtu, "{mtu}");
        }
        assert_eq!(largest_inner(1500, false), 1426);
        assert_eq!(largest_inner(0, false), 0);
        assert_eq!(cipher().seal(HEADER, NEXT_IPV6, &mut [0; 80], 50), None, "no room");
    }

    #[test]
    fn too_short_or_out_of_step() {
        for len in 0..36 {
            assert_eq!(Header::parse(&vec![0; len]), None, "{len}");
            assert_eq!(cipher().open(&mut vec![0; len]), Err(OpenError::Malformed));
        }
        assert!(Header::parse(&[0; 36]).is_some());
        assert_eq!(Header::parse(&[0; 37]), None);
        let packet = seal(HEADER, NEXT_IPV4, &[7; 30]);
        for len in 36..packet.len() {
            assert!(cipher().open(&mut packet[..len].to_vec()).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn every_bit_counts() {
        let packet = seal(HEADER, NEXT_IPV4, &[7; 30]);
        for bit in 0..packet.len() * 8 {
            let mut flipped = packet.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(cipher().open(&mut flipped), Err(OpenError::Auth), "bit {bit}");
        }
    }

    #[test]
    fn malformed_trailers() {
        let malformed: [&[u8]; 4] = [
            &[9, 9, 9, 9, 1, 2, 3, 9, 3, 41],         // padding ends in 9
            &[9, 9, 9, 9, 9, 9, 0, 0, 2, 41],         // padding of zeros
            &[1, 2, 3, 4, 5, 6, 7, 8, 9, 41],         // longer than the packet
            &[255, 255, 255, 255, 255, 255, 255, 41], // far longer
        ];
        for plaintext in malformed {
            let aligned = &plaintext[plaintext.len() % 4..];
            assert_eq!(cipher().open(&mut seal_raw(aligned)), Err(OpenError::Malformed), "{plaintext:?}");
        }
        let opened = cipher().open(&mut seal_raw(&[1, 2, 3, 4, 5, 6, 6, 41])).unwrap();
        assert_eq!(opened, Opened { next_header: 41, inner: 16..16 }, "more padding than needed is allowed");
    }

    proptest! {
        #[test]
        fn round_trip(spi in 256u32.., sequence in 1u32.., inner in proptest::collection::vec(any::<u8>(), 0..300)) {
            let header = Header { spi, sequence };
            let mut packet = seal(header, NEXT_IPV6, &inner);
            prop_assert_eq!(Header::parse(&packet), Some(header));
            let opened = cipher().open(&mut packet).unwrap();
            prop_assert_eq!(opened.next_header, NEXT_IPV6);
            prop_assert_eq!(&packet[opened.inner], &inner[..]);
        }

        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(cipher().open(&mut bytes).is_err());
        }

        #[test]
        fn random_plaintexts_never_panic(plaintext in proptest::collection::vec(any::<u8>(), 4..100)) {
            let _ = cipher().open(&mut seal_raw(&plaintext));
        }
    }
}
