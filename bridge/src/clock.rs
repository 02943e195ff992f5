//! What time it is: for the machines, and for everybody.

use std::time::{SystemTime, UNIX_EPOCH};

use muster_wire::Time;
use nix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC in microseconds: events of several daemons on one machine can be compared.
pub(crate) fn now() -> Time {
    // The clock exists on every Linux; the call has no other way to fail.
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC");
    Time(time.tv_sec() as u64 * 1_000_000 + time.tv_nsec() as u64 / 1000)
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    unix_millis() / 1000
}

/// Milliseconds since 1970.
pub(crate) fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
