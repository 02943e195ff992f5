//! What Prometheus is told. Names and labels are a contract: they only grow.

mod common;
mod endpoint;
mod server;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub(crate) use common::label;
pub(crate) use endpoint::{Endpoint, Rebind};

/// A set of values of one moment. It is made anew for each question: nothing is counted twice, nothing is kept.
pub(crate) struct Page(Registry);

pub(crate) type Labels = Vec<(&'static str, String)>;

impl Page {
    pub(crate) fn new() -> Page {
        let mut registry = Registry::with_prefix("muster");
        registry.register("build", "This program", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        Page(registry)
    }

    /// A value that rises and falls.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.0.register(name, help, ConstGauge::new(value));
    }

    /// A time or an age; the name gets its unit.
    pub(crate) fn seconds(&mut self, name: &str, help: &str, value: f64) {
        self.0.register_with_unit(name, help, Unit::Seconds, ConstGauge::new(value));
    }

    /// A sum since the start; the name gets `_total`.
    pub(crate) fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.0.register(name, help, ConstCounter::new(value));
    }

    /// Values told apart by labels.
    pub(crate) fn gauges(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Gauge>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        self.0.register(name, help, family);
    }

    /// Sums told apart by labels.
    pub(crate) fn counters(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).inc_by(value);
        }
        self.0.register(name, help, family);
    }

    /// The text of it.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // A string takes everything.
        let _ = encode(&mut text, &self.0);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_as_prometheus_reads_it() {
        let mut page = Page::new();
        page.gauge("group_members", "Members of the group", 3);
        page.seconds("uptime", "Since the start", 1.5);
        page.counter("commits", "Commits made", 7);
        let label = |value: &str| vec![("reason", value.to_owned())];
        page.counters("dropped", "Packets dropped", [(label("replay"), 2), (label("a\"\\b\n"), 1)]);
        page.gauges("neighbors", "Neighbours", [(vec![("state", "up".to_owned())], 2)]);
        let text = page.text();
        for line in [
            "# HELP muster_group_members Members of the group.",
            "# TYPE muster_group_members gauge",
            "muster_group_members 3",
            "# TYPE muster_uptime_seconds gauge",
            "muster_uptime_seconds 1.5",
            "# TYPE muster_commits counter",
            "muster_commits_total 7",
            "muster_dropped_total{reason=\"replay\"} 2",
            "muster_dropped_total{reason=\"a\\\"\\\\b\\n\"} 1",
            "muster_neighbors{state=\"up\"} 2",
            "# EOF",
        ] {
            assert!(text.lines().any(|is| is == line), "no {line:?} in\n{text}");
        }
    }
}
