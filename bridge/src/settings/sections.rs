//! What stands in a configuration: its sections, their keys, and what goes where none is.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use crate::centralised::{Named, Paths, default_doi, default_port};

/// A section, with which of its keys are others in another one. None can be forgotten there: a new one takes a restart until a list of
/// what is followed (`FOLLOWED`) says that it does not.
macro_rules! sections {
    ($($(#[$doc:meta])* $vis:vis $name:ident $section:literal {
        $($(#[$fdoc:meta])* $field:ident: $type:ty,)*
    })*) => {$(
        #[derive(Clone, Debug, PartialEq, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        $(#[$doc])*
        $vis struct $name { $($(#[$fdoc])* $vis $field: $type,)* }

        impl $name {
            /// All keys.
            pub(crate) const KEYS: &[&str] = &[$(concat!($section, ".", stringify!($field)),)*];

            /// The keys whose values are others.
            pub(crate) fn differing(&self, other: &Self) -> Vec<&'static str> {
                let differs = [$(self.$field != other.$field,)*];
                Self::KEYS.iter().zip(differs).filter_map(|(key, differs)| differs.then_some(*key)).collect()
            }
        }
    )*};
}
pub(crate) use sections;

/// The same, each key with what it is where it does not stand.
macro_rules! defaulted {
    ($($(#[$doc:meta])* $vis:vis $name:ident $section:literal {
        $($(#[$fdoc:meta])* $field:ident: $type:ty = $default:expr,)*
    })*) => {$(
        sections! {
            $(#[$doc])*
            #[serde(default)]
            $vis $name $section { $($(#[$fdoc])* $field: $type,)* }
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    )*};
}

/// The file as it stands.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// `[device]`
    pub device: DeviceSection,
    /// `[black]`
    pub black: BlackSection,
    /// `[discovery]`
    #[serde(default)]
    pub discovery: DiscoverySection,
    /// `[red]`
    #[serde(default)]
    pub red: RedSection,
    /// `[group]`
    #[serde(default)]
    pub group: GroupSection,
    /// `[dataplane]`
    #[serde(default)]
    pub dataplane: DataplaneSection,
    /// `[trust."ORG"]`
    #[serde(default)]
    pub trust: BTreeMap<String, TrustSection>,
    /// `[gcks]`, with `group.mode = "centralised"` alone.
    pub gcks: Option<GcksAt>,
    /// `[log]`
    #[serde(default)]
    pub log: LogSection,
    /// `[metrics]`
    pub metrics: Option<MetricsSection>,
}

/// Bounds of what an organisation may announce.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustSection {
    /// Its red prefixes lie in these.
    pub prefixes: Vec<IpNet>,
}

sections! {
    /// The device.
    pub DeviceSection "device" {
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
    pub BlackSection "black" {
        /// Its interface.
        interface: String,
        /// Its address, if not the first.
        address: Option<IpAddr>,
    }
    /// Where the key server is, and what is shared with it.
    pub GcksAt "gcks" {
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
    pub MetricsSection "metrics" {
        /// Where Prometheus asks.
        listen: std::net::SocketAddr,
    }
}

defaulted! {
    /// `[discovery]`
    pub DiscoverySection "discovery" {
        /// Its family is that of the black side.
        group: IpAddr = IpAddr::from([0xff05, 0, 0, 0, 0, 0, 0, 0x6d75]),
        /// Key agreement uses the next.
        port: u16 = 4860,
        /// 50 ms to 60 s.
        #[serde(with = "humantime_serde")] hello_interval: Duration = Duration::from_secs(1),
    }
    /// `[red]`
    pub RedSection "red" {
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
    pub GroupSection "group" {
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
    pub DataplaneSection "dataplane" {
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
    pub LogSection "log" {
        /// error, warn, info, debug or trace.
        level: String = "info".into(),
        /// text or json, one line each.
        format: String = "text".into(),
    }
}

impl File {
    /// The keys whose values are others. Of files it is the paths.
    pub(crate) fn differing(&self, other: &File) -> Vec<&'static str> {
        let File { device, black, discovery, red, group, dataplane, trust, gcks, log, metrics } = self;
        let mut keys = device.differing(&other.device);
        keys.extend(black.differing(&other.black));
        keys.extend(discovery.differing(&other.discovery));
        keys.extend(red.differing(&other.red));
        keys.extend(group.differing(&other.group));
        keys.extend(dataplane.differing(&other.dataplane));
        keys.extend((*trust != other.trust).then_some("trust"));
        match (gcks, &other.gcks) {
            (Some(gcks), Some(other)) => keys.extend(gcks.differing(other)),
            (gcks, other) => keys.extend((gcks != other).then_some("gcks")),
        }
        keys.extend(log.differing(&other.log));
        keys.extend(MetricsSection::differing_if_any(metrics.as_ref(), other.metrics.as_ref()));
        keys
    }

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

impl DeviceSection {
    /// Keys of files that the mesh has and a key server's client has not.
    pub(crate) const OF_MESH: [&str; 4] =
        ["device.certificate", "device.private_key", "device.trust_anchors", "device.crls"];

    /// The same, and which of them are there.
    pub(crate) fn of_mesh(&self) -> impl Iterator<Item = (&'static str, bool)> + use<> {
        let is_named = |path: &PathBuf| !path.as_os_str().is_empty();
        let are_there = [
            is_named(&self.certificate),
            is_named(&self.private_key),
            !self.trust_anchors.is_empty(),
            !self.crls.is_empty(),
        ];
        Self::OF_MESH.into_iter().zip(are_there)
    }
}

impl GcksAt {
    /// What it says of certificates.
    pub(crate) fn named(&self) -> Named<'_> {
        let GcksAt { certificate, private_key, trust_anchors, crls, .. } = self;
        Named { certificate, private_key, trust_anchors, crls }
    }
}

impl MetricsSection {
    /// The keys whose values are others, of a section that may not be there.
    pub(crate) fn differing_if_any(one: Option<&Self>, other: Option<&Self>) -> Vec<&'static str> {
        match (one, other) {
            (Some(one), Some(other)) => one.differing(other),
            (None, None) => Vec::new(),
            _ => Self::KEYS.to_vec(),
        }
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
