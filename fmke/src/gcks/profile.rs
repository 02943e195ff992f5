//! What the operator lays down: clients, secure multicast groups, VPNs (seed 000, IV B).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use thiserror::Error;

use crate::crypto::HashAlgorithm;
use crate::isakmp::{Delays, TrafficSelector};
use crate::lkh::MAX_MEMBERS;
use crate::phase1::ManualKey;
use crate::push::MOST_GROUPS;

/// A name is a key of the store and a word of the log: at most so many octets.
const MOST_NAME: usize = 64;
/// Of SAs of ESP: what was taken away is remembered for clients that were not there, for so long.
pub(super) const MOST_LIFETIME: Duration = Duration::from_secs(7 * 86_400);

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profiles {
    /// Who may connect, by name.
    pub clients: BTreeMap<String, Client>,
    /// Secure multicast groups, by name.
    pub groups: BTreeMap<String, Group>,
    /// VPNs, by name.
    pub vpns: BTreeMap<String, Vpn>,
}

/// A router that may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its black address: where it connects from, and what its tunnels end at.
    pub address: IpAddr,
    /// How it shows who it is. A client that shows it in another way is another one, whatever its name.
    pub credential: Credential,
    /// What its LAN sends unprotected: unicast, which its own operator must allow, too.
    pub bypass: BTreeSet<TrafficSelector>,
    /// If it has no return channel: how it is told what it is to hold.
    pub one_way: Option<OneWay>,
}

/// How a client without a return channel is told (draft 6.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneWay {
    /// What it shares with the key server.
    pub key: ManualKey,
    /// Where it listens.
    pub port: u16,
}

/// A digest of the secret or the identity that a client shows. Says nothing of it in a log.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Credential([u8; 32]);

impl Credential {
    /// Of these octets.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut digest = [0; 32];
        digest.copy_from_slice(&HashAlgorithm::Sha256.digest(parts));
        Credential(digest)
    }

    pub(super) fn octets(self) -> [u8; 32] {
        self.0
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential")
    }
}

/// A secure multicast group: its members share a re-key SA, and an SA for each flow and sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Clients.
    pub members: BTreeSet<String>,
    /// Where re-key messages go on black: a multicast address and a port.
    pub rekey: (IpAddr, u16),
    /// What is protected.
    pub flows: Vec<Flow>,
    /// Of the SAs of ESP.
    pub tek_lifetime: Duration,
    /// Of the re-key SA.
    pub kek_lifetime: Duration,
    /// When senders take new SAs, and when old ones go.
    pub delays: Delays,
    /// Who joins gets keys that were never used before.
    pub rekey_on_join: bool,
}

/// A multicast flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Members that send it; each has an SA of its own.
    pub senders: BTreeSet<String>,
    /// What belongs to it.
    pub selector: FlowSelector,
}

/// What belongs to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowSelector {
    /// IP protocol; 0: any.
    pub protocol: u8,
    /// Inner source, and its port; 0: any.
    pub source: (IpNet, u16),
    /// Inner group, and its port; 0: any.
    pub destination: (IpAddr, u16),
    /// Outer group: the inner one (RFC 5374 4.1), but where black is of the other family.
    pub outer: IpAddr,
}

/// Unicast between what lies behind two clients, both ways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vpn {
    /// The two.
    pub ends: [End; 2],
    /// IP protocol; 0: any.
    pub protocol: u8,
    /// Of its SAs.
    pub lifetime: Duration,
    /// When senders take new SAs, and when old ones go.
    pub delays: Delays,
}

/// One end of a VPN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The client.
    pub client: String,
    /// Red addresses behind it.
    pub net: IpNet,
    /// Their port; 0: any.
    pub port: u16,
}

/// What cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{section} {name:?}: {message}")]
pub struct ProfileError {
    /// Client, group, VPN.
    pub section: &'static str,
    /// Which.
    pub name: String,
    /// What is wrong.
    pub message: String,
}

impl Profiles {
    /// Whether it makes sense as a whole.
    ///
    /// # Errors
    /// The first thing that does not: a client, a group or a VPN that names a client that there is not, two clients with one
    /// address, a flow's destination that is no group, a client in more groups than it takes, families that do not go together, a lifetime too short or too long, a bypass for
    /// what is to be protected, a sender without a return channel.
    pub fn check(&self) -> Result<(), ProfileError> {
        let mut addresses = BTreeMap::new();
        for (name, client) in &self.clients {
            let error = |message: String| ProfileError { section: "client", name: name.clone(), message };
            check_name(name).map_err(error)?;
            if let Some(other) = addresses.insert(client.address, name) {
                return Err(error(format!("has the address {} of {other:?}", client.address)));
            }
        }
        let mut rekeys = BTreeMap::new();
        let mut groups_of: BTreeMap<&String, usize> = BTreeMap::new();
        for (name, group) in &self.groups {
            let error = |message: String| ProfileError { section: "group", name: name.clone(), message };
            check_name(name).and_then(|()| self.check_group(group)).map_err(error)?;
            if let Some(other) = rekeys.insert(group.rekey, name) {
                return Err(error(format!("has the rekey address of {other:?}")));
            }
            group.members.iter().for_each(|member| *groups_of.entry(member).or_default() += 1);
        }
        if let Some((name, _)) = groups_of.into_iter().find(|(_, groups)| *groups > MOST_GROUPS) {
            let message = format!("is in more than {MOST_GROUPS} groups");
            return Err(ProfileError { section: "client", name: name.clone(), message });
        }
        for (name, vpn) in &self.vpns {
            let error = |message: String| ProfileError { section: "vpn", name: name.clone(), message };
            check_name(name).and_then(|()| self.check_vpn(vpn)).map_err(error)?;
        }
        self.check_spds().map_err(|(name, message)| ProfileError { section: "client", name, message })
    }

    /// The groups of a client.
    pub(crate) fn groups_of<'a>(&'a self, client: &'a str) -> impl Iterator<Item = (&'a String, &'a Group)> {
        self.groups.iter().filter(move |(_, group)| group.members.contains(client))
    }

    /// The VPNs of a client.
    pub(crate) fn vpns_of<'a>(&'a self, client: &'a str) -> impl Iterator<Item = (&'a String, &'a Vpn)> {
        self.vpns.iter().filter(move |(_, vpn)| vpn.ends.iter().any(|end| end.client == client))
    }

    fn check_group(&self, group: &Group) -> Result<(), String> {
        if group.members.len() > MAX_MEMBERS {
            return Err(format!("more than {MAX_MEMBERS} members"));
        }
        for member in &group.members {
            let client = self.client(member)?;
            if client.address.is_ipv4() != group.rekey.0.is_ipv4() {
                return Err(format!("the rekey address {} is of another family than {member:?}", group.rekey.0));
            }
        }
        if !group.rekey.0.is_multicast() {
            return Err(format!("the rekey address {} is not multicast", group.rekey.0));
        }
        check_lifetime(group.tek_lifetime, MOST_LIFETIME, group.delays)?;
        check_lifetime(group.kek_lifetime, Duration::from_secs(u32::MAX.into()), group.delays)?;
        for flow in &group.flows {
            let FlowSelector { protocol, source, destination: (destination, port), outer } = flow.selector;
            if !destination.is_multicast() || !outer.is_multicast() {
                return Err(format!("the flow to {destination} is not multicast"));
            }
            if destination.is_ipv4() != source.0.addr().is_ipv4() {
                return Err(format!("the flow to {destination} has a source of the other family"));
            }
            if outer.is_ipv4() != group.rekey.0.is_ipv4() {
                return Err(format!(
                    "the flow to {destination} is of another family than black: say which group it has there"
                ));
            }
            check_ports(protocol, [source.1, port])?;
            if flow.senders.is_empty() {
                return Err(format!("nobody sends the flow to {destination}"));
            }
            if let Some(other) = flow.senders.iter().find(|sender| !group.members.contains(*sender)) {
                return Err(format!("{other:?}, who sends to {destination}, is no member"));
            }
            if let Some(mute) = flow.senders.iter().find(|sender| self.is_one_way(sender)) {
                return Err(format!("{mute:?}, who sends to {destination}, has no return channel"));
            }
        }
        Ok(())
    }

    fn check_vpn(&self, vpn: &Vpn) -> Result<(), String> {
        let [a, b] = &vpn.ends;
        let (at_a, at_b) = (self.client(&a.client)?, self.client(&b.client)?);
        if a.client == b.client {
            return Err(format!("both ends are {:?}", a.client));
        }
        if at_a.address.is_ipv4() != at_b.address.is_ipv4() || a.net.addr().is_ipv4() != b.net.addr().is_ipv4() {
            return Err("its ends are of two families".into());
        }
        if vpn.ends.iter().all(|end| self.is_one_way(&end.client)) {
            return Err("neither end has a return channel".into());
        }
        if a.net.contains(&b.net) || b.net.contains(&a.net) {
            return Err(format!("{} and {} overlap", a.net, b.net));
        }
        check_ports(vpn.protocol, [a.port, b.port])?;
        check_lifetime(vpn.lifetime, MOST_LIFETIME, vpn.delays)
    }

    /// What a VPN is between: with another one's keys nobody goes on. For how long they are and when they change does not count.
    pub(super) fn digest_of_vpn(&self, vpn: &Vpn) -> Vec<u8> {
        let ends = vpn.ends.iter().map(|end| self.digest_of_client(&end.client));
        let ends: Vec<Vec<u8>> = ends.collect();
        let between = format!("{:?} {}", vpn.ends, vpn.protocol);
        HashAlgorithm::Sha256.digest(&[between.as_bytes(), &ends[0], &ends[1]])
    }

    /// Who a client is.
    pub(super) fn digest_of_client(&self, name: &str) -> Vec<u8> {
        let Some(client) = self.clients.get(name) else { return Vec::new() };
        let channel: &[u8] = if client.one_way.is_some() { b"one way" } else { b"" };
        HashAlgorithm::Sha256.digest(&[client.address.to_string().as_bytes(), &client.credential.octets(), channel])
    }

    /// Whether a client has no return channel.
    pub(crate) fn is_one_way(&self, client: &str) -> bool {
        self.clients.get(client).is_some_and(|client| client.one_way.is_some())
    }

    fn client(&self, name: &str) -> Result<&Client, String> {
        self.clients.get(name).ok_or_else(|| format!("there is no client {name:?}"))
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match (1..=MOST_NAME).contains(&name.len()) && name.chars().all(is_good) {
        true => Ok(()),
        false => Err(format!("a name has 1 to {MOST_NAME} of letters, digits, - _ .")),
    }
}

/// A new SA is in use, and the old one gone, long before the new one is old.
fn check_lifetime(lifetime: Duration, most: Duration, delays: Delays) -> Result<(), String> {
    let change = u64::from(delays.activation) + u64::from(delays.deactivation);
    match lifetime.as_secs() {
        0..10 => Err("a lifetime is 10 s at least".into()),
        seconds if seconds < 4 * change => {
            Err(format!("a lifetime of {seconds} s is below four times its delays, {change} s"))
        }
        seconds if lifetime > most => {
            Err(format!("a lifetime of {seconds} s is above the longest, {} s", most.as_secs()))
        }
        _ => Ok(()),
    }
}

/// TCP, UDP, SCTP, DCCP, UDP-Lite: those with ports (RFC 4301 4.4.1.1).
pub(super) fn check_ports(protocol: u8, ports: [u16; 2]) -> Result<(), String> {
    match ports == [0, 0] || matches!(protocol, 6 | 17 | 33 | 132 | 136) {
        true => Ok(()),
        false => Err(format!("ports, but the protocol {protocol} has none")),
    }
}
