//! What the package ships: manual, completions, the default configuration.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::run;
use muster_bridge::File;

#[test]
fn every_command_has_a_page_and_nothing_hidden_has() {
    let folder = tempfile::tempdir().unwrap();
    run(["man", folder.path().to_str().unwrap()]).done();
    for page in ["muster", "muster-run", "muster-check", "muster-top", "muster-pki", "muster-pki-issue"] {
        let text = fs::read_to_string(folder.path().join(format!("{page}.1"))).unwrap();
        assert!(text.contains(&format!(".TH {page} 1")), "{page}: {text}");
    }
    for entry in fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("sabotage") && !text.contains("completions"), "{}", path.display());
    }
    run(["man", "/no/such/folder"]).failed(&["/no/such/folder"]);
}

#[test]
fn bash_completes_commands_options_and_values() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("muster");
    fs::write(&script, run(["completions", "bash"]).done()).unwrap();
    let complete = |words: &[&str]| {
        let last = words.len() - 1;
        // As readline calls it: the command, the word to complete, the one before.
        let ask = r#"source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            _muster "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"; echo "${COMPREPLY[*]}""#;
        let output = Command::new("bash").arg("-c").arg(ask).arg(&script).args(words).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{last} {words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(complete(&["muster", "me"]), "members");
    assert_eq!(complete(&["muster", "pki", "is"]), "issue");
    assert_eq!(complete(&["muster", "sas", "--sh"]), "--show-keys");
    assert_eq!(complete(&["muster", "demo", "--sab"]), "");
    assert_eq!(complete(&["muster", "comp"]), "");
}

#[test]
fn other_shells_complete_too_and_nothing_hidden() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(["completions", shell]).done();
        assert!(script.contains("show-keys") && script.contains("neighbors"), "{shell}");
        assert!(!script.contains("sabotage") && !script.contains("completions:"), "{shell}");
    }
}

/// The configuration that the package installs, with those lines in force that `wanted` says.
fn configuration(wanted: impl Fn(&str) -> bool) -> File {
    let text = fs::read_to_string("../packaging/muster.toml").unwrap();
    let line = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.is_empty() && !setting.starts_with(' ') && wanted(setting) => format!("{setting}\n"),
        _ => format!("{line}\n"),
    };
    let text: String = text.lines().map(line).collect();
    File::parse(Path::new("muster.toml"), &text).unwrap()
}

#[test]
fn the_default_configuration_says_what_holds_without_it() {
    const REQUIRED: [&str; 4] = ["certificate", "private_key", "trust_anchors", "interface"];
    let key = |setting: &str| setting.split(' ').next().unwrap_or_default().to_owned();
    let defaults = configuration(|setting| REQUIRED.contains(&key(setting).as_str()));
    let mut all = configuration(|_| true);

    // What has no default has an example.
    assert!(all.device.name.take().is_some() && !std::mem::take(&mut all.device.crls).is_empty());
    assert!(all.black.address.take().is_some() && all.metrics.take().is_some());
    assert!(!std::mem::take(&mut all.red.interfaces).is_empty());
    assert!(!std::mem::take(&mut all.red.prefixes).is_empty());
    assert!(!std::mem::take(&mut all.trust).is_empty());
    assert_eq!(all.group.address.take(), Some(defaults.group_address()));
    assert_eq!(all, defaults);
}

#[test]
fn the_default_configuration_has_every_key_of_the_documentation() {
    let text = fs::read_to_string("../packaging/muster.toml").unwrap();
    let readme = fs::read_to_string("../README.md").unwrap();
    let table = readme.split("## Configuration").nth(1).unwrap().split("\n\n").nth(2).unwrap();
    let mut keys = 0;
    for row in table.lines().skip(2) {
        // | `section.key`, `other` | …
        for key in row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2) {
            let key = key.rsplit('.').next().unwrap();
            assert!(text.contains(&format!("\n#{key} = ")), "{key}");
            keys += 1;
        }
    }
    assert!(keys > 25, "{keys}");
}

#[test]
fn as_installed_it_is_refused_with_what_is_missing() {
    let ran = run(["check", "--config", "../packaging/muster.toml"]);
    assert_eq!(ran.status, 1);
    assert!(ran.out.contains("packaging/muster.toml") && ran.out.contains("missing field"), "{}", ran.out);
    run(["block", "--config", "../packaging/muster.toml"]).failed(&["packaging/muster.toml", "missing field"]);
}
