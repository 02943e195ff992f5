//! The key server's configuration: read whole, checked, then used.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_fmke::crypto::rekey::RekeyAlgorithm;
use muster_fmke::gcks::{Credential, OneWay, ProfileError, Profiles};
use muster_fmke::isakmp::Identity;
use muster_fmke::phase1::{self, ManualKey};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::certificates::{Certificates, Named, Paths};
use super::phase1::{Expected, Known, identity, proposals};
use super::profiles::{ClientSection, GroupSection, VpnSection, each};
use super::secret::{SHORT_KEY, read_secret};
use crate::secret_file::exposure;
use crate::settings::{LogSection, MetricsSection, SettingsError, in_one_line, read_from, resolve, sections};

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
    metrics: Option<MetricsSection>,
    #[serde(default)]
    clients: BTreeMap<String, ClientSection>,
    #[serde(default)]
    groups: BTreeMap<String, GroupSection>,
    #[serde(default)]
    vpns: BTreeMap<String, VpnSection>,
    /// Why there may be no secrets in it.
    #[serde(skip)]
    exposure: Option<&'static str>,
}

sections! {
    /// `[gcks]`
    pub(crate) GcksSection "gcks" {
        /// Of black.
        interface: String,
        /// On it, as clients know it.
        address: IpAddr,
        #[serde(default = "default_port")]
        port: u16,
        /// Domain of interpretation, of ISAKMP messages and payloads.
        #[serde(default = "default_doi")]
        doi: u32,
        /// Where keys are kept.
        #[serde(default = "default_state_dir")]
        state_dir: PathBuf,
        #[serde(default = "default_control")]
        control: PathBuf,
        /// Who we say that we are, if that is not our address; our certificates bear it.
        identity: Option<String>,
        /// For clients that show one: ours, one for each kind of key that theirs have.
        #[serde(default)]
        certificate: Paths,
        /// As many, in the same order: PKCS#8, RSA or ECDSA.
        #[serde(default)]
        private_key: Paths,
        /// Who signs those of the clients.
        #[serde(default)]
        trust_anchors: Vec<PathBuf>,
        /// What they have taken back.
        #[serde(default)]
        crls: Vec<PathBuf>,
        /// Allows what is known to be weak.
        #[serde(default)]
        legacy: bool,
        /// Clients that connect within so long come into their groups together.
        #[serde(default = "default_join_window", with = "humantime_serde")]
        join_window: Duration,
        /// Clients without a return channel are told all that they are to hold so often: one that was off has it after so long.
        #[serde(default = "default_one_way_period", with = "humantime_serde")]
        one_way_period: Duration,
        /// Of everything that leaves on black.
        #[serde(default = "default_hop_limit")]
        hop_limit: u8,
        /// Of multicast re-key messages, until the store has a key: `ecdsa-p256` or `ed25519`.
        #[serde(default)]
        signature: Signature,
    }
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
    pub(crate) metrics: Option<MetricsSection>,
    pub(crate) profiles: Profiles,
    own: Identity,
    pub(crate) known: Known,
}

impl GcksFile {
    /// Reads a configuration, without the secrets that it names.
    ///
    /// # Errors
    /// A file that cannot be read, is no TOML, or has an unknown key.
    pub fn load(path: &Path) -> Result<GcksFile, SettingsError> {
        let wrong = |error| SettingsError::Read { path: path.to_owned(), error };
        let file = File::open(path).map_err(wrong)?;
        let exposure = exposure(&file.metadata().map_err(wrong)?);
        let text = Zeroizing::new(read_from(file).map_err(wrong)?);
        let parsed: Result<GcksFile, _> = toml::from_str(&text);
        parsed.map(|file| GcksFile { exposure, ..file }).map_err(|error| {
            // Without the text of the line, or what of it stands in the message: it may be a secret.
            let message = in_one_line(&text, &error, &without_value(error.message()));
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
        let GcksFile { gcks, log, metrics, clients, groups, vpns, exposure } = GcksFile::load(path)?;
        let value = |key, message: String| SettingsError::Value { path: path.to_owned(), key, message };
        check_section(&gcks).and_then(|()| log.check()).map_err(|(key, message)| value(key, message))?;
        let named = |key| move |(name, why): (String, String)| value(key, format!("{name:?}: {why}"));
        let mut profiles = Profiles {
            clients: clients.iter().map(|(name, client)| (name.clone(), client.client())).collect(),
            groups: each(&groups, GroupSection::group).map_err(named("groups"))?,
            vpns: each(&vpns, VpnSection::vpn).map_err(named("vpns"))?,
        };
        let check = |profiles: &Profiles| {
            profiles.check().map_err(|ProfileError { section, name, message }| {
                let key = [("client", "clients"), ("group", "groups")].iter().find(|(known, _)| *known == section);
                value(key.map_or("vpns", |(_, key)| key), format!("{name:?}: {message}"))
            })
        };
        check(&profiles)?;
        let certificates = Certificates::load(path, gcks.named())?;
        let own = gcks.identity().map_err(|why| value("gcks.identity", why))?;
        certificates.check_identity(&own)?;
        let (mut known, mut identities, mut one_way) = (HashMap::new(), BTreeMap::new(), Vec::new());
        for (name, client) in &clients {
            let wrong = |message: &str| value("clients", format!("{name:?}: {message}"));
            if client.address.is_ipv4() != gcks.address.is_ipv4() {
                return Err(wrong("its address is of another family than gcks.address"));
            }
            let secret = match (&client.secret, &client.secret_file) {
                (Some(secret), None) => {
                    let wrong = |why| SettingsError::Read { path: path.to_owned(), error: io::Error::other(why) };
                    exposure.map_or(Ok(()), |why| Err(wrong(why)))?;
                    Some(secret.0.clone())
                }
                (None, Some(file)) => Some(read_secret(&resolve(path, file))?),
                (None, None) if client.identity.is_some() && gcks.named().is_used() => None,
                (None, None) => {
                    return Err(wrong(
                        "needs secret_file or secret, or, with gcks.certificate, the identity that its certificate bears",
                    ));
                }
                (Some(_), Some(_)) => return Err(wrong("needs either secret_file or secret")),
            };
            let identity = client.identity.as_deref().map_or(Ok(Identity::Address(client.address)), identity);
            let identity = identity.map_err(|why| wrong(&why))?;
            if secret.is_none() && folded(&identity) == folded(&own) {
                return Err(wrong("its identity is the key server's"));
            }
            if let Some(other) = identities.insert(folded(&identity), name) {
                return Err(wrong(&format!("its identity is that of {other:?}")));
            }
            if let Some(profile) = profiles.clients.get_mut(name) {
                let shown = client.identity.as_deref().unwrap_or_default().as_bytes();
                profile.credential = match &secret {
                    Some(secret) => Credential::of(&[b"muster client", secret.as_bytes(), shown]),
                    None => Credential::of(&[b"muster certificate", shown]),
                };
            }
            if client.return_channel {
                if client.port.is_some() {
                    return Err(wrong("port is for a client without a return channel"));
                }
                known.insert(client.address, Expected { secret, identity });
                continue;
            }
            if client.identity.is_some() {
                return Err(wrong("identity is for phase 1, which there is none of without a return channel"));
            }
            let key = secret.and_then(|secret| ManualKey::new(secret).ok()).ok_or_else(|| wrong(SHORT_KEY))?;
            one_way.push((name.clone(), OneWay { key, port: client.port.unwrap_or(gcks.port) }));
        }
        for (name, one_way) in one_way {
            profiles.clients.entry(name).and_modify(|client| client.one_way = Some(one_way));
        }
        // Now it is known who cannot send.
        check(&profiles)?;
        let known = Known { clients: known, certificates };
        Ok(GcksSettings { path: path.to_owned(), gcks, log, metrics, profiles, own, known })
    }

    /// What stands in no client's way, and the operator is to know.
    pub(crate) fn remarks(&self) -> impl Iterator<Item = String> + use<> {
        remark_on_port(self.gcks.port).map(|remark| format!("gcks.port: {remark}")).into_iter()
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        resolve(&self.path, &self.gcks.state_dir)
    }

    pub(crate) fn control(&self) -> PathBuf {
        resolve(&self.path, &self.gcks.control)
    }

    /// What is shown in phase 1.
    pub(crate) fn credentials(&self) -> phase1::Credentials {
        phase1::Credentials { identity: self.own.clone(), certificates: self.known.certificates.own() }
    }

    /// What the machine is started with.
    pub(crate) fn machine(&self) -> muster_fmke::gcks::Settings {
        let GcksSection { doi, address, port, legacy, join_window, one_way_period, signature, .. } = self.gcks;
        muster_fmke::gcks::Settings {
            doi,
            address: SocketAddr::new(address, port),
            proposals: proposals(legacy),
            credentials: self.credentials(),
            liveness: phase1::Liveness::default(),
            limits: phase1::Limits::default(),
            join_window,
            one_way_period,
            signature: match signature {
                Signature::EcdsaP256 => RekeyAlgorithm::EcdsaP256,
                Signature::Ed25519 => RekeyAlgorithm::Ed25519,
            },
        }
    }
}

impl GcksSection {
    fn named(&self) -> Named<'_> {
        let GcksSection { certificate, private_key, trust_anchors, crls, .. } = self;
        Named { certificate, private_key, trust_anchors, crls }
    }

    /// Who we say that we are.
    fn identity(&self) -> Result<Identity, String> {
        self.identity.as_deref().map_or(Ok(Identity::Address(self.address)), identity)
    }
}

/// A message of the parser without the value that it may quote, secret or not. Names of keys stay.
fn without_value(message: &str) -> String {
    let quotes =
        ["invalid type", "invalid value", "unknown variant"].into_iter().find(|what| message.starts_with(what));
    match (quotes, message.rsplit_once(", expected ")) {
        // The last: a value may say so, too.
        (Some(what), Some((_, expected))) => format!("{what}, expected {expected}"),
        (Some(what), None) => what.to_owned(),
        (None, _) => message.to_owned(),
    }
}

/// Two that a certificate bears as one: the case of a domain name says nothing (RFC 4343).
fn folded(identity: &Identity) -> (u8, Vec<u8>) {
    let data = identity.data();
    (identity.kind(), if let Identity::Address(_) = identity { data } else { data.to_ascii_lowercase() })
}

pub(crate) fn default_port() -> u16 {
    848
}

/// What the operator of a key server or a client at this port is to know.
pub(crate) fn remark_on_port(port: u16) -> Option<&'static str> {
    // "FMKE MUST NOT run on port 500 (the port commonly used for IKE)" (draft 2.0). It may here: strongSwan speaks IKEv1 without a
    // marker on no other.
    (port == 500)
        .then_some("port 500 is IKE's: right for peers that speak on no other, strongSwan say; no IKE runs beside it")
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
    if !(Duration::from_secs(10)..=Duration::from_secs(86_400)).contains(&gcks.one_way_period) {
        return Err(("gcks.one_way_period", "must be 10s to 1d".into()));
    }
    Ok(())
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

fn default_one_way_period() -> Duration {
    Duration::from_secs(60)
}

fn default_hop_limit() -> u8 {
    64
}
