//! What may cross between red and black: the inner packet's addresses (RFC 4301 5.2).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use ipnet::IpNet;
use muster_wire::MemberId;

use crate::SaKind;
use crate::inner::{Inner, NextLayer};
use crate::routes::Routes;
use crate::selector::Selector;

/// Who may use which inner addresses.
#[derive(Clone, Default)]
pub(crate) struct Policy {
    pub(crate) senders: HashMap<MemberId, Vec<IpNet>>,
    pub(crate) own: Vec<IpNet>,
    /// Own prefixes whose multicast another router of the LAN carries.
    pub(crate) left_to_another: Vec<IpNet>,
    pub(crate) groups: Vec<IpNet>,
    /// Where the others' red prefixes are.
    pub(crate) routes: Routes,
}

/// The policy in force. Packets read it without waiting; a change replaces it whole.
pub(crate) struct Policies {
    now: ArcSwap<Policy>,
    /// Held while it is replaced, so that changes do not overtake each other. No packet takes it.
    changing: Mutex<()>,
}

impl Policies {
    /// Carries the red groups `groups` for the own prefixes `own`.
    pub(crate) fn new(groups: Vec<IpNet>, own: Vec<IpNet>) -> Self {
        let policy = Policy { own, groups, ..Policy::default() };
        Policies { now: ArcSwap::from_pointee(policy), changing: Mutex::new(()) }
    }

    pub(crate) fn load(&self) -> Guard<Arc<Policy>> {
        self.now.load()
    }

    pub(crate) fn set_senders(&self, senders: HashMap<MemberId, Vec<IpNet>>) {
        self.change(|policy| policy.senders = senders);
    }

    pub(crate) fn set_routes(&self, routes: &BTreeMap<MemberId, Vec<IpNet>>) {
        self.change(|policy| policy.routes = Routes::new(routes));
    }

    pub(crate) fn set_own_prefixes(&self, own: Vec<IpNet>) {
        self.change(|policy| policy.own = own);
    }

    pub(crate) fn leave_to_another(&self, left_to_another: Vec<IpNet>) {
        self.change(|policy| policy.left_to_another = left_to_another);
    }

    fn change(&self, change: impl FnOnce(&mut Policy)) {
        // Replaced in one store, so a panic of another holder left it whole.
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut policy = Policy::clone(&self.now.load());
        change(&mut policy);
        self.now.store(Arc::new(policy));
    }
}

/// Where a packet from red is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To all: multicast.
    Group,
    /// To the router before its destination.
    Router(MemberId),
    /// To a destination behind no router that is there.
    Nowhere,
    /// Nowhere either: what the kernel says by itself on the tunnel's link (MLD), or a group that is not carried.
    Noise,
}

/// On whose SA a packet came in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin<'a> {
    /// Of a sender whose prefixes are known.
    Sender(&'a MemberId),
    /// Of a flow, and what is behind the packet's header.
    Flow(&'a Selector, NextLayer),
}

impl Policy {
    /// Whether a packet that `sender` sent on an SA of this kind goes to red: from its own prefixes, or as the SA's
    /// selector says, to a group that is carried or to our prefixes.
    pub(crate) fn admits_inbound(&self, kind: SaKind, from: &Origin<'_>, inner: &Inner) -> bool {
        let is_destination = match kind {
            SaKind::Group => is_carried(&self.groups, inner.destination),
            SaKind::Unicast => !inner.destination.is_multicast() && covers(&self.own, inner.destination),
        };
        is_destination && is_source(inner.source) && !covers(&self.own, inner.source) && self.may_send(from, inner)
    }

    /// Where a packet from red to `destination` is to go.
    pub(crate) fn way(&self, destination: IpAddr) -> Way {
        match destination.is_multicast() {
            true if is_carried(&self.groups, destination) => Way::Group,
            true => Way::Noise,
            false => self.routes.to(destination).map_or(Way::Nowhere, Way::Router),
        }
    }

    /// Whether this comes from our own LAN, by the other router there: its hosts have it already.
    pub(crate) fn is_from_own_lan(&self, from: &Origin<'_>, inner: &Inner) -> bool {
        covers(&self.own, inner.source) && self.may_send(from, inner)
    }

    fn may_send(&self, from: &Origin<'_>, inner: &Inner) -> bool {
        match from {
            Origin::Sender(sender) => self.senders.get(*sender).is_some_and(|prefixes| covers(prefixes, inner.source)),
            Origin::Flow(selector, next) => selector.matches(inner, next),
        }
    }

    /// Whether the multicast of this source is carried by another router of its LAN.
    pub(crate) fn is_left_to_another(&self, source: IpAddr) -> bool {
        covers(&self.left_to_another, source)
    }

    /// Whether red may send this: from the own prefixes alone. What another router put onto this LAN is not ours
    /// to send again, or it would go round for ever.
    pub(crate) fn admits_outbound(&self, inner: &Inner) -> bool {
        is_source(inner.source) && covers(&self.own, inner.source)
    }
}

/// Whether `destination` is a red group that crosses: configured, and of a scope that may leave its link
/// (RFC 4291 2.7: 0 reserved, 1 interface-local, 2 link-local; RFC 5771 4: 224.0.0.0/24).
pub(crate) fn is_carried(groups: &[IpNet], destination: IpAddr) -> bool {
    let leaves_link = match destination {
        IpAddr::V4(a) => a.is_multicast() && a.octets()[..3] != [224, 0, 0],
        IpAddr::V6(a) => a.is_multicast() && a.octets()[1] & 0xf > 2,
    };
    leaves_link && covers(groups, destination)
}

/// Whether `source` may be the source of a forwarded packet at all (RFC 4291 2.5.2, 2.5.3, 2.5.6, 2.7; RFC 6890).
pub(crate) fn is_source(source: IpAddr) -> bool {
    !(source.is_multicast() || source.is_unspecified() || source.is_loopback())
        && match source {
            IpAddr::V4(a) => !a.is_link_local() && !a.is_broadcast(),
            IpAddr::V6(a) => !a.is_unicast_link_local(),
        }
}

pub(crate) fn covers(prefixes: &[IpNet], address: IpAddr) -> bool {
    prefixes.iter().any(|prefix| prefix.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inner::tests::packet_v6;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn groups_carried() {
        let groups = nets(&["ff00::/8", "224.0.0.0/4"]);
        for yes in ["ff1e::1", "ff05::2", "ff03::1", "239.10.0.1", "224.0.1.1"] {
            assert!(is_carried(&groups, yes.parse().unwrap()), "{yes}");
        }
        for no in ["ff02::16", "ff12::1", "ff01::1", "ff00::1", "224.0.0.22", "10.0.0.1", "2001:db8::1"] {
            assert!(!is_carried(&groups, no.parse().unwrap()), "{no}");
        }
        assert!(!is_carried(&nets(&["ff1e::/16"]), "ff05::1".parse().unwrap()));
    }

    #[test]
    fn inner_sources() {
        let (alice, mallory) = (MemberId([1; 32]), MemberId([2; 32]));
        let policy = Policy {
            senders: HashMap::from([(alice, nets(&["2001:db8:a::/64", "::/0"]))]),
            own: nets(&["2001:db8:b::/64"]),
            groups: nets(&["ff1e::/16"]),
            left_to_another: nets(&["2001:db8:b:0:1::/80"]),
            ..Policy::default()
        };
        let inner = |source: &str, destination: &str| Inner::parse(&packet_v6(source, destination, b"")).unwrap();
        assert!(policy.admits_inbound(SaKind::Group, &Origin::Sender(&alice), &inner("2001:db8:a::1", "ff1e::1")));
        assert!(
            !policy.admits_inbound(SaKind::Group, &Origin::Sender(&mallory), &inner("2001:db8:a::1", "ff1e::1")),
            "unknown sender"
        );
        assert!(
            !policy.admits_inbound(SaKind::Group, &Origin::Sender(&alice), &inner("2001:db8:b::1", "ff1e::1")),
            "own prefix, though in ::/0"
        );
        assert!(
            !policy.admits_inbound(SaKind::Group, &Origin::Sender(&alice), &inner("2001:db8:a::1", "ff05::1")),
            "group not carried"
        );
        assert!(
            !policy.admits_inbound(SaKind::Group, &Origin::Sender(&alice), &inner("2001:db8:a::1", "2001:db8:b::1")),
            "unicast on a group SA"
        );
        for source in ["fe80::1", "::", "::1", "ff1e::2"] {
            assert!(
                !policy.admits_inbound(SaKind::Group, &Origin::Sender(&alice), &inner(source, "ff1e::1")),
                "{source}"
            );
        }
        let unicast =
            |to: &str| policy.admits_inbound(SaKind::Unicast, &Origin::Sender(&alice), &inner("2001:db8:a::1", to));
        assert!(unicast("2001:db8:b::7"));
        for elsewhere in ["2001:db8:c::1", "2001:db8:a::2", "ff1e::1", "fe80::1", "::1"] {
            assert!(!unicast(elsewhere), "{elsewhere}");
        }
        let from_own = inner("2001:db8:b::1", "2001:db8:b::7");
        assert!(!policy.admits_inbound(SaKind::Unicast, &Origin::Sender(&alice), &from_own), "own prefix");
        // The other router of our LAN: not delivered, and no forgery.
        let from_our_lan = inner("2001:db8:b::1", "ff1e::1");
        assert!(
            policy.is_from_own_lan(&Origin::Sender(&alice), &from_our_lan)
                && !policy.is_from_own_lan(&Origin::Sender(&mallory), &from_our_lan)
        );
        assert!(!policy.is_from_own_lan(&Origin::Sender(&alice), &inner("2001:db8:a::1", "ff1e::1")));
        assert!(policy.is_left_to_another("2001:db8:b:0:1::7".parse().unwrap()));
        assert!(!policy.is_left_to_another("2001:db8:b:0:2::7".parse().unwrap()));
        assert!(policy.admits_outbound(&inner("2001:db8:b::1", "ff1e::1")));
        assert!(!policy.admits_outbound(&inner("2001:db8:a::1", "ff1e::1")), "not from here");
    }
}
