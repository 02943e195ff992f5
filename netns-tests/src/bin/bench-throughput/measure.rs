//! TCP by iperf3 between the hosts, UDP by `udp.rs`.

use std::io::{BufRead as _, BufReader};
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use muster_netlab::{Coalition, Process};
use serde_json::Value;

use crate::contestant::{Contestant, tied};
use crate::udp::{self, Highest};

/// Of a packet of 1,400 octets and one of 64, what is behind the headers of IPv6 and UDP.
pub(crate) const LARGE: usize = 1352;
/// Of payload, in such a packet.
pub(crate) const MEGABITS: f64 = 8e-6 * LARGE as f64;
const SMALL: usize = 16;

/// TCP in Mbit/s of payload, UDP in datagrams a second, memory in MB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) tcp: f64,
    pub(crate) tcp_of_four: f64,
    /// The highest rate that arrives.
    pub(crate) large: Highest,
    pub(crate) small: Highest,
    /// What arrives when as many are sent as the sender can.
    pub(crate) flood: f64,
    pub(crate) before: f64,
    pub(crate) after: f64,
}

impl Measured {
    pub(crate) fn of(contestant: &Contestant, tcp: Duration, udp: Duration) -> Result<Measured, String> {
        let coalition = &contestant.lab.coalition;
        let before = contestant.memory();
        let (one, four) = {
            let mut server = Server::start(coalition)?;
            // Once for the addresses to be resolved.
            server.ask(coalition, 1, 1)?;
            (server.ask(coalition, 1, tcp.as_secs())?, server.ask(coalition, 4, tcp.as_secs())?)
        };
        Ok(Measured {
            tcp: one,
            tcp_of_four: four,
            large: udp::highest(coalition, LARGE, udp)?,
            small: udp::highest(coalition, SMALL, udp)?,
            flood: udp::flood(coalition, SMALL, udp)?,
            before,
            after: contestant.memory(),
        })
    }
}

/// TCP of one stream in Mbit/s of payload, and nothing else.
pub(crate) fn stream(contestant: &Contestant, time: Duration) -> Result<f64, String> {
    let coalition = &contestant.lab.coalition;
    let mut server = Server::start(coalition)?;
    server.ask(coalition, 1, 1)?;
    server.ask(coalition, 1, time.as_secs())
}

/// UDP in packets of 1,400 octets, as many as the sender can send: Mbit/s of payload that arrive.
pub(crate) fn arriving(contestant: &Contestant, time: Duration) -> Result<f64, String> {
    udp::flood(&contestant.lab.coalition, LARGE, time).map(|rate| rate * MEGABITS)
}

/// iperf3 on the second host; it ends with this.
struct Server {
    _process: Process,
    output: BufReader<ChildStdout>,
}

impl Server {
    /// It listens when this returns.
    fn start(coalition: &Coalition) -> Result<Server, String> {
        let mut command = tied("iperf3");
        command.args(["-s", "-6", "--forceflush"]).stdout(Stdio::piped());
        let mut process = coalition.routers()[1].host.spawn(command).map_err(|error| error.to_string())?;
        let output = process.child().stdout.take().ok_or("it was piped")?;
        let mut server = Server { _process: process, output: BufReader::new(output) };
        server.wait_until_it_listens()?;
        Ok(server)
    }

    /// Once at the start, and again after each client: until then it refuses the next one.
    fn wait_until_it_listens(&mut self) -> Result<(), String> {
        let mut line = String::new();
        while !line.contains("listening") {
            line.clear();
            match self.output.read_line(&mut line) {
                Ok(1..) => {}
                Ok(0) => return Err("iperf3 does not listen".into()),
                Err(error) => return Err(format!("iperf3: {error}")),
            }
        }
        Ok(())
    }

    /// Mbit/s that arrive of what the first host sends.
    fn ask(&mut self, coalition: &Coalition, streams: u32, seconds: u64) -> Result<f64, String> {
        let [from, to] = coalition.routers() else { unreachable!("two routers") };
        let arguments =
            [("-t", seconds.to_string()), ("-P", streams.to_string()), ("-c", to.plan.host_v6().to_string())];
        let run = || {
            Command::new("iperf3")
                .args(["-6", "-J"])
                .args(arguments.into_iter().flat_map(|(a, b)| [a.to_owned(), b]))
                .output()
        };
        let output = from.host.try_run("run iperf3", run).map_err(|error| error.to_string())?;
        let report: Value = serde_json::from_slice(&output.stdout).map_err(|error| format!("iperf3: {error}"))?;
        let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
        let rate = rate.ok_or_else(|| format!("iperf3: {}", report["error"]))?;
        self.wait_until_it_listens()?;
        Ok(rate / 1e6)
    }
}
