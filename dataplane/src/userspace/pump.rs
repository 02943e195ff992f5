//! The packet threads, `workers` each way. Each waits, then takes what is there, a batch at a time.
//!
//! The device hands over many segments of one TCP or UDP flow as one packet, and takes them so (virtio-net headers, `gro.rs`).
//! On black each is a packet of its own, many in one system call (`mmsg.rs`).

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use nix::poll::PollTimeout;
use nix::sys::uio::writev;
use tun_rs::{SyncDevice, VIRTIO_NET_HDR_LEN, VirtioNetHdr};

use super::black::{Black, Outer, is_transient};
use super::device::MOST_SEGMENTS;
use super::early::Early;
use super::gro::{Joiner, VIRTIO_NET_HDR_F_NEEDS_CSUM};
use super::mmsg::{Buffer, Inbox, MOST, Outbox};
use crate::Error;
use crate::esp::fragment::Fragments;
use crate::esp::packet::{HEADER_LEN, ICV_LEN};
use crate::stop::Stop;
use crate::userspace::crossing::{BUFFER_LEN, Fit, Opened, Sealed};
use crate::userspace::sad::Sad;

/// Packets of a batch from red: two of the largest that the device hands over.
const BATCH: usize = 2 * MOST_SEGMENTS;

/// While packets wait for their SA, whether it has come is looked at after this many milliseconds.
const LOOK_AGAIN: u8 = 2;

/// Behind the inner packet there is room for trailer and ICV.
const INNER_END: usize = BUFFER_LEN - ICV_LEN - 8;

/// Reads from the device, encrypts, sends.
pub(super) fn red_to_black(device: &SyncDevice, black: &Black, sad: &Sad, stop: &Stop) -> Result<(), Error> {
    let mut memory = vec![0; BATCH * BUFFER_LEN];
    let mut red = FromRed::new(black, sad, &mut memory);
    while stop.wait(device.as_fd()).map_err(Error::io(|| "waiting for the device".into()))? {
        let read = red.read(device)?;
        red.encrypt(read)?;
    }
    Ok(())
}

/// A batch on its way from red to black.
struct FromRed<'a> {
    black: &'a Black,
    sad: &'a Sad,
    /// What the device hands over at once, with its header.
    whole: Vec<u8>,
    /// The packets of it, each behind room for the ESP header, and their lengths.
    buffers: Vec<Buffer<'a>>,
    lens: Vec<usize>,
    sealed: Vec<(usize, Sealed)>,
    outbox: Outbox,
    piece: Vec<u8>,
}

impl<'a> FromRed<'a> {
    fn new(black: &'a Black, sad: &'a Sad, memory: &'a mut [u8]) -> Self {
        FromRed {
            black,
            sad,
            whole: vec![0; VIRTIO_NET_HDR_LEN + INNER_END],
            buffers: Buffer::divide(memory, BUFFER_LEN),
            lens: vec![0; BATCH],
            sealed: Vec::with_capacity(BATCH),
            outbox: Outbox::new(),
            piece: vec![0; BUFFER_LEN],
        }
    }

    /// Takes what waits, as far as there is room; how many packets.
    fn read(&mut self, device: &SyncDevice) -> Result<usize, Error> {
        let mut count = 0;
        while count + MOST_SEGMENTS <= BATCH {
            let (buffers, lens) = (&mut self.buffers[count..], &mut self.lens[count..]);
            match device.recv_multiple(&mut self.whole, buffers, lens, HEADER_LEN) {
                Ok(more) => {
                    if let Some(at) = completed_checksum(&self.whole) {
                        buffers[..more].iter_mut().for_each(|buffer| never_zero(&mut buffer.bytes[HEADER_LEN..], at));
                    }
                    count += more;
                }
                Err(error) if is_idle(&error) => break,
                // Not of the kernel: what it handed over cannot be taken apart.
                Err(error) if error.raw_os_error().is_none() => {
                    self.sad.counts.malformed.fetch_add(1, Relaxed);
                    break;
                }
                Err(error) => return Err(Error::io(|| "reading from the device; was it deleted?".into())(error)),
            }
        }
        Ok(count)
    }

    /// Encrypts the first `count` packets and sends them, in order.
    fn encrypt(&mut self, count: usize) -> Result<(), Error> {
        for at in 0..count {
            let len = self.lens[at];
            match self.sad.fit(&self.buffers[at].bytes[HEADER_LEN..HEADER_LEN + len]) {
                Fit::Whole => {
                    let sealed = self.sad.seal(self.buffers[at].bytes, len);
                    self.sealed.extend(sealed.map(|sealed| (at, sealed)));
                }
                Fit::Dropped => {}
                Fit::Pieces(mtu) => {
                    self.send()?;
                    self.send_pieces(at, mtu)?;
                }
            }
        }
        self.send()
    }

    fn send(&mut self) -> Result<(), Error> {
        let FromRed { black, sad, buffers, sealed, outbox, .. } = self;
        let packets = sealed.iter().map(|(at, sealed)| (&buffers[*at].bytes[..sealed.len], sealed));
        let done = black.send(outbox, packets, sad);
        sealed.clear();
        done
    }

    /// Sends packet `at` in fragments of at most `mtu` octets.
    fn send_pieces(&mut self, at: usize, mtu: usize) -> Result<(), Error> {
        let FromRed { black, sad, buffers, lens, outbox, piece, .. } = self;
        let identification = sad.next_identification();
        let packet = &buffers[at].bytes[HEADER_LEN..HEADER_LEN + lens[at]];
        let mut pieces = Fragments::of(packet, mtu, identification);
        while let Some(len) = pieces.write_next(&mut piece[HEADER_LEN..INNER_END]) {
            if let Some(sealed) = sad.seal(piece, len) {
                black.send(outbox, [(&piece[..sealed.len], &sealed)].into_iter(), sad)?;
            }
        }
        Ok(())
    }
}

/// Receives, decrypts, writes to the device.
pub(super) fn black_to_red(device: &SyncDevice, black: &Black, sad: &Sad, stop: &Stop) -> Result<(), Error> {
    let room = black.esp_at() + BUFFER_LEN;
    let (mut memory, mut spare) = (vec![0; MOST * room], vec![0; room]);
    let mut red = ToRed::new(device, black, sad, &mut memory, &mut spare);
    let mut early = Early::default();
    loop {
        let limit = if early.is_empty() { PollTimeout::NONE } else { PollTimeout::from(LOOK_AGAIN) };
        if !stop.wait_at_most(black.as_fd(), limit).map_err(Error::io(|| "waiting for ESP".into()))? {
            return Ok(());
        }
        // Before the next packets: what came first goes first.
        if !early.is_empty() {
            early.offer(sad.installations(), |outer, esp| red.deliver_one(outer, esp))?;
            sad.counts.unknown_spi.fetch_add(early.expire(Instant::now()), Relaxed);
        }
        red.deliver(&mut early)?;
    }
}

/// A batch on its way from black to red.
struct ToRed<'a> {
    device: &'a SyncDevice,
    black: &'a Black,
    sad: &'a Sad,
    inbox: Inbox,
    buffers: Vec<Buffer<'a>>,
    /// For one that has waited for its SA.
    spare: Buffer<'a>,
    joiner: Joiner,
}

impl<'a> ToRed<'a> {
    fn new(device: &'a SyncDevice, black: &'a Black, sad: &'a Sad, memory: &'a mut [u8], spare: &'a mut [u8]) -> Self {
        let room = spare.len();
        ToRed {
            device,
            black,
            sad,
            inbox: Inbox::new(),
            buffers: Buffer::divide(memory, room),
            spare: Buffer::new(spare),
            joiner: Joiner::new(device.udp_gso()),
        }
    }

    /// Takes what waits, once.
    fn deliver(&mut self, early: &mut Early) -> Result<(), Error> {
        let received = match self.black.receive(&mut self.inbox, &mut self.buffers) {
            Ok(received) => received,
            // Reading an error takes it off the socket.
            Err(error) if is_transient(&error) => return Ok(()),
            Err(error) => return Err(Error::io(|| "receiving ESP".into())(error)),
        };
        let mut opened = 0;
        for at in 0..received {
            let Some(outer) = self.black.outer(&self.inbox, at, &mut self.buffers[at]) else { continue };
            match open(self.sad, self.black.esp_at(), &outer, &mut self.buffers[at]) {
                // What it changes places with has been dropped, or kept elsewhere.
                Some(true) => {
                    self.buffers.swap(opened, at);
                    opened += 1;
                }
                Some(false) => {}
                None => {
                    let esp = &self.buffers[at].as_ref()[self.black.esp_at()..];
                    if !early.keep(Instant::now(), outer, esp) {
                        self.sad.counts.unknown_spi.fetch_add(1, Relaxed);
                    }
                }
            }
        }
        self.write(opened)
    }

    /// Writes the first `opened` packets to the device, those of one flow as one.
    fn write(&mut self, opened: usize) -> Result<(), Error> {
        let inner_at = self.inner_at();
        let ToRed { device, sad, buffers, joiner, .. } = self;
        let buffers = &mut buffers[..opened];
        joiner.join(buffers, inner_at);
        for train in joiner.trains() {
            let mut pieces = [IoSlice::new(&[]); MOST];
            let mut count = 0;
            for (packet, skipped) in joiner.packets(train) {
                pieces[count] = IoSlice::new(&buffers[packet].as_ref()[inner_at - VIRTIO_NET_HDR_LEN + skipped..]);
                count += 1;
            }
            let written = writev(device.as_fd(), &pieces[..count]).map(drop).map_err(io::Error::from);
            counted(sad, written, count as u64)?;
        }
        Ok(())
    }

    /// Where in a buffer an opened packet begins.
    fn inner_at(&self) -> usize {
        self.black.esp_at() + HEADER_LEN
    }

    /// As for one packet that has waited; `false`: there still is no SA for it.
    fn deliver_one(&mut self, outer: &Outer, esp: &[u8]) -> Result<bool, Error> {
        let at = self.black.esp_at();
        self.spare.bytes[at..at + esp.len()].copy_from_slice(esp);
        self.spare.len = at + esp.len();
        match open(self.sad, at, outer, &mut self.spare) {
            Some(true) => {}
            Some(false) => return Ok(true),
            None => return Ok(false),
        }
        write_one(self.device, self.sad, &mut self.spare, at + HEADER_LEN)?;
        Ok(true)
    }
}

/// Decrypts the ESP packet that begins at octet `at`: whether there is something for red, then behind the room for the ESP
/// header, and to the buffer's end. `None`: there is no SA for it.
fn open(sad: &Sad, at: usize, outer: &Outer, buffer: &mut Buffer<'_>) -> Option<bool> {
    let inner = match sad.open_known(outer.destination, outer.class, &mut buffer.as_mut()[at..]) {
        Opened::Inner(inner) => inner.len(),
        Opened::Dropped => return Some(false),
        Opened::Unknown => return None,
    };
    buffer.len = at + HEADER_LEN + inner;
    Some(true)
}

/// Writes an opened packet to the device.
fn write_one(device: &SyncDevice, sad: &Sad, buffer: &mut Buffer<'_>, inner_at: usize) -> Result<(), Error> {
    // Nothing to say of it in its virtio-net header.
    let from = inner_at - VIRTIO_NET_HDR_LEN;
    buffer.bytes[from..inner_at].fill(0);
    counted(sad, device.send(&buffer.as_ref()[from..]).map(drop), 1)
}

fn counted(sad: &Sad, written: io::Result<()>, count: u64) -> Result<(), Error> {
    match written {
        Ok(()) => sad.counts.rx_packets.fetch_add(count, Relaxed),
        Err(error) if is_transient(&error) => sad.counts.io.fetch_add(count, Relaxed),
        Err(error) => return Err(Error::io(|| "writing to the device; was it deleted?".into())(error)),
    };
    Ok(())
}

/// Where in a packet the device has left the checksum to be completed, as the header before it says.
fn completed_checksum(whole: &[u8]) -> Option<usize> {
    let header = VirtioNetHdr::decode(whole.get(..VIRTIO_NET_HDR_LEN)?).ok()?;
    let left = header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0;
    left.then(|| usize::from(header.csum_start) + usize::from(header.csum_offset))
}

/// A checksum that comes out as zero is all ones (RFC 768, RFC 8200 8.1): zero says that there is none. The library leaves
/// it so, which loses one of 65,536 packets of UDP.
fn never_zero(packet: &mut [u8], at: usize) {
    if let Some(checksum @ [0, 0]) = packet.get_mut(at..at + 2) {
        checksum.fill(0xff);
    }
}

fn is_idle(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
