use serde_json::json;

use super::*;

#[test]
fn durations_have_two_units() {
    assert_eq!(duration(Duration::from_millis(7)), "7ms");
    assert_eq!(duration(Duration::from_millis(1700)), "1s");
    assert_eq!(duration(Duration::from_secs(3725)), "1h 2m");
    assert_eq!(duration(Duration::ZERO), "0s");
}

#[test]
fn tables_are_aligned_and_ids_short() {
    let id = "0123456789abcdef".repeat(4);
    let table = members(&json!([
        {"name": "alpha-1", "organisation": "Alpha", "member_id": id, "slot": 0, "address": null, "self": true,
         "is_transaction_manager": true, "prefixes": ["10.0.0.0/8"], "since_ms": 0},
        {"name": "bravo-1", "slot": 10, "self": false},
    ]));
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 3);
    let at = lines[0].find("NAME").unwrap();
    assert_eq!(lines[1].find("alpha-1"), Some(at));
    assert_eq!(lines[2].find("bravo-1"), Some(at));
    assert!(lines[1].contains(" 0123456789ab ") && lines[1].contains("manager, self"), "{table}");
}

#[test]
fn no_control_character_reaches_the_terminal() {
    let table = neighbors(&json!([{"name": "a\u{1b}[2Jb\nc", "last_hello_ms": 20}]));
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(!table.contains('\u{1b}'));
    assert!(!event(&json!({"detail": "\u{1b}[2J"})).contains('\u{1b}'));
}

#[test]
fn a_status_with_nothing_in_it_still_shows() {
    assert!(status(&json!({})).contains("device"));
    let shown = status(&json!({"dataplane": {"dropped": {"auth": 3, "replay": 0}}}));
    assert!(shown.lines().any(|line| line.ends_with("auth 3")), "{shown}");
    assert!(shown.contains("ends -\n") && shown.contains("stands by      no\n"), "{shown}");
    let certificate = json!({"not_after": "2026-12-01T00:00:00Z", "expiring": true});
    let shown = status(&json!({"certificate": certificate, "dataplane": {"stands_by": ["10.0.0.0/8"]}}));
    assert!(
        shown.contains("ends 2026-12-01T00:00:00Z, soon: put another") && shown.contains("multicast of 10.0.0.0/8\n"),
        "{shown}"
    );
}

#[test]
fn a_certificate_that_has_ended_ends_no_more() {
    let certificate = json!({"not_after": "2026-12-01T00:00:00Z", "expiring": true, "remaining_ms": 0});
    let shown = status(&json!({ "certificate": certificate }));
    assert!(shown.contains("ended 2026-12-01T00:00:00Z: put another one in its place\n"), "{shown}");
}

#[test]
fn what_hosts_listen_to() {
    assert!(status(&json!({})).contains("listened to    all groups, whoever listens\n"));
    let own = json!({"interface": "red0", "protocol": "mld", "querier": null, "groups": [{"group": "ff1e::1"}]});
    let other = json!({"interface": "red0", "protocol": "igmp", "querier": "10.0.0.1", "groups": []});
    let shown = status(&json!({"dataplane": {"listeners": [own, other]}}));
    assert!(shown.contains("1 groups by mld on red0; 0 groups by igmp on red0, asked by 10.0.0.1\n"), "{shown}");
}

#[test]
fn with_a_key_server_nobody_has_a_member_id() {
    let shown = sas(&json!([{"sender": "0".repeat(64)}]), false);
    assert!(!shown.contains("000"), "{shown}");
}

#[test]
fn keys_show_only_when_asked_for() {
    let answer = json!([{"spi": 255, "key": "c0ffee", "algorithm": "AES-GCM-256"}]);
    assert!(!sas(&answer, false).contains("c0ffee"));
    assert!(sas(&answer, true).contains("c0ffee") && sas(&answer, true).contains("0x000000ff"));
}

#[test]
fn what_goes_unprotected_and_what_was_refused() {
    assert!(!status(&json!({})).contains("unprotected"), "of clients of a key server alone");
    let shown = status(&json!({"bypass": {"granted": [], "refused": []}, "group": {"mode": "centralised"}}));
    assert!(shown.contains("unprotected    nothing") && shown.contains("without SAs    nothing"), "{shown}");
    let bypass = json!({"granted": ["a", "b"], "refused": [{"selector": "c", "reason": "no"}]});
    let shown = status(&json!({"bypass": bypass, "group": {"mode": "centralised", "stopped": ["d"]}}));
    assert!(shown.contains("a, b; refused c: no") && shown.contains("without SAs    d"), "{shown}");
}

#[test]
fn with_a_key_server_it_shows_that_and_nothing_of_the_mesh() {
    let group = json!({"mode": "centralised", "epoch": 3, "flows": 2,
        "groups": [{"rekey_address": "239.255.1.1", "rekey_port": 848}]});
    let failure = json!({"reason": "silent", "detail": "no answer", "at_ms": 1});
    let mut answer = json!({"device": "hub", "state": "connecting", "gcks": "192.0.2.9:848", "group": group,
        "last_failure": failure, "dataplane": {"sas": 6}});
    let shown = status(&answer);
    assert!(shown.contains("ago: no answer") && shown.contains("1, new keys at 239.255.1.1 port 848\n"), "{shown}");
    for of_the_mesh in ["member id", "manager", "members", "stands by", "revocations", "(-)", "certificate"] {
        assert!(!shown.lines().any(|line| line.starts_with(of_the_mesh) || line.ends_with("(-)")), "{shown}");
    }
    answer["connected_since_ms"] = 1.into();
    assert!(status(&answer).contains("192.0.2.9:848, for "), "{}", status(&answer));
    answer["connected_since_ms"] = json!(null);
    answer["heard_ms"] = 5000.into();
    assert!(status(&answer).contains("192.0.2.9:848, heard 5s ago"), "{}", status(&answer));
    answer["last_failure"] = json!(null);
    assert!(status(&answer).contains("last failure   none\n"));

    let shown = members(&json!([{"mode": "centralised", "name": "hub", "prefixes": ["10.1.0.0/16"]}]));
    assert!(
        shown.contains("10.1.0.0/16") && shown.contains("muster gcks clients") && !shown.contains("SLOT"),
        "{shown}"
    );
    let shown = routes(&json!([{"prefix": "10.2.0.0/16", "address": "192.0.2.2", "selector": "all of it"}]));
    assert!(shown.contains("192.0.2.2") && shown.contains("all of it") && !shown.contains("MEMBER"), "{shown}");
}
