//! What the kernel's security policy database is to hold (RFC 4301 4.4.1).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use muster_wire::MemberId;

use super::request::{Place, PolicyDirection, PolicyKey, Template};
use crate::policy::Policy;
use crate::{SaId, SaKey, SaKind};

/// An SA that stands.
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) kind: SaKind,
    pub(super) epoch: u64,
    pub(super) sender: MemberId,
    pub(super) receiver: Option<MemberId>,
    /// For display.
    pub(super) source: Option<IpAddr>,
    /// Kept, for a kernel under lockdown shows zeros in its place.
    pub(super) key: SaKey,
}

/// The outbound SAs that red is sent on now.
#[derive(Default)]
pub(super) struct Senders {
    pub(super) group: Option<SaId>,
    pub(super) unicast: BTreeMap<MemberId, SaId>,
}

/// All policies that the kernel is to have: out, from the own prefixes alone, to the group under its SA and to each
/// router's prefixes under that router's; in, to the own prefixes and the red groups, from under an SA of ours. Which
/// inner source each sender may use the packet filter says: there may be two with one prefix.
pub(super) fn policies(
    policy: &Policy,
    routes: &BTreeMap<MemberId, Vec<IpNet>>,
    senders: &Senders,
    sas: &BTreeMap<SaId, Entry>,
    black: IpAddr,
) -> BTreeMap<PolicyKey, Template> {
    let ipv4 = black.is_ipv4();
    let template =
        |id: &SaId| sas.get(id).map(|sa| Template { ends: Some((black, id.destination)), ipv4, reqid: sa.place.reqid });
    let own: Vec<IpNet> = policy.own.iter().map(IpNet::trunc).collect();
    let groups: Vec<IpNet> = policy.groups.iter().map(IpNet::trunc).collect();
    let mut wanted = BTreeMap::new();
    let mut add = |way, source: IpNet, destination: IpNet, template| {
        if source.addr().is_ipv4() == destination.addr().is_ipv4() {
            wanted.insert(PolicyKey { way, source, destination }, template);
        }
    };
    let everything = [IpNet::V4(Default::default()), IpNet::V6(Default::default())];
    for destination in own.iter().chain(&groups) {
        for way in [PolicyDirection::In, PolicyDirection::Forward] {
            everything.iter().for_each(|any| add(way, *any, *destination, Template { ends: None, ipv4, reqid: 0 }));
        }
    }
    let is_left = |own: &IpNet| policy.left_to_another.iter().any(|left| left.trunc().contains(own));
    if let Some(template) = senders.group.as_ref().and_then(template) {
        for source in own.iter().filter(|own| !is_left(own)) {
            groups.iter().for_each(|group| add(PolicyDirection::Out, *source, *group, template));
        }
    }
    // Where two routers have one prefix, the lower member id carries: it comes last.
    for (member, prefixes) in routes.iter().rev() {
        let Some(template) = senders.unicast.get(member).and_then(template) else { continue };
        for source in &own {
            prefixes.iter().for_each(|prefix| add(PolicyDirection::Out, *source, prefix.trunc(), template));
        }
    }
    wanted
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::Direction;

    pub(in crate::xfrm) const ALICE: MemberId = MemberId([1; 32]);
    pub(in crate::xfrm) const BOB: MemberId = MemberId([2; 32]);

    pub(in crate::xfrm) fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    fn sa(destination: &str, spi: u32, reqid: u32) -> (SaId, Entry) {
        let id = SaId { destination: destination.parse().unwrap(), spi };
        let source = "fd00::c".parse().unwrap();
        let place = Place { direction: Direction::Out, source, reqid, if_id: 9, copy_dscp: false };
        let key = SaKey::new(&[0; SaKey::LEN]);
        (id, Entry { place, kind: SaKind::Group, epoch: 1, sender: ALICE, receiver: None, source: None, key })
    }

    #[test]
    fn policies_say_what_leaves_under_which_sa_and_what_may_come_in() {
        let sas = BTreeMap::from([sa("ff05::1", 256, 10), sa("fd00::a", 257, 11), sa("fd00::b", 258, 12)]);
        let ids: Vec<SaId> = sas.keys().copied().collect();
        let of = |reqid: u32| ids.iter().copied().find(|id| sas[id].place.reqid == reqid).unwrap();
        let senders = Senders { group: Some(of(10)), unicast: BTreeMap::from([(ALICE, of(11)), (BOB, of(12))]) };
        let routes = BTreeMap::from([
            (ALICE, nets(&["2001:db8:a::/64"])),
            (BOB, nets(&["2001:db8:a::/64", "2001:db8:b::/64", "10.2.0.0/16"])),
        ]);
        let policy = Policy {
            own: nets(&["2001:db8:c::/64", "2001:db8:d::/64"]),
            left_to_another: nets(&["2001:db8:d::/64"]),
            groups: nets(&["ff1e::/16", "239.10.0.0/16"]),
            ..Policy::default()
        };
        let wanted = policies(&policy, &routes, &senders, &sas, "fd00::c".parse().unwrap());
        let out = |source: &str, destination: &str| {
            let [source, destination] = [source, destination].map(|net| net.parse().unwrap());
            wanted.get(&PolicyKey { way: PolicyDirection::Out, source, destination }).map(|template| template.reqid)
        };
        assert_eq!(out("2001:db8:c::/64", "ff1e::/16"), Some(10));
        assert_eq!(out("2001:db8:d::/64", "ff1e::/16"), None, "another router carries its multicast");
        assert_eq!(out("2001:db8:d::/64", "2001:db8:a::/64"), Some(11), "the lower of two");
        assert_eq!(out("2001:db8:c::/64", "2001:db8:b::/64"), Some(12));
        assert!(wanted.keys().all(|key| key.source.addr().is_ipv4() == key.destination.addr().is_ipv4()));
        let inward = |key: &&PolicyKey| key.way != PolicyDirection::Out;
        let destinations: Vec<IpNet> = wanted.keys().filter(inward).map(|key| key.destination).collect();
        let allowed = [policy.own.clone(), policy.groups.clone()].concat();
        assert!(destinations.iter().all(|destination| allowed.contains(destination)));
        assert_eq!(destinations.len(), 2 * allowed.len(), "for the router itself and through it");
    }
}
