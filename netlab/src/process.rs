//! Child processes inside a namespace, never left behind.

use std::fs::File;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, LazyLock, mpsc};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};

use crate::namespace::own_namespace;
use crate::{Error, Namespace, Result, wait_until};

impl Namespace {
    /// Starts a program inside the namespace.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&self, mut command: Command) -> Result<Process> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.env(PARENT, std::process::id().to_string());
        let (answer, outcome) = mpsc::channel();
        let failed = |e| Error::system(format!("start {program} (namespace {})", self.name()), e);
        SPAWNER
            .send(Job { namespace: self.file.clone(), command, answer })
            .map_err(|_| failed(io::ErrorKind::BrokenPipe.into()))?;
        let child = outcome.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into())).map_err(failed)?;
        Ok(Process { program, child })
    }
}

/// A running child; killed and reaped on drop.
#[derive(Debug)]
pub struct Process {
    program: String,
    child: Child,
}

impl Process {
    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal; nothing happens if the process has been reaped.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.exited()?.is_some() {
            return Ok(());
        }
        // Not reaped, so the id cannot have been given to another process. Ids fit: Linux has at most 2^22.
        kill(Pid::from_raw(self.child.id() as i32), signal)
            .map_err(|e| Error::system(format!("send {signal} to {}", self.program), e))
    }

    /// Kills the process without a word to it, and reaps it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.child
            .kill()
            .and_then(|()| self.child.wait())
            .map_err(|e| Error::system(format!("kill {}", self.program), e))
    }

    /// The exit status if the process has ended.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().map_err(|e| Error::system(format!("wait for {}", self.program), e))
    }

    /// Waits at most `limit` for the end of the process; `None` if it is still running then.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let mut outcome = Ok(None);
        wait_until(limit, || {
            outcome = self.exited();
            !matches!(outcome, Ok(None))
        });
        outcome
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has been reaped already, and then nothing is left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In a program started by [`Namespace::spawn`]: be killed when the starter dies, also by `kill -9`. In any other
/// program it does nothing. Call it at the start of `main`.
///
/// # Errors
/// When the starter is dead already (then exit), or the kernel refuses.
pub fn die_with_parent() -> Result<()> {
    let Some(parent) = std::env::var(PARENT).ok().and_then(|id| id.parse().ok()) else { return Ok(()) };
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| Error::system("tie this process to its parent", e))?;
    match getppid() == Pid::from_raw(parent) {
        true => Ok(()),
        false => Err(Error::Invalid(format!("process {parent}, which started this one, is gone"))),
    }
}

/// Environment variable that carries the starter's process id.
const PARENT: &str = "MUSTER_NETLAB_PARENT";

struct Job {
    namespace: Arc<File>,
    command: Command,
    answer: mpsc::Sender<io::Result<Child>>,
}

/// Forks all children. The "parent" in a parent-death signal is the *thread* that forked, so it must be one that lives
/// as long as the process.
static SPAWNER: LazyLock<mpsc::Sender<Job>> = LazyLock::new(|| {
    let (jobs, queue) = mpsc::channel::<Job>();
    std::thread::spawn(move || {
        for Job { namespace, mut command, answer } in queue {
            // A caller that has gone away wants no answer.
            let _ = answer.send(spawn_inside(&namespace, &mut command));
        }
    });
    jobs
});

fn spawn_inside(namespace: &File, command: &mut Command) -> io::Result<Child> {
    let home = own_namespace()?;
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let child = command.spawn();
    // Staying inside would keep the namespace alive after its owner dropped it.
    setns(home, CloneFlags::CLONE_NEWNET)?;
    child
}
