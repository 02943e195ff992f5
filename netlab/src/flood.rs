//! As many frames as the machine allows.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, sendto, socket};

use crate::checksum;
use crate::inject::link_address;
use crate::{Namespace, Result};

/// Sends Ethernet frames in a thread of its own, as fast as it can. Stops on drop.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Starts to send what `next` gives out of `device`, with checksums completed. On a bridge: to its ports.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn start(
        namespace: &Namespace,
        device: &str,
        mut next: impl FnMut() -> Vec<u8> + Send + 'static,
    ) -> Result<Flood> {
        let (socket, address) = namespace.try_run(&format!("open a packet socket on {device}"), || {
            let address = link_address(device)?;
            // Protocol 0: it hears nothing.
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None::<SockProtocol>)?;
            Ok::<_, io::Error>((socket, address))
        })?;
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::spawn({
            let (stop, sent) = (stop.clone(), sent.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut frame = next();
                    checksum::complete(&mut frame);
                    // Full queues are what it is for.
                    if sendto(socket.as_raw_fd(), &frame, &address, MsgFlags::empty()).is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        Ok(Flood { stop, sent, thread: Some(thread) })
    }

    /// Frames sent by now.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, there is nothing left to stop.
            let _ = thread.join();
        }
    }
}
