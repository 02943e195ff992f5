//! Links, addresses and routes, by netlink; `rule.rs` has the rules. What the library must not do, because a key is in it or much goes
//! at once, is asked by `batch.rs`, out of buffers that are erased (`erased.rs`).

pub(crate) mod batch;
mod erased;
pub(crate) mod listener;
mod rule;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::Error;
pub(crate) use erased::Erased;
pub(crate) use rule::{Action, Packets, Rule, RuleFamily, rules};

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

/// A route of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) table: u32,
    pub(crate) prefix: IpNet,
    pub(crate) way: Way,
    pub(crate) owner: Owner,
    /// The lowest of several to one prefix counts; 0: the kernel's default.
    pub(crate) metric: u32,
    /// The address that the router itself uses.
    pub(crate) source: Option<IpAddr>,
    /// Packets above it are not forwarded, whatever the interface takes.
    pub(crate) mtu: Option<u32>,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the interface of this index.
    By(u32),
    Unreachable,
    /// As though it and all wider ones of its table were not there: the next rule says (`throw`).
    NextRule,
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
    /// One without more.
    pub(crate) fn new(table: u32, prefix: IpNet, way: Way, owner: Owner) -> Self {
        Route { table, prefix, way, owner, metric: 0, source: None, mtu: None }
    }

    pub(crate) fn is_by_interface(&self) -> bool {
        matches!(self.way, Way::By(_))
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
                let scope = if self.is_by_interface() { RouteScope::Link } else { RouteScope::Universe };
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
        match self.way {
            Way::By(index) => message.attributes.push(RouteAttribute::Oif(index)),
            Way::Unreachable => message.header.kind = RouteType::Unreachable,
            Way::NextRule => message.header.kind = RouteType::Throw,
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
        let way = match header.kind {
            RouteType::Unicast => Way::By(oif?),
            RouteType::Unreachable => Way::Unreachable,
            RouteType::Throw => Way::NextRule,
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
        Some(Route { table: table.unwrap_or(header.table.into()), prefix, way, owner, metric, source, mtu })
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
