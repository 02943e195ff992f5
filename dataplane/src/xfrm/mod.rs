//! ESP by the kernel: security associations and policies by native netlink, and an xfrm interface as the red-facing device.
//!
//! | | |
//! |---|---|
//! | marks what is ours | the interface's number (`XFRMA_IF_ID`) on every SA and policy; nothing else is touched |
//! | a sender's SAs | one number (`reqid`) for its group SAs and one for its unicast ones, by which the packet filter knows it; one for each selector of the SAs that have one |
//! | the switch to a new epoch | the policies name another `reqid`, each in one step; the old SA goes a moment later |

mod device;
mod dump;
mod filter;
mod left_over;
mod memberships;
mod monitor;
mod probe;
mod request;
mod spd;
mod state;
mod statistics;
mod way_out;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use muster_wire::MemberId;
use tracing::{info, warn};

use crate::bypass::Bypass;
use crate::config::EspConfig;
use crate::esp::packet::largest_inner;
use crate::ingress::{Esp, Ingress};
use crate::learned::Learned;
use crate::mroute::{Claim, Forwarding};
use crate::netlink::Link;
use crate::netlink::batch::{BatchSocket, Request};
use crate::nft::{TableMonitor, Watched};
use crate::policy::Policies;
use crate::stop::Workers;
use crate::tunnel::MIN_MTU;
use crate::{
    Counters, Dataplane, Direction, Error, ExportedKey, FlowId, Listening, Sa, SaId, SaKind, SaStatus, Selector,
    netlink,
};
use device::Device;
use dump::{clear, statuses};
use filter::Filter;
pub(crate) use left_over::remove_left_over;
use memberships::Memberships;
use monitor::Monitor;
pub(crate) use probe::check as probe;
use probe::try_algorithm;
use request::{Place, Progress};
use spd::{Carries, Entry, Senders, User, policies};
use state::{Move, State};
use statistics::Statistics;
use way_out::WayOut;

/// Numbers of our interfaces, one for each instance.
const IF_IDS: RangeInclusive<u32> = 0x4d75_7300..=0x4d75_730f;
/// Numbers that SAs and policies share begin here: key daemons count theirs from 1.
const FIRST_REQID: u32 = 0x4d75_0000;

/// Of what the kernel's ESP sends: it takes no other.
const HOP_LIMIT: u8 = 64;

/// An outbound SA goes so long after another has taken its place: packets that were given to it before are through.
const RETIRED_FOR: Duration = Duration::from_secs(1);

/// RFC 4303 by the kernel, with multicast forwarding to the red interfaces.
///
/// Dropping it takes the SAs, the policies and the interface away. The block stays.
pub(crate) struct Kernel {
    config: EspConfig,
    policies: Arc<Policies>,
    state: Arc<Mutex<State>>,
    ingress: Ingress,
    /// Before the block alone stands.
    bypass: Bypass,
    forwarding: Forwarding,
    /// Before the workers: dropping it ends its thread, which they wait for.
    learned: Learned,
    workers: Workers,
}

impl Kernel {
    /// Whether it does for this configuration all that [`Userspace`](crate::userspace::Userspace) does.
    ///
    /// # Errors
    /// A black interface too narrow: the kernel does not fragment what it has encrypted, and IPv6 in it has 1280 octets
    /// at least (RFC 8200 5).
    pub(crate) fn suits(config: &EspConfig) -> Result<(), Error> {
        let EspConfig { black_interface: name, black_address, .. } = config;
        let mtu = netlink::run(async |handle| netlink::existing_link(handle, name).await)?.mtu;
        match largest_inner(mtu as usize, black_address.is_ipv4()) >= usize::from(MIN_MTU) {
            true => Ok(()),
            false => {
                Err(Error::Config(format!("interface {name}: an MTU of {mtu} leaves less than {MIN_MTU} for IPv6")))
            }
        }
    }

    /// Makes the interface, and takes what a killed predecessor of this instance has left away. From then on red multicast
    /// is carried as far as SAs and senders are set. Forwarding and the block are the caller's, before.
    ///
    /// # Errors
    /// A configuration that cannot work, an interface that is not there, a kernel without ESP or xfrm interfaces, a missing
    /// right: each by name.
    pub(crate) fn start(config: EspConfig) -> Result<Self, Error> {
        config.check()?;
        if config.hop_limit != HOP_LIMIT {
            return Err(Error::Config(format!("dataplane.hop_limit: the kernel's ESP has its own, {HOP_LIMIT}")));
        }
        let if_id = if_id(config.instance);
        // Before what is found here is taken for a dead daemon's.
        let claim = Claim::take(config.instance)?;
        let mut socket = xfrm_socket()?;
        clear(&mut socket, if_id)?;
        try_algorithm(&mut socket, if_id, config.black_address.is_ipv4())?;
        let link = netlink::run(async |handle| netlink::existing_link(handle, &config.black_interface).await)?;
        let memberships = Memberships::new(&config, link.index, config.group_address.into_iter().collect())?;
        let device = Device::create(&config.device, if_id, config.group_address)?;
        let tables = TableMonitor::open()?;
        // Before the first packet.
        let filter = Filter::start(&config, if_id)?;
        let policies = Arc::new(Policies::new(config.red_multicast.clone(), config.own_prefixes.clone()));
        let mut workers = Workers::new()?;
        let mut way_out = WayOut::start(if_id, config.black_address.is_ipv4())?;
        way_out.lead(config.group_address.into_iter())?;
        let way_out = Arc::new(Mutex::new(way_out));
        let kept = way_out.clone();
        let keep = move |black: Link| {
            let mut way_out = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = way_out.keep(black.index) {
                warn!(%error, "what is encrypted may not leave");
            }
        };
        let learned = Learned::start(&config, keep, &mut workers)?;
        let forwarding = Forwarding::start(&config, claim, &policies, &mut workers)?;
        let state = State {
            if_id,
            socket,
            filter,
            device,
            statistics: Statistics::open()?,
            way_out,
            black: config.black_address,
            memberships,
            sas: BTreeMap::new(),
            senders: Senders::default(),
            stopped: BTreeMap::new(),
            routes: BTreeMap::new(),
            policies: BTreeMap::new(),
            reqids: HashMap::new(),
            next_reqid: FIRST_REQID,
            retired: Vec::new(),
            worn: HashSet::new(),
        };
        let EspConfig { device: name, black_interface, black_address, group_address, .. } = &config;
        info!(device = name, black_interface, %black_address, ?group_address, "the kernel's ESP is running");
        let state = Arc::new(Mutex::new(state));
        let (monitor, watched) = (Monitor::open()?, state.clone());
        workers.spawn("muster-xfrm", move |stop| monitor.run(&watched, stop))?;
        let (ingress, bypass) = (Ingress::new(config.block(), vec![], Esp::Kernel), Bypass::start(config.block())?);
        ingress.set_or_warn();
        let mut watched: Vec<Watched> = ingress.watched().into_iter().chain(bypass.watched()).collect();
        let (filtering, followed) = (state.clone(), policies.clone());
        let restore = move || {
            let state = &mut *filtering.lock().unwrap_or_else(PoisonError::into_inner);
            if state.filter.stands() {
                return Ok(());
            }
            warn!("somebody has removed the packet filter that checks inner sources; it is set again");
            state.filter.set_again(&followed.load(), &state.reqids)
        };
        watched.push(state.lock().unwrap_or_else(PoisonError::into_inner).filter.watched(restore));
        workers.spawn("muster-filter", move |stop| tables.run(&mut watched, stop))?;
        let kernel = Kernel { config, policies, state, ingress, bypass, forwarding, learned, workers };
        kernel.follow(&mut kernel.state())?;
        Ok(kernel)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What a panic left behind the kernel's tables says; the next change brings them to what is wanted.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the kernel's policies to what is wanted.
    fn follow(&self, state: &mut State) -> Result<(), Error> {
        let State { routes, senders, stopped, sas, black, .. } = state;
        let wanted = policies(&self.policies.load(), routes, senders, stopped, sas, *black);
        let gone = state.policies.keys().filter(|key| !wanted.contains_key(key));
        let set = wanted.iter().filter(|(key, action)| state.policies.get(key) != Some(action));
        let requests: Vec<Request> = set
            .map(|(key, action)| Request::set_policy(key, action, state.if_id))
            .chain(gone.map(|key| Request::delete_policy(key, state.if_id)))
            .collect();
        let receivers = state.senders.values().map(|id| id.destination);
        let mut way_out = state.way_out.lock().unwrap_or_else(PoisonError::into_inner);
        way_out.lead(self.config.group_address.into_iter().chain(receivers))?;
        drop(way_out);
        state.socket.demand(requests, &[libc::ENOENT])?;
        state.policies = wanted;
        Ok(())
    }

    /// Adds the only SA that `user` sends on.
    fn send_on(&self, sa: Sa, user: User) -> Result<(), Error> {
        check(&sa, self.config.black_address)?;
        let state = &mut *self.state();
        let id = sa.id();
        // The kernel finds SAs by this alone, and a router has a say in both: its address, and by its hello key the
        // SPI. Of the group an inbound one may be in the way.
        let is_foreign = |other: &Entry| match user {
            User::Group => false,
            User::Flow(_) => other.user.is_some_and(|other| other != user),
            User::Router(_) => other.user != Some(user),
        };
        if state.sas.get(&id).is_some_and(is_foreign) {
            return Err(Error::SpiTaken { destination: id.destination, spi: id.spi });
        }
        self.config.ledger.record_outbound(std::slice::from_ref(&sa))?;
        let reqid = state.fresh_reqid();
        // Of the group, an inbound one with this number goes.
        state.remove(&[id])?;
        let place = Place {
            direction: Direction::Out,
            source: state.black,
            reqid,
            if_id: state.if_id,
            copy_dscp: self.config.copy_dscp,
        };
        let added = state.socket.demand([Request::add_sa(id, &sa.key, place, Progress::None)], &[]);
        added.map_err(|error| self.undo(state, &[id], error))?;
        let source = Some(state.black);
        let Sa { kind, epoch, sender, selector, key, .. } = sa;
        let user = Some(user);
        state.sas.insert(id, Entry { place, kind, epoch, sender, user, selector, source, key });
        if let Some(User::Flow(flow)) = user {
            state.stopped.remove(&flow);
        }
        let before = user.and_then(|user| state.senders.insert(user, id)).filter(|before| *before != id);
        // Its policies now name the new one; packets that were routed before that are still on their way.
        let at = Instant::now() + RETIRED_FOR;
        state.retired.extend(before.map(|before| (at, before)));
        self.follow(state)
    }

    /// Nothing of an installation that failed stays, as far as that can be had. The error is the installation's.
    fn undo(&self, state: &mut State, ids: &[SaId], error: Error) -> Error {
        for undone in [state.take_back(ids), self.follow_groups(state)] {
            if let Err(why) = undone {
                warn!(error = %why, "an installation of SAs that failed cannot be undone");
            }
        }
        error
    }

    fn stop_sending(&self, user: User) -> Result<(), Error> {
        let state = &mut *self.state();
        let before = state.senders.remove(&user);
        // The SA in any case: without it the policy stops what it is for.
        let removed = state.remove(before.as_slice());
        self.follow(state)?;
        removed
    }
}

impl Dataplane for Kernel {
    fn backend(&self) -> &'static str {
        "kernel"
    }

    fn install_inbound(&self, sas: Vec<Sa>) -> Result<(), Error> {
        let state = &mut *self.state();
        sas.iter().try_for_each(|sa| check(sa, self.config.black_address))?;
        let mut ids: Vec<SaId> = sas.iter().map(Sa::id).collect();
        ids.sort_unstable();
        if let Some((&SaId { destination, spi }, _)) =
            ids.iter().zip(ids.iter().skip(1)).find(|(one, next)| one == next)
        {
            return Err(Error::DuplicateSa { destination, spi });
        }
        // First: who sends on them may begin as soon as it hears of us.
        let new: BTreeSet<IpAddr> = sas.iter().map(|sa| sa.destination).filter(IpAddr::is_multicast).collect();
        let joined = state.memberships.add(&new).and_then(|()| self.config.ledger.record_inbound(&sas));
        joined.or_else(|error| self.follow_groups(state).and(Err(error)))?;
        state.remove(&ids).or_else(|error| self.follow_groups(state).and(Err(error)))?;
        let known = state.reqids.len();
        let anywhere = if state.black.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        let mut entries = Vec::with_capacity(sas.len());
        for sa in sas {
            let carries = sa.selector.map_or(Carries::Of(sa.sender, sa.kind), Carries::Flow);
            let (id, reqid) = (sa.id(), state.reqid_of(carries));
            let place =
                Place { direction: Direction::In, source: anywhere, reqid, if_id: state.if_id, copy_dscp: false };
            let Sa { kind, epoch, sender, selector, source, key, .. } = sa;
            entries.push((id, Entry { place, kind, epoch, sender, user: None, selector, source, key }));
        }
        let requests = entries.iter().map(|(id, sa)| Request::add_sa(*id, &sa.key, sa.place, Progress::None));
        let done = match state.socket.ask(requests).map(|refused| refused.into_iter().next()) {
            Ok(Some(first)) => Err(first.into()),
            Err(error) => Err(error),
            Ok(None) => {
                state.sas.extend(entries);
                // Of a sender that is new here.
                if state.reqids.len() != known { self.filter(state) } else { Ok(()) }
            }
        };
        // All or none.
        done.map_err(|error| self.undo(state, &ids, error))
    }

    fn set_outbound(&self, sa: Sa) -> Result<(), Error> {
        self.send_on(Sa { selector: None, ..sa }, User::Group)
    }

    fn remove_inbound(&self, ids: &[SaId]) -> Result<(), Error> {
        let mut state = self.state();
        let inbound = |id: &&SaId| state.sas.get(id).is_some_and(|sa| sa.place.direction == Direction::In);
        let ids: Vec<SaId> = ids.iter().filter(inbound).copied().collect();
        let removed = state.remove(&ids);
        self.follow_groups(&mut state).and(removed)
    }

    fn clear_outbound(&self) -> Result<(), Error> {
        self.stop_sending(User::Group)
    }

    fn set_unicast(&self, peer: MemberId, sa: Sa) -> Result<(), Error> {
        self.send_on(Sa { selector: None, ..sa }, User::Router(peer))
    }

    fn set_peer_address(&self, peer: &MemberId, address: IpAddr) {
        let state = &mut *self.state();
        let user = User::Router(*peer);
        let Some(from) = state.senders.get(&user).copied().filter(|id| id.destination != address) else {
            return;
        };
        let to = SaId { destination: address, ..from };
        let moved = match state.sas.contains_key(&to) {
            false => {
                state.senders.insert(user, to);
                state.move_sas(&[Move { from, to, source: None }])
            }
            // As in `send_on`.
            true => {
                state.senders.remove(&user);
                state.remove(&[from]).and(Err(Error::SpiTaken { destination: address, spi: to.spi }))
            }
        };
        // Whatever came of it, the policies follow.
        let moved = self.follow(state).and(moved);
        if let Err(error) = moved {
            warn!(%error, %address, "nothing is sent to a router that has moved, until its keys are renewed");
        }
    }

    fn clear_unicast(&self, peer: &MemberId) -> Result<(), Error> {
        self.stop_sending(User::Router(*peer))
    }

    fn set_flow(&self, flow: FlowId, selector: Selector, sa: Sa) -> Result<(), Error> {
        let set = self.send_on(Sa { selector: Some(selector), ..sa }, User::Flow(flow));
        self.lead_flows(&self.state());
        set
    }

    fn stop_flow(&self, flow: FlowId, selector: Selector) -> Result<(), Error> {
        selector.check()?;
        self.state().stopped.insert(flow, selector);
        let stopped = self.stop_sending(User::Flow(flow));
        self.lead_flows(&self.state());
        stopped
    }

    fn clear_flow(&self, flow: FlowId) -> Result<(), Error> {
        self.state().stopped.remove(&flow);
        let stopped = self.stop_sending(User::Flow(flow));
        self.lead_flows(&self.state());
        stopped
    }

    fn set_bypass(&self, selectors: Vec<Selector>) -> Result<(), Error> {
        self.bypass.set(selectors)
    }

    fn set_routes(&self, routes: BTreeMap<MemberId, Vec<IpNet>>) {
        let state = &mut *self.state();
        state.routes.clone_from(&routes);
        self.learned.set(routes);
        self.follow_or_warn(state);
    }

    fn set_senders(&self, senders: HashMap<MemberId, Vec<IpNet>>) {
        self.policies.set_senders(senders);
        let state = &mut *self.state();
        self.filter_or_warn(state);
    }

    fn leave_to_another(&self, prefixes: Vec<IpNet>) {
        self.forwarding.leave_to_another(&prefixes);
        self.policies.leave_to_another(prefixes);
        self.forwarding.forget();
        self.follow_or_warn(&mut self.state());
    }

    fn set_own_prefixes(&self, prefixes: Vec<IpNet>) {
        self.policies.set_own_prefixes(prefixes.clone());
        self.learned.set_own(prefixes.clone());
        self.forwarding.forget();
        let state = &mut *self.state();
        self.follow_or_warn(state);
        self.filter_or_warn(state);
        self.ingress.set_own_prefixes(prefixes.clone());
        if let Err(error) = self.bypass.set_own_prefixes(prefixes) {
            warn!(%error, "nothing crosses in clear any more");
        }
    }

    fn set_black_address(&self, address: IpAddr) -> Result<(), Error> {
        let config = EspConfig { black_address: address, ..self.config.clone() };
        config.check()?;
        let link = netlink::run(async |handle| netlink::existing_link(handle, &config.black_interface).await)?;
        let state = &mut *self.state();
        let memberships = Memberships::new(&config, link.index, state.memberships.groups.clone())?;
        let retired: Vec<SaId> = std::mem::take(&mut state.retired).into_iter().map(|(_, id)| id).collect();
        state.remove(&retired)?;
        let moves: Vec<Move> = state
            .sas
            .iter()
            .filter_map(|(id, sa)| match (sa.place.direction, sa.kind) {
                (Direction::Out, _) => Some(Move { from: *id, to: *id, source: Some(address) }),
                (Direction::In, SaKind::Unicast) => {
                    Some(Move { from: *id, to: SaId { destination: address, ..*id }, source: None })
                }
                (Direction::In, SaKind::Group) => None,
            })
            .collect();
        state.move_sas(&moves)?;
        (state.black, state.memberships) = (address, memberships);
        self.follow(state)
    }

    fn sas(&self) -> Vec<SaStatus> {
        let state = &mut *self.state();
        let mut found = statuses(&mut state.socket, state.if_id, &state.sas).unwrap_or_else(|error| {
            warn!(%error, "the kernel's SAs cannot be read");
            Vec::new()
        });
        let is_retired =
            |sa: &SaStatus| state.retired.iter().any(|(_, id)| (id.destination, id.spi) == (sa.destination, sa.spi));
        found.retain(|sa| !is_retired(sa));
        // The group's, flows by number, those to routers, and what is received.
        let rank = |sa: &SaStatus| {
            let inbound = sa.direction == Direction::In;
            (inbound, sa.flow.is_none() && sa.kind == SaKind::Unicast && !inbound, sa.flow)
        };
        found.sort_by_key(|sa| (rank(sa), sa.destination, sa.spi));
        found
    }

    fn export_keys(&self) -> Vec<ExportedKey> {
        self.state().sas.iter().map(|(id, sa)| ExportedKey::new(*id, &sa.key)).collect()
    }

    fn counters(&self) -> Counters {
        let state = &mut *self.state();
        let carried = state.device.carried().unwrap_or_default();
        let mut dropped = state.statistics.dropped();
        dropped.spoofed += state.filter.dropped();
        // What the interface did not take: no policy or SA for it; else it was too big, and its sender told.
        dropped.no_sa += carried.tx_carrier_errors;
        dropped.too_big += carried.tx_errors.saturating_sub(carried.tx_carrier_errors);
        Counters { rx_packets: carried.rx_packets, tx_packets: carried.tx_packets, dropped }
    }

    fn worn(&self) -> Vec<(SaKind, SaId)> {
        let state = self.state();
        let in_use = |id: &&SaId| state.retired.iter().all(|(_, retired)| retired != *id);
        let worn = state.worn.iter().filter(in_use);
        worn.filter_map(|id| Some((state.sas.get(id)?.kind, *id))).collect()
    }

    fn listening(&self) -> Vec<Listening> {
        self.forwarding.listening()
    }

    fn failure(&self) -> Option<String> {
        let gone = || self.state().device.carried().is_none();
        self.workers.failure().or_else(|| gone().then(|| format!("the device {} was deleted", self.config.device)))
    }
}

impl Kernel {
    /// The groups to be joined on black: the mesh's, and those that SAs receive for.
    fn groups(&self, state: &State) -> BTreeSet<IpAddr> {
        let received = state.sas.iter().filter(|(_, sa)| sa.place.direction == Direction::In);
        let groups = received.map(|(id, _)| id.destination).filter(IpAddr::is_multicast);
        groups.chain(self.config.group_address).collect()
    }

    fn follow_groups(&self, state: &mut State) -> Result<(), Error> {
        let groups = self.groups(state);
        state.memberships.follow(&groups)
    }

    /// Routes to where unicast flows go.
    fn lead_flows(&self, state: &State) {
        let flows = state.senders.iter().filter(|(user, _)| matches!(user, User::Flow(_)));
        let sas = flows.filter_map(|(_, id)| state.sas.get(id)).filter(|sa| sa.kind == SaKind::Unicast);
        let to = sas.filter_map(|sa| Some((sa.selector?.destination.trunc(), sa.sender)));
        self.learned.set_flows(to.collect());
    }

    /// Lets senders through by the numbers that their SAs have.
    fn filter(&self, state: &mut State) -> Result<(), Error> {
        state.filter.set(&self.policies.load(), &state.reqids)
    }

    fn filter_or_warn(&self, state: &mut State) {
        if let Err(error) = self.filter(state) {
            warn!(%error, "the packet filter is not as it should be");
        }
    }

    /// For those who can do nothing about it.
    fn follow_or_warn(&self, state: &mut State) {
        if let Err(error) = self.follow(state) {
            warn!(%error, "the kernel's policies are not as they should be");
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let state = &mut *self.state();
        // Their going is no alarm now.
        state.sas.clear();
        // Before the filter, which stops what they would let through.
        if let Err(error) = clear(&mut state.socket, state.if_id) {
            warn!(%error, "SAs of ours stay in the kernel; the next start takes them away");
        }
    }
}

fn xfrm_socket() -> Result<BatchSocket, Error> {
    BatchSocket::open(
        netlink_sys::protocols::NETLINK_XFRM,
        "opening a netlink socket to XFRM; does the kernel have it (modprobe xfrm_user)?",
    )
}

/// `instance` was checked to be one.
fn if_id(instance: u8) -> u32 {
    IF_IDS.start() + u32::from(instance)
}

fn check(sa: &Sa, black: IpAddr) -> Result<(), Error> {
    sa.check()?;
    if sa.destination.is_ipv4() != black.is_ipv4() {
        return Err(Error::FamilyMismatch { destination: sa.destination, black });
    }
    Ok(())
}

/// Reads a netlink datagram as an answer, a dump and an announcement.
#[cfg(feature = "fuzzing")]
pub(crate) fn read(bytes: &[u8]) {
    use crate::netlink::batch::{self, Message};
    use crate::nft;
    for message in batch::messages(bytes) {
        let Message { payload, .. } = message;
        let _ = (batch::error_of(payload), (nft::counter(payload), nft::elements_in(payload)));
        let _ = nft::is_about(&message, "muster0");
        let _ = (dump::id_of_worn(payload), dump::id_of_gone(payload));
        let number = dump::number_of(payload);
        if let Some(found) = number.and_then(|number| dump::Found::parse(payload, number)) {
            for direction in [Direction::In, Direction::Out] {
                let _ = (found.progress(direction), found.sequence(direction));
            }
        }
    }
}
