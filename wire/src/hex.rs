//! Constants as they stand in specifications.

/// 32 bytes from 64 hex digits, in lower case; for constants: anything else does not compile.
pub const fn hex(text: &str) -> [u8; 32] {
    const fn digit(byte: u8) -> u8 {
        match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => panic!("not a hex digit"),
        }
    }
    let (text, mut bytes, mut at) = (text.as_bytes(), [0; 32], 0);
    assert!(text.len() == 64, "32 bytes are 64 digits");
    while at < 32 {
        bytes[at] = digit(text[2 * at]) << 4 | digit(text[2 * at + 1]);
        at += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::hex;
    use crate::Hash;

    #[test]
    fn what_is_shown_is_read() {
        let hash = Hash(std::array::from_fn(|n| n as u8 * 8 + 3));
        assert_eq!(Hash(hex(&hash.to_string())), hash);
    }
}
