//! Links, addresses, rules and routes, by netlink.

pub(crate) mod batch;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::IpProtocol;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};

use crate::{Error, Selector};

/// Runs `task` with a netlink connection in the calling thread's network namespace, and waits for it.
///
/// On a thread of its own (which inherits the namespace), so that it may be called from within any runtime.
pub(crate) fn run<T: Send>(task: impl AsyncFnOnce(&Handle) -> Result<T, Error> + Send) -> Result<T, Error> {
    let work = || {
        let what = || "opening a netlink socket".to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(Error::io(what))?;
        runtime.block_on(async {
            let (connection, handle, _messages) = rtnetlink::new_connection().map_err(Error::io(what))?;
            tokio::spawn(connection);
            task(&handle).await
        })
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, work);
        let thread = thread.map_err(Error::io(|| "starting a thread for netlink".into()))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The part of an interface that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
}

/// The interface of this name.
pub(crate) async fn existing_link(handle: &Handle, name: &str) -> Result<Link, Error> {
    link(handle, name).await?.ok_or_else(|| Error::NoInterface { name: name.to_owned() })
}

/// `None`: there is no such interface.
pub(crate) async fn link(handle: &Handle, name: &str) -> Result<Option<Link>, Error> {
    let found = handle.link().get().match_name(name.to_owned()).execute().try_next().await;
    let message = match found {
        Ok(Some(message)) => message,
        Ok(None) => return Ok(None),
        Err(e) if errno(&e) == Some(libc::ENODEV) => return Ok(None),
        Err(e) => return Err(failed(format!("looking for interface {name}"), e)),
    };
    let mtu = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    let up = message.header.flags.contains(LinkFlags::Up);
    Ok(Some(Link { index: message.header.index, mtu: mtu.unwrap_or(0), up }))
}

/// The networks of the addresses of the interface with this name; none, if there is none.
pub(crate) async fn networks_of(handle: &Handle, name: &str) -> Result<Vec<IpNet>, Error> {
    match link(handle, name).await? {
        Some(link) => networks(handle, link.index).await,
        None => Ok(Vec::new()),
    }
}

/// The networks of an interface's own addresses.
pub(crate) async fn networks(handle: &Handle, index: u32) -> Result<Vec<IpNet>, Error> {
    Ok(addresses(handle, index).await?.iter().filter_map(network).collect())
}

/// An interface's own addresses, without those whose uniqueness is still being tried or was refuted.
pub(crate) async fn usable_addresses(handle: &Handle, index: u32) -> Result<Vec<IpAddr>, Error> {
    let unusable = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
    let messages = addresses(handle, index).await?;
    let usable = messages.iter().filter(|message| !message.header.flags.intersects(unusable));
    Ok(usable.filter_map(network).map(|network| network.addr()).collect())
}

async fn addresses(handle: &Handle, index: u32) -> Result<Vec<AddressMessage>, Error> {
    let request = handle.address().get().set_link_index_filter(index).execute();
    request.try_collect().await.map_err(|e| failed("reading the addresses of an interface".into(), e))
}

fn network(message: &AddressMessage) -> Option<IpNet> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    IpNet::new(address?, message.header.prefix_len).ok()
}

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

/// A route of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) table: u32,
    pub(crate) prefix: IpNet,
    /// Index of the interface it leads to; `None`: unreachable.
    pub(crate) interface: Option<u32>,
    pub(crate) owner: Owner,
    /// The lowest of several to one prefix counts; 0: the kernel's default.
    pub(crate) metric: u32,
    /// The address that the router itself uses.
    pub(crate) source: Option<IpAddr>,
    /// Packets above it are not forwarded, whatever the interface takes.
    pub(crate) mtu: Option<u32>,
}

/// Who keeps a route up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Block,
    Daemon,
}

impl Owner {
    fn protocol(self) -> RouteProtocol {
        match self {
            // See `Rule`.
            Owner::Block => RouteProtocol::Kernel,
            // Not known to any other daemon.
            Owner::Daemon => RouteProtocol::from(77),
        }
    }
}

impl Route {
    /// One to an interface, or unreachable, without more.
    pub(crate) fn new(table: u32, prefix: IpNet, interface: Option<u32>, owner: Owner) -> Self {
        Route { table, prefix, interface, owner, metric: 0, source: None, mtu: None }
    }

    /// Adds it; it may be there already. False: not possible now, for the interface is down or the family absent.
    pub(crate) async fn add(&self, handle: &Handle) -> Result<bool, Error> {
        self.added(handle.route().add(self.message()).execute().await)
    }

    /// Puts it in the place of one to the same prefix with the same metric, if there is one; as
    /// [`add`](Self::add).
    pub(crate) async fn set(&self, handle: &Handle) -> Result<bool, Error> {
        self.added(handle.route().add(self.message()).replace().execute().await)
    }

    fn added(&self, result: Result<(), rtnetlink::Error>) -> Result<bool, Error> {
        match result {
            Ok(()) => Ok(true),
            Err(e) => match errno(&e) {
                Some(libc::EEXIST) => Ok(true),
                Some(libc::ENETDOWN | libc::ENODEV | libc::EAFNOSUPPORT) => Ok(false),
                // IPv6 is switched off on the interface.
                Some(libc::EACCES | libc::EOPNOTSUPP) if self.prefix.addr().is_ipv6() => Ok(false),
                _ => Err(failed(format!("adding the route to {} in table {}", self.prefix, self.table), e)),
            },
        }
    }

    /// Removes it; it may be gone already.
    pub(crate) async fn remove(&self, handle: &Handle) -> Result<(), Error> {
        match handle.route().del(self.message()).execute().await {
            // Without IPv6 there is none of it.
            Err(e)
                if self.prefix.addr().is_ipv6() && matches!(errno(&e), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) =>
            {
                Ok(())
            }
            Err(e) if !matches!(errno(&e), Some(libc::ESRCH | libc::ENODEV)) => {
                Err(failed(format!("removing the route to {} in table {}", self.prefix, self.table), e))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn message(&self) -> RouteMessage {
        let mut message = match self.prefix {
            IpNet::V4(net) => {
                let scope = if self.interface.is_some() { RouteScope::Link } else { RouteScope::Universe };
                RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(net.network(), net.prefix_len())
                    .scope(scope)
                    .build()
            }
            IpNet::V6(net) => {
                RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(net.network(), net.prefix_len()).build()
            }
        };
        message.header.table = RouteHeader::RT_TABLE_UNSPEC;
        message.attributes.push(RouteAttribute::Table(self.table));
        message.header.protocol = self.owner.protocol();
        match self.interface {
            Some(index) => message.attributes.push(RouteAttribute::Oif(index)),
            None => message.header.kind = RouteType::Unreachable,
        }
        if self.metric != 0 {
            message.attributes.push(RouteAttribute::Priority(self.metric));
        }
        if let Some(source) = self.source {
            message.attributes.push(RouteAttribute::PrefSource(source.into()));
        }
        if let Some(mtu) = self.mtu {
            // Locked: it holds for what is forwarded, and no ICMP message from the path moves it.
            const RTAX_MTU: u32 = 2;
            let metrics = vec![RouteMetric::Lock(1 << RTAX_MTU), RouteMetric::Mtu(mtu)];
            message.attributes.push(RouteAttribute::Metrics(metrics));
        }
        message
    }

    /// `None`: not of the form that ours have.
    pub(crate) fn of(message: &RouteMessage) -> Option<Route> {
        let header = &message.header;
        let find = |pick: fn(&RouteAttribute) -> Option<u32>| message.attributes.iter().find_map(pick);
        let table = find(|a| if let RouteAttribute::Table(table) = a { Some(*table) } else { None });
        let oif = find(|a| if let RouteAttribute::Oif(index) = a { Some(*index) } else { None });
        let destination = message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::from(*address)),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::from(*address)),
            _ => None,
        });
        let default: IpAddr = match header.address_family {
            AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
            AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        let interface = match header.kind {
            RouteType::Unicast => Some(oif?),
            RouteType::Unreachable => None,
            _ => return None,
        };
        let owner = [Owner::Block, Owner::Daemon].into_iter().find(|owner| owner.protocol() == header.protocol)?;
        let prefix = IpNet::new(destination.unwrap_or(default), header.destination_prefix_length).ok()?;
        let (mut metric, mut source, mut mtu) = (0, None, None);
        for attribute in &message.attributes {
            match attribute {
                // What the kernel sets where nothing is said.
                RouteAttribute::Priority(1024) if default.is_ipv6() => {}
                RouteAttribute::Priority(priority) => metric = *priority,
                RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(IpAddr::from(*address)),
                RouteAttribute::PrefSource(RouteAddress::Inet6(address)) => source = Some(IpAddr::from(*address)),
                RouteAttribute::Metrics(metrics) => {
                    let of = |metric: &RouteMetric| if let RouteMetric::Mtu(mtu) = metric { Some(*mtu) } else { None };
                    mtu = metrics.iter().find_map(of);
                }
                _ => {}
            }
        }
        Some(Route { table: table.unwrap_or(header.table.into()), prefix, interface, owner, metric, source, mtu })
    }
}

/// Our routes in `table`, of both families.
pub(crate) async fn routes(handle: &Handle, table: u32) -> Result<Vec<Route>, Error> {
    let mut routes = Vec::new();
    for message in [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()] {
        let messages: Vec<_> = match handle.route().get(message).execute().try_collect().await {
            Err(e) if errno(&e) == Some(libc::EAFNOSUPPORT) => Vec::new(),
            other => other.map_err(|e| failed("reading the routes".into(), e))?,
        };
        routes.extend(messages.iter().filter_map(Route::of).filter(|route| route.table == table));
    }
    Ok(routes)
}

pub(crate) fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(message.raw_code().abs()),
        _ => None,
    }
}

pub(crate) fn failed(what: String, error: rtnetlink::Error) -> Error {
    let source = match &error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    };
    Error::Io { what, source }
}
