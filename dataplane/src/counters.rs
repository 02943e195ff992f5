//! What is counted.

/// Sums over all SAs since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Delivered to red.
    pub rx_packets: u64,
    /// Sent to black.
    pub tx_packets: u64,
    /// What was not.
    pub dropped: Dropped,
}

/// Packets dropped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// In: seen before, or older than the replay window.
    pub replay: u64,
    /// In: the ICV is wrong.
    pub auth: u64,
    /// In: no SA with this destination and SPI.
    pub unknown_spi: u64,
    /// In: an inner source that its sender may not use, a packet that its SA's selector is not for, or an inner destination
    /// not carried here; out: an inner source outside the own prefixes.
    pub spoofed: u64,
    /// Out: larger than black carries, or IPv4 multicast that is and forbids fragments.
    pub too_big: u64,
    /// Out: no SA, no flow or route for it, or an SA whose sequence numbers are used up.
    pub no_sa: u64,
    /// In: not the form of ESP, or authentic with padding or an inner packet that makes no sense.
    pub malformed: u64,
    /// In: marked as congested on the way, of a transport that does not understand the mark (RFC 6040 4.2).
    pub ecn: u64,
    /// Either way: the kernel did not take it (interface down, queue full).
    pub io: u64,
}
