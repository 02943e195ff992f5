//! Centralised mode: keys from a key server (FMKE) instead of agreement among all.
//!
//! `settings` and `profiles` read the key server's configuration, `secret` and `certificates` what either end shows; `server` drives
//! `muster_fmke::gcks`, `store` keeps what must outlive it; `client` drives `muster_fmke::member` on a router, and `flows` carries
//! to the data plane what it is told, and `bypass` as much of what is to go unprotected as the router's operator allows.

mod bypass;
mod certificates;
mod client;
mod flows;
mod misfits;
mod phase1;
mod profiles;
mod refusals;
mod secret;
mod server;
mod settings;
mod socket;
mod store;

pub use client::run_client;
pub use server::run_gcks;
pub use settings::GcksFile;
pub use store::{Store, StoreFault};

pub(crate) use certificates::{Certificates, Named, Paths};
pub(crate) use phase1::identity;
pub(crate) use secret::{SHORT_KEY, read_secret};
pub(crate) use settings::{GcksSettings, default_doi, default_port, remark_on_port};
