//! What hundreds of real clients cost a real key server: registrations, memory, new keys, exclusions; its store in memory and on
//! the disk.
//!
//! The key server is the program itself, on the loopback interface of a network namespace. Its clients are machines of
//! `muster-fmke` without a data plane, each with an address and a socket of its own; one thread of this program drives them
//! all by the real clock. They all connect at once, into one group with one flow. What is multicast, one socket hears for
//! all of them: the key server's machine sends it once, as it would on any other link.
//!
//! `cargo run --release -p muster-netns-tests --bin bench-register` prints a table: medians of rounds by turns.

mod fleet;
mod report;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use muster_netlab::Namespace;
use muster_netns_tests::{monotonic, skip};

use fleet::{Counted, Fleet};
use report::{Change, Round};
use server::KeyServer;

#[derive(Parser)]
#[command(about = "Measures a key server with real clients, its store in memory and on the disk")]
struct Arguments {
    /// Clients, all of which connect at once.
    #[arg(long, default_value_t = 500)]
    clients: usize,
    /// Clients that are excluded at once.
    #[arg(long, default_value_t = 100)]
    excluded: usize,
    /// Rounds with each store, by turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// A folder that is in memory (tmpfs).
    #[arg(long, default_value = "/dev/shm")]
    memory: PathBuf,
    /// A folder that is on a disk; without it that of this program.
    #[arg(long)]
    disk: Option<PathBuf>,
}

/// Of each step.
const LIMIT: Duration = Duration::from_secs(120);
/// Clients that have heard nothing for so long are done.
const QUIET: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let Arguments { clients, excluded, rounds, memory, disk } = Arguments::parse();
    if skip("bench-register") {
        return ExitCode::FAILURE;
    }
    // The sender stays in, and somebody to hear it.
    if rounds == 0 || clients > fleet::MOST || excluded + 3 > clients {
        eprintln!("bench-register: one round, at most {} clients, of which three stay", fleet::MOST);
        return ExitCode::from(2);
    }
    let program = std::env::current_exe().expect("the own path");
    let disk = disk.unwrap_or_else(|| program.parent().expect("a folder").to_owned());
    println!("{}\n", report::machine(&memory, &disk));
    let mut measured = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (rounds, folder) in measured.iter_mut().zip([&memory, &disk]) {
            rounds.push(measure(clients, excluded, folder));
        }
    }
    println!("{}", report::table(clients, excluded, &measured));
    println!("\n{}", report::machine(&memory, &disk));
    ExitCode::SUCCESS
}

fn measure(clients: usize, excluded: usize, folder: &std::path::Path) -> Round {
    let namespace = Namespace::new("register").expect("a namespace");
    let server = KeyServer::start(&namespace, folder, clients);
    let mut fleet = Fleet::new(&namespace, clients);
    // To be asked costs it something, too: its processor time is read last before and first after.
    let (transactions, memory, processor) = (server.transactions(), server.memory(), server.processor());
    let begun = monotonic();
    fleet.drive(LIMIT, "all SAs at all", Fleet::is_complete);
    let took = monotonic() - begun;
    // What the last ones acknowledge is work, too.
    let is_done = |fleet: &Fleet| fleet.is_complete() && fleet.quiet_for() > QUIET;
    fleet.drive(LIMIT, "silence", is_done);
    let (used, grown) = (server.processor() - processor, server.memory().saturating_sub(memory));
    let (stored, refused) = (server.transactions() - transactions, server.refused());
    let rekey = change(&mut fleet, &server, &["push"], &[]);
    let one = change(&mut fleet, &server, &["exclude"], &[clients - 1]);
    // Here and there: their places in the tree have little in common. The first is the sender.
    let some: Vec<usize> = (0..excluded).map(|number| 1 + number * (clients - 2) / excluded).collect();
    let hundred = change(&mut fleet, &server, &["exclude"], &some);
    Round { took, used, grown, stored, refused, changes: [rekey, one, hundred] }
}

/// An order to the key server, and what it costs until all who are in have the new SA.
fn change(fleet: &mut Fleet, server: &KeyServer, order: &[&str], excluded: &[usize]) -> Change {
    fleet.drive(LIMIT, "silence", |fleet| fleet.quiet_for() > QUIET);
    let (before, transactions, processor) = (fleet.latest(), server.transactions(), server.processor());
    fleet.exclude(excluded);
    fleet.counted = Counted::default();
    thread::scope(|scope| {
        let names = excluded.iter().map(|client| fleet::name(*client));
        let arguments = order.iter().map(|word| (*word).to_owned()).chain(names);
        scope.spawn(|| server.order(arguments.collect()));
        fleet.drive(LIMIT, "a new SA at all", |fleet| fleet.latest().is_some_and(|spi| before != Some(spi)));
    });
    let used = server.processor() - processor;
    Change { used, stored: server.transactions() - transactions, sent: fleet.counted }
}
