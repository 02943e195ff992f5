//! Which data plane runs, and why.

use std::str::FromStr;

use tracing::warn;

use crate::userspace::Userspace;
use crate::xfrm::Kernel;
use crate::{Dataplane, Error, EspConfig};

/// As `dataplane.backend` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The kernel's where it can be started, else the other.
    Auto,
    /// Linux's own ESP, through an xfrm interface.
    Kernel,
    /// ESP by this program, over a TUN device and raw sockets.
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

/// A data plane that runs.
pub struct Running {
    /// Itself.
    pub dataplane: Box<dyn Dataplane>,
    /// Why it is this one, for people.
    pub reason: String,
}

/// What a program says that was built with the feature `null-cipher`.
const NOT_ENCRYPTED: &str = "null cipher: nothing is encrypted";

/// The environment variable without which it does not run: nobody is to have it by accident.
const ASKED_FOR: &str = "MUSTER_NULL_CIPHER";

/// Starts a data plane. With [`Backend::Auto`] the kernel's is tried: it is started, and what it lacks is the reason for
/// the other one. Built with the feature `null-cipher`, the program starts that in user space or nothing.
///
/// # Errors
/// A configuration that cannot work, an interface that is not there, a missing right or device, what the kernel lacks: each
/// by name.
pub fn start(backend: Backend, config: EspConfig) -> Result<Running, Error> {
    if cfg!(feature = "null-cipher") {
        return null_cipher(backend, config);
    }
    let configured = || "configured".to_owned();
    match backend {
        Backend::Kernel => Ok(Running { dataplane: Box::new(Kernel::start(config)?), reason: configured() }),
        Backend::Userspace => userspace(config, configured()),
        Backend::Auto => match Kernel::suits(&config).and_then(|()| Kernel::start(config.clone())) {
            Ok(kernel) => {
                let reason = "the kernel has ESP, xfrm interfaces and nf_tables".to_owned();
                Ok(Running { dataplane: Box::new(kernel), reason })
            }
            Err(error) => userspace(config, format!("not the kernel's ESP: {error}")),
        },
    }
}

fn null_cipher(backend: Backend, config: EspConfig) -> Result<Running, Error> {
    if backend == Backend::Kernel {
        return Err(Error::Config(format!(
            "dataplane.backend: this program cannot use the kernel's ({NOT_ENCRYPTED})"
        )));
    }
    if std::env::var_os(ASKED_FOR).is_none() {
        return Err(Error::Config(format!("{NOT_ENCRYPTED}: this program runs only where {ASKED_FOR} is set")));
    }
    warn!("{NOT_ENCRYPTED}; this program was built for measuring");
    userspace(config, NOT_ENCRYPTED.to_owned())
}

fn userspace(config: EspConfig, reason: String) -> Result<Running, Error> {
    Ok(Running { dataplane: Box::new(Userspace::start(config)?), reason })
}
