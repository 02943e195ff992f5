//! What the daemons of both modes tell.

use std::time::Instant;

use muster_dataplane::{Dataplane, Direction};

use super::{Labels, Page};
use crate::report::Report;
use crate::status::DataplaneStatus;

impl Page {
    /// Of the process: how long it runs, and what has happened.
    pub(crate) fn process(&mut self, begun: Instant, report: &Report) {
        self.seconds("uptime", "Since the start of the process", begun.elapsed().as_secs_f64());
        let events = report.counts.iter().map(|(kind, count)| (label("event", kind.name()), *count));
        self.counters("events", "Events, as in `muster events`", events);
    }

    /// When the own certificate ends (Unix seconds).
    pub(crate) fn certificate(&mut self, until: u64) {
        self.seconds("certificate_expiry_timestamp", "When the own certificate ends (Unix)", until as f64);
    }

    /// What carries red over black.
    pub(crate) fn dataplane(&mut self, plane: &dyn Dataplane, status: &DataplaneStatus) {
        self.gauge("dataplane_sas", "Security associations in force", status.sas as u64);
        let sas = plane.sas();
        let of = |direction: Direction| sas.iter().filter(|sa| sa.direction == direction).count() as u64;
        let by_direction = [Direction::In, Direction::Out].map(|one| (label("direction", one.as_str()), of(one)));
        self.gauges("dataplane_sas_by_direction", "The same by direction", by_direction);
        let packets = [("in", status.rx_packets), ("out", status.tx_packets)];
        let packets = packets.map(|(direction, count)| (label("direction", direction), count));
        self.counters("dataplane_packets", "Packets carried: delivered to red, sent to black", packets);
        let dropped = status.dropped.iter().filter_map(|(reason, count)| Some((reason, count.as_u64()?)));
        let dropped = dropped.map(|(reason, count)| (label("reason", reason.as_str()), count));
        self.counters("dataplane_dropped", "Packets dropped", dropped);
    }

    /// Datagrams of FMKE.
    pub(crate) fn datagrams(&mut self, refused: impl Iterator<Item = (&'static str, u64)>, unsent: u64) {
        let refused = refused.map(|(reason, count)| (label("reason", reason), count));
        self.counters("datagrams_refused", "Datagrams of the key server or its clients that were refused", refused);
        self.counter("datagrams_unsent", "Datagrams of the protocols that could not be sent", unsent);
    }
}

/// One label.
pub(crate) fn label(name: &'static str, value: impl Into<String>) -> Labels {
    vec![(name, value.into())]
}
