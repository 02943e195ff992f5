//! The two packet threads. Each waits, then takes what is there, a batch at a time.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use nix::poll::PollTimeout;
use tun_rs::SyncDevice;

use super::black::{Black, Outer, Room, is_too_big, is_transient};
use super::early::Early;
use crate::Error;
use crate::esp::fragment::Fragments;
use crate::esp::packet::{HEADER_LEN, ICV_LEN};
use crate::stop::Stop;
use crate::userspace::sad::{BUFFER_LEN, Fit, Opened, Sad, Sealed};

/// Packets taken before the wish to stop is looked at again.
const BATCH: usize = 256;

/// While packets wait for their SA, whether it has come is looked at after this many milliseconds.
const LOOK_AGAIN: u8 = 2;

/// Behind the inner packet there is room for trailer and ICV.
const INNER_END: usize = BUFFER_LEN - ICV_LEN - 8;

/// Reads from the device, encrypts, sends.
pub(super) fn red_to_black(device: &SyncDevice, black: &Black, sad: &Sad, stop: &Stop) -> Result<(), Error> {
    let mut buffer = vec![0; BUFFER_LEN];
    let mut piece = vec![0; BUFFER_LEN];
    let mut identification = 0u16;
    while stop.wait(device.as_fd()).map_err(Error::io(|| "waiting for the device".into()))? {
        for _ in 0..BATCH {
            let len = match device.recv(&mut buffer[HEADER_LEN..INNER_END]) {
                Ok(len) => len,
                Err(e) if is_idle(&e) => break,
                Err(e) => return Err(Error::io(|| "reading from the device; was it deleted?".into())(e)),
            };
            match sad.fit(&buffer[HEADER_LEN..HEADER_LEN + len]) {
                Fit::Whole => send(black, sad, &mut buffer, len)?,
                Fit::Dropped => {}
                Fit::Pieces(mtu) => {
                    identification = identification.wrapping_add(1);
                    let packet = &buffer[HEADER_LEN..HEADER_LEN + len];
                    let mut pieces = Fragments::of(packet, mtu, identification);
                    while let Some(len) = pieces.write_next(&mut piece[HEADER_LEN..INNER_END]) {
                        send(black, sad, &mut piece, len)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Encrypts the inner packet in `buffer` behind the room for the ESP header, and sends it.
fn send(black: &Black, sad: &Sad, buffer: &mut [u8], len: usize) -> Result<(), Error> {
    let Some(Sealed { len, destination, class }) = sad.seal(buffer, len) else { return Ok(()) };
    let count = match black.send(&buffer[..len], destination, class) {
        Ok(()) => &sad.counts.tx_packets,
        Err(e) if is_too_big(&e) => &sad.counts.too_big,
        Err(e) if is_transient(&e) => &sad.counts.io,
        Err(e) => return Err(Error::io(|| format!("sending ESP to {destination}"))(e)),
    };
    count.fetch_add(1, Relaxed);
    Ok(())
}

/// Receives, decrypts, writes to the device.
pub(super) fn black_to_red(device: &SyncDevice, black: &Black, sad: &Sad, stop: &Stop) -> Result<(), Error> {
    let mut room = Room::new(BUFFER_LEN);
    let mut early = Early::default();
    loop {
        let limit = if early.is_empty() { PollTimeout::NONE } else { PollTimeout::from(LOOK_AGAIN) };
        if !stop.wait_at_most(black.as_fd(), limit).map_err(Error::io(|| "waiting for ESP".into()))? {
            return Ok(());
        }
        for _ in 0..BATCH {
            // Before the next packet: what came first goes first.
            if !early.is_empty() {
                early.offer(sad.installations(), |outer, esp| deliver(device, sad, outer, esp))?;
                sad.counts.unknown_spi.fetch_add(early.expire(Instant::now()), Relaxed);
            }
            let (outer, esp) = match black.receive(&mut room) {
                Ok(Some(received)) => received,
                Ok(None) => break,
                // Reading an error takes it off the socket.
                Err(e) if is_transient(&e) => break,
                Err(e) => return Err(Error::io(|| "receiving ESP".into())(e)),
            };
            if esp.is_empty() {
                continue;
            }
            if !deliver(device, sad, &outer, esp)? && !early.keep(Instant::now(), outer, esp) {
                sad.counts.unknown_spi.fetch_add(1, Relaxed);
            }
        }
    }
}

/// Decrypts a packet and writes it to the device, or drops it; `false`: there is no SA for it.
fn deliver(device: &SyncDevice, sad: &Sad, outer: &Outer, esp: &mut [u8]) -> Result<bool, Error> {
    let inner = match sad.open_known(outer.destination, outer.class, esp) {
        Opened::Inner(inner) => inner,
        Opened::Dropped => return Ok(true),
        Opened::Unknown => return Ok(false),
    };
    let count = match device.send(inner) {
        Ok(_) => &sad.counts.rx_packets,
        Err(e) if is_transient(&e) => &sad.counts.io,
        Err(e) => return Err(Error::io(|| "writing to the device; was it deleted?".into())(e)),
    };
    count.fetch_add(1, Relaxed);
    Ok(true)
}

fn is_idle(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
