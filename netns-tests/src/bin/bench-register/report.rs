//! What was measured, as a table.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;
use std::time::Duration;

use crate::fleet::{Amount, Counted};

/// One key server's life.
pub(crate) struct Round {
    /// From the first datagram until all had all SAs.
    pub(crate) took: Duration,
    /// Processor time of the key server for it.
    pub(crate) used: Duration,
    /// Octets of memory that it took.
    pub(crate) grown: u64,
    /// Transactions of its store.
    pub(crate) stored: u64,
    /// Datagrams that it refused.
    pub(crate) refused: u64,
    /// New keys for all, without one, without many.
    pub(crate) changes: [Change; 3],
}

/// New keys.
pub(crate) struct Change {
    /// Processor time of the key server.
    pub(crate) used: Duration,
    /// Transactions of its store.
    pub(crate) stored: u64,
    /// What was on the wire.
    pub(crate) sent: Counted,
}

/// Medians, with the store in memory and on the disk; and of the ratios of each turn.
pub(crate) fn table(clients: usize, excluded: usize, measured: &[Vec<Round>; 2]) -> String {
    let [memory, disk] = measured;
    let mut lines = vec![
        format!(
            "| {clients} clients at once, medians of {} rounds | store in memory | on the disk | ratio |",
            memory.len()
        ),
        "|---|---|---|---|".to_owned(),
    ];
    let mut row = |name: &str, digits: usize, value: &dyn Fn(&Round) -> f64| {
        let ratio = median(memory.iter().zip(disk).map(|(memory, disk)| value(disk) / value(memory)).collect());
        let [memory, disk] = [memory, disk].map(|rounds| median(rounds.iter().map(value).collect()));
        // None where there was nothing.
        let ratio = if ratio.is_finite() { format!(" {ratio:.2} ") } else { " ".to_owned() };
        lines.push(format!("| {name} | {memory:.digits$} | {disk:.digits$} |{ratio}|"));
    };
    let count = clients as f64;
    row("all have all SAs after, ms", 0, &|round| millis(round.took));
    row("registrations a second", 0, &|round| count / round.took.as_secs_f64());
    row("the same, of the key server's processor time", 0, &|round| count / round.used.as_secs_f64());
    row("transactions for it", 0, &|round| round.stored as f64);
    row("datagrams refused", 0, &|round| round.refused as f64);
    row("memory a client, octets", 0, &|round| round.grown as f64 / count);
    let names = ["new keys for all".to_owned(), "excluding one".to_owned(), format!("excluding {excluded}")];
    for (place, name) in names.iter().enumerate() {
        let change = |round: &Round| millis(round.changes[place].used);
        row(&format!("{name}: processor time, ms"), 2, &change);
        row(&format!("{name}: transactions"), 0, &|round| round.changes[place].stored as f64);
    }
    for (place, name) in names.iter().enumerate() {
        for (kind, of) in KINDS {
            let sent = |rounds: &[Round]| {
                let of_round = |of_amount: fn(Amount) -> usize| {
                    median(rounds.iter().map(|round| of_amount(of(&round.changes[place].sent)) as f64).collect())
                };
                let (octets, datagrams) = (of_round(|amount| amount.octets), of_round(|amount| amount.datagrams));
                let longest = of_round(|amount| amount.longest);
                format!("{octets:.0} in {datagrams:.0} of {longest:.0} at most")
            };
            lines.push(format!("| {name}: octets {kind}, in datagrams | {} | {} | |", sent(memory), sent(disk)));
        }
    }
    // A wrapped key (RFC 3394) and the two octets that say whose it is.
    let flat = format!("{} octets of keys", 42 * (clients - 1));
    lines.push(format!("| excluding any number, flat: one ciphertext for each member | {flat} | {flat} | |"));
    lines.join("\n") + "\n"
}

/// What it was measured on.
pub(crate) fn machine(memory: &Path, disk: &Path) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let [memory, disk] = [memory, disk].map(|folder| format!("{} is {}", folder.display(), file_system(folder)));
    let cores = available_parallelism().map_or(0, usize::from);
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    format!("{cores} cores, Linux {kernel}, {memory}, {disk}, load {load}")
}

fn file_system(folder: &Path) -> String {
    let found = Command::new("findmnt").args(["-no", "FSTYPE", "-T"]).arg(folder).output();
    found.map_or("unknown".into(), |found| {
        String::from_utf8_lossy(&found.stdout).lines().last().unwrap_or_default().to_owned()
    })
}

/// What the clients saw of a change.
type Kind = (&'static str, fn(&Counted) -> Amount);

const KINDS: [Kind; 3] = [
    ("to all", |counted| counted.multicast),
    ("to single ones", |counted| counted.unicast),
    ("of answers", |counted| counted.answers),
];

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
