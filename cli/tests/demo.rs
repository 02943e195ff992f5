//! The demo: ok, and not ok when something is broken.

mod common;

use std::io::Read;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{Ran, muster, ran, run, skip};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

#[test]
fn three_routers_are_ok() {
    if skip("three_routers_are_ok") {
        return;
    }
    let report = run(["demo", "--routers", "3", "--json"]).json();
    assert_eq!(report["ok"], true);
    assert_eq!(report["routers"], 3);
    assert_eq!(report["dataplane"], "userspace");
    for key in ["formed_ms", "epoch", "restore_ms"] {
        assert!(report[key].is_u64(), "{key} of {report}");
    }
    assert!(report["join_ms"].as_array().unwrap().iter().all(Value::is_u64), "{report}");
    assert_eq!(report["join_ms"].as_array().unwrap().len(), 3);
    assert_eq!(report["multicast"], serde_json::json!({"sent": 200, "received_min": 200, "receivers": 2}));
    assert_eq!(report["black"]["cleartext"], 0);
    // Three flows, each opened by one more; each datagram once, whatever the number of receivers.
    assert_eq!(report["black"]["esp"], 603);
    assert_eq!(report["leave"]["excluded"], true);
    assert!(report["leave"]["detected_ms"].as_u64() <= report["leave"]["rekeyed_ms"].as_u64());
    let times: Vec<_> = report["timeline"].as_array().unwrap().iter().map(|entry| entry["at_ms"].as_u64()).collect();
    assert!(times.is_sorted() && times.iter().all(Option::is_some), "{times:?}");
}

#[test]
fn ipv4_is_ok() {
    if skip("ipv4_is_ok") {
        return;
    }
    let report = run(["demo", "--ipv4", "--routers", "3", "--json"]).json();
    assert_eq!(report["ok"], true);
    assert_eq!(report["multicast"], serde_json::json!({"sent": 200, "received_min": 200, "receivers": 2}));
    assert_eq!(report["black"]["cleartext"], 0);
    assert_eq!(report["black"]["esp"], 603);
    assert!(report["timeline"][0]["what"].as_str().unwrap().contains("IPv4"), "{report}");
}

#[test]
fn people_get_a_timeline_a_table_and_a_verdict() {
    if skip("people_get_a_timeline_a_table_and_a_verdict") {
        return;
    }
    let out = run(["demo", "--routers", "2"]).done();
    assert!(out.contains("bravo-1 is killed") && out.contains("AFTER THE RETURN"), "{out}");
    assert_eq!(out.lines().last(), Some("ok"));
}

fn sabotaged(what: &str) -> Option<(Value, String)> {
    if skip(what) {
        return None;
    }
    let Ran { status, out, err } = run(["demo", "--routers", "3", "--json", "--sabotage", what]);
    assert_eq!(status, 1, "{out}\n{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["ok"], false);
    assert!(err.starts_with("muster: not ok: "), "{err}");
    Some((report, err))
}

#[test]
fn another_group_name_is_not_ok() {
    let Some((report, err)) = sabotaged("group-name") else { return };
    assert!(report["formed_ms"].is_null());
    assert!(err.contains("charlie-1: 1 members"), "{err}");
}

#[test]
fn a_clear_packet_is_not_ok() {
    let Some((report, err)) = sabotaged("clear-packet") else { return };
    assert_eq!(report["black"]["cleartext"], 1);
    assert_eq!(report["multicast"]["received_min"], 200);
    assert!(err.contains("ff1e::1234"), "{err}");
}

#[test]
fn a_router_that_delivers_nothing_is_not_ok() {
    let Some((report, err)) = sabotaged("no-sa") else { return };
    assert_eq!(report["multicast"]["received_min"], 0);
    assert!(err.contains("0 of 200") && err.contains("behind bravo-1"), "{err}");
}

#[test]
fn a_router_that_is_not_excluded_is_not_ok() {
    let Some((report, err)) = sabotaged("no-exclusion") else { return };
    assert_eq!(report["leave"]["excluded"], false);
    assert_eq!(report["multicast"]["received_min"], 200);
    assert!(err.contains("3 members"), "{err}");
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    if skip("an_interrupted_demo_leaves_nothing_behind") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut demo = start_in(folder.path());
    let mut told = String::new();
    // Once the first daemons are there.
    while !told.contains("daemons started") {
        let mut byte = [0];
        assert_eq!(demo.stdout.as_mut().unwrap().read(&mut byte).unwrap(), 1, "{told}");
        told.push(byte[0].into());
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let begun = Instant::now();
    kill(Pid::from_raw(demo.id() as i32), Signal::SIGINT).unwrap();
    let demo = ran(demo.wait_with_output().unwrap());
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(demo.status, 1);
    assert!(demo.out.ends_with("not ok: interrupted\n"), "{}", demo.out);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(!a_daemon_runs(folder.path()));
}

#[test]
fn what_is_kept_can_be_looked_at() {
    if skip("what_is_kept_can_be_looked_at") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let demo = muster().args(["demo", "--routers", "2", "--keep"]).env("TMPDIR", folder.path()).output().unwrap();
    let demo = ran(demo);
    let kept = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    assert!(demo.err.contains(kept.to_str().unwrap()), "{}", demo.err);
    demo.done();
    for file in ["black.pcap", "alpha-ca.pem", "alpha-1/muster.toml", "bravo-1/muster.log"] {
        assert!(std::fs::metadata(kept.join(file)).unwrap().len() > 24, "{file}");
    }
}

fn start_in(folder: &std::path::Path) -> Child {
    let mut command = muster();
    command.args(["demo", "--routers", "3"]).env("TMPDIR", folder);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Whether a process has a configuration in `folder`.
fn a_daemon_runs(folder: &std::path::Path) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.into_iter().any(|line| String::from_utf8_lossy(&line).contains(folder.to_str().unwrap()))
}
