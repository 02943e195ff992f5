//! Threads that wait for packets and can be ended.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::error;

use crate::Error;

/// Threads that end when this is dropped; the drop waits for them.
pub(crate) struct Workers {
    /// Closing it makes the other end readable for all who hold it.
    running: Option<PipeWriter>,
    stop: Stop,
    threads: Vec<JoinHandle<()>>,
    /// Of the first worker that ended by itself; it is the cause of the others.
    failure: Arc<OnceLock<String>>,
}

/// What a worker waits on besides its own file descriptor.
#[derive(Clone)]
pub(crate) struct Stop(Arc<PipeReader>);

impl Workers {
    pub(crate) fn new() -> Result<Self, Error> {
        let (reader, writer) = io::pipe().map_err(Error::io(|| "making a pipe".into()))?;
        let stop = Stop(Arc::new(reader));
        Ok(Workers { running: Some(writer), stop, threads: Vec::new(), failure: Arc::default() })
    }

    /// Starts a thread; `name` has at most 15 octets.
    pub(crate) fn spawn(
        &mut self,
        name: &'static str,
        work: impl FnOnce(&Stop) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let (stop, failure) = (self.stop.clone(), self.failure.clone());
        let guarded = move || {
            // What a panic may leave half done is not looked at again: the data plane has failed.
            let failed = match catch_unwind(AssertUnwindSafe(|| work(&stop))) {
                Ok(Ok(())) => return,
                Ok(Err(e)) => e.to_string(),
                Err(_) => "panicked; this is a bug".to_owned(),
            };
            error!(thread = name, "the data plane has stopped: {failed}");
            let _ = failure.set(format!("{name}: {failed}"));
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(guarded);
        self.threads.push(thread.map_err(Error::io(|| format!("starting the thread {name}")))?);
        Ok(())
    }

    /// Why a worker ended by itself, if one has.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.get().cloned()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.running = None;
        for thread in self.threads.drain(..) {
            // Panics were caught.
            let _ = thread.join();
        }
    }
}

impl Stop {
    /// Waits until `fd` is readable (or in error): true. False: end.
    pub(crate) fn wait(&self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        self.wait_at_most(fd, PollTimeout::NONE)
    }

    /// As [`Stop::wait`], true also when so much time has passed.
    pub(crate) fn wait_at_most(&self, fd: BorrowedFd<'_>, limit: PollTimeout) -> io::Result<bool> {
        self.poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN), PollFd::new(fd, PollFlags::POLLIN)], limit)
    }

    /// As [`Stop::wait`], for any of several, and true also when so much time has passed.
    pub(crate) fn wait_any(&self, fds: &[BorrowedFd<'_>], limit: Option<Duration>) -> io::Result<bool> {
        let all = [self.0.as_fd()].into_iter().chain(fds.iter().copied());
        let mut fds: Vec<_> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        // In whole milliseconds, of which the last is waited for, too.
        let millis = |limit: Duration| i32::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        let limit =
            limit.map_or(PollTimeout::NONE, |limit| PollTimeout::try_from(millis(limit)).unwrap_or(PollTimeout::MAX));
        self.poll(&mut fds, limit)
    }

    /// The first of `fds` is the own one.
    fn poll(&self, fds: &mut [PollFd<'_>], limit: PollTimeout) -> io::Result<bool> {
        loop {
            match poll(fds, limit) {
                Ok(_) => return Ok(!fds[0].any().unwrap_or(true)),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}
