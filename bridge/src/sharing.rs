//! Two routers of one organisation on one LAN: the one with the lower member id carries its multicast, the other stands
//! by. Both may send from its prefixes, so that either can take over; they overlap with nobody else's that are accepted.

use ipnet::IpNet;
use muster_wire::MemberId;

/// The networks among the own ones for which a lower member stands in, of these members of our group with what is
/// accepted of them. Where one prefix lies in the other, the smaller of the two.
pub(crate) fn stands_by<'a>(
    me: MemberId,
    own: &[IpNet],
    members: impl Iterator<Item = (MemberId, &'a [IpNet])>,
) -> Vec<IpNet> {
    let lower = members.filter(|(member, _)| *member < me).flat_map(|(_, prefixes)| prefixes);
    let mut shared: Vec<IpNet> = lower.flat_map(|theirs| own.iter().filter_map(|ours| common(ours, theirs))).collect();
    shared.sort_unstable();
    shared.dedup();
    shared
}

fn common(a: &IpNet, b: &IpNet) -> Option<IpNet> {
    if a.contains(b) {
        Some(*b)
    } else if b.contains(a) {
        Some(*a)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_lower_member_forwards() {
        let own = nets(&["2001:db8:a::/64", "10.1.0.0/16"]);
        let same = nets(&["2001:db8:a::/64"]);
        let smaller = nets(&["10.1.7.0/24", "2001:db8:b::/64"]);
        let [low, me, high] = [1, 5, 9].map(|id| MemberId([id; 32]));
        let by = |members: &[(MemberId, &Vec<IpNet>)]| {
            stands_by(me, &own, members.iter().map(|(member, nets)| (*member, nets.as_slice())))
        };
        assert_eq!(by(&[]), nets(&[]));
        assert_eq!(by(&[(high, &same), (me, &own)]), nets(&[]), "ours to forward");
        assert_eq!(by(&[(low, &same), (high, &own)]), same);
        assert_eq!(by(&[(low, &smaller)]), nets(&["10.1.7.0/24"]));
        assert_eq!(
            by(&[(low, &nets(&["10.0.0.0/8"])), (MemberId([2; 32]), &same)]),
            nets(&["10.1.0.0/16", "2001:db8:a::/64"])
        );
    }
}
