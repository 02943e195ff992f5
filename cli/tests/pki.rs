//! A nation's certificates, made by the command line and used by the library.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use common::run;
use muster_certs::{CertError, Device, TrustStore, certificates_from_pem, crls_from_pem};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Whether the device in `folder` is trusted under the root and list in `nation`.
fn validate(nation: &Path, folder: &Path, device: &str) -> Result<String, CertError> {
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let device =
        Device::from_pem(&read(&folder.join(format!("{device}.pem"))), &read(&folder.join(format!("{device}.key"))))?;
    let anchors = certificates_from_pem(&read(&nation.join("ca.pem")))?;
    let lists = crls_from_pem(&read(&nation.join("crl.pem")))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let identity = TrustStore::new(anchors, lists)?.validate(&device.chain, now)?;
    Ok(format!("{} of {}", identity.name, identity.organisation))
}

#[test]
fn a_device_is_issued_trusted_and_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let nation = folder.path().join("made/on/the/way");
    run(["pki", "init", text(&nation), "--name", "Alpha"]).done();
    assert_eq!(mode(&nation.join("ca.key")), 0o600);
    run(["pki", "issue", text(&nation), "--name", "alpha-1"]).done();
    assert_eq!(mode(&nation.join("alpha-1.key")), 0o600);
    run(["pki", "issue", text(&nation), "--name", "alpha-2"]).done();
    assert_eq!(validate(&nation, &nation, "alpha-1").unwrap(), "alpha-1 of Alpha");

    run(["pki", "revoke", text(&nation), "--name", "alpha-1"]).done();
    assert!(matches!(validate(&nation, &nation, "alpha-1"), Err(CertError::Revoked)));
    assert_eq!(validate(&nation, &nation, "alpha-2").unwrap(), "alpha-2 of Alpha");
    run(["pki", "revoke", text(&nation), "--name", "alpha-2"]).done();
    assert!(matches!(validate(&nation, &nation, "alpha-1"), Err(CertError::Revoked)));
    // Nothing temporary is left.
    assert_eq!(fs::read_dir(&nation).unwrap().count(), 7);
}

#[test]
fn a_device_issued_elsewhere_can_be_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let (nation, stick) = (folder.path().join("nation"), folder.path().join("stick"));
    run(["pki", "init", text(&nation), "--name", "Bravo"]).done();
    run(["pki", "issue", text(&nation), "--name", "b", "--days", "3", "--out", text(&stick)]).done();
    assert!(!nation.join("b.key").exists());
    assert_eq!(validate(&nation, &stick, "b").unwrap(), "b of Bravo");
    run(["pki", "revoke", text(&nation), "--name", "b"]).done();
    assert!(matches!(validate(&nation, &stick, "b"), Err(CertError::Revoked)));
}

#[test]
fn nothing_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let nation = text(folder.path());
    run(["pki", "init", nation, "--name", "Alpha"]).done();
    run(["pki", "issue", nation, "--name", "a"]).done();
    let all = || -> Vec<Vec<u8>> {
        ["ca.pem", "ca.key", "crl.pem", "a.pem", "a.key"].map(|name| fs::read(folder.path().join(name)).unwrap()).into()
    };
    let before = all();
    run(["pki", "init", nation, "--name", "Alpha"]).failed(&["ca.pem", "exists already"]);
    run(["pki", "issue", nation, "--name", "a"]).failed(&["a.pem", "exists already"]);
    fs::remove_file(folder.path().join("ca.pem")).unwrap();
    run(["pki", "init", nation, "--name", "Alpha"]).failed(&["ca.key", "exists already"]);
    fs::write(folder.path().join("ca.pem"), &before[0]).unwrap();
    assert_eq!(all(), before);
}

#[test]
fn errors_name_the_file_or_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let nation = text(folder.path());
    run(["pki", "issue", nation, "--name", "a"]).failed(&["ca.pem", "muster pki init"]);
    run(["pki", "init", nation, "--name", ""]).failed(&["--name"]);
    run(["pki", "init", nation, "--name", "Alpha"]).done();
    run(["pki", "issue", nation, "--name", "../a"]).failed(&["../a"]);
    run(["pki", "revoke", nation, "--name", "stranger"]).failed(&["stranger.pem"]);
    run(["pki", "show", text(&folder.path().join("ca.key"))]).failed(&["ca.key"]);
    run(["pki", "show", "/dev/zero"]).failed(&["/dev/zero"]);
    run(["pki", "init", "/proc/nowhere", "--name", "Alpha"]).failed(&["/proc/nowhere"]);
}

#[test]
fn a_certificate_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    run(["pki", "init", text(folder.path()), "--name", "Alpha"]).done();
    run(["pki", "issue", text(folder.path()), "--name", "a", "--days", "1"]).done();
    let file = folder.path().join("a.pem");
    let table = run(["pki", "show", text(&file)]).done();
    let json = run(["pki", "show", text(&file), "--json"]).json();
    for key in ["subject", "issuer", "not_before", "not_after", "fingerprint"] {
        assert!(table.contains(json[key].as_str().unwrap()), "{key} in {table}");
    }
    assert_eq!(json["is_ca"], false);
    assert!(json["subject"].as_str().unwrap().contains("CN=a"));
    assert_eq!(json["fingerprint"].as_str().unwrap().len(), 64);
    assert_eq!(run(["pki", "show", text(&folder.path().join("ca.pem")), "--json"]).json()["is_ca"], true);
}

#[test]
fn a_revocation_list_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let nation = text(folder.path());
    run(["pki", "init", nation, "--name", "Alpha"]).done();
    run(["pki", "issue", nation, "--name", "a"]).done();
    let list = folder.path().join("crl.pem");
    assert!(run(["pki", "show", text(&list)]).done().contains("revoked serials     nothing"));
    run(["pki", "revoke", nation, "--name", "a"]).done();
    let (table, json) = (run(["pki", "show", text(&list)]).done(), run(["pki", "show", text(&list), "--json"]).json());
    let serial = run(["pki", "show", text(&folder.path().join("a.pem")), "--json"]).json()["serial"].clone();
    assert_eq!(json["revoked"], serde_json::json!([serial]), "by which the certificate is known");
    assert_eq!(json["number"], "2", "{json}");
    for key in ["issuer", "this_update", "next_update", "number"] {
        assert!(table.contains(json[key].as_str().unwrap()), "{key} in {table}");
    }
    assert!(table.contains(serial.as_str().unwrap()) && table.contains("O=Alpha"), "{table}");
    fs::write(&list, "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n").unwrap();
    run(["pki", "show", text(&list)]).failed(&["crl.pem"]);
}
