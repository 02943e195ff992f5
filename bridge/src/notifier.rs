//! What the service manager is told (`sd_notify(3)`); without one, nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::debug;

/// The service manager.
#[derive(Default)]
pub(crate) struct Notifier {
    status: String,
}

impl Notifier {
    /// The daemon does its work.
    pub(crate) fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// The configuration is being read again; [`Notifier::ready`] follows.
    pub(crate) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    /// The daemon is about to end.
    pub(crate) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// One line for `systemctl status`; told when it is another one.
    pub(crate) fn status(&mut self, status: String) {
        if status != self.status {
            tell(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// Still alive. Only the main task may say so.
    pub(crate) fn alive(&self) {
        tell(&[NotifyState::Watchdog]);
    }
}

/// How often [`Notifier::alive`] is to be said, if the service manager waits for it: twice as often as it wants.
pub(crate) fn alive_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| (limit / 2).max(Duration::from_millis(1)))
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "the service manager was not told");
    }
}
