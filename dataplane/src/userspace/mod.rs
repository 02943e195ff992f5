//! ESP in user space: packets go from the TUN device through the security associations to raw sockets, and back.

mod association;
mod black;
mod counts;
mod crossing;
mod device;
mod early;
pub(crate) mod gro;
mod memory;
pub(crate) mod mmsg;
mod pump;
pub(crate) mod sad;
mod senders;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use muster_wire::MemberId;
use tracing::{info, warn};
use tun_rs::SyncDevice;

use crate::bypass::Bypass;
use crate::config::EspConfig;
use crate::ingress::{Esp, Ingress};
use crate::learned::Learned;
use crate::mroute::{Claim, Forwarding};
use crate::nft::{TableMonitor, Watched};
use crate::policy::Policies;
use crate::stop::Workers;
use crate::tunnel::tunnel_mtu;
use crate::xfrm::remove_left_over;
use crate::{
    Counters, Dataplane, Error, ExportedKey, FlowId, Listening, Sa, SaId, SaKind, SaStatus, Selector, netlink,
};
use black::{Black, Share};
pub use memory::Memory;
use sad::{Sad, Treatment};

/// RFC 4303 over a TUN device and raw sockets, with multicast forwarding to the red interfaces.
///
/// Dropping it ends its threads and takes the device, the forwarding entries and the keys away. The block stays.
pub(crate) struct Userspace {
    sad: Arc<Sad>,
    policies: Arc<Policies>,
    config: EspConfig,
    queues: Vec<Arc<SyncDevice>>,
    /// Others take their place when the black address changes.
    packets: Mutex<Packets>,
    ingress: Ingress,
    /// Before the block alone stands.
    bypass: Bypass,
    forwarding: Forwarding,
    /// Before the workers: dropping it ends its thread, which they wait for.
    learned: Learned,
    workers: Workers,
}

impl Userspace {
    /// Makes the device, opens the sockets, starts the threads. From then on red multicast is carried as far as SAs
    /// and senders are set. Forwarding and the block are the caller's, before.
    ///
    /// # Errors
    /// A configuration that cannot work, an interface that is not there, a missing right or device: each by name.
    pub(crate) fn start(config: EspConfig) -> Result<Self, Error> {
        config.check()?;
        let claim = Claim::take(config.instance)?;
        // Who ran here before may have used the kernel's ESP and been killed.
        remove_left_over(config.instance)?;
        let queues: Vec<_> = device::create(&config.device, config.workers)?.into_iter().map(Arc::new).collect();

        let treatment = Treatment { copy_dscp: config.copy_dscp, clear_df: config.clear_df };
        let policies = Arc::new(Policies::new(config.red_multicast.clone(), config.own_prefixes.clone()));
        let sad = Arc::new(Sad::new(policies.clone(), treatment, config.ledger.clone()));
        let mut workers = Workers::new()?;
        let (mtu, ipv4) = (sad.clone(), config.black_address.is_ipv4());
        let learned =
            Learned::start(&config, move |black| mtu.set_mtu(tunnel_mtu(black.mtu, ipv4).into()), &mut workers)?;
        let forwarding = Forwarding::start(&config, claim, &policies, &mut workers)?;
        let groups = config.group_address.into_iter().collect();
        let packets = Mutex::new(Packets::start(&config, &queues, &sad, groups)?);
        let (ingress, bypass) = (Ingress::new(config.block(), vec![], Esp::Other), Bypass::start(config.block())?);
        let mut tables: Vec<Watched> = ingress.watched().into_iter().chain(bypass.watched()).collect();
        if !tables.is_empty() {
            let monitor = TableMonitor::open()?;
            workers.spawn("muster-filter", move |stop| monitor.run(&mut tables, stop))?;
        }
        ingress.set_or_warn();

        let EspConfig { device: name, black_interface, black_address, group_address, .. } = &config;
        info!(device = name, black_interface, %black_address, ?group_address, "userspace ESP is running");
        Ok(Userspace { sad, policies, config, queues, packets, ingress, bypass, forwarding, learned, workers })
    }

    fn packets(&self) -> MutexGuard<'_, Packets> {
        // Whoever holds it replaces it whole.
        self.packets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be joined on black: the mesh's group, and the destinations of the SAs that there are.
    fn groups(&self) -> BTreeSet<IpAddr> {
        let mut groups = self.sad.groups();
        groups.extend(self.config.group_address);
        groups
    }

    fn check_family(&self, destination: IpAddr) -> Result<(), Error> {
        let black = self.config.black_address;
        match destination.is_ipv4() == black.is_ipv4() {
            true => Ok(()),
            false => Err(Error::FamilyMismatch { destination, black }),
        }
    }
}

/// The threads that carry packets between the device and black, from one black address.
struct Packets {
    address: IpAddr,
    /// What each of them has on black, and the groups that all are in.
    blacks: Vec<Arc<Black>>,
    groups: BTreeSet<IpAddr>,
    workers: Workers,
}

impl Packets {
    /// Two for each queue of the device. What goes to black is shared out by the kernel, flow by flow; what comes from there
    /// by its SPI, so that one thread has all of an SA.
    fn start(
        config: &EspConfig,
        queues: &[Arc<SyncDevice>],
        sad: &Arc<Sad>,
        groups: BTreeSet<IpAddr>,
    ) -> Result<Self, Error> {
        let link = netlink::run(async |handle| netlink::existing_link(handle, &config.black_interface).await)?;
        let (mut workers, mut blacks) = (Workers::new()?, Vec::new());
        for (nth, device) in (0..).zip(queues) {
            let share = Share { nth, of: config.workers };
            let black = Arc::new(Black::open(config, link.index, share)?);
            groups.iter().try_for_each(|group| black.join(*group))?;
            blacks.push(black.clone());
            let (d, b, s) = (device.clone(), black.clone(), sad.clone());
            workers.spawn("muster-encrypt", move |stop| pump::red_to_black(&d, &b, &s, stop))?;
            let (d, s) = (device.clone(), sad.clone());
            workers.spawn("muster-decrypt", move |stop| pump::black_to_red(&d, &black, &s, stop))?;
        }
        Ok(Packets { address: config.black_address, blacks, groups, workers })
    }

    /// Receives for these groups, and for no others.
    fn follow(&mut self, groups: &BTreeSet<IpAddr>) -> Result<(), Error> {
        for group in &self.groups - groups {
            self.blacks.iter().for_each(|black| black.leave(group));
            self.groups.remove(&group);
        }
        for group in groups - &self.groups {
            // Before the first: what was joined before an error is left by the next change.
            self.groups.insert(group);
            self.blacks.iter().try_for_each(|black| black.join(group))?;
        }
        Ok(())
    }
}

impl Dataplane for Userspace {
    fn backend(&self) -> &'static str {
        "userspace"
    }

    fn set_outbound(&self, sa: Sa) -> Result<(), Error> {
        self.check_family(sa.destination)?;
        self.sad.set_outbound(Sa { source: Some(self.packets().address), ..sa })
    }

    fn set_unicast(&self, peer: MemberId, sa: Sa) -> Result<(), Error> {
        self.check_family(sa.destination)?;
        self.sad.set_unicast(peer, Sa { source: Some(self.packets().address), ..sa })
    }

    fn install_inbound(&self, sas: Vec<Sa>) -> Result<(), Error> {
        let mut new = BTreeSet::new();
        for sa in sas.iter().filter(|sa| sa.kind == SaKind::Group) {
            self.check_family(sa.destination)?;
            new.insert(sa.destination);
        }
        let packets = &mut *self.packets();
        let stand = self.groups();
        // First: who sends on them may begin as soon as it hears of us.
        let joined = packets.follow(&(&stand | &new)).and_then(|()| self.sad.install_inbound(sas));
        joined.or_else(|error| packets.follow(&stand).and(Err(error)))
    }

    fn remove_inbound(&self, ids: &[SaId]) -> Result<(), Error> {
        let packets = &mut *self.packets();
        self.sad.remove_inbound(ids);
        packets.follow(&self.groups())
    }

    fn set_flow(&self, flow: FlowId, selector: Selector, sa: Sa) -> Result<(), Error> {
        self.check_family(sa.destination)?;
        self.sad.set_flow(flow, selector, Sa { source: Some(self.packets().address), ..sa })?;
        self.learned.set_flows(self.sad.flow_destinations());
        Ok(())
    }

    fn stop_flow(&self, flow: FlowId, selector: Selector) -> Result<(), Error> {
        self.sad.stop_flow(flow, selector)?;
        self.learned.set_flows(self.sad.flow_destinations());
        Ok(())
    }

    fn clear_flow(&self, flow: FlowId) -> Result<(), Error> {
        self.sad.clear_flow(flow);
        self.learned.set_flows(self.sad.flow_destinations());
        Ok(())
    }

    fn set_bypass(&self, selectors: Vec<Selector>) -> Result<(), Error> {
        self.bypass.set(selectors)
    }

    fn set_routes(&self, routes: BTreeMap<MemberId, Vec<IpNet>>) {
        self.policies.set_routes(&routes);
        self.learned.set(routes);
    }

    fn leave_to_another(&self, prefixes: Vec<IpNet>) {
        self.forwarding.leave_to_another(&prefixes);
        self.policies.leave_to_another(prefixes);
        self.forwarding.forget();
    }

    fn set_own_prefixes(&self, prefixes: Vec<IpNet>) {
        self.policies.set_own_prefixes(prefixes.clone());
        self.learned.set_own(prefixes.clone());
        self.forwarding.forget();
        self.ingress.set_own_prefixes(prefixes.clone());
        if let Err(error) = self.bypass.set_own_prefixes(prefixes) {
            warn!(%error, "nothing crosses in clear any more");
        }
    }

    fn set_black_address(&self, address: IpAddr) -> Result<(), Error> {
        let config = EspConfig { black_address: address, ..self.config.clone() };
        config.check()?;
        // Nobody joins or leaves meanwhile.
        let packets = &mut *self.packets();
        let new = Packets::start(&config, &self.queues, &self.sad, packets.groups.clone())?;
        let old = std::mem::replace(packets, new);
        // Its threads may still wait for a full queue; nobody waits with them.
        std::thread::spawn(move || drop(old));
        Ok(())
    }

    fn listening(&self) -> Vec<Listening> {
        self.forwarding.listening()
    }

    fn failure(&self) -> Option<String> {
        self.workers.failure().or_else(|| self.packets().workers.failure())
    }

    fn clear_outbound(&self) -> Result<(), Error> {
        self.sad.clear_outbound();
        Ok(())
    }

    fn set_peer_address(&self, peer: &MemberId, address: IpAddr) {
        self.sad.set_peer_address(peer, address);
    }

    fn clear_unicast(&self, peer: &MemberId) -> Result<(), Error> {
        self.sad.clear_unicast(peer);
        Ok(())
    }

    fn set_senders(&self, senders: HashMap<MemberId, Vec<IpNet>>) {
        self.policies.set_senders(senders);
    }

    fn sas(&self) -> Vec<SaStatus> {
        self.sad.sas()
    }

    fn export_keys(&self) -> Vec<ExportedKey> {
        self.sad.export_keys()
    }

    fn counters(&self) -> Counters {
        self.sad.counters()
    }
}
