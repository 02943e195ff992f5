//! A coalition with daemons.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use muster_netlab::{Capture, Coalition, Plan, Process, Sky, wait_until};
use serde_json::Value;
use tempfile::TempDir;

use crate::control;

/// The default port of discovery and the one after it.
pub const PORTS: [u16; 2] = [4860, 4861];
/// The same for a second daemon on a router.
const SECOND_PORTS: [u16; 2] = [4870, 4871];
/// Below a sky everything may take so many times as long.
const PATIENCE: u32 = 6;

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Answer {
    /// Exit status; -1 when a signal ended it.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Answer {
    /// Standard output as JSON.
    ///
    /// # Panics
    /// When the command failed or printed something else.
    pub fn json(&self) -> Value {
        assert_eq!(self.status, 0, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs the program with these arguments, outside any laboratory.
pub fn muster(arguments: &[&str]) -> Answer {
    run(Command::new(binary()).args(arguments))
}

/// Which version of IP the black network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Family; 2] = [Family::V6, Family::V4];

    /// A router's black address.
    pub(crate) fn black_address(self, coalition: &Coalition, router: usize) -> IpAddr {
        let plan = &coalition.routers()[router].plan;
        match self {
            Family::V4 => plan.black_v4().addr().into(),
            Family::V6 => plan.black_v6().addr().into(),
        }
    }

    /// Where the hellos go.
    pub fn discovery_group(self) -> IpAddr {
        match self {
            Family::V4 => IpAddr::from([239, 255, 0x6d, 0x75]),
            Family::V6 => IpAddr::from([0xff05, 0, 0, 0, 0, 0, 0, 0x6d75]),
        }
    }

    /// Where the multicast ESP goes by default.
    pub fn esp_group(self) -> IpAddr {
        match self {
            Family::V4 => IpAddr::from([239, 255, 0x6d, 0x76]),
            Family::V6 => IpAddr::from([0xff05, 0, 0, 0, 0, 0, 0, 0x6d76]),
        }
    }
}

/// Routers with daemons; everything is gone when it is dropped, also by a panic.
pub struct Lab {
    /// Of the black network that the daemons use; red is always both.
    pub family: Family,
    pub(crate) daemons: Vec<Option<Process>>,
    /// The network.
    pub coalition: Coalition,
    /// What is on the black side.
    pub capture: Capture,
    pub(crate) folder: TempDir,
    /// What runs as daemon.
    pub(crate) program: PathBuf,
}

impl Lab {
    /// A network of `routers` routers of three nations with certificates and configurations; no daemon runs yet. Black
    /// is IPv6.
    pub fn new(routers: usize) -> Lab {
        Lab::on(Family::V6, routers)
    }

    /// As [`Lab::new`], with a choice.
    pub fn on(family: Family, routers: usize) -> Lab {
        Lab::of(family, Plan::new(routers, 3.min(routers)).expect("a plan"))
    }

    /// As [`Lab::on`], with routers in the black network, which do not route yet ([`crate::Routing`]).
    pub fn routed(family: Family, routers: usize) -> Lab {
        Lab::of(family, Plan::routed(routers, 3.min(routers)).expect("a plan"))
    }

    fn of(family: Family, plan: Plan) -> Lab {
        let routers = plan.routers.len();
        let folder = TempDir::new().expect("a temporary folder");
        let coalition = Coalition::build(plan).expect("a coalition");
        if let Some(sky) = sky() {
            coalition.set_sky(sky).expect("a sky");
        }
        let mut watch = coalition.watch(PORTS);
        watch.ports.extend(SECOND_PORTS);
        let capture = Capture::start(coalition.black(), watch).expect("a capture");
        let lab = Lab {
            family,
            daemons: (0..routers).map(|_| None).collect(),
            coalition,
            capture,
            folder,
            program: binary().to_owned(),
        };
        for nation in lab.nations() {
            lab.pki(&["init", lab.path(&nation).to_str().expect("UTF-8"), "--name", &nation]);
        }
        for router in 0..routers {
            lab.issue(router);
            lab.configure_as_usual(router);
        }
        lab
    }

    /// A network in which all daemons run and are one group.
    pub fn group(routers: usize) -> Lab {
        Lab::group_on(Family::V6, routers)
    }

    /// As [`Lab::group`], with a choice.
    pub fn group_on(family: Family, routers: usize) -> Lab {
        let mut lab = Lab::on(family, routers);
        (0..routers).for_each(|router| lab.start(router));
        lab.wait_for_group(&(0..routers).collect::<Vec<_>>());
        lab
    }

    /// Of all daemons here. Short, so that dead times are; every bound below follows from it. By satellite no shorter
    /// than the default: three intervals must be longer than the way there and back.
    pub fn hello_interval() -> Duration {
        Duration::from_millis(if sky() == Some(Sky::Satellite) { 1000 } else { 250 })
    }

    /// Four of the hello intervals that all daemons here have.
    pub fn dead_time() -> Duration {
        Lab::hello_interval() * 4
    }

    /// Whether the sky repeats packets and lets them overtake each other: then receivers count replays.
    pub fn is_foul() -> bool {
        sky() == Some(Sky::Foul)
    }

    /// As long as what takes `limit` may take below this sky.
    pub fn patience(limit: Duration) -> Duration {
        if sky().is_some() { limit * PATIENCE } else { limit }
    }

    /// A file of this laboratory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A router's device name.
    pub fn name(&self, router: usize) -> String {
        self.coalition.routers()[router].plan.name()
    }

    /// A router's black address.
    pub fn black_address(&self, router: usize) -> IpAddr {
        self.family.black_address(&self.coalition, router)
    }

    /// The address of the host behind a router, of the family of black.
    pub fn red_host(&self, router: usize) -> IpAddr {
        let plan = &self.coalition.routers()[router].plan;
        match self.family {
            Family::V4 => plan.host_v4().into(),
            Family::V6 => plan.host_v6().into(),
        }
    }

    /// Whether the daemons use the kernel's own ESP.
    pub fn is_kernel(&self) -> bool {
        is_kernel()
    }

    /// Writes a router's configuration; `change` may replace parts of the text.
    pub fn configure(&self, router: usize, change: impl FnOnce(&mut String)) {
        let usual = self.usual_configuration(router);
        let mut text = usual.clone();
        change(&mut text);
        assert_ne!(text, usual, "the change fits the usual configuration");
        self.write_configuration(router, &text);
    }

    /// The same without a change.
    pub fn configure_as_usual(&self, router: usize) {
        self.write_configuration(router, &self.usual_configuration(router));
    }

    /// As usual but for the data plane.
    pub fn configure_backend(&self, router: usize, backend: &str) {
        self.write_configuration(router, &self.configuration(router, backend));
    }

    /// Daemons that are started from now on run another program than the usual one.
    pub fn use_program(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// In a router's usual configuration: hellos so often.
    pub fn set_hello_interval(text: &mut String, interval: Duration) {
        let usual = hello_line(Lab::hello_interval());
        assert!(text.contains(&usual), "it is no usual configuration");
        *text = text.replace(&usual, &hello_line(interval));
    }

    /// In a router's usual configuration: own keys are that old at most. A change of the group is several ways there and
    /// back, and all members' changes follow each other: so times in a test that orders them follow from the sky, too.
    pub fn set_leaf_refresh(text: &mut String, age: Duration) {
        assert!(text.contains("[group]\n"), "it is no usual configuration");
        *text = text.replace("[group]\n", &format!("[group]\nleaf_refresh = \"{}ms\"\n", age.as_millis()));
    }

    fn write_configuration(&self, router: usize, text: &str) {
        fs::write(self.path(&format!("{}.toml", self.name(router))), text).expect("the configuration is written");
    }

    fn usual_configuration(&self, router: usize) -> String {
        self.configuration(router, &backend())
    }

    fn configuration(&self, router: usize, backend: &str) -> String {
        let name = self.name(router);
        let plan = &self.coalition.routers()[router].plan;
        let anchors: Vec<String> = self.nations().iter().map(|nation| format!("\"{nation}/ca.pem\"")).collect();
        let mut text = String::new();
        let nation = plan.nation.name;
        write!(
            text,
            r#"[device]
name = "{name}"
certificate = "{nation}/{name}.pem"
private_key = "{nation}/{name}.key"
trust_anchors = [{}]
control = "{name}.sock"
state_dir = "{name}.state"

[black]
interface = "black0"

[discovery]
group = "{}"
{}

[red]
interfaces = ["red0"]
prefixes = ["{}", "{}"]

[group]
name = "coalition"

[dataplane]
backend = "{}"
allow_key_export = true
"#,
            anchors.join(", "),
            self.family.discovery_group(),
            hello_line(Lab::hello_interval()),
            plan.red_v6(),
            plan.red_v4(),
            backend,
        )
        .expect("a string takes everything");
        if sky().is_some() {
            // Else a new key is used before everybody can have it: that is far away, or was lost and comes again.
            text = text.replace("name = \"coalition\"\n", "name = \"coalition\"\nactivation_delay = \"5s\"\n");
        }
        text
    }

    /// Asks a daemon, as its operator does.
    pub fn ask(&self, router: usize, arguments: &[&str]) -> Answer {
        self.ask_at(&format!("{}.sock", self.name(router)), arguments)
    }

    /// Asks the daemon behind this control socket of the laboratory.
    pub fn ask_at(&self, control: &str, arguments: &[&str]) -> Answer {
        run(Command::new(binary()).args(arguments).arg("--control").arg(self.path(control)))
    }

    /// Asks a daemon and reads its JSON.
    pub fn get(&self, router: usize, command: &str) -> Value {
        self.ask(router, &[command, "--json"]).json()
    }

    /// A daemon's answer on its control socket, without a process in between; `None` while it gives none.
    pub fn call(&self, router: usize, method: &str) -> Option<Value> {
        control::call(&self.path(&format!("{}.sock", self.name(router))), method)
    }

    /// A daemon's key fingerprint, epoch and number of members; `None` while it does not answer.
    pub fn state(&self, router: usize) -> Option<(String, u64, u64)> {
        let status = self.call(router, "status")?;
        let group = &status["group"];
        Some((group["key_fingerprint"].as_str()?.to_owned(), group["epoch"].as_u64()?, group["members"].as_u64()?))
    }

    /// Whether these are one group of nobody else, and send under its key.
    pub fn is_group(&self, routers: &[usize]) -> bool {
        let mut key = None;
        routers.iter().all(|router| {
            let Some(status) = self.call(*router, "status") else { return false };
            let group = &status["group"];
            let same = key.get_or_insert_with(|| group["key_fingerprint"].clone()) == &group["key_fingerprint"];
            same && group["members"] == routers.len() as u64 && group["active"] == true
        })
    }

    /// Waits until these are one group; gives its key's fingerprint.
    ///
    /// # Panics
    /// When that takes longer than ten seconds.
    pub fn wait_for_group(&self, routers: &[usize]) -> String {
        self.wait_for_group_within(Duration::from_secs(10), routers);
        self.state(routers[0]).expect("it answered just now").0
    }

    /// As [`Lab::wait_for_group`], with a limit; gives how long it took.
    ///
    /// # Panics
    /// When it takes longer.
    pub fn wait_for_group_within(&self, limit: Duration, routers: &[usize]) -> Duration {
        self.wait(limit, &format!("routers {routers:?} to be one group"), || self.is_group(routers))
    }

    /// Waits until each of these knows what is behind all members of its group; gives how long it took.
    ///
    /// # Panics
    /// When that takes longer than ten seconds.
    pub fn wait_for_prefixes(&self, routers: &[usize]) -> Duration {
        let known = |router: &usize| {
            let members = self.call(*router, "members");
            let mut members = members.iter().flat_map(|members| members.as_array()).flatten().peekable();
            members.peek().is_some() && members.all(|member| member["prefixes"] != serde_json::json!([]))
        };
        self.wait(Duration::from_secs(10), "all members' prefixes", || routers.iter().all(known))
    }

    /// Waits until a group is as it will stay: the SAs of earlier epochs are gone.
    ///
    /// # Panics
    /// When that takes longer.
    pub fn wait_until_quiet(&self, limit: Duration, routers: &[usize]) {
        let sas = if routers.len() == 1 { 0 } else { routers.len() };
        let of_the_group = |router: usize| {
            let all = self.call(router, "sas")?;
            Some(all.as_array()?.iter().filter(|sa| sa["kind"] == "group").count())
        };
        let quiet = |router: &usize| {
            let is_group = self.call(*router, "status").is_some_and(|status| {
                let group = &status["group"];
                group["active"] == true && group["members"] == routers.len()
            });
            is_group && of_the_group(*router) == Some(sas)
        };
        self.wait(limit, &format!("routers {routers:?} to be quiet"), || {
            // Looked at seldom, so that looking disturbs nothing.
            std::thread::sleep(Duration::from_millis(20));
            routers.iter().all(quiet)
        });
    }

    /// Waits for a condition; below a sky six times as long.
    ///
    /// # Panics
    /// With the state of all daemons when it does not come.
    pub fn wait(&self, limit: Duration, what: &str, condition: impl FnMut() -> bool) -> Duration {
        let limit = Lab::patience(limit);
        let begun = Instant::now();
        assert!(wait_until(limit, condition), "waited {limit:?} for {what}\n{}", self.describe());
        begun.elapsed()
    }

    /// Which router is transaction manager, by the word of `router`.
    pub fn manager(&self, router: usize) -> usize {
        let status = self.get(router, "status");
        let tm = status["group"]["transaction_manager"].as_str().expect("a member id").to_owned();
        let members = self.get(router, "members");
        let member = members.as_array().into_iter().flatten().find(|member| member["member_id"] == tm.as_str());
        let name = member.expect("it is a member")["name"].as_str().expect("a name").to_owned();
        (0..self.daemons.len()).find(|router| self.name(*router) == name).expect("it is one of ours")
    }

    /// What a daemon wrote to its log.
    pub fn log(&self, router: usize) -> String {
        fs::read_to_string(self.path(&format!("{}.log", self.name(router)))).unwrap_or_default()
    }

    /// Makes a router's certificate.
    pub fn issue(&self, router: usize) {
        let nation = self.coalition.routers()[router].plan.nation.name;
        self.pki(&["issue", self.path(nation).to_str().expect("UTF-8"), "--name", &self.name(router)]);
    }

    /// Revokes a router's certificate: its nation's list is a file of this laboratory, [`Lab::crl`].
    pub fn revoke(&self, router: usize) {
        let nation = self.coalition.routers()[router].plan.nation.name;
        self.pki(&["revoke", self.path(nation).to_str().expect("UTF-8"), "--name", &self.name(router)]);
    }

    /// Where a router's nation keeps its revocation list, relative to the configurations.
    pub fn crl(&self, router: usize) -> String {
        format!("{}/crl.pem", self.coalition.routers()[router].plan.nation.name)
    }

    /// Makes a router's certificate anew: with another key and another member id, it is a stranger to all.
    pub fn reissue(&self, router: usize) {
        let nation = self.coalition.routers()[router].plan.nation.name;
        for kind in ["pem", "key"] {
            let file = self.path(&format!("{nation}/{}.{kind}", self.name(router)));
            fs::remove_file(file).expect("the old one was there");
        }
        self.issue(router);
    }

    /// Runs a `pki` command that must succeed.
    pub fn pki(&self, arguments: &[&str]) {
        let answer = muster(&[&["pki"], arguments].concat());
        assert_eq!(answer.status, 0, "pki {arguments:?}: {answer:?}");
    }

    fn nations(&self) -> Vec<String> {
        let mut nations: Vec<String> =
            self.coalition.routers().iter().map(|router| router.plan.nation.name.to_owned()).collect();
        nations.sort();
        nations.dedup();
        nations
    }

    /// What the host behind a router was too slow to read: then a datagram is not lost on its way.
    fn dropped_by_host(&self, router: usize) -> String {
        let read = || {
            let counted = fs::read_to_string("/proc/thread-self/net/snmp6").unwrap_or_default();
            let ipv6 =
                counted.lines().find_map(|line| line.strip_prefix("Udp6RcvbufErrors")).unwrap_or("?").trim().to_owned();
            let counted = fs::read_to_string("/proc/thread-self/net/snmp").unwrap_or_default();
            let mut lines = counted.lines().filter(|line| line.starts_with("Udp: "));
            let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
            let at = names.split(' ').position(|name| name == "RcvbufErrors");
            let ipv4 = at.and_then(|at| values.split(' ').nth(at)).unwrap_or("?");
            format!("{ipv6} of IPv6, {ipv4} of IPv4")
        };
        self.coalition.routers()[router].host.run(read).unwrap_or_else(|error| error.to_string())
    }

    fn describe(&self) -> String {
        let one = |router: usize| {
            let tail: Vec<&str> = Vec::new();
            let log = self.log(router);
            let tail = log.lines().rev().take(12).fold(tail, |mut tail, line| {
                tail.insert(0, line);
                tail
            });
            let plane = self.ask(router, &["status", "--json"]).stdout;
            let plane = serde_json::from_str::<Value>(&plane).map(|status| status["dataplane"].to_string());
            let routes = self.ask(router, &["routes"]).stdout;
            let (name, state) = (self.name(router), self.state(router));
            let late = self.dropped_by_host(router);
            format!("{name}: {state:?} {plane:?}\nits host, late: {late}\n{routes}\n  {}\n", tail.join("\n  "))
        };
        (0..self.daemons.len()).map(one).collect()
    }
}

pub(crate) fn run(command: &mut Command) -> Answer {
    let output = command.stdin(Stdio::null()).output().expect("the program runs");
    Answer {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Whether the daemons of all laboratories use the kernel's own ESP.
pub fn is_kernel() -> bool {
    backend() == "kernel"
}

/// The data plane of the daemons: MUSTER_BACKEND names another than that in user space.
pub(crate) fn backend() -> String {
    std::env::var("MUSTER_BACKEND").unwrap_or_else(|_| "userspace".into())
}

fn hello_line(interval: Duration) -> String {
    format!("hello_interval = \"{}ms\"", interval.as_millis())
}

/// What lies between the routers: MUSTER_SKY, where the kernel has netem.
pub(crate) fn sky() -> Option<Sky> {
    std::env::var("MUSTER_SKY").ok().map(|name| name.parse().expect("MUSTER_SKY"))
}

/// The program: MUSTER_PROGRAM names one that is there; else it is built once for each run of the tests with the profile that they were built with.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(program) = std::env::var_os("MUSTER_PROGRAM") {
            return program.into();
        }
        // target/<profile>/deps/<this test> or target/<profile>/<this benchmark>
        let own = std::env::current_exe().expect("the own path");
        let folder = own.parent().expect("target/<profile> or deps in it");
        let target = if folder.ends_with("deps") { folder.parent().expect("target/<profile>") } else { folder };
        let mut build = Command::new(env!("CARGO"));
        match target.ends_with("release") {
            true => build.args(["build", "--release", "--package", "muster"]),
            // As `./test` builds it: the program alone would have its dependencies built again, with other features.
            false => build.args(["test", "--no-run", "--workspace"]),
        };
        build.args(["--quiet", "--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")]);
        assert!(build.status().expect("cargo runs").success(), "the program does not build");
        target.join("muster")
    })
}
