//! The counters of a data plane in user space, which all its threads count in.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::{Counters, Dropped};

/// The atomic form of [`Counters`].
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) rx_packets: AtomicU64,
    pub(crate) tx_packets: AtomicU64,
    pub(crate) replay: AtomicU64,
    pub(crate) auth: AtomicU64,
    pub(crate) unknown_spi: AtomicU64,
    pub(crate) spoofed: AtomicU64,
    pub(crate) too_big: AtomicU64,
    pub(crate) no_sa: AtomicU64,
    pub(crate) malformed: AtomicU64,
    pub(crate) ecn: AtomicU64,
    pub(crate) io: AtomicU64,
}

impl Counts {
    /// All of them, as they stand now.
    pub(crate) fn read(&self) -> Counters {
        let Counts { rx_packets, tx_packets, replay, auth, unknown_spi, spoofed, too_big, no_sa, malformed, ecn, io } =
            self;
        let [rx_packets, tx_packets] = [rx_packets, tx_packets].map(|count| count.load(Relaxed));
        let dropped = Dropped {
            replay: replay.load(Relaxed),
            auth: auth.load(Relaxed),
            unknown_spi: unknown_spi.load(Relaxed),
            spoofed: spoofed.load(Relaxed),
            too_big: too_big.load(Relaxed),
            no_sa: no_sa.load(Relaxed),
            malformed: malformed.load(Relaxed),
            ecn: ecn.load(Relaxed),
            io: io.load(Relaxed),
        };
        Counters { rx_packets, tx_packets, dropped }
    }
}
