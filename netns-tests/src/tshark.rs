//! An independent reader of the capture.

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use crate::Lab;

/// Whether the test cannot run here; then a line says why.
pub fn no_tshark(test: &str) -> bool {
    let missing = Command::new("tshark").arg("-v").output().is_err();
    if missing {
        // Past the test runner, which would keep it to itself.
        let _ = writeln!(std::io::stderr(), "SKIP {test}: tshark is not installed (apt-get install tshark)");
    }
    missing
}

/// The lines that tshark prints of all that was on black by now.
///
/// # Panics
/// When it fails.
pub fn tshark(lab: &Lab, arguments: &[&str]) -> Vec<String> {
    read(lab, "tshark", arguments)
}

/// The same with our dissector.
///
/// # Panics
/// When it fails.
pub fn tshark_with_dissector(lab: &Lab, arguments: &[&str]) -> Vec<String> {
    read(lab, concat!(env!("CARGO_MANIFEST_DIR"), "/../wireshark/tshark"), arguments)
}

fn read(lab: &Lab, program: &str, arguments: &[&str]) -> Vec<String> {
    let file = lab.path("black.pcap");
    assert!(lab.capture.settle(Duration::from_secs(5)));
    lab.capture.write_pcap(&file).expect("the capture is written");
    let output = Command::new(program).arg("-r").arg(&file).args(arguments).output().expect("tshark runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}
