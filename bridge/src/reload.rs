//! SIGHUP: everything is read again and checked; then all of it is taken, or nothing.

use muster_certs::{CertError, TrustStore};
use thiserror::Error;

use crate::event::EventKind;
use crate::lists;
use crate::settings::{DeviceSection, Settings, SettingsError};

/// What can change while the daemon runs. All else takes a restart.
const FOLLOWED: [&str; 11] = [
    "discovery.hello_interval",
    "red.prefixes",
    "group.batch_window",
    "group.activation_delay",
    "group.deactivation_delay",
    "group.lifetime",
    "group.leaf_refresh",
    "dataplane.allow_key_export",
    "trust",
    "log.level",
    "metrics.listen",
];

/// Why a configuration that was read again is not taken.
#[derive(Debug, Error)]
pub(crate) enum ReloadError {
    /// It would not do at a start either.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The own certificate, by the new trust anchors and revocation lists.
    #[error("the own certificate: {0}")]
    Own(CertError),
    /// The address for the metrics.
    #[error(transparent)]
    Metrics(std::io::Error),
    /// The red side's prefixes, or the block for them.
    #[error("red.prefixes: {0}")]
    Red(std::io::Error),
    #[error("the daemon is leaving the group")]
    Leaving,
    /// Cannot change while the daemon runs.
    #[error("{0}")]
    Restart(String),
}

/// A configuration that was read and checked, beside the one in force.
pub(crate) struct Reload {
    pub(crate) settings: Settings,
    pub(crate) trust: TrustStore,
    /// The keys whose values are others.
    pub(crate) changed: Vec<&'static str>,
    /// Another certificate: another member, which joins when the old one has left.
    pub(crate) renewed: bool,
}

/// The first phase: reads and checks, changes nothing.
pub(crate) fn prepare(current: &Settings, unix: u64) -> Result<Reload, ReloadError> {
    let settings = Settings::load(&current.path)?;
    let keys = followed(current.file.differing(&settings.file), &files(), &FOLLOWED).map_err(ReloadError::Restart)?;
    let mut trust = settings.trust()?;
    lists::restore(&settings.resolve(&settings.file.device.state_dir), &mut trust);
    let renewed = current.device.chain != settings.device.chain;
    match trust.validate(&settings.device.chain, unix) {
        // A list that revokes the device itself counts as any other: it is taken, and the device leaves for good.
        Err(CertError::Revoked) if !renewed => {}
        Err(error) => return Err(ReloadError::Own(error)),
        Ok(_) => {}
    }
    let files = [
        ("device.certificate", renewed),
        ("device.trust_anchors", current.anchors != settings.anchors),
        ("device.crls", current.crls != settings.crls),
    ];
    let files = files.into_iter().filter_map(|(key, differs)| differs.then_some(key));
    let changed = files.chain(keys).collect();
    Ok(Reload { settings, trust, changed, renewed })
}

/// The keys whose values are others, but for those that name files: none may be but what is followed, in either mode and at the key
/// server.
pub(crate) fn followed(
    mut keys: Vec<&'static str>,
    files: &[&str],
    followed: &[&str],
) -> Result<Vec<&'static str>, String> {
    keys.retain(|key| !files.contains(key));
    let restart: Vec<&str> = keys.iter().copied().filter(|key| !followed.contains(key)).collect();
    if restart.is_empty() { Ok(keys) } else { Err(format!("{}: needs a restart", restart.join(", "))) }
}

/// What the files hold counts, not where they are. A name is the certificate's.
fn files() -> Vec<&'static str> {
    [&DeviceSection::OF_MESH[..], &["device.name"]].concat()
}

/// What has come of it, in either mode: the event that says so.
pub(crate) fn told(done: &Result<Vec<&'static str>, String>) -> (EventKind, String) {
    match done {
        Ok(changed) => {
            let changed = if changed.is_empty() { "nothing has changed".to_owned() } else { changed.join(", ") };
            (EventKind::Reloaded, changed)
        }
        Err(why) => (EventKind::ReloadRefused, why.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use muster_certs::pki;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    /// A folder with two nations' roots, a device and its configuration.
    fn folder(extra: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["Alpha", "Bravo"] {
            let root = pki::init(name, NOW).unwrap();
            fs::write(at(&format!("{name}.pem")), &root.certificate_pem).unwrap();
            fs::write(at(&format!("{name}.crl")), &root.crl_pem).unwrap();
            let device = pki::issue(&root.certificate_pem, &root.key_pem, "device", 30, NOW).unwrap();
            fs::write(at(&format!("{name}-device.pem")), &device.certificate_pem).unwrap();
            fs::write(at(&format!("{name}-device.key")), &*device.key_pem).unwrap();
        }
        configure(folder.path(), "Alpha", extra);
        folder
    }

    fn configure(folder: &Path, nation: &str, extra: &str) {
        let text = format!(
            "[device]\ncertificate = \"{nation}-device.pem\"\nprivate_key = \"{nation}-device.key\"\n\
             trust_anchors = [\"Alpha.pem\"]\n[black]\ninterface = \"black0\"\n{extra}"
        );
        fs::write(folder.join("muster.toml"), text).unwrap();
    }

    fn load(folder: &tempfile::TempDir) -> Settings {
        Settings::load(&folder.path().join("muster.toml")).unwrap()
    }

    #[test]
    fn what_has_changed_is_told_by_its_key() {
        let folder = folder("");
        let before = load(&folder);
        let again = prepare(&before, NOW).ok().unwrap();
        assert!(again.changed.is_empty() && !again.renewed);
        let extra = "[log]\nlevel = \"debug\"\n[discovery]\nhello_interval = \"2s\"\n[dataplane]\nallow_key_export = true\n\
                     [group]\nbatch_window = \"1s\"\nactivation_delay = \"1s\"\ndeactivation_delay = \"1s\"\n\
                     lifetime = \"2h\"\nleaf_refresh = \"2h\"\n[red]\nprefixes = [\"10.1.0.0/16\"]\n\
                     [metrics]\nlisten = \"127.0.0.1:1\"\n[trust.\"Bravo\"]\nprefixes = [\"10.2.0.0/16\"]\n";
        configure(folder.path(), "Alpha", extra);
        let again = prepare(&before, NOW).ok().unwrap();
        let sorted = |mut keys: Vec<&'static str>| {
            keys.sort_unstable();
            keys
        };
        assert_eq!(sorted(again.changed), sorted(FOLLOWED.to_vec()));
        assert_eq!(again.settings.file.log.level, "debug");
    }

    #[test]
    fn what_names_files_are_keys() {
        assert!(files().iter().all(|key| DeviceSection::KEYS.contains(key)));
    }

    #[test]
    fn what_needs_a_restart_is_refused_by_name() {
        let folder = folder("");
        let before = load(&folder);
        let extra =
            "[log]\nlevel = \"debug\"\nformat = \"json\"\n[group]\nname = \"other\"\n[discovery]\nport = 5000\n";
        configure(folder.path(), "Alpha", extra);
        let error = prepare(&before, NOW).err().unwrap();
        assert_eq!(error.to_string(), "discovery.port, group.name, log.format: needs a restart");
    }

    #[test]
    fn what_would_not_do_at_a_start_does_not_do_now() {
        let folder = folder("");
        let before = load(&folder);
        let refused = |words: &str| {
            let error = prepare(&before, NOW).err().unwrap().to_string();
            assert!(error.contains(words), "{error}");
        };
        configure(folder.path(), "Alpha", "[log]\nlevel = \"loud\"\n");
        refused("log.level");
        configure(folder.path(), "Alpha", "[red]\nprefixes = [\"fe80::/64\"]\n");
        refused("red.prefixes");
        // A device of a nation that it does not trust itself.
        configure(folder.path(), "Bravo", "");
        refused("the own certificate");
        fs::remove_file(folder.path().join("Alpha.pem")).unwrap();
        refused("Alpha.pem");
    }

    #[test]
    fn another_certificate_is_another_member() {
        let folder = folder("");
        let before = load(&folder);
        let root = [".pem", ".crl"].map(|end| fs::read_to_string(folder.path().join(format!("Bravo{end}"))).unwrap());
        fs::write(folder.path().join("Alpha.pem"), &root[0]).unwrap();
        configure(folder.path(), "Bravo", "");
        let again = prepare(&before, NOW).ok().unwrap();
        assert!(again.renewed);
        assert_eq!(again.changed, ["device.certificate", "device.trust_anchors"]);
        // Only if it is vouched for.
        assert!(matches!(prepare(&before, NOW + 40 * 86_400).err(), Some(ReloadError::Own(_))));
    }
}
