//! What the driver can ask the machine.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use muster_certs::{Identity, RevocationList};
use muster_wire::{MemberId, Nonce, Time};

use crate::Discovery;
use crate::counters::Counters;
use crate::event::Refusal;
use crate::peers::Peer;

impl Discovery {
    /// Neighbours, up and refused.
    pub fn neighbors(&self, now: Time) -> impl Iterator<Item = NeighborStatus> + '_ {
        self.peers.iter().filter_map(move |(member, peer)| match peer {
            Peer::Up(up) => Some(NeighborStatus {
                name: up.identity.name.clone(),
                member,
                address: up.address,
                state: if up.suspicion.is_some() { NeighborState::Suspect } else { NeighborState::Up },
                reason: None,
                last_hello: now.since(up.last_hello),
                interval: up.interval(),
                prefixes: up.announced.as_ref().map(|announced| announced.accepted().to_vec()).unwrap_or_default(),
            }),
            Peer::Refused(refused) => Some(NeighborStatus {
                name: String::new(),
                member,
                address: refused.address,
                state: NeighborState::Refused,
                reason: Some(refused.reason.clone()),
                last_hello: now.since(refused.last_hello),
                interval: Duration::ZERO,
                prefixes: Vec::new(),
            }),
            Peer::Gone(_) => None,
        })
    }

    /// Datagrams dropped.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The validated certificate of a neighbour, up or gone (of the last 1,024).
    pub fn certificate_key(&self, member: &MemberId) -> Option<&Identity> {
        self.peers.identity(member)
    }

    /// The own validated certificate.
    pub fn own_identity(&self) -> &Identity {
        &self.own
    }

    /// The newest revocation list of each trust anchor that has one.
    pub fn revocation_lists(&self) -> impl Iterator<Item = RevocationList<'_>> {
        self.trust.revocation_lists()
    }

    /// The nonces of the own recent hellos, the newest first: who repeats one is on the same network.
    pub fn recent_nonces(&self) -> Vec<Nonce> {
        self.schedule.nonces()
    }
}

/// One line of `muster neighbors`.
#[derive(Clone, Debug)]
pub struct NeighborStatus {
    /// From its certificate; empty when refused.
    pub name: String,
    /// The neighbour.
    pub member: MemberId,
    /// Where it was last heard.
    pub address: SocketAddr,
    /// Its state.
    pub state: NeighborState,
    /// Why, when refused.
    pub reason: Option<Refusal>,
    /// Age of its last hello.
    pub last_hello: Duration,
    /// Its own; zero when refused.
    pub interval: Duration,
    /// What it announces and we accept.
    pub prefixes: Vec<IpNet>,
}

/// How we stand with a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighborState {
    /// Heard in time.
    Up,
    /// Silent for one and a half of its intervals; being asked.
    Suspect,
    /// Not trusted.
    Refused,
}

impl fmt::Display for NeighborState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NeighborState::Up => "up",
            NeighborState::Suspect => "suspect",
            NeighborState::Refused => "refused",
        })
    }
}
