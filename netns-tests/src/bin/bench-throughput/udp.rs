//! Datagrams at a steady rate, counted at the other end.
//!
//! Many to a system call on both sides, without segmentation offload: one call for each datagram, as other tools have it,
//! would cost the two cores that all share more than some tunnels do.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use muster_netlab::Coalition;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn6, recvmmsg, sendmmsg, setsockopt, sockopt};

/// Lost of all, at most.
const TOLERATED: f64 = 0.003;
/// Sent of what was asked for, at least: less is the rate below.
const KEPT: f64 = 0.95;

/// The rates that are tried, of any size of packets: datagrams a second, each some six percent above the one before. Of 1,400
/// octets that is 108 Mbit/s to 11 Gbit/s.
const FIRST: f64 = 10_000.0;
const STEP: f64 = 1.06;
const RATES: i32 = 80;

/// Datagrams in a system call.
const BATCH: usize = 64;
/// How often the sender sends what is due.
const TICK: Duration = Duration::from_micros(250);
/// What is due for longer, since the sender had no processor, is not sent: it would be a burst that nobody asked for.
const LATE: Duration = Duration::from_millis(10);
/// So long after the last datagram none is on its way any more.
const SILENCE: Duration = Duration::from_millis(500);
/// Of sockets. Enough for the receiver to wait for a processor.
const BUFFER: usize = 16 << 20;

/// What stands in the way of the next higher rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// More is lost than tolerated.
    Loss,
    /// The sender cannot send so much: the tunnel leaves it too little of the processors.
    Sender,
    /// There is none.
    Grid,
}

/// The highest rate that arrives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Highest {
    /// Datagrams a second, as they were sent.
    pub(crate) rate: f64,
    pub(crate) bound: Bound,
}

/// Halves the span between a rate that is sent and arrives and one that does not; one measurement for each. What was sent
/// counts, not what was asked for.
pub(crate) fn highest(coalition: &Coalition, octets: usize, time: Duration) -> Result<Highest, String> {
    let (mut low, mut high) = (-1, RATES);
    let mut found = Highest { rate: 0.0, bound: Bound::Grid };
    while high - low > 1 {
        let middle = (low + high) / 2;
        let asked = FIRST * STEP.powi(middle);
        let Counted { sent, arrived } = offer(coalition, octets, Some(asked), time)?;
        let (offered, lost) = (sent as f64 / time.as_secs_f64(), 1.0 - arrived as f64 / sent.max(1) as f64);
        if lost <= TOLERATED {
            found.rate = found.rate.max(offered);
        }
        if offered < KEPT * asked {
            (high, found.bound) = (middle, Bound::Sender);
        } else if lost > TOLERATED {
            (high, found.bound) = (middle, Bound::Loss);
        } else {
            low = middle;
        }
    }
    Ok(found)
}

/// Datagrams a second that arrive when the sender sends as many as it can.
pub(crate) fn flood(coalition: &Coalition, octets: usize, time: Duration) -> Result<f64, String> {
    let Counted { arrived, .. } = offer(coalition, octets, None, time)?;
    Ok(arrived as f64 / time.as_secs_f64())
}

struct Counted {
    sent: u64,
    arrived: u64,
}

/// Sends `rate` datagrams a second, or as many as it can, of `octets` octets of payload from the first host to the second.
fn offer(coalition: &Coalition, octets: usize, rate: Option<f64>, time: Duration) -> Result<Counted, String> {
    let [from, to] = coalition.routers() else { unreachable!("two routers") };
    // Anew for each rate, so that no datagram is counted that is late from another.
    let open = |address| {
        let socket = UdpSocket::bind((address, 0))?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
        setsockopt(&socket, sockopt::SndBufForce, &BUFFER)?;
        io::Result::Ok(socket)
    };
    let receiver = to.host.try_run("open a socket", || open(to.plan.host_v6())).map_err(text)?;
    let sender = from.host.try_run("open a socket", || open(from.plan.host_v6())).map_err(text)?;
    sender.connect(receiver.local_addr().map_err(text)?).map_err(text)?;
    receiver.set_read_timeout(Some(SILENCE)).map_err(text)?;

    let sent = OnceLock::new();
    std::thread::scope(|scope| {
        let counting = scope.spawn(|| count(&receiver, octets, &sent));
        let done = send(&sender, octets, rate, time);
        // Also when it failed, or the receiver would wait for ever.
        let _ = sent.set(done.as_ref().copied().unwrap_or(0));
        let arrived = counting.join().expect("it does not panic").map_err(|error| format!("receiving: {error}"))?;
        Ok(Counted { sent: done.map_err(|error| format!("sending: {error}"))?, arrived })
    })
}

fn send(socket: &UdpSocket, octets: usize, rate: Option<f64>, time: Duration) -> io::Result<u64> {
    let payload = vec![0; octets];
    let piece = [IoSlice::new(&payload)];
    let names = [None::<SockaddrIn6>; BATCH];
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let (begun, mut due, mut sent) = (Instant::now(), 0, 0);
    while begun.elapsed() < time {
        let mut rest = BATCH;
        if let Some(rate) = rate {
            std::thread::sleep(TICK);
            let now = (rate * begun.elapsed().as_secs_f64()) as usize;
            rest = (now - due).min((rate * LATE.as_secs_f64()) as usize);
            due = now;
        }
        while rest > 0 {
            let pieces = std::iter::repeat_n(&piece, rest.min(BATCH));
            let taken = sendmmsg(socket.as_raw_fd(), &mut headers, pieces, names, [], MsgFlags::empty())?.count();
            rest -= taken;
            sent += taken as u64;
        }
    }
    Ok(sent)
}

/// Counts what comes until all that was `sent` has come, or nothing comes any more.
fn count(socket: &UdpSocket, octets: usize, sent: &OnceLock<u64>) -> io::Result<u64> {
    let mut memory = vec![0; octets * BATCH];
    let mut headers = MultiHeaders::<SockaddrIn6>::preallocate(BATCH, None);
    let mut arrived = 0;
    loop {
        let mut pieces: Vec<_> = memory.chunks_exact_mut(octets).map(|piece| [IoSliceMut::new(piece)]).collect();
        match recvmmsg(socket.as_raw_fd(), &mut headers, &mut pieces, MsgFlags::MSG_WAITFORONE, None) {
            Ok(received) => arrived += received.count() as u64,
            Err(Errno::EAGAIN) if sent.get().is_some() => return Ok(arrived),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if sent.get() == Some(&arrived) {
            return Ok(arrived);
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
