//! What each client is to do with what its LAN sends, by the profiles: whether there are SAs for it now or not.

use std::collections::BTreeMap;

use super::profile::{FlowSelector, Profiles, Vpn, check_ports};
use crate::isakmp::TrafficSelector;
use crate::push::{MOST_SPD_ENTRIES, Spd};

impl FlowSelector {
    /// What its senders protect.
    fn traffic(&self) -> TrafficSelector {
        let (group, port) = self.destination;
        TrafficSelector { protocol: self.protocol, source: self.source, destination: (group.into(), port) }
    }
}

impl Vpn {
    /// What the end `from` sends to the other.
    fn traffic(&self, from: usize) -> TrafficSelector {
        let (source, destination) = (&self.ends[from], &self.ends[1 - from]);
        TrafficSelector {
            protocol: self.protocol,
            source: (source.net, source.port),
            destination: (destination.net, destination.port),
        }
    }
}

impl Profiles {
    /// Of one client.
    pub(super) fn spd_of(&self, client: &str) -> Spd {
        self.spds([client]).remove(client).unwrap_or_default()
    }

    /// Of these clients.
    pub(super) fn spds<'a>(&self, clients: impl IntoIterator<Item = &'a str>) -> BTreeMap<&'a str, Spd> {
        let bypass = |client: &str| self.clients.get(client).map(|client| client.bypass.clone()).unwrap_or_default();
        let of = |client| (client, Spd { bypass: bypass(client), ..Spd::default() });
        let mut spds: BTreeMap<&str, Spd> = clients.into_iter().map(of).collect();
        for flow in self.groups.values().flat_map(|group| &group.flows) {
            let senders = spds.iter_mut().filter(|(client, _)| flow.senders.contains(**client));
            senders.for_each(|(_, spd)| _ = spd.protect.insert(flow.selector.traffic()));
        }
        for vpn in self.vpns.values() {
            // One without a return channel sends nothing.
            for (from, end) in vpn.ends.iter().enumerate().filter(|(_, end)| !self.is_one_way(&end.client)) {
                if let Some(spd) = spds.get_mut(end.client.as_str()) {
                    spd.protect.insert(vpn.traffic(from));
                }
            }
        }
        spds
    }

    /// Whether what each client may send unprotected goes with what it is to protect: which client, and what does not.
    pub(super) fn check_spds(&self) -> Result<(), (String, String)> {
        for (client, spd) in self.spds(self.clients.keys().map(String::as_str)) {
            let error = |message: String| Err((client.to_owned(), message));
            if spd.len() > MOST_SPD_ENTRIES {
                return error(format!("sends more than {MOST_SPD_ENTRIES} flows"));
            }
            if self.is_one_way(client) && !spd.bypass.is_empty() {
                return error("has a bypass and no return channel".into());
            }
            for bypass in &spd.bypass {
                let TrafficSelector { protocol, source, destination: (destination, port) } = bypass;
                if destination.addr().is_multicast() {
                    return error(format!("bypass to {destination}: multicast never goes unprotected"));
                }
                if destination.addr().is_ipv4() != source.0.addr().is_ipv4() {
                    return error(format!("bypass to {destination}: its source is of the other family"));
                }
                if let Err(why) = check_ports(*protocol, [source.1, *port]) {
                    return error(format!("bypass to {destination}: {why}"));
                }
                // An exception from something wider may be; else what is to be protected would go in clear.
                let is_taken =
                    |protect: &&TrafficSelector| bypass.overlaps(protect) && !bypass.is_exception_of(protect);
                if let Some(protect) = spd.protect.iter().find(is_taken) {
                    return error(format!(
                        "bypass to {destination}: a flow or VPN to {} is for the same packets",
                        protect.destination.0
                    ));
                }
            }
        }
        Ok(())
    }
}
