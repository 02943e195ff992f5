//! Fail closed: what must not pass does not, whatever the daemons do.

use std::net::SocketAddr;
use std::time::Duration;

use muster_netlab::{HOST_DEVICE, Marker, Receiver};
use muster_netns_tests::{Lab, attempt, red_group, skip, wait_until};

/// Clear datagrams from black to a red host, where somebody listens. Behind them goes one to the router itself, which lets it
/// in: when that is there, they have had their chance.
fn clear_from_black(lab: &Lab, router: usize) -> Receiver {
    let marker = Marker::random().unwrap();
    let target = &lab.coalition.routers()[router];
    let local: SocketAddr = (target.plan.host_v6(), 5001).into();
    let receiver = Receiver::start(&target.host, HOST_DEVICE, local, marker).unwrap();
    let mut payload = marker.0.to_vec();
    payload.extend([0; 16]);
    for _ in 0..20 {
        lab.coalition.black().send_udp("br0", local, &payload).unwrap();
    }
    let router = SocketAddr::from((target.plan.black_v6().addr(), 5002));
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
    if skip("clear_text_from_black_never_reaches_red") {
        return;
    }
    let mut lab = Lab::group(3);
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
    router.namespace.sysctl("ipv6/conf/all/forwarding", "1").unwrap();
    let receiver = clear_from_black(&lab, 1);
    let passes = wait_until(Duration::from_secs(5), || receiver.unique() > 0);
    assert!(passes, "nothing blocks, and still nothing passes: the test is blind");
}

#[test]
fn red_traffic_never_shows_on_black() {
    if skip("red_traffic_never_shows_on_black") {
        return;
    }
    let mut lab = Lab::group(3);
    let unknown: SocketAddr = "[2001:db8:dead::1]:5000".parse().unwrap();
    let host: SocketAddr = (lab.coalition.routers()[1].plan.host_v6(), 5000).into();
    let other_group: SocketAddr = "[ff1d::1]:5000".parse().unwrap();
    let try_all = |lab: &Lab, what: &str| {
        for to in [unknown, host, other_group] {
            attempt(lab, 0, to, 20);
        }
        assert!(lab.capture.settle(Duration::from_secs(5)));
        assert_eq!(lab.capture.stats().cleartext, 0, "{what}: {:?}", lab.capture.examples());
    };
    try_all(&lab, "daemons running");
    (0..3).for_each(|router| lab.kill(router));
    try_all(&lab, "daemons killed");
    let carried = red_group();
    let esp = lab.capture.stats().esp;
    attempt(&lab, 0, carried, 20);
    assert!(lab.capture.settle(Duration::from_secs(5)));
    assert_eq!(lab.capture.stats().esp, esp, "nobody encrypts any more");
    assert_eq!(lab.capture.stats().cleartext, 0, "{:?}", lab.capture.examples());
}
