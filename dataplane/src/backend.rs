//! Which data plane runs.

use std::str::FromStr;

use crate::{Dataplane, Error, EspConfig, Kernel, Userspace};

/// As `dataplane.backend` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The best that this machine has.
    Auto,
    /// [`Kernel`]
    Kernel,
    /// [`Userspace`]
    Userspace,
}

impl FromStr for Backend {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "auto" => Ok(Backend::Auto),
            "kernel" => Ok(Backend::Kernel),
            "userspace" => Ok(Backend::Userspace),
            _ => Err(()),
        }
    }
}

/// Starts a data plane.
///
/// # Errors
/// As [`Kernel::start`] and [`Userspace::start`].
pub fn start(backend: Backend, config: EspConfig) -> Result<Box<dyn Dataplane>, Error> {
    match backend {
        Backend::Kernel => Ok(Box::new(Kernel::start(config)?)),
        Backend::Auto | Backend::Userspace => Ok(Box::new(Userspace::start(config)?)),
    }
}
