//! The one error of this crate: what was tried, and what the system said.

use std::io;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a laboratory could not be built or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused something.
    #[error("cannot {what}: {source}{}", hint(.source))]
    System {
        /// What was tried, naming the namespace and the device, address or file.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The request makes no sense; nothing was tried.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    pub(crate) fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Error::System { what: what.into(), source: source.into() }
    }

    /// The kernel's error number, if it was the kernel that refused.
    pub fn os_error(&self) -> Option<i32> {
        match self {
            Error::System { source, .. } => source.raw_os_error(),
            Error::Invalid(_) => None,
        }
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => " (run as root, or in a user namespace of your own)",
        _ => "",
    }
}
