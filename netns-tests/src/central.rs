//! A coalition with a key server: routers that are its clients, and one more that it runs on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use ipnet::IpNet;
use muster_netlab::{
    Capture, Coalition, Flow, Frame, HOST_DEVICE, Marker, Plan, Process, Receiver, Sender, wait_until,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::lab::{Answer, Family, Lab, backend, binary, run, sky};
use crate::{control, daemon};

/// Where the key server listens, and re-key messages go.
pub const ISAKMP: u16 = 848;
/// Datagrams a second.
const RATE: u32 = 1000;

/// Everything is gone when it is dropped, also by a panic.
pub struct Central {
    /// Of the black network; red is always both.
    pub family: Family,
    /// The network. Its last router is the key server's machine.
    pub coalition: Coalition,
    /// What is on the black side.
    pub capture: Capture,
    clients: Vec<Option<Process>>,
    gcks: Option<Process>,
    /// On which router it runs.
    gcks_at: usize,
    /// Clients that show a certificate: their identities, and how their configurations say it.
    certified: BTreeMap<usize, (String, String)>,
    /// More of the key server's own section.
    gcks_section: String,
    /// Without a return channel.
    one_way: BTreeSet<usize>,
    folder: TempDir,
}

impl Central {
    /// A network of `clients` routers and a key server; nothing runs yet.
    pub fn new(family: Family, clients: usize) -> Central {
        Central::with_gcks_at(family, clients, clients)
    }

    /// The same with the key server on this router, beside the client there if it is one of theirs.
    pub fn with_gcks_at(family: Family, clients: usize, gcks_at: usize) -> Central {
        let folder = TempDir::new().expect("a temporary folder");
        let coalition = Coalition::build(Plan::new(clients + 1, 1).expect("a plan")).expect("a coalition");
        if let Some(sky) = sky() {
            coalition.set_sky(sky).expect("a sky");
        }
        let mut watch = coalition.watch([ISAKMP, ISAKMP]);
        watch.ports = vec![ISAKMP, ISAKMP + 1];
        let capture = Capture::start(coalition.black(), watch).expect("a capture");
        let clients = (0..clients).map(|_| None).collect();
        let (certified, gcks_section) = (BTreeMap::new(), String::new());
        let one_way = BTreeSet::new();
        let lab = Central {
            family,
            coalition,
            capture,
            clients,
            gcks: None,
            gcks_at,
            one_way,
            certified,
            gcks_section,
            folder,
        };
        for client in 0..lab.clients.len() {
            lab.write_private(
                &format!("{}.psk", lab.name(client)),
                &format!("the secret of client number {client:08}\n"),
            );
            lab.configure(client, "");
        }
        lab
    }

    /// Of groups and VPNs in the key server's configuration: short, but below a sky so long that new keys are everywhere before
    /// they are sent under, also such as were lost and go again.
    pub fn delays() -> &'static str {
        match sky() {
            None => "activation_delay = \"1s\"\ndeactivation_delay = \"2s\"\n",
            Some(_) => "activation_delay = \"10s\"\ndeactivation_delay = \"5s\"\n",
        }
    }

    /// What this client may let go unprotected: prefixes.
    pub fn allow_bypass(&self, client: usize, prefixes: &[IpNet]) {
        let prefixes: Vec<String> = prefixes.iter().map(|prefix| format!("\"{prefix}\"")).collect();
        self.configure(client, &format!("allow_bypass = [{}]", prefixes.join(", ")));
    }

    /// Has a client show a certificate in place of a secret: the key server expects it to be `identity`, and these lines stand in
    /// its own configuration's `[gcks]`.
    pub fn certify(&mut self, client: usize, identity: &str, lines: &str) {
        self.certified.insert(client, (identity.to_owned(), lines.to_owned()));
        self.configure(client, "");
    }

    /// Has a client show its secret again.
    pub fn share_secret(&mut self, client: usize) {
        self.certified.remove(&client);
        self.configure(client, "");
    }

    /// More lines for the key server's `[gcks]`.
    pub fn extend_gcks(&mut self, lines: &str) {
        self.gcks_section += lines;
    }

    /// This client has no return channel, from its next start on, and for the key server from its next configuration on.
    pub fn cut_return_channel(&mut self, client: usize) {
        self.one_way.insert(client);
        self.configure(client, "return_channel = false");
    }

    /// The key server's configuration: all clients, and these groups and VPNs.
    pub fn configure_gcks(&self, profiles: &str) {
        let mut text = format!(
            "[gcks]\ninterface = \"black0\"\naddress = \"{}\"\nstate_dir = \"gcks.state\"\ncontrol = \"gcks.sock\"\none_way_period = \"10s\"\n{}\n[log]\nlevel = \"debug\"\n\n",
            self.black_address(self.gcks_at),
            self.gcks_section,
        );
        for client in 0..self.clients.len() {
            let (name, address) = (self.name(client), self.black_address(client));
            let shown = match self.certified.get(&client) {
                Some((identity, _)) => format!("identity = \"{identity}\""),
                None => format!("secret_file = \"{name}.psk\""),
            };
            let channel = if self.one_way.contains(&client) { "return_channel = false\n" } else { "" };
            write!(text, "[clients.{name}]\naddress = \"{address}\"\n{shown}\n{channel}\n").expect("a string");
        }
        self.write_private("gcks.toml", &(text + profiles));
    }

    /// A client's configuration, for its next start or reload. `more`: lines of its section `[gcks]`, or behind it.
    pub fn configure(&self, client: usize, more: &str) {
        let (name, plan) = (self.name(client), &self.coalition.routers()[client].plan);
        let text = format!(
            r#"[device]
name = "{name}"
control = "{name}.sock"
state_dir = "{name}.state"

[black]
interface = "black0"

[red]
interfaces = ["red0"]
prefixes = ["{}", "{}"]

[group]
mode = "centralised"

[gcks]
address = "{}"
{}
{}
{more}

[dataplane]
backend = "{}"

[log]
level = "debug"
"#,
            plan.red_v6(),
            plan.red_v4(),
            self.black_address(self.gcks_at),
            self.certified.get(&client).map_or(format!("secret_file = \"{name}.psk\""), |(_, lines)| lines.clone()),
            if client == self.gcks_at { "local_port = 849" } else { "" },
            backend(),
        );
        fs::write(self.path(&format!("{name}.toml")), text).expect("the configuration is written");
    }

    /// Another text of a file that only its owner may read.
    pub fn write_private(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("it is written");
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).expect("it can be closed");
    }

    /// A file of this laboratory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A client's name, also at the key server.
    pub fn name(&self, client: usize) -> String {
        self.coalition.routers()[client].plan.name()
    }

    /// A router's black address.
    pub fn black_address(&self, router: usize) -> IpAddr {
        self.family.black_address(&self.coalition, router)
    }

    /// Starts the key server.
    pub fn start_gcks(&mut self) {
        self.gcks = Some(self.spawn(self.gcks_at, &["gcks", "run"], "gcks"));
    }

    /// Ends the key server without a word.
    pub fn kill_gcks(&mut self) {
        self.gcks.take().expect("it runs").kill().expect("it can be killed");
    }

    /// Has the key server read its configuration again.
    pub fn hang_up_gcks(&mut self) {
        self.signal_gcks(Signal::SIGHUP);
    }

    /// Sends a signal to the key server.
    pub fn signal_gcks(&mut self, signal: Signal) {
        self.gcks.as_mut().expect("it runs").signal(signal).expect("it can be signalled");
    }

    /// Has a client read its configuration again.
    pub fn hang_up(&mut self, client: usize) {
        let process = self.clients[client].as_mut().expect("it runs");
        process.signal(nix::sys::signal::Signal::SIGHUP).expect("it can be signalled");
    }

    /// Starts a client.
    pub fn start(&mut self, client: usize) {
        self.clients[client] = Some(self.spawn(client, &["run"], &self.name(client)));
    }

    /// Ends a client without a word.
    pub fn kill(&mut self, client: usize) {
        self.clients[client].take().expect("it runs").kill().expect("it can be killed");
    }

    /// Ends a client in order; it must do so within three seconds, or longer below a sky, and with status 0.
    pub fn terminate(&mut self, client: usize) {
        let process = self.clients[client].take().expect("it runs");
        daemon::terminate(process, || self.log(&self.name(client)));
    }

    fn spawn(&self, router: usize, arguments: &[&str], name: &str) -> Process {
        let at = &self.coalition.routers()[router].namespace;
        daemon::spawn(at, binary(), arguments, self.folder.path(), name)
    }

    /// Asks the key server, as its operator does.
    pub fn ask_gcks(&self, arguments: &[&str]) -> Answer {
        run(Command::new(binary()).arg("gcks").args(arguments).arg("--control").arg(self.path("gcks.sock")))
    }

    /// Has the key server read its configuration again, as its unit does: by the socket that is named there.
    pub fn reload_gcks(&self) -> Answer {
        run(Command::new(binary()).args(["gcks", "reload", "--config"]).arg(self.path("gcks.toml")))
    }

    /// An order to the key server, which must be done.
    pub fn order(&self, arguments: &[&str]) {
        let answer = self.ask_gcks(arguments);
        assert_eq!(answer.status, 0, "{answer:?}\n{}", self.log("gcks"));
    }

    /// Asks a client, as its operator does.
    pub fn ask(&self, client: usize, arguments: &[&str]) -> Answer {
        let control = self.path(&format!("{}.sock", self.name(client)));
        run(Command::new(binary()).args(arguments).arg("--control").arg(control))
    }

    /// The key server's answer, without a process in between; `None` while it gives none.
    pub fn call_gcks(&self, method: &str) -> Option<Value> {
        control::call(&self.path("gcks.sock"), method)
    }

    /// A client's answer, likewise.
    pub fn call(&self, client: usize, method: &str) -> Option<Value> {
        control::call(&self.path(&format!("{}.sock", self.name(client))), method)
    }

    /// What the key server says of a client; `None` while it says nothing.
    pub fn state_of(&self, client: usize) -> Option<Value> {
        let (clients, name) = (self.call_gcks("clients")?, self.name(client));
        clients.as_array()?.iter().find(|one| one["name"] == name).cloned()
    }

    /// What was written to a log: of `gcks`, or a client's name.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// Waits for a condition.
    ///
    /// # Panics
    /// With the ends of all logs when it does not come.
    pub fn wait(&self, limit: Duration, what: &str, condition: impl FnMut() -> bool) {
        let limit = Lab::patience(limit);
        assert!(wait_until(limit, condition), "waited {limit:?} for {what}\n{}", self.describe());
    }

    /// Waits until these are connected, by their own word and the key server's.
    pub fn wait_for_connected(&self, clients: &[usize]) {
        self.wait(Duration::from_secs(15), "connections", || {
            let Some(all) = self.call_gcks("clients") else { return false };
            clients.iter().all(|client| {
                let name = self.name(*client);
                let there =
                    all.as_array().into_iter().flatten().any(|one| one["name"] == name && one["state"] == "connected");
                there && self.call(*client, "status").is_some_and(|status| status["state"] == "connected")
            })
        });
    }

    /// SPIs of what a client sends to groups (`group`) or to other routers (`unicast`), in order.
    pub fn sends(&self, client: usize, kind: &str) -> Vec<u64> {
        self.spis(client, "out", kind)
    }

    /// SPIs of what it receives.
    pub fn receives(&self, client: usize, kind: &str) -> Vec<u64> {
        self.spis(client, "in", kind)
    }

    fn spis(&self, client: usize, direction: &str, kind: &str) -> Vec<u64> {
        let sas = self.call(client, "sas").unwrap_or_default();
        let of = |sa: &&Value| sa["direction"] == direction && sa["kind"] == kind;
        let mut spis: Vec<u64> =
            sas.as_array().into_iter().flatten().filter(of).filter_map(|sa| sa["spi"].as_u64()).collect();
        spis.sort_unstable();
        spis
    }

    /// The host behind a client.
    pub fn host(&self, client: usize, ipv4: bool) -> SocketAddr {
        let plan = &self.coalition.routers()[client].plan;
        let address: IpAddr = if ipv4 { plan.host_v4().into() } else { plan.host_v6().into() };
        SocketAddr::new(address, 5000)
    }

    /// A flow, and who counts it behind each of `to`.
    pub fn flow(&self, from: usize, to: &[usize], destination: SocketAddr, count: u64) -> (Sender, Vec<Receiver>) {
        let marker = Marker::random().expect("a marker");
        self.capture.add_marker(marker);
        let routers = self.coalition.routers();
        let receiver =
            |to: &usize| Receiver::start(&routers[*to].host, HOST_DEVICE, destination, marker).expect("a receiver");
        let receivers = to.iter().map(receiver).collect();
        let flow = Flow { to: destination, marker, count, rate: RATE, size: 100 };
        (Sender::start(&routers[from].host, HOST_DEVICE, flow).expect("a sender"), receivers)
    }

    /// Sends `count` datagrams that all arrive behind `to`, once, and none behind `outside`, where hosts listen, too. One more
    /// goes ahead and is waited for: the kernel keeps few of a new flow.
    ///
    /// # Panics
    /// When they do not, or do.
    pub fn carry(&self, from: usize, to: &[usize], outside: &[usize], destination: SocketAddr, count: u64) {
        self.wait(Duration::from_secs(15), &format!("a way from {from} to {destination} everywhere"), || {
            let (sender, opened) = self.flow(from, to, destination, 1);
            sender.finish();
            wait_until(Lab::patience(Duration::from_millis(200)), || opened.iter().all(|one| one.unique() == 1))
        });
        let (sender, receivers) = self.flow(from, &[to, outside].concat(), destination, count);
        assert_eq!(sender.finish(), count, "not all could be sent");
        for (client, receiver) in to.iter().zip(&receivers) {
            let what = format!("all of the flow to {destination} at {}", self.name(*client));
            self.wait(Duration::from_secs(10), &what, || receiver.unique() == count);
            assert_eq!(receiver.tally().duplicates, 0, "at {}", self.name(*client));
        }
        for (client, receiver) in outside.iter().zip(&receivers[to.len()..]) {
            assert_eq!(receiver.unique(), 0, "at {}, which is outside", self.name(*client));
        }
    }

    /// How many datagrams of UDP left this router on black.
    pub fn udp_from(&self, router: usize) -> usize {
        assert!(self.capture.settle(Duration::from_secs(5)));
        let address = self.black_address(router);
        self.capture.frames().iter().filter(|frame| udp_source(&frame.bytes) == Some(address)).count()
    }

    /// Nothing of red was on black, and no two packets had one key and one number: that would be the end of AES-GCM.
    ///
    /// # Panics
    /// When there was.
    pub fn assert_black_is_sound(&self) {
        self.assert_black_is_sound_but(|_| false);
    }

    /// The same, but that these frames may show what they are.
    ///
    /// # Panics
    /// When others did.
    pub fn assert_black_is_sound_but(&self, may_be_clear: impl Fn(&Frame) -> bool) {
        assert!(self.capture.settle(Duration::from_secs(5)));
        let frames = self.capture.frames();
        let clear = frames.iter().filter(|frame| frame.cleartext);
        let (allowed, others): (Vec<&Frame>, Vec<&Frame>) = clear.partition(|frame| may_be_clear(frame));
        assert!(others.is_empty(), "{:?} {others:?}", self.capture.examples());
        // Those that were not kept.
        assert_eq!(self.capture.stats().cleartext, allowed.len() as u64, "{:?}", self.capture.examples());
        let mut seen = BTreeMap::new();
        for esp in frames.iter().filter_map(|frame| esp_of(&frame.bytes)) {
            let (numbers, sealed) = esp.split_at(8);
            assert_eq!(*seen.entry(numbers).or_insert(sealed), sealed, "SPI and number {numbers:02x?} twice");
        }
        assert!(!seen.is_empty(), "there was none at all");
    }

    fn describe(&self) -> String {
        let names = (0..self.clients.len()).map(|client| self.name(client)).chain(["gcks".to_owned()]);
        let tail = |name: String| {
            let log = self.log(&name);
            let lines: Vec<&str> = log.lines().collect();
            format!("{name}:\n  {}\n", lines[lines.len().saturating_sub(25)..].join("\n  "))
        };
        let planes = (0..self.clients.len()).map(|client| {
            let status = self.call(client, "status").unwrap_or_default();
            format!("{}: {} {}\n", self.name(client), status["state"], status["dataplane"])
        });
        names.map(tail).chain(planes).collect()
    }
}

/// The source of a frame that holds UDP.
fn udp_source(frame: &[u8]) -> Option<IpAddr> {
    let (source, protocol) = match frame.get(12..14)? {
        [0x86, 0xdd] => (IpAddr::from(<[u8; 16]>::try_from(frame.get(22..38)?).ok()?), frame.get(20)?),
        [0x08, 0x00] => (IpAddr::from(<[u8; 4]>::try_from(frame.get(26..30)?).ok()?), frame.get(23)?),
        _ => return None,
    };
    (*protocol == 17).then_some(source)
}

/// From SPI and sequence number on. SPIs are the key server's, which has each once.
fn esp_of(frame: &[u8]) -> Option<&[u8]> {
    let (header, protocol) = match frame.get(12..14)? {
        [0x86, 0xdd] => (14 + 40, frame.get(20)?),
        [0x08, 0x00] => (14 + 20, frame.get(23)?),
        _ => return None,
    };
    frame.get(header..).filter(|esp| *protocol == 50 && esp.len() > 8)
}
