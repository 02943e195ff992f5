//! Where keys go: ESP, routes, multicast forwarding, the block.
//!
//! The daemon knows the [`Dataplane`] trait alone. [`start`] starts one: RFC 4303 in user space over a TUN device and raw
//! sockets, or by Linux through an xfrm interface; [`Memory`] is the first without I/O, for tests. [`block()`]
//! makes the router fail closed before any of them starts and keeps it so after they have ended.
//!
//! Read in this order: `plane` (the trait), `policy` and `selector` (what may cross), `userspace` (security associations, the way of a
//! packet, threads) with the formats of `esp`, `xfrm` (the kernel's ESP), `mroute` (red multicast), `learned` (routes to red
//! unicast), `block` and `ingress`, `bypass` and `answers` (what may cross in clear), `nft`; `backend` says which of the two runs.

mod answers;
mod backend;
mod black_socket;
mod block;
mod bypass;
mod config;
mod counters;
mod error;
mod esp;
mod forwarding;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod ingress;
mod inner;
mod learned;
mod ledger;
mod lost;
mod mroute;
mod netlink;
mod nft;
mod own;
mod plane;
mod policy;
mod probe;
mod routes;
mod sa;
mod selector;
mod stop;
mod sysctl;
mod tunnel;
mod userspace;
mod xfrm;

pub use backend::{Backend, Running, start};
pub use block::{BlockConfig, Blocked, block, is_blocked, unblock, unblock_others};
pub use config::{EspConfig, MOST_WORKERS, check_interface_name};
pub use counters::{Counters, Dropped};
pub use error::Error;
pub use forwarding::enable_forwarding;
pub use ledger::KeyLedger;
pub use mroute::Claim;
pub use muster_membership::GroupStatus;
pub use plane::{Dataplane, Listening};
pub use probe::{Probe, probe};
pub use sa::{ALGORITHM, Direction, ExportedKey, FlowId, Sa, SaId, SaKey, SaKind, SaStatus};
pub use selector::Selector;
pub use userspace::Memory;
