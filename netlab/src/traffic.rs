//! Red traffic: numbered datagrams with a random marker, sent at a rate and counted where they arrive.
//!
//! A datagram is the 16-byte marker, a sequence number (u64, big-endian, from 0), then zeros up to its size.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use crate::{Error, Namespace, Result};

/// What tells one flow of red payloads from all other bytes in the world.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Marker(pub [u8; 16]);

impl Marker {
    /// A new random marker.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn random() -> Result<Self> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")
            .and_then(|mut source| source.read_exact(&mut bytes))
            .map_err(|e| Error::system("read /dev/urandom", e))?;
        Ok(Marker(bytes))
    }

    fn datagram(&self, sequence: u64, size: usize) -> Vec<u8> {
        let mut datagram = [&self.0[..], &sequence.to_be_bytes()].concat();
        datagram.resize(size, 0);
        datagram
    }

    fn sequence(&self, datagram: &[u8]) -> Option<u64> {
        let (sequence, _) = datagram.strip_prefix(&self.0)?.split_first_chunk()?;
        Some(u64::from_be_bytes(*sequence)).filter(|sequence| *sequence < MOST)
    }
}

impl fmt::Debug for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a sender sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Multicast group or host, with the UDP port.
    pub to: SocketAddr,
    /// In every payload.
    pub marker: Marker,
    /// Number of datagrams, below 2^24.
    pub count: u64,
    /// Datagrams a second, at least 1.
    pub rate: u32,
    /// UDP payload in bytes, at least 24.
    pub size: usize,
}

/// Sends a flow from a thread of its own, with hop limit 16. Stops on drop.
#[derive(Debug)]
pub struct Sender {
    sent: Arc<AtomicU64>,
    failed: Arc<Mutex<(u64, Option<String>)>>,
    /// Dropping it tells the thread to stop.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    /// Starts sending out of `device`.
    ///
    /// # Errors
    /// When the flow is out of range or the socket cannot be made.
    pub fn start(namespace: &Namespace, device: &str, flow: Flow) -> Result<Self> {
        if flow.size < HEADER || flow.rate == 0 || flow.count >= MOST {
            return Err(Error::Invalid(format!(
                "flow of {} datagrams of {} bytes at {}/s: want fewer than {MOST}, at least {HEADER} bytes, at least 1/s",
                flow.count, flow.size, flow.rate
            )));
        }
        let what = format!("open a socket to {} on {device}", flow.to);
        let socket = namespace.try_run(&what, || sending_socket(device, flow.to))?;
        let (stop, stopped) = mpsc::channel();
        let (sent, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new((0, None))));
        let thread = std::thread::spawn({
            let (sent, failed) = (sent.clone(), failed.clone());
            move || send(&socket, flow, &stopped, &sent, &failed)
        });
        Ok(Sender { sent, failed, stop: Some(stop), thread: Some(thread) })
    }

    /// Datagrams that the kernel has taken.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Datagrams that the kernel refused, and the last reason. They are not sent again.
    pub fn failed(&self) -> (u64, Option<String>) {
        lock(&self.failed).clone()
    }

    /// Ends the flow before its end; returns [`Sender::sent`].
    pub fn stop(mut self) -> u64 {
        drop(self.stop.take());
        self.join()
    }

    /// Waits for the end of the flow; returns [`Sender::sent`].
    pub fn finish(mut self) -> u64 {
        self.join()
    }

    fn join(&mut self) -> u64 {
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, `sent` says how far it came.
            let _ = thread.join();
        }
        self.sent()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a receiver has counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Different sequence numbers.
    pub unique: u64,
    /// Datagrams that had arrived before.
    pub duplicates: u64,
    /// Datagrams without the marker.
    pub foreign: u64,
    /// Source addresses of marked datagrams.
    pub sources: BTreeSet<IpAddr>,
    /// When the first marked datagram came.
    pub first: Option<Instant>,
    /// When the last marked datagram came.
    pub last: Option<Instant>,
    seen: Vec<u64>,
}

impl Tally {
    /// Whether this sequence number has arrived.
    pub fn has(&self, sequence: u64) -> bool {
        self.seen.get((sequence / 64) as usize).is_some_and(|word| word >> (sequence % 64) & 1 == 1)
    }

    /// The sequence numbers below `count` that have not arrived.
    pub fn missing(&self, count: u64) -> Vec<u64> {
        (0..count).filter(|sequence| !self.has(*sequence)).collect()
    }

    fn count(&mut self, sequence: Option<u64>, source: IpAddr) {
        let Some(sequence) = sequence else {
            self.foreign += 1;
            return;
        };
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.sources.insert(source);
        if self.has(sequence) {
            self.duplicates += 1;
            return;
        }
        // Below MOST, so the bitmap has at most 2 MiB.
        let (word, bit) = ((sequence / 64) as usize, sequence % 64);
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        self.seen[word] |= 1 << bit;
        self.unique += 1;
    }
}

/// Counts the datagrams of a flow in a thread of its own. Stops on drop.
#[derive(Debug)]
pub struct Receiver {
    /// Dropping it tells the thread to stop.
    stop: Option<PipeWriter>,
    tally: Arc<Mutex<Tally>>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Joins the group `local` on `device` if it is a multicast address, else listens on that address (which may be
    /// the unspecified one), and counts what arrives on `device`. The membership stands when this returns.
    ///
    /// # Errors
    /// When the address or port cannot be had.
    pub fn start(namespace: &Namespace, device: &str, local: SocketAddr, marker: Marker) -> Result<Self> {
        Receiver::start_with(namespace, device, local, None, marker)
    }

    /// As [`Receiver::start`], of an IPv4 group what comes from `source` alone (RFC 4607).
    ///
    /// # Errors
    /// As there.
    pub fn start_of_source(
        namespace: &Namespace,
        device: &str,
        group: SocketAddr,
        source: Ipv4Addr,
        marker: Marker,
    ) -> Result<Self> {
        Receiver::start_with(namespace, device, group, Some(source), marker)
    }

    fn start_with(
        namespace: &Namespace,
        device: &str,
        local: SocketAddr,
        source: Option<Ipv4Addr>,
        marker: Marker,
    ) -> Result<Self> {
        let what = format!("listen to {local} on {device}");
        let socket = namespace.try_run(&what, || receiving_socket(device, local, source))?;
        let (stopped, stop) = std::io::pipe().map_err(|e| Error::system("open a pipe", e))?;
        let tally = Arc::new(Mutex::new(Tally::default()));
        let thread = std::thread::spawn({
            let tally = tally.clone();
            move || receive(&socket, marker, &stopped, &tally)
        });
        Ok(Receiver { stop: Some(stop), tally, thread: Some(thread) })
    }

    /// What has arrived by now.
    pub fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    /// Different datagrams that have arrived by now.
    pub fn unique(&self) -> u64 {
        lock(&self.tally).unique
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const HEADER: usize = 24;
/// Bound of sequence numbers, and so of the receiver's memory.
const MOST: u64 = 1 << 24;
const HOP_LIMIT: u32 = 16;
/// Bytes that a receiver's socket keeps; a datagram takes some two thousand of them.
const RECEIVED: usize = 16 << 20;

fn sending_socket(device: &str, to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(device.as_bytes()))?;
    if to.is_ipv6() {
        socket.set_multicast_hops_v6(HOP_LIMIT)?;
        socket.set_unicast_hops_v6(HOP_LIMIT)?;
    } else {
        socket.set_multicast_ttl_v4(HOP_LIMIT)?;
        socket.set_ttl_v4(HOP_LIMIT)?;
    }
    Ok(socket)
}

fn send(
    socket: &Socket,
    flow: Flow,
    stopped: &mpsc::Receiver<()>,
    sent: &AtomicU64,
    failed: &Mutex<(u64, Option<String>)>,
) {
    let start = Instant::now();
    for sequence in 0..flow.count {
        // Due times are counted from the start, so that a late one does not delay all that follow.
        let due = start + Duration::from_secs_f64(sequence as f64 / f64::from(flow.rate));
        let pause = due.saturating_duration_since(Instant::now());
        if stopped.recv_timeout(pause) != Err(mpsc::RecvTimeoutError::Timeout) {
            return;
        }
        match socket.send_to(&flow.marker.datagram(sequence, flow.size), &flow.to.into()) {
            Ok(_) => _ = sent.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                let mut failed = lock(failed);
                *failed = (failed.0 + 1, Some(error.to_string()));
            }
        }
    }
}

fn receiving_socket(device: &str, local: SocketAddr, source: Option<Ipv4Addr>) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(device.as_bytes()))?;
    // Bound to the group itself: a wildcard socket would get other groups' datagrams, too.
    socket.bind(&local.into())?;
    let index = if_nametoindex(device)?;
    match (local.ip(), source) {
        // On the interface of the route to the group.
        (IpAddr::V4(group), Some(source)) => socket.join_ssm_v4(&source, &group, &Ipv4Addr::UNSPECIFIED)?,
        (IpAddr::V6(group), _) if group.is_multicast() => socket.join_multicast_v6(&group, index)?,
        (IpAddr::V4(group), _) if group.is_multicast() => {
            socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index))?;
        }
        _ => {}
    }
    // For a reader that waits for a processor. Without the right to more the kernel caps it at net.core.rmem_max, quietly.
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVED).is_err() {
        socket.set_recv_buffer_size(RECEIVED)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn receive(socket: &UdpSocket, marker: Marker, stopped: &PipeReader, tally: &Mutex<Tally>) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let mut wanted =
            [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(stopped.as_fd(), PollFlags::empty())];
        // Interrupted by a signal: then nothing is ready, and the next round looks again.
        let _ = poll(&mut wanted, PollTimeout::NONE);
        if wanted[1].any() == Some(true) {
            return;
        }
        // An error is a signal, or an ICMP message that the kernel reports once: neither ends the counting.
        if let Ok((length, source)) = socket.recv_from(&mut buffer) {
            lock(tally).count(marker.sequence(&buffer[..length]), source.ip());
        }
    }
}

/// A panic of another holder cannot leave these counters half changed in a way that matters.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
