//! What the operator of a client is told.

use std::fmt;
use std::net::IpAddr;

use crate::phase1::{Closed, Failed};

/// Something that has happened. A group is known by where its re-key messages come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is an SA with the key server.
    Connected,
    /// There is none any more.
    Disconnected {
        /// Why.
        why: Closed,
    },
    /// The key server does not answer, or we and it do not fit: tried again after a while.
    Refused(Failed),
    /// We are in a group.
    Joined {
        /// Which.
        group: (IpAddr, u16),
    },
    /// A group has new keys.
    Rekeyed {
        /// Which.
        group: (IpAddr, u16),
    },
    /// The key server has taken us out of a group.
    Left {
        /// Which.
        group: (IpAddr, u16),
    },
    /// A group is not received any longer.
    Lost {
        /// Which.
        group: (IpAddr, u16),
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Connected => f.write_str("connected with the key server"),
            Event::Disconnected { why } => {
                write!(f, "no longer connected with the key server: {why}")
            }
            Event::Refused(failed) => failed.fmt(f),
            Event::Joined { group: (address, port) } => write!(f, "in the group of {address} port {port}"),
            Event::Rekeyed { group: (address, port) } => write!(f, "new keys in the group of {address} port {port}"),
            Event::Left { group: (address, port) } => write!(f, "out of the group of {address} port {port}"),
            Event::Lost { group: (address, port) } => {
                write!(f, "the group of {address} port {port} is not heard any longer")
            }
        }
    }
}
