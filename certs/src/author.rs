//! A device as the author of its datagrams.

use muster_wire::{Body, GroupTag, Header, MemberId, WireError, codec};

use crate::SigningKey;

/// Signs a device's datagrams on one port, each with the next sequence number.
#[derive(Clone)]
pub struct Author {
    key: SigningKey,
    group: GroupTag,
    member: MemberId,
    startup: u64,
    sequence: u64,
}

impl Author {
    /// `startup`: this start's stamp, higher than that of every start before.
    pub fn new(key: SigningKey, group: GroupTag, member: MemberId, startup: u64) -> Self {
        Self { key, group, member, startup, sequence: 0 }
    }

    /// A signed datagram with this body.
    pub fn seal<T: Body>(&mut self, body: &T) -> Result<Vec<u8>, WireError> {
        let sequence = self.next_sequence();
        self.seal_as(sequence, body)
    }

    /// Takes a sequence number, for a body that depends on it; [`Author::seal_as`] then uses it.
    pub fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// A signed datagram with a sequence number from [`Author::next_sequence`].
    pub fn seal_as<T: Body>(&self, sequence: u64, body: &T) -> Result<Vec<u8>, WireError> {
        let header = Header { kind: T::KIND, group: self.group, sender: self.member, startup: self.startup, sequence };
        self.key.seal(&header, &codec::encode(body)?)
    }

    /// The certificate's private key.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// The group.
    pub fn group(&self) -> GroupTag {
        self.group
    }

    /// The device.
    pub fn member(&self) -> MemberId {
        self.member
    }

    /// This start's stamp.
    pub fn startup(&self) -> u64 {
        self.startup
    }
}
