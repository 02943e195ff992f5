//! Who may connect, and what they are to hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use muster_fmke::crypto::SecretBytes;
use muster_fmke::gcks::{Client, Credential, End, Flow, FlowSelector, Group, Profiles, Vpn};
use muster_fmke::isakmp::{Delays, Identity};
use muster_fmke::member::FlowKey;
use muster_fmke::phase1::{self, Authority, CertificateError, Clients, Verified};

use super::world::INSIDER;

pub(super) const DOI: u32 = 2;
const PORT: u16 = 848;
const NAMES: [&str; INSIDER + 1] = ["hub", "site-1", "site-2", "insider"];
const DELAYS: Delays = Delays { activation: 2, deactivation: 5 };

/// Of clients, of the key server, and one that is nobody's.
pub(super) fn address(machine: usize) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(192, 0, 2, 10 + machine as u8).into(), PORT)
}

pub(super) fn name(client: usize) -> String {
    NAMES[client].to_owned()
}

pub(super) fn secret(client: usize) -> SecretBytes {
    SecretBytes::from(format!("the secret of {}", NAMES[client]).as_bytes())
}

/// Secrets of the clients.
pub(super) struct Secrets(BTreeMap<IpAddr, SecretBytes>);

impl Secrets {
    pub(super) fn all() -> Self {
        Secrets((0..NAMES.len()).map(|client| (address(client).ip(), secret(client))).collect())
    }
}

impl Authority for Secrets {
    fn check(&self, _: &[&[u8]], _: &Identity) -> Result<Verified, CertificateError> {
        Err(CertificateError::UnknownIssuer)
    }
}

impl Clients for Secrets {
    fn client(&self, address: IpAddr) -> Option<phase1::Client<'_>> {
        self.0.get(&address).map(|secret| phase1::Client { secret: Some(secret), identity: None })
    }
}

/// A group of all, in which the hub and a site send; with `more`, one without the second site and the insider, and a VPN of
/// the same two.
pub(super) fn profiles(more: bool) -> Profiles {
    let client = |number| Client {
        address: address(number).ip(),
        credential: Credential::default(),
        bypass: BTreeSet::new(),
        one_way: None,
    };
    let mut profiles = Profiles {
        clients: (0..NAMES.len()).map(|number| (name(number), client(number))).collect(),
        groups: BTreeMap::from([("all".to_owned(), group(1, &NAMES, &["hub", "site-1"]))]),
        vpns: BTreeMap::new(),
    };
    if more {
        profiles.groups.insert("some".to_owned(), group(2, &NAMES[..2], &["hub"]));
        let end = |client: &str, net: &str| End { client: client.into(), net: net.parse().expect("a net"), port: 0 };
        let ends = [end("hub", "10.3.0.0/16"), end("site-1", "10.1.0.0/16")];
        let vpn = Vpn { ends, protocol: 0, lifetime: Duration::from_secs(3600), delays: DELAYS };
        profiles.vpns.insert("hub-site-1".to_owned(), vpn);
    }
    profiles
}

fn group(number: u8, members: &[&str], senders: &[&str]) -> Group {
    let group = IpAddr::from([239, 1, 1, number]);
    let source = ("10.0.0.0/8".parse().expect("a net"), 0);
    let selector = FlowSelector { protocol: 17, source, destination: (group, 5004), outer: group };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
    Group {
        members: names(members),
        rekey: ([239, 255, 0, number].into(), PORT),
        flows: vec![Flow { senders: names(senders), selector }],
        tek_lifetime: Duration::from_secs(3600),
        kek_lifetime: Duration::from_secs(86_400),
        delays: DELAYS,
        rekey_on_join: true,
    }
}

/// What a client is to hold while these are excluded: flows, and whether it sends them.
pub(super) fn expected(profiles: &Profiles, client: usize, excluded: &BTreeSet<usize>) -> BTreeSet<(FlowKey, bool)> {
    let own = name(client);
    let place = |name: &str| NAMES.iter().position(|other| *other == name).expect("one of them");
    let is_in = |name: &str| !excluded.contains(&place(name));
    let at = |name: &str| address(place(name)).ip();
    let mut held = BTreeSet::new();
    for group in profiles.groups.values().filter(|group| group.members.contains(&own)) {
        for flow in &group.flows {
            let FlowSelector { protocol, source, destination, outer } = flow.selector;
            for sender in flow.senders.iter().filter(|sender| is_in(sender)) {
                let (destination, tunnel) = ((destination.0.into(), destination.1), (at(sender), outer));
                held.insert((FlowKey { protocol, source, destination, tunnel }, *sender == own));
            }
        }
    }
    for vpn in profiles.vpns.values().filter(|vpn| vpn.ends.iter().all(|end| is_in(&end.client))) {
        for (from, to) in [(&vpn.ends[0], &vpn.ends[1]), (&vpn.ends[1], &vpn.ends[0])] {
            if from.client == own || to.client == own {
                let (source, destination) = ((from.net, from.port), (to.net, to.port));
                let tunnel = (at(&from.client), at(&to.client));
                let flow = FlowKey { protocol: vpn.protocol, source, destination, tunnel };
                held.insert((flow, from.client == own));
            }
        }
    }
    held
}
