//! What the kernel's security policy database is to hold (RFC 4301 4.4.1).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use muster_wire::MemberId;

use super::request::{Place, PolicyAction, PolicyDirection, PolicyKey, Template};
use crate::bypass::from_own;
use crate::policy::Policy;
use crate::{FlowId, SaId, SaKey, SaKind, Selector};

/// An SA that stands.
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) kind: SaKind,
    pub(super) epoch: u64,
    pub(super) sender: MemberId,
    pub(super) user: Option<User>,
    pub(super) selector: Option<Selector>,
    /// For display.
    pub(super) source: Option<IpAddr>,
    /// Kept, for a kernel under lockdown shows zeros in its place.
    pub(super) key: SaKey,
}

impl Entry {
    /// What the packet filter knows it by.
    pub(super) fn carries(&self) -> Carries {
        self.selector.map_or(Carries::Of(self.sender, self.kind), Carries::Flow)
    }
}

/// What an inbound SA may carry: those that may carry the same share a number (`reqid`), which the packet filter looks at.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Carries {
    /// Of this kind from this sender's prefixes.
    Of(MemberId, SaKind),
    /// What this selector is for.
    Flow(Selector),
}

/// Whose an outbound SA is: it has one, and then another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum User {
    Group,
    Flow(FlowId),
    Router(MemberId),
}

/// The outbound SAs that red is sent on now.
pub(super) type Senders = BTreeMap<User, SaId>;

/// All policies that the kernel is to have: out, from the own prefixes alone, to the group under its SA and to each
/// router's prefixes under that router's; in, to the own prefixes and the red groups, from under an SA of ours. Which
/// inner source each sender may use the packet filter says: there may be two with one prefix. Of a flow in `stopped` nothing
/// leaves.
pub(super) fn policies(
    policy: &Policy,
    routes: &BTreeMap<MemberId, Vec<IpNet>>,
    senders: &Senders,
    stopped: &BTreeMap<FlowId, Selector>,
    sas: &BTreeMap<SaId, Entry>,
    black: IpAddr,
) -> BTreeMap<PolicyKey, PolicyAction> {
    let ipv4 = black.is_ipv4();
    let action = |ends, reqid| PolicyAction { template: Some(Template { ends, ipv4, reqid }), rank: None };
    let template = |id: &SaId| sas.get(id).map(|sa| action(Some((black, id.destination)), sa.place.reqid));
    let own: Vec<IpNet> = policy.own.iter().map(IpNet::trunc).collect();
    let groups: Vec<IpNet> = policy.groups.iter().map(IpNet::trunc).collect();
    let mut wanted = BTreeMap::new();
    let mut add = |way, source: IpNet, destination: IpNet, action| {
        if source.addr().is_ipv4() == destination.addr().is_ipv4() {
            wanted.insert(PolicyKey { way, selector: Selector::new(source, destination) }, action);
        }
    };
    let everything = [IpNet::V4(Default::default()), IpNet::V6(Default::default())];
    for destination in own.iter().chain(&groups) {
        for way in [PolicyDirection::In, PolicyDirection::Forward] {
            everything.iter().for_each(|any| add(way, *any, *destination, action(None, 0)));
        }
    }
    let is_left = |own: &IpNet| policy.left_to_another.iter().any(|left| left.trunc().contains(own));
    if let Some(template) = senders.get(&User::Group).and_then(template) {
        for source in own.iter().filter(|own| !is_left(own)) {
            groups.iter().for_each(|group| add(PolicyDirection::Out, *source, *group, template));
        }
    }
    // Where two routers have one prefix, the lower member id carries: it comes last.
    for (member, prefixes) in routes.iter().rev() {
        let Some(template) = senders.get(&User::Router(*member)).and_then(template) else { continue };
        for source in &own {
            prefixes.iter().for_each(|prefix| add(PolicyDirection::Out, *source, prefix.trunc(), template));
        }
    }
    let flow_of = |(user, id): (&User, &SaId)| match user {
        User::Flow(flow) => Some((*flow, (sas.get(id)?.selector?, template(id)?.template))),
        _ => None,
    };
    let mut flows: BTreeMap<FlowId, (Selector, Option<Template>)> = senders.iter().filter_map(flow_of).collect();
    flows.extend(stopped.iter().map(|(flow, selector)| (*flow, (*selector, None))));
    // The first comes last: of two with one selector it is the one that counts.
    for (rank, (selector, template)) in flows.into_values().enumerate().rev() {
        let action = PolicyAction { template, rank: Some(u16::try_from(rank).unwrap_or(u16::MAX)) };
        let is_unicast = !selector.is_multicast();
        let sources: Vec<IpNet> = own.iter().filter(|own| is_unicast || !is_left(own)).copied().collect();
        for selector in selector.without_multicast().iter().flat_map(|selector| from_own(selector, &sources)) {
            let selector = Selector { destination: selector.destination.trunc(), ..selector };
            wanted.insert(PolicyKey { way: PolicyDirection::Out, selector }, action);
        }
    }
    wanted
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::Direction;
    use crate::selector::tests::selector;

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
        (
            id,
            Entry {
                place,
                kind: SaKind::Group,
                epoch: 1,
                sender: ALICE,
                user: None,
                selector: None,
                source: None,
                key,
            },
        )
    }

    #[test]
    fn policies_say_what_leaves_under_which_sa_and_what_may_come_in() {
        let sas = BTreeMap::from([sa("ff05::1", 256, 10), sa("fd00::a", 257, 11), sa("fd00::b", 258, 12)]);
        let ids: Vec<SaId> = sas.keys().copied().collect();
        let of = |reqid: u32| ids.iter().copied().find(|id| sas[id].place.reqid == reqid).unwrap();
        let senders =
            Senders::from([(User::Group, of(10)), (User::Router(ALICE), of(11)), (User::Router(BOB), of(12))]);
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
        let wanted = policies(&policy, &routes, &senders, &BTreeMap::new(), &sas, "fd00::c".parse().unwrap());
        let out = |source: &str, destination: &str| {
            let [source, destination] = [source, destination].map(|net| net.parse().unwrap());
            let selector = Selector::new(source, destination);
            wanted.get(&PolicyKey { way: PolicyDirection::Out, selector }).map(|action| action.template.unwrap().reqid)
        };
        assert_eq!(out("2001:db8:c::/64", "ff1e::/16"), Some(10));
        assert_eq!(out("2001:db8:d::/64", "ff1e::/16"), None, "another router carries its multicast");
        assert_eq!(out("2001:db8:d::/64", "2001:db8:a::/64"), Some(11), "the lower of two");
        assert_eq!(out("2001:db8:c::/64", "2001:db8:b::/64"), Some(12));
        assert!(wanted.keys().all(|key| key.selector.check().is_ok()));
        let inward = |key: &&PolicyKey| key.way != PolicyDirection::Out;
        let destinations: Vec<IpNet> = wanted.keys().filter(inward).map(|key| key.selector.destination).collect();
        let allowed = [policy.own.clone(), policy.groups.clone()].concat();
        assert!(destinations.iter().all(|destination| allowed.contains(destination)));
        assert_eq!(destinations.len(), 2 * allowed.len(), "for the router itself and through it");
    }

    #[test]
    fn flows_come_before_the_mesh_in_order_and_cut_down_to_the_own_prefixes() {
        let flow = |destination: &str, spi, reqid, selector: Selector| {
            let (id, entry) = sa(destination, spi, reqid);
            let kind = if id.destination.is_multicast() { SaKind::Group } else { SaKind::Unicast };
            (id, Entry { kind, selector: Some(selector), ..entry })
        };
        let group = selector("10.0.0.0/8", "239.10.0.1/32");
        let sas = [
            flow("192.0.2.1", 256, 10, selector("10.0.0.0/8", "0.0.0.0/0")),
            flow("239.10.0.1", 257, 11, Selector { protocol: Some(17), destination_port: Some(5), ..group }),
            flow("239.10.0.1", 258, 12, group),
            flow("239.10.0.1", 259, 13, group),
        ];
        let senders: Senders =
            [7, 5, 9, 8].into_iter().zip(&sas).map(|(number, (id, _))| (User::Flow(FlowId(number)), *id)).collect();
        let sas = BTreeMap::from(sas);
        let policy = Policy { own: nets(&["10.1.0.0/16", "10.7.0.0/16"]), ..Policy::default() };
        let policy = Policy { left_to_another: nets(&["10.7.0.0/16"]), ..policy };
        // Of two that have none, one is for what another one with an SA is for.
        let port_6 = Selector { protocol: Some(17), destination_port: Some(6), ..group };
        let stopped = BTreeMap::from([(FlowId(6), port_6), (FlowId(10), group)]);
        let wanted = policies(&policy, &BTreeMap::new(), &senders, &stopped, &sas, "192.0.2.9".parse().unwrap());
        let out = |selector: Selector| {
            let found = wanted.get(&PolicyKey { way: PolicyDirection::Out, selector });
            found.map(|action| (action.template.map_or(0, |template| template.reqid), action.rank.unwrap()))
        };
        let mut found = wanted.keys().filter(|key| key.way == PolicyDirection::Out).count();
        let ours = |net: &str, selector: Selector| Selector { source: net.parse().unwrap(), ..selector };
        let port = Selector { protocol: Some(17), destination_port: Some(5), ..group };
        assert_eq!(out(ours("10.1.0.0/16", port)), Some((11, 0)));
        assert_eq!(out(ours("10.7.0.0/16", port)), None, "another router carries its multicast");
        assert_eq!(out(ours("10.1.0.0/16", port_6)), Some((0, 1)), "without an SA");
        assert_eq!(out(ours("10.1.0.0/16", group)), Some((13, 3)), "the first of three");
        found -= 3;
        for source in ["10.1.0.0/16", "10.7.0.0/16"] {
            for part in ["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/3", "240.0.0.0/4"] {
                assert_eq!(out(selector(source, part)), Some((10, 2)), "{part}");
                found -= 1;
            }
        }
        assert_eq!(found, 0);
    }
}
