//! A client of the key server: it connects, holds what it is told, and says what the data plane is to do.
//!
//! [`Member`] is the state machine. Read `session` (phase 2), `oneway` (the same without a return channel), `group` and `reception`
//! (phase 3), `traffic` (SAs of ESP, one after the other), `gone` (that phase 3 brings back none that phase 2 has taken away).

mod event;
mod gone;
mod group;
mod machine;
mod oneway;
mod reception;
mod session;
mod traffic;

#[cfg(test)]
mod tests;

pub use event::Event;
pub use machine::{Member, Settings};
pub use oneway::OneWaySettings;
pub use traffic::{Change, FlowKey};

pub use crate::push::{MOST_SPD_ENTRIES, Spd};
