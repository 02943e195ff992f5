//! The two packet threads. Each waits, then takes what is there, a batch at a time.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;

use tun_rs::SyncDevice;

use super::black::{Black, is_too_big, is_transient};
use super::packet::{HEADER_LEN, ICV_LEN};
use crate::Error;
use crate::sad::{BUFFER_LEN, Sad};
use crate::stop::Stop;

/// Packets taken before the wish to stop is looked at again.
const BATCH: usize = 256;

/// Reads from the device, encrypts, sends.
pub(super) fn red_to_black(device: &SyncDevice, black: &Black, sad: &Sad, stop: &Stop) -> Result<(), Error> {
    let mut buffer = vec![0; BUFFER_LEN];
    // Behind the inner packet there is room for trailer and ICV.
    let inner_end = BUFFER_LEN - ICV_LEN - 8;
    while stop.wait(device.as_fd()).map_err(Error::io(|| "waiting for the device".into()))? {
        for _ in 0..BATCH {
            let len = match device.recv(&mut buffer[HEADER_LEN..inner_end]) {
                Ok(len) => len,
                Err(e) if is_idle(&e) => break,
                Err(e) => return Err(Error::io(|| "reading from the device; was it deleted?".into())(e)),
            };
            let Some(sealed) = sad.seal(&mut buffer, len) else { continue };
            let count = match black.send(&buffer[..sealed.len], sealed.destination) {
                Ok(()) => &sad.counts.tx_packets,
                Err(e) if is_too_big(&e) => &sad.counts.too_big,
                Err(e) if is_transient(&e) => &sad.counts.io,
                Err(e) => return Err(Error::io(|| format!("sending ESP to {}", sealed.destination))(e)),
            };
            count.fetch_add(1, Relaxed);
        }
    }
    Ok(())
}

/// Receives, decrypts, writes to the device.
pub(super) fn black_to_red(device: &SyncDevice, black: &Black, sad: &Sad, stop: &Stop) -> Result<(), Error> {
    let mut buffer = vec![0; BUFFER_LEN];
    while stop.wait(black.as_fd()).map_err(Error::io(|| "waiting for ESP".into()))? {
        for _ in 0..BATCH {
            let esp = match black.receive(&mut buffer) {
                Ok(Some(esp)) => esp,
                Ok(None) => break,
                // Reading an error takes it off the socket.
                Err(e) if is_transient(&e) => break,
                Err(e) => return Err(Error::io(|| "receiving ESP".into())(e)),
            };
            if esp.is_empty() {
                continue;
            }
            let Some(inner) = sad.open(black.group(), esp) else { continue };
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
