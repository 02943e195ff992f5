//! A daemon as a process: how it begins and ends, and what it uses.

use std::fs;
use std::path::Path;
use std::time::Duration;

use muster_netlab::{Process, wait_until};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};

use crate::{Lab, daemon};

impl Lab {
    /// Starts a router's daemon.
    pub fn start(&mut self, router: usize) {
        self.daemons[router] = Some(self.start_beside(router, &self.name(router)));
    }

    /// Starts a daemon on a router by the configuration `name`.toml of this laboratory, besides what runs there.
    pub fn start_beside(&self, router: usize, name: &str) -> Process {
        let at = &self.coalition.routers()[router].namespace;
        daemon::spawn(at, &self.program, &["run"], self.folder.path(), name)
    }

    /// Ends a daemon without a word.
    pub fn kill(&mut self, router: usize) {
        if let Some(mut process) = self.daemons[router].take() {
            process.kill().expect("it can be killed");
        }
    }

    /// Ends a daemon in order; it must do so within three seconds, or longer below a sky, and with status 0.
    pub fn terminate(&mut self, router: usize) {
        let process = self.daemons[router].take().expect("the daemon runs");
        daemon::terminate(process, || self.log(router));
    }

    /// Sends a signal to a daemon.
    pub fn signal(&mut self, router: usize, signal: Signal) {
        self.daemons[router].as_mut().expect("the daemon runs").signal(signal).expect("it can be signalled");
    }

    /// Waits until a daemon has ended by itself.
    ///
    /// # Panics
    /// When it has not within five seconds, or longer below a sky.
    pub fn wait_for_end(&mut self, router: usize) {
        let ended = wait_until(Lab::patience(Duration::from_secs(5)), || !self.runs(router));
        assert!(ended, "it still runs\n{}", self.log(router));
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Whether a daemon still runs.
    pub fn runs(&mut self, router: usize) -> bool {
        self.daemons[router].as_mut().is_some_and(|process| process.exited().expect("it can be asked").is_none())
    }

    /// A daemon's process id.
    pub fn process(&self, router: usize) -> u32 {
        self.daemons[router].as_ref().expect("the daemon runs").id()
    }

    /// Resident memory of a daemon in bytes.
    pub fn resident(&self, router: usize) -> u64 {
        resident(self.process(router))
    }

    /// Processor time that a daemon has used, all threads.
    pub fn processor(&self, router: usize) -> Duration {
        processor(self.process(router))
    }
}

/// What CLOCK_MONOTONIC shows, the clock of `mono_us` in the daemons' events.
pub fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has it").into()
}

/// Resident memory of a process in bytes.
///
/// # Panics
/// When there is no such process.
pub fn resident(process: u32) -> u64 {
    memory(process, "VmRSS:")
}

/// Resident memory in bytes that a process has for itself: its program's pages are not in it.
///
/// # Panics
/// When there is no such process.
pub fn anonymous(process: u32) -> u64 {
    memory(process, "RssAnon:")
}

fn memory(process: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a line of its status");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// Processor time that a process has used, all threads that it has.
///
/// # Panics
/// When there is no such process.
pub fn processor(process: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("its threads");
    let of = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
    };
    Duration::from_nanos(tasks.filter_map(Result::ok).map(of).sum())
}
