//! Real daemons in real network namespaces, black box through the command line.
//!
//! A [`Lab`] is a coalition of `netlab` with a daemon on every router. Tests look at it as an operator does, through
//! `muster … --json`, and as an enemy does, on the black side.

mod authority;
mod calm;
mod central;
mod control;
mod daemon;
mod datagram;
mod lab;
mod metrics;
mod process;
mod routing;
mod traffic;
mod tshark;

pub use authority::{Authority, KeyKind};
pub use calm::{alone, say};
pub use central::{Central, ISAKMP};
pub use control::call;
pub use daemon::spawn;
pub use datagram::{Datagram, datagrams};
pub use lab::{Answer, Family, Lab, PORTS, binary, is_kernel, muster};
pub use metrics::{METRICS, metric, scrape};
pub use muster_netlab::{skip, wait_until};
pub use process::{anonymous, monotonic, processor, resident};
pub use routing::{Routing, no_routing};
pub use traffic::{
    Lan, attempt, carry, carry_between, carry_past, carry_unicast, host, multicast_flow, multicast_flow_at, red_group,
    red_group_v4, unicast_flow, wait_for_unicast,
};
pub use tshark::{no_tshark, tshark, tshark_with_dissector};
