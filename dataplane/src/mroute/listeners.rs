//! What hosts on the red interfaces listen to, of one family: IGMPv3 and MLDv2, asked for and heard.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use muster_membership::{Changed, Message, Querier, Role, packet};
use muster_wire::Time;
use tracing::debug;

use super::kernel::Family;
use super::packet_socket::PacketSocket;
use super::{Flow, TUNNEL};
use crate::policy::is_carried;
use crate::{Error, Listening, netlink};

/// Packets read of one interface before the others have their turn.
const BATCH: usize = 16;

/// The red interfaces, in the order of the table.
pub(super) struct Listeners {
    family: Family,
    started: Instant,
    links: Vec<Link>,
}

struct Link {
    name: String,
    ifindex: u32,
    socket: PacketSocket,
    querier: Mutex<Querier>,
}

impl Listeners {
    /// `reds`: names and indices.
    pub(super) fn start<'a>(family: Family, reds: impl Iterator<Item = (&'a String, u32)>) -> Result<Self, Error> {
        let link = |(name, ifindex): (&String, u32)| {
            let what = || format!("interface {name}: listening to hosts' {}", protocol(family));
            let socket = PacketSocket::open(family, ifindex).map_err(Error::io(what))?;
            Ok(Link { name: name.clone(), ifindex, socket, querier: Mutex::new(Querier::new(Time(0))) })
        };
        Ok(Listeners { family, started: Instant::now(), links: reds.map(link).collect::<Result<_, Error>>()? })
    }

    /// Whether a host on this interface listens to the flow. The tunnel is sent everything.
    pub(super) fn want(&self, vif: u16, flow: &Flow) -> bool {
        let link = vif.checked_sub(TUNNEL + 1).and_then(|red| self.links.get(usize::from(red)));
        link.is_none_or(|link| link.querier().wants(&flow.group, &flow.source))
    }

    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.links.iter().map(|link| link.socket.as_fd())
    }

    /// How long nothing has to be done, if nothing comes in.
    pub(super) fn rest(&self) -> Option<Duration> {
        let next = self.links.iter().filter_map(|link| link.querier().poll_timeout()).min()?;
        Some(next.since(self.now()))
    }

    /// Reads, asks, forgets, as is due. The groups of which something else is wanted now; of those in `carried` alone.
    pub(super) fn work(&self, carried: &[IpNet]) -> Changed {
        let mut changed = Changed::default();
        self.links.iter().for_each(|link| changed.extend(self.work_on(link, carried)));
        changed
    }

    fn work_on(&self, link: &Link, carried: &[IpNet]) -> Changed {
        // As long as a report may be on any link in use; what is longer comes cut, and is refused for it.
        let mut buffer = [0; 9216];
        for _ in 0..BATCH {
            match link.socket.next(&mut buffer) {
                Ok(Some(bytes)) => {
                    let Some((source, mut message)) = packet::parse(bytes) else { continue };
                    match &mut message {
                        Message::Report(_, records) => records.retain(|record| is_carried(carried, record.group)),
                        // Which of the two asks from now on the addresses say.
                        Message::Query(_) => link.querier().set_address(own_address(self.family, link.ifindex)),
                    }
                    link.querier().handle_message(self.now(), source, &message);
                }
                Ok(None) => break,
                // The interface is down, said once.
                Err(error) => {
                    debug!(interface = link.name, "hearing {}: {error}", protocol(self.family));
                    break;
                }
            }
        }
        self.ask(link);
        link.querier().take_changed()
    }

    fn ask(&self, link: &Link) {
        let is_due = |querier: &Querier, now| querier.poll_timeout().is_some_and(|next| next <= now);
        let now = self.now();
        if !is_due(&link.querier(), now) {
            return;
        }
        let asks_all = link.querier().asks_all(now);
        let looked_up = asks_all.then(|| own_address(self.family, link.ifindex));
        let (address, queries): (_, Vec<_>) = {
            let mut querier = link.querier();
            let role = querier.role();
            if let Some(address) = looked_up {
                querier.set_address(address);
            }
            querier.handle_timeout(now);
            if querier.role() != role {
                debug!(interface = link.name, "asks for {} listeners again", protocol(self.family));
            }
            (querier.address(), std::iter::from_fn(|| querier.poll_transmit()).collect())
        };
        for query in queries {
            // Without an address none is due.
            let Some((bytes, to)) = address.and_then(|address| packet::query(address, &query)) else { continue };
            if let Err(error) = link.socket.send(&bytes, to) {
                debug!(interface = link.name, "asking for {} listeners: {error}", protocol(self.family));
            }
        }
    }

    /// For `status`.
    pub(super) fn listening(&self) -> impl Iterator<Item = Listening> {
        self.links.iter().map(|link| {
            let querier = link.querier();
            Listening {
                interface: link.name.clone(),
                ipv4: self.family == Family::Ipv4,
                querier: match querier.role() {
                    Role::Querier => None,
                    Role::NonQuerier { querier } => Some(querier),
                },
                groups: querier.groups().collect(),
                refused: querier.refused(),
            }
        })
    }

    fn now(&self) -> Time {
        Time(0) + self.started.elapsed()
    }
}

impl Link {
    fn querier(&self) -> MutexGuard<'_, Querier> {
        // A panic under it ends the data plane.
        self.querier.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn protocol(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "IGMP",
        Family::Ipv6 => "MLD",
    }
}

/// That queries come from: the lowest, for MLD of the link-local ones (RFC 3810 5.1.14).
fn own_address(family: Family, ifindex: u32) -> Option<IpAddr> {
    let can_ask = |address: &IpAddr| match (family, address) {
        (Family::Ipv4, IpAddr::V4(_)) => true,
        (Family::Ipv6, IpAddr::V6(address)) => address.is_unicast_link_local(),
        _ => false,
    };
    // An interface whose addresses cannot be read is gone, or going.
    let all = netlink::run(async |handle| netlink::usable_addresses(handle, ifindex).await).unwrap_or_default();
    all.into_iter().filter(can_ask).min()
}
