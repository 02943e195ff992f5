//! Anonymous network namespaces.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sched::{CloneFlags, setns, unshare};

use crate::{Error, Result};

/// A network namespace, held by a file descriptor and nothing else.
///
/// Has no name in the file system: it goes away with the last of this value, the sockets opened in it and the
/// processes started in it, also when this process panics or is killed.
///
/// Work is done inside by threads of its own ([`Namespace::run`]), since a namespace is an attribute of a thread; the
/// caller's thread never changes.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    pub(crate) file: Arc<File>,
}

impl Namespace {
    /// Creates a namespace in which `lo` is up and addresses are usable at once (no duplicate address detection).
    ///
    /// `name` appears in errors only.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN`, or when the user's limit of namespaces is reached.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let file = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                own_namespace()
            });
            joined(thread)
        })
        .map_err(|e| Error::system(format!("create network namespace {name}"), e))?;
        let namespace = Namespace { name, file: Arc::new(file) };
        for (key, value) in QUICK_START {
            namespace.sysctl(key, value)?;
        }
        namespace.set_up("lo", true)?;
        Ok(namespace)
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let file = own_namespace().map_err(|e| Error::system(format!("open network namespace {name}"), e))?;
        Ok(Namespace { name, file: Arc::new(file) })
    }

    /// The name given at creation.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The descriptor, for `setns` or to hand the namespace on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Runs `work` inside the namespace and returns what it returns; blocks as long as `work` does.
    ///
    /// Sockets opened by `work` stay in the namespace wherever they are used later. Calls from several threads run
    /// side by side. A panic in `work` goes on in the caller. `/proc/net` there is still the main thread's: read
    /// `/proc/thread-self/net`.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.try_run("enter", || Ok(work()))
    }

    /// As [`Namespace::run`], for work that may fail; `what` (an infinitive) goes into the error.
    ///
    /// # Errors
    /// Those of `work`, and when the namespace cannot be entered.
    pub fn try_run<T: Send>(&self, what: &str, work: impl FnOnce() -> io::Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&*self.file, CloneFlags::CLONE_NEWNET)?;
                work()
            });
            joined(thread)
        })
        .map_err(|e| Error::system(format!("{what} (namespace {})", self.name), e))
    }

    /// Sets a network sysctl of this namespace. `key` is the path below `/proc/sys/net`, for example
    /// `ipv6/conf/all/forwarding`.
    ///
    /// # Errors
    /// When the kernel has no such key or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        // The kernel resolves this path for the namespace of the thread that opens it.
        self.try_run(&format!("set net/{key} to {value}"), || fs::write(format!("/proc/sys/net/{key}"), value))
    }

    /// Reads a network sysctl of this namespace, without the final line feed.
    ///
    /// # Errors
    /// When the kernel has no such key.
    pub fn read_sysctl(&self, key: &str) -> Result<String> {
        let text = self.try_run(&format!("read net/{key}"), || fs::read_to_string(format!("/proc/sys/net/{key}")))?;
        Ok(text.trim_end().to_owned())
    }
}

/// Makes a new namespace the same on every machine, and addresses usable without the two seconds of duplicate address
/// detection. Forwarding stays off: turning it on is the daemon's work.
const QUICK_START: [(&str, &str); 7] = [
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/dad_transmits", "0"),
    // Inherited from the machine otherwise; strict filtering would drop what arrives through a tunnel.
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
];

pub(crate) fn own_namespace() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
