#![doc = env!("CARGO_PKG_DESCRIPTION")]

mod engine;
mod event;

pub use engine::{Action, DeviceName, Engine, Port, Start, StartError};
pub use event::{EventKind, EventLine, EventLog, Record};
