//! The key server's configuration: read whole, checked, then used.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_fmke::crypto::rekey::RekeyAlgorithm;
use muster_fmke::gcks::{Credential, ProfileError, Profiles};
use muster_fmke::isakmp::Identity;
use muster_fmke::phase1;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::phase1::{Known, identity, proposals};
use super::profiles::{ClientSection, GroupSection, VpnSection, each};
use super::secret::{check_private, read_secret};
use crate::settings::{LogSection, SettingsError, read};

#[cfg(test)]
mod tests;

/// The file as it stands. **Secret**: no `Debug`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GcksFile {
    pub(crate) gcks: GcksSection,
    /// `[log]`
    #[serde(default)]
    pub log: LogSection,
    #[serde(default)]
    clients: BTreeMap<String, ClientSection>,
    #[serde(default)]
    groups: BTreeMap<String, GroupSection>,
    #[serde(default)]
    vpns: BTreeMap<String, VpnSection>,
}

/// `[gcks]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GcksSection {
    /// Of black.
    pub(crate) interface: String,
    /// On it, as clients know it.
    pub(crate) address: IpAddr,
    #[serde(default = "default_port")]
    pub(crate) port: u16,
    /// Domain of interpretation, of ISAKMP messages and payloads.
    #[serde(default = "default_doi")]
    pub(crate) doi: u32,
    /// Where keys are kept.
    #[serde(default = "default_state_dir")]
    pub(crate) state_dir: PathBuf,
    #[serde(default = "default_control")]
    pub(crate) control: PathBuf,
    /// Who we say that we are, if that is not our address.
    pub(crate) identity: Option<String>,
    /// Allows what is known to be weak.
    #[serde(default)]
    pub(crate) legacy: bool,
    /// Clients that connect within so long come into their groups together.
    #[serde(default = "default_join_window", with = "humantime_serde")]
    pub(crate) join_window: Duration,
    /// Of everything that leaves on black.
    #[serde(default = "default_hop_limit")]
    pub(crate) hop_limit: u8,
    /// Of multicast re-key messages, until the store has a key: `ecdsa-p256` or `ed25519`.
    #[serde(default)]
    pub(crate) signature: Signature,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Signature {
    #[default]
    EcdsaP256,
    Ed25519,
}

/// A configuration with everything that it names, checked.
pub(crate) struct GcksSettings {
    pub(crate) path: PathBuf,
    pub(crate) gcks: GcksSection,
    pub(crate) log: LogSection,
    pub(crate) profiles: Profiles,
    pub(crate) known: Known,
}

impl GcksFile {
    /// Reads a configuration, without the secrets that it names.
    ///
    /// # Errors
    /// A file that cannot be read, is no TOML, or has an unknown key.
    pub fn load(path: &Path) -> Result<GcksFile, SettingsError> {
        let text = Zeroizing::new(read(path)?);
        toml::from_str(&text).map_err(|error| {
            // Without the text of the line: it may be a secret.
            let line =
                error.span().map_or(0, |span| text.bytes().take(span.start).filter(|octet| *octet == b'\n').count())
                    + 1;
            let message = format!("line {line}: {}", error.message().trim_end().replace('\n', " "));
            SettingsError::Parse { path: path.to_owned(), message }
        })
    }

    /// The control socket of the key server with this configuration.
    pub fn control(&self, path: &Path) -> PathBuf {
        resolve(path, &self.gcks.control)
    }
}

impl GcksSettings {
    /// Reads a configuration and the secrets that it names.
    ///
    /// # Errors
    /// As [`GcksFile::load`]; a value that cannot be; a secret that cannot be read, or is open to others.
    pub(crate) fn load(path: &Path) -> Result<GcksSettings, SettingsError> {
        let GcksFile { gcks, log, clients, groups, vpns } = GcksFile::load(path)?;
        let value = |key, message: String| SettingsError::Value { path: path.to_owned(), key, message };
        check_section(&gcks).map_err(|(key, message)| value(key, message))?;
        let named = |key| move |(name, why): (String, String)| value(key, format!("{name:?}: {why}"));
        let mut profiles = Profiles {
            clients: clients.iter().map(|(name, client)| (name.clone(), client.client())).collect(),
            groups: each(&groups, GroupSection::group).map_err(named("groups"))?,
            vpns: each(&vpns, VpnSection::vpn).map_err(named("vpns"))?,
        };
        profiles.check().map_err(|ProfileError { section, name, message }| {
            let key = [("client", "clients"), ("group", "groups")].iter().find(|(known, _)| *known == section);
            value(key.map_or("vpns", |(_, key)| key), format!("{name:?}: {message}"))
        })?;
        let mut known = HashMap::new();
        for (name, client) in &clients {
            let wrong = |message: &str| value("clients", format!("{name:?}: {message}"));
            if client.address.is_ipv4() != gcks.address.is_ipv4() {
                return Err(wrong("its address is of another family than gcks.address"));
            }
            let secret = match (&client.secret, &client.secret_file) {
                (Some(secret), None) => {
                    check_private(path).map_err(|error| SettingsError::Read { path: path.to_owned(), error })?;
                    secret.0.clone()
                }
                (None, Some(file)) => read_secret(&resolve(path, file))?,
                _ => return Err(wrong("needs either secret_file or secret")),
            };
            if let Some(profile) = profiles.clients.get_mut(name) {
                let identity = client.identity.as_deref().unwrap_or_default();
                profile.credential = Credential::of(&[b"muster client", secret.as_bytes(), identity.as_bytes()]);
            }
            known.insert(client.address, (secret, client.identity.as_deref().map(identity)));
        }
        Ok(GcksSettings { path: path.to_owned(), gcks, log, profiles, known: Known(known) })
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        resolve(&self.path, &self.gcks.state_dir)
    }

    pub(crate) fn control(&self) -> PathBuf {
        resolve(&self.path, &self.gcks.control)
    }

    /// What the machine is started with.
    pub(crate) fn machine(&self) -> muster_fmke::gcks::Settings {
        let GcksSection { doi, address, port, legacy, join_window, signature, .. } = self.gcks;
        let own = self.gcks.identity.as_deref().map_or(Identity::Address(address), identity);
        muster_fmke::gcks::Settings {
            doi,
            address: SocketAddr::new(address, port),
            proposals: proposals(legacy),
            credentials: phase1::Credentials { identity: own, certificates: Vec::new() },
            liveness: phase1::Liveness::default(),
            limits: phase1::Limits::default(),
            join_window,
            signature: match signature {
                Signature::EcdsaP256 => RekeyAlgorithm::EcdsaP256,
                Signature::Ed25519 => RekeyAlgorithm::Ed25519,
            },
        }
    }
}

pub(crate) fn default_port() -> u16 {
    848
}

pub(crate) fn default_doi() -> u32 {
    2
}

fn check_section(gcks: &GcksSection) -> Result<(), (&'static str, String)> {
    if let Err(error) = muster_dataplane::check_interface_name(&gcks.interface) {
        return Err(("gcks.interface", error.to_string()));
    }
    if gcks.address.is_multicast() || gcks.address.is_unspecified() {
        return Err(("gcks.address", format!("{} is no address of this machine", gcks.address)));
    }
    if gcks.port == 0 || gcks.hop_limit == 0 {
        return Err((if gcks.port == 0 { "gcks.port" } else { "gcks.hop_limit" }, "is 0".into()));
    }
    if gcks.join_window > Duration::from_secs(60) {
        return Err(("gcks.join_window", "must be at most 1m".into()));
    }
    Ok(())
}

fn resolve(path: &Path, relative: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new(".")).join(relative)
}

fn default_state_dir() -> PathBuf {
    "/var/lib/muster-gcks".into()
}

fn default_control() -> PathBuf {
    "/run/muster/gcks.sock".into()
}

fn default_join_window() -> Duration {
    Duration::from_millis(50)
}

fn default_hop_limit() -> u8 {
    64
}

/// Reads a key server's configuration with all that it names, and changes nothing.
///
/// # Errors
/// What is wrong with it.
pub fn check_gcks(path: &Path) -> Result<(), SettingsError> {
    GcksSettings::load(path).map(drop)
}
