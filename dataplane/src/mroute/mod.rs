//! Multicast between the red interfaces and the tunnel, forwarded by the kernel.
//!
//! The daemon holds the routing socket of a multicast table of its own, whose interfaces are the red ones and the
//! tunnel, never black. When the kernel meets a new flow (S,G) it asks, and gets an entry: from red to the tunnel
//! and the other red interfaces, from the tunnel to all red ones. What may not cross gets an entry that leads
//! nowhere, so that the kernel does not ask again: its queue of open questions is short, and shared. With dynamic
//! membership an entry leads to those red interfaces alone on which a host listens, and is set anew when that changes.

mod flows;
mod kernel;
mod listeners;
mod packet_socket;

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use muster_membership::Changed;
use rtnetlink::Handle;
use tracing::{debug, warn};

use crate::block::{multicast_rule, table};
use crate::config::EspConfig;
use crate::inner::Inner;
use crate::netlink::{self, RuleFamily};
use crate::policy::{Policies, is_carried};
use crate::stop::{Stop, Workers};
use crate::{Error, Listening};
use flows::Flows;
use kernel::{Flow, MAX_VIFS, RoutingSocket, Upcall};
use listeners::Listeners;

pub(crate) use kernel::Family;
#[cfg(feature = "fuzzing")]
pub(crate) use kernel::parse_upcall;

/// The tunnel's number among the interfaces of the table; red ones follow.
const TUNNEL: u16 = 0;

/// Upcalls answered before the wish to stop is looked at again.
const BATCH: usize = 64;

/// That this is the one data plane of an instance in this network namespace: the kernel gives its multicast routing tables
/// to one socket each, and only to who may administer the network. Taken by each that starts; to be dropped before.
pub struct Claim(Vec<(Family, RoutingSocket)>);

impl Claim {
    /// # Errors
    /// Another daemon of this instance runs; or a missing right.
    pub fn take(instance: u8) -> Result<Self, Error> {
        let (mut sockets, table) = (Vec::new(), table(instance));
        for family in [Family::Ipv4, Family::Ipv6] {
            let Some(socket) = open(family, table)? else { continue };
            let what = || {
                format!(
                    "taking {family:?} multicast routing table {table}; does another daemon of instance {instance} run?"
                )
            };
            socket.start().map_err(Error::io(what))?;
            sockets.push((family, socket));
        }
        Ok(Claim(sockets))
    }
}

/// The routing sockets of both families; dropped with the threads that serve them.
pub(crate) struct Forwarding {
    routers: Vec<Arc<Router>>,
    reds: Vec<String>,
    silent: Arc<AtomicU32>,
}

impl Forwarding {
    /// Starts forwarding: one thread a family, which ends with `workers`. `policies` say which groups are
    /// carried and which prefixes are the own ones.
    pub(crate) fn start(
        config: &EspConfig,
        claim: Claim,
        policies: &Arc<Policies>,
        workers: &mut Workers,
    ) -> Result<Self, Error> {
        if config.reds.len() >= MAX_VIFS {
            return Err(Error::Config(format!("red.interfaces: at most {} can be forwarded between", MAX_VIFS - 1)));
        }
        let indices = netlink::run(async |handle| interfaces(handle, config).await)?;
        let (mut routers, silent) = (Vec::new(), Arc::new(AtomicU32::new(0)));
        for (family, socket) in claim.0 {
            let router = Arc::new(Router::start(family, socket, config, &indices, policies.clone(), silent.clone())?);
            routers.push(router.clone());
            let thread = if family == Family::Ipv4 { "muster-mroute4" } else { "muster-mroute6" };
            workers.spawn(thread, move |stop| router.run(stop))?;
        }
        Ok(Forwarding { routers, reds: config.reds.clone(), silent })
    }

    /// Delivers nothing from now on to the red interfaces on which these own prefixes are: another router does. The only
    /// red interface is the one, whatever its addresses.
    pub(crate) fn leave_to_another(&self, prefixes: &[IpNet]) {
        let is_there = |networks: &[IpNet]| networks.iter().any(|net| prefixes.iter().any(|own| overlap(net, own)));
        let mut silent = 0;
        for (bit, red) in self.reds.iter().enumerate() {
            // An interface whose addresses cannot be read is gone, or going.
            let theirs = || netlink::run(async |handle| netlink::networks_of(handle, red).await).unwrap_or_default();
            if !prefixes.is_empty() && (self.reds.len() == 1 || is_there(&theirs())) {
                silent |= 1 << (bit + 1);
            }
        }
        self.silent.store(silent, Relaxed);
    }

    /// What hosts on the red interfaces listen to; nothing without dynamic membership.
    pub(crate) fn listening(&self) -> Vec<Listening> {
        let listeners = self.routers.iter().filter_map(|router| router.listeners.as_ref());
        listeners.flat_map(Listeners::listening).collect()
    }

    /// Takes all entries away: the policy has changed, the kernel is to ask again.
    pub(crate) fn forget(&self) {
        self.routers.iter().for_each(|router| router.forget());
    }
}

/// Indices of the tunnel and the red interfaces, whose multicast is made a matter of our table.
async fn interfaces(handle: &Handle, config: &EspConfig) -> Result<Vec<u32>, Error> {
    let mut indices = Vec::new();
    for name in [&config.device].into_iter().chain(&config.reds) {
        indices.push(netlink::existing_link(handle, name).await?.index);
        // Part of the block; here too, so that forwarding does not depend on who started us.
        for family in RuleFamily::MULTICAST {
            multicast_rule(family, config.instance, name).add(handle).await?;
        }
    }
    Ok(indices)
}

/// Makes the tables, so that rules that lead to them lead somewhere: past a table that is not there the kernel goes
/// on to the next rule, and in the end to everybody's table.
pub(crate) fn create_tables(table: u32) -> Result<(), Error> {
    for family in [Family::Ipv4, Family::Ipv6] {
        open(family, table)?;
    }
    Ok(())
}

/// `None`: the kernel does not have the family.
fn open(family: Family, table: u32) -> Result<Option<RoutingSocket>, Error> {
    match RoutingSocket::open(family, table) {
        Ok(socket) => Ok(Some(socket)),
        Err(e) if e.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(None),
        Err(e) => {
            let what = || {
                format!(
                    "opening {family:?} multicast routing table {table}; needs CAP_NET_ADMIN, CAP_NET_RAW and a \
                     kernel with multicast routing and policy routing of it"
                )
            };
            Err(Error::io(what)(e))
        }
    }
}

/// Answers the kernel's questions, of one family.
struct Router {
    socket: RoutingSocket,
    policies: Arc<Policies>,
    /// Interfaces in the table: the tunnel, then the red ones; at most 32.
    vifs: u16,
    /// Bit n: another router delivers on interface n.
    silent: Arc<AtomicU32>,
    /// `None`: everything that is carried goes to every red interface.
    listeners: Option<Listeners>,
    /// Held from the look at the policy until the kernel has the answer, so that no answer by an old policy comes
    /// behind [`forget`](Self::forget).
    flows: Mutex<Flows>,
}

impl Router {
    fn start(
        family: Family,
        socket: RoutingSocket,
        config: &EspConfig,
        indices: &[u32],
        policies: Arc<Policies>,
        silent: Arc<AtomicU32>,
    ) -> Result<Self, Error> {
        let names = [&config.device].into_iter().chain(&config.reds);
        for ((vif, ifindex), name) in (0..).zip(indices).zip(names) {
            let what = || format!("interface {name}: adding it to {family:?} multicast routing");
            socket.add_vif(vif, *ifindex).map_err(Error::io(what))?;
        }
        let reds = config.reds.iter().zip(indices.iter().skip(1).copied());
        let listeners = config.dynamic_membership.then(|| Listeners::start(family, reds)).transpose()?;
        Ok(Router { socket, policies, vifs: indices.len() as u16, silent, listeners, flows: Mutex::default() })
    }

    fn run(&self, stop: &Stop) -> Result<(), Error> {
        let fds: Vec<_> =
            [self.socket.as_fd()].into_iter().chain(self.listeners.iter().flat_map(Listeners::fds)).collect();
        let rest = || self.listeners.as_ref().and_then(Listeners::rest);
        while stop.wait_any(&fds, rest()).map_err(Error::io(|| "waiting for upcalls".into()))? {
            for _ in 0..BATCH {
                match self.socket.next_upcall() {
                    Ok(Some(upcall)) => self.answer(&upcall),
                    Ok(None) => break,
                    // ENOBUFS and the like: questions were lost, the kernel asks again.
                    Err(e) => {
                        debug!("reading an upcall: {e}");
                        break;
                    }
                }
            }
            if let Some(listeners) = &self.listeners {
                let changed = listeners.work(&self.policies.load().groups);
                self.lead_anew(&changed);
            }
        }
        Ok(())
    }

    fn answer(&self, upcall: &Upcall) {
        let Upcall { flow, vif } = upcall;
        let mut flows = self.flows();
        let admitted = self.lead(flow, *vif);
        if let Some((oldest, parent)) = flows.insert(*flow, *vif, admitted) {
            self.remove(&oldest, parent);
        }
    }

    /// Leads a flow that comes from `vif` to where it is to go now. Whether it may cross at all. `flows` is held.
    fn lead(&self, flow: &Flow, vif: u16) -> bool {
        let policy = self.policies.load();
        let inner = Inner { source: flow.source, destination: flow.group, len: 0 };
        // What comes from the tunnel was checked against its sender when it was decrypted.
        let admitted = is_carried(&policy.groups, flow.group)
            && vif < self.vifs
            && (vif == TUNNEL || policy.admits_outbound(&inner));
        let silent = self.silent.load(Relaxed) | u32::from(policy.is_left_to_another(flow.source)) << TUNNEL;
        let is_wanted = |out: u16| self.listeners.as_ref().is_none_or(|listeners| listeners.want(out, flow));
        let goes_to = |out: &u16| *out != vif && silent >> out & 1 == 0 && is_wanted(*out);
        let out: Vec<u16> = if admitted { (0..self.vifs).filter(goes_to).collect() } else { Vec::new() };
        debug!(source = %flow.source, group = %flow.group, vif, admitted, ?out, "flow");
        if let Err(e) = self.socket.add_flow(flow, vif, &out) {
            warn!(source = %flow.source, group = %flow.group, "flow not forwarded: {e}");
        }
        admitted
    }

    /// Something else is wanted of some groups.
    fn lead_anew(&self, changed: &Changed) {
        if changed.is_empty() {
            return;
        }
        let flows = self.flows();
        for (flow, parent) in flows.admitted().filter(|(flow, _)| changed.contains(&flow.group)) {
            self.lead(flow, parent);
        }
    }

    fn forget(&self) {
        for (flow, parent) in std::mem::take(&mut *self.flows()).into_iter() {
            self.remove(&flow, parent);
        }
    }

    fn remove(&self, flow: &Flow, parent: u16) {
        // The kernel may have dropped it by itself, with its interface.
        if let Err(e) = self.socket.remove_flow(flow, parent) {
            debug!(source = %flow.source, group = %flow.group, "removing a flow: {e}");
        }
    }

    fn flows(&self) -> MutexGuard<'_, Flows> {
        // Nothing that holds it panics half way through a change.
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}
