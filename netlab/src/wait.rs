//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// Polls `condition` every few milliseconds until it holds or `limit` has passed; says whether it held.
///
/// The condition is tried at least once, and once more at the deadline.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let late = Instant::now() >= deadline;
        if condition() {
            return true;
        }
        if late {
            return false;
        }
        std::thread::sleep(POLL.min(deadline.saturating_duration_since(Instant::now())));
    }
}

const POLL: Duration = Duration::from_millis(2);
