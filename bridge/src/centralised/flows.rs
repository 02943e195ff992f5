//! From what the key server says to security associations and flows of the data plane.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use muster_dataplane::{Dataplane, FlowId, Running, Sa, SaId, SaKey, SaKind, Selector};
use muster_fmke::crypto::SecretBytes;
use muster_fmke::isakmp::TrafficSelector;
use muster_fmke::member::{Change, FlowKey, MOST_SPD_ENTRIES, Spd};
use muster_wire::MemberId;
use thiserror::Error;

use super::bypass::Bypass;

/// Of a [`FlowId`], what tells flows of one rank apart: more than a client holds SAs.
const SERIAL_BITS: u32 = 14;

/// Carries them.
pub(super) struct Flows {
    pub(super) running: Running,
    /// Red groups that are carried here, whatever the key server says.
    multicast: Vec<IpNet>,
    numbers: BTreeMap<FlowKey, FlowId>,
    /// What is to go under SAs alone, as the key server said last; `None`: it has said nothing yet.
    protect: Option<BTreeSet<TrafficSelector>>,
    /// What of that has none, and so goes nowhere, by no wider flow either.
    stopped: BTreeMap<TrafficSelector, FlowId>,
    pub(super) bypass: Bypass,
}

/// Why something is not carried.
#[derive(Debug, Error)]
pub(super) enum NotCarried {
    #[error("the key server wants {0} carried, which red.multicast does not have")]
    Group(IpNet),
    #[error(transparent)]
    Dataplane(#[from] muster_dataplane::Error),
    #[error("the key server wants more flows carried than there are numbers")]
    Many,
    #[error("a key of {0} octets")]
    Key(usize),
}

impl Flows {
    /// `allowed`: what may go unprotected, if the key server says so.
    pub(super) fn new(running: Running, multicast: Vec<IpNet>, allowed: Vec<IpNet>) -> Self {
        let (numbers, stopped) = (BTreeMap::new(), BTreeMap::new());
        Flows { running, multicast, numbers, protect: None, stopped, bypass: Bypass::new(allowed) }
    }

    pub(super) fn dataplane(&self) -> &dyn Dataplane {
        self.running.dataplane.as_ref()
    }

    /// What is sent.
    pub(super) fn sent(&self) -> impl ExactSizeIterator<Item = &FlowKey> {
        self.numbers.keys()
    }

    /// What is to be protected and has no SA.
    pub(super) fn stopped(&self) -> impl ExactSizeIterator<Item = &TrafficSelector> {
        self.stopped.keys()
    }

    /// Does what the client's machine says.
    ///
    /// # Errors
    /// It is not done; of a flow that is sent, nothing is sent then; of what was to go unprotected, nothing goes so.
    pub(super) fn apply(&mut self, change: Change) -> Result<(), NotCarried> {
        match change {
            Change::Receive { flow, spi, key } => {
                self.check(&flow)?;
                Ok(self.dataplane().install_inbound(vec![sa(&flow, spi, &key)?])?)
            }
            Change::Send { flow, spi, key } => {
                self.check(&flow)?;
                let sa = sa(&flow, spi, &key)?;
                let number = self.number(flow).ok_or(NotCarried::Many)?;
                let set = self.dataplane().set_flow(number, selector(&flow.selector()), sa);
                // Else it would go on under the key before, which others may have that are out now.
                set.or_else(|error| self.stop(&flow).and(Err(error)))?;
                Ok(())
            }
            Change::Stop { flow } => Ok(self.stop(&flow)?),
            Change::Forget { destination, spi } => Ok(self.dataplane().remove_inbound(&[SaId { destination, spi }])?),
            Change::Follow(Spd { bypass, protect }) => {
                let protected = self.protect(protect.clone());
                let crosses = self.bypass.ask(bypass, &protect, self.running.dataplane.as_ref());
                Ok(protected.and(crosses)?)
            }
        }
    }

    /// Other prefixes may be reached unprotected.
    ///
    /// # Errors
    /// The data plane's: nothing goes unprotected then.
    pub(super) fn allow(&mut self, allowed: Vec<IpNet>) -> Result<(), muster_dataplane::Error> {
        let none = BTreeSet::new();
        self.bypass.allow(allowed, self.protect.as_ref().unwrap_or(&none), self.running.dataplane.as_ref())
    }

    /// What has no SA goes nowhere from now on, and what need not have one is forgotten.
    fn protect(&mut self, protect: BTreeSet<TrafficSelector>) -> Result<(), muster_dataplane::Error> {
        let forgotten: Vec<TrafficSelector> =
            self.stopped.keys().filter(|stopped| !protect.contains(stopped)).copied().collect();
        let sent: BTreeSet<TrafficSelector> = self.numbers.keys().map(FlowKey::selector).collect();
        let is_new = |wanted: &&TrafficSelector| !self.stopped.contains_key(wanted) && !sent.contains(wanted);
        let new: Vec<TrafficSelector> = protect.iter().filter(is_new).copied().collect();
        self.protect = Some(protect);
        let mut done = Ok(());
        for wanted in new {
            // As many as there may be have numbers.
            let Some(number) = self.free_number(&wanted) else { continue };
            done = done.and(self.leave_without(wanted, number));
        }
        for gone in forgotten {
            let number = self.stopped.remove(&gone);
            done = done.and(number.map_or(Ok(()), |number| self.dataplane().clear_flow(number)));
        }
        done
    }

    /// Of a flow that was sent nothing is sent any more: by no other one either, as long as it is to be protected.
    fn stop(&mut self, flow: &FlowKey) -> Result<(), muster_dataplane::Error> {
        // What was refused has none.
        let Some(number) = self.numbers.remove(flow) else { return Ok(()) };
        let wanted = flow.selector();
        let is_sent = self.numbers.keys().any(|other| other.selector() == wanted);
        // A key server that has not said yet what is to be protected would have it so.
        let stays = self.protect.as_ref().map_or(self.stopped.len() < MOST_SPD_ENTRIES, |all| all.contains(&wanted));
        match stays && !is_sent {
            true => self.leave_without(wanted, number),
            false => self.dataplane().clear_flow(number),
        }
    }

    fn leave_without(&mut self, wanted: TrafficSelector, number: FlowId) -> Result<(), muster_dataplane::Error> {
        self.stopped.insert(wanted, number);
        self.dataplane().stop_flow(number, selector(&wanted))
    }

    fn check(&self, flow: &FlowKey) -> Result<(), NotCarried> {
        let (destination, _) = flow.destination;
        let is_carried = self.multicast.iter().any(|net| net.contains(&destination));
        match destination.addr().is_multicast() && !is_carried {
            true => Err(NotCarried::Group(destination)),
            false => Ok(()),
        }
    }

    /// The number of a flow, which stays its own for as long as it is sent; first that of what was there without an SA.
    fn number(&mut self, flow: FlowKey) -> Option<FlowId> {
        if let Some(number) = self.numbers.get(&flow) {
            return Some(*number);
        }
        let wanted = flow.selector();
        let number = self.stopped.remove(&wanted).or_else(|| self.free_number(&wanted))?;
        self.numbers.insert(flow, number);
        Some(number)
    }

    /// One that no other flow has.
    fn free_number(&self, wanted: &TrafficSelector) -> Option<FlowId> {
        let first = rank(wanted) << SERIAL_BITS;
        let all = self.numbers.values().chain(self.stopped.values()).map(|number| number.0);
        let taken: BTreeSet<u32> = all.filter(|number| number >> SERIAL_BITS == rank(wanted)).collect();
        (first..first + (1 << SERIAL_BITS)).find(|number| !taken.contains(number)).map(FlowId)
    }
}

/// The more specific flow has the lower one: by its destination first, then its source, then protocol and ports. The key
/// server names no order.
fn rank(wanted: &TrafficSelector) -> u32 {
    let open = |net: IpNet| u32::from(net.max_prefix_len() - net.prefix_len());
    let any =
        [wanted.protocol == 0, wanted.destination.1 == 0, wanted.source.1 == 0].into_iter().map(u32::from).sum::<u32>();
    // At most 128, 128 and 3.
    open(wanted.destination.0) << 10 | open(wanted.source.0) << 2 | any
}

/// As the data plane has it.
pub(super) fn selector(wanted: &TrafficSelector) -> Selector {
    let port = |port: u16| (port != 0).then_some(port);
    Selector {
        source: wanted.source.0,
        destination: wanted.destination.0,
        protocol: (wanted.protocol != 0).then_some(wanted.protocol),
        source_port: port(wanted.source.1),
        destination_port: port(wanted.destination.1),
    }
}

fn sa(flow: &FlowKey, spi: u32, key: &SecretBytes) -> Result<Sa, NotCarried> {
    let (source, destination) = flow.tunnel;
    let octets = key.as_bytes().try_into().map_err(|_| NotCarried::Key(key.as_bytes().len()))?;
    Ok(Sa {
        spi,
        kind: if destination.is_multicast() { SaKind::Group } else { SaKind::Unicast },
        source: Some(source),
        destination,
        epoch: 0,
        sender: member_of(source),
        selector: Some(selector(&flow.selector())),
        key: SaKey::new(octets),
    })
}

/// There are no certificates, so that a router is who has its black address: that, and zeros.
pub(super) fn member_of(address: IpAddr) -> MemberId {
    let mut id = [0; 32];
    let octets = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    id[..16].copy_from_slice(&octets);
    MemberId(id)
}

#[cfg(test)]
mod tests {
    use muster_dataplane::{Direction, KeyLedger, Memory};

    use super::*;

    const SENDER: &str = "192.0.2.1";

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn flow(source: &str, destination: &str, protocol: u8, port: u16) -> FlowKey {
        let outer = if net(destination).addr().is_multicast() { "239.1.1.1" } else { "192.0.2.2" };
        let tunnel = (SENDER.parse().unwrap(), outer.parse().unwrap());
        FlowKey { protocol, source: (net(source), 0), destination: (net(destination), port), tunnel }
    }

    fn send(flow: FlowKey, spi: u32) -> Change {
        Change::Send { flow, spi, key: SecretBytes::from(&[spi as u8; 36][..]) }
    }

    fn receive(flow: FlowKey, spi: u32) -> Change {
        Change::Receive { flow, spi, key: SecretBytes::from(&[spi as u8; 36][..]) }
    }

    fn flows() -> Flows {
        let dataplane = Memory::new(vec![net("239.10.0.0/16")], vec![net("10.1.0.0/16")], KeyLedger::new());
        let running = Running { dataplane: Box::new(dataplane), reason: String::new() };
        Flows::new(running, vec![net("239.10.0.0/16")], Vec::new())
    }

    /// SPIs of one direction, of outbound ones in the order of their flows.
    fn spis(flows: &Flows, direction: Direction) -> Vec<u32> {
        let all = flows.dataplane().sas().into_iter().filter(|sa| sa.direction == direction);
        all.map(|sa| sa.spi).collect()
    }

    #[test]
    fn the_more_specific_flow_comes_first_whatever_came_first() {
        let mut flows = flows();
        let ordered = [
            flow("10.1.0.0/16", "10.2.3.4/32", 17, 5),
            flow("10.1.0.0/16", "10.2.3.4/32", 17, 0),
            flow("10.1.0.0/16", "10.2.3.4/32", 0, 0),
            flow("10.1.1.0/24", "10.2.0.0/16", 0, 0),
            flow("10.1.0.0/16", "10.2.0.0/16", 17, 5),
            flow("0.0.0.0/0", "0.0.0.0/0", 0, 0),
        ];
        for (position, spi) in [(3, 303), (0, 300), (5, 305), (4, 304), (1, 301), (2, 302)] {
            // To everywhere is to multicast, too, which this SA's kind has no place for but the data plane's check.
            flows.apply(send(ordered[position], spi)).unwrap();
        }
        assert_eq!(spis(&flows, Direction::Out), [300, 301, 302, 303, 304, 305]);
        flows.apply(send(ordered[2], 310)).unwrap();
        flows.apply(Change::Stop { flow: ordered[3] }).unwrap();
        assert_eq!(spis(&flows, Direction::Out), [300, 301, 310, 304, 305]);
        assert_eq!(flows.sent().len(), 5);
        // Two of one rank live beside each other.
        let beside = FlowKey { source: (net("10.1.2.0/24"), 0), ..ordered[3] };
        flows.apply(send(beside, 320)).unwrap();
        flows.apply(send(ordered[3], 321)).unwrap();
        assert_eq!(flows.sent().len(), 7);
    }

    #[test]
    fn what_red_does_not_carry_the_key_server_does_not_bring() {
        let mut flows = flows();
        let (carried, other) =
            (flow("10.1.0.0/16", "239.10.0.1/32", 17, 0), flow("10.1.0.0/16", "239.11.0.1/32", 17, 0));
        flows.apply(send(carried, 300)).unwrap();
        flows.apply(receive(carried, 301)).unwrap();
        for change in [send(other, 302), receive(other, 303)] {
            assert!(flows.apply(change).unwrap_err().to_string().contains("239.11.0.1/32"));
        }
        assert_eq!((spis(&flows, Direction::Out), spis(&flows, Direction::In)), (vec![300], vec![301]));
        flows.apply(Change::Stop { flow: other }).unwrap();
        flows.apply(Change::Forget { destination: carried.tunnel.1, spi: 301 }).unwrap();
        assert!(spis(&flows, Direction::In).is_empty());
    }

    /// Two keys that are the same would be the end of AES-GCM: then nothing is sent, not even under the one before.
    #[test]
    fn a_key_that_comes_twice_ends_the_flow() {
        let mut flows = flows();
        let one = flow("10.1.0.0/16", "10.2.0.0/16", 0, 0);
        flows.apply(send(one, 300)).unwrap();
        flows.apply(send(one, 301)).unwrap();
        assert!(flows.apply(send(one, 300)).is_err());
        assert_eq!((spis(&flows, Direction::Out), flows.sent().len()), (vec![], 0));
        assert_eq!(stopped(&flows), [one.selector()]);
    }

    fn follow(flows: &mut Flows, protect: &[FlowKey]) {
        let protect = protect.iter().map(FlowKey::selector).collect();
        flows.apply(Change::Follow(Spd { protect, ..Spd::default() })).unwrap();
    }

    fn stopped(flows: &Flows) -> Vec<TrafficSelector> {
        flows.stopped().copied().collect()
    }

    #[test]
    fn what_is_to_be_protected_goes_under_its_sa_or_not_at_all() {
        let mut flows = flows();
        let (narrow, wide) = (flow("10.1.0.0/16", "10.2.3.0/24", 0, 0), flow("10.1.0.0/16", "10.0.0.0/8", 0, 0));
        follow(&mut flows, &[narrow, wide]);
        assert_eq!(stopped(&flows).len(), 2);
        flows.apply(send(wide, 300)).unwrap();
        assert_eq!(stopped(&flows), [narrow.selector()]);
        flows.apply(send(narrow, 301)).unwrap();
        assert_eq!((stopped(&flows), spis(&flows, Direction::Out)), (vec![], vec![301, 300]));
        for spi in [302, 303] {
            flows.apply(Change::Stop { flow: narrow }).unwrap();
            assert_eq!((stopped(&flows), spis(&flows, Direction::Out)), (vec![narrow.selector()], vec![300]));
            flows.apply(send(narrow, spi)).unwrap();
            assert_eq!((stopped(&flows), spis(&flows, Direction::Out)), (vec![], vec![spi, 300]));
        }
        // No longer laid down, before it stops or after.
        follow(&mut flows, &[wide]);
        flows.apply(Change::Stop { flow: narrow }).unwrap();
        assert_eq!(stopped(&flows), []);
        flows.apply(Change::Stop { flow: wide }).unwrap();
        assert_eq!(stopped(&flows), [wide.selector()]);
        follow(&mut flows, &[]);
        assert_eq!(stopped(&flows), []);
    }

    #[test]
    fn a_key_server_that_says_nothing_of_it_has_all_protected() {
        let mut flows = flows();
        let one = flow("10.1.0.0/16", "10.2.0.0/16", 0, 0);
        flows.apply(send(one, 300)).unwrap();
        flows.apply(Change::Stop { flow: one }).unwrap();
        assert_eq!(stopped(&flows), [one.selector()]);
        follow(&mut flows, &[]);
        assert_eq!(stopped(&flows), []);
    }

    #[test]
    fn of_two_flows_for_the_same_packets_the_last_leaves_them_without_an_sa() {
        let mut flows = flows();
        let one = flow("10.1.0.0/16", "10.2.0.0/16", 0, 0);
        let other = FlowKey { tunnel: (SENDER.parse().unwrap(), "192.0.2.3".parse().unwrap()), ..one };
        follow(&mut flows, &[one]);
        flows.apply(send(one, 300)).unwrap();
        flows.apply(send(other, 301)).unwrap();
        flows.apply(Change::Stop { flow: one }).unwrap();
        assert_eq!((stopped(&flows), spis(&flows, Direction::Out)), (vec![], vec![301]));
        flows.apply(Change::Stop { flow: other }).unwrap();
        assert_eq!((stopped(&flows), spis(&flows, Direction::Out)), (vec![one.selector()], vec![]));
    }
}
