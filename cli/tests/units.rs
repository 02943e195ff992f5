//! The service manager's units: well formed, of this program, and with few rights.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

const UNITS: [&str; 3] = ["muster-block.service", "muster.service", "muster-gcks.service"];

/// `None` with a line that says why, where there is no systemd.
fn analyze(arguments: &[&str], folder: &Path) -> Option<Output> {
    match Command::new("systemd-analyze").args(arguments).current_dir(folder).output() {
        Ok(output) => Some(output),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "SKIP units: systemd-analyze (apt-get install systemd): {error}");
            None
        }
    }
}

/// The service manager else removes it with all that is in it when one of them stops.
#[test]
fn a_folder_of_several_units_stays() {
    let texts = UNITS.map(|unit| fs::read_to_string(Path::new("../systemd").join(unit)).unwrap());
    let sharing: Vec<_> = texts.iter().filter(|text| text.contains("\nRuntimeDirectory=muster\n")).collect();
    assert_eq!(sharing.len(), 2);
    assert!(sharing.iter().all(|text| text.contains("\nRuntimeDirectoryPreserve=yes\n")));
}

#[test]
fn systemd_takes_the_units_and_finds_little_exposed() {
    let folder = tempfile::tempdir().unwrap();
    for unit in UNITS {
        let text = fs::read_to_string(Path::new("../systemd").join(unit)).unwrap();
        // It looks whether the program is there.
        let text = text.replace("/usr/bin/muster", env!("CARGO_BIN_EXE_muster"));
        fs::write(folder.path().join(unit), text).unwrap();
    }
    let Some(verified) =
        analyze(&["verify", "./muster-block.service", "./muster.service", "./muster-gcks.service"], folder.path())
    else {
        return;
    };
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("muster")).collect();
    assert!(verified.status.success() && ours.is_empty(), "{said}");
    for unit in UNITS {
        let unit = format!("./{unit}");
        let Some(rated) = analyze(&["security", "--offline=true", "--threshold=32", &unit], folder.path()) else {
            return;
        };
        assert!(rated.status.success(), "{unit}: {}", String::from_utf8_lossy(&rated.stdout));
    }
}
