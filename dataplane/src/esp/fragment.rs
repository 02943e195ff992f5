//! IPv4 fragmentation (RFC 791 3.2) of red multicast: the kernel forwards it whole or not at all, so it is done here,
//! before encryption (RFC 4301 8).

use super::checksum::checksum;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// Whether the sender forbids fragments.
pub(crate) fn is_whole_only(packet: &[u8]) -> bool {
    packet.get(6).is_some_and(|flags| u16::from(*flags) << 8 & DONT_FRAGMENT != 0)
}

/// Cuts a packet into pieces of at most `mtu` octets, each with a header of its own.
pub(crate) struct Fragments<'a> {
    header: &'a [u8],
    payload: &'a [u8],
    mtu: usize,
    at: usize,
    /// For a packet that was never to be fragmented: its own identification means nothing (RFC 6864 4.1).
    identification: Option<u16>,
}

impl<'a> Fragments<'a> {
    /// `packet` is a whole IPv4 packet whose header has been checked to be there, `mtu` at least 68 (RFC 791). Of a packet that
    /// forbids fragments the flag is cleared, and `identification` takes the place of its own.
    pub(crate) fn of(packet: &'a [u8], mtu: usize, identification: u16) -> Self {
        let header_len = packet.first().map_or(0, |first| usize::from(first & 0xf) * 4).min(packet.len());
        let (header, payload) = packet.split_at(header_len);
        let identification = is_whole_only(packet).then_some(identification);
        Fragments { header, payload, mtu, at: 0, identification }
    }

    /// Writes the next fragment to the beginning of `out`; its length, or `None` behind the last.
    pub(crate) fn write_next(&mut self, out: &mut [u8]) -> Option<usize> {
        let (header_len, rest) = (self.header.len(), self.payload.get(self.at..)?);
        let room = self.mtu.checked_sub(header_len)? / 8 * 8;
        if rest.is_empty() || room == 0 || header_len < 20 {
            return None;
        }
        let len = if rest.len() <= self.mtu - header_len { rest.len() } else { room };
        let (header, payload) = out.get_mut(..header_len + len)?.split_at_mut(header_len);
        payload.copy_from_slice(&rest[..len]);
        header.copy_from_slice(self.header);
        if self.at > 0 {
            blank_options_of_the_first(&mut header[20..]);
        }
        if let Some(identification) = self.identification {
            header[4..6].copy_from_slice(&identification.to_be_bytes());
        }
        let flags = u16::from_be_bytes([self.header[6], self.header[7]]);
        // It may be a fragment itself; offsets count in eights.
        let offset = (flags & OFFSET) + (self.at / 8) as u16;
        let more = if len < rest.len() { MORE_FRAGMENTS } else { flags & MORE_FRAGMENTS };
        header[2..4].copy_from_slice(&((header_len + len) as u16).to_be_bytes());
        header[6..8].copy_from_slice(&(offset & OFFSET | more).to_be_bytes());
        header[10..12].fill(0);
        let sum = checksum(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        self.at += len;
        Some(header_len + len)
    }
}

/// Options without the copied flag belong to the first fragment alone (RFC 791 3.1): no-operations take their place.
fn blank_options_of_the_first(mut options: &mut [u8]) {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    while let [kind, ..] = *options {
        let len = match (kind, options.get(1)) {
            (END, _) => return,
            (NO_OPERATION, _) => 1,
            (_, Some(len @ 2..)) if usize::from(*len) <= options.len() => usize::from(*len),
            // Not the form of an option: left as it is, as whoever reads it will.
            _ => return,
        };
        let (option, rest) = options.split_at_mut(len);
        if kind & 0x80 == 0 {
            option.fill(NO_OPERATION);
        }
        options = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inner::tests::packet_v4;
    use proptest::prelude::*;

    fn fragments(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
        let mut cut = Fragments::of(packet, mtu, 0x4711);
        let mut out = vec![0; 1 << 16];
        std::iter::from_fn(|| cut.write_next(&mut out).map(|len| out[..len].to_vec())).collect()
    }

    fn flags(fragment: &[u8]) -> u16 {
        u16::from_be_bytes([fragment[6], fragment[7]])
    }

    #[test]
    fn flags_offsets_and_identification() {
        let mut packet = packet_v4("10.1.0.1", "239.10.0.1", &[7; 2000]);
        packet[4..8].copy_from_slice(&[0x12, 0x34, 0x40, 0]);
        assert!(is_whole_only(&packet));
        let cut = fragments(&packet, 1446);
        let lengths: Vec<usize> = cut.iter().map(Vec::len).collect();
        assert_eq!(lengths, [20 + 1424, 20 + 576]);
        assert_eq!(cut.iter().map(|f| flags(f)).collect::<Vec<_>>(), [MORE_FRAGMENTS, 1424 / 8]);
        assert!(cut.iter().all(|fragment| fragment[4..6] == [0x47, 0x11]));
        // Not forbidden: the sender's identification stands.
        packet[6] = 0;
        assert!(!is_whole_only(&packet));
        assert!(fragments(&packet, 1446).iter().all(|fragment| fragment[4..6] == [0x12, 0x34]));
        // A fragment in the middle stays one.
        packet[6..8].copy_from_slice(&(MORE_FRAGMENTS | 100).to_be_bytes());
        let flags: Vec<u16> = fragments(&packet, 1446).iter().map(|f| flags(f)).collect();
        assert_eq!(flags, [MORE_FRAGMENTS | 100, MORE_FRAGMENTS | (100 + 178)]);
    }

    #[test]
    fn options_are_copied_as_they_say() {
        let mut packet = packet_v4("10.1.0.1", "239.10.0.1", &[7; 400]);
        // Record route (not copied) of 7 octets, stream id (copied) of 4, end.
        packet.splice(20..20, [7, 7, 4, 0, 0, 0, 0, 0x88, 4, 0, 9, 0]);
        packet[0] = 0x48;
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        let cut = fragments(&packet, 200);
        assert_eq!(cut[0][20..32], packet[20..32]);
        assert!(cut[1..].iter().all(|f| f[20..32] == [1, 1, 1, 1, 1, 1, 1, 0x88, 4, 0, 9, 0]));
    }

    proptest! {
        #[test]
        fn put_together_they_are_the_packet(len in 1usize..9000, mtu in 68usize..2000) {
            let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let packet = packet_v4("10.1.0.1", "239.10.0.1", &payload);
            let mut whole = vec![0; len];
            let cut = fragments(&packet, mtu);
            for (n, fragment) in cut.iter().enumerate() {
                prop_assert!(fragment.len() <= mtu);
                prop_assert_eq!(checksum(&fragment[..20]), 0);
                prop_assert_eq!(usize::from(u16::from_be_bytes([fragment[2], fragment[3]])), fragment.len());
                prop_assert_eq!(flags(fragment) & MORE_FRAGMENTS != 0, n + 1 < cut.len());
                let at = usize::from(flags(fragment) & OFFSET) * 8;
                whole[at..at + fragment.len() - 20].copy_from_slice(&fragment[20..]);
            }
            prop_assert_eq!(whole, payload);
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), mtu in 0usize..200) {
            fragments(&bytes, mtu);
        }
    }
}
