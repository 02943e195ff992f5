//! A daemon of a laboratory: started, and ended in order.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use muster_netlab::{Namespace, Process};
use nix::sys::signal::Signal;

use crate::lab::Lab;

/// Starts a program by the configuration `name`.toml of this folder; what it says goes to `name`.log there.
///
/// # Panics
/// When it does not start.
pub fn spawn(at: &Namespace, program: &Path, arguments: &[&str], folder: &Path, name: &str) -> Process {
    let path = |kind: &str| folder.join(format!("{name}.{kind}"));
    let log = File::options().create(true).append(true).open(path("log")).expect("a log");
    let mut command = Command::new(program);
    command.args(arguments).arg("--config").arg(path("toml"));
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
    // Only a program without a cipher looks at it.
    command.env("MUSTER_NULL_CIPHER", "measure");
    at.spawn(command).expect("the daemon starts")
}

/// Ends it in order. It must do so within three seconds, or longer below a sky, and with status 0; `log` says what it did instead.
pub(crate) fn terminate(mut process: Process, log: impl FnOnce() -> String) {
    process.signal(Signal::SIGTERM).expect("it can be signalled");
    let status = process.wait(Lab::patience(Duration::from_secs(3))).expect("it can be waited for");
    assert_eq!(status.and_then(|status| status.code()), Some(0), "{}", log());
}
