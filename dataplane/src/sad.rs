//! The security association database (RFC 4301 4.4.2), and the way of a packet through it. No I/O.
//!
//! The two packet threads read tables that are replaced as a whole, never changed (arc-swap): a rekey neither waits
//! for a packet nor makes one wait.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use ipnet::IpNet;
use muster_wire::MemberId;

use crate::esp::packet::{self, Cipher, HEADER_LEN, Header, NEXT_DUMMY, NEXT_IPV4, NEXT_IPV6, OpenError};
use crate::esp::replay::ReplayWindow;
use crate::policy::{Inner, Policy, is_carried};
use crate::{
    ALGORITHM, Counters, Direction, Dropped, Error, ExportedKey, KeyLedger, Sa, SaId, SaKey, SaKind, SaStatus,
};

/// SAs, policy and counters of one data plane.
pub(crate) struct Sad {
    inbound: ArcSwap<HashMap<SaId, Arc<Inbound>>>,
    outbound: ArcSwapOption<Outbound>,
    policy: ArcSwap<Policy>,
    ledger: KeyLedger,
    /// Held while a table is replaced, so that changes do not overtake each other. No packet takes it.
    changing: Mutex<()>,
    pub(crate) counts: Counts,
}

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
    pub(crate) io: AtomicU64,
}

/// An ESP packet ready to be sent: the first `len` octets of the buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) len: usize,
    pub(crate) destination: IpAddr,
}

impl Sad {
    pub(crate) fn new(groups: Vec<IpNet>, own: Vec<IpNet>, ledger: KeyLedger) -> Self {
        Sad {
            inbound: ArcSwap::default(),
            outbound: ArcSwapOption::empty(),
            policy: ArcSwap::from_pointee(Policy { senders: HashMap::new(), own, groups }),
            ledger,
            changing: Mutex::new(()),
            counts: Counts::default(),
        }
    }

    /// Red to black: seals the inner packet at `buffer[HEADER_LEN..HEADER_LEN + len]` in place. `None`: dropped.
    pub(crate) fn seal(&self, buffer: &mut [u8], len: usize) -> Option<Sealed> {
        let policy = self.policy.load();
        let inner = Inner::parse(buffer.get(HEADER_LEN..HEADER_LEN + len)?)?;
        if !is_carried(&policy.groups, inner.destination) {
            return None; // The kernel's own noise, MLD reports for example: not worth a count.
        }
        if !policy.admits_outbound(&inner) {
            return drop_as(&self.counts.spoofed);
        }
        let outbound = self.outbound.load();
        let Some((sa, sequence)) = outbound.as_ref().and_then(|sa| Some((sa, sa.next_sequence()?))) else {
            return drop_as(&self.counts.no_sa);
        };
        let header = Header { spi: sa.record.id.spi, sequence };
        let next_header = if inner.source.is_ipv4() { NEXT_IPV4 } else { NEXT_IPV6 };
        let Some(sealed) = sa.cipher.seal(header, next_header, buffer, inner.len) else {
            return drop_as(&self.counts.too_big);
        };
        sa.record.carried(inner.len);
        Some(Sealed { len: sealed, destination: sa.record.id.destination })
    }

    /// Black to red: checks and opens an ESP packet that came for `destination`; the inner packet, or `None` if it
    /// was dropped. Cheap checks first.
    pub(crate) fn open<'a>(&self, destination: IpAddr, datagram: &'a mut [u8]) -> Option<&'a [u8]> {
        let Some(header) = Header::parse(datagram) else {
            return drop_as(&self.counts.malformed);
        };
        let inbound = self.inbound.load();
        let Some(sa) = inbound.get(&SaId { destination, spi: header.spi }) else {
            return drop_as(&self.counts.unknown_spi);
        };
        if !sa.window().may_be_new(header.sequence) {
            return self.replayed(sa);
        }
        let opened = match sa.cipher.open(datagram) {
            Ok(opened) => opened,
            Err(OpenError::Auth) => {
                sa.auth_failures.fetch_add(1, Relaxed);
                return drop_as(&self.counts.auth);
            }
            Err(OpenError::Malformed) => return drop_as(&self.counts.malformed),
        };
        if !sa.window().mark(header.sequence) {
            return self.replayed(sa);
        }
        let payload = datagram.get(opened.inner)?;
        let version = match opened.next_header {
            NEXT_DUMMY => return None,
            NEXT_IPV4 => 4,
            NEXT_IPV6 => 6,
            _ => return drop_as(&self.counts.malformed),
        };
        let Some(inner) = Inner::parse(payload).filter(|_| payload[0] >> 4 == version) else {
            return drop_as(&self.counts.malformed);
        };
        sa.record.carried(inner.len);
        if !self.policy.load().admits_inbound(&sa.record.sender, &inner) {
            return drop_as(&self.counts.spoofed);
        }
        payload.get(..inner.len)
    }

    pub(crate) fn install_inbound(&self, sas: Vec<Sa>) -> Result<(), Error> {
        let _changing = self.change();
        let mut ids = HashSet::new();
        for sa in &sas {
            check_spi(sa.spi)?;
            if !ids.insert(sa.id()) {
                return Err(Error::DuplicateSa { destination: sa.destination, spi: sa.spi });
            }
        }
        self.ledger.record(&sas)?;
        let mut inbound = HashMap::clone(&self.inbound.load());
        inbound.extend(sas.into_iter().map(|sa| (sa.id(), Arc::new(Inbound::new(sa)))));
        self.inbound.store(Arc::new(inbound));
        Ok(())
    }

    pub(crate) fn set_outbound(&self, sa: Sa) -> Result<(), Error> {
        let _changing = self.change();
        check_spi(sa.spi)?;
        self.ledger.record(std::slice::from_ref(&sa))?;
        self.remove(&[sa.id()]);
        self.outbound.store(Some(Arc::new(Outbound::new(sa))));
        Ok(())
    }

    pub(crate) fn remove_inbound(&self, ids: &[SaId]) {
        let _changing = self.change();
        self.remove(ids);
    }

    pub(crate) fn clear_outbound(&self) {
        let _changing = self.change();
        self.outbound.store(None);
    }

    pub(crate) fn set_senders(&self, senders: HashMap<MemberId, Vec<IpNet>>) {
        let _changing = self.change();
        let policy = Policy::clone(&self.policy.load());
        self.policy.store(Arc::new(Policy { senders, ..policy }));
    }

    pub(crate) fn set_own_prefixes(&self, own: Vec<IpNet>) {
        let _changing = self.change();
        let policy = Policy::clone(&self.policy.load());
        self.policy.store(Arc::new(Policy { own, ..policy }));
    }

    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    pub(crate) fn sas(&self) -> Vec<SaStatus> {
        let inbound = self.inbound.load();
        let mut sas: Vec<SaStatus> = inbound.values().map(|sa| sa.status()).collect();
        sas.sort_by_key(|sa| (sa.destination, sa.spi));
        sas.splice(0..0, self.outbound.load().as_ref().map(|sa| sa.status()));
        sas
    }

    pub(crate) fn export_keys(&self) -> Vec<ExportedKey> {
        let (inbound, outbound) = (self.inbound.load(), self.outbound.load());
        let records = inbound.values().map(|sa| &sa.record);
        records.chain(outbound.as_ref().map(|sa| &sa.record)).map(Record::export).collect()
    }

    pub(crate) fn counters(&self) -> Counters {
        let Counts { rx_packets, tx_packets, replay, auth, unknown_spi, spoofed, too_big, no_sa, malformed, io } =
            &self.counts;
        let [rx_packets, tx_packets] = [rx_packets, tx_packets].map(|count| count.load(Relaxed));
        let dropped = Dropped {
            replay: replay.load(Relaxed),
            auth: auth.load(Relaxed),
            unknown_spi: unknown_spi.load(Relaxed),
            spoofed: spoofed.load(Relaxed),
            too_big: too_big.load(Relaxed),
            no_sa: no_sa.load(Relaxed),
            malformed: malformed.load(Relaxed),
            io: io.load(Relaxed),
        };
        Counters { rx_packets, tx_packets, dropped }
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        // Tables are replaced in one store, so a panic of another holder left them whole.
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, ids: &[SaId]) {
        let mut inbound = HashMap::clone(&self.inbound.load());
        inbound.retain(|id, _| !ids.contains(id));
        self.inbound.store(Arc::new(inbound));
    }

    fn replayed<T>(&self, sa: &Inbound) -> Option<T> {
        sa.replay_drops.fetch_add(1, Relaxed);
        drop_as(&self.counts.replay)
    }
}

fn drop_as<T>(count: &AtomicU64) -> Option<T> {
    count.fetch_add(1, Relaxed);
    None
}

/// RFC 4303 2.1.
fn check_spi(spi: u32) -> Result<(), Error> {
    if spi > 255 { Ok(()) } else { Err(Error::ReservedSpi { spi }) }
}

/// What both directions keep of an SA.
struct Record {
    id: SaId,
    kind: SaKind,
    source: Option<IpAddr>,
    epoch: u64,
    sender: MemberId,
    key: SaKey,
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Record {
    fn new(sa: Sa) -> Self {
        let id = sa.id();
        let Sa { kind, source, epoch, sender, key, .. } = sa;
        Record { id, kind, source, epoch, sender, key, packets: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    fn carried(&self, bytes: usize) {
        self.packets.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    fn status(&self, direction: Direction, sequence: u64) -> SaStatus {
        SaStatus {
            direction,
            kind: self.kind,
            source: self.source,
            destination: self.id.destination,
            spi: self.id.spi,
            epoch: self.epoch,
            sender: self.sender,
            packets: self.packets.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            replay_drops: 0,
            auth_failures: 0,
            sequence,
        }
    }

    fn export(&self) -> ExportedKey {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        // Room for all of it first: a string that grows leaves its old content behind.
        let mut key_hex = zeroize::Zeroizing::new(String::with_capacity(2 * SaKey::LEN));
        for byte in self.key.bytes() {
            key_hex.push(char::from(DIGITS[usize::from(byte >> 4)]));
            key_hex.push(char::from(DIGITS[usize::from(byte & 0xf)]));
        }
        ExportedKey { id: self.id, algorithm: ALGORITHM, key_hex }
    }
}

struct Inbound {
    record: Record,
    cipher: Cipher,
    /// Held for a look or a mark; one thread receives, so it is free.
    window: Mutex<ReplayWindow>,
    replay_drops: AtomicU64,
    auth_failures: AtomicU64,
}

impl Inbound {
    fn new(sa: Sa) -> Self {
        Inbound {
            cipher: Cipher::new(&sa.key),
            record: Record::new(sa),
            window: Mutex::new(ReplayWindow::new()),
            replay_drops: AtomicU64::new(0),
            auth_failures: AtomicU64::new(0),
        }
    }

    fn window(&self) -> MutexGuard<'_, ReplayWindow> {
        // No code that holds it can panic half way.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> SaStatus {
        SaStatus {
            replay_drops: self.replay_drops.load(Relaxed),
            auth_failures: self.auth_failures.load(Relaxed),
            ..self.record.status(Direction::In, self.window().highest().into())
        }
    }
}

struct Outbound {
    record: Record,
    cipher: Cipher,
    /// The last sequence number given out. 64 bits wide, so that it cannot wrap into numbers used before.
    sequence: AtomicU64,
}

impl Outbound {
    fn new(sa: Sa) -> Self {
        Outbound { cipher: Cipher::new(&sa.key), record: Record::new(sa), sequence: AtomicU64::new(0) }
    }

    /// RFC 4303 3.3.3: the first is 1; `None` when they are used up, for they must not cycle.
    fn next_sequence(&self) -> Option<u32> {
        u32::try_from(self.sequence.fetch_add(1, Relaxed) + 1).ok()
    }

    fn status(&self) -> SaStatus {
        self.record.status(Direction::Out, self.sequence.load(Relaxed).min(u32::MAX.into()))
    }
}

/// The methods of [`Dataplane`](crate::Dataplane) that are the table's alone, for an implementation that has one in
/// its field `$sad`.
macro_rules! delegate_to_sad {
    ($sad:ident) => {
        fn install_inbound(&self, sas: Vec<Sa>) -> Result<(), Error> {
            self.$sad.install_inbound(sas)
        }
        fn remove_inbound(&self, ids: &[SaId]) -> Result<(), Error> {
            self.$sad.remove_inbound(ids);
            Ok(())
        }
        fn clear_outbound(&self) -> Result<(), Error> {
            self.$sad.clear_outbound();
            Ok(())
        }
        fn set_senders(&self, senders: HashMap<MemberId, Vec<IpNet>>) {
            self.$sad.set_senders(senders);
        }
        fn sas(&self) -> Vec<SaStatus> {
            self.$sad.sas()
        }
        fn export_keys(&self) -> Vec<ExportedKey> {
            self.$sad.export_keys()
        }
        fn counters(&self) -> Counters {
            self.$sad.counters()
        }
    };
}
pub(crate) use delegate_to_sad;

/// The largest ESP packet of an inner one of 64 KiB.
pub(crate) const BUFFER_LEN: usize = packet::sealed_len(1 << 16);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{packet_v4, packet_v6};

    const GROUP: &str = "ff05::6d76";
    const ALICE: MemberId = MemberId([0xa; 32]);

    fn sa(spi: u32, key: u8) -> Sa {
        Sa {
            spi,
            kind: SaKind::Group,
            source: None,
            destination: GROUP.parse().unwrap(),
            epoch: 1,
            sender: ALICE,
            key: SaKey::new(&[key; 36]),
        }
    }

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    fn sad(own: &[&str]) -> Sad {
        let sad = Sad::new(nets(&["ff1e::/16", "239.10.0.0/16"]), nets(own), KeyLedger::new());
        sad.set_senders(HashMap::from([(ALICE, nets(&["2001:db8:a::/64", "10.1.0.0/16"]))]));
        sad
    }

    /// A sender and a receiver that share one SA.
    fn pair() -> (Sad, Sad) {
        let (a, b) = (sad(&["2001:db8:a::/64", "10.1.0.0/16"]), sad(&["2001:db8:b::/64"]));
        a.set_outbound(sa(0x1000, 1)).unwrap();
        b.install_inbound(vec![sa(0x1000, 1)]).unwrap();
        (a, b)
    }

    fn seal(sad: &Sad, inner: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = vec![0; HEADER_LEN + inner.len() + 64];
        buffer[HEADER_LEN..][..inner.len()].copy_from_slice(inner);
        let sealed = sad.seal(&mut buffer, inner.len())?;
        buffer.truncate(sealed.len);
        Some(buffer)
    }

    fn open(sad: &Sad, packet: &[u8]) -> Option<Vec<u8>> {
        sad.open(GROUP.parse().unwrap(), &mut packet.to_vec()).map(<[u8]>::to_vec)
    }

    #[test]
    fn both_families_pass() {
        let (a, b) = pair();
        for inner in [packet_v6("2001:db8:a::1", "ff1e::1", b"six"), packet_v4("10.1.0.1", "239.10.0.1", b"four")] {
            assert_eq!(open(&b, &seal(&a, &inner).unwrap()), Some(inner));
        }
        let (out, inbound) = (&a.sas()[0], &b.sas()[0]);
        assert_eq!((out.direction, out.packets, out.bytes, out.sequence), (Direction::Out, 2, 43 + 24, 2));
        assert_eq!((inbound.direction, inbound.packets, inbound.bytes), (Direction::In, 2, 43 + 24));
    }

    #[test]
    fn each_drop_is_counted() {
        let (a, b) = pair();
        let good = seal(&a, &packet_v6("2001:db8:a::1", "ff1e::1", b"x")).unwrap();
        assert!(open(&b, &good).is_some());
        assert!(open(&b, &good).is_none());
        let mut forged = seal(&a, &packet_v6("2001:db8:a::1", "ff1e::1", b"x")).unwrap();
        let next = forged.clone();
        *forged.last_mut().unwrap() ^= 1;
        assert!(open(&b, &forged).is_none());
        assert!(open(&b, &next).is_some(), "a forged packet does not use up the sequence number");
        forged[0] ^= 1;
        assert!(open(&b, &forged).is_none());
        assert!(open(&b, &[0; 20]).is_none());
        a.set_own_prefixes(nets(&["::/0"]));
        for source in ["2001:db8:b::1", "2001:db8:c::1"] {
            assert!(open(&b, &seal(&a, &packet_v6(source, "ff1e::1", b"x")).unwrap()).is_none());
        }
        let expected = Dropped { replay: 1, auth: 1, unknown_spi: 1, malformed: 1, spoofed: 2, ..Dropped::default() };
        assert_eq!(b.counters().dropped, expected);
        assert_eq!((b.sas()[0].replay_drops, b.sas()[0].auth_failures), (1, 1));
    }

    #[test]
    fn what_does_not_leave() {
        let (a, _) = pair();
        assert!(seal(&a, &packet_v6("fe80::1", "ff02::16", b"MLD")).is_none());
        assert!(seal(&a, &packet_v6("2001:db8:a::1", "2001:db8:b::1", b"unicast")).is_none());
        assert_eq!(a.counters().dropped, Dropped::default(), "noise is not counted");
        assert!(seal(&a, &packet_v6("2001:db8:c::1", "ff1e::1", b"x")).is_none());
        a.clear_outbound();
        assert!(seal(&a, &packet_v6("2001:db8:a::1", "ff1e::1", b"x")).is_none());
        assert_eq!(a.counters().dropped, Dropped { spoofed: 1, no_sa: 1, ..Dropped::default() });
    }

    /// RFC 4303 2.6 and 2.7: dummy packets vanish, traffic flow confidentiality padding is cut off.
    #[test]
    fn dummies_and_padding() {
        let (_, b) = pair();
        let cipher = Cipher::new(&SaKey::new(&[1; 36]));
        let inner = packet_v6("2001:db8:a::1", "ff1e::1", b"x");
        let raw = |sequence, next_header, inner: &[u8]| {
            let mut buffer = vec![0; packet::sealed_len(inner.len())];
            buffer[HEADER_LEN..][..inner.len()].copy_from_slice(inner);
            cipher.seal(Header { spi: 0x1000, sequence }, next_header, &mut buffer, inner.len()).unwrap();
            buffer
        };
        assert_eq!(open(&b, &raw(1, NEXT_DUMMY, &[0xff; 99])), None);
        assert_eq!(b.counters(), Counters::default());
        assert_eq!(open(&b, &raw(2, NEXT_IPV6, &[&inner[..], &[0; 500]].concat())), Some(inner.clone()));
        assert_eq!(open(&b, &raw(3, NEXT_IPV4, &inner)), None, "version against next header");
        assert_eq!(open(&b, &raw(4, 17, &inner)), None, "transport mode");
        assert_eq!(open(&b, &raw(5, NEXT_IPV6, &inner[..40])), None, "shorter than it says");
        assert_eq!(b.counters().dropped, Dropped { malformed: 3, ..Dropped::default() });
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
    fn the_older_of_two_with_one_spi_goes() {
        let (_, b) = pair();
        b.install_inbound(vec![sa(0x1000, 2)]).unwrap();
        assert_eq!(b.sas().len(), 1);
        b.set_outbound(sa(0x1000, 3)).unwrap();
        assert_eq!(b.sas().iter().map(|sa| sa.direction).collect::<Vec<_>>(), [Direction::Out]);
    }

    #[test]
    fn sequence_numbers_never_wrap() {
        let (a, _) = pair();
        let inner = packet_v6("2001:db8:a::1", "ff1e::1", b"x");
        a.outbound.load().as_ref().unwrap().sequence.store(u64::from(u32::MAX) - 1, Relaxed);
        let last = seal(&a, &inner).unwrap();
        assert_eq!(Header::parse(&last).unwrap().sequence, u32::MAX);
        assert!(seal(&a, &inner).is_none() && seal(&a, &inner).is_none());
        assert_eq!(a.counters().dropped.no_sa, 2);
        assert_eq!(a.sas()[0].sequence, u32::MAX.into());
    }

    #[test]
    fn keys_leave_by_the_named_way_only() {
        let (a, _) = pair();
        let keys = a.export_keys();
        assert_eq!((keys.len(), keys[0].key_hex.as_str()), (1, "01".repeat(36).as_str()));
        assert_eq!(keys[0].algorithm, "rfc4106(gcm(aes))");
    }
}
