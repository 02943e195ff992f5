//! The metrics of this moment.

use super::Client;
use crate::event::EventKind;
use crate::metrics::Page;
use crate::status;

impl Client {
    /// One page for Prometheus. README.md lists the names.
    pub(super) fn metrics(&self) -> String {
        let mut page = Page::new();
        page.process(self.outside.begun, &self.outside.report);
        page.gauge("connected", "Whether the key server is there, as far as can be known", self.is_told().into());
        page.gauge("groups", "Groups whose re-key messages are heard", self.listening.sockets().count() as u64);
        let count = |kind| self.outside.report.counts.get(&kind).copied().unwrap_or_default();
        page.counter("registrations", "Connections with the key server", count(EventKind::Connected));
        page.counter("rekeys", "New keys of groups that were taken", count(EventKind::Rekeyed));
        page.datagrams(self.refused.counts(), self.unsent);
        let plane = self.flows.dataplane();
        page.dataplane(plane, &status::dataplane(plane, &self.flows.running.reason, &[]));
        if let Some(until) = self.shown.certificates.end() {
            page.certificate(until);
        }
        page.text()
    }
}
