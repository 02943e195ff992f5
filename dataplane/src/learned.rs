//! Routes to the other routers' red prefixes, the block's to the own ones, and the tunnel's MTU. A thread of its own keeps
//! them, for the kernel drops what an interface had when that goes down: no caller waits for the kernel.
//!
//! Each prefix gets three routes: in the table of red, by the tunnel; in one of those of the router's own packets (`own.rs`), by
//! the tunnel, and behind it, with a worse metric, `unreachable`. That one stays when the prefix is lost or the daemon
//! ends, until `unblock`: what was red once does not go to black in clear by the default route.
//!
//! A change costs what it changes: with fifty routers, to set all routes at each prefix that comes or goes took more
//! time than the key agreement.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt;
use ipnet::IpNet;
use muster_wire::MemberId;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::Error;
use crate::block::{BlockConfig, Follows, is_behind_own, red_links, set_routes, table, warn_of};
use crate::config::EspConfig;
use crate::lost::Lost;
use crate::netlink::{self, Link, Owner, Route, Way};
use crate::own::{self, LAST};
use crate::policy::covers;
use crate::stop::Workers;
use crate::tunnel::{set_ipv6_mtu, tunnel_mtu};

/// What is announced within this is looked at together: an interface that goes down takes its addresses along.
const TOGETHER: Duration = Duration::from_millis(20);
/// The kernel answers within this, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(5);
/// What could not be set is tried again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// What the thread is told; dropping it ends the thread.
pub(crate) struct Learned(watch::Sender<Wanted>);

#[derive(Clone, Default)]
struct Wanted {
    /// And the router before each.
    prefixes: BTreeMap<IpNet, MemberId>,
    /// Where flows go, and who sends them.
    flows: BTreeMap<IpNet, MemberId>,
    own: Vec<IpNet>,
}

impl Wanted {
    /// What is reached through the tunnel. A flow may be for more than lies elsewhere, and own prefixes have routes.
    fn all(&self) -> BTreeMap<IpNet, MemberId> {
        let is_own = |prefix: &IpNet| self.own.iter().any(|own| own.contains(prefix));
        let flows = self.flows.iter().filter(|(prefix, _)| !is_own(prefix));
        flows.chain(&self.prefixes).map(|(prefix, member)| (*prefix, *member)).collect()
    }
}

impl Learned {
    /// Sets the tunnel's MTU and starts the thread; the device is there.
    /// `on_change` is told of black, now and whenever the interfaces have changed.
    pub(crate) fn start(
        config: &EspConfig,
        on_change: impl FnMut(Link) + Send + 'static,
        workers: &mut Workers,
    ) -> Result<Self, Error> {
        let (sender, wanted) = watch::channel(Wanted { own: config.own_prefixes.clone(), ..Wanted::default() });
        let mut keeper = Keeper {
            block: config.block(),
            ipv4: config.black_address.is_ipv4(),
            on_change: Box::new(on_change),
            mtu: 0,
            routes: BTreeMap::new(),
            standing: BTreeSet::new(),
            shape: None,
            lost: None,
            leaving: BTreeMap::new(),
            own_stand: false,
            pending: Vec::new(),
            reds: BTreeSet::new(),
            black: None,
            passing: None,
        };
        // Before the first packet.
        netlink::run(async |handle| keeper.follow_mtu(handle).await)?;
        workers.spawn("muster-routes", move |_| keeper.run(wanted))?;
        Ok(Learned(sender))
    }

    /// All prefixes that are reached through the tunnel, by the router before them: of two before one the lower member id.
    pub(crate) fn set(&self, routes: BTreeMap<MemberId, Vec<IpNet>>) {
        let of =
            |(member, prefixes): (MemberId, Vec<IpNet>)| prefixes.into_iter().map(move |net| (net.trunc(), member));
        let prefixes: BTreeMap<IpNet, MemberId> = routes.into_iter().rev().flat_map(of).collect();
        self.0.send_if_modified(|wanted| {
            let changes = wanted.prefixes != prefixes;
            wanted.prefixes = prefixes;
            changes
        });
    }

    /// All prefixes that flows go to, and who sends them.
    pub(crate) fn set_flows(&self, flows: BTreeMap<IpNet, MemberId>) {
        self.0.send_if_modified(|wanted| {
            let changes = wanted.flows != flows;
            wanted.flows = flows;
            changes
        });
    }

    /// The own prefixes: the router uses an address of theirs.
    pub(crate) fn set_own(&self, own: Vec<IpNet>) {
        self.0.send_modify(|wanted| wanted.own = own);
    }
}

struct Keeper {
    /// The interfaces, and the own prefixes.
    block: BlockConfig,
    /// Black is.
    ipv4: bool,
    on_change: Box<dyn FnMut(Link) + Send>,
    mtu: u16,
    /// Learned now, and from whom.
    routes: BTreeMap<IpNet, MemberId>,
    /// Those of them whose routes stand as `shape` has them.
    standing: BTreeSet<IpNet>,
    shape: Option<Shape>,
    /// Lost, and unreachable; read from the kernel at first, where an earlier daemon may have left some.
    lost: Option<Lost>,
    /// Learned until now, and still to be forgotten.
    leaving: BTreeMap<IpNet, MemberId>,
    /// The routes to the own prefixes have been set since these have changed.
    own_stand: bool,
    /// Own prefixes on no red interface that is up.
    pending: Vec<IpNet>,
    /// The numbers of the red interfaces that are up, as they were last seen.
    reds: BTreeSet<u32>,
    /// The black interface, as it was last seen.
    black: Option<Black>,
    /// What passes over the second table, once that is set.
    passing: Option<Vec<IpAddr>>,
}

#[derive(PartialEq, Eq)]
struct Black {
    index: u32,
    addresses: Vec<IpAddr>,
}

/// What all routes have in common. When it changes, all are set anew.
#[derive(PartialEq, Eq)]
struct Shape {
    tunnel: u32,
    mtu: u16,
    sources: Vec<IpAddr>,
}

impl Keeper {
    fn run(mut self, mut wanted: watch::Receiver<Wanted>) -> Result<(), Error> {
        let what = || "opening a netlink socket".to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::io(what))?;
        runtime.block_on(async {
            // One to listen and one to ask: announcements that overflow theirs do not take an answer along.
            let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
            let (listening, _, mut announced) = rtnetlink::new_multicast_connection(&groups).map_err(Error::io(what))?;
            let (asking, handle, _) = rtnetlink::new_connection().map_err(Error::io(what))?;
            tokio::spawn(listening);
            tokio::spawn(asking);
            // Something may have changed before we listened.
            let mut look_at = Some(Instant::now());
            loop {
                tokio::select! {
                    changed = wanted.changed() => {
                        if changed.is_err() {
                            return Ok(());
                        }
                        let wanted = wanted.borrow_and_update().clone();
                        self.take(wanted.all(), wanted.own);
                        look_at = Some(Instant::now());
                    }
                    announcement = announced.next() => {
                        let Some((message, _)) = announcement else {
                            return Err(Error::Lost("the netlink connection has ended".into()));
                        };
                        if self.concerns(&message) {
                            // Which interface an own prefix is by, and whether black's network is red, addresses say.
                            self.own_stand = false;
                            if changes_routes(&message) {
                                self.shape = None;
                            }
                            // Those of one moment count as one.
                            look_at = Some(look_at.unwrap_or_else(|| Instant::now() + TOGETHER));
                        }
                    }
                    () = reached(look_at), if look_at.is_some() => {
                        look_at = None;
                        let done = tokio::time::timeout(PATIENCE, self.follow(&handle)).await;
                        if let Err(error) = done.unwrap_or_else(|_| Err(Error::Lost("the kernel does not answer".into()))) {
                            warn!(%error, "routes are not as they should be; trying again");
                            self.shape = None;
                            look_at = Some(Instant::now() + AGAIN);
                        }
                    }
                }
            }
        })
    }

    /// What is wanted from now on; [`Self::follow`] sets it.
    fn take(&mut self, prefixes: BTreeMap<IpNet, MemberId>, own: Vec<IpNet>) {
        let before = std::mem::replace(&mut self.routes, prefixes);
        self.leaving.retain(|prefix, _| !self.routes.contains_key(prefix));
        for (prefix, owner) in before {
            match (self.routes.get(&prefix), &mut self.lost) {
                (None, _) => _ = self.leaving.insert(prefix, owner),
                // Another router has it as well: what the first one has lost is not for that one to forget.
                (Some(now), Some(lost)) if *now != owner => lost.add(prefix, owner),
                _ => {}
            }
        }
        if self.block.own_prefixes != own {
            self.block.own_prefixes = own;
            self.own_stand = false;
        }
    }

    /// Brings the kernel to what is wanted, and the MTU to what black has.
    async fn follow(&mut self, handle: &Handle) -> Result<(), Error> {
        self.follow_mtu(handle).await?;
        self.read_lost(handle).await?;
        self.follow_addresses(handle).await?;
        while let Some((prefix, owner)) = self.leaving.first_key_value().map(|(prefix, owner)| (*prefix, *owner)) {
            self.forget(handle, prefix, owner).await?;
            self.leaving.remove(&prefix);
        }
        if !self.own_stand || self.shape.is_none() {
            self.set_own(handle).await?;
            self.own_stand = true;
        }
        self.set(handle).await
    }

    /// Whether an announcement is about an interface of ours. About an address it says the interface's number only; one
    /// that is not known yet may be anybody's.
    fn concerns(&self, message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
        let BlockConfig { black, reds, device, .. } = &self.block;
        let NetlinkPayload::InnerMessage(message) = &message.payload else { return true };
        match message {
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
                link.attributes.iter().any(|attribute| match attribute {
                    LinkAttribute::IfName(name) => name == black || name == device || reds.contains(name),
                    _ => false,
                })
            }
            RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
                let index = address.header.index;
                let is_black = self.black.as_ref().is_none_or(|black| black.index == index);
                is_black || self.reds.is_empty() || self.reds.contains(&index)
            }
            _ => false,
        }
    }

    /// The tunnel's MTU follows black's.
    async fn follow_mtu(&mut self, handle: &Handle) -> Result<(), Error> {
        let BlockConfig { black: black_interface, device, .. } = &self.block;
        let Some(link) = netlink::link(handle, black_interface).await? else { return Ok(()) };
        let mtu = tunnel_mtu(link.mtu, self.ipv4);
        (self.on_change)(link);
        if mtu == self.mtu {
            return Ok(());
        }
        info!(black_interface, black = link.mtu, tunnel = mtu, "largest packet");
        self.mtu = mtu;
        set_ipv6_mtu(device, mtu)
    }

    /// Which prefixes black's addresses lie in follows those: what stands in the other table moves, also what was lost, or what
    /// an earlier daemon has left. Done again after an error, it moves what is left.
    async fn follow_addresses(&mut self, handle: &Handle) -> Result<(), Error> {
        let Some(link) = netlink::link(handle, &self.block.black).await? else { return Ok(()) };
        let mut addresses: Vec<IpAddr> = netlink::networks(handle, link.index).await?.iter().map(IpNet::addr).collect();
        addresses.sort();
        let black = Black { index: link.index, addresses };
        // First: as long as a rule is missing less goes to black.
        self.pass_over(handle, &black.addresses).await?;
        if self.black.as_ref() == Some(&black) {
            return Ok(());
        }
        let instance = self.block.instance;
        for table in own::tables(instance) {
            for route in netlink::routes(handle, table).await? {
                let right = own::table_of(instance, &route.prefix, &black.addresses);
                let is_own = route.owner == Owner::Block && (route.way != Way::Unreachable || is_behind_own(&route));
                if right == table || is_own {
                    continue;
                }
                // Whether it could be added shows when it is set again.
                self.standing.remove(&route.prefix);
                // In this order: in one of them it stands always.
                Route { table: right, ..route }.add(handle).await?;
                route.remove(handle).await?;
            }
        }
        self.black = Some(black);
        self.own_stand = false;
        Ok(())
    }

    /// ICMP from black's addresses passes over the second table where something stands in that, of their family. Else there
    /// is no such rule: it has the kernel look for the protocol of every packet that it routes, whosever that is.
    async fn pass_over(&mut self, handle: &Handle, blacks: &[IpAddr]) -> Result<(), Error> {
        let [red, _] = own::tables(self.block.instance);
        let is_wide = |prefix: &&IpNet| own::table_of(self.block.instance, prefix, blacks) != red;
        let all = || self.lost.iter().flat_map(Lost::prefixes).chain(self.routes.keys()).chain(self.leaving.keys());
        let [ipv4, ipv6] = [true, false].map(|ipv4| all().filter(is_wide).any(|net| net.addr().is_ipv4() == ipv4));
        let is_passing = |address: &&IpAddr| if address.is_ipv4() { ipv4 } else { ipv6 };
        let passing: Vec<IpAddr> = blacks.iter().filter(is_passing).copied().collect();
        if self.passing.as_ref() != Some(&passing) {
            // Until all rules are as they should be, which they are is not known.
            self.passing = None;
            own::pass_over(handle, self.block.instance, &passing).await?;
            self.passing = Some(passing);
        }
        Ok(())
    }

    /// What came in by the tunnel for a red LAN gets there, whenever its interface comes up, and again after it was down.
    async fn set_own(&mut self, handle: &Handle) -> Result<(), Error> {
        let pending = set_routes(handle, &self.block, Follows::DataPlane).await?;
        if pending != self.pending {
            warn_of(&pending);
            self.pending = pending;
        }
        Ok(())
    }

    async fn set(&mut self, handle: &Handle) -> Result<(), Error> {
        // Deleted: the packet threads say so.
        let Some(link) = netlink::link(handle, &self.block.device).await? else { return Ok(()) };
        let reds = red_links(handle, &self.block.reds).await?;
        self.reds = reds.iter().map(|(index, _)| *index).collect();
        let sources: Vec<IpAddr> = reds
            .iter()
            .flat_map(|(_, networks)| networks.iter().map(IpNet::addr))
            .filter(|address| covers(&self.block.own_prefixes, *address))
            .collect();
        if self.shape.is_none() {
            // The kernel gives it the interface's when that comes up.
            set_ipv6_mtu(&self.block.device, self.mtu)?;
        }
        let shape = Shape { tunnel: link.index, mtu: self.mtu, sources };
        if self.shape.as_ref() != Some(&shape) {
            self.standing.clear();
        }
        let missing: Vec<IpNet> =
            self.routes.keys().filter(|prefix| !self.standing.contains(prefix)).copied().collect();
        for prefix in &missing {
            let of_family = |address: &IpAddr| address.is_ipv4() == prefix.addr().is_ipv4();
            let source = shape.sources.iter().copied().find(of_family);
            // One that the kernel does not take, whoever announced it, must not cost the others.
            match self.set_one(handle, *prefix, link.index, source).await {
                Ok(true) => drop(self.standing.insert(*prefix)),
                // Not possible now; the next change tries again.
                Ok(false) => {}
                Err(error) => warn!(%prefix, %error, "not reached through the tunnel"),
            }
        }
        self.shape = Some(shape);
        self.forget_lost(handle).await
    }

    /// Whether all three routes stand.
    async fn set_one(
        &self,
        handle: &Handle,
        prefix: IpNet,
        tunnel: u32,
        source: Option<IpAddr>,
    ) -> Result<bool, Error> {
        let own_table = self.own_table(&prefix);
        let mut stand = last(own_table, prefix).add(handle).await?;
        for table in [own_table, self.red_table()] {
            let plain = Route {
                // IPv6 has the interface's.
                mtu: prefix.addr().is_ipv4().then_some(self.mtu.into()),
                ..Route::new(table, prefix, Way::By(tunnel), Owner::Daemon)
            };
            // An address that is gone again cannot be one; the route is needed all the same.
            stand &= match (Route { source, ..plain }).set(handle).await {
                Ok(stands) => stands,
                Err(error) => {
                    warn!(%prefix, %error, "no source address for the router's own packets");
                    plain.set(handle).await?;
                    false
                }
            };
        }
        Ok(stand)
    }

    async fn forget(&mut self, handle: &Handle, prefix: IpNet, owner: MemberId) -> Result<(), Error> {
        self.standing.remove(&prefix);
        // It may have gone before it was ever set.
        last(self.own_table(&prefix), prefix).add(handle).await?;
        if let Some(lost) = &mut self.lost {
            lost.add(prefix, owner);
        }
        let Some(link) = netlink::link(handle, &self.block.device).await? else { return Ok(()) };
        for table in [self.own_table(&prefix), self.red_table()] {
            Route::new(table, prefix, Way::By(link.index), Owner::Daemon).remove(handle).await?;
        }
        Ok(())
    }

    /// What was lost and lies in what is learned is not in its way as long as that is; nor is there ever too much of it.
    async fn forget_lost(&mut self, handle: &Handle) -> Result<(), Error> {
        let tables = own::tables(self.block.instance);
        let blacks = self.black.as_ref().map_or(&[][..], |black| &black.addresses);
        let stands_in = |prefix: &IpNet| own::table_of(self.block.instance, prefix, blacks);
        let Some(lost) = &mut self.lost else { return Ok(()) };
        let change = lost.settle(&self.routes, stands_in);
        for prefix in change.again {
            last(stands_in(&prefix), prefix).add(handle).await?;
            lost.stands_again(&prefix);
        }
        for prefix in change.gone {
            for table in tables {
                last(table, prefix).remove(handle).await?;
            }
        }
        Ok(())
    }

    /// What an earlier daemon has left.
    async fn read_lost(&mut self, handle: &Handle) -> Result<(), Error> {
        if self.lost.is_some() {
            return Ok(());
        }
        let mut lost = BTreeSet::new();
        for table in own::tables(self.block.instance) {
            let routes = netlink::routes(handle, table).await?.into_iter();
            let is_lost = |route: &Route| route.way == Way::Unreachable && !is_behind_own(route);
            lost.extend(routes.filter(is_lost).map(|route| route.prefix));
        }
        self.lost = Some(Lost::left(lost));
        Ok(())
    }

    fn red_table(&self) -> u32 {
        table(self.block.instance)
    }

    fn own_table(&self, prefix: &IpNet) -> u32 {
        own::table_of(self.block.instance, prefix, self.black.as_ref().map_or(&[], |black| &black.addresses))
    }
}

/// Behind all others to a prefix.
fn last(table: u32, prefix: IpNet) -> Route {
    Route { metric: LAST, ..Route::new(table, prefix, Way::Unreachable, Owner::Block) }
}

async fn reached(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}

/// Whether the kernel may have changed routes with what it announces: by itself it drops them when an interface goes down,
/// and takes the source off them when that address goes, though it may be back at once. An address that comes does
/// neither.
fn changes_routes(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    !matches!(message.payload, NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(_)))
}
