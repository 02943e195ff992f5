#![doc = env!("CARGO_PKG_DESCRIPTION")]
//!
//! The command line. Read `args.rs` for what there is, then the file of the command: `daemon.rs` (run, check, block),
//! `client.rs`, `show.rs` and `top.rs` (what a running daemon holds), `pki.rs`, `gcks.rs` (a key server), `demo/`, `manual.rs` (for a package).

mod args;
mod client;
mod daemon;
mod demo;
mod gcks;
mod log;
mod manual;
mod output;
mod pki;
mod show;
mod top;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Command};
use crate::output::Failure;

fn main() -> ExitCode {
    // Wrong use ends here, with exit status 2.
    let Args { command } = Args::parse();
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Result<(), Failure> {
    // Daemons that the demo started must not outlive it.
    muster_netlab::die_with_parent()?;
    match command {
        Command::Demo(args) => demo::run(&args),
        Command::Pki { command } => pki::run(&command),
        Command::Block(args) => daemon::block(&args.config),
        Command::Unblock { config, instance } => daemon::unblock(&config.config, instance),
        Command::Run(args) => daemon::run(&args.config),
        Command::Check { config, json } => daemon::check(&config.config, json),
        Command::Status(args) => client::status(&args),
        Command::Members(args) => client::members(&args),
        Command::Neighbors(args) => client::neighbors(&args),
        Command::Sas { args, show_keys } => client::sas(&args, show_keys),
        Command::Routes(args) => client::routes(&args),
        Command::Events { args, follow } => client::events(&args, follow),
        Command::Top(args) => top::run(&args),
        Command::Rekey(socket) => client::order(&socket, "rekey"),
        Command::Reload { socket, config } => daemon::reload(socket, config.as_deref()),
        Command::Leave(socket) => client::order(&socket, "leave"),
        Command::Gcks { command } => gcks::run(command),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { folder } => manual::pages(&folder),
    }
}
