//! What the operator does to a running daemon: reload, renew, watch.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use muster_netns_tests::{Lab, METRICS, carry, carry_past, skip};
use nix::sys::signal::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);

/// The details of a router's events of this name, in order.
fn events(lab: &Lab, router: usize, name: &str) -> Vec<String> {
    let answer = lab.ask(router, &["events", "--json"]);
    let lines = answer.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("an event"));
    lines.filter(|event| event["event"] == name).map(|event| event["detail"].as_str().unwrap().to_owned()).collect()
}

/// Tells a daemon to read everything again, and waits until it says what came of it.
fn reload(lab: &mut Lab, router: usize, outcome: &str) -> String {
    let before = events(lab, router, outcome).len();
    lab.signal(router, Signal::SIGHUP);
    lab.wait(SOON, &format!("{outcome} at {router}"), || events(lab, router, outcome).len() > before);
    events(lab, router, outcome).pop().unwrap()
}

fn scrape(lab: &Lab, router: usize) -> Option<String> {
    muster_netns_tests::scrape(&lab.coalition.routers()[router].namespace)
}

fn metric(page: &str, name: &str) -> f64 {
    muster_netns_tests::metric(page, name).unwrap_or_else(|| panic!("no {name} in\n{page}"))
}

#[test]
fn what_can_change_changes_without_a_rekey() {
    if skip("what_can_change_changes_without_a_rekey") {
        return;
    }
    let mut lab = Lab::group(3);
    let before = lab.state(0).unwrap();
    assert_eq!(reload(&mut lab, 0, "reloaded"), "nothing has changed");
    let by_command = lab.ask(0, &["reload"]);
    assert_eq!((by_command.status, by_command.stdout.as_str()), (0, "nothing has changed\n"), "{}", by_command.stderr);
    assert!(scrape(&lab, 0).is_none());

    let interval = Lab::hello_interval() * 8 / 5;
    let organisation = lab.get(1, "members")[0]["organisation"].as_str().unwrap().to_owned();
    lab.configure(0, |text| {
        Lab::set_hello_interval(text, interval);
        *text = text.replace("prefixes = [", "prefixes = [\"2001:db8:9999::/64\", ");
        text.push_str(&format!(
            "[log]\nlevel = \"debug\"\n[metrics]\nlisten = \"{METRICS}\"\n[trust.\"{organisation}\"]\nprefixes = []\n"
        ));
    });
    let changed = reload(&mut lab, 0, "reloaded");
    assert_eq!(changed, "discovery.hello_interval, red.prefixes, trust, log.level, metrics.listen");

    // The others see the interval and the prefix.
    let name = lab.name(0);
    let line = |lab: &Lab, what: &str| {
        let lines = lab.get(1, what);
        lines.as_array().unwrap().iter().find(|line| line["name"] == name.as_str()).unwrap().clone()
    };
    lab.wait(SOON, "the new interval", || line(&lab, "neighbors")["hello_interval_ms"] == interval.as_millis() as u64);
    lab.wait(SOON, "the new prefix", || line(&lab, "members")["prefixes"].to_string().contains("2001:db8:9999::/64"));
    assert!(scrape(&lab, 0).unwrap().contains("muster_group_members 3\n"));
    assert_eq!(lab.state(0).unwrap(), before, "no rekey");
    lab.wait_for_group(&[0, 1, 2]);

    // And back: nobody listens any more.
    lab.configure_as_usual(0);
    reload(&mut lab, 0, "reloaded");
    assert!(scrape(&lab, 0).is_none());
    lab.wait(SOON, "the old prefixes", || !line(&lab, "members")["prefixes"].to_string().contains("9999"));
    carry(&lab, 0, &[1, 2], 50);
    assert_eq!(lab.state(0).unwrap(), before, "no rekey");
}

#[test]
fn what_is_wrong_is_refused_whole() {
    if skip("what_is_wrong_is_refused_whole") {
        return;
    }
    let mut lab = Lab::group(2);
    let before = lab.state(0).unwrap();
    let with_metrics = format!("[metrics]\nlisten = \"{METRICS}\"\n");
    lab.configure(0, |text| {
        *text = text.replace("name = \"coalition\"", "name = \"another\"");
        *text = text.replace("[discovery]", "[discovery]\nport = 5000");
        text.push_str(&with_metrics);
    });
    assert_eq!(reload(&mut lab, 0, "reload_refused"), "discovery.port, group.name: needs a restart");
    let by_command = lab.ask(0, &["reload"]);
    assert_eq!(by_command.status, 1);
    assert!(by_command.stderr.contains("discovery.port, group.name: needs a restart"), "{}", by_command.stderr);
    lab.configure(0, |text| text.push_str("[log]\nlevel = \"loud\"\n"));
    assert!(reload(&mut lab, 0, "reload_refused").contains("log.level"));
    lab.configure(0, |text| {
        *text = text.replace("trust_anchors = [", "trust_anchors = [\"no-such-ca.pem\", ");
        text.push_str(&with_metrics);
    });
    assert!(reload(&mut lab, 0, "reload_refused").contains("no-such-ca.pem"));
    // Not the own nation's root: nobody would be left who trusts us, we ourselves not either.
    let nation = lab.coalition.routers()[0].plan.nation.name;
    let other = lab.coalition.routers()[1].plan.nation.name;
    lab.configure(0, |text| *text = text.replace(&format!("\"{nation}/ca.pem\""), &format!("\"{other}/ca.pem\"")));
    assert!(reload(&mut lab, 0, "reload_refused").contains("the own certificate"));
    // An address that is not ours.
    lab.configure(0, |text| text.push_str("[metrics]\nlisten = \"192.0.2.1:1\"\n[log]\nlevel = \"trace\"\n"));
    assert!(reload(&mut lab, 0, "reload_refused").contains("192.0.2.1:1"));

    assert!(scrape(&lab, 0).is_none(), "no part of it was taken");
    assert!(!lab.log(0).contains("DEBUG") && !lab.log(0).contains("TRACE"), "{}", lab.log(0));
    assert!(lab.log(0).contains("WARN muster_bridge::report: event=\"reload_refused\""), "{}", lab.log(0));
    assert_eq!(lab.state(0).unwrap(), before);
    assert!(lab.is_group(&[0, 1]));
}

#[test]
fn a_revocation_list_that_is_reloaded_expels_the_device() {
    if skip("a_revocation_list_that_is_reloaded_expels_the_device") {
        return;
    }
    let mut lab = Lab::group(3);
    let victim = 2;
    let nation = lab.coalition.routers()[victim].plan.nation.name;
    lab.pki(&["revoke", lab.path(nation).to_str().unwrap(), "--name", &lab.name(victim)]);
    // On one router: the other learns of it.
    lab.configure(0, |text| {
        *text = text.replace("control = ", &format!("crls = [\"{nation}/crl.pem\"]\ncontrol = "));
    });
    assert_eq!(reload(&mut lab, 0, "reloaded"), "device.crls");
    lab.wait_for_group(&[0, 1]);
    carry_past(&lab, 0, &[1], &[victim], 50);
    let neighbors = lab.get(0, "neighbors");
    let refused = neighbors.as_array().unwrap().iter().find(|neighbor| neighbor["state"] == "refused");
    assert!(refused.is_some_and(|neighbor| neighbor["reason"].as_str().unwrap().contains("revoked")), "{neighbors}");
}

#[test]
fn a_machine_that_was_rolled_back_starts_anew() {
    if skip("a_machine_that_was_rolled_back_starts_anew") {
        return;
    }
    let mut lab = Lab::group(3);
    let manager = lab.manager(0);
    let other = (0..3).find(|router| *router != manager).unwrap();
    for router in [other, manager] {
        let (process, before) = (lab.process(router), lab.state(router).unwrap());
        let keys: Vec<String> = keys_of(&lab, router);
        let namespace = &lab.coalition.routers()[router].namespace;
        // Of another device, and asked for by who may write to /sys: nothing.
        namespace.announce("change@/devices/x", &["ACTION=change", "SYNTH_ARG_NEW_VMGENID=1"]).unwrap();
        namespace.announce("change@/devices/x", &["ACTION=change", "NEW_VMGENID=1"]).unwrap();
        lab.wait(SOON, "it to notice", || events(&lab, router, "rolled_back").len() == 1);
        lab.wait(SOON, "another process's start", || events(&lab, router, "started").len() == 2);
        lab.wait_for_group(&[0, 1, 2]);
        assert!(lab.runs(router) && lab.process(router) == process);
        assert_ne!(lab.state(router).unwrap().0, before.0);
        assert!(keys_of(&lab, router).iter().all(|key| !keys.contains(key)), "no key lives on");
        // The others saw another process, not a farewell.
        assert!(events(&lab, 3 - manager - other, "leave").iter().any(|why| why == "restarted"));
    }
    carry(&lab, 0, &[1, 2], 30);
    carry(&lab, 2, &[0, 1], 30);
    lab.terminate(other);
}

/// What was lost while it stood still may have been that.
#[test]
fn a_machine_that_may_have_been_rolled_back_starts_anew() {
    if skip("a_machine_that_may_have_been_rolled_back_starts_anew") {
        return;
    }
    let mut lab = Lab::group(2);
    let tell = |lab: &Lab, event: &str| {
        let namespace = &lab.coalition.routers()[0].namespace;
        (0..4000).for_each(|_| namespace.announce(event, &["ACTION", &"x".repeat(500)]).unwrap());
    };
    for (event, starts) in [("add@/devices/x", 1), ("change@/devices/x", 2)] {
        lab.signal(0, Signal::SIGSTOP);
        tell(&lab, event);
        lab.signal(0, Signal::SIGCONT);
        lab.wait(SOON, "another process's start", || events(&lab, 0, "started").len() == starts);
        lab.wait_for_group(&[0, 1]);
        assert_eq!(events(&lab, 0, "rolled_back").len(), starts - 1, "{event}");
    }
    carry(&lab, 0, &[1], 30);
}

/// The keys of all SAs of a router.
fn keys_of(lab: &Lab, router: usize) -> Vec<String> {
    let sas = lab.ask(router, &["sas", "--show-keys", "--json"]).json();
    sas.as_array().unwrap().iter().map(|sa| sa["key"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_renewed_certificate_is_another_member_in_the_same_process() {
    if skip("a_renewed_certificate_is_another_member_in_the_same_process") {
        return;
    }
    let mut lab = Lab::new(3);
    // It ends in five days, and says so.
    let nation = lab.coalition.routers()[1].plan.nation.name;
    let folder = lab.path(nation);
    let issue = |lab: &Lab, days: &str| {
        for end in ["pem", "key"] {
            fs::remove_file(folder.join(format!("{}.{end}", lab.name(1)))).unwrap();
        }
        lab.pki(&["issue", folder.to_str().unwrap(), "--name", &lab.name(1), "--days", days]);
    };
    issue(&lab, "5");
    (0..3).for_each(|router| lab.start(router));
    lab.wait_for_group(&[0, 1, 2]);
    let status = lab.get(1, "status");
    assert_eq!(status["certificate"]["expiring"], true, "{status}");
    let day = 86_400_000;
    assert!((4 * day..=5 * day).contains(&status["certificate"]["remaining_ms"].as_u64().unwrap()), "{status}");
    lab.wait(SOON, "the warning", || events(&lab, 1, "expiring").len() == 1);
    assert!(lab.log(1).contains("WARN") && lab.log(1).contains("the own certificate ends at"), "{}", lab.log(1));
    assert_eq!(lab.get(0, "status")["certificate"]["expiring"], false);

    let (before, process) = (lab.state(0).unwrap(), lab.process(1));
    issue(&lab, "300");
    lab.signal(1, Signal::SIGHUP);
    lab.wait(SOON, "another member", || {
        let answer = lab.ask(1, &["status", "--json"]);
        serde_json::from_str::<Value>(&answer.stdout).is_ok_and(|now| now["member_id"] != status["member_id"])
    });
    lab.wait_for_group(&[0, 1, 2]);
    assert_ne!(lab.state(0).unwrap().0, before.0, "another key");
    assert!(lab.runs(1) && lab.process(1) == process);
    assert_eq!(lab.get(1, "status")["certificate"]["expiring"], false);
    assert_eq!(events(&lab, 1, "stopped").len(), 1, "one log over both");
    for from in 0..3 {
        let to: Vec<usize> = (0..3).filter(|to| *to != from).collect();
        carry(&lab, from, &to, 50);
    }
}

#[test]
fn prometheus_is_told_what_there_is() {
    if skip("prometheus_is_told_what_there_is") {
        return;
    }
    let mut lab = Lab::new(3);
    lab.configure(0, |text| text.push_str(&format!("[metrics]\nlisten = \"{METRICS}\"\n")));
    (0..3).for_each(|router| lab.start(router));
    lab.wait_for_group(&[0, 1, 2]);
    carry(&lab, 0, &[1, 2], 50);
    carry(&lab, 1, &[0], 30);
    let page = scrape(&lab, 0).unwrap();
    let status = lab.get(0, "status");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("# EOF\n"), "{page}");
    assert!(page.contains("muster_build_info{version=\""), "{page}");
    for (name, value) in [
        ("muster_group_members", 3.0),
        ("muster_group_active", 1.0),
        ("muster_group_epoch", status["group"]["epoch"].as_f64().unwrap()),
        ("muster_group_transaction_manager", f64::from(u8::from(lab.manager(0) == 0))),
        ("muster_neighbors{state=\"up\"}", 2.0),
        ("muster_neighbors{state=\"refused\"}", 0.0),
        ("muster_dataplane_sas", status["dataplane"]["sas"].as_f64().unwrap()),
        ("muster_dataplane_packets_total{direction=\"out\"}", status["dataplane"]["tx_packets"].as_f64().unwrap()),
        ("muster_dataplane_packets_total{direction=\"in\"}", status["dataplane"]["rx_packets"].as_f64().unwrap()),
        ("muster_dataplane_dropped_total{reason=\"spoofed\"}", 0.0),
        ("muster_datagrams_dropped_total{protocol=\"discovery\",reason=\"malformed\"}", 0.0),
        ("muster_events_total{event=\"started\"}", 1.0),
    ] {
        assert_eq!(metric(&page, name), value, "{name}");
    }
    assert!(metric(&page, "muster_dataplane_packets_total{direction=\"out\"}") >= 51.0);
    let uptime = metric(&page, "muster_uptime_seconds");
    assert!(uptime > 0.0 && uptime < 600.0);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    for name in ["muster_certificate_expiry_timestamp_seconds", "muster_neighbor_certificate_expiry_timestamp_seconds"]
    {
        let days = (metric(&page, name) - now) / 86_400.0;
        assert!((364.0..=366.0).contains(&days), "{name}: {days}");
    }
    for work in
        ["epochs", "commits", "claims", "joins", "recoveries", "repairs", "fills", "disputes", "refreshes", "exposures"]
    {
        metric(&page, &format!("muster_{work}_total"));
    }
    assert!(metric(&page, "muster_epochs_total") >= 2.0);
}

#[test]
fn the_service_manager_is_told() {
    if skip("the_service_manager_is_told") {
        return;
    }
    let mut lab = Lab::new(2);
    let path = lab.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Lab::patience(SOON))).unwrap();
    // Reads until a message holds the line.
    let wait_for = |line: &str| {
        let mut buffer = [0; 1024];
        let mut seen = Vec::new();
        loop {
            let length = manager.recv(&mut buffer).unwrap_or_else(|error| panic!("{line}: {error}; before: {seen:?}"));
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let found = message.lines().any(|is| is == line);
            seen.push(message);
            if found {
                return seen;
            }
        }
    };
    let config = lab.path(&format!("{}.toml", lab.name(0)));
    let mut command = Command::new(lab.program());
    command.arg("run").arg("--config").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let mut daemon = lab.coalition.routers()[0].namespace.spawn(command).unwrap();

    wait_for("READY=1");
    assert_eq!(lab.ask(0, &["status"]).status, 0, "ready means that it answers");
    lab.start(1);
    wait_for("STATUS=one of 2 members of \"coalition\", epoch 2");
    wait_for("WATCHDOG=1");
    wait_for("WATCHDOG=1");

    // A daemon that makes no progress does not say that it does.
    daemon.signal(Signal::SIGSTOP).unwrap();
    let stat = format!("/proc/{}/stat", daemon.id());
    lab.wait(SOON, "it to stand still", || fs::read_to_string(&stat).unwrap().contains(") T "));
    manager.set_nonblocking(true).unwrap();
    while manager.recv(&mut [0; 1024]).is_ok() {}
    manager.set_nonblocking(false).unwrap();
    manager.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert!(manager.recv(&mut [0; 1024]).is_err(), "two and a half intervals of silence");
    manager.set_read_timeout(Some(Lab::patience(SOON))).unwrap();
    daemon.signal(Signal::SIGCONT).unwrap();
    wait_for("WATCHDOG=1");

    daemon.signal(Signal::SIGHUP).unwrap();
    let seen = wait_for("RELOADING=1");
    assert!(seen.last().unwrap().contains("MONOTONIC_USEC="), "{seen:?}");
    wait_for("READY=1");
    daemon.signal(Signal::SIGTERM).unwrap();
    wait_for("STOPPING=1");
    let status = daemon.wait(SOON).unwrap().expect("it ends");
    assert!(status.success());
}

#[test]
fn the_log_holds_no_key_and_hostile_words_stay_in_their_line() {
    if skip("the_log_holds_no_key_and_hostile_words_stay_in_their_line") {
        return;
    }
    let mut lab = Lab::new(3);
    for router in 0..3 {
        lab.configure(router, |text| text.push_str("[log]\nlevel = \"trace\"\nformat = \"json\"\n"));
        lab.start(router);
    }
    lab.wait_for_group(&[0, 1, 2]);
    let mut secrets: Vec<String> = Vec::new();
    let mut note = |lab: &Lab| {
        for router in 0..3 {
            let sas = lab.ask(router, &["sas", "--show-keys", "--json"]).json();
            secrets.extend(sas.as_array().unwrap().iter().map(|sa| sa["key"].as_str().unwrap().to_owned()));
        }
    };
    note(&lab);
    let before = lab.state(0).unwrap().0;
    lab.ask(1, &["rekey"]);
    lab.wait(SOON, "another key", || lab.state(0).unwrap().0 != before);
    lab.wait_for_group(&[0, 1, 2]);
    carry(&lab, 0, &[1, 2], 20);
    note(&lab);
    // A configuration whose words reach the log.
    lab.configure(0, |text| {
        text.push_str("[trust.\"x\\n2026-01-01T00:00:00Z  INFO forged\\u001b[2J\"]\nprefixes = [\"nonsense\"]\n");
    });
    reload(&mut lab, 0, "reload_refused");
    for router in 0..3 {
        lab.terminate(router);
    }
    assert!(secrets.len() > 12);
    for router in 0..3 {
        let (log, plan) = (lab.log(router), &lab.coalition.routers()[router].plan);
        for line in log.lines() {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
        }
        assert!(log.contains("\"DEBUG\""), "it says what it can");
        let private = fs::read_to_string(lab.path(plan.nation.name).join(format!("{}.key", plan.name()))).unwrap();
        let private = private.lines().filter(|line| !line.starts_with('-') && !line.is_empty());
        let low = log.to_lowercase();
        for secret in &secrets {
            // Key and salt, whole or in part, also as a list of numbers.
            let bytes: Vec<String> =
                (0..8).map(|i| u8::from_str_radix(&secret[2 * i..2 * i + 2], 16).unwrap().to_string()).collect();
            assert!(!low.contains(&secret[..16]) && !low.contains(&bytes.join(", ")), "a key is in the log");
        }
        for line in private {
            assert!(!log.contains(line), "the private key is in the log");
        }
    }
}
