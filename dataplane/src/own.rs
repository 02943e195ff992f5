//! The router's own packets: two routing tables, and which of them a prefix stands in. `block.rs` has the rules in their order.
//!
//! What is red stands in the first: own prefixes, by their interfaces, and what is learned, by the tunnel. An own one may be so
//! wide that black's network lies in it, which is then left to the next rule; but no network that red is in, whatever
//! addresses and routes black gets (who is there may hand them out, by router advertisements say). A flow, or a prefix
//! that a router announces, may be for more, for everything say, so that black's own addresses lie in it. Such a prefix stands
//! in the second, which ICMP from black's addresses passes over while there is such a prefix: what answers somebody on black
//! (an error, say) would be led into the tunnel, and dropped there for its source. It does not pass over the first: what is red
//! does not go to black in clear, whatever its source. Nor does anything else pass over: the kernel chooses the source of a
//! socket, and asks again with it, in IPv6 after an `unreachable` as well (ip6_dst_lookup_tail).
//!
//! Behind each route by an interface there is an `unreachable` one. To an own prefix it comes as soon as that is known to be by an interface, and
//! with a data plane, which sets the route when the interface comes, at once. Before there is neither the router reaches its
//! LAN by what else leads there: nobody would set the route when it is time.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::Handle;

use crate::Error;
use crate::netlink::{self, Action, Packets, Rule, RuleFamily};

const TABLE: u32 = 0x4d10;
const WIDE_TABLE: u32 = 0x4d20;

const PRIORITY: u32 = 62;
/// Of the first of the three rules of an instance that are about its second table. They lie together: what passes over one
/// instance's table does not pass over another's.
const WIDE_PRIORITY: u32 = 78;

/// Metric of the routes that stay, `unreachable`: worse than any by an interface.
pub(crate) const LAST: u32 = 0xffff;
/// The same behind own prefixes.
pub(crate) const LAST_TO_OWN: u32 = 0xfffe;

/// The table of what is red.
pub(crate) fn table(instance: u8) -> u32 {
    TABLE + u32::from(instance)
}

/// Both tables.
pub(crate) fn tables(instance: u8) -> [u32; 2] {
    [table(instance), WIDE_TABLE + u32::from(instance)]
}

/// That in which a prefix stands, where black has these addresses.
pub(crate) fn table_of(instance: u8, prefix: &IpNet, blacks: &[IpAddr]) -> u32 {
    let [red, wide] = tables(instance);
    if blacks.iter().any(|address| prefix.contains(address)) { wide } else { red }
}

/// Which of black's networks are not red though they lie in own prefixes.
pub(crate) fn black_in_own(own: &[IpNet], reds: &[IpNet], blacks: &[IpNet]) -> Vec<IpNet> {
    let lies_in_own = |black: &&IpNet| own.iter().any(|own| own.contains(*black));
    let overlaps_red = |black: &IpNet| reds.iter().any(|red| black.contains(red) || red.contains(black));
    let is_red = |black: &IpNet| own.contains(black) || overlaps_red(black);
    blacks.iter().filter(lies_in_own).filter(|black| !is_red(black)).copied().collect()
}

/// The rules that are part of the block. Sockets that are bound to black are passed over.
pub(crate) fn rules(family: RuleFamily, instance: u8, black: &str) -> [Rule; 3] {
    let [_, lookup, behind] = wide_priorities(instance);
    let [red, wide] = tables(instance).map(Action::Lookup);
    let rules = [(PRIORITY + u32::from(instance), red), (lookup, wide), (behind, Action::Nothing)];
    rules.map(|(priority, action)| {
        let packets = Packets::NotBoundTo(black.to_owned());
        Rule { family, priority, packets, action }
    })
}

/// Of what passes over the second table, of the lookup in it, and of what is behind that.
fn wide_priorities(instance: u8) -> [u32; 3] {
    [0, 1, 2].map(|nth| WIDE_PRIORITY + 3 * u32::from(instance) + nth)
}

/// Whether a rule is one of [`rules`], of whatever interface.
pub(crate) fn is_rule(rule: &Rule, instance: u8) -> bool {
    rules(rule.family, instance, "").iter().any(|one| (one.priority, one.action) == (rule.priority, rule.action))
}

/// Has ICMP from these addresses, and from no others, pass over the second table.
pub(crate) async fn pass_over(handle: &Handle, instance: u8, blacks: &[IpAddr]) -> Result<(), Error> {
    let [priority, _, behind] = wide_priorities(instance);
    let action = Action::Goto(behind);
    for family in RuleFamily::UNICAST {
        let of_family = |address: &&IpAddr| address.is_ipv4() == (family == RuleFamily::Ipv4);
        let rule = |address: &IpAddr| Rule { family, priority, packets: Packets::Icmp(*address), action };
        let wanted: Vec<Rule> = blacks.iter().filter(of_family).map(rule).collect();
        let present = netlink::rules(handle, family).await?.ours.into_iter();
        let present: Vec<Rule> = present.filter(|rule| (rule.priority, rule.action) == (priority, action)).collect();
        for new in wanted.iter().filter(|rule| !present.contains(rule)) {
            new.add(handle).await?;
        }
        for old in present.iter().filter(|rule| !wanted.contains(rule)) {
            old.remove(handle).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_black_lies_in_is_passed_over() {
        let blacks = ["192.0.2.1", "fd00::a"].map(|address| address.parse().unwrap());
        let wide = |prefix: &str| table_of(3, &prefix.parse().unwrap(), &blacks) == 0x4d23;
        assert!(["0.0.0.0/0", "192.0.2.0/24", "::/0", "fd00::/8"].into_iter().all(wide));
        assert!(!["10.0.0.0/8", "192.0.2.128/25", "2001:db8::/32"].into_iter().any(wide));
        assert_eq!(table_of(3, &"::/0".parse().unwrap(), &[]), 0x4d13);
    }

    #[test]
    fn what_is_own_is_red_but_for_networks_of_black_in_it() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        let black_in = |own: &[&str], reds: &[&str], blacks: &[&str]| {
            black_in_own(&nets(own), &nets(reds), &nets(blacks)).iter().map(IpNet::to_string).collect::<Vec<_>>()
        };
        let (own, red) = (&["10.0.0.0/8", "fd00:a::/64"], &["10.1.0.0/16", "fd00:a::/64"]);
        assert_eq!(black_in(own, red, &["10.9.0.0/24", "192.0.2.0/24"]), ["10.9.0.0/24"]);
        // What is red's, or has red's in it or lies in that, and what is own as a whole.
        for black in ["fd00:a::/64", "10.1.0.0/16", "10.1.9.64/30", "10.0.0.0/12", "10.0.0.0/8"] {
            assert!(black_in(own, red, &[black]).is_empty(), "{black}");
        }
        assert!(black_in(&["fd00::/16", "fd00:b::/64"], &[], &["fd00:b::/64"]).is_empty());
    }

    #[test]
    fn rules_are_read_as_they_were_written() {
        for family in RuleFamily::UNICAST {
            let icmp = |address: &str| Packets::Icmp(address.parse().unwrap());
            let packets = if family == RuleFamily::Ipv4 { icmp("192.0.2.1") } else { icmp("fd00::a") };
            let pass_over = Rule { family, priority: 87, packets, action: Action::Goto(89) };
            for rule in rules(family, 3, "black").into_iter().chain([pass_over]) {
                assert_eq!(Rule::of(family, &rule.message()).as_ref(), Some(&rule));
            }
        }
    }
}
