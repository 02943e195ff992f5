//! From epochs and pairs of routers to security associations and routes.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use muster_dataplane::{Dataplane, Error, Running, Sa, SaId, SaKey, SaKind};
use muster_discovery::UnicastKey;
use muster_keyagree::EpochKeys;
use muster_wire::{Hash, MemberId};

use crate::pairing::UnicastChange;
use crate::sharing;

/// Carries epochs to a data plane: inbound SAs first, the outbound one at the switch, the old ones away at the end.
pub(crate) struct Plane {
    dataplane: Box<dyn Dataplane>,
    /// Why it is that one.
    reason: String,
    group: IpAddr,
    /// Own red prefixes.
    own: Vec<IpNet>,
    epochs: BTreeMap<Hash, Installed>,
    /// What each sender may send from.
    accepted: HashMap<MemberId, Vec<IpNet>>,
    /// Neighbours that are up, and where.
    reachable: BTreeMap<MemberId, IpAddr>,
    /// What the data plane was told of both.
    routed: BTreeMap<MemberId, Vec<IpNet>>,
    /// The epoch that we send under, and its members.
    sending: Option<Hash>,
    active: Vec<MemberId>,
    /// Own networks whose multicast another router of the LAN carries.
    left: Vec<IpNet>,
}

struct Installed {
    keys: EpochKeys,
    inbound: Vec<SaId>,
}

impl Plane {
    pub(crate) fn new(Running { dataplane, reason }: Running, group: IpAddr, own: Vec<IpNet>) -> Self {
        Self {
            dataplane,
            reason,
            group,
            own,
            epochs: BTreeMap::new(),
            accepted: HashMap::new(),
            reachable: BTreeMap::new(),
            routed: BTreeMap::new(),
            sending: None,
            active: Vec::new(),
            left: Vec::new(),
        }
    }

    pub(crate) fn dataplane(&self) -> &dyn Dataplane {
        self.dataplane.as_ref()
    }

    /// Why it is that data plane.
    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }

    /// Installs one inbound SA for each other member, in one batch.
    pub(crate) fn install(
        &mut self,
        keys: EpochKeys,
        address_of: impl Fn(&MemberId) -> Option<IpAddr>,
    ) -> Result<(), Error> {
        let others = keys.members.iter().filter(|(slot, _)| *slot != keys.slot);
        let sas: Vec<Sa> = others.map(|(slot, member)| self.sa(&keys, *slot, *member, address_of(member))).collect();
        let inbound = sas.iter().map(Sa::id).collect();
        self.dataplane.install_inbound(sas)?;
        self.epochs.insert(keys.header, Installed { keys, inbound });
        Ok(())
    }

    /// Sends under an installed epoch. Alone there is nobody to send to.
    pub(crate) fn activate(&mut self, header: &Hash, own: Option<IpAddr>) -> Result<(), Error> {
        self.sending = None;
        self.active.clear();
        let Some(installed) = self.epochs.get(header) else { return self.dataplane.clear_outbound() };
        let keys = &installed.keys;
        let me = keys.members.iter().find(|(slot, _)| *slot == keys.slot);
        match me {
            // Else it would go on under the epoch before, whose members are others.
            Some((slot, member)) if keys.members.len() > 1 => {
                let set = self.dataplane.set_outbound(self.sa(keys, *slot, *member, own));
                set.or_else(|error| self.dataplane.clear_outbound().and(Err(error)))?;
            }
            _ => self.dataplane.clear_outbound()?,
        }
        self.active = keys.members.iter().map(|(_, member)| *member).collect();
        self.sending = Some(*header);
        Ok(())
    }

    /// Leaves the multicast of a LAN to another router of it, or takes it back, after the members, their prefixes or
    /// the own ones have changed. Gives what is left to others now, if that is something else than before.
    pub(crate) fn share(&mut self, me: MemberId) -> Option<&[IpNet]> {
        let members = self.active.iter().map(|member| (*member, self.accepted(member)));
        let left = sharing::stands_by(me, &self.own, members);
        if left == self.left {
            return None;
        }
        self.dataplane.leave_to_another(left.clone());
        self.left = left;
        Some(&self.left)
    }

    /// Own networks whose multicast another router carries.
    pub(crate) fn left(&self) -> &[IpNet] {
        &self.left
    }

    /// Receives no longer under an epoch, nor sends, and forgets its key.
    pub(crate) fn retire(&mut self, header: &Hash) -> Result<(), Error> {
        let Some(installed) = self.epochs.remove(header) else { return Ok(()) };
        if self.sending.take_if(|sending| sending == header).is_some() {
            self.dataplane.clear_outbound()?;
        }
        self.dataplane.remove_inbound(&installed.inbound)
    }

    /// Sets what a sender may send from.
    pub(crate) fn accept(&mut self, member: MemberId, prefixes: Vec<IpNet>) {
        if prefixes.is_empty() {
            self.accepted.remove(&member);
        } else {
            self.accepted.insert(member, prefixes);
        }
        self.dataplane.set_senders(self.accepted.clone());
        self.route();
    }

    /// A neighbour is up and where, or is not.
    pub(crate) fn reach(&mut self, member: MemberId, address: Option<IpAddr>) {
        let was_up = match address {
            Some(address) => {
                self.dataplane.set_peer_address(&member, address);
                self.reachable.insert(member, address).is_some()
            }
            None => self.reachable.remove(&member).is_some(),
        };
        if was_up != address.is_some() {
            self.route();
        }
    }

    /// Red prefixes behind the neighbours that are up. Our own LAN is not, though another router of it may be one.
    pub(crate) fn routes(&self) -> BTreeMap<MemberId, Vec<IpNet>> {
        let is_elsewhere = |prefix: &&IpNet| !self.own.iter().any(|own| own.contains(*prefix));
        let accepted = |member: &MemberId| {
            let prefixes = self.accepted.get(member)?.iter().filter(is_elsewhere);
            Some((*member, prefixes.copied().collect()))
        };
        self.reachable.keys().filter_map(accepted).collect()
    }

    /// Other own red prefixes.
    pub(crate) fn set_own(&mut self, own: Vec<IpNet>) {
        self.dataplane.set_own_prefixes(own.clone());
        self.own = own;
        self.route();
    }

    /// Changes a unicast SA between this router, `own`, and a neighbour.
    ///
    /// One at a time, not in a batch as an epoch's. A neighbour can make its own fail (by an address and SPI that another has), and a
    /// batch that is all or none would let it stop all others'. One that told failures apart would serve one moment alone: a
    /// hello key of our own that is renewed, once in `leaf_refresh`, has an SA to receive on for each neighbour; SAs to
    /// send on, and all that a neighbour's key brings, come with that neighbour's hello, each by itself. There it would
    /// save a system call for each SA, while the old ones carry on.
    pub(crate) fn unicast(&mut self, change: UnicastChange, own: (MemberId, IpAddr)) -> Result<(), Error> {
        let sa = |UnicastKey { spi, key }: UnicastKey, sender, source, destination| Sa {
            spi,
            kind: SaKind::Unicast,
            source,
            destination,
            epoch: 0,
            sender,
            selector: None,
            key: SaKey::new(&key),
        };
        match change {
            UnicastChange::Receive { member, key } => {
                let source = self.reachable.get(&member).copied();
                self.dataplane.install_inbound(vec![sa(key, member, source, own.1)])
            }
            UnicastChange::Send { member, key } => match self.reachable.get(&member) {
                Some(to) => {
                    let set = self.dataplane.set_unicast(member, sa(key, own.0, Some(own.1), *to));
                    // Else it would go on under a key that the neighbour may take for left.
                    set.or_else(|error| self.dataplane.clear_unicast(&member).and(Err(error)))
                }
                // It is up when it confirms our key, and this follows at once.
                None => Ok(()),
            },
            UnicastChange::Forget { spi } => self.dataplane.remove_inbound(&[SaId { destination: own.1, spi }]),
            UnicastChange::Stop { member } => self.dataplane.clear_unicast(&member),
        }
    }

    fn route(&mut self) {
        let routes = self.routes();
        if routes != self.routed {
            self.dataplane.set_routes(routes.clone());
            self.routed = routes;
        }
    }

    /// What a sender may send from.
    pub(crate) fn accepted(&self, member: &MemberId) -> &[IpNet] {
        self.accepted.get(member).map_or(&[], Vec::as_slice)
    }

    fn sa(&self, keys: &EpochKeys, slot: u32, sender: MemberId, source: Option<IpAddr>) -> Sa {
        let address = match self.group {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        Sa {
            spi: keys.spi(slot),
            kind: SaKind::Group,
            source,
            destination: self.group,
            epoch: keys.epoch,
            sender,
            selector: None,
            key: SaKey::new(&keys.sender_key(&address, slot)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use muster_certs::{Author, Device, pki};
    use muster_dataplane::{Direction, KeyLedger, Memory};
    use muster_keyagree::{Config, KeyAgreement, group_tag};
    use muster_wire::Time;

    use super::*;

    const BOB: MemberId = MemberId([0xb; 32]);

    fn plane() -> Plane {
        let dataplane = Box::new(Memory::new(Vec::new(), Vec::new(), KeyLedger::new()));
        Plane::new(Running { dataplane, reason: String::new() }, "ff05::6d76".parse().unwrap(), Vec::new())
    }

    fn sent_on(plane: &Plane) -> Vec<u32> {
        plane.dataplane().sas().iter().filter(|sa| sa.direction == Direction::Out).map(|sa| sa.spi).collect()
    }

    #[test]
    fn what_cannot_be_sent_on_the_next_key_is_not_sent_on_the_last() {
        let mut plane = plane();
        let own = (MemberId([0xa; 32]), "2001:db8::1".parse().unwrap());
        plane.reach(BOB, Some("2001:db8::2".parse().unwrap()));
        let send = |spi| UnicastChange::Send { member: BOB, key: UnicastKey { spi, key: [7; 36].into() } };
        plane.unicast(send(1000), own).unwrap();
        assert_eq!(sent_on(&plane), [1000]);
        assert!(matches!(plane.unicast(send(1001), own), Err(Error::KeyReused { spi: 1001 })));
        assert!(sent_on(&plane).is_empty());
    }

    /// An epoch of two.
    fn epoch() -> EpochKeys {
        let root = pki::init("Alpha", 1_800_000_000).unwrap();
        let issued = pki::issue(&root.certificate_pem, &root.key_pem, "alpha-1", 9, 1_800_000_000).unwrap();
        let device = Device::from_pem(&issued.certificate_pem, &issued.key_pem).unwrap();
        let author = Author::new(device.key, group_tag("coalition"), device.member, 1);
        let second = Duration::from_secs(1);
        let config = Config {
            name: "coalition".into(),
            hello_interval: second,
            batch_window: second,
            activation_delay: second,
            deactivation_delay: second,
            lifetime: second,
            leaf_refresh: second,
        };
        let mut keys = KeyAgreement::new(config, author, [7; 32], Time(0)).unwrap().keys();
        keys.members.push((1, BOB));
        keys
    }

    #[test]
    fn an_epoch_that_cannot_be_sent_under_leaves_none_and_nobody() {
        let mut plane = plane();
        let first = epoch();
        let header = first.header;
        let mut second = first.clone();
        plane.install(first, |_| None).unwrap();
        plane.activate(&header, None).unwrap();
        assert_eq!((sent_on(&plane).len(), plane.sending, plane.active.len()), (1, Some(header), 2));
        // Its keys are those of the first, but for Bob's, who has another slot.
        second.header = Hash([2; 32]);
        second.members[1] = (2, BOB);
        let header = second.header;
        plane.install(second, |_| None).unwrap();
        assert!(matches!(plane.activate(&header, None), Err(Error::KeyReused { .. })));
        assert_eq!((sent_on(&plane).len(), plane.sending, plane.active.len()), (0, None, 0));
    }
}
