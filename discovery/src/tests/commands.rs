//! What the driver changes in a running machine.

use super::*;
use crate::{SetupError, check_prefixes};

#[test]
fn another_interval_is_told_at_once_and_kept() {
    let mut net = Net::of(&[1000, 1000]);
    net.run(ms(3100));
    drop(net.news(0));
    for interval in [250, 5000, 60_000] {
        net.with(1, |machine, now| machine.set_hello_interval(now, ms(interval)).unwrap());
        net.run(ms(2));
        assert_eq!(net.status(0)[0].interval, ms(interval), "told at once");
        let changed = net.now;
        net.run(ms(interval * 4));
        let hellos = net.count(1, Kind::Hello, changed);
        assert!((3..=5).contains(&hellos), "{hellos} in four intervals of {interval}");
        // Also those that are too seldom for the old interval.
        assert_eq!(net.status(0)[0].state.to_string(), "up");
    }
    assert!(net.news(0).is_empty());
}

#[test]
fn an_interval_out_of_bounds_changes_nothing() {
    let mut net = Net::of(&[1000]);
    net.run(ms(2500));
    for interval in [0, 49, 60_001] {
        let now = net.now;
        let refused = net.machine(0).set_hello_interval(now, ms(interval));
        assert_eq!(refused, Err(SetupError::Interval(ms(interval))));
    }
    let from = net.now;
    net.run(ms(4000));
    assert!((3..=5).contains(&net.count(0, Kind::Hello, from)));
}

#[test]
fn an_announcement_is_one_hello_more() {
    let mut net = Net::of(&[10_000, 10_000]);
    net.run(ms(2000));
    let from = net.now;
    net.with(1, |machine, now| machine.announce(now));
    net.run(ms(2));
    assert_eq!(net.count(1, Kind::Hello, from), 1);
    // Another address in it is the neighbour's address.
    net.nodes[1].address = address(7);
    net.with(1, |machine, now| machine.announce(now));
    net.run(ms(60));
    assert_eq!(net.status(0)[0].address, address(7));
    assert_eq!(net.news(0), ["join 1"]);
}

#[test]
fn prefixes_can_be_checked_before_they_are_set() {
    let list = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<ipnet::IpNet>>();
    assert_eq!(check_prefixes(&list(&["2001:db8:1::/64", "10.1.0.0/16"])), Ok(()));
    assert!(check_prefixes(&list(&["fe80::/64"])).is_err());
    let many: Vec<String> = (0..100).map(|i| format!("2001:db8:{i:x}::/64")).collect();
    assert!(check_prefixes(&list(&many.iter().map(String::as_str).collect::<Vec<_>>())).is_err());
}
