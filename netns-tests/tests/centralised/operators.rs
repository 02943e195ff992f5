//! What operators see.

use std::time::Duration;

use muster_netns_tests::{Answer, Central, Family, skip, wait_until};

use crate::scenes::{group, red_group, vpn};

/// What operators see.
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

    let told = |answer: Answer| {
        assert_eq!(answer.status, 0, "{answer:?}");
        answer.stdout
    };
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
    let status = lab.ask(0, &["status", "--json"]).json();
    assert_eq!((&status["state"], &status["group"]["mode"]), (&"connected".into(), &"centralised".into()), "{status}");
    // Two flows; two VPNs, both ways, whose keys are made anew as the second end comes.
    lab.wait(Duration::from_secs(10), "its SAs alone", || {
        let unicast = (lab.sends(0, "unicast").len(), lab.receives(0, "unicast").len());
        (lab.sends(0, "group").len(), unicast) == (2, (2, 2))
    });
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
