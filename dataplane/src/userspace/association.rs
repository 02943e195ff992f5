//! One security association, as the packet threads use it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use muster_wire::MemberId;

use crate::esp::packet::Cipher;
use crate::esp::replay::ReplayWindow;
use crate::selector::Selector;
use crate::{Direction, Error, ExportedKey, Sa, SaId, SaKey, SaKind, SaStatus};

/// What both directions keep of an SA.
pub(crate) struct Record {
    pub(crate) id: SaId,
    pub(crate) kind: SaKind,
    source: Option<IpAddr>,
    pub(crate) epoch: u64,
    pub(crate) sender: MemberId,
    pub(crate) selector: Option<Selector>,
    key: SaKey,
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Record {
    pub(crate) fn new(sa: Sa) -> Self {
        let id = sa.id();
        let Sa { kind, source, epoch, sender, selector, key, .. } = sa;
        let (packets, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        Record { id, kind, source, epoch, sender, selector, key, packets, bytes }
    }

    pub(crate) fn carried(&self, bytes: usize) {
        self.packets.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn status(&self, direction: Direction, sequence: u64) -> SaStatus {
        SaStatus {
            direction,
            kind: self.kind,
            source: self.source,
            destination: self.id.destination,
            spi: self.id.spi,
            epoch: self.epoch,
            sender: self.sender,
            receiver: None,
            flow: None,
            selector: self.selector,
            packets: self.packets.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            replay_drops: 0,
            auth_failures: 0,
            sequence,
        }
    }

    /// `destination`: where it goes now.
    pub(crate) fn export(&self, destination: IpAddr) -> ExportedKey {
        ExportedKey::new(SaId { destination, ..self.id }, &self.key)
    }
}

pub(crate) struct Inbound {
    pub(crate) record: Record,
    pub(crate) cipher: Cipher,
    /// Held for a look or a mark; one thread receives what has this SPI, so it is free.
    window: Mutex<ReplayWindow>,
    pub(crate) replay_drops: AtomicU64,
    pub(crate) auth_failures: AtomicU64,
}

impl Inbound {
    pub(crate) fn new(sa: Sa) -> Self {
        Inbound {
            cipher: Cipher::new(&sa.key, 0),
            record: Record::new(sa),
            window: Mutex::new(ReplayWindow::new()),
            replay_drops: AtomicU64::new(0),
            auth_failures: AtomicU64::new(0),
        }
    }

    pub(crate) fn window(&self) -> MutexGuard<'_, ReplayWindow> {
        // No code that holds it can panic half way.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn status(&self) -> SaStatus {
        SaStatus {
            replay_drops: self.replay_drops.load(Relaxed),
            auth_failures: self.auth_failures.load(Relaxed),
            ..self.record.status(Direction::In, self.window().highest().into())
        }
    }
}

/// What the IVs of an outbound SA begin with, so that two processes that have one key have not one nonce.
///
/// # Errors
/// The kernel gives no random numbers: then nothing is sent.
pub(crate) fn random_start() -> Result<u32, Error> {
    getrandom::u32().map_err(Error::io(|| "random numbers for an SA".into()))
}

pub(crate) struct Outbound {
    pub(crate) record: Record,
    pub(crate) cipher: Cipher,
    /// The last sequence number given out. 64 bits wide, so that it cannot wrap into numbers used before.
    pub(crate) sequence: AtomicU64,
}

impl Outbound {
    /// `start`: where its IVs begin, of [`random_start`].
    pub(crate) fn new(sa: Sa, start: u32) -> Self {
        Outbound { cipher: Cipher::new(&sa.key, start), record: Record::new(sa), sequence: AtomicU64::new(0) }
    }

    /// RFC 4303 3.3.3: the first is 1; `None` when they are used up, for they must not cycle.
    pub(crate) fn next_sequence(&self) -> Option<u32> {
        u32::try_from(self.sequence.fetch_add(1, Relaxed) + 1).ok()
    }

    /// `destination`: where it goes now.
    pub(crate) fn status(&self, destination: IpAddr) -> SaStatus {
        let sequence = self.sequence.load(Relaxed).min(u32::MAX.into());
        SaStatus { destination, ..self.record.status(Direction::Out, sequence) }
    }
}
