//! What a state machine wants sent.

use std::net::SocketAddr;

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The black multicast group of the protocol.
    Group,
    /// One device.
    Unicast(SocketAddr),
}

/// A datagram to send, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: Destination,
    /// The signed envelope.
    pub bytes: Vec<u8>,
}
