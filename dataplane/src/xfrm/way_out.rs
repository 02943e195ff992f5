//! The way of what was encrypted: by black, whatever prefixes other routers announce.
//!
//! The kernel looks up where an ESP packet goes as for any packet of its own, and not on black alone. So its SAs give it a
//! mark, and a rule before those of the block sends what bears the mark by the main table; and the group, which in IPv6 would
//! leave by the interface that came up first, has a route of its own, and so have peers with link-local addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use futures_util::TryStreamExt;
use netlink_packet_core::{Emitable, NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use crate::Error;
use crate::block::WAY_OUT_PRIORITY;
use crate::netlink::batch::{BatchSocket, Request};
use crate::netlink::{self, failed};

/// The rule and the routes of one instance; removed when this is dropped.
pub(super) struct WayOut {
    /// Of the network namespace that it was made in, whoever asks later.
    socket: BatchSocket,
    mark: u32,
    ipv4: bool,
    /// What has a route of its own: the group, and peers with link-local addresses.
    destinations: BTreeSet<Ipv6Addr>,
    /// The black interface that the routes lead to.
    black: Option<u32>,
}

impl WayOut {
    /// For packets that bear `mark`. What a killed predecessor has left goes first: it may lead to what is not black any
    /// more.
    pub(super) fn start(mark: u32, ipv4: bool) -> Result<Self, Error> {
        Self::remove_left_over(mark)?;
        let socket = BatchSocket::open(netlink_sys::protocols::NETLINK_ROUTE, "opening a netlink socket")?;
        Ok(WayOut { socket, mark, ipv4, destinations: BTreeSet::new(), black: None })
    }

    /// Removes rules for packets that bear `mark`, and routes whose metric it is.
    pub(super) fn remove_left_over(mark: u32) -> Result<(), Error> {
        let mut socket = BatchSocket::open(netlink_sys::protocols::NETLINK_ROUTE, "opening a netlink socket")?;
        let rules = [true, false].map(|ipv4| request(libc::RTM_DELRULE, 0, &rule(mark, ipv4), "removing its rule"));
        socket.demand(rules, &[libc::ENOENT, libc::EAFNOSUPPORT])?;
        let bears = |one: &RouteAttribute| matches!(one, RouteAttribute::Priority(metric) if *metric == mark);
        let old: Vec<RouteMessage> = netlink::run(async |handle| {
            let all = handle.route().get(RouteMessageBuilder::<Ipv6Addr>::new().build()).execute();
            match all.try_collect::<Vec<_>>().await {
                Err(error) if netlink::errno(&error) == Some(libc::EAFNOSUPPORT) => Ok(Vec::new()),
                Err(error) => Err(failed("reading the routes".into(), error)),
                Ok(all) => Ok(all.into_iter().filter(|route| route.attributes.iter().any(bears)).collect()),
            }
        })?;
        let routes = old.iter().map(|route| request(libc::RTM_DELROUTE, 0, route, "removing a route"));
        socket.demand(routes, &[libc::ESRCH])
    }

    /// Sets what is not there: the kernel drops routes when black goes down, and black may be another interface by now.
    pub(super) fn keep(&mut self, black: u32) -> Result<(), Error> {
        let rule =
            request(libc::RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, &rule(self.mark, self.ipv4), "adding its rule");
        self.socket.demand([rule], &[libc::EEXIST])?;
        if self.black.is_some_and(|former| former != black) {
            self.remove(&self.destinations.clone())?;
        }
        self.black = Some(black);
        self.add(&self.destinations.clone())
    }

    /// Gives the group and peers with link-local addresses routes of their own; everybody else is found without.
    pub(super) fn lead(&mut self, destinations: impl Iterator<Item = IpAddr>) -> Result<(), Error> {
        let wanted: BTreeSet<Ipv6Addr> = destinations
            .filter_map(|destination| match destination {
                IpAddr::V6(address) => Some(address).filter(|a| a.is_multicast() || a.is_unicast_link_local()),
                IpAddr::V4(_) => None,
            })
            .collect();
        let former = std::mem::replace(&mut self.destinations, wanted.clone());
        self.remove(&(&former - &wanted))?;
        self.add(&(&wanted - &former))
    }

    fn add(&mut self, destinations: &BTreeSet<Ipv6Addr>) -> Result<(), Error> {
        // While black is down there is no way out.
        self.change(libc::RTM_NEWROUTE, destinations, &[libc::EEXIST, libc::ENETDOWN, libc::ENODEV, libc::EINVAL])
    }

    fn remove(&mut self, destinations: &BTreeSet<Ipv6Addr>) -> Result<(), Error> {
        self.change(libc::RTM_DELROUTE, destinations, &[libc::ESRCH, libc::ENODEV])
    }

    fn change(&mut self, kind: u16, destinations: &BTreeSet<Ipv6Addr>, forgiven: &[i32]) -> Result<(), Error> {
        let Some(black) = self.black else { return Ok(()) };
        let (flags, verb) =
            if kind == libc::RTM_NEWROUTE { (NLM_F_CREATE | NLM_F_EXCL, "adding") } else { (0, "removing") };
        let one = |to: &Ipv6Addr| {
            request(kind, flags, &route(*to, black, self.mark), &format!("{verb} a route to {to} by black"))
        };
        self.socket.demand(destinations.iter().map(one), forgiven)
    }
}

impl Drop for WayOut {
    fn drop(&mut self) {
        let _ = self.remove(&self.destinations.clone());
        let _ = self.socket.ask([request(libc::RTM_DELRULE, 0, &rule(self.mark, self.ipv4), "removing its rule")]);
    }
}

/// In the table of local addresses, which comes first: there every interface has a route to all groups, and in the main
/// one to all link-local addresses. By its metric it is known to be ours.
fn route(destination: Ipv6Addr, black: u32, mark: u32) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet6;
    route.header.destination_prefix_length = 128;
    route.header.table = libc::RT_TABLE_LOCAL;
    route.header.protocol = RouteProtocol::Kernel;
    route.header.scope = RouteScope::Universe;
    route.header.kind = if destination.is_multicast() { RouteType::Multicast } else { RouteType::Unicast };
    route.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet6(destination)),
        RouteAttribute::Oif(black),
        RouteAttribute::Priority(mark),
    ];
    route
}

/// From here, marked: by the main table.
fn rule(mark: u32, ipv4: bool) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = if ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    rule.header.action = RuleAction::ToTable;
    rule.header.table = RouteHeader::RT_TABLE_MAIN;
    rule.attributes = vec![
        RuleAttribute::Priority(WAY_OUT_PRIORITY),
        // What is forwarded bears no mark of ours; should somebody give it one, it is not meant.
        RuleAttribute::Iifname("lo".into()),
        RuleAttribute::FwMark(mark),
        RuleAttribute::FwMask(u32::MAX),
        RuleAttribute::Protocol(RouteProtocol::Kernel),
    ];
    rule
}

fn request(kind: u16, flags: u16, message: &impl Emitable, what: &str) -> Request {
    Request::of(kind, flags, message, format!("the way of what was encrypted: {what}"))
}
