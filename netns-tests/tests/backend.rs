//! Which data plane runs, and what the kernel's ESP leaves in the kernel, as `ip` sees it: ours and nobody else's.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use muster_netns_tests::{Family, Lab, carry, carry_unicast, skip, wait_until};

const SOON: Duration = Duration::from_secs(20);
const FOREIGN: &str = "0x00c0ffee";
/// Of our routes in table local: the mark of instance 0.
const METRIC: u32 = 0x4d75_7300;

fn without_kernel(test: &str) -> bool {
    skip(test) || {
        let without = std::env::var("MUSTER_BACKEND").as_deref() != Ok("kernel");
        if without {
            // Past the harness, which would swallow it.
            let _ = writeln!(std::io::stderr(), "SKIP {test}: of the kernel's ESP, which the kernel lab tests");
        }
        without
    }
}

/// Runs a program in a router's network.
fn run(lab: &Lab, router: usize, program: &str, arguments: &[&str]) -> String {
    let run = || Command::new(program).args(arguments).output().expect("it is installed");
    let output = lab.coalition.routers()[router].namespace.run(run).unwrap();
    let (status, error) = (output.status, String::from_utf8_lossy(&output.stderr));
    assert!(status.success(), "{program} {arguments:?}: {status}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn ip(lab: &Lab, router: usize, arguments: &[&str]) -> String {
    run(lab, router, "ip", arguments)
}

/// The SPIs that the kernel has SAs for.
fn in_kernel(lab: &Lab, router: usize) -> BTreeSet<String> {
    let listed = ip(lab, router, &["xfrm", "state"]);
    let spis = listed.lines().filter_map(|line| line.split_once("spi ")?.1.split_whitespace().next());
    spis.map(str::to_owned).collect()
}

/// Those that the daemon tells of.
fn told(lab: &Lab, router: usize) -> BTreeSet<String> {
    let sas = lab.get(router, "sas");
    let spis = sas.as_array().unwrap().iter().map(|sa| format!("{:#010x}", sa["spi"].as_u64().unwrap()));
    spis.collect()
}

/// An SA and a policy of somebody else.
fn add_foreign(lab: &Lab, router: usize) {
    let state = ["xfrm", "state", "add", "src", "192.0.2.1", "dst", "192.0.2.2", "proto", "esp", "spi", FOREIGN];
    let key = format!("0x{}", "5a".repeat(36));
    let rest = ["reqid", "7", "mode", "tunnel", "aead", "rfc4106(gcm(aes))", &key, "128"];
    ip(lab, router, &[&state[..], &rest].concat());
    let policy = ["xfrm", "policy", "add", "src", "192.0.2.0/25", "dst", "192.0.2.128/25", "dir", "out"];
    ip(lab, router, &[&policy[..], &["tmpl", "proto", "esp", "reqid", "7", "mode", "transport"]].concat());
}

/// Whether somebody else's SA and policy are all that is there, and no rule, route or interface of ours.
fn is_foreign_alone(lab: &Lab, router: usize) -> bool {
    in_kernel(lab, router) == BTreeSet::from([FOREIGN.to_owned()])
        && ip(lab, router, &["xfrm", "policy"]).matches("dir ").count() == 1
        && !ip(lab, router, &["-6", "rule"]).contains("fwmark")
        && !has_route(lab, router)
        && !ip(lab, router, &["link"]).contains("muster")
}

/// Whether there is a route of ours to the group on black.
fn has_route(lab: &Lab, router: usize) -> bool {
    ip(lab, router, &["-6", "route", "show", "table", "local"]).contains(&format!("metric {METRIC}"))
}

/// Waits until the kernel holds what the daemon says, and somebody else's SA.
fn wait_until_told(lab: &Lab, router: usize) {
    lab.wait(SOON, "the kernel's SAs to be those of the daemon", || {
        let mut expected = told(lab, router);
        let is_member = expected.len() == 4;
        expected.insert(FOREIGN.to_owned());
        is_member && in_kernel(lab, router) == expected
    });
    assert!(has_route(lab, router));
}

#[test]
fn auto_says_what_it_has_chosen_and_why() {
    if skip("auto_says_what_it_has_chosen_and_why") {
        return;
    }
    let mut lab = Lab::new(1);
    let usual = if lab.is_kernel() { "kernel" } else { "userspace" };
    lab.configure(0, |text| *text = text.replace(&format!("backend = \"{usual}\""), "backend = \"auto\""));
    lab.start(0);
    lab.wait(SOON, "the daemon to answer", || lab.call(0, "status").is_some());
    let plane = lab.get(0, "status")["dataplane"].clone();
    let (backend, reason) = (plane["backend"].as_str().unwrap(), plane["backend_reason"].as_str().unwrap());
    match backend {
        "kernel" => assert_eq!(reason, "the kernel has ESP, xfrm interfaces and nf_tables"),
        "userspace" => assert!(reason.starts_with("not the kernel's ESP: "), "{reason}"),
        other => panic!("{other}"),
    }
    // Where it is there, it is taken.
    assert!(!lab.is_kernel() || backend == "kernel", "{reason}");
}

/// nft 1.0.6 crashes, whatever it is asked, where a set of anybody's does not say what its keys are.
#[test]
fn operators_list_the_packet_filter() {
    if skip("operators_list_the_packet_filter") {
        return;
    }
    let mut lab = Lab::new(2);
    lab.start(0);
    lab.start(1);
    lab.wait_for_group(&[0, 1]);
    let listed = || run(&lab, 0, "nft", &["list", "ruleset"]);
    let ingress = listed();
    assert!(ingress.contains("table inet muster-ingress0 {"), "{ingress}");
    if lab.is_kernel() {
        let others = lab.coalition.routers()[1].plan.red_v6().to_string();
        lab.wait(SOON, "the other one's prefix to be listed", || listed().contains(&format!(" . {others} }}")));
        let listed = listed();
        for set in ["type mark . ipv4_addr", "type mark . ipv6_addr", "ipsec in reqid . ip6 saddr @unicast6 accept"] {
            assert!(listed.contains(set), "{set}: {listed}");
        }
    }
}

#[test]
fn a_killed_daemon_leaves_no_stale_sa_behind_its_next_start_and_foreign_ones_stay() {
    if without_kernel("a_killed_daemon_leaves_no_stale_sa_behind_its_next_start_and_foreign_ones_stay") {
        return;
    }
    let mut lab = Lab::new(2);
    add_foreign(&lab, 0);
    lab.start(0);
    lab.start(1);
    lab.wait_for_group(&[0, 1]);
    wait_until_told(&lab, 0);
    let before = in_kernel(&lab, 0);
    lab.kill(0);
    assert_eq!(in_kernel(&lab, 0), before, "what a killed daemon leaves");
    // By its number it is found, whatever its name.
    lab.configure(0, |text| *text = text.replace("[dataplane]", "[dataplane]\ndevice = \"muster7\""));
    lab.start(0);
    lab.wait_for_group(&[0, 1]);
    wait_until_told(&lab, 0);
    let stale: Vec<_> = before.intersection(&in_kernel(&lab, 0)).cloned().collect();
    assert_eq!(stale, [FOREIGN]);
    assert!(ip(&lab, 0, &["xfrm", "policy"]).contains("192.0.2.128/25"));
    lab.terminate(0);
    assert!(is_foreign_alone(&lab, 0));
}

#[test]
fn a_daemon_in_user_space_takes_away_what_a_killed_one_left_in_the_kernel() {
    if without_kernel("a_daemon_in_user_space_takes_away_what_a_killed_one_left_in_the_kernel") {
        return;
    }
    let mut lab = Lab::group(2);
    add_foreign(&lab, 0);
    lab.kill(0);
    lab.configure(0, |text| *text = text.replace("backend = \"kernel\"", "backend = \"userspace\""));
    lab.start(0);
    lab.wait_for_group(&[0, 1]);
    assert_eq!(in_kernel(&lab, 0), BTreeSet::from([FOREIGN.to_owned()]));
    lab.terminate(0);
    assert!(is_foreign_alone(&lab, 0));
}

#[test]
fn unblock_takes_away_what_a_killed_daemon_left_in_the_kernel() {
    if without_kernel("unblock_takes_away_what_a_killed_daemon_left_in_the_kernel") {
        return;
    }
    let mut lab = Lab::group(2);
    add_foreign(&lab, 0);
    lab.kill(0);
    assert!(in_kernel(&lab, 0).len() > 1);
    let configuration = lab.path(&format!("{}.toml", lab.name(0)));
    let unblock = || Command::new(lab.program()).arg("unblock").arg("--config").arg(&configuration).output().unwrap();
    let output = lab.coalition.routers()[0].namespace.run(unblock).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(is_foreign_alone(&lab, 0));
}

/// In the lab with `LAB_WITHOUT=xfrm_interface`.
#[test]
fn without_xfrm_interfaces_user_space_carries_and_the_kernels_esp_is_refused() {
    const NAME: &str = "without_xfrm_interfaces_user_space_carries_and_the_kernels_esp_is_refused";
    if without_kernel(NAME) {
        return;
    }
    let mut lab = Lab::new(2);
    let add = || Command::new("ip").args(["link", "add", "probe", "type", "xfrm", "if_id", "1"]).output().unwrap();
    if lab.coalition.routers()[0].namespace.run(add).unwrap().status.success() {
        let _ = writeln!(std::io::stderr(), "SKIP {NAME}: this kernel has them");
        return;
    }
    const REASON: &str =
        "the kernel has no xfrm interfaces (modprobe xfrm_interface), and policies alone do not protect";
    lab.start(0);
    let refused = wait_until(SOON, || !lab.runs(0));
    assert!(refused && lab.log(0).contains(REASON), "{}", lab.log(0));
    for router in [0, 1] {
        lab.configure_backend(router, "auto");
        lab.start(router);
    }
    lab.wait_for_group(&[0, 1]);
    for router in [0, 1] {
        let plane = lab.get(router, "status")["dataplane"].clone();
        assert_eq!(plane["backend"], "userspace");
        let reason = plane["backend_reason"].as_str().unwrap();
        assert!(reason.starts_with(&format!("not the kernel's ESP: {REASON}")), "{reason}");
    }
    all_to_all(&lab, &[0, 1]);
}

/// Kernel and user space in one group: all to all, both families, over both families, and after a rekey.
#[test]
fn both_data_planes_are_one_group() {
    if without_kernel("both_data_planes_are_one_group") {
        return;
    }
    for family in [Family::V6, Family::V4] {
        let mut lab = Lab::on(family, 4);
        for router in [1, 2] {
            lab.configure(router, |text| *text = text.replace("backend = \"kernel\"", "backend = \"userspace\""));
        }
        (0..4).for_each(|router| lab.start(router));
        lab.wait_for_group_within(SOON, &[0, 1, 2, 3]);
        let backends = [0, 1, 2, 3].map(|router| lab.get(router, "status")["dataplane"]["backend"].clone());
        assert_eq!(backends, ["kernel", "userspace", "userspace", "kernel"]);
        all_to_all(&lab, &[0, 1, 2, 3]);
        lab.terminate(3);
        lab.wait_for_group_within(SOON, &[0, 1, 2]);
        all_to_all(&lab, &[0, 1, 2]);
        for router in [0, 1, 2] {
            let dropped = lab.get(router, "status")["dataplane"]["dropped"].clone();
            assert!(dropped.as_object().unwrap().values().all(|count| *count == 0), "{router}: {dropped}");
        }
    }
}

fn all_to_all(lab: &Lab, routers: &[usize]) {
    for from in routers {
        let others: Vec<usize> = routers.iter().copied().filter(|to| to != from).collect();
        carry(lab, *from, &others, 20);
        for to in others {
            carry_unicast(lab, *from, to, false, 10);
            carry_unicast(lab, *from, to, true, 10);
        }
    }
}
