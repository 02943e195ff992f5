//! Privileges: root, a user namespace, or a test that says why it did not run.

use std::fs;
use std::io::Write;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};

use crate::{Error, Namespace, Result};

/// Makes an ordinary user root in a user namespace of this process, with an empty network of its own.
///
/// Must be called while the process has one thread (before any runtime): the kernel allows it to no other.
///
/// # Errors
/// When the process has several threads (`EINVAL`) or the system forbids user namespaces to users (`EPERM`,
/// `ENOSPC`).
pub fn enter_user_namespace() -> Result<()> {
    let (user, group) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).map_err(|e| {
        Error::system("create a user namespace (are they allowed here: sysctl user.max_user_namespaces?)", e)
    })?;
    // The kernel wants setgroups given up before an unprivileged group map.
    for (file, text) in
        [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {user} 1")), ("gid_map", format!("0 {group} 1"))]
    {
        let path = format!("/proc/self/{file}");
        fs::write(&path, text).map_err(|e| Error::system(format!("write {path}"), e))?;
    }
    Ok(())
}

/// Why this machine or this user cannot have a laboratory, or `None` if they can.
///
/// # Errors
/// When it fails for another reason than a missing privilege or a missing part of the kernel: that is a fault of this
/// crate, and no reason to skip anything.
pub fn unavailable() -> Result<Option<String>> {
    let attempt = || -> Result<()> {
        let (a, b) = (Namespace::new("probe")?, Namespace::new("probe's peer")?);
        a.add_bridge("br0")?;
        a.add_veth(&"v0".into(), &b, &"v0".into())
    };
    let missing = [Errno::EPERM, Errno::EACCES, Errno::ENOSPC, Errno::EOPNOTSUPP, Errno::ENOSYS];
    match attempt() {
        Ok(()) => Ok(None),
        Err(error) if missing.iter().any(|errno| error.os_error() == Some(*errno as i32)) => {
            Ok(Some(error.to_string()))
        }
        Err(error) => Err(error),
    }
}

/// For tests: whether to skip because no laboratory can be built here. Then a line `SKIP <test>: <reason>` goes to
/// standard error, also when the harness hides a test's output.
///
/// # Panics
/// When [`unavailable`] fails, so that a broken laboratory is not mistaken for a missing privilege.
pub fn skip(test: &str) -> bool {
    let reason = match unavailable() {
        Ok(None) => return false,
        Ok(Some(reason)) => reason,
        Err(error) => panic!("{test}: {error}"),
    };
    // The harness captures the print macros, not the stream. If it is closed, nobody is there to read.
    let _ = writeln!(std::io::stderr(), "SKIP {test}: {reason}");
    true
}
