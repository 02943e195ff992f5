//! What 10,000 clients cost a key server, in one process, without a store and with one on the disk, as README's table has it:
//! `cargo bench -p muster-bridge --bench scale` (`-- --store FOLDER` says where; else it is below `target`).
//!
//! Only what the key server does is timed, on one core, by the clock (a change also by the processor's time): its machine, and the store's transactions until they are on the disk.
//! As in the daemon, one transaction takes what came of all datagrams that were there: here what one wave of clients says at
//! once. There is no socket. Clients come in waves and are dropped when they are in, so that the growth of the process is the
//! key server's; ten of them stay and follow what is multicast. Each round is a process of its own: a later key server would
//! live in memory that one before it has left. The flat way of excluding, which has one ciphertext for each member that stays,
//! is timed with the same wrapping of keys.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap};
use muster_bridge::GcksStore;
use muster_fmke::crypto::SecretBytes;
use muster_fmke::crypto::rekey::RekeyAlgorithm;
use muster_fmke::gcks::{self, Credential, Flow, FlowSelector, Gcks, Group, Profiles};
use muster_fmke::isakmp::{Delays, Identity};
use muster_fmke::member::{self, Member};
use muster_fmke::phase1::{
    Authority, CertificateError, Client, Clients, Credentials, Datagram, Limits, Liveness, Proposals, Rate, Server,
    Verified,
};
use muster_wire::Time;
use nix::time::{ClockId, clock_gettime};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

const CLIENTS: u32 = 10_000;
const WAVE: u32 = 100;
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 255, 0, 1)), 848);
const REKEY: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::new(239, 255, 0, 1)), 848);

/// With and without a store, by turns: medians count.
const ROUNDS: usize = 5;
/// Clients that are excluded at once, if there are enough.
const EXCLUDED: u32 = 100;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| arguments.iter().skip_while(|argument| *argument != name).nth(1);
    let store = |folder: &String| Some(PathBuf::from(folder)).filter(|folder| !folder.as_os_str().is_empty());
    // With `cargo test` it only shows that it runs.
    let is_bench = arguments.iter().any(|argument| argument == "--bench");
    let (clients, rounds) = if is_bench { (CLIENTS, ROUNDS) } else { (2 * WAVE, 1) };
    if let Some(folder) = value("--round") {
        let numbers = measure(clients, store(folder).as_deref());
        return println!("{}", serde_json::to_string(&numbers).expect("numbers"));
    }
    let folder = value("--store").map_or(env!("CARGO_TARGET_TMPDIR"), String::as_str);
    let mut measured = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (rounds, store) in measured.iter_mut().zip(["", folder]) {
            rounds.push(round(store, is_bench));
        }
    }
    let [without, with] = measured.map(|rounds| Numbers::medians(&rounds));
    println!(
        "| {clients} clients, {WAVE} at a time, medians of {rounds} | goal | without a store | with it, on the disk |"
    );
    println!("|---|---|---|---|");
    let row = |what: &str, goal: &str, text: &dyn Fn(&Numbers) -> String| {
        let goal = if goal.is_empty() { " ".to_owned() } else { format!(" {goal} ") };
        println!("| {what} |{goal}| {} | {} |", text(&without), text(&with));
    };
    row("registrations (phases 1 and 2, group 31, pre-shared key)", "2,000 /s", &|numbers| {
        format!("{:.0} /s", numbers.registrations)
    });
    row("memory a client, octets", "4,096", &|numbers| format!("{:.0}", numbers.memory));
    let excluding = format!("excluding {}", excluded(clients));
    let changes = [("new keys for all", ""), ("excluding one", "1,400 octets, 1 ms"), (&excluding, "")];
    for (place, (what, goal)) in changes.into_iter().enumerate() {
        row(what, goal, &|numbers| {
            let Cost { used, spent, octets, datagrams, longest } = numbers.changes[place];
            format!(
                "{octets} octets in {datagrams} datagrams of {longest} at most, {used:.2} ms; with waiting {spent:.2}"
            )
        });
    }
    let (octets, spent) = flat(clients - 1);
    let millis = spent.as_secs_f64() * 1000.0;
    println!("| excluding any number, flat: one ciphertext for each member | | {octets} octets, {millis:.1} ms | |");
}

/// So many at once.
fn excluded(clients: u32) -> u32 {
    EXCLUDED.min(clients / 10)
}

/// Of one round, or medians of several.
#[derive(Serialize, Deserialize)]
struct Numbers {
    /// A second.
    registrations: f64,
    /// Octets a client.
    memory: f64,
    /// New keys for all, excluding one, excluding many.
    changes: [Cost; 3],
}

/// Of a change of all keys.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Cost {
    /// Milliseconds of the processor.
    used: f64,
    /// Milliseconds in all.
    spent: f64,
    /// Of all datagrams.
    octets: f64,
    datagrams: f64,
    /// Octets of the longest one.
    longest: f64,
}

/// One round, in a process of its own.
fn round(store: &str, is_bench: bool) -> Numbers {
    let mut command = Command::new(std::env::current_exe().expect("the own path"));
    command.args(["--round", store]).args(is_bench.then_some("--bench"));
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("numbers")
}

impl Numbers {
    /// Of each number for itself.
    fn medians(rounds: &[Numbers]) -> Numbers {
        let median = |number: &dyn Fn(&Numbers) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(number).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Numbers {
            registrations: median(&|numbers| numbers.registrations),
            memory: median(&|numbers| numbers.memory),
            changes: std::array::from_fn(|place| Cost {
                used: median(&|numbers| numbers.changes[place].used),
                spent: median(&|numbers| numbers.changes[place].spent),
                octets: median(&|numbers| numbers.changes[place].octets),
                datagrams: median(&|numbers| numbers.changes[place].datagrams),
                longest: median(&|numbers| numbers.changes[place].longest),
            }),
        }
    }
}

/// One life of a key server.
fn measure(clients: u32, store: Option<&Path>) -> Numbers {
    let mut bench = Bench::new(clients, store);
    let mut grown = Vec::new();
    for wave in 0..clients / WAVE {
        bench.register(wave * WAVE..(wave + 1) * WAVE);
        grown.push(anonymous());
    }
    let [first, .., last] = grown[..] else { unreachable!("two waves at least") };
    let registrations = f64::from(clients) / bench.spent.as_secs_f64();
    let memory = (last - first) as f64 / f64::from(clients - WAVE);
    let one = vec![name(clients - 1)];
    let many: Vec<String> =
        (0..excluded(clients)).map(|number| name(clients / 2 + 37 * number % (clients / 2 - 1))).collect();
    let changes = [
        bench.change("new keys", |gcks, now| gcks.rekey(now, None)),
        bench.change("excluding one", |gcks, now| gcks.exclude(now, &one)),
        bench.change("excluding many", |gcks, now| gcks.exclude(now, &many)),
    ];
    Numbers { registrations, memory, changes }
}

struct Secrets(SecretBytes);

impl Authority for Secrets {
    fn check(&self, _: &[&[u8]], _: &Identity) -> Result<Verified, CertificateError> {
        Err(CertificateError::UnknownIssuer)
    }
}

impl Clients for Secrets {
    fn client(&self, _: IpAddr) -> Option<Client<'_>> {
        Some(Client { secret: Some(&self.0), identity: None })
    }
}

struct Bench {
    now: Time,
    gcks: Gcks,
    /// In a folder that goes with it.
    store: Option<(GcksStore, TempDir)>,
    secrets: Secrets,
    rng: ChaCha20Rng,
    spent: Duration,
    followers: BTreeMap<IpAddr, Member>,
}

impl Bench {
    fn new(clients: u32, store: Option<&Path>) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let rate = Rate { per_second: 1_000_000, burst: 1_000_000 };
        let settings = gcks::Settings {
            doi: 2,
            address: SERVER,
            proposals: Proposals::default(),
            credentials: Credentials { identity: Identity::Address(SERVER.ip()), certificates: Vec::new() },
            liveness: Liveness::default(),
            // All come within a minute.
            limits: Limits { exchanges: 2 * clients as usize, computations: rate, ..Limits::default() },
            join_window: Duration::from_millis(200),
            one_way_period: Duration::from_secs(60),
            signature: RekeyAlgorithm::EcdsaP256,
        };
        let now = Time(1_000_000_000);
        let seed = SecretBytes::generate(32, &mut rng);
        let gcks = Gcks::new(now, 1_700_000_000, settings, profiles(clients), BTreeMap::new(), &seed);
        let secrets = Secrets(SecretBytes::from(&b"the same for all: only a benchmark may"[..]));
        let gcks = gcks.expect("an empty store");
        let store = store.map(|folder| {
            let folder = TempDir::new_in(folder).expect("a folder");
            (GcksStore::open(folder.path()).expect("a store"), folder)
        });
        let (spent, followers) = (Duration::ZERO, BTreeMap::new());
        let mut bench = Bench { now, gcks, store, secrets, rng, spent, followers };
        // What it begins with.
        bench.commit();
        bench.spent = Duration::ZERO;
        bench
    }

    fn register(&mut self, numbers: std::ops::Range<u32>) {
        let first = numbers.start;
        let mut wave: BTreeMap<IpAddr, Member> =
            numbers.map(|number| (address(number), self.member(address(number)))).collect();
        // Phase 1, the window of the group, phase 2, the acknowledgements.
        for _ in 0..6 {
            self.now = self.now + Duration::from_millis(100);
            let mut out: Vec<(SocketAddr, Datagram)> = Vec::new();
            for (address, member) in &mut wave {
                member.handle_timeout(self.now);
                out.extend(sent(*address, member));
            }
            self.time_passes(&mut wave, &mut out);
            while !out.is_empty() {
                out = self.exchange(out, &mut wave);
            }
        }
        assert!(wave.values().all(|member| member.sas() == 1), "each has the flow's SA");
        if first == 0 {
            self.followers = wave.into_iter().take(10).collect();
        }
    }

    /// What was sent arrives; what is answered.
    fn exchange(
        &mut self,
        datagrams: Vec<(SocketAddr, Datagram)>,
        wave: &mut BTreeMap<IpAddr, Member>,
    ) -> Vec<(SocketAddr, Datagram)> {
        let begun = Instant::now();
        for (from, Datagram { bytes, .. }) in datagrams {
            let refused = self.gcks.handle_datagram(self.now, from, &bytes, &self.secrets).err();
            assert!(refused.is_none(), "{refused:?}");
        }
        self.spent += begun.elapsed();
        let mut out = Vec::new();
        self.deliver(wave, &mut out);
        out
    }

    fn time_passes(&mut self, wave: &mut BTreeMap<IpAddr, Member>, out: &mut Vec<(SocketAddr, Datagram)>) {
        let begun = Instant::now();
        if self.gcks.poll_timeout().is_some_and(|at| at <= self.now) {
            self.gcks.handle_timeout(self.now);
        }
        self.spent += begun.elapsed();
        self.deliver(wave, out);
    }

    /// What has come of all that was handled goes to the disk at once.
    fn commit(&mut self) {
        let begun = Instant::now();
        let writes = self.gcks.poll_writes();
        if let Some((store, _)) = self.store.as_ref().filter(|_| !writes.is_empty()) {
            store.commit(&writes).expect("a disk");
        }
        self.spent += begun.elapsed();
    }

    fn deliver(&mut self, wave: &mut BTreeMap<IpAddr, Member>, out: &mut Vec<(SocketAddr, Datagram)>) {
        self.commit();
        loop {
            let begun = Instant::now();
            let datagram = self.gcks.poll_transmit();
            self.spent += begun.elapsed();
            let Some(Datagram { to, bytes }) = datagram else { break };
            let is_multicast = to.ip().is_multicast();
            for (address, member) in self.followers.iter_mut().chain(wave.iter_mut()) {
                if is_multicast && member.listens_to().next().is_some() || *address == to.ip() {
                    // A follower is in the first wave, too: the second time is a repetition.
                    let _ = member.handle_datagram(self.now, SERVER, &bytes, &());
                    out.extend(sent(*address, member));
                }
            }
        }
        while self.gcks.poll_event().is_some() {}
    }

    /// Something that changes all keys: what it costs, and that the followers follow.
    fn change(&mut self, what: &str, change: impl Fn(&mut Gcks, Time)) -> Cost {
        self.now = self.now + Duration::from_secs(10);
        self.gcks.handle_timeout(self.now);
        self.deliver(&mut BTreeMap::new(), &mut Vec::new());
        let before: Vec<usize> = self.followers.values().map(Member::sas).collect();
        let (begun, used) = (Instant::now(), processor());
        change(&mut self.gcks, self.now);
        self.commit();
        let (used, spent) = (processor() - used, begun.elapsed());
        let (mut count, mut octets, mut longest) = (0_u32, 0, 0);
        while let Some(Datagram { to, bytes }) = self.gcks.poll_transmit() {
            if to.ip().is_multicast() {
                (count, octets, longest) = (count + 1, octets + bytes.len(), longest.max(bytes.len()));
                for member in self.followers.values_mut() {
                    // One part of an update is for some of them.
                    let _ = member.handle_datagram(self.now, SERVER, &bytes, &());
                }
            }
        }
        let after: Vec<usize> = self.followers.values().map(Member::sas).collect();
        assert!(before.iter().zip(&after).all(|(before, after)| after > before), "{what}: all have the new SA");
        let [used, spent] = [used, spent].map(|time| time.as_secs_f64() * 1000.0);
        Cost { used, spent, octets: octets as f64, datagrams: f64::from(count), longest: longest as f64 }
    }

    fn member(&mut self, address: IpAddr) -> Member {
        let settings = member::Settings {
            doi: 2,
            address,
            proposals: Proposals::default(),
            credentials: Credentials { identity: Identity::Address(address), certificates: Vec::new() },
            server: Server { address: SERVER, secret: Some(self.secrets.0.clone()), identity: None },
            liveness: Liveness::default(),
        };
        Member::new(self.now, settings, &SecretBytes::generate(32, &mut self.rng))
    }
}

fn sent(address: IpAddr, member: &mut Member) -> Vec<(SocketAddr, Datagram)> {
    std::iter::from_fn(|| member.poll_transmit()).map(|datagram| (SocketAddr::new(address, 848), datagram)).collect()
}

fn profiles(clients: u32) -> Profiles {
    let group = Ipv4Addr::new(239, 1, 1, 1).into();
    let source = "10.0.0.0/8".parse().expect("a prefix");
    let selector = FlowSelector { protocol: 17, source: (source, 0), destination: (group, 5004), outer: group };
    let day = Duration::from_secs(86_400);
    let all = Group {
        members: (0..clients).map(name).collect(),
        rekey: REKEY,
        flows: vec![Flow { senders: [name(0)].into(), selector }],
        tek_lifetime: day,
        kek_lifetime: day,
        delays: Delays { activation: 2, deactivation: 10 },
        rekey_on_join: false,
    };
    Profiles {
        clients: (0..clients)
            .map(|number| {
                (
                    name(number),
                    gcks::Client {
                        address: address(number),
                        credential: Credential::default(),
                        one_way: None,
                        bypass: Default::default(),
                    },
                )
            })
            .collect(),
        groups: [("all".to_owned(), all)].into(),
        vpns: BTreeMap::new(),
    }
}

fn name(number: u32) -> String {
    format!("client-{number}")
}

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0001 + number).into()
}

/// Time of the processor that this process has used.
fn processor() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("every Linux has it").into()
}

/// Octets of memory that this process has for itself: a page of the program that is read for the first time is nobody's client.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
}

/// One ciphertext for each member that stays: octets, and the time.
fn flat(members: u32) -> (usize, Duration) {
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let keys: Vec<SecretBytes> = (0..members).map(|_| SecretBytes::generate(32, &mut rng)).collect();
    let fresh = SecretBytes::generate(32, &mut rng);
    let begun = Instant::now();
    let wrap = |key: &SecretBytes| {
        let (kek, mut wrapped) = (AesKek::new(&AES_256, key.as_bytes()).expect("a key of 32 octets"), [0; 40]);
        kek.wrap(fresh.as_bytes(), &mut wrapped).expect("32 octets into 40").len() + 2
    };
    let octets = keys.iter().map(wrap).sum();
    (octets, begun.elapsed())
}
