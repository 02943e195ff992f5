//! The startup stamp: strictly rising over the starts of a device, on a router without a clock too.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::durable;

/// The larger of the clock (microseconds) and the last stamp + 1; kept in `folder` before it is used.
pub(crate) fn next_stamp(folder: &Path, clock: SystemTime) -> io::Result<u64> {
    let path = folder.join("startup");
    let last = match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse::<u64>().map_err(|_| {
            io::Error::other(format!("{}: not a number; remove the file if the clock is right", path.display()))
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let clock = clock.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
    let next = clock.max(last.checked_add(1).ok_or_else(|| io::Error::other("the startup stamp is used up"))?);
    durable::write(folder, "startup", format!("{next}\n").as_bytes())?;
    Ok(next)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn stamps_rise_even_when_the_clock_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let clock = UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(next_stamp(folder.path(), clock).unwrap(), 1_000_000_000);
        assert_eq!(next_stamp(folder.path(), clock).unwrap(), 1_000_000_001);
        assert_eq!(next_stamp(folder.path(), UNIX_EPOCH).unwrap(), 1_000_000_002);
        assert_eq!(next_stamp(folder.path(), clock + Duration::from_secs(1)).unwrap(), 1_001_000_000);
    }

    #[test]
    fn a_damaged_file_is_an_error_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("startup"), "x").unwrap();
        assert!(next_stamp(folder.path(), UNIX_EPOCH).is_err());
        assert_eq!(fs::read_to_string(folder.path().join("startup")).unwrap(), "x");
        fs::write(folder.path().join("startup"), u64::MAX.to_string()).unwrap();
        assert!(next_stamp(folder.path(), UNIX_EPOCH).is_err());
    }
}
