//! What a client shows the key server, and whose certificates it takes.

use std::net::IpAddr;
use std::path::Path;

use muster_fmke::crypto::SecretBytes;
use muster_fmke::isakmp::Identity;
use muster_fmke::phase1::Credentials;

use crate::centralised::phase1::identity;
use crate::centralised::{Certificates, read_secret};
use crate::settings::{GcksAt, SettingsError, resolve};

/// What `[gcks]` names, read and checked. **Secret**: no `Debug`.
pub(super) struct Shown {
    identity: Identity,
    /// With a secret there are none.
    pub(super) certificates: Certificates,
    /// Without a return channel the key of all that is said.
    pub(super) secret: Option<SecretBytes>,
}

impl Shown {
    /// Of a client at this address.
    ///
    /// # Errors
    /// A file that cannot be read, or what is in it; a certificate that does not bear who we say that we are.
    pub(super) fn load(config: &Path, gcks: &GcksAt, address: IpAddr) -> Result<Shown, SettingsError> {
        let secret = gcks.secret_file.as_ref().map(|path| read_secret(&resolve(config, path))).transpose()?;
        let certificates = Certificates::load(config, gcks.named())?;
        let identity = identity_or(gcks.local_identity.as_deref(), address, config)?;
        certificates.check_identity(&identity)?;
        Ok(Shown { identity, certificates, secret })
    }

    /// What phase 1 shows beside the secret.
    pub(super) fn credentials(&self) -> Credentials {
        Credentials { identity: self.identity.clone(), certificates: self.certificates.own() }
    }

    /// Whether the key server sees the same.
    pub(super) fn shows_the_same(&self, other: &Shown) -> bool {
        self.identity == other.identity
            && self.shares_the_same(other)
            && self.certificates.shows_the_same(&other.certificates)
    }

    /// Whether the secret is the same, if there is one.
    pub(super) fn shares_the_same(&self, other: &Shown) -> bool {
        match (&self.secret, &other.secret) {
            (Some(secret), Some(other)) => secret.matches(other.as_bytes()),
            (None, None) => true,
            _ => false,
        }
    }

    /// Which keys name other content than before.
    pub(super) fn changes(&self, before: &Shown) -> Vec<&'static str> {
        let mut changed = self.certificates.changes(&before.certificates);
        changed.extend((!self.shares_the_same(before)).then_some("gcks.secret_file"));
        changed
    }
}

/// What a configuration says, which was checked, or the address.
pub(super) fn identity_or(text: Option<&str>, address: IpAddr, config: &Path) -> Result<Identity, SettingsError> {
    let wrong = |message| SettingsError::Value { path: config.to_owned(), key: "gcks", message };
    text.map_or(Ok(Identity::Address(address)), |text| identity(text).map_err(wrong))
}
