//! Threads that wait for packets and can be ended.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Threads that end when this is dropped; the drop waits for them.
pub(crate) struct Workers {
    /// Closing it makes the other end readable for all who hold it.
    running: Option<PipeWriter>,
    stop: Stop,
    threads: Vec<JoinHandle<()>>,
}

/// What a worker waits on besides its own file descriptor.
#[derive(Clone)]
pub(crate) struct Stop(Arc<PipeReader>);

impl Workers {
    pub(crate) fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        Ok(Workers { running: Some(writer), stop: Stop(Arc::new(reader)), threads: Vec::new() })
    }

    /// Starts a thread; `name` has at most 15 octets.
    pub(crate) fn spawn(&mut self, name: &str, work: impl FnOnce(Stop) + Send + 'static) -> io::Result<()> {
        let stop = self.stop.clone();
        self.threads.push(thread::Builder::new().name(name.to_owned()).spawn(move || work(stop))?);
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.running = None;
        for thread in self.threads.drain(..) {
            // A worker that panicked has said so on standard error already.
            let _ = thread.join();
        }
    }
}

impl Stop {
    /// Waits until `fd` is readable (or in error): true. False: end.
    pub(crate) fn wait(&self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN), PollFd::new(fd, PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => return Ok(!fds[0].any().unwrap_or(true)),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}
