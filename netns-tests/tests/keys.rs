//! An independent reader decrypts the ESP with the exported keys, and an excluded member's keys open nothing later.

use std::collections::BTreeSet;

use muster_netns_tests::{Lab, carry, carry_unicast, no_tshark, skip, tshark};
use serde_json::Value;

/// The rows of tshark's table of ESP SAs for the inbound and outbound SAs of a router.
fn rows(sas: &Value) -> Vec<String> {
    let row = |sa: &Value| {
        format!(
            "uat:esp_sa:\"IPv6\",\"*\",\"*\",\"0x{:08x}\",\"AES-GCM with 16 octet ICV [RFC4106]\",\"0x{}\",\"NULL\",\"\"",
            sa["spi"].as_u64().unwrap(),
            sa["key"].as_str().unwrap()
        )
    };
    sas.as_array().unwrap().iter().map(row).collect()
}

/// How many UDP datagrams of red traffic tshark sees in the capture, given these keys.
fn decrypted(lab: &Lab, rows: &BTreeSet<String>) -> usize {
    let mut arguments = vec!["-o", "esp.enable_encryption_decode:TRUE"];
    for row in rows {
        arguments.extend(["-o", row]);
    }
    arguments.extend(["-Y", "esp && udp.dstport == 5000", "-T", "fields", "-e", "frame.number"]);
    tshark(lab, &arguments).len()
}

#[test]
fn tshark_decrypts_with_the_exported_keys() {
    if skip("tshark_decrypts_with_the_exported_keys") || no_tshark("tshark_decrypts_with_the_exported_keys") {
        return;
    }
    let lab = Lab::group(3);
    for from in 0..3 {
        let to: Vec<usize> = (0..3).filter(|to| *to != from).collect();
        carry(&lab, from, &to, 40);
    }
    for ipv4 in [false, true] {
        carry_unicast(&lab, 0, 1, ipv4, 30);
        carry_unicast(&lab, 1, 2, ipv4, 30);
        carry_unicast(&lab, 0, 2, ipv4, 30);
    }
    let keys = rows(&lab.ask(1, &["sas", "--show-keys", "--json"]).json()).into_iter().collect();
    assert_eq!(decrypted(&lab, &BTreeSet::new()), 0, "without keys nothing is read");
    assert_eq!(decrypted(&lab, &keys), 3 * 82 + 4 * 31, "all but what the two others say to each other");
}

#[test]
fn an_excluded_member_reads_what_was_and_nothing_that_comes() {
    let test = "an_excluded_member_reads_what_was_and_nothing_that_comes";
    if skip(test) || no_tshark(test) {
        return;
    }
    let mut lab = Lab::group(4);
    let victim = (0..4).find(|router| *router != lab.manager(0)).unwrap();
    let rest: Vec<usize> = (0..4).filter(|router| *router != victim).collect();
    carry(&lab, rest[0], &rest[1..], 50);
    let keys: BTreeSet<String> = rows(&lab.ask(victim, &["sas", "--show-keys", "--json"]).json()).into_iter().collect();
    lab.kill(victim);
    lab.wait_for_group(&rest);
    carry(&lab, rest[0], &rest[1..], 70);
    assert_eq!(decrypted(&lab, &keys), 2 * 51, "all before the exclusion, none after");
}

#[test]
fn keys_are_shown_only_where_allowed() {
    if skip("keys_are_shown_only_where_allowed") {
        return;
    }
    let mut lab = Lab::new(1);
    lab.configure(0, |text| *text = text.replace("allow_key_export = true", ""));
    lab.start(0);
    lab.wait_for_group(&[0]);
    let answer = lab.ask(0, &["sas", "--show-keys"]);
    assert_eq!(answer.status, 1);
    assert!(answer.stderr.contains("allow_key_export"), "{answer:?}");
}
