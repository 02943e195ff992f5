//! Revocation lists that neighbours have brought, kept over restarts: a device that starts alone must not fall back
//! behind what it knew. They are public; each is checked again when it is read.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use muster_certs::TrustStore;
use muster_wire::Hash;
use muster_wire::idp::MAX_CRL;
use tracing::{debug, warn};

use crate::durable;

/// Below `device.state_dir`.
const FOLDER: &str = "crls";
const SUFFIX: &str = ".crl";
/// One for each trust anchor that there ever was.
const MOST: usize = 256;

/// Keeps the list of an issuer in place of its last.
pub(crate) fn keep(state_dir: &Path, issuer: &Hash, list: &[u8]) -> io::Result<()> {
    durable::write(&state_dir.join(FOLDER), &format!("{issuer}{SUFFIX}"), list)
}

/// Hands over what was kept. What is no list of a trust anchor is passed over, with a word in the log.
pub(crate) fn restore(state_dir: &Path, trust: &mut TrustStore) {
    let folder = state_dir.join(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => return warn!(folder = %folder.display(), %error, "revocation lists could not be read"),
    };
    let paths = entries.flatten().map(|entry| entry.path()).filter(|path| path.to_string_lossy().ends_with(SUFFIX));
    for path in paths.take(MOST) {
        let taken = read(&path).map_err(|error| error.to_string());
        match taken.and_then(|list| trust.offer(&list).map_err(|error| error.to_string())) {
            Ok(newer) => debug!(path = %path.display(), newer, "revocation list"),
            Err(error) => warn!(path = %path.display(), error, "this revocation list does not count"),
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut list = Vec::new();
    File::open(path)?.take(MAX_CRL as u64 + 1).read_to_end(&mut list)?;
    if list.len() > MAX_CRL { Err(io::Error::other("too large")) } else { Ok(list) }
}

#[cfg(test)]
mod tests {
    use muster_certs::{certificates_from_pem, crls_from_pem, pki};

    use super::*;

    #[test]
    fn what_was_kept_counts_again_and_junk_does_not() {
        const NOW: u64 = 1_800_000_000;
        let root = pki::init("Alpha", NOW).unwrap();
        let device = pki::issue(&root.certificate_pem, &root.key_pem, "lost", 9, NOW).unwrap();
        let list = pki::revoke(&root.certificate_pem, &root.key_pem, &root.crl_pem, &device.certificate_pem, NOW);
        let list = crls_from_pem(&list.unwrap()).unwrap().remove(0);
        let chain = certificates_from_pem(&device.certificate_pem).unwrap();
        let trust = || TrustStore::new(certificates_from_pem(&root.certificate_pem).unwrap(), Vec::new()).unwrap();
        let folder = tempfile::tempdir().unwrap();

        let mut store = trust();
        restore(folder.path(), &mut store);
        assert!(store.validate(&chain, NOW).is_ok());
        keep(folder.path(), &Hash([7; 32]), &list).unwrap();
        keep(folder.path(), &Hash([8; 32]), b"junk").unwrap();
        keep(folder.path(), &Hash([9; 32]), &vec![0; MAX_CRL + 1]).unwrap();
        restore(folder.path(), &mut store);
        assert!(store.validate(&chain, NOW).is_err());
        assert_eq!(store.revocation_lists().next().unwrap().number, 2);

        let mut of_another = TrustStore::new(Vec::new(), Vec::new()).unwrap();
        restore(folder.path(), &mut of_another);
        assert_eq!(of_another.revocation_lists().count(), 0);
    }
}
