//! Fail closed: what must not pass does not, whatever the daemons do.

use std::net::SocketAddr;
use std::time::Duration;

use muster_netlab::{HOST_DEVICE, Marker, Receiver};
use muster_netns_tests::{Family, Lab, attempt, red_group, red_group_v4, skip, wait_until};

/// Clear datagrams from black to a red host, both of the family of black, where somebody listens. Behind them goes one to the router itself, which lets it
/// in: when that is there, they have had their chance.
fn clear_from_black(lab: &Lab, router: usize) -> Receiver {
    let marker = Marker::random().unwrap();
    let target = &lab.coalition.routers()[router];
    let local: SocketAddr = (lab.red_host(router), 5001).into();
    let receiver = Receiver::start(&target.host, HOST_DEVICE, local, marker).unwrap();
    let mut payload = marker.0.to_vec();
    payload.extend([0; 16]);
    for _ in 0..20 {
        lab.coalition.black().send_udp("br0", local, &payload).unwrap();
    }
    let router = SocketAddr::from((lab.black_address(router), 5002));
    let fence = Marker::random().unwrap();
    let own = Receiver::start(&target.namespace, "black0", router, fence).unwrap();
    let mut payload = fence.0.to_vec();
    payload.extend([0; 16]);
    let arrived = wait_until(Duration::from_secs(5), || {
        lab.coalition.black().send_udp("br0", router, &payload).unwrap();
        own.unique() > 0
    });
    assert!(arrived, "the router itself is not reached");
    receiver
}

#[test]
fn clear_text_from_black_never_reaches_red() {
    if !skip("clear_text_from_black_never_reaches_red") {
        clear_text_is_stopped(Family::V6);
    }
}

#[test]
fn clear_text_from_black_ipv4_never_reaches_red() {
    if !skip("clear_text_from_black_ipv4_never_reaches_red") {
        clear_text_is_stopped(Family::V4);
    }
}

fn clear_text_is_stopped(family: Family) {
    let mut lab = Lab::group_on(family, 3);
    assert_eq!(clear_from_black(&lab, 0).unique(), 0, "daemon running");
    lab.kill(0);
    assert_eq!(clear_from_black(&lab, 0).unique(), 0, "daemon killed");
    lab.terminate(1);
    assert_eq!(clear_from_black(&lab, 1).unique(), 0, "daemon stopped");

    // The check can fail: without the block it passes.
    let config = lab.path(&format!("{}.toml", lab.name(1)));
    let mut command = std::process::Command::new(lab.program());
    command.args(["unblock", "--config"]).arg(config);
    let router = &lab.coalition.routers()[1];
    let status = router.namespace.spawn(command).unwrap().wait(Duration::from_secs(5)).unwrap();
    assert!(status.unwrap().success());
    for forwarding in ["ipv6/conf/all/forwarding", "ipv4/ip_forward"] {
        router.namespace.sysctl(forwarding, "1").unwrap();
    }
    let receiver = clear_from_black(&lab, 1);
    let passes = wait_until(Duration::from_secs(5), || receiver.unique() > 0);
    assert!(passes, "nothing blocks, and still nothing passes: the test is blind");
}

#[test]
fn a_slip_of_the_pen_in_the_configuration_opens_nothing() {
    if skip("a_slip_of_the_pen_in_the_configuration_opens_nothing") {
        return;
    }
    let mut lab = Lab::group(2);
    lab.terminate(0);
    for forwarding in ["ipv6/conf/all/forwarding", "ipv4/ip_forward"] {
        lab.coalition.routers()[0].namespace.sysctl(forwarding, "1").unwrap();
    }
    for (right, wrong) in [("\"red0\"", "\"red1\""), ("\"black0\"", "\"black1\"")] {
        lab.configure(0, |text| *text = text.replace(right, wrong));
        lab.start(0);
        lab.wait_for_end(0);
        attempt(&lab, 0, "[2001:db8:dead::1]:5000".parse().unwrap(), 20);
        assert!(lab.capture.settle(Duration::from_secs(5)));
        assert_eq!(lab.capture.stats().cleartext, 0, "{wrong}: {:?}", lab.capture.examples());
    }
    assert_eq!(clear_from_black(&lab, 0).unique(), 0, "clear text from black");
    // Set right, it is as if nothing had been.
    lab.configure_as_usual(0);
    lab.start(0);
    lab.wait_for_group(&[0, 1]);
}

#[test]
fn red_traffic_never_shows_on_black() {
    if !skip("red_traffic_never_shows_on_black") {
        red_stays_red(Family::V6);
    }
}

#[test]
fn red_traffic_never_shows_on_black_ipv4() {
    if !skip("red_traffic_never_shows_on_black_ipv4") {
        red_stays_red(Family::V4);
    }
}

fn red_stays_red(family: Family) {
    let mut lab = Lab::group_on(family, 3);
    let other = &lab.coalition.routers()[1].plan;
    // Unknown hosts, known ones, groups that are not carried; of both families.
    let nowhere: [SocketAddr; 6] = [
        "[2001:db8:dead::1]:5000".parse().unwrap(),
        "198.51.100.1:5000".parse().unwrap(),
        (other.host_v6(), 5000).into(),
        (other.host_v4(), 5000).into(),
        "[ff1d::1]:5000".parse().unwrap(),
        "239.11.0.1:5000".parse().unwrap(),
    ];
    let try_all = |lab: &Lab, what: &str| {
        for to in nowhere {
            attempt(lab, 0, to, 20);
        }
        assert!(lab.capture.settle(Duration::from_secs(5)));
        assert_eq!(lab.capture.stats().cleartext, 0, "{what}: {:?}", lab.capture.examples());
    };
    try_all(&lab, "daemons running");
    (0..3).for_each(|router| lab.kill(router));
    try_all(&lab, "daemons killed");
    let esp = lab.capture.stats().esp;
    for carried in [red_group(), red_group_v4()] {
        attempt(&lab, 0, carried, 20);
    }
    assert!(lab.capture.settle(Duration::from_secs(5)));
    assert_eq!(lab.capture.stats().esp, esp, "nobody encrypts any more");
    assert_eq!(lab.capture.stats().cleartext, 0, "{:?}", lab.capture.examples());
}

#[test]
fn a_start_that_fails_makes_no_router_of_a_machine() {
    if skip("a_start_that_fails_makes_no_router_of_a_machine") {
        return;
    }
    let mut lab = Lab::new(1);
    lab.configure(0, |text| *text = text.replace("interfaces = [\"red0\"]", "interfaces = [\"redd0\"]"));
    lab.start(0);
    lab.wait_for_end(0);
    assert!(lab.log(0).contains("redd0"), "{}", lab.log(0));
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        assert_eq!(lab.coalition.routers()[0].namespace.read_sysctl(key).unwrap(), "0", "{key}");
    }
}
