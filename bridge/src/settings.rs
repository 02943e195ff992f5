//! The configuration file: read whole, checked, then used.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use muster_certs::{Device, TrustStore};
use muster_dataplane::{BlockConfig, MOST_WORKERS};
use serde::Deserialize;
use thiserror::Error;

use crate::centralised::{Named, Paths, default_doi, default_port, identity};
use crate::secret_file::{MOST_OF_KEY, SecretFile};

/// What is wrong with a configuration.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// A file that cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Not TOML, an unknown key, a value of the wrong form.
    #[error("{}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
    /// A value that cannot be.
    #[error("{}: {key}: {message}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
    /// A certificate, key, trust anchor or revocation list.
    #[error("{}: {message}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// A configuration with everything that it names.
pub struct Settings {
    /// The file.
    pub path: PathBuf,
    /// What it says.
    pub file: File,
    /// The device's certificates and key.
    pub device: Device,
    /// Trust anchors (DER).
    pub anchors: Vec<Vec<u8>>,
    /// Revocation lists (DER).
    pub crls: Vec<Vec<u8>>,
    /// Why others may know the private key.
    pub(crate) key_exposure: Option<&'static str>,
}

macro_rules! sections {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }
    )*};
}
sections! {
    /// The file as it stands.
    File {
        /// `[device]`
        device: DeviceSection,
        /// `[black]`
        black: BlackSection,
        /// `[discovery]`
        #[serde(default)] discovery: DiscoverySection,
        /// `[red]`
        #[serde(default)] red: RedSection,
        /// `[group]`
        #[serde(default)] group: GroupSection,
        /// `[dataplane]`
        #[serde(default)] dataplane: DataplaneSection,
        /// `[trust."ORG"]`
        #[serde(default)] trust: BTreeMap<String, TrustSection>,
        /// `[gcks]`, with `group.mode = "centralised"` alone.
        gcks: Option<GcksAt>,
        /// `[log]`
        #[serde(default)] log: LogSection,
        /// `[metrics]`
        metrics: Option<MetricsSection>,
    }
    /// The device.
    DeviceSection {
        /// Must be the certificate's.
        name: Option<String>,
        /// Leaf, then intermediates. Without a key server there must be one, and with it the next two.
        #[serde(default)] certificate: PathBuf,
        /// PKCS#8.
        #[serde(default)] private_key: PathBuf,
        /// National roots.
        #[serde(default)] trust_anchors: Vec<PathBuf>,
        /// Revocation lists.
        #[serde(default)] crls: Vec<PathBuf>,
        /// The control socket.
        #[serde(default = "default_control")] control: PathBuf,
        /// The startup stamp, neighbours' revocation lists, which messages of a key server were taken; never a secret.
        #[serde(default = "default_state_dir")] state_dir: PathBuf,
    }
    /// The hostile side.
    BlackSection {
        /// Its interface.
        interface: String,
        /// Its address, if not the first.
        address: Option<IpAddr>,
    }
    /// Bounds of what an organisation may announce.
    TrustSection {
        /// Its red prefixes lie in these.
        prefixes: Vec<IpNet>,
    }
    /// Where the key server is, and what is shared with it.
    GcksAt {
        /// On black; its family is that of the black side.
        address: IpAddr,
        /// Its port.
        #[serde(default = "default_port")] port: u16,
        /// Our own port, if it is another: where a key server runs beside the client.
        local_port: Option<u16>,
        /// Domain of interpretation, of ISAKMP messages and payloads.
        #[serde(default = "default_doi")] doi: u32,
        /// Holds the shared secret; open to nobody but its owner. Without it there is a certificate.
        secret_file: Option<PathBuf>,
        /// Our certificate, and what leads to its authority.
        #[serde(default)] certificate: Paths,
        /// Its private key: PKCS#8, RSA or ECDSA.
        #[serde(default)] private_key: Paths,
        /// Who signs the key server's certificate.
        #[serde(default)] trust_anchors: Vec<PathBuf>,
        /// What they have taken back.
        #[serde(default)] crls: Vec<PathBuf>,
        /// Who the key server says that it is, if that is not its address.
        identity: Option<String>,
        /// Who we say that we are, if that is not our address.
        local_identity: Option<String>,
        /// Allows what is known to be weak.
        #[serde(default)] legacy: bool,
        /// What the key server may have sent to these unprotected: by itself it has nothing sent so.
        #[serde(default)] allow_bypass: Vec<IpNet>,
        /// Whether anything can be sent to it. If not, `secret_file` holds the key of an SA that phase 1 would make.
        #[serde(default = "yes")] return_channel: bool,
    }
    /// `[metrics]`
    MetricsSection {
        /// Where Prometheus asks.
        listen: std::net::SocketAddr,
    }
}

macro_rules! defaulted {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $type:ty = $default:expr,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    )*};
}
defaulted! {
    /// `[discovery]`
    DiscoverySection {
        /// Its family is that of the black side.
        group: IpAddr = IpAddr::from([0xff05, 0, 0, 0, 0, 0, 0, 0x6d75]),
        /// Key agreement uses the next.
        port: u16 = 4860,
        /// 50 ms to 60 s.
        #[serde(with = "humantime_serde")] hello_interval: Duration = Duration::from_secs(1),
    }
    /// `[red]`
    RedSection {
        /// Interfaces of the protected side.
        interfaces: Vec<String> = Vec::new(),
        /// Default: the interfaces' global prefixes.
        prefixes: Vec<IpNet> = Vec::new(),
        /// Red groups carried.
        multicast: Vec<IpNet> = default_multicast(),
        /// IPv4 multicast that is too big for the tunnel is fragmented though its sender forbids it.
        clear_df: bool = false,
        /// `flood`: what is carried goes to every red interface; `dynamic`: to those where a host listens.
        membership: String = "flood".into(),
    }
    /// `[group]`
    GroupSection {
        /// The group's name.
        name: String = "coalition".into(),
        /// Black destination of the multicast ESP; see [`File::group_address`].
        address: Option<IpAddr> = None,
        /// `agreement`: all agree on one key; `centralised`: a key server (`[gcks]`) has all keys.
        mode: String = "agreement".into(),
        /// After a commit none follows for so long (keyagree/SPEC.md 3).
        #[serde(with = "humantime_serde")] batch_window: Duration = Duration::from_millis(20),
        /// From a new key to sending under it, at most (keyagree/SPEC.md 6).
        #[serde(with = "humantime_serde")] activation_delay: Duration = Duration::from_millis(200),
        /// For so long the key before is received under after that (keyagree/SPEC.md 6).
        #[serde(with = "humantime_serde")] deactivation_delay: Duration = Duration::from_secs(2),
        /// Of a group key (keyagree/SPEC.md 7).
        #[serde(with = "humantime_serde")] lifetime: Duration = Duration::from_secs(3600),
        /// Of a member's own key in the tree (keyagree/SPEC.md 7).
        #[serde(with = "humantime_serde")] leaf_refresh: Duration = Duration::from_secs(3600),
    }
    /// `[dataplane]`
    DataplaneSection {
        /// `auto` (the kernel's ESP where it can be started, else user space), `kernel` or `userspace`.
        backend: String = "auto".into(),
        /// The tunnel's device.
        device: String = "muster0".into(),
        /// 0 to 15.
        instance: u8 = 0,
        /// Of everything that leaves on black.
        hop_limit: u8 = 64,
        /// Threads of ESP in user space, each way.
        workers: u8 = 1,
        /// The outer header shows the inner DSCP.
        copy_dscp: bool = true,
        /// `sas --show-keys` answers.
        allow_key_export: bool = false,
    }
    /// `[log]`
    LogSection {
        /// error, warn, info, debug or trace.
        level: String = "info".into(),
        /// text or json, one line each.
        format: String = "text".into(),
    }
}

impl LogSection {
    /// Of both daemons.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        if !matches!(self.level.as_str(), "error" | "warn" | "info" | "debug" | "trace") {
            return Err(("log.level", "must be error, warn, info, debug or trace".into()));
        }
        if !matches!(self.format.as_str(), "text" | "json") {
            return Err(("log.format", "must be text or json".into()));
        }
        Ok(())
    }
}

impl File {
    /// Reads a configuration, without what it names: enough for the block, which must not depend on certificates.
    pub fn load(path: &Path) -> Result<File, SettingsError> {
        File::parse(path, &read(path)?)
    }

    /// Reads the text of a configuration and checks its values. `path` is for the errors; no file is opened.
    pub fn parse(path: &Path, text: &str) -> Result<File, SettingsError> {
        let parse = |message: String| SettingsError::Parse { path: path.to_owned(), message };
        let file: File = toml::from_str(text).map_err(|error| parse(in_one_line(text, &error, error.message())))?;
        check_values(path, &file)?;
        Ok(file)
    }

    /// The control socket of the daemon with this configuration.
    pub fn control(&self, path: &Path) -> PathBuf {
        resolve(path, &self.device.control)
    }

    /// What the block needs to know; `own` are the red prefixes.
    pub fn block_config(&self, own: Vec<IpNet>) -> BlockConfig {
        BlockConfig {
            instance: self.dataplane.instance,
            black: self.black.interface.clone(),
            reds: self.red.interfaces.clone(),
            device: self.dataplane.device.clone(),
            own_prefixes: own,
        }
    }
}

impl File {
    /// Whether a key server has the keys.
    pub fn is_centralised(&self) -> bool {
        self.group.mode == "centralised"
    }

    /// Whether the black side is IPv4.
    pub fn is_black_ipv4(&self) -> bool {
        match &self.gcks {
            Some(gcks) if self.is_centralised() => gcks.address.is_ipv4(),
            _ => self.discovery.group.is_ipv4(),
        }
    }

    /// Black destination of the multicast ESP: as configured, or the default of the black side's family. The last two
    /// octets of both spell `mv`; site-local scope (RFC 4291 2.7), local scope (RFC 2365 6.1).
    pub fn group_address(&self) -> IpAddr {
        let default = match self.discovery.group {
            IpAddr::V4(_) => IpAddr::from([239, 255, 0x6d, 0x76]),
            IpAddr::V6(_) => IpAddr::from([0xff05, 0, 0, 0, 0, 0, 0, 0x6d76]),
        };
        self.group.address.unwrap_or(default)
    }
}

impl GcksAt {
    /// What it says of certificates.
    pub(crate) fn named(&self) -> Named<'_> {
        let GcksAt { certificate, private_key, trust_anchors, crls, .. } = self;
        Named { certificate, private_key, trust_anchors, crls }
    }
}

impl Settings {
    /// Reads a configuration and everything that it names.
    pub fn load(path: &Path) -> Result<Settings, SettingsError> {
        let file = File::load(path)?;
        let at = |relative: &Path| resolve(path, relative);

        let certificate_path = at(&file.device.certificate);
        let key_path = at(&file.device.private_key);
        let certificate = read(&certificate_path)?;
        let key_error = |error| SettingsError::Read { path: key_path.clone(), error };
        let (key, key_exposure) = SecretFile::read(&key_path, MOST_OF_KEY).map_err(key_error)?.exposed();
        let key = std::str::from_utf8(&key).map_err(|error| key_error(std::io::Error::other(error)))?;
        let device = Device::from_pem(&certificate, key).map_err(|error| SettingsError::Certificate {
            path: certificate_path,
            message: format!("{error} (private key: {})", key_path.display()),
        })?;
        if file.device.name.as_ref().is_some_and(|name| *name != device.name) {
            return Err(SettingsError::Value {
                path: path.to_owned(),
                key: "device.name",
                message: format!("the certificate is of {:?}: make them equal, or leave it out", device.name),
            });
        }
        let certificate = |path: &Path, error: muster_certs::CertError| SettingsError::Certificate {
            path: path.to_owned(),
            message: error.to_string(),
        };
        let mut anchors = Vec::new();
        for path in file.device.trust_anchors.iter().map(|path| at(path)) {
            anchors.extend(muster_certs::certificates_from_pem(&read(&path)?).map_err(|e| certificate(&path, e))?);
        }
        let mut crls = Vec::new();
        for path in file.device.crls.iter().map(|path| at(path)) {
            crls.extend(muster_certs::crls_from_pem(&read(&path)?).map_err(|error| certificate(&path, error))?);
        }
        let settings = Settings { path: path.to_owned(), file, device, anchors, crls, key_exposure };
        settings.trust()?;
        Ok(settings)
    }

    /// Whom this device trusts.
    pub fn trust(&self) -> Result<TrustStore, SettingsError> {
        TrustStore::new(self.anchors.clone(), self.crls.clone()).map_err(|error| SettingsError::Value {
            path: self.path.clone(),
            key: "device.trust_anchors",
            message: error.to_string(),
        })
    }

    /// A path as the configuration means it.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        resolve(&self.path, path)
    }
}

fn check_values(path: &Path, file: &File) -> Result<(), SettingsError> {
    let value = |key, message: String| Err(SettingsError::Value { path: path.to_owned(), key, message });
    let (discovery, group) = (&file.discovery, &file.group);
    if !discovery.group.is_multicast() {
        return value("discovery.group", format!("{} is not a multicast address", discovery.group));
    }
    let address = file.group_address();
    if !address.is_multicast() || address.is_ipv4() != discovery.group.is_ipv4() {
        let family = if discovery.group.is_ipv4() { "IPv4" } else { "IPv6" };
        return value("group.address", format!("{address} is not an {family} multicast address"));
    }
    if address == discovery.group {
        return value("group.address", "must differ from discovery.group".into());
    }
    if file.black.address.is_some_and(|address| address.is_ipv4() != file.is_black_ipv4()) {
        let other = if file.is_centralised() { "gcks.address" } else { "discovery.group" };
        return value("black.address", format!("is not of the family of {other}"));
    }
    if discovery.port == 0 || discovery.port == u16::MAX {
        return value("discovery.port", "must be 1 to 65534: key agreement uses the next".into());
    }
    if !(Duration::from_millis(50)..=Duration::from_secs(60)).contains(&discovery.hello_interval) {
        return value("discovery.hello_interval", "must be 50ms to 60s".into());
    }
    if group.name.is_empty() || group.name.len() > 128 {
        return value("group.name", "must be 1 to 128 bytes long".into());
    }
    for (key, duration, least, most) in [
        ("group.batch_window", group.batch_window, 0, 10_000),
        ("group.activation_delay", group.activation_delay, 10, 60_000),
        ("group.deactivation_delay", group.deactivation_delay, 100, 600_000),
        ("group.lifetime", group.lifetime, 1_000, 7 * 86_400_000),
        ("group.leaf_refresh", group.leaf_refresh, 1_000, 7 * 86_400_000),
    ] {
        if !(Duration::from_millis(least)..=Duration::from_millis(most)).contains(&duration) {
            return value(key, format!("must be {least}ms to {}s", most / 1000));
        }
    }
    if file.dataplane.instance > 15 {
        return value("dataplane.instance", "must be 0 to 15".into());
    }
    if file.dataplane.hop_limit == 0 {
        return value("dataplane.hop_limit", "is 0: no packet would leave; use 64".into());
    }
    if !(1..=MOST_WORKERS).contains(&file.dataplane.workers) {
        return value("dataplane.workers", format!("must be 1 to {MOST_WORKERS}"));
    }
    let named = [("black.interface", &file.black.interface), ("dataplane.device", &file.dataplane.device)];
    let reds = file.red.interfaces.iter().map(|red| ("red.interfaces", red));
    for (key, name) in named.into_iter().chain(reds.clone()) {
        if let Err(error) = muster_dataplane::check_interface_name(name) {
            return value(key, error.to_string());
        }
    }
    for (key, name) in named.into_iter().skip(1).chain(reds) {
        if *name == file.black.interface {
            return value(key, format!("{name} is the black interface"));
        }
    }
    if let Err(error) = muster_discovery::check_prefixes(&file.red.prefixes) {
        return value("red.prefixes", error.to_string());
    }
    if file.red.multicast.iter().any(|net| !net.addr().is_multicast()) {
        return value("red.multicast", "holds a network that is not multicast".into());
    }
    if let Err((key, message)) = file.log.check() {
        return value(key, message);
    }
    if !matches!(file.red.membership.as_str(), "flood" | "dynamic") {
        return value("red.membership", "must be flood or dynamic".into());
    }
    if let Err((key, message)) = check_mode(file) {
        return value(key, message);
    }
    if file.dataplane.backend.parse::<muster_dataplane::Backend>().is_err() {
        return value("dataplane.backend", "must be auto, kernel or userspace".into());
    }
    if file.dataplane.backend == "kernel" && file.dataplane.hop_limit != 64 {
        return value("dataplane.hop_limit", "must be 64 with the kernel's ESP".into());
    }
    Ok(())
}

/// What is there in each mode, and what is not.
fn check_mode(file: &File) -> Result<(), (&'static str, String)> {
    let unnamed = |path: &PathBuf| path.as_os_str().is_empty();
    match (file.group.mode.as_str(), &file.gcks) {
        ("agreement", Some(_)) => Err(("gcks", "is for group.mode = \"centralised\" alone".into())),
        ("agreement", None) => {
            let device = &file.device;
            let missing = [
                ("device.certificate", unnamed(&device.certificate)),
                ("device.private_key", unnamed(&device.private_key)),
                ("device.trust_anchors", device.trust_anchors.is_empty()),
            ];
            let missing = missing.iter().find(|(_, is_missing)| *is_missing);
            missing
                .map_or(Ok(()), |(key, _)| Err((*key, "missing field: without a key server there must be one".into())))
        }
        ("centralised", None) => Err(("gcks", "is missing: the key server's address and secret_file".into())),
        ("centralised", Some(gcks)) => check_gcks(file, gcks),
        _ => Err(("group.mode", "must be agreement or centralised".into())),
    }
}

fn check_gcks(file: &File, gcks: &GcksAt) -> Result<(), (&'static str, String)> {
    if gcks.address.is_multicast() || gcks.address.is_unspecified() {
        return Err(("gcks.address", format!("{} is no key server's", gcks.address)));
    }
    for (key, port) in [("gcks.port", Some(gcks.port)), ("gcks.local_port", gcks.local_port)] {
        if port == Some(0) {
            return Err((key, "is 0".into()));
        }
    }
    gcks.named().check()?;
    match &gcks.secret_file {
        Some(path) if path.as_os_str().is_empty() => return Err(("gcks.secret_file", "is empty".into())),
        Some(_) if gcks.named().is_used() => {
            return Err(("gcks.secret_file", "and gcks.certificate: one of the two shows who we are".into()));
        }
        None if !gcks.named().is_used() => {
            let message = "is missing: it, or certificate, private_key and trust_anchors, shows who we are";
            return Err(("gcks.secret_file", message.into()));
        }
        _ => {}
    }
    for (key, text) in [("gcks.identity", &gcks.identity), ("gcks.local_identity", &gcks.local_identity)] {
        text.as_deref().map_or(Ok(()), |text| identity(text).map(drop)).map_err(|why| (key, why))?;
    }
    if gcks.allow_bypass.iter().any(|net| net.addr().is_multicast()) {
        return Err(("gcks.allow_bypass", "holds a network that is multicast, which never goes unprotected".into()));
    }
    let of_phase1 = [
        ("gcks.legacy", gcks.legacy),
        ("gcks.identity", gcks.identity.is_some()),
        ("gcks.local_identity", gcks.local_identity.is_some()),
        ("gcks.certificate", gcks.named().is_used()),
    ];
    if let Some((key, _)) = of_phase1.iter().find(|(_, is_there)| !gcks.return_channel && *is_there) {
        return Err((key, "is for phase 1, which there is none of without a return channel".into()));
    }
    if file.group.address.is_some() {
        return Err(("group.address", "the key server says where each flow goes: leave it out".into()));
    }
    Ok(())
}

/// What is wrong with a text, and in which line: `message` without the picture of it, which takes several lines. Of a time it says
/// how one is written.
pub(crate) fn in_one_line(text: &str, error: &toml::de::Error, message: &str) -> String {
    let before = error.span().map_or(0, |span| text.bytes().take(span.start).filter(|octet| *octet == b'\n').count());
    let message = message.trim_end().replace('\n', ", ");
    let message = message.replace("expected a duration", "expected a time such as \"250ms\", \"30s\" or \"1h\"");
    // Its key: some of the parser's messages do not say which. What stands after it may be nobody's business.
    let key = text.lines().nth(before).and_then(|line| line.split_once('=')).map_or("", |(key, _)| key.trim());
    let is_plain = |key: &str| key.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-.".contains(letter));
    match !key.is_empty() && is_plain(key) && !message.contains(key) {
        true => format!("line {}: {message} ({key})", before + 1),
        false => format!("line {}: {message}", before + 1),
    }
}

pub(crate) fn read(path: &Path) -> Result<String, SettingsError> {
    fs::File::open(path).and_then(read_from).map_err(|error| SettingsError::Read { path: path.to_owned(), error })
}

/// A path as the configuration in this file means it.
pub(crate) fn resolve(config: &Path, relative: &Path) -> PathBuf {
    config.parent().unwrap_or(Path::new(".")).join(relative)
}

/// All of an open file.
pub(crate) fn read_from(file: fs::File) -> std::io::Result<String> {
    const MAX_FILE: u64 = 1 << 20;
    // Bounded as it is read: a pipe or a device has no length to ask for.
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(std::io::Error::other("larger than 1 MiB"));
    }
    Ok(text)
}

fn default_control() -> PathBuf {
    "/run/muster/control.sock".into()
}

fn yes() -> bool {
    true
}

fn default_state_dir() -> PathBuf {
    "/var/lib/muster".into()
}

fn default_multicast() -> Vec<IpNet> {
    // The texts are constants.
    ["ff1e::/16", "239.10.0.0/16"].iter().map(|net| net.parse().expect("a constant")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGREEMENT: &str = "[device]\ncertificate = \"a.pem\"\nprivate_key = \"a.key\"\ntrust_anchors = [\"ca.pem\"]\n\n[black]\ninterface = \"black0\"\n";
    const CENTRALISED: &str = "[device]\n\n[black]\ninterface = \"black0\"\n\n[group]\nmode = \"centralised\"\n\n[gcks]\naddress = \"192.0.2.9\"\nsecret_file = \"a.psk\"\n";

    const CERTIFIED: &str = "certificate = \"a.pem\"\nprivate_key = \"a.key\"\ntrust_anchors = [\"ca.pem\"]\n";

    fn parse(text: &str) -> Result<File, String> {
        File::parse(Path::new("muster.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn each_mode_has_what_it_needs_and_nothing_of_the_other() {
        let mesh = parse(AGREEMENT).unwrap();
        assert!(!mesh.is_centralised() && !mesh.is_black_ipv4());
        let client = parse(CENTRALISED).unwrap();
        assert!(client.is_centralised() && client.is_black_ipv4(), "the key server's family");
        let gcks = client.gcks.unwrap();
        assert_eq!((gcks.port, gcks.doi, gcks.legacy), (848, 2, false));
        assert!(gcks.allow_bypass.is_empty(), "nothing by default");
        assert!(parse(&CENTRALISED.replace("secret_file = \"a.psk\"\n", CERTIFIED)).is_ok());
        for (text, was, is, names) in [
            (AGREEMENT, "certificate = \"a.pem\"\n", "", "device.certificate"),
            (AGREEMENT, "private_key = \"a.key\"\n", "", "device.private_key"),
            (AGREEMENT, "trust_anchors = [\"ca.pem\"]\n", "", "device.trust_anchors"),
            (AGREEMENT, "[black]", "[gcks]\naddress = \"192.0.2.9\"\nsecret_file = \"x\"\n\n[black]", "gcks: is for"),
            (AGREEMENT, "[black]", "[group]\nmode = \"anarchy\"\n\n[black]", "group.mode"),
            (AGREEMENT, "[black]", "[log]\nlevel = \"loud\"\n\n[black]", "log.level"),
            (AGREEMENT, "[black]", "[log]\nformat = \"xml\"\n\n[black]", "log.format"),
            (CENTRALISED, "[gcks]\naddress = \"192.0.2.9\"\nsecret_file = \"a.psk\"\n", "", "gcks: is missing"),
            (CENTRALISED, "secret_file = \"a.psk\"\n", "", "secret_file"),
            (CENTRALISED, "a.psk", "", "gcks.secret_file"),
            (CENTRALISED, "secret_file", "certificate = \"a.pem\"\nsecret_file", "gcks.private_key"),
            (CENTRALISED, "secret_file", "local_identity = \"a b\"\nsecret_file", "gcks.local_identity"),
            (CENTRALISED, "secret_file", "trust_anchors = [\"ca.pem\"]\nsecret_file", "gcks.certificate"),
            (CENTRALISED, "secret_file = \"a.psk\"", &format!("{CERTIFIED}secret_file = \"a.psk\""), "one of the two"),
            (CENTRALISED, "192.0.2.9", "224.0.0.1", "gcks.address"),
            (CENTRALISED, "[gcks]", "[gcks]\nport = 0", "gcks.port"),
            (CENTRALISED, "[gcks]", "[gcks]\nlocal_port = 0", "gcks.local_port"),
            (CENTRALISED, "[gcks]", "[log]\nlevel = \"loud\"\n\n[gcks]", "log.level"),
            (CENTRALISED, "[gcks]", "[log]\nformat = \"xml\"\n\n[gcks]", "log.format"),
            (CENTRALISED, "[gcks]", "[gcks]\nallow_bypass = [\"ff1e::/16\"]", "gcks.allow_bypass"),
            (CENTRALISED, "[group]", "[group]\naddress = \"ff05::6d76\"", "group.address"),
            (CENTRALISED, "\"black0\"", "\"black0\"\naddress = \"2001:db8::1\"", "family of gcks.address"),
        ] {
            assert!(text.contains(was), "{was}");
            let error = parse(&text.replacen(was, is, 1)).expect_err(is);
            assert!(error.contains("muster.toml") && error.contains(names), "{is}: {error}");
        }
    }
}
