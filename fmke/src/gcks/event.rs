//! What the operator of a key server is told.

use std::fmt;
use std::net::SocketAddr;

use crate::phase1::CertificateError;

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client has shown who it is.
    Connected {
        /// Which.
        client: String,
        /// Where it is.
        address: SocketAddr,
        /// It holds nothing of what it was told before.
        began_anew: bool,
    },
    /// A client is no longer connected. It is still a member of its groups.
    Closed {
        /// Which.
        client: String,
        /// Why.
        why: String,
    },
    /// A group has new keys.
    Rekeyed {
        /// Which.
        group: String,
        /// How many members are in.
        members: usize,
        /// Who is no longer.
        gone: Vec<String>,
    },
    /// A client has lost access.
    Excluded {
        /// Which.
        client: String,
    },
    /// A client has lost access until it shows another certificate.
    Lapsed {
        /// Which.
        client: String,
        /// What is wrong with the one that it has shown.
        why: CertificateError,
    },
    /// A group could not be changed.
    Failed {
        /// Which.
        group: String,
        /// Why.
        why: String,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Connected { client, address, began_anew: true } => {
                write!(f, "{client} has connected from {address}")
            }
            Event::Connected { client, address, .. } => write!(f, "{client} has connected again from {address}"),
            Event::Closed { client, why } => write!(f, "{client} is no longer connected: {why}"),
            Event::Rekeyed { group, members, gone } => {
                let s = if *members == 1 { "" } else { "s" };
                write!(f, "{group} has new keys, for {members} member{s}")?;
                if gone.is_empty() { Ok(()) } else { write!(f, ", without {}", gone.join(", ")) }
            }
            Event::Excluded { client } => write!(f, "{client} is excluded"),
            Event::Lapsed { client, why } => write!(f, "{client} has lost access: its certificate: {why}"),
            Event::Failed { group, why } => write!(f, "{group} could not be changed: {why}"),
        }
    }
}
