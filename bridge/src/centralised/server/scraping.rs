//! The metrics of this moment.

use muster_fmke::gcks::Gcks;

use super::Server;
use super::answering::state_of;
use super::starting::Working;
use crate::event::EventKind;
use crate::metrics::{Page, label};

impl Server {
    /// One page for Prometheus. README.md lists the names.
    pub(super) fn metrics(&self) -> String {
        let mut page = Page::new();
        page.process(self.begun, &self.report);
        page.gauge("serving", "Whether the store can be read and written", self.working.is_some().into());
        if let Some(Working { machine, .. }) = &self.working {
            add_machine(&mut page, machine);
        }
        let count = |kind| self.report.counts.get(&kind).copied().unwrap_or_default();
        page.counter("registrations", "Clients that have shown who they are", count(EventKind::Connected));
        page.counter("rekeys", "New keys of groups", count(EventKind::Rekeyed));
        page.counter("exclusions", "Clients that have lost access", count(EventKind::Excluded));
        page.counter("store_transactions", "Transactions that are on the disk", self.transactions);
        page.counter("store_failures", "Transactions that failed", self.failures);
        page.datagrams(self.refused.counts(), self.unsent);
        if let Some(until) = self.settings.known.certificates.end() {
            page.certificate(until);
        }
        page.text()
    }
}

fn add_machine(page: &mut Page, machine: &Gcks) {
    let states = ["connected", "away", "lapsed", "one-way", "excluded"];
    let clients = &machine.profiles().clients;
    let of = |state: &str| clients.iter().filter(|(name, client)| state_of(machine, name, client) == state).count();
    let counts = states.map(|state| (label("state", state), of(state) as u64));
    page.gauges("clients", "Clients of the configuration", counts);
    page.gauge("half_open", "Exchanges of phase 1 that are not complete", machine.exchanges() as u64);
    let help = "Exchanges that had to go for others: too many were begun";
    page.counter("half_open_displaced", help, machine.displaced());
}
