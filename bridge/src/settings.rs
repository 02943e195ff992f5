//! The configuration file: read whole, checked, then used.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use muster_certs::{Device, TrustStore};
use muster_dataplane::BlockConfig;
use thiserror::Error;

use crate::secret_file::{MOST_OF_KEY, SecretFile};

mod sections;
mod values;

pub(crate) use sections::{DeviceSection, GcksAt, MetricsSection, TrustSection, sections};
pub use sections::{File, LogSection};

/// What is wrong with a configuration.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// A file that cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Not TOML, an unknown key, a value of the wrong form.
    #[error("{}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
    /// A value that cannot be.
    #[error("{}: {key}: {message}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
    /// A certificate, key, trust anchor or revocation list.
    #[error("{}: {message}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// A configuration with everything that it names.
pub struct Settings {
    /// The file.
    pub path: PathBuf,
    /// What it says.
    pub file: File,
    /// The device's certificates and key.
    pub device: Device,
    /// Trust anchors (DER).
    pub anchors: Vec<Vec<u8>>,
    /// Revocation lists (DER).
    pub crls: Vec<Vec<u8>>,
    /// Why others may know the private key.
    pub(crate) key_exposure: Option<&'static str>,
}

impl File {
    /// Reads a configuration, without what it names: enough for the block, which must not depend on certificates.
    pub fn load(path: &Path) -> Result<File, SettingsError> {
        File::parse(path, &read(path)?)
    }

    /// Reads the text of a configuration and checks its values. `path` is for the errors; no file is opened.
    pub fn parse(path: &Path, text: &str) -> Result<File, SettingsError> {
        let parse = |message: String| SettingsError::Parse { path: path.to_owned(), message };
        let file: File = toml::from_str(text).map_err(|error| parse(in_one_line(text, &error, error.message())))?;
        values::check(path, &file)?;
        Ok(file)
    }

    /// The control socket of the daemon with this configuration.
    pub fn control(&self, path: &Path) -> PathBuf {
        resolve(path, &self.device.control)
    }

    /// What the block needs to know; `own` are the red prefixes.
    pub fn block_config(&self, own: Vec<IpNet>) -> BlockConfig {
        BlockConfig {
            instance: self.dataplane.instance,
            black: self.black.interface.clone(),
            reds: self.red.interfaces.clone(),
            device: self.dataplane.device.clone(),
            own_prefixes: own,
        }
    }
}

impl Settings {
    /// Reads a configuration and everything that it names.
    pub fn load(path: &Path) -> Result<Settings, SettingsError> {
        let file = File::load(path)?;
        let at = |relative: &Path| resolve(path, relative);

        let certificate_path = at(&file.device.certificate);
        let key_path = at(&file.device.private_key);
        let certificate = read(&certificate_path)?;
        let key_error = |error| SettingsError::Read { path: key_path.clone(), error };
        let (key, key_exposure) = SecretFile::read(&key_path, MOST_OF_KEY).map_err(key_error)?.exposed();
        let key = std::str::from_utf8(&key).map_err(|error| key_error(std::io::Error::other(error)))?;
        let device = Device::from_pem(&certificate, key).map_err(|error| SettingsError::Certificate {
            path: certificate_path,
            message: format!("{error} (private key: {})", key_path.display()),
        })?;
        if file.device.name.as_ref().is_some_and(|name| *name != device.name) {
            return Err(SettingsError::Value {
                path: path.to_owned(),
                key: "device.name",
                message: format!("the certificate is of {:?}: make them equal, or leave it out", device.name),
            });
        }
        let certificate = |path: &Path, error: muster_certs::CertError| SettingsError::Certificate {
            path: path.to_owned(),
            message: error.to_string(),
        };
        let mut anchors = Vec::new();
        for path in file.device.trust_anchors.iter().map(|path| at(path)) {
            anchors.extend(muster_certs::certificates_from_pem(&read(&path)?).map_err(|e| certificate(&path, e))?);
        }
        let mut crls = Vec::new();
        for path in file.device.crls.iter().map(|path| at(path)) {
            crls.extend(muster_certs::crls_from_pem(&read(&path)?).map_err(|error| certificate(&path, error))?);
        }
        let settings = Settings { path: path.to_owned(), file, device, anchors, crls, key_exposure };
        settings.trust()?;
        Ok(settings)
    }

    /// Whom this device trusts.
    pub fn trust(&self) -> Result<TrustStore, SettingsError> {
        TrustStore::new(self.anchors.clone(), self.crls.clone()).map_err(|error| SettingsError::Value {
            path: self.path.clone(),
            key: "device.trust_anchors",
            message: error.to_string(),
        })
    }

    /// A path as the configuration means it.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        resolve(&self.path, path)
    }
}

/// What is wrong with a text, and in which line: `message` without the picture of it, which takes several lines. Of a time it says
/// how one is written.
pub(crate) fn in_one_line(text: &str, error: &toml::de::Error, message: &str) -> String {
    let before = error.span().map_or(0, |span| text.bytes().take(span.start).filter(|octet| *octet == b'\n').count());
    let message = message.trim_end().replace('\n', ", ");
    let message = message.replace("expected a duration", "expected a time such as \"250ms\", \"30s\" or \"1h\"");
    // Its key: some of the parser's messages do not say which. What stands after it may be nobody's business.
    let key = text.lines().nth(before).and_then(|line| line.split_once('=')).map_or("", |(key, _)| key.trim());
    // A line may be a secret without a key. Ours are of small letters, which keys and their encodings are not.
    let is_plain = |key: &str| key.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_');
    let is_said = message.starts_with(key) || message.contains(&format!("`{key}`"));
    match !key.is_empty() && is_plain(key) && !is_said {
        true => format!("line {}: {message} ({key})", before + 1),
        false => format!("line {}: {message}", before + 1),
    }
}

pub(crate) fn read(path: &Path) -> Result<String, SettingsError> {
    fs::File::open(path).and_then(read_from).map_err(|error| SettingsError::Read { path: path.to_owned(), error })
}

/// A path as the configuration in this file means it.
pub(crate) fn resolve(config: &Path, relative: &Path) -> PathBuf {
    config.parent().unwrap_or(Path::new(".")).join(relative)
}

/// All of an open file.
pub(crate) fn read_from(file: fs::File) -> std::io::Result<String> {
    const MAX_FILE: u64 = 1 << 20;
    // Bounded as it is read: a pipe or a device has no length to ask for.
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(std::io::Error::other("larger than 1 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGREEMENT: &str = "[device]\ncertificate = \"a.pem\"\nprivate_key = \"a.key\"\ntrust_anchors = [\"ca.pem\"]\n\n[black]\ninterface = \"black0\"\n";
    const CENTRALISED: &str = "[device]\n\n[black]\ninterface = \"black0\"\n\n[group]\nmode = \"centralised\"\n\n[gcks]\naddress = \"192.0.2.9\"\nsecret_file = \"a.psk\"\n";

    const CERTIFIED: &str = "certificate = \"a.pem\"\nprivate_key = \"a.key\"\ntrust_anchors = [\"ca.pem\"]\n";

    fn parse(text: &str) -> Result<File, String> {
        File::parse(Path::new("muster.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn what_cannot_be_read_is_told_by_its_key() {
        for (was, is, names) in [
            ("192.0.2.9", "gcks.example", "line 10: invalid IP address syntax (address)"),
            ("secret_file", "secret_fil", "line 11: unknown field `secret_fil`"),
            ("\"black0\"", "7", "line 4: invalid type: integer `7`, expected a string (interface)"),
        ] {
            assert!(CENTRALISED.contains(was), "{was}");
            let error = parse(&CENTRALISED.replacen(was, is, 1)).expect_err(is);
            assert!(error.starts_with(&format!("muster.toml: {names}")), "{error}");
        }
    }

    #[test]
    fn what_is_the_meshs_is_said_to_be_idle_with_a_key_server() {
        assert!(crate::check::remarks(&parse(CENTRALISED).unwrap()).is_empty());
        let of_mesh = format!("[device]\n{CERTIFIED}crls = [\"crl.pem\"]\n");
        let said = crate::check::remarks(&parse(&CENTRALISED.replacen("[device]", &of_mesh, 1)).unwrap());
        for (said, key) in said.iter().zip(["certificate", "private_key", "trust_anchors", "crls"]) {
            assert!(
                said.starts_with(&format!("device.{key} is not looked at: with a key server it is gcks.{key},")),
                "{said}"
            );
        }
        assert_eq!(said.len(), 4);
    }

    #[test]
    fn each_mode_has_what_it_needs_and_nothing_of_the_other() {
        let mesh = parse(AGREEMENT).unwrap();
        assert!(!mesh.is_centralised() && !mesh.is_black_ipv4());
        let client = parse(CENTRALISED).unwrap();
        assert!(client.is_centralised() && client.is_black_ipv4(), "the key server's family");
        let gcks = client.gcks.unwrap();
        assert_eq!((gcks.port, gcks.doi, gcks.legacy), (848, 2, false));
        assert!(gcks.allow_bypass.is_empty(), "nothing by default");
        assert!(parse(&CENTRALISED.replace("secret_file = \"a.psk\"\n", CERTIFIED)).is_ok());
        for (text, was, is, names) in [
            (AGREEMENT, "certificate = \"a.pem\"\n", "", "device.certificate"),
            (AGREEMENT, "private_key = \"a.key\"\n", "", "device.private_key"),
            (AGREEMENT, "trust_anchors = [\"ca.pem\"]\n", "", "device.trust_anchors"),
            (AGREEMENT, "[black]", "[gcks]\naddress = \"192.0.2.9\"\nsecret_file = \"x\"\n\n[black]", "gcks: is for"),
            (AGREEMENT, "[black]", "[group]\nmode = \"anarchy\"\n\n[black]", "group.mode"),
            (AGREEMENT, "[black]", "[log]\nlevel = \"loud\"\n\n[black]", "log.level"),
            (AGREEMENT, "[black]", "[log]\nformat = \"xml\"\n\n[black]", "log.format"),
            (CENTRALISED, "[gcks]\naddress = \"192.0.2.9\"\nsecret_file = \"a.psk\"\n", "", "gcks: is missing"),
            (CENTRALISED, "secret_file = \"a.psk\"\n", "", "secret_file"),
            (CENTRALISED, "a.psk", "", "gcks.secret_file"),
            (CENTRALISED, "secret_file", "certificate = \"a.pem\"\nsecret_file", "gcks.private_key"),
            (CENTRALISED, "secret_file", "local_identity = \"a b\"\nsecret_file", "gcks.local_identity"),
            (CENTRALISED, "secret_file", "trust_anchors = [\"ca.pem\"]\nsecret_file", "gcks.certificate"),
            (CENTRALISED, "secret_file = \"a.psk\"", &format!("{CERTIFIED}secret_file = \"a.psk\""), "one of the two"),
            (CENTRALISED, "192.0.2.9", "224.0.0.1", "gcks.address"),
            (CENTRALISED, "[gcks]", "[gcks]\nport = 0", "gcks.port"),
            (CENTRALISED, "[gcks]", "[gcks]\nlocal_port = 0", "gcks.local_port"),
            (CENTRALISED, "[gcks]", "[log]\nlevel = \"loud\"\n\n[gcks]", "log.level"),
            (CENTRALISED, "[gcks]", "[log]\nformat = \"xml\"\n\n[gcks]", "log.format"),
            (CENTRALISED, "[gcks]", "[gcks]\nallow_bypass = [\"ff1e::/16\"]", "gcks.allow_bypass"),
            (CENTRALISED, "[group]", "[group]\naddress = \"ff05::6d76\"", "group.address"),
            (CENTRALISED, "\"black0\"", "\"black0\"\naddress = \"2001:db8::1\"", "family of gcks.address"),
        ] {
            assert!(text.contains(was), "{was}");
            let error = parse(&text.replacen(was, is, 1)).expect_err(is);
            assert!(error.contains("muster.toml") && error.contains(names), "{is}: {error}");
        }
    }
}
