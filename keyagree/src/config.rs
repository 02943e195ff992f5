//! What the key agreement is told at its start.

use std::time::Duration;

/// Settings of the key agreement; the meaning of each is in SPEC.md.
#[derive(Clone, Debug)]
pub struct Config {
    /// The group's name.
    pub name: String,
    /// The own hello interval.
    pub hello_interval: Duration,
    /// Events within this after a commit go together into the next.
    pub batch_window: Duration,
    /// A new epoch is sent under at the latest this long after it was installed.
    pub activation_delay: Duration,
    /// An old epoch is received under this long after the switch.
    pub deactivation_delay: Duration,
    /// A key is replaced when it is this old.
    pub lifetime: Duration,
    /// Every member's leaf in the tree is replaced before it is this old.
    pub leaf_refresh: Duration,
}
