//! What can go wrong here. Never holds a key or anything derived from one.

use std::io;
use std::net::IpAddr;

/// An error of the data plane: names the interface, address, file or SPI, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Invariant 4, freshness: under counter mode a key that comes back repeats nonces.
    #[error("the key for SPI {spi:#010x} was installed before in this process; refused until there is another")]
    KeyReused {
        /// Of the SA that was refused.
        spi: u32,
    },
    /// RFC 4303 2.1: SPI 0 is for local use, 1 to 255 are reserved.
    #[error("SPI {spi:#010x} is reserved (RFC 4303 2.1); choose one above 255")]
    ReservedSpi {
        /// The SPI asked for.
        spi: u32,
    },
    /// Two SAs of one batch with one (destination, SPI).
    #[error("two SAs to {destination} with SPI {spi:#010x} in one batch; nothing was installed")]
    DuplicateSa {
        /// Their outer destination.
        destination: IpAddr,
        /// Their SPI.
        spi: u32,
    },
    /// An outbound SA for one router with the (destination, SPI) of another's: whoever chose them is after that one's.
    #[error(
        "another router has the SA to {destination} with SPI {spi:#010x}; this one gets none until its keys are renewed"
    )]
    SpiTaken {
        /// Its outer destination.
        destination: IpAddr,
        /// Its SPI.
        spi: u32,
    },
    /// The outer destination cannot be reached from the black address.
    #[error("outer destination {destination} and black address {black} are of different families")]
    FamilyMismatch {
        /// Of the SA or the group.
        destination: IpAddr,
        /// The router's own.
        black: IpAddr,
    },
    /// The SA would carry what its destination does not take.
    #[error("a {kind} SA cannot go to {destination}")]
    KindMismatch {
        /// Of the SA: group or unicast.
        kind: &'static str,
        /// Its outer destination.
        destination: IpAddr,
    },
    /// A configuration value that cannot work.
    #[error("{0}")]
    Config(String),
    /// What ran has ended or was taken away by others.
    #[error("{0}")]
    Lost(String),
    /// The named interface is not there.
    #[error("interface {name}: not found; create it or correct the configuration")]
    NoInterface {
        /// As configured.
        name: String,
    },
    /// The kernel refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, on what, and what to do.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: `socket.bind(…).map_err(Error::io(|| format!(…)))`.
    pub(crate) fn io<E: Into<io::Error>>(what: impl FnOnce() -> String) -> impl FnOnce(E) -> Error {
        move |source| Error::Io { what: what(), source: source.into() }
    }
}
