//! The trait that the daemon speaks; `sa.rs` and `counters.rs` have its words.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use muster_membership::GroupStatus;
use muster_wire::MemberId;

use crate::sa::REKEY_AT;
use crate::{Counters, Direction, Error, ExportedKey, FlowId, Sa, SaId, SaKind, SaStatus, Selector};

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
