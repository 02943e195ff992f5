//! The configuration file.

use std::path::Path;

use muster_bridge::File;

/// Any text: read or refused, with an error that says which key.
pub(crate) fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match File::parse(Path::new("muster.toml"), text) {
        Ok(file) => {
            assert!(file.discovery.group.is_multicast());
            assert!(file.group_address().is_multicast());
            assert!(file.dataplane.instance < 16);
        }
        Err(error) => assert!(error.to_string().starts_with("muster.toml: ")),
    }
}
