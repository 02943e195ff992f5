//! Addresses and interfaces that change under a running daemon.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use muster_netlab::{BLACK_DEVICE, BRIDGE, Namespace, RED_DEVICE, VethEnd};
use muster_netns_tests::{Family, Lab, carry, skip};
use nix::sys::signal::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);

/// What a router says is its address on black.
fn black_address(lab: &Lab, router: usize) -> Option<IpAddr> {
    let answer = lab.ask(router, &["status", "--json"]);
    serde_json::from_str::<Value>(&answer.stdout).ok()?["black_address"].as_str()?.parse().ok()
}

/// What `observer` says is a router's address.
fn seen_at(lab: &Lab, observer: usize, router: usize) -> Option<IpAddr> {
    let name = lab.name(router);
    let neighbors = lab.get(observer, "neighbors");
    let neighbor = neighbors.as_array()?.iter().find(|neighbor| neighbor["name"] == name.as_str())?;
    neighbor["address"].as_str()?.parse().ok()
}

fn events(lab: &Lab, router: usize, name: &str) -> Vec<String> {
    let answer = lab.ask(router, &["events", "--json"]);
    let lines = answer.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("an event"));
    lines.filter(|event| event["event"] == name).map(|event| event["detail"].as_str().unwrap().to_owned()).collect()
}

fn namespace(lab: &Lab, router: usize) -> &Namespace {
    &lab.coalition.routers()[router].namespace
}

fn everywhere(lab: &Lab, count: usize) {
    for from in 0..count {
        let to: Vec<usize> = (0..count).filter(|to| *to != from).collect();
        carry(lab, from, &to, 30);
    }
}

#[test]
fn another_address_on_black_is_followed_without_a_rekey() {
    if skip("another_address_on_black_is_followed_without_a_rekey") {
        return;
    }
    let lab = Lab::group(3);
    let before = lab.state(0).unwrap();
    let plan = &lab.coalition.routers()[0].plan;
    let (old, local) = (plan.black_v6(), plan.black_link_local());
    assert_eq!(black_address(&lab, 0), Some(old.addr().into()));
    let new: ipnet::Ipv6Net = {
        let bits = u128::from(old.addr()) | 0x7777_0000;
        ipnet::Ipv6Net::new(Ipv6Addr::from(bits), old.prefix_len()).unwrap()
    };
    // A second one changes nothing; that the first goes does.
    namespace(&lab, 0).add_address(BLACK_DEVICE, new.into()).unwrap();
    namespace(&lab, 0).remove_address(BLACK_DEVICE, old.into()).unwrap();
    for (address, next) in [(IpAddr::from(new.addr()), Some(new)), (IpAddr::from(local), None)] {
        lab.wait(SOON, &format!("{address} in use"), || black_address(&lab, 0) == Some(address));
        for observer in [1, 2] {
            lab.wait(SOON, &format!("{address} at {observer}"), || seen_at(&lab, observer, 0) == Some(address));
        }
        everywhere(&lab, 3);
        if let Some(next) = next {
            // Then the last but the link-local one.
            namespace(&lab, 0).remove_address(BLACK_DEVICE, next.into()).unwrap();
        }
    }
    // A global one is there again.
    namespace(&lab, 0).add_address(BLACK_DEVICE, old.into()).unwrap();
    lab.wait(SOON, "a global address in use", || black_address(&lab, 0) == Some(old.addr().into()));
    everywhere(&lab, 3);
    assert_eq!(lab.state(0).unwrap(), before, "no rekey");
    assert!(lab.is_group(&[0, 1, 2]));
    let told = [new.addr().to_string(), local.to_string(), old.addr().to_string()];
    assert_eq!(events(&lab, 0, "address"), told);
}

#[test]
fn another_ipv4_address_is_followed_too() {
    if skip("another_ipv4_address_is_followed_too") {
        return;
    }
    let lab = Lab::group_on(Family::V4, 3);
    let before = lab.state(0).unwrap();
    let old = lab.coalition.routers()[0].plan.black_v4();
    let new = ipnet::Ipv4Net::new(Ipv4Addr::new(192, 0, 2, 77), old.prefix_len()).unwrap();
    // Otherwise the second one goes with the first.
    namespace(&lab, 0).sysctl(&format!("ipv4/conf/{BLACK_DEVICE}/promote_secondaries"), "1").unwrap();
    namespace(&lab, 0).add_address(BLACK_DEVICE, new.into()).unwrap();
    namespace(&lab, 0).remove_address(BLACK_DEVICE, old.into()).unwrap();
    let address = IpAddr::from(new.addr());
    lab.wait(SOON, "it in use", || black_address(&lab, 0) == Some(address));
    for observer in [1, 2] {
        lab.wait(SOON, &format!("it at {observer}"), || seen_at(&lab, observer, 0) == Some(address));
    }
    everywhere(&lab, 3);
    assert_eq!(lab.state(0).unwrap(), before, "no rekey");
}

/// Between two certificates there is no member that could wait for an address: the daemon does.
#[test]
fn a_certificate_is_renewed_while_black_has_no_address() {
    if skip("a_certificate_is_renewed_while_black_has_no_address") {
        return;
    }
    let mut lab = Lab::group(3);
    let router = &lab.coalition.routers()[0];
    let address = router.plan.black_v6().into();
    let told = events(&lab, 0, "address").len();
    router.namespace.set_up(BLACK_DEVICE, false).unwrap();
    lab.wait(SOON, "no address", || events(&lab, 0, "address").len() > told);
    lab.reissue(0);
    lab.signal(0, Signal::SIGHUP);
    let waits = |lab: &Lab| lab.ask(0, &["status"]).stderr.contains("waiting for an address on black0");
    lab.wait(SOON, "who asks is told", || waits(&lab));
    namespace(&lab, 0).set_up(BLACK_DEVICE, true).unwrap();
    namespace(&lab, 0).add_address(BLACK_DEVICE, address).unwrap();
    lab.wait_for_group(&[0, 1, 2]);
    everywhere(&lab, 3);

    // And a wish to end on the way to another certificate is a farewell, not a second wish.
    let farewells = |lab: &Lab| events(lab, 1, "leave").iter().filter(|why| *why == "goodbye").count();
    let before = farewells(&lab);
    lab.reissue(0);
    lab.signal(0, Signal::SIGHUP);
    lab.terminate(0);
    lab.wait(SOON, "its farewell", || farewells(&lab) > before);
    lab.wait_for_group(&[1, 2]);
}

#[test]
fn a_black_interface_that_goes_comes_back() {
    if skip("a_black_interface_that_goes_comes_back") {
        return;
    }
    let mut lab = Lab::group(3);
    for made_anew in [false, true] {
        let router = &lab.coalition.routers()[0];
        let (space, plan) = (&router.namespace, &router.plan);
        let index = space.index(BLACK_DEVICE).unwrap();
        let told = events(&lab, 0, "address").len();
        if made_anew {
            space.delete_link(BLACK_DEVICE).unwrap();
        } else {
            space.set_up(BLACK_DEVICE, false).unwrap();
        }
        lab.wait(SOON, "no address", || events(&lab, 0, "address").len() > told);
        assert!(events(&lab, 0, "address").pop().unwrap().starts_with("none on black0"));
        if made_anew {
            let far = VethEnd { device: BLACK_DEVICE.to_owned(), mac: Some(plan.black_mac()) };
            lab.coalition.black().add_port(&plan.black_port().as_str().into(), BRIDGE, space, &far).unwrap();
            assert_ne!(space.index(BLACK_DEVICE).unwrap(), index);
        } else {
            space.set_up(BLACK_DEVICE, true).unwrap();
        }
        space.add_address(BLACK_DEVICE, plan.black_v6().into()).unwrap();
        if made_anew {
            space.add_address(BLACK_DEVICE, plan.black_v4().into()).unwrap();
        }
        space.wait_for_link(BLACK_DEVICE).unwrap();
        lab.wait(SOON, "its address in use", || black_address(&lab, 0) == Some(plan.black_v6().addr().into()));
        lab.wait_for_group(&[0, 1, 2]);
        everywhere(&lab, 3);
    }
    assert!(lab.runs(0));
    lab.terminate(0);
}

#[test]
fn it_waits_for_an_address_that_is_its_own() {
    if skip("it_waits_for_an_address_that_is_its_own") {
        return;
    }
    let mut lab = Lab::new(2);
    lab.start(1);
    lab.wait_for_group(&[1]);
    let [a, b] = [0, 1].map(|router| lab.coalition.routers()[router].plan.clone());
    let (black, local) = (lab.coalition.black(), a.black_link_local());
    let space = namespace(&lab, 0);
    // The other one has its link-local address, and it has no other.
    namespace(&lab, 1).add_address(BLACK_DEVICE, ipnet::Ipv6Net::new(local, 64).unwrap().into()).unwrap();
    space.remove_address(BLACK_DEVICE, a.black_v6().into()).unwrap();
    for (key, value) in [("accept_dad", "1"), ("dad_transmits", "1")] {
        space.sysctl(&format!("ipv6/conf/{BLACK_DEVICE}/{key}"), value).unwrap();
    }
    black.wait_for_link(&a.black_port()).unwrap();
    space.set_up(BLACK_DEVICE, false).unwrap();
    space.set_up(BLACK_DEVICE, true).unwrap();
    lab.start(0);
    let said = format!("{local} is also another device's");
    lab.wait(SOON, "it to say why it waits", || lab.log(0).contains(&said));
    assert_eq!(black_address(&lab, 0), None);
    assert!(lab.runs(0));
    // Whoever asks is told, and does not unblock.
    assert!(lab.ask(0, &["status"]).stderr.contains("waiting for an address on black0"));
    let configuration = lab.path(&format!("{}.toml", lab.name(0)));
    for arguments in [["--config", configuration.to_str().unwrap()], ["--instance", "0"]] {
        let mut unblock = std::process::Command::new(lab.program());
        unblock.arg("unblock").args(arguments);
        let refused = namespace(&lab, 0).spawn(unblock).unwrap().wait(SOON).unwrap();
        assert!(!refused.unwrap().success(), "{arguments:?}");
    }
    // A better one, which takes its time to be found free.
    let space = namespace(&lab, 0);
    space.add_address(BLACK_DEVICE, a.black_v6().into()).unwrap();
    lab.wait_for_group(&[0, 1]);
    assert_eq!(black_address(&lab, 0), Some(a.black_v6().addr().into()));
    assert_eq!(black_address(&lab, 1), Some(b.black_v6().addr().into()));
    carry(&lab, 0, &[1], 30);
}

#[test]
fn own_prefixes_follow_the_red_interface() {
    if skip("own_prefixes_follow_the_red_interface") {
        return;
    }
    let mut lab = Lab::new(2);
    for router in 0..2 {
        lab.configure(router, |text| {
            let lines = text.lines().filter(|line| !line.starts_with("prefixes = "));
            *text = lines.map(|line| format!("{line}\n")).collect();
        });
        lab.start(router);
    }
    lab.wait_for_group(&[0, 1]);
    let before = lab.state(0).unwrap();
    let prefixes = |at: usize| {
        let members = lab.get(at, "members");
        let name = lab.name(0);
        let member = members.as_array().unwrap().iter().find(|member| member["name"] == name.as_str()).cloned();
        member.map(|member| member["prefixes"].to_string()).unwrap_or_default()
    };
    let plan = &lab.coalition.routers()[0].plan;
    lab.wait(SOON, "its prefix", || prefixes(1).contains(&plan.red_v6().to_string()));
    let more: ipnet::IpNet = "2001:db8:7777::1/64".parse().unwrap();
    namespace(&lab, 0).add_address(RED_DEVICE, more).unwrap();
    for at in [0, 1] {
        lab.wait(SOON, "one more", || prefixes(at).contains("2001:db8:7777::/64"));
    }
    namespace(&lab, 0).remove_address(RED_DEVICE, more).unwrap();
    for at in [0, 1] {
        lab.wait(SOON, "one less", || {
            !prefixes(at).contains("7777") && prefixes(at).contains(&plan.red_v6().to_string())
        });
    }
    carry(&lab, 0, &[1], 30);
    assert_eq!(lab.state(0).unwrap(), before, "no rekey");
}
