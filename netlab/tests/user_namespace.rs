//! An ordinary user's laboratory. A program of its own, since it must have one thread when it starts.

use std::time::Duration;

use muster_netlab::{BLACK_DEVICE, Capture, Coalition, Marker, Plan, Receiver, enter_user_namespace, wait_until};
use nix::sys::prctl::set_dumpable;
use nix::unistd::{Gid, Uid, getuid, setgroups, setresgid, setresuid};

fn main() {
    if getuid().is_root() {
        let (user, group) = (Uid::from_raw(65534), Gid::from_raw(65534));
        setgroups(&[])
            .and_then(|()| setresgid(group, group, group))
            .and_then(|()| setresuid(user, user, user))
            .unwrap();
        // A process that was root may not write its own maps otherwise; an ordinary user's always may.
        set_dumpable(true).unwrap();
    }
    if let Err(error) = enter_user_namespace() {
        eprintln!("SKIP user_namespace: {error}");
        return;
    }
    let coalition = Coalition::build(Plan::new(3, 3).unwrap()).unwrap();
    let capture = Capture::start(coalition.black(), coalition.watch([4860, 4861])).unwrap();
    let [a, b, _] = coalition.routers() else { panic!("three routers were planned") };
    let group = "[ff05::6d75]:4860".parse().unwrap();
    let receiver = Receiver::start(&b.namespace, BLACK_DEVICE, group, Marker::random().unwrap()).unwrap();
    a.namespace.send_udp(BLACK_DEVICE, group, b"hello").unwrap();
    assert!(wait_until(Duration::from_secs(5), || receiver.tally().foreign == 1));
    assert!(capture.settle(Duration::from_secs(5)));
    assert_eq!((capture.stats().own, capture.stats().cleartext), (1, 0), "{:?}", capture.examples());
    println!("an ordinary user's laboratory works");
}
