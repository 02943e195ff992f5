//! The key server (GCKS): who may connect, which groups and VPNs there are, and their keys.
//!
//! [`Gcks`] is the state machine. Read `profile` (what the operator lays down), `machine`, `group` (how a group changes), `vpn`,
//! `telling` (what clients hear of it), `oneway` (those that cannot answer), then `store` and `restore` (what outlives the process).

mod certificates;
mod context;
mod event;
mod group;
mod life;
mod lists;
mod machine;
mod oneway;
mod profile;
mod rekey;
mod restarts;
mod restore;
mod session;
mod spd;
mod store;
mod tek;
mod telling;
mod view;
mod vpn;

pub use event::Event;
pub use machine::{Gcks, Settings};
pub use profile::{Client, Credential, End, Flow, FlowSelector, Group, OneWay, ProfileError, Profiles, Vpn};
pub use restore::StoreError;
pub use store::Write;
