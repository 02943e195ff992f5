//! Clients that show certificates, beside such as share a secret.

use std::time::Duration;

use muster_netns_tests::{Authority, Central, Family, KeyKind, skip};

use crate::scenes::{HUB, group, red_group, vpn, wait_for_other_keys};

/// A certificate and its key, as files of this name.
fn issue(lab: &Central, authority: &Authority, file: &str, name: &str, kind: KeyKind, serial: u64) {
    let (certificate, key) = authority.issue(name, kind, serial);
    lab.write_private(&format!("{file}.pem"), &certificate);
    lab.write_private(&format!("{file}.key"), &key);
}

/// Has a client of this identity show the certificate of a file.
fn certify(lab: &mut Central, client: usize, identity: &str, shown: (&str, &str)) {
    let (file, as_whom) = shown;
    lab.certify(
        client,
        identity,
        &format!(
            "certificate = \"{file}.pem\"\nprivate_key = \"{file}.key\"\ntrust_anchors = [\"ca.pem\"]\n\
             local_identity = \"{as_whom}\""
        ),
    );
}

/// ECDSA, RSA and a secret, side by side. Another's certificate, or one of an unknown authority, does not do; one that is taken
/// back takes its client out, and a new one lets it in.
#[test]
fn certificates_show_who_is_who_beside_secrets() {
    if skip("certificates_show_who_is_who_beside_secrets") {
        return;
    }
    const ECDSA: usize = 1;
    const RSA: usize = 2;
    const THIEF: usize = 3;
    const STRANGER: usize = 4;
    let mut lab = Central::new(Family::V6, 5);
    let (ours, theirs) = (Authority::new(), Authority::new());
    lab.write_private("ca.pem", &ours.pem);
    let gcks = lab.black_address(5).to_string();
    issue(&lab, &ours, "gcks-ecdsa", &gcks, KeyKind::Ecdsa, 1);
    issue(&lab, &ours, "gcks-rsa", &gcks, KeyKind::Rsa, 2);
    issue(&lab, &ours, "ecdsa", "ecdsa.example", KeyKind::Ecdsa, 3);
    issue(&lab, &ours, "rsa", "rsa.example", KeyKind::Rsa, 4);
    issue(&lab, &theirs, "stranger", "stranger.example", KeyKind::Ecdsa, 5);
    certify(&mut lab, ECDSA, "ecdsa.example", ("ecdsa", "ecdsa.example"));
    certify(&mut lab, RSA, "rsa.example", ("rsa", "rsa.example"));
    certify(&mut lab, THIEF, "thief.example", ("ecdsa", "ecdsa.example"));
    certify(&mut lab, STRANGER, "stranger.example", ("stranger", "stranger.example"));
    lab.extend_gcks(
        "certificate = [\"gcks-ecdsa.pem\", \"gcks-rsa.pem\"]\n\
         private_key = [\"gcks-ecdsa.key\", \"gcks-rsa.key\"]\ntrust_anchors = [\"ca.pem\"]\n",
    );
    let profiles = group(&lab, "one", 1, &[HUB, ECDSA, RSA, THIEF, STRANGER]) + &vpn(&lab, 1, [ECDSA, RSA]);
    lab.configure_gcks(&profiles);
    lab.start_gcks();
    (0..5).for_each(|client| lab.start(client));
    lab.wait_for_connected(&[HUB, ECDSA, RSA]);
    let reason = |lab: &Central, client: usize| lab.state_of(client).map(|state| state["reason"].clone());
    lab.wait(Duration::from_secs(20), "refusals", || {
        let identity = reason(&lab, THIEF) == Some("refused: another identity than expected".into());
        identity && reason(&lab, STRANGER) == Some("refused: certificate: unknown issuer".into())
    });
    let outside = [THIEF, STRANGER];
    for ipv4 in [false, true] {
        lab.carry(HUB, &[ECDSA, RSA], &outside, red_group(1, ipv4), 50);
        lab.carry(ECDSA, &[RSA], &[], lab.host(RSA, ipv4), 20);
    }
    for client in outside {
        let status = lab.call(client, "status").expect("it answers");
        assert_eq!((&status["state"], &status["dataplane"]["sas"]), (&"connecting".into(), &0.into()), "{status}");
    }

    let before = lab.sends(HUB, "group");
    // The first list that there is.
    lab.write_private("crl.pem", &ours.revoke(&[3]));
    lab.extend_gcks("crls = [\"crl.pem\"]\n");
    lab.configure_gcks(&profiles);
    lab.hang_up_gcks();
    wait_for_other_keys(&lab, &before, || lab.sends(HUB, "group"));
    lab.carry(HUB, &[RSA], &[ECDSA, THIEF, STRANGER], red_group(1, false), 50);
    let events = lab.ask_gcks(&["events"]).stdout;
    let gone = format!("{} has lost access: its certificate: revoked", lab.name(ECDSA));
    assert!(events.contains(&gone) && events.contains("gcks.crls"), "{events}");
    let state = lab.state_of(ECDSA).expect("it is a client");
    assert_eq!((&state["state"], &state["reason"]), (&"lapsed".into(), &"its certificate: revoked".into()), "{state}");
    let text = lab.ask_gcks(&["clients"]).stdout;
    assert!(text.lines().any(|line| line.contains("lapsed") && line.ends_with("its certificate: revoked")), "{text}");

    issue(&lab, &ours, "ecdsa", "ecdsa.example", KeyKind::Ecdsa, 6);
    let reloaded = lab.ask(ECDSA, &["reload"]);
    assert!(reloaded.status == 0 && reloaded.stdout.contains("gcks.certificate"), "{reloaded:?}");
    lab.wait_for_connected(&[ECDSA]);
    assert_eq!(reason(&lab, ECDSA), Some(serde_json::Value::Null));
    lab.carry(HUB, &[ECDSA, RSA], &outside, red_group(1, false), 50);
    lab.carry(RSA, &[ECDSA], &[], lab.host(ECDSA, false), 20);

    // From a secret to a certificate, and back: a reload of both ends.
    issue(&lab, &ours, "hub", "hub.example", KeyKind::Ecdsa, 7);
    for is_certified in [true, false] {
        match is_certified {
            true => certify(&mut lab, HUB, "hub.example", ("hub", "hub.example")),
            false => lab.share_secret(HUB),
        }
        lab.configure_gcks(&profiles);
        let before = lab.sends(HUB, "group");
        assert_eq!(lab.reload_gcks().status, 0);
        let reloaded = lab.ask(HUB, &["reload"]);
        let keys = "gcks.certificate\ngcks.trust_anchors\ngcks.secret_file\ngcks.local_identity\n";
        assert!(reloaded.status == 0 && reloaded.stdout == keys, "{reloaded:?}");
        wait_for_other_keys(&lab, &before, || lab.sends(HUB, "group"));
        lab.carry(HUB, &[ECDSA, RSA], &outside, red_group(1, false), 50);
    }
    lab.assert_black_is_sound();
}
