//! Waiting: always with a deadline, and only until Ctrl-C.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::output::{Failure, because};

/// Knows whether the user still wants to wait.
#[derive(Clone)]
pub(crate) struct Patience {
    over: Arc<AtomicBool>,
}

impl Patience {
    /// From now on, SIGINT, SIGTERM and SIGHUP do not end the process, but the waiting.
    pub(crate) fn new() -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let listen = || -> std::io::Result<[Signal; 3]> {
            let _inside = runtime.enter();
            Ok([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?])
        };
        let [mut interrupt, mut terminate, mut hangup] = listen()?;
        let over = Arc::new(AtomicBool::new(false));
        let patience = Patience { over: over.clone() };
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, _ = hangup.recv() => {} }
            });
            over.store(true, Ordering::Relaxed);
        });
        Ok(patience)
    }

    /// Fails when the user has had enough.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.over.load(Ordering::Relaxed) { Err(because("interrupted")) } else { Ok(()) }
    }

    /// Tries until there is something, or something fails; `None` after `limit`.
    pub(crate) fn wait<T>(
        &self,
        limit: Duration,
        mut attempt: impl FnMut() -> Result<Option<T>, Failure>,
    ) -> Result<Option<T>, Failure> {
        let deadline = Instant::now() + limit;
        loop {
            self.check()?;
            let late = Instant::now() >= deadline;
            if let Some(result) = attempt()? {
                return Ok(Some(result));
            }
            if late {
                return Ok(None);
            }
            std::thread::sleep(POLL);
        }
    }
}

const POLL: Duration = Duration::from_millis(20);
