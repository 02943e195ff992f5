//! What the routers of a routed black network run: Debian's FRR and, for IPv6 multicast, smcroute.
//!
//! OSPF says where black unicast goes, over IPv4 and IPv6. IPv4 multicast follows it by PIM-SM, with the first router as
//! rendezvous point. IPv6 multicast has static routes, for Debian 12 has no PIM for IPv6: a tree with one of the routers
//! in the middle, which the operator changes when a link of it fails ([`Routing::centre`]).

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{IpAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use muster_netlab::{BlackRouter, Process, SITES};
use nix::sys::signal::Signal;

use crate::{Family, Lab, say};

/// Whether the test cannot run here; then a line says why.
pub fn no_routing(test: &str) -> bool {
    // A folder of FRR may be left over from a package that is gone.
    let programs = [(format!("{FRR}/pimd"), "frr"), (SMCROUTED.to_owned(), "smcroute")];
    let missing = programs.iter().filter(|(program, _)| !fs::exists(program).unwrap_or(false));
    let packages = missing.map(|(_, package)| *package).collect::<Vec<_>>().join(" ");
    if !packages.is_empty() {
        say(&format!("SKIP {test}: not installed: {packages} (apt-get install {packages})"));
    }
    !packages.is_empty()
}

/// The daemons of all black routers; they end with it, and with this process, however that ends.
pub struct Routing {
    frr: Vec<Process>,
    /// Where black is IPv6: one a router, in the order of sites.
    smcroute: Vec<Process>,
}

impl Routing {
    /// Starts them and waits until there is a way from each router to each site.
    pub fn start(lab: &Lab) -> Routing {
        let mut routing = Routing { frr: Vec::new(), smcroute: Vec::new() };
        for router in lab.coalition.black_routers() {
            fs::create_dir(folder(lab, router.site)).expect("a folder of its own");
            routing.start_frr(lab, router, "zebra", "");
            // Who finds it missing tries again after ten seconds.
            lab.wait(LIMIT, "zebra", || UnixStream::connect(folder(lab, router.site).join(ZEBRA)).is_ok());
            match lab.family {
                Family::V4 => routing.start_frr(lab, router, "ospfd", &ospf(router)),
                Family::V6 => routing.start_frr(lab, router, "ospf6d", &ospf6(router)),
            }
        }
        wait_for_ways(lab);
        for router in lab.coalition.black_routers() {
            match lab.family {
                Family::V4 => routing.start_frr(lab, router, "pimd", &pim(lab, router)),
                Family::V6 => routing.start_smcroute(lab, router),
            }
        }
        if lab.family == Family::V4 {
            wait_for_pim(lab);
        }
        routing
    }

    /// IPv6 multicast goes by the router of this site from now on. What follows OSPF by itself stays as it is.
    pub fn centre(&mut self, lab: &Lab, site: u8) {
        for (router, process) in lab.coalition.black_routers().iter().zip(&mut self.smcroute) {
            fs::write(folder(lab, router.site).join("smcroute.conf"), static_routes(lab, router, site))
                .expect("written");
            process.signal(Signal::SIGHUP).expect("it runs");
        }
    }

    fn start_frr(&mut self, lab: &Lab, router: &BlackRouter, daemon: &str, configuration: &str) {
        let folder = folder(lab, router.site);
        let file = folder.join(format!("{daemon}.conf"));
        fs::write(&file, configuration).expect("the configuration is written");
        // As root, for it is to write where this process does. It wants a group for its terminal sockets, and would no
        // longer end with us when it changed to that by itself.
        let mut command = Command::new("setpriv");
        command.args(["--regid", "frrvty", "--clear-groups", "--pdeathsig", "KILL", "--"]);
        command.arg(format!("{FRR}/{daemon}")).args(["-u", "root", "-g", "frrvty", "-P", "0", "--log", "stdout"]);
        command.arg("-f").arg(file).arg("--vty_socket").arg(&folder);
        command.arg("-i").arg(folder.join(format!("{daemon}.pid"))).arg("-z").arg(folder.join(ZEBRA));
        self.frr.push(start(lab, router, daemon, command));
    }

    fn start_smcroute(&mut self, lab: &Lab, router: &BlackRouter) {
        let folder = folder(lab, router.site);
        let file = folder.join("smcroute.conf");
        fs::write(&file, static_routes(lab, router, 1)).expect("the configuration is written");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", SMCROUTED, "-N", "-n", "-f"]).arg(file);
        command.arg("-P").arg(folder.join("smcroute.pid")).arg("-u").arg(folder.join("smcroute.sock"));
        self.smcroute.push(start(lab, router, "smcroute", command));
    }
}

fn start(lab: &Lab, router: &BlackRouter, name: &str, mut command: Command) -> Process {
    let log = File::create(folder(lab, router.site).join(format!("{name}.log"))).expect("a log");
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
    router.namespace.spawn(command).expect("the daemon starts")
}

fn folder(lab: &Lab, site: u8) -> PathBuf {
    lab.path(&format!("black-{site}"))
}

/// Waits until each black router has a route to each border router.
fn wait_for_ways(lab: &Lab) {
    let any = if lab.family == Family::V4 { "0.0.0.0:0" } else { "[::]:0" };
    let has_way = |router: &BlackRouter, to: IpAddr| {
        router.namespace.try_run("route", || UdpSocket::bind(any)?.connect((to, 9))).is_ok()
    };
    let all = 0..lab.coalition.routers().len();
    lab.wait(LIMIT, "ways through black", || {
        let mut routers = lab.coalition.black_routers().iter();
        routers.all(|router| all.clone().all(|to| has_way(router, lab.black_address(to))))
    });
}

/// Waits until PIM has its neighbours: who asks for a group before that is not heard.
fn wait_for_pim(lab: &Lab) {
    let neighbours = |router: &BlackRouter| {
        let mut ask = Command::new("vtysh");
        ask.arg("--vty_socket").arg(folder(lab, router.site)).args(["-d", "pimd", "-c", "show ip pim neighbor json"]);
        let answer = ask.stdin(Stdio::null()).output().expect("vtysh runs");
        let answer = serde_json::from_slice::<serde_json::Value>(&answer.stdout).unwrap_or_default();
        router.others().all(|other| answer[BlackRouter::device_to(other)].is_object())
    };
    lab.wait(LIMIT, "neighbours of PIM", || lab.coalition.black_routers().iter().all(neighbours));
}

/// Short times, so that routes come soon; a link that loses its carrier does not wait for them.
fn ospf(router: &BlackRouter) -> String {
    let mut text = format!("interface {}\n ip ospf passive\n", BlackRouter::LAN);
    for other in router.others() {
        let device = BlackRouter::device_to(other);
        write!(text, "interface {device}\n ip ospf network point-to-point\n ip ospf hello-interval 1\n")
            .expect(TAKES_ALL);
        text.push_str(" ip ospf dead-interval 4\n");
    }
    let id = router.identity();
    text + &format!("router ospf\n ospf router-id {id}\n timers throttle spf 0 50 500\n network 198.18.0.0/16 area 0\n")
}

fn ospf6(router: &BlackRouter) -> String {
    let mut text = format!("interface {}\n ipv6 ospf6 area 0\n ipv6 ospf6 passive\n", BlackRouter::LAN);
    for other in router.others() {
        let device = BlackRouter::device_to(other);
        write!(text, "interface {device}\n ipv6 ospf6 area 0\n ipv6 ospf6 network point-to-point\n").expect(TAKES_ALL);
        text.push_str(" ipv6 ospf6 hello-interval 1\n ipv6 ospf6 dead-interval 4\n");
    }
    text + &format!("router ospf6\n ospf6 router-id {}\n timers throttle spf 0 50 500\n", router.identity())
}

/// Sparse mode; border routers ask for their groups by IGMP.
fn pim(lab: &Lab, router: &BlackRouter) -> String {
    let meeting = lab.coalition.black_routers()[0].identity();
    let mut text = format!("ip pim rp {meeting}\ninterface lo\n ip pim\n");
    write!(text, "interface {}\n ip pim\n ip igmp\n", BlackRouter::LAN).expect(TAKES_ALL);
    for other in router.others() {
        write!(text, "interface {}\n ip pim\n ip pim hello 1 4\n", BlackRouter::device_to(other)).expect(TAKES_ALL);
    }
    text
}

/// From each border router to the LANs of all sites, by the router in the middle.
fn static_routes(lab: &Lab, router: &BlackRouter, centre: u8) -> String {
    let towards = |site: u8| match () {
        () if site == router.site => BlackRouter::LAN.to_owned(),
        () if router.site == centre => BlackRouter::device_to(site),
        () => BlackRouter::device_to(centre),
    };
    let mut branches: Vec<String> = (1..=SITES).map(towards).collect();
    branches.sort();
    branches.dedup();
    let mut text: String = branches.iter().map(|branch| format!("phyint {branch} enable\n")).collect();
    for plan in lab.coalition.routers().iter().map(|border| &border.plan) {
        let (from, source) = (towards(plan.site()), plan.black_v6().addr());
        let to: Vec<&str> = branches.iter().map(String::as_str).filter(|branch| *branch != from).collect();
        for group in [lab.family.discovery_group(), lab.family.esp_group()] {
            writeln!(text, "mroute from {from} source {source} group {group} to {}", to.join(" ")).expect(TAKES_ALL);
        }
    }
    text
}

const FRR: &str = "/usr/lib/frr";
const SMCROUTED: &str = "/usr/sbin/smcrouted";
/// The socket by which the others talk to zebra.
const ZEBRA: &str = "zserv.api";
const LIMIT: Duration = Duration::from_secs(30);
const TAKES_ALL: &str = "a string takes everything";
