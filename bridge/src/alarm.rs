//! The engine's timer, to the microsecond: the runtime's own rounds up to milliseconds, and a join waits for several
//! short timers one after the other.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use muster_wire::Time;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::net::unix::pipe;

/// A timer of CLOCK_MONOTONIC.
pub(crate) struct Alarm {
    timer: TimerFd,
    /// The same, as the runtime waits for it: a descriptor that becomes readable.
    ringing: pipe::Receiver,
    /// What it is set to.
    set: Option<Time>,
}

impl Alarm {
    /// A timer that is not set.
    pub(crate) fn new() -> io::Result<Alarm> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        let descriptor: OwnedFd = timer.as_fd().try_clone_to_owned()?;
        Ok(Alarm { timer, ringing: pipe::Receiver::from_owned_fd_unchecked(descriptor)?, set: None })
    }

    /// Waits until `deadline`; at once if that is past, for ever if there is none. May be given up at any time.
    pub(crate) async fn ring(&mut self, now: Time, deadline: Option<Time>) -> io::Result<()> {
        let Some(deadline) = deadline else { return std::future::pending().await };
        if deadline <= now {
            return Ok(());
        }
        if self.set != Some(deadline) {
            let at = Expiration::OneShot(TimeSpec::from_duration(Duration::from_micros(deadline.0)));
            self.timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            self.set = Some(deadline);
        }
        loop {
            self.ringing.readable().await?;
            match self.ringing.try_read(&mut [0; 8]) {
                // It rang for another time, and was set to this one since.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                rung => {
                    self.set = None;
                    return rung.map(|_| ());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::now;

    #[tokio::test]
    async fn it_rings_at_its_time_and_not_before_and_again() {
        let mut alarm = Alarm::new().unwrap();
        for micros in [0, 200, 3000, 700] {
            let deadline = now() + Duration::from_micros(micros);
            alarm.ring(now(), Some(deadline)).await.unwrap();
            assert!(now() >= deadline);
        }
        // Given up, and set to something else.
        let later = now() + Duration::from_secs(3600);
        let given_up = tokio::time::timeout(Duration::from_millis(1), alarm.ring(now(), Some(later))).await;
        assert!(given_up.is_err());
        let soon = now() + Duration::from_millis(1);
        alarm.ring(now(), Some(soon)).await.unwrap();
        assert!(now() >= soon);
    }
}
