//! The groups and VPNs of the paper: a hub and two sites (seed 000, V A).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use muster_fmke::crypto::SecretBytes;
use muster_fmke::gcks::{Client, Credential, End, Flow, FlowSelector, Group, OneWay, Profiles, Vpn};
use muster_fmke::isakmp::Delays;
use muster_fmke::member::{FlowKey, Spd};
use muster_fmke::phase1::ManualKey;

use super::{PORT, Weather, World};

pub(crate) const TERMINAL: &str = "terminal";

const DELAYS: Delays = Delays { activation: 2, deactivation: 5 };

impl World {
    pub(crate) fn figure_7(seed: u64, weather: Weather) -> Self {
        World::new(seed, weather, profiles())
    }

    /// What a client is to do with what its LAN sends: also where somebody is excluded and there are no SAs.
    pub(crate) fn laid_down(&self, name: &str) -> Spd {
        let sent = self.flows(name, |_| true).into_iter().filter(|(_, is_sent)| *is_sent);
        let protect = sent.map(|(flow, _)| flow.selector()).collect();
        Spd { bypass: self.profiles.clients[name].bypass.clone(), protect }
    }

    /// The same with a terminal that cannot answer in all groups, to which the hub also sends by unicast.
    pub(crate) fn with_terminal(seed: u64, weather: Weather) -> Self {
        let mut profiles = profiles();
        let key = ManualKey::new(SecretBytes::from(&[7; 32][..])).unwrap();
        let terminal = Client {
            address: "192.0.2.13".parse().unwrap(),
            credential: Credential::default(),
            bypass: BTreeSet::new(),
            one_way: Some(OneWay { key, port: PORT }),
        };
        profiles.clients.insert(TERMINAL.into(), terminal);
        profiles.groups.values_mut().for_each(|group| _ = group.members.insert(TERMINAL.into()));
        let mut vpn = profiles.vpns["hub-site-1"].clone();
        vpn.ends[1] = End { client: TERMINAL.into(), net: "10.4.0.0/16".parse().unwrap(), port: 0 };
        profiles.vpns.insert("hub-terminal".into(), vpn);
        profiles.check().unwrap();
        World::new(seed, weather, profiles)
    }

    /// What a client is to hold by the profiles: (flow, whether it sends it).
    pub(crate) fn expected(&self, name: &str) -> BTreeSet<(FlowKey, bool)> {
        self.flows(name, |vpn| !vpn.ends.iter().any(|end| self.excluded.contains(&end.client)))
    }

    fn flows(&self, name: &str, is_open: impl Fn(&Vpn) -> bool) -> BTreeSet<(FlowKey, bool)> {
        let mut flows = BTreeSet::new();
        let address = |client: &str| self.profiles.clients[client].address;
        for group in self.profiles.groups.values().filter(|group| group.members.contains(name)) {
            for flow in &group.flows {
                for sender in &flow.senders {
                    let FlowSelector { protocol, source, destination, outer } = flow.selector;
                    let destination = (destination.0.into(), destination.1);
                    let flow = FlowKey { protocol, source, destination, tunnel: (address(sender), outer) };
                    flows.insert((flow, sender == name));
                }
            }
        }
        for vpn in self.profiles.vpns.values().filter(|vpn| is_open(vpn)) {
            for (from, to) in [(&vpn.ends[0], &vpn.ends[1]), (&vpn.ends[1], &vpn.ends[0])] {
                let is_sent = self.profiles.clients[&from.client].one_way.is_none();
                if is_sent && (from.client == name || to.client == name) {
                    let (source, destination) = ((from.net, from.port), (to.net, to.port));
                    let tunnel = (address(&from.client), address(&to.client));
                    flows
                        .insert((FlowKey { protocol: vpn.protocol, source, destination, tunnel }, from.client == name));
                }
            }
        }
        flows
    }
}

fn profiles() -> Profiles {
    let routers = [
        ("hub", "192.0.2.10", "10.3.0.0/16"),
        ("site-1", "192.0.2.11", "10.1.0.0/16"),
        ("site-2", "192.0.2.12", "10.2.0.0/16"),
    ];
    let mut profiles = Profiles::default();
    for (name, address, _) in routers {
        let client = Client {
            address: address.parse().unwrap(),
            credential: Credential::default(),
            one_way: None,
            bypass: BTreeSet::new(),
        };
        profiles.clients.insert(name.into(), client);
    }
    for (number, sites) in [vec!["site-1"], vec!["site-2"], vec!["site-1", "site-2"]].into_iter().enumerate() {
        let group: IpAddr = format!("239.1.1.{}", number + 1).parse().unwrap();
        let selector = FlowSelector {
            protocol: 17,
            source: ("10.3.0.0/16".parse().unwrap(), 0),
            destination: (group, 5004),
            outer: group,
        };
        let members: BTreeSet<String> = sites.into_iter().chain(["hub"]).map(str::to_owned).collect();
        let group = Group {
            members,
            rekey: (format!("239.255.0.{}", number + 1).parse().unwrap(), 848),
            flows: vec![Flow { senders: BTreeSet::from(["hub".to_owned()]), selector }],
            tek_lifetime: Duration::from_secs(3600),
            kek_lifetime: Duration::from_secs(86_400),
            delays: DELAYS,
            rekey_on_join: true,
        };
        profiles.groups.insert(format!("video-{}", number + 1), group);
    }
    for (place, a) in routers.iter().enumerate() {
        for b in &routers[place + 1..] {
            let end = |(name, _, net): &(&str, &str, &str)| End {
                client: (*name).into(),
                net: net.parse().unwrap(),
                port: 0,
            };
            let vpn = Vpn { ends: [end(a), end(b)], protocol: 0, lifetime: Duration::from_secs(3600), delays: DELAYS };
            profiles.vpns.insert(format!("{}-{}", a.0, b.0), vpn);
        }
    }
    profiles.check().unwrap();
    profiles
}
