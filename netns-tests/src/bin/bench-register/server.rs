//! The key server, looked at from outside.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_netlab::{Namespace, Process};
use muster_netns_tests::{anonymous, binary, call, muster, processor, spawn, wait_until};
use serde_json::Value;
use tempfile::TempDir;

use crate::fleet::{self, PORT, REKEY, SERVER};

/// Until it serves.
const LIMIT: Duration = Duration::from_secs(30);

/// Killed when it is dropped, and its folder removed.
pub(crate) struct KeyServer {
    process: Process,
    folder: TempDir,
}

impl KeyServer {
    /// Starts it with so many clients, its store below `folder`.
    ///
    /// # Panics
    /// When it does not serve.
    pub(crate) fn start(namespace: &Namespace, folder: &Path, clients: usize) -> KeyServer {
        let folder = TempDir::new_in(folder).expect("a folder");
        let config = folder.path().join("gcks.toml");
        fs::write(&config, configuration(clients)).expect("the configuration is written");
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).expect("it can be closed");
        let process = spawn(namespace, binary(), &["gcks", "run"], folder.path(), "gcks");
        let server = KeyServer { process, folder };
        let serves = || server.status().is_some_and(|status| status["state"] == "serving");
        assert!(wait_until(LIMIT, serves), "it does not serve:\n{}", server.log());
        server
    }

    /// Octets of memory that it has for itself.
    pub(crate) fn memory(&self) -> u64 {
        anonymous(self.process.id())
    }

    /// Processor time used so far.
    pub(crate) fn processor(&self) -> Duration {
        processor(self.process.id())
    }

    /// Transactions of the store so far.
    pub(crate) fn transactions(&self) -> u64 {
        self.number("transactions")
    }

    /// Datagrams refused so far.
    pub(crate) fn refused(&self) -> u64 {
        self.number("refused")
    }

    /// An order, which must be done.
    pub(crate) fn order(&self, arguments: Vec<String>) {
        let control = self.control().display().to_string();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let answer = muster(&[&["gcks"], arguments.as_slice(), &["--control", &control]].concat());
        assert_eq!(answer.status, 0, "{answer:?}\n{}", self.log());
    }

    fn number(&self, key: &str) -> u64 {
        let status = self.status().unwrap_or_default();
        status[key].as_u64().unwrap_or_else(|| panic!("no {key} in {status}\n{}", self.log()))
    }

    fn status(&self) -> Option<Value> {
        call(&self.control(), "status")
    }

    fn control(&self) -> PathBuf {
        self.folder.path().join("gcks.sock")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("gcks.log")).unwrap_or_default()
    }
}

/// One group of all clients, whose first one sends one flow.
fn configuration(clients: usize) -> String {
    let mut text = format!(
        "[gcks]\ninterface = \"lo\"\naddress = \"{SERVER}\"\nport = {PORT}\nstate_dir = \"state\"\ncontrol = \"gcks.sock\"\n"
    );
    for client in 0..clients {
        let (name, address, secret) = (fleet::name(client), fleet::address(client), fleet::secret(client));
        write!(text, "\n[clients.{name}]\naddress = \"{address}\"\nsecret = \"{secret}\"\n").expect("a string");
    }
    let members: Vec<String> = (0..clients).map(|client| format!("\"{}\"", fleet::name(client))).collect();
    let (members, sender) = (members.join(", "), fleet::name(0));
    write!(
        text,
        "\n[groups.all]\nmembers = [{members}]\nrekey = \"{REKEY}:{PORT}\"\n\
         flows = [{{ senders = [\"{sender}\"], source = \"10.0.0.0/8\", group = \"239.1.1.1\", protocol = \"udp\" }}]\n"
    )
    .expect("a string");
    text
}
