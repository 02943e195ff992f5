//! What groups and VPNs carry, and to whom alone.

use std::time::Duration;

use ipnet::IpNet;
use muster_netns_tests::{Central, Family, skip};

use crate::scenes::{Figure, HUB, vpn};

fn groups_and_vpns(family: Family, each: usize) {
    let figure = Figure::new(family, each);
    figure.carry_all(&[]);
    let first = [HUB, 1, each + 1];
    for from in first {
        for to in first.into_iter().filter(|to| *to != from) {
            for ipv4 in [false, true] {
                figure.lab.carry(from, &[to], &[], figure.lab.host(to, ipv4), 20);
            }
        }
    }
    // Between two that no VPN joins nothing goes, in whatever way.
    let (sender, receivers) = figure.lab.flow(HUB, &[2], figure.lab.host(2, false), 20);
    sender.finish();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(receivers[0].unique(), 0);
    figure.lab.assert_black_is_sound();
}

#[test]
fn groups_reach_their_members_and_vpns_their_ends_over_ipv6() {
    if !skip("groups_reach_their_members_and_vpns_their_ends_over_ipv6") {
        groups_and_vpns(Family::V6, 5);
    }
}

#[test]
fn groups_reach_their_members_and_vpns_their_ends_over_ipv4() {
    if !skip("groups_reach_their_members_and_vpns_their_ends_over_ipv4") {
        groups_and_vpns(Family::V4, 2);
    }
}

/// One VPN is for a part of what another one is for. When an end of the narrow one is excluded, what was for it does not go to
/// the end of the wide one.
#[test]
fn what_was_for_somebody_who_is_excluded_goes_to_nobody_else() {
    if skip("what_was_for_somebody_who_is_excluded_goes_to_nobody_else") {
        return;
    }
    for family in Family::BOTH {
        let mut lab = Central::new(family, 3);
        let plan = |client: usize| &lab.coalition.routers()[client].plan;
        // Of what lies behind the second and the third.
        let wide: [IpNet; 2] = [
            ipnet::Ipv6Net::new(plan(2).red_v6().addr(), 47).expect("a length").trunc().into(),
            ipnet::Ipv4Net::new(plan(2).red_v4().addr(), 23).expect("a length").trunc().into(),
        ];
        let own: [IpNet; 2] = [plan(0).red_v6().into(), plan(0).red_v4().into()];
        let (zero, two) = (lab.name(0), lab.name(2));
        let mut profiles = vpn(&lab, 1, [0, 1]);
        for (number, (own, wide)) in own.iter().zip(wide).enumerate() {
            assert!([1, 2].iter().all(|client| wide.contains(&lab.host(*client, number == 1).ip())), "{wide}");
            profiles += &format!(
                "[vpns.wide-{number}]\nends = [{{ client = \"{zero}\", net = \"{own}\" }}, {{ client = \"{two}\", net = \"{wide}\" }}]\n{}\n",
                Central::delays()
            );
        }
        lab.configure_gcks(&profiles);
        lab.start_gcks();
        (0..3).for_each(|client| lab.start(client));
        lab.wait_for_connected(&[0, 1, 2]);
        for ipv4 in [false, true] {
            lab.carry(0, &[1], &[], lab.host(1, ipv4), 20);
            lab.carry(0, &[2], &[], lab.host(2, ipv4), 20);
        }
        lab.order(&["exclude", &lab.name(1)]);
        let status = |lab: &Central| lab.call(0, "status").expect("it answers");
        lab.wait(Duration::from_secs(10), "two flows without SAs", || {
            status(&lab)["group"]["stopped"].as_array().is_some_and(|stopped| stopped.len() == 2)
        });
        let to_two = lab.black_address(2).to_string();
        let carried = |lab: &Central| -> u64 {
            let sas = lab.call(0, "sas").expect("it answers");
            let to_two = sas
                .as_array()
                .into_iter()
                .flatten()
                .filter(|sa| sa["direction"] == "out" && sa["destination"] == to_two.as_str());
            to_two.filter_map(|sa| sa["packets"].as_u64()).sum()
        };
        let dropped = |lab: &Central| status(lab)["dataplane"]["dropped"]["no_sa"].as_u64().expect("a count");
        let (before, dropped_before) = (carried(&lab), dropped(&lab));
        for ipv4 in [false, true] {
            let (sender, _) = lab.flow(0, &[], lab.host(1, ipv4), 20);
            sender.finish();
        }
        lab.wait(Duration::from_secs(5), "all of it dropped", || dropped(&lab) >= dropped_before + 40);
        assert_eq!(carried(&lab), before);
        for ipv4 in [false, true] {
            lab.carry(0, &[2], &[], lab.host(2, ipv4), 20);
        }
        lab.order(&["admit", &lab.name(1)]);
        lab.carry(0, &[1], &[], lab.host(1, false), 20);
        lab.assert_black_is_sound();
    }
}
