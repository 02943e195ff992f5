//! Who is measured: two routers with a tunnel between them, or none.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ipnet::IpNet;
use muster_netlab::{Process, Router};
use muster_netns_tests::{Lab, resident, wait_for_unicast, wait_until};

use crate::{by_hand, libipsec};

/// Who takes part where nobody else is asked for; the others, "muster kernel" and "ip xfrm", need the kernel's ESP.
pub(crate) const NAMES: [&str; 7] =
    ["muster", "muster null-cipher", "boringtun", "boringtun -t 1", "wireguard-go", "libipsec", "no tunnel"];

const LIMIT: Duration = Duration::from_secs(30);
const PORT: u16 = 51820;

pub(crate) struct Contestant {
    pub(crate) lab: Lab,
    /// Its own processes; a Lab has those of Muster.
    processes: Vec<Process>,
    muster: bool,
}

impl Contestant {
    /// The tunnel is up when this returns.
    pub(crate) fn start(name: &str) -> Result<Contestant, String> {
        is_there("iperf3")?;
        let mut lab = Lab::new(2);
        lab.capture.stop();
        let mut contestant = Contestant { lab, processes: Vec::new(), muster: name.starts_with("muster") };
        match name {
            "muster" => contestant.start_muster("userspace"),
            "muster null-cipher" => {
                contestant.lab.use_program(null_cipher()?);
                contestant.start_muster("userspace");
            }
            "muster kernel" => contestant.start_muster("kernel"),
            "ip xfrm" => {
                for (at, (near, far)) in contestant.directions().into_iter().enumerate() {
                    by_hand::set_up(near, far, at)?;
                }
            }
            "libipsec" => contestant.processes = libipsec::start(&contestant.lab, contestant.directions())?,
            "no tunnel" => contestant.route_directly(),
            "boringtun" => {
                contestant.start_wireguard("boringtun-cli", &["--foreground", "--disable-drop-privileges"])?
            }
            "boringtun -t 1" => {
                let arguments = ["--foreground", "--disable-drop-privileges", "-t", "1"];
                contestant.start_wireguard("boringtun-cli", &arguments)?;
            }
            "wireguard-go" => contestant.start_wireguard("wireguard-go", &["--foreground"])?,
            other => return Err(format!("nobody is called {other}")),
        }
        Ok(contestant)
    }

    /// Resident memory of both routers' programs, MB.
    pub(crate) fn memory(&self) -> f64 {
        let muster = (0..2).filter(|_| self.muster).map(|router| self.lab.process(router));
        let octets: u64 = muster.chain(self.processes.iter().map(Process::id)).map(resident).sum();
        octets as f64 / f64::from(1 << 20)
    }

    fn start_muster(&mut self, backend: &str) {
        for router in 0..2 {
            self.lab.configure_backend(router, backend);
            self.lab.start(router);
        }
        self.lab.wait_for_group_within(LIMIT, &[0, 1]);
        self.lab.wait_for_prefixes(&[0, 1]);
        wait_for_unicast(&self.lab, 0, 1, false);
    }

    fn route_directly(&self) {
        for (near, far) in self.directions() {
            forward(near);
            near.namespace.add_route(IpNet::V6(far.plan.red_v6()), far.plan.black_v6().addr().into()).expect("a route");
        }
    }

    fn start_wireguard(&mut self, program: &str, arguments: &[&str]) -> Result<(), String> {
        let program = is_there(program)?;
        is_there("wg")?;
        let keys: Vec<(String, String)> = (0..2).map(|_| key_pair()).collect();
        let names: Vec<String> = (0..2).map(|at| format!("wg{at}")).collect();
        let mut processes = Vec::new();
        for (at, (near, _)) in self.directions().into_iter().enumerate() {
            let mut command = tied(&program);
            // In the foreground for wireguard-go, too.
            command.args(arguments).arg(&names[at]).env("WG_PROCESS_FOREGROUND", "1").stdout(Stdio::null());
            processes.push(near.namespace.spawn(command).map_err(|error| error.to_string())?);
        }
        self.processes = processes;
        for (at, (near, far)) in self.directions().into_iter().enumerate() {
            let (name, (private, _), (_, public)) = (&names[at], &keys[at], &keys[1 - at]);
            let configuration = format!(
                "[Interface]\nPrivateKey = {private}\nListenPort = {PORT}\n[Peer]\nPublicKey = {public}\n\
                 Endpoint = [{}]:{PORT}\nAllowedIPs = ::/0\n",
                far.plan.black_v6().addr()
            );
            forward(near);
            let configured =
                || wait_until(LIMIT, || near.namespace.run(|| set(name, &configuration)).expect("it runs"));
            if !configured() {
                return Err(format!("{program} does not come up"));
            }
            let route = format!("-6 route replace {} dev {name}", far.plan.red_v6());
            let up = || ip(&format!("link set {name} mtu 1420 up")).and_then(|()| ip(&route));
            near.namespace.run(up).expect("it runs")?;
        }
        Ok(())
    }

    fn directions(&self) -> [(&Router, &Router); 2] {
        let [a, b] = self.lab.coalition.routers() else { unreachable!("two routers") };
        [(a, b), (b, a)]
    }
}

pub(crate) fn forward(router: &Router) {
    router.namespace.sysctl("ipv6/conf/all/forwarding", "1").expect("it is set");
}

/// Where a program is; in `target/tools/bin` it may be, too.
pub(crate) fn is_there(program: &str) -> Result<String, String> {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/bin");
    let folders = std::env::var("PATH").unwrap_or_default();
    let paths = folders.split(':').chain([own]).map(|folder| format!("{folder}/{program}"));
    paths.into_iter().find(|path| std::path::Path::new(path).exists()).ok_or_else(|| {
        let from = "apt-get install iperf3 wireguard-tools wireguard-go charon-systemd strongswan-swanctl \
                    libcharon-extra-plugins libstrongswan-standard-plugins; cargo install boringtun-cli";
        format!("{program} is not installed ({from})")
    })
}

/// Runs a program that ends with this one, however this one ends.
pub(crate) fn tied(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

/// Muster without encryption: built here, away from the one to be used.
fn null_cipher() -> Result<PathBuf, String> {
    let home = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let target = home.join("target/null-cipher");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--release", "--package", "muster", "--features", "null-cipher", "--target-dir"]);
    let built = build.arg(&target).current_dir(home).status().map_err(|error| error.to_string())?;
    match built.success() {
        true => Ok(target.join("release/muster")),
        false => Err("it does not build".into()),
    }
}

/// A private key and its public one.
fn key_pair() -> (String, String) {
    let private = String::from_utf8(Command::new("wg").arg("genkey").output().expect("wg runs").stdout).expect("text");
    let mut wg =
        Command::new("wg").arg("pubkey").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("wg runs");
    wg.stdin.take().expect("it is piped").write_all(private.as_bytes()).expect("wg reads");
    let public = String::from_utf8(wg.wait_with_output().expect("it ends").stdout).expect("text");
    (private.trim().to_owned(), public.trim().to_owned())
}

/// Whether `wg` has taken the configuration: the device's own socket takes a moment to be there.
fn set(name: &str, configuration: &str) -> bool {
    let wg =
        Command::new("wg").args(["setconf", name, "/dev/stdin"]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut wg = wg.expect("wg runs");
    wg.stdin.take().expect("it is piped").write_all(configuration.as_bytes()).expect("wg reads");
    wg.wait().expect("it ends").success()
}

/// Runs `ip` in the calling thread's namespace.
pub(crate) fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
