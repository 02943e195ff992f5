//! Certificates of either end, as `[gcks]` names them: read and checked.
//!
//! IKEv1 has no EdDSA, so they are not those of the mesh: RSA or ECDSA, from an authority of their own or the same nation's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use muster_certs::{CertError, certificates_from_pem, crls_from_pem};
use muster_fmke::crypto::signature::Signer;
use muster_fmke::isakmp::Identity;
use muster_fmke::phase1::x509::{Anchors, bears, validity};
use muster_fmke::phase1::{self, Authority, CertificateError, Verified};
use serde::Deserialize;

use crate::clock::unix_seconds;
use crate::expiry::rfc3339;
use crate::secret_file::{MOST_OF_KEY, SecretFile};
use crate::settings::{SettingsError, read, resolve};

#[cfg(test)]
pub(crate) mod tests;

/// One path, or several.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(from = "OneOrMore")]
pub struct Paths(Vec<PathBuf>);

#[derive(Deserialize)]
#[serde(untagged, expecting = "a path or a list of paths")]
enum OneOrMore {
    One(PathBuf),
    More(Vec<PathBuf>),
}

impl From<OneOrMore> for Paths {
    fn from(paths: OneOrMore) -> Self {
        match paths {
            OneOrMore::One(path) => Paths(vec![path]),
            OneOrMore::More(paths) => Paths(paths),
        }
    }
}

/// What `[gcks]` says of certificates, on either end.
#[derive(Clone, Copy)]
pub(crate) struct Named<'a> {
    /// One for each kind of key: itself, then what leads to its authority.
    pub(crate) certificate: &'a Paths,
    /// As many, in the same order.
    pub(crate) private_key: &'a Paths,
    /// Of the other end.
    pub(crate) trust_anchors: &'a [PathBuf],
    /// Of its authorities. Beside the list of an intermediate one stands its certificate.
    pub(crate) crls: &'a [PathBuf],
}

impl Named<'_> {
    /// Its keys. What the files hold counts, not where they are.
    pub(crate) const KEYS: [&'static str; 4] =
        ["gcks.certificate", "gcks.private_key", "gcks.trust_anchors", "gcks.crls"];

    /// Whether one shows who one is by certificates.
    pub(crate) fn is_used(&self) -> bool {
        !self.certificate.0.is_empty()
    }

    /// Whether all is there that belongs together.
    ///
    /// # Errors
    /// The key, and what is missing.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        let (own, keys) = (self.certificate.0.len(), self.private_key.0.len());
        if own != keys {
            return Err(("gcks.private_key", format!("{keys} for {own} certificates: one each, in the same order")));
        }
        match (own, self.trust_anchors.is_empty()) {
            (0, false) => Err(("gcks.certificate", "is missing: both ends show one".into())),
            (0, true) if !self.crls.is_empty() => {
                Err(("gcks.crls", "without gcks.certificate they are of no use".into()))
            }
            (1.., true) => {
                Err(("gcks.trust_anchors", "is missing: who signed the certificates of the other end".into()))
            }
            _ => Ok(()),
        }
    }
}

/// What one end shows, and whose certificates it takes. By default none.
#[derive(Default)]
pub(crate) struct Certificates {
    own: Vec<(PathBuf, Arc<phase1::Certificate>)>,
    anchors: Vec<Vec<u8>>,
    crls: Vec<Vec<u8>>,
    authority: Option<Anchors>,
}

impl Certificates {
    /// Reads what a configuration names. Paths are relative to the file `config`.
    ///
    /// # Errors
    /// A file that cannot be read, what is in it, a private key that others may read or that is of another certificate, a revocation
    /// list that none of the anchors vouches for.
    pub(crate) fn load(config: &Path, named: Named<'_>) -> Result<Certificates, SettingsError> {
        let value = |(key, message)| SettingsError::Value { path: config.to_owned(), key, message };
        named.check().map_err(value)?;
        let at = |path: &PathBuf| resolve(config, path);
        let mut own: Vec<(PathBuf, Arc<phase1::Certificate>)> = Vec::new();
        for (certificate, key) in named.certificate.0.iter().map(at).zip(named.private_key.0.iter().map(at)) {
            let one = read_own(&certificate, &key)?;
            if own.iter().any(|(_, other)| other.key.method() == one.key.method()) {
                let message = "its key is of the kind of another one's: only the first would be used".to_owned();
                return Err(SettingsError::Certificate { path: certificate, message });
            }
            own.push((certificate, Arc::new(one)));
        }
        let (mut anchors, mut crls) = (Vec::new(), Vec::new());
        for path in named.trust_anchors.iter().map(at) {
            let found = certificates_from_pem(&read(&path)?).map_err(|error| unreadable(&path, &error))?;
            Anchors::new(&found).map_err(|error| wrong(&path, format!("no authority's certificate: {error}")))?;
            anchors.extend(found);
        }
        let trusted = || Anchors::new(&anchors).map_err(|error| value(("gcks.trust_anchors", error.to_string())));
        let mut intermediates = Vec::new();
        for path in named.crls.iter().map(at) {
            let text = read(&path)?;
            let lists = crls_from_pem(&text).map_err(|error| unreadable(&path, &error))?;
            let beside = match text.contains("-----BEGIN CERTIFICATE-----") {
                true => certificates_from_pem(&text).map_err(|error| unreadable(&path, &error))?,
                false => Vec::new(),
            };
            // Each file for itself, so that it can be named.
            let refused = |error| wrong(&path, format!("revocation list: {error}"));
            trusted()?.with_lists(&beside, &lists).map_err(refused)?;
            crls.extend(lists);
            intermediates.extend(beside);
        }
        let authority = trusted()?
            .with_lists(&intermediates, &crls)
            .map_err(|error| value(("gcks.crls", format!("revocation list: {error}"))))?;
        Ok(Certificates { own, anchors, crls, authority: named.is_used().then_some(authority) })
    }

    /// What is shown.
    pub(crate) fn own(&self) -> Vec<Arc<phase1::Certificate>> {
        self.own.iter().map(|(_, own)| own.clone()).collect()
    }

    /// Whether each of the own ones bears who we say that we are.
    ///
    /// # Errors
    /// One that does not: the other end would refuse it.
    pub(crate) fn check_identity(&self, identity: &Identity) -> Result<(), SettingsError> {
        for (path, own) in &self.own {
            match own.chain.first().map(|der| bears(der, identity)) {
                Some(Ok(true)) => {}
                Some(Err(error)) => return Err(wrong(path, error.to_string())),
                _ => {
                    let message =
                        format!("has no subject alternative name {}: that is who we say that we are", text(identity));
                    return Err(wrong(path, message));
                }
            }
        }
        Ok(())
    }

    /// Whether each of the own ones is valid at this time (Unix seconds).
    ///
    /// # Errors
    /// One that is not: the other end would refuse it.
    pub(crate) fn check_time(&self, unix: u64) -> Result<(), SettingsError> {
        for (path, (from, to)) in self.validities() {
            if unix < from {
                return Err(wrong(path, format!("is not valid before {}", rfc3339(from))));
            }
            if unix > to {
                return Err(wrong(path, format!("has ended at {}", rfc3339(to))));
            }
        }
        Ok(())
    }

    /// The last second of the own one that ends first (Unix).
    pub(crate) fn end(&self) -> Option<u64> {
        self.validities().map(|(_, (_, to))| to).min()
    }

    /// The own ones' files, each with the first and the last second of its certificate (Unix).
    pub(crate) fn validities(&self) -> impl Iterator<Item = (&Path, (u64, u64))> {
        // One that cannot be read has no private key that is its own.
        self.own.iter().filter_map(|(path, own)| Some((path.as_path(), validity(own.chain.first()?).ok()?)))
    }

    /// Whether the own ones are others.
    pub(crate) fn shows_the_same(&self, other: &Certificates) -> bool {
        // A certificate says its public key.
        self.own.iter().map(|(_, own)| &own.chain).eq(other.own.iter().map(|(_, own)| &own.chain))
    }

    /// Whether these may take the place of those before: nothing that was revoked counts again.
    ///
    /// # Errors
    /// A revocation list is older than the one in force, or missing.
    pub(crate) fn follow(&self, before: &Certificates) -> Result<(), String> {
        let (Some(new), Some(old)) = (&self.authority, &before.authority) else { return Ok(()) };
        new.follow(old).map_err(|error| format!("gcks.crls: {error}"))
    }

    /// Who vouches for the other end, and whom they have taken back. With secrets nobody.
    pub(crate) fn anchors(&self) -> Option<&Anchors> {
        self.authority.as_ref()
    }

    /// Which keys name other content than before.
    pub(crate) fn changes(&self, before: &Certificates) -> Vec<&'static str> {
        [
            ("gcks.certificate", !self.shows_the_same(before)),
            ("gcks.trust_anchors", self.anchors != before.anchors),
            ("gcks.crls", self.crls != before.crls),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }
}

impl Authority for Certificates {
    fn check(&self, chain: &[&[u8]], identity: &Identity) -> Result<Verified, CertificateError> {
        let authority = self.authority.as_ref().ok_or(CertificateError::UnknownIssuer)?;
        authority.check(chain, identity, unix_seconds())
    }
}

fn read_own(path: &Path, key_path: &Path) -> Result<phase1::Certificate, SettingsError> {
    let chain = certificates_from_pem(&read(path)?).map_err(|error| unreadable(path, &error))?;
    let closed = SecretFile::read(key_path, MOST_OF_KEY).and_then(SecretFile::closed);
    let octets = closed.map_err(|error| SettingsError::Read { path: key_path.to_owned(), error })?;
    let wanted = "a PEM of PKCS#8, not encrypted, with RSA of 2048 to 4096 bits or ECDSA on P-256 or P-384";
    let key = std::str::from_utf8(&octets).map_err(|_| wrong(key_path, format!("is not {wanted}")))?;
    let key = Signer::from_pem(key).map_err(|error| wrong(key_path, format!("{error}: needs {wanted}")))?;
    phase1::Certificate::new(chain, key).map_err(|error| match error {
        CertificateError::Key => wrong(path, format!("is not of the private key {}", key_path.display())),
        error => wrong(path, error.to_string()),
    })
}

fn unreadable(path: &Path, error: &CertError) -> SettingsError {
    wrong(path, error.to_string())
}

fn wrong(path: &Path, message: String) -> SettingsError {
    SettingsError::Certificate { path: path.to_owned(), message }
}

/// As a configuration has it.
fn text(identity: &Identity) -> String {
    match identity {
        Identity::Address(address) => address.to_string(),
        Identity::Name(name) | Identity::User(name) => name.clone(),
        other => format!("of type {}", other.kind()),
    }
}
