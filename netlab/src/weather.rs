//! A black network that loses, repeats, delays and reorders: a switch in user space in the place of the bridge.
//!
//! The kernel's own means for this (netem) is missing on many machines, among them those that test this.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvfrom, sendto, setsockopt, socket, sockopt,
};
use socket2::Socket;

use crate::checksum;
use crate::inject::link_address;
use crate::{Namespace, Result};

/// What happens to frames between two routers, to each receiver's copy on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    /// Of a hundred copies so many are lost.
    pub loss: u8,
    /// Of a hundred copies so many arrive twice, each after a delay of its own.
    pub duplicates: u8,
    /// Each is late by a random time below this; so they overtake each other.
    pub delay: Duration,
    /// ESP is spared: what is lost, repeated or late are the messages of those who agree on its keys.
    pub spares_esp: bool,
    /// Of the random numbers.
    pub seed: u64,
}

/// What the weather has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Toll {
    /// Copies that were to be delivered.
    pub copies: u64,
    /// Copies lost on purpose.
    pub lost: u64,
    /// Copies delivered twice.
    pub duplicated: u64,
    /// Copies that found no room here, or that the kernel did not take.
    pub failed: u64,
}

/// The switch; ends when dropped. The ports are on no bridge while it runs.
#[derive(Debug)]
pub(crate) struct Switch {
    stop: Arc<AtomicBool>,
    toll: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

impl Switch {
    /// Forwards between `ports`, each with the hardware address behind it.
    pub(crate) fn start(namespace: &Namespace, ports: &[(String, [u8; 6])], weather: Weather) -> Result<Switch> {
        let (socket, links) = namespace.try_run("open a packet socket for the switch", || {
            let links = ports.iter().map(|(port, mac)| Ok((link_address(port)?, *mac)));
            let links = links.collect::<io::Result<Vec<_>>>()?;
            Ok((packet_socket()?, links))
        })?;
        let (stop, toll) = (Arc::new(AtomicBool::new(false)), Arc::new(Counters::default()));
        let thread = std::thread::spawn({
            let (stop, toll) = (stop.clone(), toll.clone());
            move || Forwarder::new(socket, links, weather, toll).run(&stop)
        });
        Ok(Switch { stop, toll, thread: Some(thread) })
    }

    pub(crate) fn toll(&self) -> Toll {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { copies, lost, duplicated, failed } = &*self.toll;
        Toll { copies: of(copies), lost: of(lost), duplicated: of(duplicated), failed: of(failed) }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, there is nothing left to stop.
            let _ = thread.join();
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    copies: AtomicU64,
    lost: AtomicU64,
    duplicated: AtomicU64,
    failed: AtomicU64,
}

/// A copy under way: when it is due, its number (so that equal times keep their order), the port it goes out of.
type Flight = Reverse<(Instant, u64, usize, Arc<Vec<u8>>)>;

struct Forwarder {
    socket: Socket,
    links: Vec<LinkAddr>,
    by_index: HashMap<usize, usize>,
    by_mac: HashMap<[u8; 6], usize>,
    weather: Weather,
    random: u64,
    number: u64,
    flights: BinaryHeap<Flight>,
    toll: Arc<Counters>,
}

impl Forwarder {
    fn new(socket: Socket, links: Vec<(LinkAddr, [u8; 6])>, weather: Weather, toll: Arc<Counters>) -> Self {
        Forwarder {
            socket,
            by_index: links.iter().enumerate().map(|(port, (link, _))| (link.ifindex(), port)).collect(),
            by_mac: links.iter().enumerate().map(|(port, (_, mac))| (*mac, port)).collect(),
            links: links.into_iter().map(|(link, _)| link).collect(),
            weather,
            random: weather.seed,
            number: 0,
            flights: BinaryHeap::new(),
            toll,
        }
    }

    fn run(mut self, stop: &AtomicBool) {
        let mut buffer = vec![0; 1 << 16];
        while !stop.load(Ordering::Relaxed) {
            // A bounded number, so that a flood does not hold up what is due.
            for _ in 0..BATCH {
                let Ok((length, from)) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) else { break };
                let arrived = from.filter(|from| from.pkttype() != OUTGOING);
                if let Some(port) = arrived.and_then(|from| self.by_index.get(&from.ifindex()).copied()) {
                    self.take(port, &buffer[..length]);
                }
            }
            let now = Instant::now();
            while self.flights.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
                let Some(Reverse((_, _, port, frame))) = self.flights.pop() else { break };
                if sendto(self.socket.as_raw_fd(), &frame, &self.links[port], MsgFlags::MSG_DONTWAIT).is_err() {
                    self.toll.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
            let next = self.flights.peek().map(|Reverse((due, ..))| due.saturating_duration_since(now));
            // Rounded up: waking before the time would be waking in vain.
            let wait = next.map_or(IDLE_MS, |wait| (wait.as_micros().div_ceil(1000) as u8).min(IDLE_MS));
            // Whatever it says, the next round looks.
            let _ = poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], PollTimeout::from(wait));
        }
    }

    /// A frame from the router behind `port`.
    fn take(&mut self, port: usize, frame: &[u8]) {
        let Some(destination) = frame.first_chunk::<6>() else { return };
        let to = match destination[0] & 1 {
            0 => self.by_mac.get(destination).map(|to| *to..*to + 1).unwrap_or_default(),
            _ => 0..self.links.len(),
        };
        let mut frame = frame.to_vec();
        checksum::complete(&mut frame);
        let is_spared = self.weather.spares_esp && is_esp(&frame);
        let frame = Arc::new(frame);
        to.filter(|to| *to != port).for_each(|to| self.send_copy(to, &frame, is_spared));
    }

    fn send_copy(&mut self, to: usize, frame: &Arc<Vec<u8>>, is_spared: bool) {
        self.toll.copies.fetch_add(1, Ordering::Relaxed);
        if is_spared {
            if sendto(self.socket.as_raw_fd(), frame, &self.links[to], MsgFlags::MSG_DONTWAIT).is_err() {
                self.toll.failed.fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        if self.hits(self.weather.loss) {
            self.toll.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let twice = self.hits(self.weather.duplicates);
        if twice {
            self.toll.duplicated.fetch_add(1, Ordering::Relaxed);
        }
        for _ in 0..=usize::from(twice) {
            if self.flights.len() >= MOST {
                self.toll.failed.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let micros = self.weather.delay.as_micros() as u64;
            let late = Duration::from_micros(if micros == 0 { 0 } else { self.draw() % micros });
            self.number += 1;
            self.flights.push(Reverse((Instant::now() + late, self.number, to, frame.clone())));
        }
    }

    fn hits(&mut self, of_a_hundred: u8) -> bool {
        self.draw() % 100 < of_a_hundred.into()
    }

    /// SplitMix64 (Steele, Lea, Flood, 2014): any seed will do.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// ESP straight behind the IP header, as routers send it.
fn is_esp(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(23) == Some(&50),
        Some([0x86, 0xdd]) => frame.get(20) == Some(&50),
        _ => false,
    }
}

fn packet_socket() -> io::Result<Socket> {
    let socket: Socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::EthAll,
    )?
    .into();
    // Beyond the machine's limit only as root of the machine; in a user namespace the limit holds.
    if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
        socket.set_recv_buffer_size(BUFFER)?;
    }
    Ok(socket)
}

/// Of a frame that this namespace sends (linux/if_packet.h: PACKET_OUTGOING).
const OUTGOING: u8 = 4;
const BATCH: usize = 64;
const IDLE_MS: u8 = 20;
const BUFFER: usize = 32 << 20;
/// Copies under way at once.
const MOST: usize = 1 << 16;
