use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use muster_fmke::crypto::SecretBytes;
use muster_fmke::isakmp::Identity;
use muster_fmke::member::{Change, Member};
use muster_fmke::phase1::{Credentials, Liveness};
use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use tokio::sync::broadcast;

use super::*;
use crate::centralised::Named;
use crate::centralised::certificates::tests::Pki;
use crate::centralised::phase1::proposals;
use crate::centralised::settings::GcksSection;
use crate::centralised::store::Store;
use crate::control::Request;
use crate::settings::{LogSection, MetricsSection};

const SECRET: &str = "a secret of a test";
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// A disk that can be made to fail.
#[derive(Debug)]
struct Disk(InMemoryBackend, Arc<AtomicBool>);

impl Disk {
    fn works(&self) -> std::io::Result<()> {
        match self.1.load(Ordering::SeqCst) {
            true => Ok(()),
            false => Err(std::io::Error::other("this disk is broken")),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.works().and_then(|()| self.0.set_len(len))
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.works().and_then(|()| self.0.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.works().and_then(|()| self.0.write(offset, data))
    }
}

/// A key server on the loopback interface whose configuration has one client and one group.
fn server(folder: &Path) -> Server {
    let path = folder.join("gcks.toml");
    let text = format!(
        "[gcks]\ninterface = \"lo\"\naddress = \"127.0.0.1\"\nport = 18480\nstate_dir = \"state\"\njoin_window = \"0s\"\n\n\
         [clients.a]\naddress = \"{CLIENT}\"\nsecret = \"{SECRET}\"\n\n\
         [groups.g]\nmembers = [\"a\"]\nrekey = \"239.1.1.1:18481\"\n\
         flows = [{{ senders = [\"a\"], group = \"239.10.0.1\" }}]\n"
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let settings = GcksSettings::load(&path).unwrap();
    let (_, asked) = mpsc::channel(1);
    Server {
        socket: socket::unicast("lo", [127, 0, 0, 1].into(), 0, 1).unwrap(),
        working: Some(Working::open(&settings).unwrap()),
        settings,
        set_level: Box::new(|_| {}),
        signals: Signals::listen().unwrap(),
        rollback: Rollback::watch().unwrap(),
        notifier: Notifier::default(),
        buffer: vec![0; socket::LONGEST],
        asked,
        report: Report::new(broadcast::channel(1).0),
        begun: Instant::now(),
        retry: Time(0),
        is_rolled_back: false,
        expiry: Expiry::default(),
        waiting: Vec::new(),
        refused: Refusals::default(),
        misfits: Misfits::default(),
        unsent: 0,
        metrics: Endpoint::closed(),
        transactions: 0,
        failures: 0,
    }
}

/// A client of it with a socket of its own, not at the address that its configuration says.
struct Peer {
    member: Member,
    socket: UdpSocket,
    /// For re-key messages. They are for one test at a time, for all of this process would hear them.
    listening: Option<UdpSocket>,
    /// Datagrams that have come.
    came: usize,
}

impl Peer {
    fn of(server: &Server, seed: u8) -> Peer {
        let listening = socket::listening("lo", CLIENT, ([239, 1, 1, 1].into(), 18_481)).unwrap();
        Peer { listening: Some(listening), ..Peer::with_secret(server, seed, SECRET) }
    }

    fn with_secret(server: &Server, seed: u8, secret: &str) -> Peer {
        let settings = muster_fmke::member::Settings {
            doi: 2,
            address: CLIENT,
            proposals: proposals(false),
            credentials: Credentials { identity: Identity::Address(CLIENT), certificates: Vec::new() },
            server: muster_fmke::phase1::Server {
                address: server.socket.local_addr().unwrap(),
                secret: Some(SecretBytes::from(secret.as_bytes())),
                identity: Some(Identity::Address([127, 0, 0, 1].into())),
            },
            liveness: Liveness::default(),
        };
        let member = Member::new(now(), settings, &SecretBytes::from(&[seed; 32][..]));
        Peer { member, socket: socket::unicast("lo", CLIENT, 0, 1).unwrap(), listening: None, came: 0 }
    }

    /// Takes and says all that there is; how many datagrams came.
    fn turn(&mut self) -> usize {
        let (mut came, mut buffer) = (0, vec![0; socket::LONGEST]);
        let Peer { member, socket: own, listening, came: all } = self;
        for socket in std::iter::once(&*own).chain(&*listening) {
            socket::receive(socket, &mut buffer, BURST, |from: SocketAddr, bytes| {
                came += 1;
                // Re-key messages may be of another time of this group.
                let _ = member.handle_datagram(now(), from, bytes, &());
            });
        }
        *all += came;
        member.handle_timeout(now());
        while let Some(datagram) = member.poll_transmit() {
            socket::send(own, datagram.to, &datagram.bytes).unwrap();
        }
        came
    }
}

async fn until(server: &mut Server, peer: &mut Peer, mut done: impl FnMut(&mut Server, &mut Peer) -> bool) {
    let begun = Instant::now();
    while !done(server, peer) {
        assert!(begun.elapsed() < Duration::from_secs(10), "it does not come");
        peer.turn();
        server.take_datagrams();
        server.handle_time();
        server.settle();
        // Sockets show what has come when the runtime has looked.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn sends(peer: &mut Peer) -> bool {
    std::iter::from_fn(|| peer.member.poll_change()).any(|change| matches!(change, Change::Send { .. }))
}

/// Nothing that comes of an input leaves before it is on the disk, not even to the one who asks at the control socket; and what
/// the disk has is what goes on.
#[tokio::test]
async fn a_disk_that_fails_keeps_everything_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = server(folder.path());
    let mut peer = Peer::of(&server, 1);
    server.settle();
    until(&mut server, &mut peer, |_, peer| sends(peer)).await;
    until(&mut server, &mut peer, |server, _| {
        server.working.as_ref().unwrap().machine.poll_timeout().is_none_or(|at| at > now() + Duration::from_secs(1))
    })
    .await;
    while peer.turn() > 0 {}

    let works = Arc::new(AtomicBool::new(true));
    let broken = Store::on(Disk(InMemoryBackend::new(), works.clone())).unwrap();
    let stored =
        |store: &Store| store.load().unwrap().into_iter().map(|(key, value)| (key, value.to_vec())).collect::<Vec<_>>();
    let before = stored(&server.working.as_ref().unwrap().store);
    let real = std::mem::replace(&mut server.working.as_mut().unwrap().store, broken);
    works.store(false, Ordering::SeqCst);
    let (answer, mut answered) = oneshot::channel();
    server.answer(Request::Push { group: None }, answer).await;
    assert!(answered.try_recv().is_err(), "not before it is done");
    server.settle();
    assert!(answered.await.unwrap().is_err_and(|why| why.contains("store")), "it was not");
    assert!(server.working.is_none());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(peer.turn(), 0, "nothing has left");
    assert_eq!(stored(&real), before);

    // The same with a disk that works, so that silence means something.
    drop(real);
    server.retry = now();
    until(&mut server, &mut peer, |server, _| server.working.is_some()).await;
    // The client's own SA of phase 1 is one that the server no longer knows; it begins anew.
    drop(peer);
    let mut peer = Peer::of(&server, 2);
    until(&mut server, &mut peer, |_, peer| sends(peer)).await;
    while peer.turn() > 0 {}
    let (answer, mut answered) = oneshot::channel();
    server.answer(Request::Push { group: None }, answer).await;
    server.settle();
    assert!(answered.try_recv().unwrap().is_ok());
    let before = peer.came;
    until(&mut server, &mut peer, |_, peer| peer.came > before).await;
    let kinds: Vec<EventKind> = server.report.log.lines().map(|line| line.event).collect();
    assert!(kinds.contains(&EventKind::Failed) && kinds.last() != Some(&EventKind::Failed), "{kinds:?}");
}

/// What is answered and told is what is so.
#[tokio::test]
async fn a_reload_is_in_force_whatever_the_disk_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = server(folder.path());
    let mut peer = Peer::with_secret(&server, 1, SECRET);
    until(&mut server, &mut peer, |_, peer| sends(peer)).await;
    let works = Arc::new(AtomicBool::new(true));
    let broken = Store::on(Disk(InMemoryBackend::new(), works.clone())).unwrap();
    drop(std::mem::replace(&mut server.working.as_mut().unwrap().store, broken));
    works.store(false, Ordering::SeqCst);
    let path = folder.path().join("gcks.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let (kept, _) = text.split_once("[groups.g]").unwrap();
    std::fs::write(&path, format!("[log]\nlevel = \"debug\"\n\n{kept}")).unwrap();
    let (answer, mut answered) = oneshot::channel();
    server.answer(Request::Reload, answer).await;
    let answer = answered.try_recv().unwrap().unwrap();
    assert_eq!(answer["changed"], serde_json::json!(["groups", "log.level"]));
    server.settle();
    assert!(server.working.is_none());
    assert_eq!(server.report.log.lines().last().map(|line| line.event), Some(EventKind::Failed));
    server.retry = now();
    server.handle_time();
    let stored = |server: &Server| server.working.as_ref().unwrap().store.load().unwrap();
    let is_of_group = |key: &String| key.contains("/g");
    assert!(stored(&server).keys().any(is_of_group));
    server.settle();
    assert!(server.working.as_ref().unwrap().machine.profiles().groups.is_empty());
    assert!(!stored(&server).keys().any(is_of_group), "{:?}", stored(&server).keys());
}

/// What is stored may have been given out by the machine that this one is a copy of: until other keys are stored, each beginning is
/// with new ones. What was asked for meanwhile is not done.
#[tokio::test]
async fn new_keys_after_a_rollback_do_not_depend_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = server(folder.path());
    // Not for the re-key messages, which another test listens to.
    let mut peer = Peer::with_secret(&server, 1, SECRET);
    until(&mut server, &mut peer, |_, peer| sends(peer)).await;
    let transactions = server.transactions;
    let [state, away] = ["state", "away"].map(|name| folder.path().join(name));
    let (answer, answered) = oneshot::channel();
    server.answer(Request::Push { group: None }, answer).await;
    // The disk cannot be read.
    let begun = server.working.take().map(drop);
    assert!(begun.is_some());
    std::fs::rename(&state, &away).unwrap();
    std::fs::write(&state, "no folder").unwrap();
    server.start_anew();
    server.settle();
    assert!(answered.await.unwrap().is_err_and(|why| why.contains("rolled back")));
    assert!(server.working.is_none() && server.transactions == transactions);
    std::fs::remove_file(&state).unwrap();
    std::fs::rename(&away, &state).unwrap();
    server.retry = now();
    server.handle_time();
    // Nor written.
    let works = Arc::new(AtomicBool::new(true));
    let broken = Store::on(Disk(InMemoryBackend::new(), works.clone())).unwrap();
    drop(std::mem::replace(&mut server.working.as_mut().unwrap().store, broken));
    works.store(false, Ordering::SeqCst);
    server.settle();
    assert!(server.working.is_none() && server.transactions == transactions);
    let rekeyed = |server: &Server| server.report.log.lines().filter(|line| line.event == EventKind::Rekeyed).count();
    let before = rekeyed(&server);
    server.retry = now();
    server.handle_time();
    server.settle();
    assert_eq!(rekeyed(&server), before + 1);
    // From here on as ever.
    server.working = None;
    server.retry = now();
    server.handle_time();
    server.settle();
    assert_eq!(rekeyed(&server), before + 1);
}

/// Once, though it says it again. What comes from nobody's address is counted alone.
#[tokio::test]
async fn why_a_client_is_refused_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = server(folder.path());
    let mut peer = Peer::with_secret(&server, 1, "another than the server's");
    let stranger = socket::unicast("lo", [127, 0, 0, 3].into(), 0, 1).unwrap();
    // The head of a first message: cookies, SA, version 1.0, main mode, flags, message id, length.
    let first = [&[7; 8][..], &[0; 8], &[1, 0x10, 2, 0, 0, 0, 0, 0, 0, 0, 0, 28]].concat();
    socket::send(&stranger, server.socket.local_addr().unwrap(), &first).unwrap();
    let told = |server: &Server| -> Vec<String> {
        let of_refusals = server.report.log.lines().filter(|line| line.event == EventKind::Refused);
        of_refusals.map(|line| line.detail.clone()).collect()
    };
    let refused =
        |server: &Server, reason| server.refused.counts().find(|(is, _)| *is == reason).map(|(_, count)| count);
    until(&mut server, &mut peer, |server, _| {
        refused(server, "authentication") >= Some(2) && refused(server, "unknown_address") == Some(1)
    })
    .await;
    let is = peer.socket.local_addr().unwrap();
    assert_eq!(told(&server), [format!("a: what came from its address {is} was refused: not authentic")]);
    let (answer, mut answered) = oneshot::channel();
    server.answer(Request::Clients, answer).await;
    let client = answered.try_recv().unwrap().unwrap()[0].clone();
    assert_eq!((&client["state"], &client["reason"]), (&"away".into(), &"refused: not authentic".into()));
}

/// What would not do at a start, and what takes one.
#[tokio::test]
async fn a_reload_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = server(folder.path());
    let path = folder.path().join("gcks.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    for (was, is, why) in [
        ("[gcks]", "[log]\nlevel = \"loud\"\n\n[gcks]", "log.level: must be"),
        ("[gcks]", "[log]\nformat = \"xml\"\n\n[gcks]", "log.format: must be"),
        ("[gcks]", "[log]\nlevel = \"debug\"\nformat = \"json\"\n\n[gcks]", "log.format: needs a restart"),
        (
            "[gcks]",
            "[log]\nlevel = \"debug\"\n\n[gcks]\nhop_limit = 63\nlegacy = true",
            "gcks.legacy, gcks.hop_limit: needs a restart",
        ),
    ] {
        std::fs::write(&path, text.replacen(was, is, 1)).unwrap();
        let refused = server.reload().await;
        assert!(refused.as_ref().is_err_and(|error| error.contains(why)), "{is}: {refused:?}");
        assert_eq!((server.settings.log.level.as_str(), server.settings.gcks.hop_limit), ("info", 64), "{is}");
        assert_eq!(server.report.log.lines().last().map(|line| line.event), Some(EventKind::ReloadRefused), "{is}");
    }
    std::fs::write(&path, format!("[log]\nlevel = \"debug\"\n\n{text}")).unwrap();
    assert_eq!(server.reload().await, Ok(vec!["log.level"]));
}

#[test]
fn what_is_followed_are_keys() {
    let keys = [GcksSection::KEYS, LogSection::KEYS, MetricsSection::KEYS].concat();
    assert!(reloading::FOLLOWED.iter().chain(&Named::KEYS).all(|key| keys.contains(key)));
}

/// An old copy of a list would let in again who was taken back since.
#[test]
fn a_start_with_an_older_revocation_list_than_was_in_force_is_refused() {
    let pki = Pki::new();
    pki.issue("own", "gcks.example", false);
    let begin = |crls: &str| {
        let text = format!(
            "[gcks]\ninterface = \"lo\"\naddress = \"127.0.0.1\"\nstate_dir = \"state\"\nidentity = \"gcks.example\"\n\
             certificate = \"own.pem\"\nprivate_key = \"own.key\"\ntrust_anchors = [\"ca.pem\"]\ncrls = [{crls}]\n"
        );
        pki.write("gcks.toml", &text);
        let settings = GcksSettings::load(&pki.folder.path().join("gcks.toml")).unwrap();
        let mut working = Working::open(&settings).map_err(|error| error.to_string())?;
        let writes = working.machine.poll_writes();
        working.store.commit(&writes).map_err(|error| error.to_string())
    };
    ["first", "second", "third"].into_iter().zip(1..).for_each(|(name, number)| pki.list(name, number));
    for named in ["", "\"first.pem\"", "\"second.pem\"", "\"first.pem\", \"second.pem\""] {
        assert_eq!(begin(named), Ok(()), "{named}");
    }
    for older in ["", "\"first.pem\""] {
        let refused = begin(older);
        assert!(refused.as_ref().is_err_and(|why| why.contains("gcks.crls: a newer list")), "{older}: {refused:?}");
    }
    assert_eq!(begin("\"third.pem\""), Ok(()));
    assert!(begin("\"second.pem\"").is_err());
}
