//! Classic pcap files, as every analyser reads them.

use std::io::{self, Write};

use crate::Frame;

/// Writes `frames` (Ethernet) as one pcap file. The format has room for times until 2106.
pub(crate) fn write<'a>(mut out: impl Write, frames: impl Iterator<Item = &'a Frame>) -> io::Result<()> {
    // Magic (microseconds), version 2.4, zone and accuracy (unused), snap length, link type.
    out.write_all(&0xa1b2_c3d4_u32.to_ne_bytes())?;
    out.write_all(&2_u16.to_ne_bytes())?;
    out.write_all(&4_u16.to_ne_bytes())?;
    for word in [0, 0, SNAP_LENGTH, LINKTYPE_ETHERNET] {
        out.write_all(&word.to_ne_bytes())?;
    }
    for frame in frames {
        // Frames are captured whole and have at most 64 KiB.
        let length = frame.bytes.len() as u32;
        for word in [frame.at.as_secs() as u32, frame.at.subsec_micros(), length, length] {
            out.write_all(&word.to_ne_bytes())?;
        }
        out.write_all(&frame.bytes)?;
    }
    out.flush()
}

const SNAP_LENGTH: u32 = 1 << 18;
const LINKTYPE_ETHERNET: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use std::time::Duration;

    #[test]
    fn a_file_has_the_documented_layout() {
        let frame = Frame { at: Duration::new(7, 9_000), bytes: vec![0xab; 3], kind: Kind::Clear, cleartext: true };
        let mut file = Vec::new();
        write(&mut file, [&frame].into_iter()).unwrap();
        let words: Vec<u32> =
            file[..40].chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect();
        let version = if cfg!(target_endian = "little") { 4 << 16 | 2 } else { 2 << 16 | 4 };
        assert_eq!(words, [0xa1b2_c3d4, version, 0, 0, 1 << 18, 1, 7, 9, 3, 3]);
        assert_eq!(file[40..], [0xab; 3]);
    }
}
