//! Clients, groups and VPNs as the key server's configuration has them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use muster_fmke::gcks::{Client, Credential, End, Flow, FlowSelector, Group, Vpn};
use muster_fmke::isakmp::{Delays, TrafficSelector};
use serde::Deserialize;

use super::secret::Inline;

/// `[clients.NAME]`. **Secret**: no `Debug`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClientSection {
    /// On black.
    pub(crate) address: IpAddr,
    /// What it shares with us, ...
    pub(crate) secret: Option<Inline>,
    /// … or where that stands. Without both it shows a certificate.
    pub(crate) secret_file: Option<PathBuf>,
    /// Who it says that it is, if that is not its address; its certificate bears it.
    pub(crate) identity: Option<String>,
    /// Whether it can send to us. If not, its secret is the key of an SA that phase 1 would make.
    #[serde(default = "yes")]
    pub(crate) return_channel: bool,
    /// Where it listens then, if that is not our own port.
    pub(crate) port: Option<u16>,
    /// What its LAN sends unprotected.
    #[serde(default)]
    bypass: Vec<BypassSection>,
}

/// `[[clients.NAME.bypass]]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct BypassSection {
    /// Of red; without it anything of the destination's family, of which the router lets out what is its own.
    source: Option<IpNet>,
    #[serde(default)]
    source_port: u16,
    /// Beyond black.
    destination: IpNet,
    #[serde(default)]
    port: u16,
    #[serde(default)]
    protocol: Protocol,
}

/// `[groups.NAME]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupSection {
    members: BTreeSet<String>,
    /// Where re-key messages go on black.
    rekey: SocketAddr,
    #[serde(default)]
    flows: Vec<FlowSection>,
    /// Of the SAs of ESP.
    #[serde(default = "hour", with = "humantime_serde")]
    lifetime: Duration,
    /// Of the re-key SA.
    #[serde(default = "day", with = "humantime_serde")]
    rekey_lifetime: Duration,
    #[serde(default = "activation", with = "humantime_serde")]
    activation_delay: Duration,
    #[serde(default = "deactivation", with = "humantime_serde")]
    deactivation_delay: Duration,
    #[serde(default = "yes")]
    rekey_on_join: bool,
}

/// `[[groups.NAME.flows]]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct FlowSection {
    senders: BTreeSet<String>,
    /// Of red; without it anything of the group's family.
    source: Option<IpNet>,
    #[serde(default)]
    source_port: u16,
    /// Of red.
    group: IpAddr,
    #[serde(default)]
    port: u16,
    #[serde(default)]
    protocol: Protocol,
    /// On black; without it the same.
    outer: Option<IpAddr>,
}

/// `[vpns.NAME]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VpnSection {
    ends: [EndSection; 2],
    #[serde(default)]
    protocol: Protocol,
    #[serde(default = "hour", with = "humantime_serde")]
    lifetime: Duration,
    #[serde(default = "activation", with = "humantime_serde")]
    activation_delay: Duration,
    #[serde(default = "deactivation", with = "humantime_serde")]
    deactivation_delay: Duration,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndSection {
    client: String,
    net: IpNet,
    #[serde(default)]
    port: u16,
}

/// A number, or the name of one that has ports; 0: any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "Named")]
struct Protocol(u8);

#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    Number(u8),
    Name(String),
}

impl TryFrom<Named> for Protocol {
    type Error = String;

    fn try_from(named: Named) -> Result<Self, String> {
        let name = match named {
            Named::Number(number) => return Ok(Protocol(number)),
            Named::Name(name) => name,
        };
        match name.as_str() {
            "any" => Ok(Protocol(0)),
            "tcp" => Ok(Protocol(6)),
            "udp" => Ok(Protocol(17)),
            _ => Err(format!("protocol {name:?}: any, tcp, udp or a number")),
        }
    }
}

impl ClientSection {
    pub(super) fn client(&self) -> Client {
        // What it shows is read with its secret (`settings.rs`).
        Client {
            address: self.address,
            credential: Credential::default(),
            one_way: None,
            bypass: self.bypass.iter().map(BypassSection::selector).collect(),
        }
    }
}

impl BypassSection {
    fn selector(&self) -> TrafficSelector {
        TrafficSelector {
            protocol: self.protocol.0,
            source: (self.source.map_or(everywhere(self.destination.addr()), |net| net.trunc()), self.source_port),
            destination: (self.destination.trunc(), self.port),
        }
    }
}

/// All addresses of this one's family.
fn everywhere(of: IpAddr) -> IpNet {
    let any = if of.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    IpNet::new_assert(any, 0)
}

impl GroupSection {
    /// # Errors
    /// Delays that are no whole seconds.
    pub(super) fn group(&self) -> Result<Group, String> {
        Ok(Group {
            members: self.members.clone(),
            rekey: (self.rekey.ip(), self.rekey.port()),
            flows: self.flows.iter().map(FlowSection::flow).collect(),
            tek_lifetime: self.lifetime,
            kek_lifetime: self.rekey_lifetime,
            delays: delays(self.activation_delay, self.deactivation_delay)?,
            rekey_on_join: self.rekey_on_join,
        })
    }
}

impl FlowSection {
    fn flow(&self) -> Flow {
        let source = self.source.map_or(everywhere(self.group), |net| net.trunc());
        let selector = FlowSelector {
            protocol: self.protocol.0,
            source: (source, self.source_port),
            destination: (self.group, self.port),
            outer: self.outer.unwrap_or(self.group),
        };
        Flow { senders: self.senders.clone(), selector }
    }
}

impl VpnSection {
    /// # Errors
    /// As [`GroupSection::group`].
    pub(super) fn vpn(&self) -> Result<Vpn, String> {
        let end = |EndSection { client, net, port }: &EndSection| End {
            client: client.clone(),
            net: net.trunc(),
            port: *port,
        };
        Ok(Vpn {
            ends: [end(&self.ends[0]), end(&self.ends[1])],
            protocol: self.protocol.0,
            lifetime: self.lifetime,
            delays: delays(self.activation_delay, self.deactivation_delay)?,
        })
    }
}

/// On the wire they are seconds (RFC 6407 5.4.1).
fn delays(activation: Duration, deactivation: Duration) -> Result<Delays, String> {
    let seconds = |name: &str, delay: Duration| match u16::try_from(delay.as_secs()) {
        Ok(seconds) if delay.subsec_nanos() == 0 => Ok(seconds),
        _ => Err(format!("{name}: whole seconds, below 18 hours")),
    };
    Ok(Delays {
        activation: seconds("activation_delay", activation)?,
        deactivation: seconds("deactivation_delay", deactivation)?,
    })
}

/// All names with what belongs to them.
pub(super) fn each<T, U>(
    sections: &BTreeMap<String, T>,
    make: impl Fn(&T) -> Result<U, String>,
) -> Result<BTreeMap<String, U>, (String, String)> {
    sections
        .iter()
        .map(|(name, section)| Ok((name.clone(), make(section).map_err(|why| (name.clone(), why))?)))
        .collect()
}

fn hour() -> Duration {
    Duration::from_secs(3600)
}

fn day() -> Duration {
    Duration::from_secs(86_400)
}

fn activation() -> Duration {
    Duration::from_secs(2)
}

fn deactivation() -> Duration {
    Duration::from_secs(5)
}

fn yes() -> bool {
    true
}
