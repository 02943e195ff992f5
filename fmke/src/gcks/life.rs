//! How long keys live: as long as was said with them, whatever the configuration says by now.

use std::time::Duration;

use muster_wire::Time;

use super::context::Calendar;
use crate::isakmp::{Malformed, Reader};

/// Keys are renewed when so much of their lifetime is over: then all have the new ones in time.
const RENEW_AT: f64 = 0.8;

/// Of keys that were drawn together. Members count the lifetime from when they were told (draft 7.7.5): it does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// When they were drawn.
    pub(super) since: Time,
    /// How long members hold them.
    pub(super) lifetime: Duration,
}

impl Life {
    /// Octets in the store.
    pub(super) const BYTES: usize = 12;

    /// When they are to be replaced, where keys are to live for `wanted` now: by one that was made shorter, earlier.
    pub(super) fn renewal(&self, wanted: Duration) -> Time {
        self.since + self.lifetime.min(wanted).mul_f64(RENEW_AT)
    }

    /// When nobody holds them any longer.
    pub(super) fn end(&self) -> Time {
        self.since + self.lifetime
    }

    /// The lifetime as it is told.
    pub(super) fn seconds(&self) -> u32 {
        u32::try_from(self.lifetime.as_secs()).unwrap_or(u32::MAX)
    }

    /// As it is stored.
    pub(super) fn to_bytes(self, calendar: &Calendar) -> [u8; Self::BYTES] {
        let mut octets = [0; Self::BYTES];
        octets[..8].copy_from_slice(&calendar.unix(self.since).to_be_bytes());
        octets[8..].copy_from_slice(&self.seconds().to_be_bytes());
        octets
    }

    /// # Errors
    /// Too few octets.
    pub(super) fn read(reader: &mut Reader<'_>, calendar: &Calendar) -> Result<Self, Malformed> {
        let since = calendar.time(u64::from_be_bytes(reader.array()?));
        Ok(Life { since, lifetime: Duration::from_secs(reader.u32()?.into()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_shorter_one_says_when_keys_are_replaced_and_their_own_when_they_end() {
        let start = Time(0) + seconds(1000);
        let life = Life { since: start, lifetime: seconds(100) };
        for (wanted, renewal) in [(100, 80), (1000, 80), (50, 40), (10, 8)] {
            assert_eq!(life.renewal(seconds(wanted)), start + seconds(renewal), "{wanted}");
        }
        assert_eq!((life.end(), life.seconds()), (start + seconds(100), 100));
    }

    #[test]
    fn what_is_stored_is_read() {
        let calendar = Calendar { started: Time(0) + seconds(500), unix: 1_800_000_000 };
        let life = Life { since: Time(0) + seconds(500), lifetime: seconds(3600) };
        let octets = life.to_bytes(&calendar);
        assert_eq!(Life::read(&mut Reader::new(&octets), &calendar), Ok(life));
        assert!(Life::read(&mut Reader::new(&octets[1..]), &calendar).is_err());
    }
}
