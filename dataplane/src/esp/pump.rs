//! The two packet threads. Each waits, then takes what is there, a batch at a time.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;

use tun_rs::SyncDevice;

use super::black::{Black, Room, is_too_big, is_transient};
use super::fragment::Fragments;
use super::packet::{HEADER_LEN, ICV_LEN};
use crate::Error;
use crate::sad::{BUFFER_LEN, Fit, Sad, Sealed};
use crate::stop::Stop;

/// Packets taken before the wish to stop is looked at again.
const BATCH: usize = 256;

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
    while stop.wait(black.as_fd()).map_err(Error::io(|| "waiting for ESP".into()))? {
        for _ in 0..BATCH {
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
            let Some(inner) = sad.open(outer.destination, outer.class, esp) else { continue };
            let count = match device.send(inner) {
                Ok(_) => &sad.counts.rx_packets,
                Err(e) if is_transient(&e) => &sad.counts.io,
                Err(e) => return Err(Error::io(|| "writing to the device; was it deleted?".into())(e)),
            };
            count.fetch_add(1, Relaxed);
        }
    }
    Ok(())
}

fn is_idle(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
