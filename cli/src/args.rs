//! What can be said to `muster`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Automatic group encryption for coalition border routers
#[derive(Debug, Parser)]
#[command(name = "muster", version, propagate_version = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show everything on this machine: a coalition of three nations in network namespaces
    ///
    /// Makes the certificates, starts the daemons, waits for one group, sends red multicast, looks for clear text in a
    /// capture of the black side, kills a router without a word and brings it back. Needs root, or a system that
    /// allows users to create namespaces and to open /dev/net/tun.
    Demo(DemoArgs),
    /// Make a nation's certificates
    Pki {
        #[command(subcommand)]
        command: PkiCommand,
    },
    /// Set the fail-closed rules: nothing between red and black but through the tunnel
    Block(ConfigArg),
    /// Remove the fail-closed rules, and what a killed daemon has left in the kernel
    Unblock {
        #[command(flatten)]
        config: ConfigArg,
        /// Of this `dataplane.instance`, whatever the configuration says
        #[arg(long, value_name = "N", conflicts_with = "config")]
        instance: Option<u8>,
    },
    /// Run the daemon in the foreground; SIGTERM: leave the group and end, the block stays
    Run(ConfigArg),
    /// Say what is wrong with a configuration and whether this machine can run it
    Check {
        #[command(flatten)]
        config: ConfigArg,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Device, group (or key server) and data plane at a glance
    Status(ReadArgs),
    /// Members of the group; with a key server that alone knows them
    Members(ReadArgs),
    /// Devices heard on the black side
    Neighbors(ReadArgs),
    /// Security associations
    Sas {
        #[command(flatten)]
        args: ReadArgs,
        /// With their keys, for debugging; the configuration must allow it
        #[arg(long)]
        show_keys: bool,
    },
    /// Red prefixes learned from the members, or of the key server's VPNs
    Routes(ReadArgs),
    /// What has happened, one line each
    Events {
        #[command(flatten)]
        args: ReadArgs,
        /// Go on with what happens from now on
        #[arg(long, short)]
        follow: bool,
    },
    /// All of it, live, full screen
    Top(TopArgs),
    /// Order a new group key
    Rekey(Socket),
    /// Read configuration, certificates and lists again, all of it or nothing; say what has changed
    Reload {
        #[command(flatten)]
        socket: Socket,
        /// Of the daemon with this configuration, by the socket that it names, whatever --control says
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Order the daemon to leave the group and to end
    Leave(Socket),
    /// The key server of centralised mode: run it, look at it, command it
    Gcks {
        #[command(subcommand)]
        command: GcksCommand,
    },
    /// Print what completes the command line in a shell
    #[command(hide = true)]
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// Write the manual, a page for each command
    #[command(hide = true)]
    Man {
        /// Where to; it must exist
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArg {
    /// The configuration (TOML)
    #[arg(long, value_name = "FILE", default_value = "/etc/muster/muster.toml")]
    pub(crate) config: PathBuf,
}

/// Of every command that talks to a daemon.
#[derive(Debug, clap::Args)]
pub(crate) struct Socket {
    /// The daemon's control socket
    #[arg(long, value_name = "PATH", env = "MUSTER_CONTROL", default_value = "/run/muster/control.sock")]
    pub(crate) control: PathBuf,
}

/// Of every command that reads from a daemon.
#[derive(Debug, clap::Args)]
pub(crate) struct ReadArgs {
    #[command(flatten)]
    pub(crate) socket: Socket,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) read: ReadArgs,
    /// Time between two looks, 100ms or more
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = look_interval)]
    pub(crate) interval: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PkiCommand {
    /// Make a nation's root: DIR/ca.pem, ca.key and an empty crl.pem
    Init {
        /// Where to; created if missing
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// The nation: organisation in all its certificates
        #[arg(long, value_name = "ORG")]
        name: String,
    },
    /// Make a device's certificate and key: DEVICE.pem, DEVICE.key
    Issue {
        /// Folder of the root
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// The device
        #[arg(long, value_name = "DEVICE")]
        name: String,
        /// Validity in days, at most the root's
        #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
        /// Where to, instead of DIR; a copy of the certificate stays in DIR, so that it can be revoked
        #[arg(long, value_name = "DIR2")]
        out: Option<PathBuf>,
    },
    /// Revoke a device's certificate: adds DIR/DEVICE.pem to DIR/crl.pem
    Revoke {
        /// Folder of the root
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// The device
        #[arg(long, value_name = "DEVICE")]
        name: String,
    },
    /// Subject, issuer, validity and fingerprint of a certificate, or what a revocation list says
    Show {
        /// The certificate, or the revocation list (PEM)
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum GcksCommand {
    /// Run the key server in the foreground; SIGHUP: read clients, groups, VPNs, certificates, the log's level and metrics again
    Run {
        /// The key server's configuration (TOML)
        #[arg(long, value_name = "FILE", default_value = "/etc/muster/gcks.toml")]
        config: PathBuf,
    },
    /// Say what is wrong with a key server's configuration and whether its interface and address are there
    Check {
        /// The key server's configuration (TOML)
        #[arg(long, value_name = "FILE", default_value = "/etc/muster/gcks.toml")]
        config: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The key server at a glance
    Status(GcksReadArgs),
    /// Clients, whether they are connected, and why not
    Clients(GcksReadArgs),
    /// Secure multicast groups, their members and flows
    Groups(GcksReadArgs),
    /// VPNs and their ends
    Vpns(GcksReadArgs),
    /// What has happened, one line each
    Events {
        #[command(flatten)]
        args: GcksReadArgs,
        /// Go on with what happens from now on
        #[arg(long, short)]
        follow: bool,
    },
    /// Push new keys to a group, or to all
    Push {
        /// Which; without it all
        #[arg(long, value_name = "GROUP")]
        group: Option<String>,
        #[command(flatten)]
        socket: GcksSocket,
    },
    /// Read the configuration again, all of it or nothing; say what has changed
    Reload {
        #[command(flatten)]
        socket: GcksSocket,
        /// Of the key server with this configuration, by the socket that it names, whatever --control says
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Take clients out of all groups and VPNs, and refuse them from now on
    Exclude {
        /// Which
        #[arg(value_name = "NAME", required = true)]
        clients: Vec<String>,
        #[command(flatten)]
        socket: GcksSocket,
    },
    /// Let excluded clients connect again
    Admit {
        /// Which
        #[arg(value_name = "NAME", required = true)]
        clients: Vec<String>,
        #[command(flatten)]
        socket: GcksSocket,
    },
}

/// Of every command that talks to a key server.
#[derive(Debug, clap::Args)]
pub(crate) struct GcksSocket {
    /// The key server's control socket
    #[arg(long, value_name = "PATH", env = "MUSTER_GCKS_CONTROL", default_value = "/run/muster/gcks.sock")]
    pub(crate) control: PathBuf,
}

/// Of every command that reads from a key server.
#[derive(Debug, clap::Args)]
pub(crate) struct GcksReadArgs {
    #[command(flatten)]
    pub(crate) socket: GcksSocket,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Number of routers, 2 to 50
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(2..=MOST_ROUTERS))]
    pub(crate) routers: u8,
    /// The black network and the red traffic are IPv4
    #[arg(long)]
    pub(crate) ipv4: bool,
    /// What carries the traffic: auto (the kernel's ESP where it can be started, else userspace), kernel or userspace
    #[arg(long, value_name = "BACKEND", default_value = "auto", value_parser = backend)]
    pub(crate) dataplane: String,
    /// Time between a router's hellos, 50ms to 60s; without it 250ms, above ten routers longer
    ///
    /// A router is lost after four hellos that do not come. On a slow machine a longer time leaves the daemons more for their
    /// work.
    #[arg(long, value_name = "TIME", value_parser = hello_interval)]
    pub(crate) hello_interval: Option<Duration>,
    /// Print one JSON object at the end, and nothing else
    #[arg(long)]
    pub(crate) json: bool,
    /// Keep certificates, configurations, logs and the capture, and say where they are
    #[arg(long)]
    pub(crate) keep: bool,
    /// For the tests: break something and see that the demo notices
    #[arg(long, hide = true)]
    pub(crate) sabotage: Option<Sabotage>,
}

/// What a test breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sabotage {
    /// One router is in a group of another name.
    GroupName,
    /// One red payload goes over black in the clear.
    ClearPacket,
    /// One router's tunnel delivers nothing.
    NoSa,
    /// The router to be excluded is not, and holds the next key, too.
    NoExclusion,
}

const MOST_ROUTERS: i64 = 50;
const _: () = assert!(MOST_ROUTERS as usize <= muster_netlab::MAX_ROUTERS, "the laboratory is large enough");

/// More often would be work for the daemon and nothing for the eye.
fn look_interval(text: &str) -> Result<Duration, String> {
    interval(text, Duration::from_millis(100), Duration::from_secs(3600))
}

/// What `discovery.hello_interval` may be.
fn hello_interval(text: &str) -> Result<Duration, String> {
    interval(text, Duration::from_millis(50), Duration::from_secs(60))
}

fn interval(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match (least..=most).contains(&interval) {
        true => Ok(interval),
        false => Err(format!("choose {} to {}", humantime::format_duration(least), humantime::format_duration(most))),
    }
}

fn backend(name: &str) -> Result<String, String> {
    match name {
        "auto" | "kernel" | "userspace" => Ok(name.to_owned()),
        _ => Err("choose auto, kernel or userspace".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }
}
