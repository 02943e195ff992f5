#![doc = env!("CARGO_PKG_DESCRIPTION")]
//!
//! `muster demo` and the black-box tests build a whole coalition on one machine with this crate: routers, hosts and a
//! black network in anonymous network namespaces, red multicast between the hosts, and a capture of the black side
//! that says whether a red byte was seen there. No child process `ip` (but `tc` for a [`Sky`]), nothing in `/run/netns`: the namespaces are
//! file descriptors of this process and vanish with it, whichever way it ends.
//!
//! Read in this order: [`Namespace`] (`namespace.rs`, `link.rs`, `process.rs`), [`Plan`] and [`Coalition`], then
//! [`Sender`] and [`Receiver`], then [`Capture`] and the rules in [`Watch`].
//!
//! All calls block; from asynchronous code use a blocking task. All need `CAP_NET_ADMIN` and `CAP_SYS_ADMIN`: be
//! root, or call [`enter_user_namespace`] first.

mod capture;
mod checksum;
mod classify;
mod coalition;
mod error;
mod flood;
mod inject;
mod link;
mod namespace;
mod pcap;
mod plan;
mod process;
mod readiness;
mod routers;
mod sky;
mod traffic;
mod user;
mod wait;
mod weather;

pub use capture::{Capture, Frame, Stats};
pub use classify::{Classifier, Kind, Verdict, Watch};
pub use coalition::{Coalition, Router};
pub use error::{Error, Result};
pub use flood::Flood;
pub use link::VethEnd;
pub use namespace::Namespace;
pub use plan::{
    BLACK_DEVICE, BRIDGE, GATEWAY_V4, GATEWAY_V6, HOST_DEVICE, MAX_ROUTERS, NATIONS, Nation, Plan, RED_DEVICE,
    RouterPlan, SITES,
};
pub use process::{Process, die_with_parent};
pub use routers::BlackRouter;
pub use sky::Sky;
pub use traffic::{Flow, Marker, Receiver, Sender, Tally};
pub use user::{enter_user_namespace, skip, unavailable};
pub use wait::wait_until;
pub use weather::{Toll, Weather};
