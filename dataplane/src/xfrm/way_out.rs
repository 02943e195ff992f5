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
    rule: Request,
    unrule: Request,
    route: Option<Request>,
}

impl WayOut {
    /// For packets that bear `mark`, and for the group on the black interface with this number.
    pub(super) fn start(mark: u32, group: IpAddr, black: u32) -> Result<Self, Error> {
        let socket = BatchSocket::open(netlink_sys::protocols::NETLINK_ROUTE, "opening a netlink socket")?;
        let request = |kind, flags, message: &dyn Fn(&mut Vec<u8>), what: &str| {
            let mut body = Vec::new();
            message(&mut body);
            Request { kind, flags: NLM_F_REQUEST | flags, body: Zeroizing::new(body), what: what.to_owned() }
        };
        let rule = |body: &mut Vec<u8>| emit(&rule(mark, group.is_ipv4()), body);
        let route = |body: &mut Vec<u8>| emit(&route(group, black), body);
        let create = NLM_F_CREATE | NLM_F_EXCL;
        let mut way_out = WayOut {
            socket,
            rule: request(libc::RTM_NEWRULE, create, &rule, "the rule for what was encrypted"),
            unrule: request(libc::RTM_DELRULE, 0, &rule, "removing the rule for what was encrypted"),
            // IPv4 goes by its source address.
            route: group
                .is_ipv6()
                .then(|| request(libc::RTM_NEWROUTE, create, &route, "the route to the group on black")),
        };
        way_out.keep()?;
        Ok(way_out)
    }

    /// Sets again what the kernel drops when black goes down.
    pub(super) fn keep(&mut self) -> Result<(), Error> {
        // While black is down there is no way out.
        let forgiven = [libc::EEXIST, libc::ENETDOWN, libc::ENODEV];
        self.socket.demand(std::slice::from_ref(&self.rule), &[libc::EEXIST])?;
        self.route.as_ref().map_or(Ok(()), |route| self.socket.demand(std::slice::from_ref(route), &forgiven))
    }
}

impl Drop for WayOut {
    fn drop(&mut self) {
        let unroute =
            self.route.take().map(|route| Request { kind: libc::RTM_DELROUTE, flags: NLM_F_REQUEST, ..route });
        let _ = self.socket.ask(std::slice::from_ref(&self.unrule));
        let _ = unroute.map(|unroute| self.socket.ask(&[unroute]));
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

fn emit(message: &impl Emitable, body: &mut Vec<u8>) {
    body.resize(message.buffer_len(), 0);
    message.emit(body);
}
