//! What goes to standard output, and what ends a command early.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

/// Why the thing asked for was not done. Exit status 1.
#[derive(Debug)]
pub(crate) enum Failure {
    /// In one line, naming the file, key or address, and what to do.
    Because(String),
    /// The output says it already.
    Told,
    /// Nobody reads our output any more (`muster events | head`).
    Unread,
}

impl Failure {
    /// Says it on standard error, and turns it into the exit status.
    pub(crate) fn report(self) -> ExitCode {
        if let Failure::Because(why) = self {
            // If nobody reads that either, the exit status still tells.
            let _ = writeln!(io::stderr(), "muster: {why}");
        }
        ExitCode::FAILURE
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Because(error.to_string())
    }
}

/// A failure in words.
pub(crate) fn because(why: impl Into<String>) -> Failure {
    Failure::Because(why.into())
}

/// Prints a line; never panics, unlike the macro.
pub(crate) fn say(line: impl Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::Unread,
        _ => because(format!("standard output: {error}")),
    })
}

/// Says something beside the output, on standard error.
pub(crate) fn hint(what: impl Display) {
    let _ = writeln!(io::stderr(), "muster: {what}");
}
