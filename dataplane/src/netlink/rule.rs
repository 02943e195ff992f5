//! Rules of routing: which packets they are for, and what becomes of those.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange};
use rtnetlink::packet_route::{AddressFamily, IpProtocol};
use rtnetlink::{Handle, IpVersion};

use super::{errno, failed};
use crate::{Error, Selector};

/// Which set of rules: the two of unicast routing, the two of multicast routing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RuleFamily {
    Ipv4,
    Ipv6,
    /// RTNL_FAMILY_IPMR
    Ipv4Multicast,
    /// RTNL_FAMILY_IP6MR
    Ipv6Multicast,
}

impl RuleFamily {
    pub(crate) const ALL: [RuleFamily; 4] = [Self::Ipv4, Self::Ipv6, Self::Ipv4Multicast, Self::Ipv6Multicast];
    pub(crate) const UNICAST: [RuleFamily; 2] = [Self::Ipv4, Self::Ipv6];
    pub(crate) const MULTICAST: [RuleFamily; 2] = [Self::Ipv4Multicast, Self::Ipv6Multicast];

    fn code(self) -> AddressFamily {
        match self {
            RuleFamily::Ipv4 => AddressFamily::Inet,
            RuleFamily::Ipv6 => AddressFamily::Inet6,
            RuleFamily::Ipv4Multicast => AddressFamily::from(128),
            RuleFamily::Ipv6Multicast => AddressFamily::from(129),
        }
    }
}

/// A routing rule of ours, by interface name: the interface may be there now or later.
///
/// Rules and routes are marked as the kernel's own (RTPROT_KERNEL): systemd-networkd removes what it does not know
/// except those, and the block must outlive its restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) family: RuleFamily,
    pub(crate) priority: u32,
    pub(crate) packets: Packets,
    pub(crate) action: Action,
}

/// Which packets a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packets {
    /// Those that came in from an interface.
    From(String),
    /// Some of those.
    Selected(String, Selector),
    /// All but those of sockets that are bound to an interface.
    NotBoundTo(String),
    /// Those of ICMP with this source, wherever they come from.
    Icmp(IpAddr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Lookup(u32),
    Unreachable,
    /// On with the first rule of this priority.
    Goto(u32),
    /// On with the next rule: where `Goto` leads.
    Nothing,
}

impl Packets {
    /// Of those that came in from an interface what `selector` is for.
    pub(crate) fn selected(interface: &str, selector: Selector) -> Self {
        let Selector { source, destination, .. } = selector;
        let everything = source.prefix_len() == 0 && destination.prefix_len() == 0;
        match everything && selector == Selector::new(source, destination) {
            true => Packets::From(interface.to_owned()),
            false => Packets::Selected(interface.to_owned(), selector),
        }
    }

    /// `None`: not of the form that ours have.
    fn of(message: &RuleMessage) -> Option<Self> {
        let inverted = message.header.flags.contains(RuleFlags::Invert);
        let (mut from, mut not_bound_to) = (None, None);
        let everywhere: IpAddr = match message.header.family {
            AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => Ipv4Addr::UNSPECIFIED.into(),
        };
        let (mut source, mut destination) = (everywhere, everywhere);
        let (mut protocol, mut source_port, mut destination_port) = (None, None, None);
        let port = |range: &RulePortRange| (range.start == range.end).then_some(range.start);
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Iifname(name) => from = Some(name),
                RuleAttribute::Oifname(name) => not_bound_to = Some(name),
                RuleAttribute::Source(address) => source = *address,
                RuleAttribute::Destination(address) => destination = *address,
                RuleAttribute::IpProtocol(number) => protocol = Some(u8::from(*number)),
                RuleAttribute::SourcePortRange(range) => source_port = Some(port(range)?),
                RuleAttribute::DestinationPortRange(range) => destination_port = Some(port(range)?),
                _ => {}
            }
        }
        if inverted {
            return not_bound_to.map(|name| Packets::NotBoundTo(name.clone()));
        }
        (source.is_ipv4() == everywhere.is_ipv4() && destination.is_ipv4() == everywhere.is_ipv4()).then_some(())?;
        let source = IpNet::new(source, message.header.src_len).ok()?.trunc();
        let destination = IpNet::new(destination, message.header.dst_len).ok()?.trunc();
        let selector = Selector { source, destination, protocol, source_port, destination_port };
        let Some(from) = from else {
            let packets = Packets::Icmp(source.addr());
            return (selector == icmp_from(source.addr())).then_some(packets);
        };
        Some(Self::selected(from, selector))
    }

    fn say(&self, message: &mut RuleMessage) {
        match self {
            Packets::From(name) => message.attributes.push(RuleAttribute::Iifname(name.clone())),
            Packets::NotBoundTo(name) => {
                message.attributes.push(RuleAttribute::Oifname(name.clone()));
                message.header.flags |= RuleFlags::Invert;
            }
            Packets::Icmp(address) => say_selector(&icmp_from(*address), message),
            Packets::Selected(name, selector) => {
                message.attributes.push(RuleAttribute::Iifname(name.clone()));
                say_selector(selector, message);
            }
        }
    }
}

/// ICMP of an address' family, from that.
fn icmp_from(address: IpAddr) -> Selector {
    let (everywhere, protocol): (IpAddr, _) = match address {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), libc::IPPROTO_ICMP),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), libc::IPPROTO_ICMPV6),
    };
    // No address is too short for it.
    let everywhere = IpNet::new(everywhere, 0).expect("a length of nothing");
    Selector { protocol: Some(protocol as u8), ..Selector::new(address.into(), everywhere) }
}

fn say_selector(selector: &Selector, message: &mut RuleMessage) {
    let Selector { source, destination, protocol, source_port, destination_port } = selector;
    (message.header.src_len, message.header.dst_len) = (source.prefix_len(), destination.prefix_len());
    let port = |port: u16| RulePortRange { start: port, end: port };
    let given = |net: &IpNet| Some(net.addr()).filter(|_| net.prefix_len() > 0);
    let attributes = [
        given(source).map(RuleAttribute::Source),
        given(destination).map(RuleAttribute::Destination),
        protocol.map(|number| RuleAttribute::IpProtocol(IpProtocol::from(i32::from(number)))),
        source_port.map(|number| RuleAttribute::SourcePortRange(port(number))),
        destination_port.map(|number| RuleAttribute::DestinationPortRange(port(number))),
    ];
    message.attributes.extend(attributes.into_iter().flatten());
}

impl Rule {
    /// Adds it; it may be there already. False: the kernel does not have this family.
    pub(crate) async fn add(&self, handle: &Handle) -> Result<bool, Error> {
        let mut request = handle.rule().add();
        *request.message_mut() = self.message();
        match request.execute().await {
            Err(e) if errno(&e) == Some(libc::EAFNOSUPPORT) => Ok(false),
            Err(e) if errno(&e) != Some(libc::EEXIST) => Err(failed(format!("adding the rule {self:?}"), e)),
            _ => Ok(true),
        }
    }

    /// Removes it; it may be gone already.
    pub(crate) async fn remove(&self, handle: &Handle) -> Result<(), Error> {
        match handle.rule().del(self.message()).execute().await {
            Err(e) if errno(&e) != Some(libc::ENOENT) => Err(failed(format!("removing the rule {self:?}"), e)),
            _ => Ok(()),
        }
    }

    pub(crate) fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = self.family.code();
        message.attributes =
            vec![RuleAttribute::Priority(self.priority), RuleAttribute::Protocol(RouteProtocol::Kernel)];
        self.packets.say(&mut message);
        match self.action {
            Action::Unreachable => message.header.action = RuleAction::Unreachable,
            Action::Lookup(table) => {
                message.header.action = RuleAction::ToTable;
                message.attributes.push(RuleAttribute::Table(table));
            }
            Action::Goto(priority) => {
                message.header.action = RuleAction::Goto;
                message.attributes.push(RuleAttribute::Goto(priority));
            }
            Action::Nothing => message.header.action = RuleAction::Nop,
        }
        message
    }

    /// `None`: not of the form that ours have.
    pub(crate) fn of(family: RuleFamily, message: &RuleMessage) -> Option<Rule> {
        let kernel = RuleAttribute::Protocol(RouteProtocol::Kernel);
        let goto = |attribute: &RuleAttribute| match attribute {
            RuleAttribute::Goto(priority) => Some(*priority),
            _ => None,
        };
        let action = match message.header.action {
            RuleAction::Unreachable => Action::Unreachable,
            RuleAction::ToTable => Action::Lookup(table_of(message)),
            RuleAction::Goto => Action::Goto(message.attributes.iter().find_map(goto)?),
            RuleAction::Nop => Action::Nothing,
            _ => return None,
        };
        message.attributes.contains(&kernel).then_some(())?;
        let priority = message.attributes.iter().find_map(priority)?;
        Some(Rule { family, priority, packets: Packets::of(message)?, action })
    }
}

fn priority(attribute: &RuleAttribute) -> Option<u32> {
    match attribute {
        RuleAttribute::Priority(priority) => Some(*priority),
        _ => None,
    }
}

fn table_of(message: &RuleMessage) -> u32 {
    let wide = message.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Table(table) => Some(*table),
        _ => None,
    });
    wide.unwrap_or(message.header.table.into())
}

/// What the rules of a family say.
pub(crate) struct Rules {
    /// Those of the form that ours have, whoever made them.
    pub(crate) ours: Vec<Rule>,
    /// Where local delivery comes (the kernel's default: 0).
    pub(crate) local_priority: u32,
}

/// Empty if the kernel does not have the family.
pub(crate) async fn rules(handle: &Handle, family: RuleFamily) -> Result<Rules, Error> {
    let mut request = handle.rule().get(IpVersion::V4);
    request.message_mut().header.family = family.code();
    let messages: Vec<RuleMessage> = match request.execute().try_collect().await {
        Err(e) if errno(&e) == Some(libc::EAFNOSUPPORT) => Vec::new(),
        other => other.map_err(|e| failed(format!("reading the rules of {family:?}"), e))?,
    };
    // For a family that is not there a dump may answer with the rules of all others.
    let messages: Vec<_> = messages.into_iter().filter(|m| m.header.family == family.code()).collect();
    let local = messages.iter().filter(|message| table_of(message) == u32::from(libc::RT_TABLE_LOCAL));
    let local_priority = local.map(|message| message.attributes.iter().find_map(priority).unwrap_or(0)).min();
    Ok(Rules {
        ours: messages.iter().filter_map(|message| Rule::of(family, message)).collect(),
        local_priority: local_priority.unwrap_or(0),
    })
}
