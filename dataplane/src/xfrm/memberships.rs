//! Memberships of the groups on black that SAs receive for.

use std::collections::BTreeSet;
use std::net::IpAddr;

use socket2::{Domain, Socket, Type};

use crate::Error;
use crate::black_socket::{at, deafen, join, leave};
use crate::config::EspConfig;

/// Of groups on black, so that its network brings their packets here.
pub(super) struct Memberships {
    socket: Socket,
    ifindex: u32,
    pub(super) groups: BTreeSet<IpAddr>,
}

impl Memberships {
    pub(super) fn new(config: &EspConfig, ifindex: u32, groups: BTreeSet<IpAddr>) -> Result<Self, Error> {
        let EspConfig { black_interface: name, black_address: address, .. } = config;
        let open = || {
            let socket = Socket::new(if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 }, Type::DGRAM, None)?;
            // It carries nothing; bound, it says whether the address is there.
            socket.bind_device(Some(name.as_bytes()))?;
            socket.bind(&at(*address, ifindex))?;
            deafen(&socket, address.is_ipv4())?;
            Ok(socket)
        };
        let what = || format!("interface {name}: joining groups from {address}; is that assigned and usable?");
        let socket = open().map_err(Error::io::<std::io::Error>(what))?;
        let mut all = Memberships { socket, ifindex, groups: BTreeSet::new() };
        all.follow(&groups)?;
        Ok(all)
    }

    /// In these groups, and in no others.
    pub(super) fn follow(&mut self, groups: &BTreeSet<IpAddr>) -> Result<(), Error> {
        for group in &self.groups - groups {
            leave(&self.socket, group, self.ifindex);
            self.groups.remove(&group);
        }
        self.add(groups)
    }

    /// In these groups, too.
    pub(super) fn add(&mut self, groups: &BTreeSet<IpAddr>) -> Result<(), Error> {
        for group in groups - &self.groups {
            join(&self.socket, group, self.ifindex)?;
            self.groups.insert(group);
        }
        Ok(())
    }
}
