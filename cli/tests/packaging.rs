//! What the package ships: manual, completions, the default configuration.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::run;
use muster_bridge::{File, GcksFile};

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

/// A configuration that the package installs, with those lines in force that `wanted` says, by section and line.
fn sample(name: &str, wanted: impl Fn(&str, &str) -> bool) -> String {
    let text = fs::read_to_string(Path::new("../packaging").join(name)).unwrap();
    let mut section = String::new();
    let mut line = |line: &str| {
        let setting = line.strip_prefix('#').filter(|setting| !setting.is_empty() && !setting.starts_with(' '));
        if let Some(header) = setting.unwrap_or(line).strip_prefix('[') {
            section = header.trim_matches(['[', ']']).to_owned();
        }
        match setting {
            Some(setting) if wanted(&section, setting) => format!("{setting}\n"),
            _ => format!("{line}\n"),
        }
    };
    text.lines().map(&mut line).collect()
}

fn key(setting: &str) -> &str {
    setting.split(' ').next().unwrap_or_default()
}

fn configuration(wanted: impl Fn(&str, &str) -> bool) -> File {
    File::parse(Path::new("muster.toml"), &sample("muster.toml", wanted)).unwrap()
}

#[test]
fn the_default_configuration_says_what_holds_without_it() {
    const REQUIRED: [&str; 4] = ["certificate", "private_key", "trust_anchors", "interface"];
    let defaults = configuration(|section, setting| section != "gcks" && REQUIRED.contains(&key(setting)));
    let mut all = configuration(|section, _| section != "gcks");

    // What has no default has an example.
    assert!(all.device.name.take().is_some() && !std::mem::take(&mut all.device.crls).is_empty());
    assert!(all.black.address.take().is_some() && all.metrics.take().is_some());
    assert!(!std::mem::take(&mut all.red.interfaces).is_empty());
    assert!(!std::mem::take(&mut all.red.prefixes).is_empty());
    assert!(!std::mem::take(&mut all.trust).is_empty());
    assert_eq!(all.group.address.take(), Some(defaults.group_address()));
    assert_eq!(all, defaults);
}

/// In the other mode, with what that has.
fn client(wanted: impl Fn(&str) -> bool) -> File {
    let text = sample("muster.toml", |section, setting| match section {
        "gcks" => setting.starts_with('[') || wanted(setting),
        "group" => key(setting) == "mode",
        "black" => key(setting) == "interface",
        _ => false,
    });
    let text = text.replace("mode = \"agreement\"", "mode = \"centralised\"");
    File::parse(Path::new("muster.toml"), &text).unwrap()
}

#[test]
fn the_same_of_a_key_servers_client() {
    let defaults = client(|setting| ["address", "secret_file"].contains(&key(setting))).gcks.unwrap();
    // Either shows who it is.
    let certified = ["certificate", "private_key", "trust_anchors", "crls"];
    let mut all = client(|setting| !certified.contains(&key(setting))).gcks.unwrap();
    assert!(all.local_port.take().is_some() && all.identity.take().is_some() && all.local_identity.take().is_some());
    assert_eq!(all, defaults);
    let shown = client(|setting| key(setting) != "secret_file").gcks.unwrap();
    assert!(shown.secret_file.is_none() && !shown.trust_anchors.is_empty() && !shown.crls.is_empty());
}

/// All keys of all sections stand in a sample, by the program's word: it lists those of a section when it finds one that it does
/// not know. Sections of one kind are one: `clients.hub` and `clients.site-1`.
fn assert_every_key_is_in(text: &str, least: usize, error_of: impl Fn(&str) -> String) {
    let lines: Vec<&str> = text.lines().collect();
    let kind = |line: &str| -> Option<String> {
        let header = line.strip_prefix('[')?.trim_matches(['[', ']']);
        let named = |section: &&str| ["clients", "groups", "vpns", "trust"].contains(section);
        let parts: Vec<&str> = header.split('.').collect();
        let of_a_name = parts.first().is_some_and(named);
        let parts = parts.iter().enumerate().map(|(at, part)| if of_a_name && at == 1 { "*" } else { *part });
        Some(parts.collect::<Vec<_>>().join("."))
    };
    // Of each line, by the header above it.
    let mut section = String::new();
    let mut there = std::collections::BTreeSet::new();
    for line in &lines {
        section = kind(line).unwrap_or(section);
        let (path, key) = match line.starts_with('[') {
            true => section.rsplit_once('.').unwrap_or(("", &section)),
            false => (section.as_str(), key(line)),
        };
        there.insert((path.to_owned(), key.to_owned()));
        if let Some((top, _)) = section.split_once('.') {
            there.insert((String::new(), top.to_owned()));
        }
    }
    let mut keys = 0;
    let headers = lines.iter().enumerate().filter_map(|(at, line)| Some((at + 1, kind(line)?)));
    for (at, section) in [(0, String::new())].into_iter().chain(headers) {
        let spoilt = [&lines[..at], &["no_such_key = 1"], &lines[at..]].concat().join("\n");
        let said = error_of(&spoilt);
        let (_, expected) = said.rsplit_once("expected").unwrap_or_else(|| panic!("{section}: {said}"));
        for key in expected.split('`').skip(1).step_by(2) {
            assert!(there.contains(&(section.clone(), key.to_owned())), "[{section}] lacks {key}");
            keys += 1;
        }
    }
    assert!(keys > least, "{keys}");
}

#[test]
fn the_default_configuration_has_every_key() {
    let text = sample("muster.toml", |_, _| true);
    let error = |text: &str| File::parse(Path::new("muster.toml"), text).unwrap_err().to_string();
    assert_every_key_is_in(&text, 45, error);
}

#[test]
fn that_of_a_key_server_has_every_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gcks.toml");
    let error = |text: &str| {
        fs::write(&path, text).unwrap();
        GcksFile::load(&path).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_every_key_is_in(&sample("gcks.toml", |_, _| true), 50, error);
}

#[test]
fn every_key_of_the_documentation_is_one() {
    let text = sample("muster.toml", |_, _| true);
    let readme = fs::read_to_string("../README.md").unwrap();
    let table = readme.split("## Configuration").nth(1).unwrap().split("\n\n").nth(2).unwrap();
    let mut keys = 0;
    for row in table.lines().skip(2) {
        // | `section.key`, `other` | …
        let cell = row.split('|').nth(1).unwrap();
        let mut section = "";
        for named in cell.split('`').skip(1).step_by(2) {
            let (before, key) = named.rsplit_once('.').unwrap_or((section, named));
            section = before;
            let header = if section.starts_with("trust") { "trust.\"Bravo\"" } else { section };
            let (_, behind) = text.split_once(&format!("\n[{header}]\n")).unwrap_or_else(|| panic!("no [{header}]"));
            let own = behind.split("\n[").next().unwrap();
            assert!(format!("\n{own}").contains(&format!("\n{key} = ")), "{section}.{key}");
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
    let ran = run(["gcks", "check", "--config", "../packaging/gcks.toml"]);
    assert_eq!(ran.status, 1);
    assert!(ran.out.contains("packaging/gcks.toml") && ran.out.contains("missing field"), "{}", ran.out);
}

/// What README.md refers to beside it, an installed README.md has beside it, too.
#[test]
fn the_documents_that_the_readme_links_to_are_in_the_package() {
    let (readme, manifest) = (fs::read_to_string("../README.md").unwrap(), fs::read_to_string("Cargo.toml").unwrap());
    let mut links: Vec<&str> = readme
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|link| !link.contains(':'))
        .collect();
    links.sort_unstable();
    links.dedup();
    assert!(links.len() > 4, "{links:?}");
    for link in links {
        assert!(Path::new("..").join(link).exists(), "{link}");
        let folder = Path::new("usr/share/doc/muster").join(link);
        let asset = format!("[\"../{link}\", \"{}/\", \"644\"]", folder.parent().unwrap().display());
        assert!(manifest.contains(&asset), "{asset}");
    }
}
