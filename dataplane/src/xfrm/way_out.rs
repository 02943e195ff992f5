//! The way of what was encrypted: by black, whatever prefixes other routers announce.
//!
//! The kernel looks up where an ESP packet goes as for any packet of its own, and not on black alone. So its SAs give it a
//! mark, and a rule before those of the block sends what bears the mark by the main table; and the group, which in IPv6 would
//! leave by the interface that came up first, has a route of its own.

use std::net::IpAddr;

use netlink_packet_core::{Emitable, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use zeroize::Zeroizing;

use super::request::Request;
use super::socket::BatchSocket;
use crate::Error;

/// Behind the block's rules for black and before all others of it.
const PRIORITY: u32 = 28;

/// The rule and the route of one instance; removed when this is dropped.
pub(super) struct WayOut {
    /// Of the network namespace that it was made in, whoever asks later.
    socket: BatchSocket,
    mark: u32,
    group: IpAddr,
    /// The black interface that the route leads to.
    black: Option<u32>,
}

impl WayOut {
    /// For packets that bear `mark`, and for the group.
    pub(super) fn start(mark: u32, group: IpAddr) -> Result<Self, Error> {
        let socket = BatchSocket::open(netlink_sys::protocols::NETLINK_ROUTE, "opening a netlink socket")?;
        Ok(WayOut { socket, mark, group, black: None })
    }

    /// What a predecessor has left; dropping it removes that.
    pub(super) fn found(mark: u32, group: IpAddr, black: u32) -> Result<Self, Error> {
        let mut found = Self::start(mark, group)?;
        found.black = group.is_ipv6().then_some(black);
        Ok(found)
    }

    /// Sets what is not there: the kernel drops routes when black goes down, and black may be another interface by now.
    pub(super) fn keep(&mut self, black: u32) -> Result<(), Error> {
        let create = NLM_F_CREATE | NLM_F_EXCL;
        let rule = request(libc::RTM_NEWRULE, create, &rule(self.mark, self.group.is_ipv4()));
        self.socket.demand(&[rule], &[libc::EEXIST])?;
        // IPv4 goes by its source address.
        if self.group.is_ipv6() {
            self.black = Some(black);
            // While black is down there is no way out.
            let forgiven = [libc::EEXIST, libc::ENETDOWN, libc::ENODEV, libc::EINVAL];
            self.socket.demand(&[request(libc::RTM_NEWROUTE, create, &route(self.group, black))], &forgiven)?;
        }
        Ok(())
    }
}

impl Drop for WayOut {
    fn drop(&mut self) {
        let rule = request(libc::RTM_DELRULE, 0, &rule(self.mark, self.group.is_ipv4()));
        let route = self.black.map(|black| request(libc::RTM_DELROUTE, 0, &route(self.group, black)));
        let _ = self.socket.ask(&[rule].into_iter().chain(route).collect::<Vec<_>>());
    }
}

/// From here, marked: by the main table.
fn rule(mark: u32, ipv4: bool) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = if ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    rule.header.action = RuleAction::ToTable;
    rule.header.table = RouteHeader::RT_TABLE_MAIN;
    rule.attributes = vec![
        RuleAttribute::Priority(PRIORITY),
        // What is forwarded bears no mark of ours; should somebody give it one, it is not meant.
        RuleAttribute::Iifname("lo".into()),
        RuleAttribute::FwMark(mark),
        RuleAttribute::FwMask(u32::MAX),
        RuleAttribute::Protocol(RouteProtocol::Kernel),
    ];
    rule
}

/// In the table of local addresses, which comes first: there every interface has a route to all groups.
fn route(group: IpAddr, black: u32) -> RouteMessage {
    let mut route = RouteMessage::default();
    let (family, length, address) = match group {
        IpAddr::V4(group) => (AddressFamily::Inet, 32, RouteAddress::Inet(group)),
        IpAddr::V6(group) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(group)),
    };
    route.header.address_family = family;
    route.header.destination_prefix_length = length;
    route.header.table = libc::RT_TABLE_LOCAL;
    route.header.protocol = RouteProtocol::Kernel;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Multicast;
    route.attributes =
        vec![RouteAttribute::Destination(address), RouteAttribute::Oif(black), RouteAttribute::Priority(1)];
    route
}

fn request(kind: u16, flags: u16, message: &impl Emitable) -> Request {
    let mut body = Zeroizing::new(vec![0; message.buffer_len()]);
    message.emit(&mut body);
    Request { kind, flags: NLM_F_REQUEST | flags, body, what: "the way of what was encrypted".into() }
}
