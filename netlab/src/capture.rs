//! The capture of the black side.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeSpec;
use socket2::{SockFilter, SockRef, Socket};

use crate::link::FIRST_BRIDGE_INDEX;
use crate::{Classifier, Error, Kind, Marker, Namespace, Result, Watch, pcap, wait_until};

/// Sees every frame on the bridges of a namespace exactly once, judges it and keeps it. Stops on drop.
///
/// It listens on the ports, where a frame comes in, and not on the bridge, which does not see unicast between two
/// ports; what the namespace itself sends is taken where it enters the bridge. The kernel does the choosing, so that
/// the copies that the bridge floods cost nothing.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What a capture has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// All frames.
    pub packets: u64,
    /// Frames that are ESP by their headers.
    pub esp: u64,
    /// Frames to the daemons' ports.
    pub own: u64,
    /// Frames that are clear text by the definition in `classify.rs`.
    pub cleartext: u64,
    /// Frames that the kernel dropped because the capture was too slow: nothing is known of them. Known only when a
    /// later frame comes.
    pub lost: u64,
    /// Frames judged but not kept, for want of room.
    pub unstored: u64,
}

/// A captured frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// When the kernel got it, since the Unix epoch.
    pub at: Duration,
    /// From the Ethernet header on, without checksum. UDP and TCP checksums may be unfinished, as virtual devices
    /// leave them.
    pub bytes: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Whether it is clear text.
    pub cleartext: bool,
}

impl Capture {
    /// Starts to capture in `namespace`; what is sent after this returns is seen.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`.
    pub fn start(namespace: &Namespace, watch: Watch) -> Result<Self> {
        let socket = namespace.try_run("open a packet socket", packet_socket)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                classifier: Classifier::new(watch),
                stats: Stats::default(),
                examples: Vec::new(),
                frames: VecDeque::new(),
                room: ROOM,
            }),
            rounds: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let thread = std::thread::spawn({
            let shared = shared.clone();
            move || shared.listen(&socket)
        });
        Ok(Capture { shared, thread: Some(thread) })
    }

    /// From now on, look for this marker, too. Call it before the traffic starts.
    pub fn add_marker(&self, marker: Marker) {
        self.shared.lock().classifier.add_marker(marker);
    }

    /// The counters, of what has been judged by now; see [`Capture::settle`].
    pub fn stats(&self) -> Stats {
        self.shared.lock().stats
    }

    /// Descriptions of the first frames of clear text, each different.
    pub fn examples(&self) -> Vec<String> {
        self.shared.lock().examples.clone()
    }

    /// The frames kept, in order of arrival.
    pub fn frames(&self) -> Vec<Frame> {
        self.shared.lock().frames.iter().cloned().collect()
    }

    /// Waits until all that had been on the wire when this was called is judged; `false` if `limit` was too short.
    pub fn settle(&self, limit: Duration) -> bool {
        // The round under way may have found the queue empty before the last frame; the next one has not.
        let enough = self.shared.rounds.load(Ordering::Acquire) + 2;
        wait_until(limit, || self.shared.rounds.load(Ordering::Acquire) >= enough)
    }

    /// Writes the frames kept into a pcap file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_pcap(&self, path: &Path) -> Result<()> {
        let frames = self.frames();
        File::create(path)
            .and_then(|file| pcap::write(BufWriter::new(file), frames.iter()))
            .map_err(|e| Error::system(format!("write {}", path.display()), e))
    }
}

impl Capture {
    /// Listens no longer; what was seen stays. For measurements that it would disturb.
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, there is nothing left to stop.
            let _ = thread.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop();
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// How often the queue was found empty.
    rounds: AtomicU64,
    stop: AtomicBool,
}

#[derive(Debug)]
struct State {
    classifier: Classifier,
    stats: Stats,
    examples: Vec<String>,
    frames: VecDeque<Frame>,
    /// Bytes that may still be kept.
    room: usize,
}

impl Shared {
    fn listen(&self, socket: &Socket) {
        let mut buffer = vec![0; 1 << 17];
        while !self.stop.load(Ordering::Relaxed) {
            while let Some(arrival) = receive(socket, &mut buffer) {
                self.lock().take(&buffer[..arrival.length], arrival);
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
            }
            self.rounds.fetch_add(1, Ordering::Release);
            // Whatever it says, the next round looks.
            let _ = poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::from(IDLE_MS));
        }
    }

    /// A panic of another holder cannot leave these counters half changed in a way that matters.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, bytes: &[u8], arrival: Arrival) {
        let verdict = self.classifier.classify(bytes);
        let cleartext = verdict.cleartext.is_some();
        self.stats.packets += 1;
        self.stats.esp += u64::from(verdict.kind == Kind::Esp);
        self.stats.own += u64::from(verdict.kind == Kind::Own);
        self.stats.cleartext += u64::from(cleartext);
        self.stats.lost = self.stats.lost.max(arrival.lost.into());
        if let Some(text) = verdict.cleartext
            && self.examples.len() < EXAMPLES
            && !self.examples.contains(&text)
        {
            self.examples.push(text);
        }
        if bytes.len() > self.room {
            self.stats.unstored += 1;
            return;
        }
        self.room -= bytes.len();
        self.frames.push_back(Frame { at: arrival.at, bytes: bytes.to_vec(), kind: verdict.kind, cleartext });
    }
}

struct Arrival {
    length: usize,
    at: Duration,
    /// Frames dropped by the kernel since the socket was opened.
    lost: u32,
}

/// `None`: nothing is waiting.
fn receive(socket: &Socket, buffer: &mut [u8]) -> Option<Arrival> {
    let mut space = cmsg_space!(TimeSpec, u32);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_DONTWAIT).ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut arrival = Arrival { length: message.bytes, at: now, lost: 0 };
    // Too little space for the control messages cannot be: then the time of reading stands in.
    for control in message.cmsgs().into_iter().flatten() {
        match control {
            ControlMessageOwned::ScmTimestampns(at) => arrival.at = at.into(),
            ControlMessageOwned::RxqOvfl(lost) => arrival.lost = lost,
            _ => {}
        }
    }
    Some(arrival)
}

fn packet_socket() -> io::Result<Socket> {
    let socket: Socket =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?.into();
    let reference = SockRef::from(&socket);
    reference.attach_filter(&EACH_FRAME_ONCE)?;
    // Beyond the machine's limit only as root of the machine; in a user namespace the limit holds.
    if setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).is_err() {
        reference.set_recv_buffer_size(64 << 20)?;
    }
    setsockopt(&socket, sockopt::RxqOvfl, &1)?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    // What slipped in before the filter was there.
    let mut byte = [0];
    loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut [IoSliceMut::new(&mut byte)], None, MsgFlags::MSG_DONTWAIT) {
            Ok(_) => {}
            Err(Errno::EAGAIN) => return Ok(socket),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes a frame that comes in on a device other than a bridge and `lo`, or that goes out on a bridge.
const EACH_FRAME_ONCE: [SockFilter; 9] = [
    SockFilter::new(LOAD, 0, 0, PACKET_TYPE),
    SockFilter::new(IF_EQUAL, 3, 0, OUTGOING),
    SockFilter::new(LOAD, 0, 0, INTERFACE),
    SockFilter::new(IF_EQUAL, 4, 0, LOOPBACK_INDEX),
    SockFilter::new(IF_AT_LEAST, 3, 2, FIRST_BRIDGE_INDEX),
    SockFilter::new(LOAD, 0, 0, INTERFACE),
    SockFilter::new(IF_AT_LEAST, 0, 1, FIRST_BRIDGE_INDEX),
    SockFilter::new(RETURN, 0, 0, u32::MAX),
    SockFilter::new(RETURN, 0, 0, 0),
];

// Classic BPF: instructions and ancillary data.
const LOAD: u16 = 0x20;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
const ANCILLARY: u32 = 0xffff_f000;
const PACKET_TYPE: u32 = ANCILLARY + 4;
const INTERFACE: u32 = ANCILLARY + 8;
const OUTGOING: u32 = 4;
/// In every namespace.
const LOOPBACK_INDEX: u32 = 1;

/// Bytes of frames kept.
const ROOM: usize = 64 << 20;
const EXAMPLES: usize = 16;
const IDLE_MS: u8 = 10;
