//! Exit statuses and errors: 0 done, 1 failed, 2 wrong use.

mod common;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use common::{muster, run};

#[test]
fn wrong_use_is_two() {
    for args in [
        &[][..],
        &["no-such-command"],
        &["run", "--config"],
        &["status", "--no-such-flag"],
        &["demo", "--routers", "1"],
        &["demo", "--routers", "51"],
        &["demo", "--routers", "x"],
        &["demo", "--dataplane", "hardware"],
        &["demo", "--hello-interval", "49ms"],
        &["demo", "--hello-interval", "61s"],
        &["pki", "init", "somewhere"],
        &["pki", "issue", "somewhere", "--name", "d", "--days", "0"],
    ] {
        let ran = run(args);
        assert_eq!(ran.status, 2, "{args:?}: {}", ran.err);
        assert!(ran.out.is_empty() && !ran.err.is_empty(), "{args:?}");
    }
}

#[test]
fn the_data_planes_are_named() {
    assert!(run(["demo", "--dataplane", "hardware"]).err.contains("choose auto, kernel or userspace"));
}

#[test]
fn help_and_version_are_done() {
    let help = run(["--help"]).done();
    for command in ["demo", "pki", "run", "check", "block", "status", "members", "neighbors", "sas", "routes", "events"]
    {
        assert!(help.contains(command), "{command}");
    }
    assert!(run(["--version"]).done().starts_with("muster "));
    assert!(!run(["demo", "--help"]).done().contains("sabotage"));
}

#[test]
fn without_a_daemon_it_is_one_and_names_the_socket() {
    for command in ["status", "members", "neighbors", "sas", "routes", "events", "rekey", "reload", "leave"] {
        run([command, "--control", "/no/such/socket"]).failed(&["/no/such/socket", "is the daemon running"]);
    }
    // By the socket that a configuration names, which is relative to it, and whatever else names one.
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("of-its-own.sock").display().to_string();
    for (reload, text) in [
        (
            &["gcks", "reload"][..],
            "[gcks]\ninterface = \"black0\"\naddress = \"192.0.2.9\"\ncontrol = \"of-its-own.sock\"\n",
        ),
        (
            &["reload"],
            "[device]\ncontrol = \"of-its-own.sock\"\n[black]\ninterface = \"black0\"\n\
             [group]\nmode = \"centralised\"\n[gcks]\naddress = \"192.0.2.9\"\nsecret_file = \"a.psk\"\n",
        ),
    ] {
        let path = folder.path().join("a.toml").display().to_string();
        std::fs::write(&path, text).unwrap();
        let by_configuration = [reload, &["--config", &path]].concat();
        run(&by_configuration).failed(&[&socket, "is the daemon running"]);
        run([&by_configuration[..], &["--control", "/no/such/socket"]].concat()).failed(&[&socket]);
        let mut by_environment = muster();
        by_environment.args(&by_configuration).env("MUSTER_CONTROL", "/no/such").env("MUSTER_GCKS_CONTROL", "/no/such");
        common::ran(by_environment.output().unwrap()).failed(&[&socket]);
    }
    let by_environment = muster().arg("status").env("MUSTER_CONTROL", "/no/such/other").output().unwrap();
    common::ran(by_environment).failed(&["/no/such/other"]);
}

#[test]
fn a_missing_or_broken_configuration_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("muster.toml");
    let file = path.to_str().unwrap();
    for command in ["run", "block", "unblock"] {
        run([command, "--config", file]).failed(&[file]);
    }
    std::fs::write(&path, "[device]\nno_such_key = 1\n").unwrap();
    for command in ["run", "block", "unblock"] {
        run([command, "--config", file]).failed(&[file, "no_such_key"]);
    }
    let check = run(["check", "--config", file]);
    assert_eq!(check.status, 1);
    assert!(check.out.starts_with("not ok") && check.out.contains("no_such_key"), "{}", check.out);
    let findings = run(["check", "--config", file, "--json"]);
    assert_eq!(findings.status, 1);
    let findings: serde_json::Value = serde_json::from_str(&findings.out).unwrap();
    assert_eq!(findings[0]["ok"], false);
}

#[test]
fn check_tells_of_bounds_for_nobody_and_of_a_key_for_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = |file: &str| folder.path().join(file).display().to_string();
    run(["pki", "init", &path(""), "--name", "Alpha"]).done();
    run(["pki", "issue", &path(""), "--name", "alpha-1"]).done();
    std::fs::set_permissions(path("alpha-1.key"), Permissions::from_mode(0o644)).unwrap();
    let configuration = r#"
        [device]
        certificate = "alpha-1.pem"
        private_key = "alpha-1.key"
        trust_anchors = ["ca.pem"]
        [black]
        interface = "no-such"
        [trust."Alpha"]
        prefixes = ["2001:db8:a::/48"]
        [trust."Brvao"]
        prefixes = ["2001:db8:b::/48"]
    "#;
    std::fs::write(path("muster.toml"), configuration).unwrap();
    let check = run(["check", "--config", &path("muster.toml")]);
    assert_eq!(check.status, 1);
    for expected in [
        r#"[trust."Brvao"] bounds nobody"#,
        "alpha-1.key: holds a secret and is open to others",
        "black.interface no-such",
    ] {
        assert!(check.out.contains(expected), "{expected} in {}", check.out);
    }
    assert!(!check.out.contains(r#"[trust."Alpha"]"#), "{}", check.out);
}

/// The draft of FMKE forbids IKE's port, and there are peers that have no other: it is taken, and told of.
#[test]
fn ikes_port_is_taken_and_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = |file: &str| folder.path().join(file).display().to_string();
    let write = |file: &str, text: &str| {
        std::fs::write(path(file), text).unwrap();
        std::fs::set_permissions(path(file), Permissions::from_mode(0o600)).unwrap();
    };
    write("a.psk", "fedcba9876543210");
    let server = "[gcks]\ninterface = \"no-such\"\naddress = \"192.0.2.9\"\n";
    let client = "[device]\n[black]\ninterface = \"no-such\"\n[group]\nmode = \"centralised\"\n[gcks]\n\
                  address = \"192.0.2.9\"\nsecret_file = \"a.psk\"\n";
    for (port, is_told) in [("", false), ("port = 848", false), ("port = 500", true)] {
        write("gcks.toml", &format!("{server}{port}"));
        let check = run(["gcks", "check", "--config", &path("gcks.toml")]);
        assert_eq!(check.out.contains("gcks.port: port 500 is IKE's"), is_told, "{}", check.out);
        let ran = run(["gcks", "run", "--config", &path("gcks.toml")]);
        assert_eq!(ran.status, 1, "there is no such interface: {}", ran.err);
        assert_eq!(ran.err.contains("gcks.port: port 500 is IKE's"), is_told, "{}", ran.err);
        write("muster.toml", &format!("{client}{port}"));
        let check = run(["check", "--config", &path("muster.toml")]).out;
        assert_eq!(check.contains("gcks.port: port 500 is IKE's"), is_told, "{check}");
    }
    write("muster.toml", &format!("{client}local_port = 500"));
    let check = run(["check", "--config", &path("muster.toml")]).out;
    assert!(check.contains("gcks.local_port: port 500 is IKE's"), "{check}");
}

/// It is of the mesh, and does not stand in the way of a key server's client.
#[test]
fn a_client_is_told_that_trust_bounds_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("muster.toml");
    let client = "[device]\n[black]\ninterface = \"no-such\"\n[group]\nmode = \"centralised\"\n[gcks]\n\
                  address = \"192.0.2.9\"\nsecret_file = \"a.psk\"\n[trust.\"Bravo\"]\nprefixes = []\n";
    std::fs::write(&path, client).unwrap();
    let check = run(["check", "--config", path.to_str().unwrap()]).out;
    assert!(check.contains("[trust.\"Bravo\"] bounds nobody"), "{check}");
}

/// As of a router's, its interface and address are looked at.
#[test]
fn a_key_servers_check_looks_at_its_interface_and_address() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gcks.toml");
    let check = |interface: &str, address: &str, json: &[&str]| {
        std::fs::write(&path, format!("[gcks]\ninterface = \"{interface}\"\naddress = \"{address}\"\n")).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        run(["gcks", "check", "--config", path.to_str().unwrap()].iter().chain(json))
    };
    let done = check("lo", "127.0.0.1", &[]).done();
    assert!(done.contains("ok      black address 127.0.0.1 on lo") && done.contains("clients: 0, groups: 0, VPNs: 0"));
    for (interface, address, why) in
        [("no-such", "127.0.0.1", "gcks.interface no-such"), ("lo", "192.0.2.9", "has no usable address 192.0.2.9")]
    {
        let ran = check(interface, address, &[]);
        assert!(ran.status == 1 && ran.out.contains("not ok") && ran.out.contains(why), "{}", ran.out);
    }
    let findings: serde_json::Value = serde_json::from_str(&check("lo", "192.0.2.9", &["--json"]).out).unwrap();
    assert_eq!((&findings[0]["ok"], &findings[1]["ok"]), (&true.into(), &false.into()), "{findings}");
}

/// The parser draws a picture in several lines; an error is one.
#[test]
fn an_error_of_the_parser_is_one_line_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = |file: &str| folder.path().join(file).display().to_string();
    let good = "[device]\n[black]\ninterface = \"black0\"\n";
    for (more, said) in [
        ("[red]\nno_such_key = 1\n", "muster.toml: line 5: unknown field `no_such_key`, expected one of"),
        ("[log]\nlevel = \n", "muster.toml: line 5: "),
        ("[group]\nlifetime = 5\n", "line 5: invalid type: integer `5`, expected a time such as \"250ms\", "),
        ("[group]\nlifetime = \"5\"\n", "expected a time such as"),
    ] {
        std::fs::write(path("muster.toml"), format!("{good}{more}")).unwrap();
        run(["block", "--config", &path("muster.toml")]).failed(&[said]);
        let check = run(["check", "--config", &path("muster.toml")]).out;
        assert!(check.lines().count() == 1 && check.contains(said) && !check.contains(" | "), "{check}");
    }
    let gcks = "[gcks]\ninterface = \"lo\"\naddress = \"127.0.0.1\"\njoin_window = \"5\"\n";
    std::fs::write(path("gcks.toml"), gcks).unwrap();
    let check = run(["gcks", "check", "--config", &path("gcks.toml")]).out;
    assert!(check.contains("gcks.toml: line 4: invalid value, expected a time such as \"250ms\""), "{check}");
}

#[test]
fn without_a_configuration_unblock_says_how_to_do_without() {
    run(["unblock", "--config", "/no/such/muster.toml"])
        .failed(&["/no/such/muster.toml", "muster unblock --instance 0"]);
}

#[test]
fn nobody_reading_is_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    run(["pki", "init", folder.path().to_str().unwrap(), "--name", "Alpha"]).done();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let show = muster()
        .args(["pki", "show", "ca.pem"])
        .current_dir(folder.path())
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let show = common::ran(show);
    assert_eq!((show.status, show.err.as_str()), (1, ""));
}
