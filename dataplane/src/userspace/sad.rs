//! The security association database (RFC 4301 4.4.2); `crossing.rs` is the way of a packet through it. No I/O.
//!
//! The packet threads read tables that are replaced as a whole, never changed (arc-swap): a rekey neither waits
//! for a packet nor makes one wait.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use muster_wire::MemberId;

use crate::policy::Policies;
use crate::selector::Selector;
use crate::userspace::association::{Inbound, random_start};
use crate::userspace::counts::Counts;
use crate::userspace::senders::{Sender, Senders};
use crate::{Counters, Error, ExportedKey, FlowId, KeyLedger, Sa, SaId, SaKind, SaStatus};

/// SAs, policy and counters of one data plane.
pub(crate) struct Sad {
    pub(super) inbound: ArcSwap<HashMap<Lookup, Arc<Inbound>>>,
    /// How often inbound SAs have come.
    installations: AtomicU64,
    pub(super) outbound: ArcSwap<Senders>,
    pub(super) policies: Arc<Policies>,
    ledger: KeyLedger,
    pub(super) treatment: Treatment,
    /// The largest inner packet whose ESP packet black takes whole.
    pub(super) mtu: AtomicUsize,
    /// Of the last packet that was cut.
    pub(super) identification: AtomicU16,
    /// Held while a table is replaced, so that changes do not overtake each other. No packet takes it.
    changing: Mutex<()>,
    pub(crate) counts: Counts,
}

/// What the operator decides about the packets themselves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Treatment {
    /// The outer header shows the inner DSCP.
    pub(crate) copy_dscp: bool,
    /// IPv4 multicast that is too big is fragmented though its sender forbids it.
    pub(crate) clear_df: bool,
}

/// By what an inbound SA is found: a group's by the group and the SPI, a unicast one by the SPI alone (RFC 4301 4.1),
/// whatever address of ours the packet came to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Lookup {
    group: Option<IpAddr>,
    spi: u32,
}

impl Lookup {
    pub(super) fn of(SaId { destination, spi }: SaId) -> Self {
        Lookup { group: Some(destination).filter(IpAddr::is_multicast), spi }
    }
}

impl Sad {
    pub(crate) fn new(policies: Arc<Policies>, treatment: Treatment, ledger: KeyLedger) -> Self {
        Sad {
            inbound: ArcSwap::default(),
            installations: AtomicU64::new(0),
            outbound: ArcSwap::default(),
            policies,
            ledger,
            treatment,
            mtu: AtomicUsize::new(usize::MAX),
            identification: AtomicU16::new(0),
            changing: Mutex::new(()),
            counts: Counts::default(),
        }
    }

    pub(crate) fn install_inbound(&self, sas: Vec<Sa>) -> Result<(), Error> {
        let _changing = self.change();
        let mut ids = HashSet::new();
        for sa in &sas {
            sa.check()?;
            if !ids.insert(Lookup::of(sa.id())) {
                return Err(Error::DuplicateSa { destination: sa.destination, spi: sa.spi });
            }
        }
        self.ledger.record_inbound(&sas)?;
        let mut inbound = HashMap::clone(&self.inbound.load());
        inbound.extend(sas.into_iter().map(|sa| (Lookup::of(sa.id()), Arc::new(Inbound::new(sa)))));
        self.inbound.store(Arc::new(inbound));
        // After the table: who sees the number finds the SAs.
        self.installations.fetch_add(1, Release);
        Ok(())
    }

    /// How often inbound SAs have come by now.
    pub(crate) fn installations(&self) -> u64 {
        self.installations.load(Acquire)
    }

    /// The groups that SAs receive for.
    pub(crate) fn groups(&self) -> BTreeSet<IpAddr> {
        self.inbound.load().keys().filter_map(|id| id.group).collect()
    }

    pub(crate) fn set_outbound(&self, sa: Sa) -> Result<(), Error> {
        let _changing = self.change();
        let sa = Sa { selector: None, ..sa };
        sa.check()?;
        let start = random_start()?;
        self.ledger.record_outbound(std::slice::from_ref(&sa))?;
        self.remove(&[sa.id()]);
        self.change_senders(|senders| senders.group = Some(Sender::new(sa, start)));
        Ok(())
    }

    pub(crate) fn set_unicast(&self, peer: MemberId, sa: Sa) -> Result<(), Error> {
        let _changing = self.change();
        let sa = Sa { selector: None, ..sa };
        sa.check()?;
        let start = random_start()?;
        self.ledger.record_outbound(std::slice::from_ref(&sa))?;
        self.change_senders(|senders| drop(senders.unicast.insert(peer, Sender::new(sa, start))));
        Ok(())
    }

    pub(crate) fn set_flow(&self, flow: FlowId, selector: Selector, sa: Sa) -> Result<(), Error> {
        let _changing = self.change();
        let sa = Sa { selector: Some(selector), ..sa };
        sa.check()?;
        let start = random_start()?;
        self.ledger.record_outbound(std::slice::from_ref(&sa))?;
        if sa.kind == SaKind::Group {
            self.remove(&[sa.id()]);
        }
        self.change_senders(|senders| senders.set_flow(flow, selector, Some(Sender::new(sa, start))));
        Ok(())
    }

    pub(crate) fn stop_flow(&self, flow: FlowId, selector: Selector) -> Result<(), Error> {
        selector.check()?;
        let _changing = self.change();
        self.change_senders(|senders| senders.set_flow(flow, selector, None));
        Ok(())
    }

    pub(crate) fn clear_flow(&self, flow: FlowId) {
        let _changing = self.change();
        self.change_senders(|senders| senders.clear_flow(flow));
    }

    /// Where unicast flows go, and who sends on them.
    pub(crate) fn flow_destinations(&self) -> BTreeMap<IpNet, MemberId> {
        self.outbound.load().flow_destinations()
    }

    pub(crate) fn set_peer_address(&self, peer: &MemberId, address: IpAddr) {
        let _changing = self.change();
        self.change_senders(|senders| {
            if let Some(sender) = senders.unicast.get_mut(peer) {
                sender.destination = address;
            }
        });
    }

    pub(crate) fn clear_unicast(&self, peer: &MemberId) {
        let _changing = self.change();
        self.change_senders(|senders| drop(senders.unicast.remove(peer)));
    }

    pub(crate) fn remove_inbound(&self, ids: &[SaId]) {
        let _changing = self.change();
        self.remove(ids);
    }

    pub(crate) fn clear_outbound(&self) {
        let _changing = self.change();
        self.change_senders(|senders| senders.group = None);
    }

    #[cfg(test)]
    pub(crate) fn wear_out_group(&self) {
        let senders = self.outbound.load();
        let worn = crate::sa::REKEY_AT - 1;
        senders.group.iter().for_each(|sender| sender.sa.sequence.store(worn, std::sync::atomic::Ordering::Relaxed));
    }

    pub(crate) fn sas(&self) -> Vec<SaStatus> {
        let mut received: Vec<SaStatus> = self.inbound.load().values().map(|sa| sa.status()).collect();
        received.sort_by_key(|sa| (sa.destination, sa.spi));
        let mut sas = self.outbound.load().statuses();
        sas.extend(received);
        sas
    }

    pub(crate) fn export_keys(&self) -> Vec<ExportedKey> {
        let (inbound, outbound) = (self.inbound.load(), self.outbound.load());
        let received = inbound.values().map(|sa| sa.record.export(sa.record.id.destination));
        received.chain(outbound.all().map(|sender| sender.sa.record.export(sender.destination))).collect()
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counts.read()
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        // Tables are replaced in one store, so a panic of another holder left them whole.
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The caller holds `changing`.
    fn change_senders(&self, change: impl FnOnce(&mut Senders)) {
        let mut senders = Senders::clone(&self.outbound.load());
        change(&mut senders);
        self.outbound.store(Arc::new(senders));
    }

    /// The caller holds `changing`.
    fn remove(&self, ids: &[SaId]) {
        let gone: HashSet<Lookup> = ids.iter().copied().map(Lookup::of).collect();
        let mut inbound = HashMap::clone(&self.inbound.load());
        inbound.retain(|id, _| !gone.contains(id));
        self.inbound.store(Arc::new(inbound));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::esp::packet::HEADER_LEN;
    use crate::inner::tests::packet_v6;
    use crate::{Direction, SaKey, SaKind};

    pub(in crate::userspace) const TREATMENT: Treatment = Treatment { copy_dscp: true, clear_df: false };

    pub(in crate::userspace) const GROUP: &str = "ff05::6d76";
    pub(in crate::userspace) const ALICE: MemberId = MemberId([0xa; 32]);

    pub(in crate::userspace) fn sa(spi: u32, key: u8) -> Sa {
        Sa {
            spi,
            kind: SaKind::Group,
            source: None,
            destination: GROUP.parse().unwrap(),
            epoch: 1,
            sender: ALICE,
            selector: None,
            key: SaKey::new(&[key; 36]),
        }
    }

    pub(in crate::userspace) fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    pub(in crate::userspace) fn sad(own: &[&str]) -> Sad {
        let sad = Sad::new(
            Arc::new(Policies::new(nets(&["ff1e::/16", "239.10.0.0/16"]), nets(own))),
            TREATMENT,
            KeyLedger::new(),
        );
        sad.policies.set_senders(HashMap::from([(ALICE, nets(&["2001:db8:a::/64", "10.1.0.0/16"]))]));
        sad
    }

    /// A sender and a receiver that share one SA.
    pub(in crate::userspace) fn pair() -> (Sad, Sad) {
        let (a, b) = (sad(&["2001:db8:a::/64", "10.1.0.0/16"]), sad(&["2001:db8:b::/64"]));
        a.set_outbound(sa(0x1000, 1)).unwrap();
        b.install_inbound(vec![sa(0x1000, 1)]).unwrap();
        (a, b)
    }

    pub(in crate::userspace) fn seal(sad: &Sad, inner: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = vec![0; HEADER_LEN + inner.len() + 64];
        buffer[HEADER_LEN..][..inner.len()].copy_from_slice(inner);
        let sealed = sad.seal(&mut buffer, inner.len())?;
        buffer.truncate(sealed.len);
        Some(buffer)
    }

    pub(in crate::userspace) fn open(sad: &Sad, packet: &[u8]) -> Option<Vec<u8>> {
        sad.open(GROUP.parse().unwrap(), 0, &mut packet.to_vec()).map(<[u8]>::to_vec)
    }

    #[test]
    fn make_before_break() {
        let (a, b) = pair();
        let inner = packet_v6("2001:db8:a::1", "ff1e::1", b"x");
        let late = seal(&a, &inner).unwrap();
        b.install_inbound(vec![sa(0x2000, 2), sa(0x2001, 3)]).unwrap();
        a.set_outbound(sa(0x2000, 2)).unwrap();
        assert!(open(&b, &seal(&a, &inner).unwrap()).is_some());
        assert!(open(&b, &late).is_some(), "the old SA still receives");
        b.remove_inbound(&[sa(0x1000, 0).id(), sa(0x9999, 0).id()]);
        assert_eq!(b.sas().iter().map(|sa| sa.spi).collect::<Vec<_>>(), [0x2000, 0x2001]);
    }

    #[test]
    fn a_key_is_installed_once() {
        let (a, b) = pair();
        assert!(matches!(a.set_outbound(sa(0x3000, 1)), Err(Error::KeyReused { spi: 0x3000 })));
        assert!(matches!(a.install_inbound(vec![sa(0x3000, 1)]), Err(Error::KeyReused { .. })), "other direction");
        b.remove_inbound(&[sa(0x1000, 1).id()]);
        let batch = vec![sa(0x3000, 7), sa(0x3001, 1)];
        assert!(matches!(b.install_inbound(batch), Err(Error::KeyReused { spi: 0x3001 })));
        assert_eq!(b.sas(), [], "all or nothing");
        b.install_inbound(vec![sa(0x3000, 7)]).unwrap();
        assert!(matches!(b.install_inbound(vec![sa(0x4000, 8), sa(0x4001, 8)]), Err(Error::KeyReused { .. })));
        assert!(matches!(b.install_inbound(vec![sa(0x4000, 8), sa(0x4000, 9)]), Err(Error::DuplicateSa { .. })));
        assert!(matches!(b.set_outbound(sa(255, 9)), Err(Error::ReservedSpi { .. })));
        b.install_inbound(vec![sa(0x4000, 8), sa(0x4001, 9)]).unwrap();
    }

    #[test]
    fn who_starts_anew_receives_again_and_sends_under_nothing_of_before() {
        let ledger = KeyLedger::new();
        let anew = || Sad::new(Arc::new(Policies::new(nets(&["ff1e::/16"]), vec![])), TREATMENT, ledger.clone());
        let before = anew();
        before.set_outbound(sa(0x1000, 1)).unwrap();
        before.install_inbound(vec![sa(0x1001, 2)]).unwrap();
        let is_reused = |done: Result<(), Error>| matches!(done, Err(Error::KeyReused { .. }));
        assert!(is_reused(anew().install_inbound(vec![sa(0x1001, 2)])), "nobody said that it may be");
        for _ in 0..2 {
            ledger.begin_anew();
            let now = anew();
            assert!(is_reused(now.set_outbound(sa(0x1001, 2))), "received under");
            assert!(is_reused(now.set_outbound(sa(0x1000, 1))) && is_reused(now.install_inbound(vec![sa(0x1000, 1)])));
            now.install_inbound(vec![sa(0x1001, 2)]).unwrap();
            assert!(is_reused(now.install_inbound(vec![sa(0x1001, 2)])), "its window would be empty again");
        }
    }

    #[test]
    fn the_older_of_two_with_one_spi_goes() {
        let (_, b) = pair();
        b.install_inbound(vec![sa(0x1000, 2)]).unwrap();
        assert_eq!(b.sas().len(), 1);
        b.set_outbound(sa(0x1000, 3)).unwrap();
        assert_eq!(b.sas().iter().map(|sa| sa.direction).collect::<Vec<_>>(), [Direction::Out]);
    }

    #[test]
    fn keys_leave_by_the_named_way_only() {
        let (a, _) = pair();
        let keys = a.export_keys();
        assert_eq!((keys.len(), keys[0].key_hex.as_str()), (1, "01".repeat(36).as_str()));
        assert_eq!(keys[0].algorithm, "rfc4106(gcm(aes))");
    }
}
