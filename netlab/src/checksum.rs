//! UDP checksums. Virtual devices leave them to hardware that is not there: who takes a frame off one and puts it onto
//! another by hand has to finish them.

/// Writes the UDP checksum of an Ethernet frame, if it holds a whole UDP datagram; anything else stays as it is.
pub(crate) fn complete(frame: &mut [u8]) {
    let Some((pseudo, at)) = udp(frame) else { return };
    let datagram = &mut frame[at..];
    let length = usize::from(u16::from_be_bytes([datagram[4], datagram[5]]));
    let Some(datagram) = datagram.get_mut(..length).filter(|datagram| datagram.len() >= UDP_HEADER) else { return };
    datagram[6..8].fill(0);
    let sum = !fold(sum(&pseudo) + u64::from(UDP) + length as u64 + sum(datagram));
    // Zero would say that there is none (RFC 768).
    datagram[6..8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
}

/// Both addresses, and where the UDP header begins.
fn udp(frame: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (at, addresses, protocol) = match frame.get(12..14)? {
        [0x86, 0xdd] => (54, frame.get(22..54)?, frame[20]),
        [0x08, 0x00] => {
            // A fragment has no checksum of its own; the kernel finishes it before it cuts.
            let fragment = u16::from_be_bytes(*frame.get(20..22)?.first_chunk()?) & 0x3fff != 0;
            let header = usize::from(frame[14] & 0xf) * 4;
            if fragment {
                return None;
            }
            (14 + header, frame.get(26..34)?, frame[23])
        }
        _ => return None,
    };
    (protocol == UDP && frame.len() >= at + UDP_HEADER).then(|| (addresses.to_vec(), at))
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

const UDP: u8 = 17;
const UDP_HEADER: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    /// fe80::1 to ff02::1, port 1000 to 2000, "abc".
    #[test]
    fn a_datagram_in_ipv6_gets_its_checksum_and_others_stay() {
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 11, 17, 64]);
        frame.extend("fe80::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        frame.extend("ff02::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        frame.extend([0x03, 0xe8, 0x07, 0xd0, 0, 11, 0xab, 0xcd, b'a', b'b', b'c']);
        let mut fragment = frame.clone();
        fragment[20] = 44;
        complete(&mut frame);
        // Addresses, protocol, length; ports, length, payload.
        let words = [0xfe80_u64, 1, 0xff02, 1, 17, 11, 0x03e8, 0x07d0, 11, 0x6162, 0x6300];
        let total: u64 = words.iter().sum();
        let expected = !(((total & 0xffff) + (total >> 16)) as u16);
        assert_eq!(u16::from_be_bytes([frame[60], frame[61]]), expected);
        let before = fragment.clone();
        complete(&mut fragment);
        assert_eq!(fragment, before);
    }

    #[test]
    fn junk_is_left_alone() {
        for length in 0..70 {
            let mut frame = vec![0x86; length];
            if length > 14 {
                frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            }
            let before = frame.clone();
            complete(&mut frame);
            assert_eq!(frame, before);
            if length > 20 {
                frame[20] = UDP;
                let before = frame.clone();
                complete(&mut frame);
                assert_eq!(frame, before);
            }
        }
    }
}
