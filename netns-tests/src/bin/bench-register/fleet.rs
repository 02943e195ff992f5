//! Clients of the key server: a machine and a socket each, all driven by one thread.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use muster_fmke::crypto::SecretBytes;
use muster_fmke::isakmp::Identity;
use muster_fmke::member::{Change, Member, Settings};
use muster_fmke::phase1::{Credentials, Liveness, Proposals, Server};
use muster_netlab::Namespace;
use muster_netns_tests::monotonic;
use muster_wire::Time;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

/// UDP ports of clients and key server, and of what is multicast.
pub(crate) const PORT: u16 = 848;
/// Where the key server is.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Where re-key messages go.
pub(crate) const REKEY: Ipv4Addr = Ipv4Addr::new(239, 255, 1, 1);
/// Addresses that [`address`] gives, and a tree of keys has places for.
pub(crate) const MOST: usize = 10_000;

/// Longer than any datagram.
const LONGEST: usize = 65_536;
/// Of the loopback interface, in every namespace.
const LOOPBACK: u32 = 1;
/// Timers are looked at so often when nothing comes.
const TICK: Duration = Duration::from_millis(5);

/// Datagrams, and octets of UDP payload.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counted {
    /// To the group.
    pub(crate) multicast: Amount,
    /// To single clients.
    pub(crate) unicast: Amount,
    /// From clients.
    pub(crate) answers: Amount,
}

/// How much of one kind.
#[derive(Clone, Copy, Default)]
pub(crate) struct Amount {
    pub(crate) datagrams: usize,
    pub(crate) octets: usize,
    /// Octets of the longest.
    pub(crate) longest: usize,
}

impl Amount {
    fn add(&mut self, octets: usize) {
        (self.datagrams, self.octets) = (self.datagrams + 1, self.octets + octets);
        self.longest = self.longest.max(octets);
    }
}

/// All clients. The first is the one that sends the group's flow.
pub(crate) struct Fleet {
    clients: Vec<Client>,
    /// What is multicast, heard once for all of them.
    listening: UdpSocket,
    /// When something came last, since the machine's start.
    heard: Duration,
    pub(crate) counted: Counted,
}

struct Client {
    member: Member,
    socket: UdpSocket,
    /// The SPI of the SA that came last.
    latest: Option<u32>,
    /// It is excluded: what it holds does not count.
    is_out: bool,
}

impl Fleet {
    /// They connect with the first [`Fleet::drive`].
    pub(crate) fn new(namespace: &Namespace, clients: usize) -> Fleet {
        let opened = namespace.try_run("open the clients' sockets", || {
            let sockets: io::Result<Vec<_>> = (0..clients).map(|client| bound(address(client))).collect();
            Ok((sockets?, listening()?))
        });
        let (sockets, listening) = opened.expect("sockets");
        let begin = |(number, socket)| Client { member: member(number), socket, latest: None, is_out: false };
        let clients = sockets.into_iter().enumerate().map(begin).collect();
        Fleet { clients, listening, heard: monotonic(), counted: Counted::default() }
    }

    /// Whether all are connected, and all who receive the flow hold one SA, the same: the latest, for with each that comes in the
    /// key server makes another.
    pub(crate) fn is_complete(&self) -> bool {
        self.clients.iter().all(|client| client.member.is_connected() && client.member.sas() > 0)
            && self.latest().is_some()
    }

    /// The SA that came last to all who receive the flow; `None` while it is not the same.
    pub(crate) fn latest(&self) -> Option<u32> {
        let mut receivers = self.clients[1..].iter().filter(|client| !client.is_out).map(|client| client.latest);
        let first = receivers.next()??;
        receivers.all(|latest| latest == Some(first)).then_some(first)
    }

    /// For how long nothing has come.
    pub(crate) fn quiet_for(&self) -> Duration {
        monotonic() - self.heard
    }

    /// These do not count any longer.
    pub(crate) fn exclude(&mut self, clients: &[usize]) {
        clients.iter().for_each(|client| self.clients[*client].is_out = true);
    }

    /// Has them do what is to be done, until that is so.
    ///
    /// # Panics
    /// When it does not come.
    pub(crate) fn drive(&mut self, limit: Duration, what: &str, is_done: impl Fn(&Fleet) -> bool) {
        let begun = monotonic();
        self.pass_time();
        while !is_done(self) {
            assert!(monotonic() - begun < limit, "waited {limit:?} for {what}");
            self.take(TICK);
            self.pass_time();
        }
    }

    /// What comes within a while.
    fn take(&mut self, wait: Duration) {
        let sockets = self.clients.iter().map(|client| &client.socket).chain([&self.listening]);
        let mut polled: Vec<_> = sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        let wait = PollTimeout::try_from(wait).expect("some milliseconds");
        let has_come = poll(&mut polled, wait).expect("poll") > 0;
        let ready: Vec<bool> = polled.iter().map(|one| one.any().unwrap_or(false)).collect();
        if !has_come {
            return;
        }
        self.heard = monotonic();
        let mut buffer = vec![0; LONGEST];
        for (client, _) in self.clients.iter_mut().zip(&ready).filter(|(_, is_ready)| **is_ready) {
            while let Some((length, from)) = received(&client.socket, &mut buffer) {
                self.counted.unicast.add(length);
                client.handle(from, &buffer[..length], &mut self.counted.answers);
            }
        }
        while let Some((length, from)) = received(&self.listening, &mut buffer) {
            self.counted.multicast.add(length);
            for client in self.clients.iter_mut().filter(|client| client.member.listens_to().next().is_some()) {
                client.handle(from, &buffer[..length], &mut self.counted.answers);
            }
        }
    }

    fn pass_time(&mut self) {
        let at = now();
        for client in self.clients.iter_mut().filter(|client| client.member.poll_timeout().is_some_and(|due| due <= at))
        {
            client.member.handle_timeout(at);
            client.drain(&mut self.counted.answers);
        }
    }
}

impl Client {
    fn handle(&mut self, from: SocketAddr, bytes: &[u8], answers: &mut Amount) {
        // What was multicast may be of a time before it came in.
        let _ = self.member.handle_datagram(now(), from, bytes, &());
        self.drain(answers);
    }

    fn drain(&mut self, answers: &mut Amount) {
        while let Some(datagram) = self.member.poll_transmit() {
            // What the kernel does not take is lost, as on any network: the protocol repeats.
            let _ = self.socket.send_to(&datagram.bytes, datagram.to);
            answers.add(datagram.bytes.len());
        }
        while let Some(change) = self.member.poll_change() {
            if let Change::Receive { spi, .. } = change {
                self.latest = Some(spi);
            }
        }
        while self.member.poll_event().is_some() {}
    }
}

pub(crate) fn name(client: usize) -> String {
    format!("client-{client}")
}

pub(crate) fn address(client: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, (client / 250) as u8, 1 + (client % 250) as u8)
}

/// What a client shares with the key server.
pub(crate) fn secret(client: usize) -> String {
    format!("the secret of client number {client:08}")
}

fn member(client: usize) -> Member {
    let own = IpAddr::from(address(client));
    let settings = Settings {
        doi: 2,
        address: own,
        proposals: Proposals::default(),
        credentials: Credentials { identity: Identity::Address(own), certificates: Vec::new() },
        server: Server {
            address: SocketAddr::from((SERVER, PORT)),
            secret: Some(SecretBytes::from(secret(client).as_bytes())),
            identity: None,
        },
        liveness: Liveness::default(),
    };
    // Not drawn at random: only a benchmark may.
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&(client as u64).to_be_bytes());
    Member::new(now(), settings, &SecretBytes::from(&seed[..]))
}

fn bound(address: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((address, PORT))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn listening() -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.bind(&SocketAddr::from((REKEY, PORT)).into())?;
    socket.join_multicast_v4_n(&REKEY, &InterfaceIndexOrAddress::Index(LOOPBACK))?;
    Ok(socket.into())
}

/// A datagram, if one is there; any other error is another's: an ICMP message for something sent before.
fn received(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    socket.recv_from(buffer).ok()
}

fn now() -> Time {
    Time(monotonic().as_micros() as u64)
}
