#![doc = env!("CARGO_PKG_DESCRIPTION")]
//!
//! [`run()`] makes a [`Plan`] from a seed (who takes part, what goes wrong when), builds a [`World`] of real engines on
//! a network of virtual time, lets it happen, and has every [`checks::Check`] look on. Everything follows from the
//! seed: a run that fails, fails again.

mod attacker;
pub mod checks;
mod devices;
mod fact;
mod faults;
pub mod forge;
mod input;
mod insider;
mod network;
mod node;
mod plan;
mod random;
mod run;
mod totals;
mod world;

pub use devices::{DEVICES, Device, NATIONS, anchor, crl, device, signed_by_nation, trust};
pub use fact::{Entered, Fact, NodeView, Sender, View};
pub use faults::{Fault, Kind};
pub use input::Input;
pub use network::{Conditions, Disturbance, Network};
pub use node::{Node, Output};
pub use plan::{Plan, Scheduled, Scope};
pub use random::Dice;
pub use run::{Failure, Report, replay, run, run_plan, run_seeds};
pub use totals::Totals;
pub use world::{Defect, World};
