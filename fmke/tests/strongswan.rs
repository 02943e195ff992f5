//! Phase 1 against strongSwan's charon, either way round, each in a network namespace of its own.
//!
//! All that charon reads and makes is in a folder of the test's, and it ends with the test; nothing on the machine changes.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use muster_fmke::crypto::SecretBytes;
use muster_fmke::crypto::dh::Group;
use muster_fmke::crypto::signature::{Method, Signer};
use muster_fmke::isakmp::{Identity, notification};
use muster_fmke::phase1::x509::{Anchors, subject};
use muster_fmke::phase1::{
    Authentication, Authority, Certificate, CertificateError, Client, Clients, Credentials, Datagram, Event, Initiator,
    Limits, Liveness, Proposals, Refused, Responder, Server, Verified,
};
use muster_netlab::{Namespace, Process, VethEnd, skip, wait_until};
use muster_wire::Time;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

const LIMIT: Duration = Duration::from_secs(60);
const SECRET: &str = "of this laboratory";
/// RFC 2407's, which charon speaks.
const DOI: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Secret,
    Rsa,
    Ecdsa,
}

impl Way {
    fn authentication(self) -> Authentication {
        match self {
            Way::Secret => Authentication::PreSharedKey,
            Way::Rsa => Authentication::Signature(Method::Rsa),
            Way::Ecdsa => Authentication::Signature(Method::EcdsaP256),
        }
    }

    fn key(self) -> KeyPair {
        match self {
            Way::Rsa => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048),
            _ => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        }
        .expect("a key")
    }
}

/// An authority and two certificates.
struct Pki {
    anchor: rcgen::Certificate,
    ours: (rcgen::Certificate, KeyPair),
    theirs: (rcgen::Certificate, KeyPair),
}

impl Pki {
    fn new(way: Way) -> Self {
        let mut params = named("the authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = way.key();
        let anchor = params.self_signed(&key).expect("an authority");
        let issuer = Issuer::new(params, key);
        let leaf = |name: &str| {
            let key = way.key();
            (named(name).signed_by(&key, &issuer).expect("a certificate"), key)
        };
        Pki { anchor, ours: leaf("muster"), theirs: leaf("charon") }
    }

    fn own(&self) -> Credentials {
        let (certificate, key) = &self.ours;
        let der = certificate.der().to_vec();
        let identity = subject(&der).expect("a subject");
        let key = Signer::from_pkcs8(&key.serialize_der()).expect("a key");
        Credentials { identity, certificates: vec![Arc::new(Certificate { chain: vec![der], key })] }
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Whom we take: charon at its address.
struct Directory {
    address: IpAddr,
    secret: Option<SecretBytes>,
    anchors: Option<Anchors>,
}

impl Authority for Directory {
    fn check(&self, chain: &[&[u8]], identity: &Identity) -> Result<Verified, CertificateError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        self.anchors.as_ref().ok_or(CertificateError::UnknownIssuer)?.check(chain, identity, now)
    }
}

impl Clients for Directory {
    fn client(&self, address: IpAddr) -> Option<Client<'_>> {
        (address == self.address).then_some(Client { secret: self.secret.as_ref(), identity: None })
    }
}

/// charon in its namespace, and ours beside it.
struct Lab {
    _ours: Namespace,
    _theirs: Namespace,
    socket: UdpSocket,
    folder: tempfile::TempDir,
    charon: Process,
    way: Way,
    pki: Option<Pki>,
    here: SocketAddr,
    there: SocketAddr,
}

fn installed(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin"].iter().map(|place| Path::new(place).join(name)).find(|path| path.exists())
}

fn no_charon(test: &str) -> bool {
    let missing = installed("charon-systemd").is_none() || installed("swanctl").is_none();
    if missing {
        eprintln!(
            "SKIP {test}: charon is not installed (apt-get install charon-systemd strongswan-swanctl libstrongswan-standard-plugins)"
        );
    }
    missing
}

impl Lab {
    fn new(way: Way, proposal: &str) -> Self {
        let (ours, theirs) = (Namespace::new("muster").unwrap(), Namespace::new("charon").unwrap());
        let (near, far) = (VethEnd::from("black0"), VethEnd::from("black0"));
        ours.add_veth(&near, &theirs, &far).unwrap();
        ours.add_address("black0", "192.0.2.1/24".parse().unwrap()).unwrap();
        theirs.add_address("black0", "192.0.2.2/24".parse().unwrap()).unwrap();
        ours.wait_for_link("black0").unwrap();
        let (here, there) = ("192.0.2.1:500".parse().unwrap(), "192.0.2.2:500".parse().unwrap());
        let socket = ours.try_run("bind", move || UdpSocket::bind::<SocketAddr>(here)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let pki = (way != Way::Secret).then(|| Pki::new(way));
        write(folder.path(), way, pki.as_ref(), proposal);
        // Where it is installed, AppArmor keeps it from files elsewhere than in /etc.
        fs::copy(installed("swanctl").unwrap(), folder.path().join("swanctl")).unwrap();
        let mut command = Command::new("charon-systemd");
        command.env("STRONGSWAN_CONF", folder.path().join("strongswan.conf"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let charon = theirs.spawn(command).expect("charon starts");
        let mut lab = Lab { _ours: ours, _theirs: theirs, socket, folder, charon, way, pki, here, there };
        assert!(wait_until(LIMIT, || UnixStream::connect(lab.path("vici")).is_ok()), "{}", lab.said());
        assert!(lab.charon.exited().unwrap().is_none());
        let file = lab.path("swanctl.conf").display().to_string();
        lab.swanctl(&["--load-all", "--file", &file]);
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path("swanctl"));
        command.args(arguments).args(["--uri", &format!("unix://{}", self.path("vici").display())]);
        command.env("STRONGSWAN_CONF", self.path("strongswan.conf")).env("SWANCTL_DIR", self.folder.path());
        command
    }

    fn swanctl(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("swanctl runs");
        assert!(output.status.success(), "{} {}", String::from_utf8_lossy(&output.stderr), self.said());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// charon's log.
    fn said(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn own(&self) -> Credentials {
        let identity = Identity::Address(self.here.ip());
        self.pki.as_ref().map_or(Credentials { identity, certificates: Vec::new() }, Pki::own)
    }

    fn directory(&self) -> Directory {
        let anchor = |pki: &Pki| Anchors::new(&[pki.anchor.der().to_vec()]).expect("an anchor");
        Directory { address: self.there.ip(), secret: self.secret(), anchors: self.pki.as_ref().map(anchor) }
    }

    fn secret(&self) -> Option<SecretBytes> {
        (self.way == Way::Secret).then(|| SecretBytes::from(SECRET.as_bytes()))
    }

    fn proposals(&self, group: Group) -> Proposals {
        Proposals { groups: vec![group], authentications: vec![self.way.authentication()], ..Proposals::default() }
    }
}

fn write(folder: &Path, way: Way, pki: Option<&Pki>, proposal: &str) {
    let place = folder.display();
    let daemon = format!(
        "charon-systemd {{
    load = random nonce openssl hmac kdf pem pkcs1 pkcs8 x509 pubkey constraints kernel-netlink socket-default vici
    # So that messages with certificates come in pieces.
    fragment_size = 700
    journal {{ default = -1 }}
    filelog {{ log {{ path = {place}/log
            default = 2
            flush_line = yes }} }}
    plugins {{ vici {{ socket = unix://{place}/vici }} }}
}}
"
    );
    let (auth, local, remote) = match way {
        Way::Secret => ("psk", String::new(), String::new()),
        _ => ("pubkey", "certs = charon.pem".to_owned(), "id = \"CN=muster\"".to_owned()),
    };
    let tunnel = format!(
        "connections {{ muster {{
        version = 1
        local_addrs = 192.0.2.2
        remote_addrs = 192.0.2.1
        proposals = {proposal}
        local {{ auth = {auth}
            {local} }}
        remote {{ auth = {auth}
            {remote} }}
        children {{ none {{ local_ts = 192.0.2.2/32 }} }}
}} }}
secrets {{ ike {{ secret = \"{SECRET}\" }} }}
"
    );
    fs::write(folder.join("strongswan.conf"), daemon).unwrap();
    fs::write(folder.join("swanctl.conf"), tunnel).unwrap();
    if let Some(pki) = pki {
        for (name, content) in [
            ("x509ca/authority.pem", pki.anchor.pem()),
            ("x509/charon.pem", pki.theirs.0.pem()),
            ("private/charon.pem", pki.theirs.1.serialize_pem()),
        ] {
            let file = folder.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        }
    }
}

/// Either end of ours.
enum End {
    Member(Box<Initiator>),
    Server(Box<Responder>),
}

/// Runs our end until `done`, or for `limit`. Returns what happened.
fn drive(lab: &Lab, end: &mut End, begun: Instant, limit: Duration, done: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut rng = ChaCha20Rng::from_seed(rand_seed());
    let directory = lab.directory();
    let (started, mut events) = (Instant::now(), Vec::new());
    while started.elapsed() < limit {
        let now = Time(u64::try_from(begun.elapsed().as_micros()).unwrap());
        let mut buffer = [0; 65_536];
        match lab.socket.recv_from(&mut buffer) {
            Ok((len, from)) => {
                let result = match end {
                    End::Member(member) => member.handle_datagram(now, from, &buffer[..len], &directory, &mut rng),
                    End::Server(server) => server.handle_datagram(now, from, &buffer[..len], &directory, &mut rng),
                };
                if let Err(refused) = result {
                    println!("refused {len} octets: {refused}");
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        match end {
            End::Member(member) if due(member.poll_timeout()) => member.handle_timeout(now, &mut rng),
            End::Server(server) if due(server.poll_timeout()) => server.handle_timeout(now, &mut rng),
            _ => {}
        }
        let next = |end: &mut End| match end {
            End::Member(member) => (member.poll_transmit(), member.poll_event()),
            End::Server(server) => (server.poll_transmit(), server.poll_event()),
        };
        loop {
            let (datagram, event) = next(end);
            if datagram.is_none() && event.is_none() {
                break;
            }
            if let Some(Datagram { to, bytes }) = datagram {
                lab.socket.send_to(&bytes, to).expect("sent");
            }
            events.extend(event);
        }
        if events.iter().any(&done) {
            break;
        }
    }
    events
}

fn rand_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    aws_lc_rs::rand::fill(&mut seed).expect("random numbers");
    seed
}

fn is_established(event: &Event) -> bool {
    matches!(event, Event::Established { .. })
}

/// Our member asks charon, keeps the SA alive for a while, and ends it.
fn we_initiate(way: Way, group: Group, proposal: &str) {
    let lab = Lab::new(way, proposal);
    let server = Server { address: lab.there, secret: lab.secret(), identity: None };
    let liveness = Liveness { idle: Duration::from_millis(500), retry: Duration::from_millis(500), tries: 3 };
    let begun = Instant::now();
    let member = Initiator::new(DOI, lab.proposals(group), lab.own(), server, liveness, Time(0));
    let mut end = End::Member(Box::new(member));
    let events = drive(&lab, &mut end, begun, LIMIT, is_established);
    assert!(events.iter().any(is_established), "{way:?}: {}", lab.said());
    let is_listed = || lab.swanctl(&["--list-sas"]).contains("ESTABLISHED");
    assert!(wait_until(LIMIT, is_listed), "{way:?}: {}", lab.said());
    // Questions and answers (RFC 3706).
    let events = drive(&lab, &mut end, begun, Duration::from_secs(4), |_| false);
    assert_eq!(events, [], "{}", lab.said());
    assert!(lab.said().contains("DPD_ACK"), "charon was asked: {}", lab.said());
    let End::Member(member) = &mut end else { unreachable!() };
    member.close(&mut ChaCha20Rng::from_seed(rand_seed()));
    drive(&lab, &mut end, begun, Duration::from_millis(100), |_| false);
    assert!(wait_until(LIMIT, || !is_listed()), "charon understands the delete: {}", lab.said());
}

/// charon asks our server.
fn charon_initiates(way: Way, group: Group, proposal: &str) {
    let lab = Lab::new(way, proposal);
    let mut rng = ChaCha20Rng::from_seed(rand_seed());
    let server =
        Responder::new(DOI, lab.proposals(group), lab.own(), Liveness::default(), Limits::default(), Time(0), &mut rng);
    let mut end = End::Server(Box::new(server));
    let mut initiate = lab.command(&["--initiate", "--ike", "muster", "--timeout", "50"]);
    let mut initiate = initiate.stdout(Stdio::null()).spawn().expect("swanctl runs");
    let events = drive(&lab, &mut end, Instant::now(), LIMIT, is_established);
    let status = initiate.wait().expect("swanctl ends");
    assert!(status.success() && events.iter().any(is_established), "{way:?}: {}", lab.said());
    assert!(wait_until(LIMIT, || lab.swanctl(&["--list-sas"]).contains("ESTABLISHED")), "{way:?}: {}", lab.said());
    if way == Way::Rsa {
        assert!(lab.said().contains("splitting IKE message"), "in pieces: {}", lab.said());
    }
}

/// What charon says of an offer that it does not take comes in clear. It is told as what it is, and nothing comes of it.
#[test]
fn that_charon_chooses_nothing_is_told() {
    if skip("that_charon_chooses_nothing_is_told") || no_charon("that_charon_chooses_nothing_is_told") {
        return;
    }
    let lab = Lab::new(Way::Secret, "aes256-sha256-modp2048");
    let server = Server { address: lab.there, secret: lab.secret(), identity: None };
    let mut rng = ChaCha20Rng::from_seed(rand_seed());
    let (proposals, liveness) = (lab.proposals(Group::P256), Liveness::default());
    let mut member = Initiator::new(DOI, proposals, lab.own(), server, liveness, Time(0));
    member.handle_timeout(Time(0), &mut rng);
    let Datagram { to, bytes } = member.poll_transmit().expect("an offer");
    lab.socket.send_to(&bytes, to).expect("sent");
    let mut buffer = [0; 65_536];
    let mut answer = None;
    assert!(
        wait_until(LIMIT, || {
            answer = lab.socket.recv_from(&mut buffer).ok();
            answer.is_some()
        }),
        "no answer: {}",
        lab.said()
    );
    let (len, from) = answer.expect("it came");
    let taken = member.handle_datagram(Time(0), from, &buffer[..len], &lab.directory(), &mut rng);
    assert_eq!(taken.err(), Some(Refused::Notified(notification::NO_PROPOSAL_CHOSEN)), "{}", lab.said());
    assert!(member.poll_event().is_none() && member.poll_transmit().is_none(), "it is anybody's word");
}

#[test]
fn with_a_secret() {
    if skip("with_a_secret") || no_charon("with_a_secret") {
        return;
    }
    we_initiate(Way::Secret, Group::P256, "aes256-sha256-ecp256");
    charon_initiates(Way::Secret, Group::Curve25519, "aes256-sha512-curve25519");
    charon_initiates(Way::Secret, Group::Modp2048, "aes256-sha384-modp2048");
}

#[test]
fn with_rsa() {
    if skip("with_rsa") || no_charon("with_rsa") {
        return;
    }
    we_initiate(Way::Rsa, Group::Modp2048, "aes256-sha256-modp2048");
    charon_initiates(Way::Rsa, Group::P256, "aes256-sha256-ecp256");
}

#[test]
fn with_ecdsa() {
    if skip("with_ecdsa") || no_charon("with_ecdsa") {
        return;
    }
    we_initiate(Way::Ecdsa, Group::Curve25519, "aes256-sha256-curve25519");
    charon_initiates(Way::Ecdsa, Group::P256, "aes256-sha256-ecp256");
}
