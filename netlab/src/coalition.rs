//! The laboratory: routers on one black bridge, a host on each red LAN.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::plan::{net4, net6, site_gateways};
use crate::weather::Switch;
use crate::{
    BLACK_DEVICE, BRIDGE, BlackRouter, Error, HOST_DEVICE, Namespace, Plan, RED_DEVICE, Result, RouterPlan, Sky, Toll,
    VethEnd, Watch, Weather, routers,
};

/// A coalition without its daemons.
///
/// ```text
///  host ─ eth0 ── red0 ─ router ─ black0 ── port1 ┐
///                                                 ├ br0 (black namespace, the gateway of all)
///  host ─ eth0 ── red0 ─ router ─ black0 ── port2 ┘
/// ```
///
/// Nothing is blocked and nothing encrypted: routers have a default route into the black network, and the black
/// namespace has routes to all red prefixes, so that what a daemon fails to stop does get through and is seen.
/// Forwarding is off, as on a machine just installed.
///
/// With [`Plan::routed`] black is a network of routers instead ([`BlackRouter`]), of which the black namespace is the
/// wires.
#[derive(Debug)]
pub struct Coalition {
    black: Namespace,
    black_routers: Vec<BlackRouter>,
    routers: Vec<Router>,
    islands: usize,
    /// Routers know each other's hardware addresses without asking.
    introduced: bool,
    switch: Option<Switch>,
}

/// A border router's namespace and that of the host behind it.
#[derive(Debug)]
pub struct Router {
    /// Names and addresses.
    pub plan: RouterPlan,
    /// The router, with [`BLACK_DEVICE`] and [`RED_DEVICE`].
    pub namespace: Namespace,
    /// The host, with [`HOST_DEVICE`]; its default route is the router.
    pub host: Namespace,
}

impl Coalition {
    /// Builds what the plan says. All links are up and all addresses usable when it returns.
    ///
    /// # Errors
    /// Without the privileges, or when the kernel lacks bridges or veth.
    pub fn build(plan: Plan) -> Result<Self> {
        let black = Namespace::new("black")?;
        let black_routers = match plan.is_routed() {
            true => routers::build(&black)?,
            false => black_bridge(&black, &plan).map(|()| Vec::new())?,
        };
        let routers = plan.routers.into_iter().map(|plan| router(&black, plan)).collect::<Result<Vec<_>>>()?;
        let mut coalition = Coalition { black, black_routers, routers, islands: 0, introduced: false, switch: None };
        if coalition.routers.len() > RESOLVED_BY_ASKING {
            coalition.introduce_all()?;
        }
        // At the end, so that the kernel gets ready with all of them at the same time.
        coalition.wait_for_links()?;
        Ok(coalition)
    }

    /// The namespace of the black network: capture here on [`BRIDGE`], inject from here.
    pub fn black(&self) -> &Namespace {
        &self.black
    }

    /// The black network's own routers, site by site; none where it is one bridge.
    pub fn black_routers(&self) -> &[BlackRouter] {
        &self.black_routers
    }

    /// Pulls the plug of the link between two sites at both ends; their black routers see the carrier go.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn cut_between(&self, sites: [u8; 2]) -> Result<()> {
        routers::link_ports(sites).iter().try_for_each(|port| self.black.set_up(port, false))
    }

    /// The routers in the order of the plan.
    pub fn routers(&self) -> &[Router] {
        &self.routers
    }

    /// What a capture of the black side must look for: this coalition's red addresses. `ports` are the two UDP ports
    /// of the daemons. Markers are added as traffic starts.
    pub fn watch(&self, ports: [u16; 2]) -> Watch {
        let plans = || self.routers.iter().map(|router| &router.plan);
        let hosts = plans().flat_map(|plan| [net4(plan.router_v4(), 32), net4(plan.host_v4(), 32)]);
        Watch {
            ports: ports.to_vec(),
            routing: !self.black_routers.is_empty(),
            markers: Vec::new(),
            red_v6: plans().map(RouterPlan::red_v6).collect(),
            red_v4: plans().map(RouterPlan::red_v4).chain(hosts).collect(),
        }
    }

    /// Pulls the plug of a router's black link; the router sees its carrier go.
    ///
    /// # Errors
    /// When there is no such router.
    pub fn cut(&self, router: usize) -> Result<()> {
        self.black.set_up(&self.router(router)?.plan.black_port(), false)
    }

    /// Puts the plug back; the link carries when this returns.
    ///
    /// # Errors
    /// When there is no such router.
    pub fn mend(&self, router: usize) -> Result<()> {
        let Router { plan, namespace, .. } = self.router(router)?;
        self.black.set_up(&plan.black_port(), true)?;
        self.black.wait_for_link(&plan.black_port())?;
        namespace.wait_for_link(BLACK_DEVICE)
    }

    /// Splits the black network without a sign to the routers: each group in `islands` gets a bridge of its own, cut
    /// off from all others; routers in none of them stay together on [`BRIDGE`]. An island of one is a router that
    /// nobody hears. Islands of an earlier call that are not named again stay.
    ///
    /// # Errors
    /// When there is no such router.
    pub fn partition(&mut self, islands: &[&[usize]]) -> Result<()> {
        for island in islands {
            self.islands += 1;
            let bridge = format!("island{}", self.islands);
            self.black.add_bridge(&bridge)?;
            for &router in *island {
                self.black.set_bridge(&self.router(router)?.plan.black_port(), &bridge)?;
            }
        }
        Ok(())
    }

    /// Ends all partitions.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn heal(&mut self) -> Result<()> {
        for router in &self.routers {
            self.black.set_bridge(&router.plan.black_port(), &router.plan.bridge())?;
        }
        for island in 1..=std::mem::take(&mut self.islands) {
            self.black.delete_link(&format!("island{island}"))?;
        }
        Ok(())
    }

    /// Puts all routers below a sky, for good.
    ///
    /// # Errors
    /// When the kernel has no netem.
    pub fn set_sky(&self, sky: Sky) -> Result<()> {
        self.routers.iter().try_for_each(|router| sky.cover(&router.namespace, &self.black, &router.plan.black_port()))
    }

    /// From now on, and until [`Coalition::clear_up`], the black network loses, repeats and delays. The gateway is not
    /// on it, and the routers know each other's hardware addresses: those are not asked for.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_weather(&mut self, weather: Weather) -> Result<()> {
        self.switch = None;
        self.introduce_all()?;
        let ports: Vec<_> =
            self.routers.iter().map(|router| (router.plan.black_port(), router.plan.black_mac())).collect();
        for (port, _) in &ports {
            self.black.leave_bridge(port)?;
        }
        self.switch = Some(Switch::start(&self.black, &ports, weather)?);
        Ok(())
    }

    /// What the weather has done since it was set.
    pub fn toll(&self) -> Toll {
        self.switch.as_ref().map(Switch::toll).unwrap_or_default()
    }

    /// Ends the weather.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn clear_up(&mut self) -> Result<()> {
        self.switch = None;
        self.heal()
    }

    /// Sets the largest packet of the whole black network, in bytes; IPv6 needs 1280.
    ///
    /// # Errors
    /// When the size is outside the devices' limits.
    pub fn set_black_mtu(&self, bytes: u32) -> Result<()> {
        for router in &self.routers {
            self.black.set_mtu(&router.plan.black_port(), bytes)?;
            router.namespace.set_mtu(BLACK_DEVICE, bytes)?;
        }
        self.black.set_mtu(BRIDGE, bytes)
    }

    fn router(&self, index: usize) -> Result<&Router> {
        let count = self.routers.len();
        self.routers.get(index).ok_or_else(|| Error::Invalid(format!("no router {index}: there are {count}, from 0")))
    }

    fn wait_for_links(&self) -> Result<()> {
        for Router { plan, namespace, host } in &self.routers {
            self.black.wait_for_link(&plan.black_port())?;
            namespace.wait_for_link(BLACK_DEVICE)?;
            namespace.wait_for_link(RED_DEVICE)?;
            host.wait_for_link(HOST_DEVICE)?;
        }
        match self.black_routers.is_empty() {
            true => self.black.wait_for_link(BRIDGE),
            false => self.black_routers.iter().try_for_each(BlackRouter::wait_for_links),
        }
    }

    fn introduce_all(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.introduced, true) {
            return Ok(());
        }
        for router in &self.routers {
            let beside = |other: &&RouterPlan| **other != router.plan && other.site() == router.plan.site();
            let others = self.routers.iter().map(|other| &other.plan).filter(beside);
            let neighbours: Vec<_> = others.flat_map(addresses_on_black).collect();
            router.namespace.add_neighbours(BLACK_DEVICE, &neighbours)?;
        }
        Ok(())
    }
}

/// All namespaces of a machine share one table of about a thousand neighbours (`gc_thresh3`), which a full mesh of
/// two dozen routers, or a few smaller ones side by side, would overflow; permanent entries do not count.
const RESOLVED_BY_ASKING: usize = 10;

fn addresses_on_black(plan: &RouterPlan) -> [(IpAddr, [u8; 6]); 3] {
    let addresses: [IpAddr; 3] =
        [plan.black_v6().addr().into(), plan.black_link_local().into(), plan.black_v4().addr().into()];
    addresses.map(|address| (address, plan.black_mac()))
}

fn black_bridge(black: &Namespace, plan: &Plan) -> Result<()> {
    black.add_bridge(BRIDGE)?;
    for gateway in site_gateways(0) {
        black.add_address(BRIDGE, gateway)?;
    }
    for router in &plan.routers {
        for (prefix, via) in router.red_via_black() {
            black.add_route(prefix, via)?;
        }
    }
    Ok(())
}

fn router(black: &Namespace, plan: RouterPlan) -> Result<Router> {
    let namespace = Namespace::new(plan.name())?;
    let host = Namespace::new(format!("host of {}", plan.name()))?;

    let far = VethEnd { device: BLACK_DEVICE.to_owned(), mac: Some(plan.black_mac()) };
    black.add_port(&plan.black_port().as_str().into(), &plan.bridge(), &namespace, &far)?;
    for address in plan.on_black() {
        namespace.add_address(BLACK_DEVICE, address)?;
    }
    default_routes(&namespace, plan.gateways())?;

    namespace.add_veth(&RED_DEVICE.into(), &host, &HOST_DEVICE.into())?;
    for address in plan.on_red(plan.router_v6(), plan.router_v4()) {
        namespace.add_address(RED_DEVICE, address)?;
    }
    for address in plan.on_red(plan.host_v6(), plan.host_v4()) {
        host.add_address(HOST_DEVICE, address)?;
    }
    default_routes(&host, [plan.router_v6().into(), plan.router_v4().into()])?;
    Ok(Router { plan, namespace, host })
}

fn default_routes(namespace: &Namespace, routers: [IpAddr; 2]) -> Result<()> {
    for via in routers {
        let all: IpNet = match via {
            IpAddr::V6(_) => net6(std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
            IpAddr::V4(_) => net4(std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        };
        namespace.add_route(all, via)?;
    }
    Ok(())
}
