//! What operators see.

use std::time::Duration;

use muster_netlab::Frame;
use muster_netns_tests::{Answer, Central, Family, ISAKMP, Lab, METRICS, metric, scrape, skip, wait_until};

use crate::scenes::{group, red_group, vpn};

#[test]
fn commands_tell_what_there_is() {
    if skip("commands_tell_what_there_is") {
        return;
    }
    let mut lab = Central::new(Family::V4, 3);
    lab.configure_gcks(&(group(&lab, "one", 1, &[0, 1, 2]) + &vpn(&lab, 1, [0, 1])));
    // A secret that is not the one.
    let right = std::fs::read_to_string(lab.path(&format!("{}.psk", lab.name(2)))).expect("it is there");
    lab.start_gcks();
    assert!(wait_until(Duration::from_secs(5), || lab.call_gcks("status").is_some()), "{}", lab.log("gcks"));
    lab.write_private(&format!("{}.psk", lab.name(2)), "not the secret that they share\n");
    (0..3).for_each(|client| lab.start(client));
    lab.wait_for_connected(&[0, 1]);
    lab.carry(0, &[1], &[2], red_group(1, true), 20);
    lab.carry(0, &[1], &[], lab.host(1, true), 20);
    let status = lab.call(2, "status").expect("it answers");
    assert_eq!((&status["state"], &status["dataplane"]["sas"]), (&"connecting".into(), &0.into()), "{status}");

    let (one, two) = (lab.name(0), lab.name(1));
    let clients = told(lab.ask_gcks(&["clients"]));
    assert!(clients.lines().any(|line| line.contains(&one) && line.contains("connected")), "{clients}");
    assert!(clients.lines().any(|line| line.contains(&lab.name(2)) && line.contains("away")), "{clients}");
    let groups = lab.ask_gcks(&["groups", "--json"]).json();
    assert_eq!(
        (&groups[0]["name"], groups[0]["present"].as_array().map(Vec::len)),
        (&"one".into(), Some(2)),
        "{groups}"
    );
    assert!(told(lab.ask_gcks(&["groups"])).contains("239.10.0.1"));
    assert!(told(lab.ask_gcks(&["vpns"])).contains(&two));
    assert!(told(lab.ask_gcks(&["status"])).contains("3, 2 connected"));
    assert!(told(lab.ask_gcks(&["events"])).contains("connected"));
    for wrong in [&["push", "--group", "none"][..], &["exclude", "nobody"], &["admit", &one, "nobody"]] {
        let answer = lab.ask_gcks(wrong);
        assert!(answer.status == 1 && answer.stderr.contains("there is no"), "{answer:?}");
    }
    for command in ["status", "members", "neighbors", "routes", "sas", "events"] {
        let (text, json) = (told(lab.ask(0, &[command])), told(lab.ask(0, &[command, "--json"])));
        assert!(!text.is_empty() && !json.is_empty(), "{command}");
    }
    let status = told(lab.ask(0, &["status"]));
    assert!(status.contains(&format!("{}:{ISAKMP}, for ", lab.black_address(3))), "{status}");
    assert!(!status.contains("manager") && status.contains("last failure   none"), "{status}");
    assert!(told(lab.ask(0, &["members"])).contains("muster gcks clients"));
    let routes = told(lab.ask(0, &["routes"]));
    assert!(routes.contains(&lab.black_address(1).to_string()), "{routes}");
    let status = lab.ask(0, &["status", "--json"]).json();
    assert_eq!((&status["state"], &status["group"]["mode"]), (&"connected".into(), &"centralised".into()), "{status}");
    wait_for_its_sas_alone(&lab);
    assert!(lab.ask(0, &["rekey"]).stderr.contains("muster gcks push"));
    for secret in [right.as_str(), "not the secret that they share"] {
        for log in ["gcks".to_owned(), lab.name(2)] {
            assert!(!lab.log(&log).contains(secret.trim()), "{log}");
        }
    }
    let answer = lab.ask(0, &["leave"]);
    assert_eq!(answer.status, 0, "{answer:?}");
    lab.assert_black_is_sound();
}

/// Both ends tell Prometheus what goes on; the address follows a reload.
#[test]
fn prometheus_is_told_at_both_ends() {
    if skip("prometheus_is_told_at_both_ends") {
        return;
    }
    let mut lab = Central::new(Family::V6, 3);
    let profiles = group(&lab, "one", 1, &[0, 1, 2]) + &vpn(&lab, 1, [0, 1]);
    let section = format!("[metrics]\nlisten = \"{METRICS}\"\n");
    lab.configure_gcks(&(profiles.clone() + &section));
    (0..2).for_each(|client| lab.configure(client, &section));
    lab.start_gcks();
    (0..2).for_each(|client| lab.start(client));
    lab.wait_for_connected(&[0, 1]);
    lab.carry(0, &[1], &[], red_group(1, false), 20);
    wait_for_its_sas_alone(&lab);
    let at = |router: usize| scrape(&lab.coalition.routers()[router].namespace);
    let value = |router: usize, name: &str| metric(&at(router).expect("it answers"), &format!("muster_{name}"));
    const GCKS: usize = 3;
    for (router, name, expected) in [
        (GCKS, "serving", 1.0),
        (GCKS, "clients{state=\"connected\"}", 2.0),
        (GCKS, "clients{state=\"away\"}", 1.0),
        (GCKS, "clients{state=\"lapsed\"}", 0.0),
        (GCKS, "clients{state=\"excluded\"}", 0.0),
        (GCKS, "registrations_total", 2.0),
        (GCKS, "exclusions_total", 0.0),
        (GCKS, "half_open", 0.0),
        (GCKS, "half_open_displaced_total", 0.0),
        (GCKS, "store_failures_total", 0.0),
        (GCKS, "events_total{event=\"connected\"}", 2.0),
        (0, "connected", 1.0),
        (0, "groups", 1.0),
        (0, "registrations_total", 1.0),
        (0, "dataplane_sas", 6.0),
        (0, "dataplane_sas_by_direction{direction=\"out\"}", 4.0),
        (0, "dataplane_sas_by_direction{direction=\"in\"}", 2.0),
    ] {
        assert_eq!(value(router, name), Some(expected), "{name} in\n{:?}", at(router));
    }
    let [rekeys, stored] = ["rekeys_total", "store_transactions_total"].map(|name| value(GCKS, name).expect(name));
    assert!(rekeys >= 1.0 && stored >= 2.0, "{rekeys} {stored}");
    assert!(value(0, "dataplane_packets_total{direction=\"out\"}").is_some_and(|sent| sent >= 20.0));

    // New keys, and what is refused: from who is no client, and what is no message from one that is.
    let taken = value(0, "rekeys_total").expect("a count");
    lab.order(&["push"]);
    lab.wait(Duration::from_secs(10), "new keys", || {
        value(0, "rekeys_total").is_some_and(|now| now > taken) && value(GCKS, "rekeys_total") == Some(rekeys + 1.0)
    });
    assert!(value(GCKS, "store_transactions_total").is_some_and(|now| now > stored));
    // The head of a first message: cookies, SA, version 1.0, main mode, flags, message id, length.
    let first = [&[7; 8][..], &[0; 8], &[1, 0x10, 2, 0, 0, 0, 0, 0, 0, 0, 0, 28]].concat();
    for (router, reason, datagram) in [(GCKS, "unknown_address", &first), (2, "malformed", &vec![0xff; 28])] {
        let to = std::net::SocketAddr::new(lab.black_address(GCKS), ISAKMP);
        let from = std::net::SocketAddr::new(lab.black_address(router), 0);
        let send = || std::net::UdpSocket::bind(from).and_then(|socket| socket.send_to(datagram, to));
        let name = format!("datagrams_refused_total{{reason=\"{reason}\"}}");
        let counted = || value(GCKS, &name).unwrap_or_default();
        let (before, mut is_sent) = (counted(), false);
        lab.wait(Duration::from_secs(5), &name, || {
            // Once, but for what a sky loses.
            if !is_sent || Lab::is_foul() {
                lab.coalition.routers()[router].namespace.run(send).expect("a namespace").expect("it is sent");
                is_sent = true;
            }
            counted() > before
        });
        assert!(Lab::is_foul() || counted() == before + 1.0, "one datagram counts once");
    }

    lab.order(&["exclude", &lab.name(1)]);
    let groups = lab.ask_gcks(&["groups", "--json"]).json();
    assert_eq!(groups[0]["excluded"], serde_json::json!([lab.name(1)]), "{groups}");
    assert_eq!((value(GCKS, "exclusions_total"), value(GCKS, "clients{state=\"excluded\"}")), (Some(1.0), Some(1.0)));
    lab.wait(Duration::from_secs(10), "an end of the connection", || value(1, "connected") == Some(0.0));

    lab.configure(0, "");
    let reloaded = told(lab.ask(0, &["reload"]));
    assert!(reloaded.contains("metrics.listen") && at(0).is_none(), "{reloaded}");
    lab.configure_gcks(&profiles);
    assert!(told(lab.ask_gcks(&["reload"])).contains("metrics.listen") && at(GCKS).is_none());

    // What a reload does not take it refuses, at both ends, and what cannot be.
    let router = format!("{}.toml", lab.name(0));
    for (log, why) in
        [("level = \"loud\"", "log.level"), ("level = \"debug\"\nformat = \"json\"", "log.format: needs a restart")]
    {
        for name in ["gcks.toml", &router] {
            let before = std::fs::read_to_string(lab.path(name)).expect("a configuration");
            lab.write_private(name, &before.replace("level = \"debug\"", log));
            let refused = if name == "gcks.toml" { lab.reload_gcks() } else { lab.ask(0, &["reload"]) };
            assert!(refused.status == 1 && refused.stderr.contains(why), "{name}: {refused:?}");
            lab.write_private(name, &before);
        }
    }
    assert_eq!(told(lab.reload_gcks()), "nothing has changed\n");
    lab.assert_black_is_sound();
}

/// Port 500 is IKE's: it is used where the operator says so, who is told of it at both ends.
#[test]
fn port_500_is_used_and_remarked_on() {
    if skip("port_500_is_used_and_remarked_on") {
        return;
    }
    let mut lab = Central::new(Family::V4, 2);
    lab.extend_gcks("port = 500\n");
    lab.configure_gcks(&group(&lab, "one", 1, &[0, 1]));
    (0..2).for_each(|client| lab.configure(client, "port = 500"));
    lab.start_gcks();
    (0..2).for_each(|client| lab.start(client));
    lab.wait_for_connected(&[0, 1]);
    lab.carry(0, &[1], &[], red_group(1, true), 20);
    let remarks = |log: &str| {
        lab.log(log).lines().filter(|line| line.contains("WARN") && line.contains("port 500 is IKE's")).count()
    };
    for log in ["gcks", &lab.name(0), &lab.name(1)] {
        assert_eq!(remarks(log), 1, "{}", lab.log(log));
    }
    // Again, where the configuration is read again.
    lab.order(&["reload"]);
    told(lab.ask(0, &["reload"]));
    assert_eq!(["gcks", &lab.name(0), &lab.name(1)].map(remarks), [2, 2, 1]);
    // The capture knows the usual port alone.
    let is_ike =
        |frame: &Frame| frame.bytes.get(23) == Some(&17) && frame.bytes.get(34..38) == Some(&[1, 0xf4, 1, 0xf4]);
    lab.assert_black_is_sound_but(is_ike);
}

/// Of the first client: two flows are sent, two VPNs both ways, whose keys are made anew as the second end comes.
fn wait_for_its_sas_alone(lab: &Central) {
    lab.wait(Duration::from_secs(10), "its SAs alone", || {
        let unicast = (lab.sends(0, "unicast").len(), lab.receives(0, "unicast").len());
        (lab.sends(0, "group").len(), unicast) == (2, (2, 2))
    });
}

fn told(answer: Answer) -> String {
    assert_eq!(answer.status, 0, "{answer:?}");
    answer.stdout
}
