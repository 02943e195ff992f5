//! Runs the real binary.

#![allow(dead_code, reason = "not every test file uses all of it")]

use std::ffi::OsStr;
use std::process::{Command, Output};

pub(crate) fn muster() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    command.env_remove("MUSTER_CONTROL").env_remove("MUSTER_GCKS_CONTROL");
    command
}

pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!(self.status, 0, "stdout: {}\nstderr: {}", self.out, self.err);
        self.out
    }

    /// Failed with exit status 1 and one line that holds all of `words`.
    #[track_caller]
    pub(crate) fn failed(self, words: &[&str]) {
        assert_eq!(self.status, 1, "stdout: {}\nstderr: {}", self.out, self.err);
        assert!(self.err.starts_with("muster: ") && self.err.lines().count() == 1, "{}", self.err);
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {}", self.err);
        }
    }

    #[track_caller]
    pub(crate) fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.done()).unwrap()
    }
}

pub(crate) fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    ran(muster().args(args).output().unwrap())
}

pub(crate) fn ran(output: Output) -> Ran {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { status: output.status.code().expect("not killed"), out: text(output.stdout), err: text(output.stderr) }
}

/// Whether the test cannot run here; then a line says why.
pub(crate) fn skip(test: &str) -> bool {
    if let Err(reason) = muster_dataplane::probe().tun {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "SKIP {test}: {reason}");
        return true;
    }
    muster_netlab::skip(test)
}
