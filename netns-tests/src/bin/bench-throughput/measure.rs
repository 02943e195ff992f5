//! iperf3 between the hosts.

use std::process::Command;
use std::time::Duration;

use muster_netlab::{Coalition, Process};
use serde_json::Value;

use crate::contestant::Contestant;

/// Lost of all, at most.
const TOLERATED: f64 = 0.003;
/// Halvings between a rate that is carried and one that is not.
const STEPS: usize = 6;

/// Rates in Mbit/s of payload, memory in MB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) tcp: f64,
    pub(crate) tcp_of_four: f64,
    /// The highest rate that arrives.
    pub(crate) udp: f64,
    /// Packets a second of 64 octets that arrive of as many as the sender can.
    pub(crate) small: f64,
    pub(crate) before: f64,
    pub(crate) after: f64,
}

impl Measured {
    pub(crate) fn of(contestant: &Contestant, seconds: u32) -> Measured {
        let _server = serve(&contestant.lab.coalition);
        let run = |arguments: &str| ask(&contestant.lab.coalition, arguments);
        let before = contestant.memory();
        let tcp = |streams: u32| {
            let report = run(&format!("-t {seconds} -P {streams}"));
            report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or_default() / 1e6
        };
        // Once for the addresses to be resolved.
        run("-t 1");
        let (one, four) = (tcp(1), tcp(4));
        let udp = highest(&run, one);
        // 40 octets of IPv6, 8 of UDP.
        let small = run("-u -b 0 -l 16 -t 3");
        let small = received(&small) / 3.0;
        Measured { tcp: one, tcp_of_four: four, udp, small, before, after: contestant.memory() }
    }
}

/// Halves the span between what arrives and what does not.
fn highest(run: &impl Fn(&str) -> Value, guess: f64) -> f64 {
    // 1,400 octets with the headers.
    let carried = |rate: f64| {
        let report = run(&format!("-u -b {}M -l 1352 -t 2", rate as u64));
        let sum = &report["end"]["sum"];
        let offered = sum["bits_per_second"].as_f64().unwrap_or_default() / 1e6;
        let lost = sum["lost_percent"].as_f64().unwrap_or(100.0) / 100.0;
        // A sender that cannot offer more says nothing about the tunnel.
        (lost <= TOLERATED).then_some(offered)
    };
    let (mut low, mut high) = (0.0, (2.0 * guess).max(500.0));
    let mut best = 0.0_f64;
    for _ in 0..STEPS {
        let middle = (low + high) / 2.0;
        // A second chance: the machine may have had something else to do.
        match carried(middle).or_else(|| carried(middle)) {
            Some(offered) => (low, best) = (middle, best.max(offered)),
            None => high = middle,
        }
    }
    best
}

fn received(report: &Value) -> f64 {
    let sum = &report["end"]["sum"];
    let count = |name: &str| sum[name].as_f64().unwrap_or_default();
    count("packets") - count("lost_packets")
}

/// A server on the second host, which ends with what is returned.
fn serve(coalition: &Coalition) -> Process {
    let mut command = Command::new("iperf3");
    command.args(["-s", "-6"]).stdout(std::process::Stdio::null());
    coalition.routers()[1].host.spawn(command).expect("iperf3 runs")
}

/// What the client on the first host says.
fn ask(coalition: &Coalition, arguments: &str) -> Value {
    let to = coalition.routers()[1].plan.host_v6().to_string();
    let run = || Command::new("iperf3").args(["-6", "-J", "-c", &to]).args(arguments.split(' ')).output();
    let mut report = Value::Null;
    // The server takes a moment to listen.
    muster_netns_tests::wait_until(Duration::from_secs(20), || {
        let output = coalition.routers()[0].host.try_run("iperf3", run).expect("iperf3 runs");
        report = serde_json::from_slice(&output.stdout).unwrap_or_default();
        report["error"].is_null() && !report["end"].is_null()
    });
    report
}
