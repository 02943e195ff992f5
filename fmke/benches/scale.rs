//! What 10,000 clients cost a key server, in one process and without a disk: `cargo bench -p muster-fmke`.
//!
//! Only what the key server does is timed, on one core. Clients come in waves and are dropped when they are in, so that the
//! growth of the process is the key server's; ten of them stay and follow what is multicast. The flat way of excluding, which
//! has one ciphertext for each member that stays, is timed with the same wrapping of keys.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap};
use muster_fmke::crypto::SecretBytes;
use muster_fmke::crypto::rekey::RekeyAlgorithm;
use muster_fmke::gcks::{self, Credential, Flow, FlowSelector, Gcks, Group, Profiles};
use muster_fmke::isakmp::{Delays, Identity};
use muster_fmke::member::{self, Member};
use muster_fmke::phase1::{
    Authority, CertificateError, Client, Clients, Credentials, Datagram, Limits, Liveness, Proposals, Rate, Server,
};
use muster_wire::Time;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

const CLIENTS: u32 = 10_000;
const WAVE: u32 = 100;
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 255, 0, 1)), 848);
const REKEY: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::new(239, 255, 0, 1)), 848);

fn main() {
    // With `cargo test` it only shows that it runs.
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let clients = if is_bench { CLIENTS } else { 2 * WAVE };
    let mut bench = Bench::new(clients);
    let mut measured = Vec::new();
    for wave in 0..clients / WAVE {
        bench.register(wave * WAVE..(wave + 1) * WAVE);
        measured.push((bench.spent, resident()));
    }
    let [(_, first), .., (spent, last)] = measured[..] else { unreachable!("two waves at least") };
    println!("{clients} clients, group 31 and a pre-shared key, one group with a flow, {WAVE} at a time");
    println!("registrations (phases 1 and 2)      {:>9.0} /s and core", f64::from(clients) / spent.as_secs_f64());
    println!("memory                              {:>9} octets a client", (last - first) / u64::from(clients - WAVE));
    bench.change("re-key", |gcks, now| gcks.rekey(now, None));
    let one = vec![name(clients - 1)];
    bench.change("exclusion of one", |gcks, now| gcks.exclude(now, &one));
    let hundred: Vec<String> =
        (0..clients / 100).map(|number| name(clients / 2 + 37 * number % (clients / 2 - 1))).collect();
    bench.change(&format!("exclusion of {}", hundred.len()), |gcks, now| gcks.exclude(now, &hundred));
    flat(clients - 1);
}

struct Secrets(SecretBytes);

impl Authority for Secrets {
    fn check(&self, _: &[&[u8]], _: &Identity) -> Result<Vec<u8>, CertificateError> {
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
    secrets: Secrets,
    rng: ChaCha20Rng,
    spent: Duration,
    followers: BTreeMap<IpAddr, Member>,
}

impl Bench {
    fn new(clients: u32) -> Self {
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
        Bench { now, gcks, secrets, rng, spent: Duration::ZERO, followers: BTreeMap::new() }
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
        let mut out = Vec::new();
        for (from, Datagram { bytes, .. }) in datagrams {
            let begun = Instant::now();
            let refused = self.gcks.handle_datagram(self.now, from, &bytes, &self.secrets).err();
            self.spent += begun.elapsed();
            assert!(refused.is_none(), "{refused:?}");
            self.deliver(wave, &mut out);
        }
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

    fn deliver(&mut self, wave: &mut BTreeMap<IpAddr, Member>, out: &mut Vec<(SocketAddr, Datagram)>) {
        loop {
            let begun = Instant::now();
            drop(self.gcks.poll_writes());
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
    fn change(&mut self, what: &str, change: impl Fn(&mut Gcks, Time)) {
        self.now = self.now + Duration::from_secs(10);
        self.gcks.handle_timeout(self.now);
        self.deliver(&mut BTreeMap::new(), &mut Vec::new());
        let before: Vec<usize> = self.followers.values().map(Member::sas).collect();
        let begun = Instant::now();
        change(&mut self.gcks, self.now);
        let spent = begun.elapsed();
        drop(self.gcks.poll_writes());
        let (mut count, mut octets, mut longest) = (0, 0, 0);
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
        let micros = spent.as_micros();
        println!("{what:<35} {micros:>9} µs, {octets} octets in {count} datagrams, the longest {longest}");
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

/// Octets of this process that are in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
}

/// One ciphertext for each member that stays.
fn flat(members: u32) {
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let keys: Vec<SecretBytes> = (0..members).map(|_| SecretBytes::generate(32, &mut rng)).collect();
    let fresh = SecretBytes::generate(32, &mut rng);
    let begun = Instant::now();
    let wrap = |key: &SecretBytes| {
        let (kek, mut wrapped) = (AesKek::new(&AES_256, key.as_bytes()).expect("a key of 32 octets"), [0; 40]);
        kek.wrap(fresh.as_bytes(), &mut wrapped).expect("32 octets into 40").len() + 2
    };
    let octets: usize = keys.iter().map(wrap).sum();
    println!("the same, flat: one ciphertext each {:>9} µs, {octets} octets", begun.elapsed().as_micros());
}
