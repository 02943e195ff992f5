//! The trait that the daemon speaks, and the words of it.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use muster_membership::GroupStatus;
use muster_wire::MemberId;
use zeroize::{Zeroize, Zeroizing};

use crate::{Error, Selector};

/// The one algorithm: AES-256-GCM with 16 octets of ICV (RFC 4106), by the kernel's name for it.
pub const ALGORITHM: &str = "rfc4106(gcm(aes))";

/// After so many packets an outbound SA is worn: another should be asked for. Sequence numbers are 32 bits wide and never
/// wrap: at 2^32 − 1 packets the SA stops.
pub(crate) const REKEY_AT: u64 = 1 << 30;

/// Where keys go. One implementation is running per group; all methods may be called from any thread, and none
/// waits for the network.
///
/// The order at a new epoch (make before break): [`install_inbound`](Self::install_inbound) at once,
/// [`set_outbound`](Self::set_outbound) at the switch, [`remove_inbound`](Self::remove_inbound) of the old epoch
/// after the deactivation delay. Never install an inbound SA for the own slot.
///
/// What leaves, and on which SA, is said in one of two ways. The mesh: one SA for all multicast
/// ([`set_outbound`](Self::set_outbound)), one for each router ([`set_unicast`](Self::set_unicast)), chosen by routes. A key
/// server: one for each flow ([`set_flow`](Self::set_flow)), chosen by selectors (RFC 4301 4.4.1). Flows come first; a packet
/// that none is for goes the mesh's way, which leads nowhere where nothing was set.
pub trait Dataplane: Send + Sync {
    /// `"userspace"`, `"kernel"`, `"memory"`.
    fn backend(&self) -> &'static str;

    /// Adds inbound SAs: all or none. One that has the (destination, SPI) of an older one takes its place; unicast SAs
    /// are known by their SPI alone. Every multicast destination is joined on black, for as long as there are SAs to it.
    ///
    /// # Errors
    /// A key that this process has installed before, in either direction; a reserved SPI; a duplicate in the batch; a
    /// destination or selector that its kind cannot have; a group that the kernel lets nobody join.
    fn install_inbound(&self, sas: Vec<Sa>) -> Result<(), Error>;

    /// Sends on this SA from the next packet on. An inbound SA with the same (destination, SPI) goes.
    ///
    /// # Errors
    /// As for [`install_inbound`](Self::install_inbound), and a destination of another family than black's.
    fn set_outbound(&self, sa: Sa) -> Result<(), Error>;

    /// Removes inbound SAs; unknown ones are passed over.
    ///
    /// # Errors
    /// Only those of a kernel that refuses.
    fn remove_inbound(&self, ids: &[SaId]) -> Result<(), Error>;

    /// Sends nothing more until the next [`set_outbound`](Self::set_outbound).
    ///
    /// # Errors
    /// Only those of a kernel that refuses.
    fn clear_outbound(&self) -> Result<(), Error>;

    /// Sends red unicast for `peer` on this SA from the next packet on; the one before goes.
    ///
    /// # Errors
    /// As for [`set_outbound`](Self::set_outbound).
    fn set_unicast(&self, peer: MemberId, sa: Sa) -> Result<(), Error>;

    /// Sends what `selector` is for on this SA from the next packet on. The one before of this flow goes, with its
    /// selector. Of several flows that are for a packet the one with the lowest number carries it (RFC 4301 4.4.1: an
    /// ordered policy), multicast on group SAs alone and unicast on unicast ones; from the own prefixes alone, and red
    /// groups as far as they are carried. Routes to the destinations of unicast flows follow in a moment, as in
    /// [`set_routes`](Self::set_routes), but to own prefixes there is none.
    ///
    /// # Errors
    /// As for [`set_outbound`](Self::set_outbound); a selector that cannot be, or is not of the SA's kind.
    fn set_flow(&self, flow: FlowId, selector: Selector, sa: Sa) -> Result<(), Error>;

    /// Sends nothing more on the SA of this flow, if it has one, and drops what `selector` is for, which thus goes on no other
    /// flow, whose SA may be for other routers (RFC 4301 4.4.1: what is to be protected and has no SA is not sent). An SA
    /// takes the place of that ([`set_flow`](Self::set_flow)).
    ///
    /// # Errors
    /// A selector that cannot be; those of a kernel that refuses.
    fn stop_flow(&self, flow: FlowId, selector: Selector) -> Result<(), Error>;

    /// Forgets this flow. What it was for goes on the next flow that is for it, or nowhere.
    ///
    /// # Errors
    /// Only those of a kernel that refuses.
    fn clear_flow(&self, flow: FlowId) -> Result<(), Error>;

    /// Lets unicast cross in clear, **unprotected**: from the own prefixes what one of these selectors is for, by the main
    /// routing table, and from black what answers it (the selector reversed). Replaces all that was said before; when the
    /// data plane ends, it ends too. It comes before flows and routes: none of them should be for the same packets.
    /// Fragments match no selector with ports, and ICMP errors of routers on the way match none but their own.
    ///
    /// # Errors
    /// A selector that cannot be, or is for multicast; what the kernel refuses: then nothing crosses.
    fn set_bypass(&self, selectors: Vec<Selector>) -> Result<(), Error>;

    /// The black address of `peer` has changed; its SA stays.
    fn set_peer_address(&self, peer: &MemberId, address: IpAddr);

    /// Sends nothing more to `peer` until the next [`set_unicast`](Self::set_unicast).
    ///
    /// # Errors
    /// Only those of a kernel that refuses.
    fn clear_unicast(&self, peer: &MemberId) -> Result<(), Error>;

    /// Sets which red prefixes lie behind which router; the longest prefix decides, then the lower member id.
    /// Replaces all that was said before. The kernel's routes follow in a moment; what was once reached through the
    /// tunnel does not leave the router in clear, though its route goes.
    fn set_routes(&self, routes: BTreeMap<MemberId, Vec<IpNet>>);

    /// Sets, for every sender, the inner source prefixes accepted from it (RFC 4301 5.2). Replaces all that was
    /// said before; from a sender that is not listed nothing is delivered.
    fn set_senders(&self, senders: HashMap<MemberId, Vec<IpNet>>);

    /// Sets the own prefixes whose multicast another router of the same LAN carries: none is sent from there, and none
    /// delivered there. Replaces all that was said before.
    fn leave_to_another(&self, prefixes: Vec<IpNet>);

    /// Sets the own red prefixes: the only inner sources that leave, and never accepted from others.
    fn set_own_prefixes(&self, prefixes: Vec<IpNet>);

    /// Sends from another black address, which is usable on the black interface; also when that was made anew. SAs
    /// stay: their keys are the senders', not the addresses'.
    ///
    /// # Errors
    /// An address that cannot be used; the one before stays in use.
    fn set_black_address(&self, address: IpAddr) -> Result<(), Error>;

    /// All SAs in force, the outbound ones first (the group's, flows by number, then by destination and SPI), then the
    /// others.
    fn sas(&self) -> Vec<SaStatus>;

    /// **Secret.** Cipher keys for `sas --show-keys`; the caller asks `allow_key_export` first.
    fn export_keys(&self) -> Vec<ExportedKey>;

    /// What hosts on the red interfaces listen to, by interface and family; nothing without dynamic membership.
    fn listening(&self) -> Vec<Listening> {
        Vec::new()
    }

    /// Sums since the start.
    fn counters(&self) -> Counters;

    /// The outbound SAs in use that have carried 2^30 packets, a quarter of what they may: ask for a new epoch, or for a
    /// new hello key. They are named as long as they are in use.
    fn worn(&self) -> Vec<(SaKind, SaId)> {
        let is_worn = |sa: &SaStatus| sa.direction == Direction::Out && sa.sequence >= REKEY_AT;
        let named = |sa: SaStatus| (sa.kind, SaId { destination: sa.destination, spi: sa.spi });
        self.sas().into_iter().filter(is_worn).map(named).collect()
    }

    /// Why packets no longer flow, if the data plane has ended by itself (its device was deleted, say). The daemon
    /// then stops and starts anew.
    fn failure(&self) -> Option<String> {
        None
    }
}

/// Key and salt of one SA: 32 octets of AES-256 key, 4 of salt (RFC 4106 8.1). Zeroised on drop, not printable,
/// not copyable; on the heap, so that moving it leaves nothing behind.
pub struct SaKey(Box<[u8; SaKey::LEN]>);

impl SaKey {
    /// Octets of key and salt together.
    pub const LEN: usize = 36;

    /// Copies `bytes`; zeroising those is the caller's.
    pub fn new(bytes: &[u8; Self::LEN]) -> Self {
        // Allocated first and filled in place: no copy on this stack.
        let mut key = Self(Box::new([0; Self::LEN]));
        key.0.copy_from_slice(bytes);
        key
    }

    pub(crate) fn bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl Drop for SaKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What traffic an SA carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SaKind {
    /// Red multicast, from one sender to all.
    Group,
    /// Red unicast, between two routers.
    Unicast,
}

impl SaKind {
    /// As in the output of `sas`.
    pub fn as_str(self) -> &'static str {
        match self {
            SaKind::Group => "group",
            SaKind::Unicast => "unicast",
        }
    }

    fn traffic(self) -> &'static str {
        match self {
            SaKind::Group => "multicast",
            SaKind::Unicast => "unicast",
        }
    }
}

/// Number of a flow, which is also its place among the others: the lower comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub u32);

/// Which way an SA carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Black to red.
    In,
    /// Red to black.
    Out,
}

impl Direction {
    /// As in the output of `sas`.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::In => "in",
            Direction::Out => "out",
        }
    }
}

/// A security association to be installed. ESP in tunnel mode, [`ALGORITHM`], 32-bit sequence numbers.
pub struct Sa {
    /// Above 255.
    pub spi: u32,
    /// What it carries.
    pub kind: SaKind,
    /// The sender's black address, if known: for display. Not checked against packets, since an address may change
    /// without a rekey and the key already says who sent (Linux does the same).
    pub source: Option<IpAddr>,
    /// Outer destination: the group's address, or a router's.
    pub destination: IpAddr,
    /// Of the group key that the key was derived from; 0 for a unicast SA.
    pub epoch: u64,
    /// Who sends on it.
    pub sender: MemberId,
    /// What inner packets it may carry. `None`, in the mesh: what its sender's prefixes say. An outbound one has that of its
    /// flow, whatever stands here.
    pub selector: Option<Selector>,
    /// Key and salt.
    pub key: SaKey,
}

impl Sa {
    /// By what receivers find it.
    pub fn id(&self) -> SaId {
        SaId { destination: self.destination, spi: self.spi }
    }

    /// Whether SPI, kind, destination and selector go together.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let Sa { spi, kind, destination, selector, .. } = self;
        // RFC 4303 2.1.
        if *spi <= 255 {
            return Err(Error::ReservedSpi { spi: *spi });
        }
        if destination.is_multicast() != (*kind == SaKind::Group) {
            return Err(Error::KindMismatch { kind: kind.as_str(), destination: *destination });
        }
        let Some(selector) = selector else { return Ok(()) };
        selector.check()?;
        if selector.is_multicast() != (*kind == SaKind::Group) {
            return Err(Error::Config(format!("selector {selector}: its SA is for {}", kind.traffic())));
        }
        Ok(())
    }
}

/// What identifies an SA on the wire (the protocol is always ESP).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SaId {
    /// Outer destination.
    pub destination: IpAddr,
    /// Security parameters index.
    pub spi: u32,
}

/// One line of `sas`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaStatus {
    /// Which way.
    pub direction: Direction,
    /// What it carries.
    pub kind: SaKind,
    /// The sender's black address, if known.
    pub source: Option<IpAddr>,
    /// Outer destination.
    pub destination: IpAddr,
    /// Security parameters index.
    pub spi: u32,
    /// Of its group key.
    pub epoch: u64,
    /// Who sends on it.
    pub sender: MemberId,
    /// Of an outbound unicast SA to a router: who receives.
    pub receiver: Option<MemberId>,
    /// Of an outbound SA: which flow it carries.
    pub flow: Option<FlowId>,
    /// What inner packets it may carry.
    pub selector: Option<Selector>,
    /// Carried: sent, or received and authentic.
    pub packets: u64,
    /// Of inner packets.
    pub bytes: u64,
    /// Received twice or too late.
    pub replay_drops: u64,
    /// ICV wrong.
    pub auth_failures: u64,
    /// The last sequence number sent, or the highest received.
    pub sequence: u64,
}

/// What hosts on one red interface listen to, in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// The interface.
    pub interface: String,
    /// IGMP; else MLD.
    pub ipv4: bool,
    /// The router that asks the hosts, if it is another.
    pub querier: Option<IpAddr>,
    /// By address.
    pub groups: Vec<GroupStatus>,
    /// Hosts' wishes for which there was no room.
    pub refused: u64,
}

/// **Secret.** Key and salt of one SA in hexadecimal; zeroised on drop, not printable by accident.
pub struct ExportedKey {
    /// Which SA.
    pub id: SaId,
    /// Always [`ALGORITHM`].
    pub algorithm: &'static str,
    /// 72 hex digits: 32 octets of key, 4 of salt.
    pub key_hex: Zeroizing<String>,
}

impl ExportedKey {
    pub(crate) fn new(id: SaId, key: &SaKey) -> Self {
        ExportedKey { id, algorithm: ALGORITHM, key_hex: hex(key.bytes()) }
    }
}

/// A key in hexadecimal, erased when dropped.
fn hex(bytes: &[u8]) -> Zeroizing<String> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    // Room for all of it first: a string that grows leaves its old content behind.
    let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len()));
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 0xf)]));
    }
    text
}

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
