//! Secrets that a client and its key server share.

use std::io;
use std::path::Path;

use muster_fmke::crypto::SecretBytes;
use serde::{Deserialize, Deserializer, de::Error as _};
use zeroize::Zeroizing;

use crate::secret_file::SecretFile;
use crate::settings::SettingsError;

/// Who watches a phase 1, having taken the server's place, may try secrets at leisure: fewer octets are guessed.
const LEAST: usize = 16;
const MOST: usize = 1024;
/// White space around it.
const BLANKS: usize = 64;
/// Of a key without a phase 1 above it.
pub(crate) const SHORT_KEY: &str =
    "without a return channel the secret is a key: 32 octets at least, as from `openssl rand -hex 32`";

/// One that stands in the configuration itself.
#[derive(Clone)]
pub(crate) struct Inline(pub(crate) SecretBytes);

impl<'de> Deserialize<'de> for Inline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        take(text.as_bytes()).map(Inline).map_err(D::Error::custom)
    }
}

/// Reads a file that holds one: all octets but white space at both ends.
///
/// # Errors
/// A file that cannot be read, that others may read or have written, or whose secret is too short or too long.
pub(crate) fn read_secret(path: &Path) -> Result<SecretBytes, SettingsError> {
    let error = |error| SettingsError::Read { path: path.to_owned(), error };
    let octets = SecretFile::read(path, MOST + BLANKS).and_then(SecretFile::closed).map_err(error)?;
    take(&octets).map_err(|message| error(io::Error::other(message)))
}

fn take(octets: &[u8]) -> Result<SecretBytes, String> {
    let secret = octets.trim_ascii();
    match (LEAST..=MOST).contains(&secret.len()) {
        true => Ok(SecretBytes::from(secret)),
        false => Err(format!("a secret has {LEAST} to {MOST} octets, as from `openssl rand -hex 32`")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn written(octets: &[u8], mode: u32) -> Result<SecretBytes, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, octets).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        read_secret(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn a_secret_is_what_stands_in_a_file_of_its_owner_alone() {
        assert!(written(b"0123456789abcdef\n", 0o600).is_ok_and(|secret| secret.matches(b"0123456789abcdef")));
        for (octets, mode, why) in [
            (b"0123456789abcdef\n".as_slice(), 0o640, "chmod 600"),
            (b"0123456789abcde \n", 0o600, "16 to 1024"),
            (b"", 0o600, "16 to 1024"),
            (&[b'a'; MOST + 1], 0o600, "16 to 1024"),
        ] {
            assert!(written(octets, mode).is_err_and(|error| error.contains(why)), "{why}");
        }
    }
}
