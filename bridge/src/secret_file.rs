//! Files that hold secrets. What is looked at is the open file: whoever puts another one in its place changes nothing.

use std::fs::{Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use zeroize::Zeroizing;

/// Of a private key: of Ed25519 it takes 119 octets, of RSA with 4096 bits 3.3 KB.
pub(crate) const MOST_OF_KEY: usize = 16 << 10;

/// What a file holds, and whether others may know it.
pub(crate) struct SecretFile {
    octets: Zeroizing<Vec<u8>>,
    exposure: Option<&'static str>,
}

impl SecretFile {
    /// Reads it.
    ///
    /// # Errors
    /// It cannot be read, is no regular file, or has more than `most` octets.
    pub(crate) fn read(path: &Path, most: usize) -> io::Result<SecretFile> {
        // To open a pipe would be to wait for somebody who writes.
        let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other(NO_FILE));
        }
        // In one piece: a vector that grows leaves its old content behind.
        let mut octets = Zeroizing::new(Vec::with_capacity(most + 2));
        file.take(most as u64 + 1).read_to_end(&mut octets)?;
        match octets.len() <= most {
            true => Ok(SecretFile { octets, exposure: exposure(&metadata) }),
            false => Err(io::Error::other(format!("larger than {most} octets"))),
        }
    }

    /// What it holds.
    ///
    /// # Errors
    /// Others may know it, or have made it.
    pub(crate) fn closed(self) -> io::Result<Zeroizing<Vec<u8>>> {
        self.exposure.map_or(Ok(self.octets), |why| Err(io::Error::other(why)))
    }

    /// What it holds, whoever knows it, and what is to be done about those who may.
    pub(crate) fn exposed(self) -> (Zeroizing<Vec<u8>>, Option<&'static str>) {
        (self.octets, self.exposure)
    }
}

const NO_FILE: &str = "holds a secret and is no regular file";

/// Why others may know what an open file holds, or have made it, and what is to be done.
pub(crate) fn exposure(metadata: &Metadata) -> Option<&'static str> {
    match metadata {
        file if !file.is_file() => Some(NO_FILE),
        file if file.uid() != 0 && file.uid() != geteuid().as_raw() => {
            Some("holds a secret and belongs to another user: chown it")
        }
        file if file.mode() & 0o077 != 0 => Some("holds a secret and is open to others: chmod 600 it"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown};

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    fn refusal(path: &Path) -> String {
        SecretFile::read(path, 16).and_then(SecretFile::closed).expect_err("refused").to_string()
    }

    #[test]
    fn a_secret_is_in_a_regular_file_of_ours_that_nobody_else_may_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, [b'x'; 16]).unwrap();
        for (mode, why) in [(0o640, "chmod 600"), (0o604, "chmod 600"), (0o620, "chmod 600")] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(refusal(&path).contains(why), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(SecretFile::read(&path, 16).unwrap().closed().is_ok_and(|octets| *octets == [b'x'; 16]));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(SecretFile::read(&link, 16).unwrap().closed().is_ok(), "where it leads counts");
        assert!(SecretFile::read(&path, 15).is_err_and(|error| error.to_string().contains("larger than 15")));

        let pipe = folder.path().join("pipe");
        mkfifo(&pipe, Mode::S_IRUSR).unwrap();
        for other in [pipe.as_path(), folder.path(), Path::new("/dev/zero")] {
            assert!(refusal(other).contains("no regular file"), "{}", other.display());
        }
        // Only root can give a file away.
        if geteuid().is_root() {
            chown(&path, Some(65_534), None).unwrap();
            assert!(refusal(&path).contains("another user"));
            assert!(SecretFile::read(&path, 16).unwrap().exposed().1.is_some_and(|why| why.contains("chown")));
        }
    }
}
