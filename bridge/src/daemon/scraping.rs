//! The metrics of this moment.

use std::collections::BTreeMap;

use muster_certs::RevocationList;
use muster_discovery::NeighborState;

use super::Daemon;
use crate::clock::now;
use crate::metrics::Page;
use crate::status;

impl Daemon {
    /// One page for Prometheus. README.md lists the names.
    pub(super) fn metrics(&self) -> String {
        let mut page = Page::new();
        page.process(self.outside.begun, &self.outside.report);
        self.add_group(&mut page);
        self.add_neighbors(&mut page);
        self.add_agreement(&mut page);
        let plane = self.plane.dataplane();
        page.dataplane(plane, &status::dataplane(plane, self.plane.reason(), self.plane.left()));
        page.text()
    }

    fn add_group(&self, page: &mut Page) {
        let keyagree = self.engine.keyagree();
        let (state, own) = (keyagree.group_state(), self.engine.discovery().own_identity());
        page.gauge("group_epoch", "Epoch of the group key", state.epoch);
        page.gauge("group_members", "Members of the group, this device among them", keyagree.members().count() as u64);
        page.gauge("group_active", "Whether the epoch's key is sent under", state.active.into());
        let is_manager = state.instance.tm == own.member;
        page.gauge("group_transaction_manager", "Whether this device is transaction manager", is_manager.into());
        let lists = self.engine.discovery().revocation_lists();
        let number = |list: RevocationList<'_>| (vec![("organisation", list.organisation.to_owned())], list.number);
        page.gauges("revocation_list_number", "Number of the newest revocation list", lists.map(number));
        page.certificate(own.not_after);
    }

    fn add_neighbors(&self, page: &mut Page) {
        let discovery = self.engine.discovery();
        let states = [NeighborState::Up, NeighborState::Suspect, NeighborState::Refused];
        let mut counts: BTreeMap<String, u64> = states.iter().map(|state| (state.to_string(), 0)).collect();
        let mut soonest: Option<u64> = None;
        for neighbor in discovery.neighbors(now()) {
            *counts.entry(neighbor.state.to_string()).or_default() += 1;
            if let Some(identity) = discovery.certificate_key(&neighbor.member) {
                soonest = Some(soonest.map_or(identity.not_after, |until| until.min(identity.not_after)));
            }
        }
        let counts = counts.into_iter().map(|(state, count)| (vec![("state", state)], count));
        page.gauges("neighbors", "Devices heard on black", counts);
        if let Some(soonest) = soonest {
            let help = "When the first of the neighbours' certificates ends (Unix)";
            page.seconds("neighbor_certificate_expiry_timestamp", help, soonest as f64);
        }
    }

    fn add_agreement(&self, page: &mut Page) {
        for (name, help, count) in status::work(&self.engine) {
            page.counter(name, help, count);
        }
        let dropped = status::datagrams_dropped(&self.engine);
        let dropped = dropped.map(|(protocol, reason, count)| {
            (vec![("protocol", protocol.to_owned()), ("reason", reason.to_owned())], count)
        });
        page.counters("datagrams_dropped", "Datagrams of the two protocols that led to nothing", dropped);
        page.counter("datagrams_unsent", "Datagrams of the two protocols that could not be sent", self.unsent);
    }
}
