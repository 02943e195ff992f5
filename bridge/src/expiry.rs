//! Whether a certificate ends soon.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The operator is told so long ahead …
const AHEAD: u64 = 14 * DAY;
/// … once in so many seconds.
const DAY: u64 = 86_400;

/// Warns of the end of the own certificate: at most once a day.
#[derive(Default)]
pub(crate) struct Expiry {
    /// Unix seconds.
    told: Option<u64>,
}

impl Expiry {
    /// What there is to be told now, if anything.
    pub(crate) fn look(&mut self, not_after: u64, unix: u64) -> Option<String> {
        if !ends_soon(not_after, unix) {
            self.told = None;
            return None;
        }
        // A clock that was set back must not silence it.
        let ended = |at: u64| at > not_after;
        if self.told.is_some_and(|told| unix.abs_diff(told) < DAY && ended(told) == ended(unix)) {
            return None;
        }
        self.told = Some(unix);
        let date = rfc3339(not_after);
        Some(match not_after.checked_sub(unix) {
            None => format!("the own certificate has ended at {date}"),
            Some(left) if left < DAY => format!("the own certificate ends at {date}, today"),
            Some(left) => format!("the own certificate ends at {date}, in {} days", left / DAY),
        })
    }
}

/// Whether it ends within the time of warning, or has ended.
pub(crate) fn ends_soon(not_after: u64, unix: u64) -> bool {
    not_after.saturating_sub(unix) <= AHEAD
}

/// Of Unix seconds; the year 9999 stands for all after it.
pub(crate) fn rfc3339(unix: u64) -> String {
    const LAST: u64 = 253_402_300_799;
    let time: SystemTime = UNIX_EPOCH + Duration::from_secs(unix.min(LAST));
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_warns_once_a_day_from_two_weeks_on() {
        let end = 1_800_000_000;
        let mut expiry = Expiry::default();
        assert_eq!(expiry.look(end, end - 15 * DAY), None);
        let first = expiry.look(end, end - 14 * DAY).unwrap();
        assert_eq!(first, "the own certificate ends at 2027-01-15T08:00:00Z, in 14 days");
        assert_eq!(expiry.look(end, end - 14 * DAY + 60), None);
        assert!(expiry.look(end, end - 13 * DAY).unwrap().ends_with("in 13 days"));
        assert!(expiry.look(end, end - DAY / 2).unwrap().ends_with("today"));
        assert!(expiry.look(end, end + 1).unwrap().contains("has ended"), "at once");
        assert_eq!(expiry.look(end, end + 60), None);
        assert!(expiry.look(end, end + 2 * DAY).unwrap().contains("has ended"));
        // Renewed; then the next one.
        assert_eq!(expiry.look(end + 100 * DAY, end + 2 * DAY), None);
        assert!(expiry.look(end + 3 * DAY, end + 2 * DAY).is_some());
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
