//! The daemon: joins discovery, key agreement and data plane.
//!
//! [`Engine`] carries events between the two protocols and is as pure as they are; `daemon` drives it with sockets,
//! time, the control socket and a data plane.

mod addresses;
mod alarm;
mod announcements;
mod centralised;
mod check;
mod clock;
pub mod control;
mod daemon;
mod durable;
mod engine;
mod event;
mod expiry;
mod lists;
mod metrics;
mod notifier;
mod pace;
mod pairing;
mod plane;
mod privileges;
mod reload;
mod report;
mod rollback;
mod secret_file;
mod settings;
mod sharing;
mod signals;
mod sockets;
mod startup;
mod status;
mod trust;
mod vouching;
mod watch;
mod worn;

#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    //! What a fuzzer calls of the inside. In no daemon.

    pub use crate::control::fuzz_request as request;
}

pub use centralised::{GcksFile, run_client, run_gcks};
/// A key server's on the disk, for the benchmark.
pub use centralised::{Store as GcksStore, StoreFault};
pub use check::{Finding, check, check_gcks};
pub use daemon::{RunError, SetLevel, block, run, unblock};
pub use engine::{Action, DeviceName, Engine, Port, Start, StartError};
pub use event::{EventKind, EventLine, EventLog, Record};
pub use pairing::UnicastChange;
pub use settings::{File, LogSection, Settings, SettingsError};
