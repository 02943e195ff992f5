//! The way of a packet through the SAs: what it is sealed with, and what is let through. No I/O.

use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::SaId;
use crate::esp::fragment::is_whole_only;
use crate::esp::outer;
use crate::esp::packet::{self, HEADER_LEN, Header, NEXT_DUMMY, NEXT_IPV4, NEXT_IPV6, OpenError};
use crate::inner::{Inner, NextLayer};
use crate::policy::{Origin, Way};
use crate::userspace::association::Inbound;
use crate::userspace::sad::{Lookup, Sad};
use crate::userspace::senders::Sender;

/// The largest ESP packet of an inner one of 64 KiB.
pub(crate) const BUFFER_LEN: usize = packet::sealed_len(1 << 16);

/// An ESP packet ready to be sent: the first `len` octets of the buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) len: usize,
    pub(crate) destination: IpAddr,
    /// Outer DSCP and ECN.
    pub(crate) class: u8,
}

/// What has become of a packet from black.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened<'a> {
    /// The inner packet.
    Inner(&'a [u8]),
    /// There is no SA for it. Not counted.
    Unknown,
    /// Dropped and counted.
    Dropped,
}

/// How a packet from red goes through the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// In one piece.
    Whole,
    /// In pieces of at most so many octets.
    Pieces(usize),
    /// Not at all; it is counted.
    Dropped,
}

impl Sad {
    /// The largest inner packet from now on.
    pub(crate) fn set_mtu(&self, mtu: usize) {
        self.mtu.store(mtu, Relaxed);
    }

    /// For the next packet that is cut, by whichever thread (RFC 791 3.2).
    pub(crate) fn next_identification(&self) -> u16 {
        self.identification.fetch_add(1, Relaxed).wrapping_add(1)
    }

    /// Whether a packet from red is to be fragmented first. Only IPv4 multicast ever is: for all else the kernel knows the
    /// tunnel's MTU, fragments, or tells the sender (the little that slips through while the MTU shrinks goes in outer
    /// fragments).
    pub(crate) fn fit(&self, packet: &[u8]) -> Fit {
        let mtu = self.mtu.load(Relaxed);
        if packet.len() <= mtu {
            return Fit::Whole;
        }
        let inner = match Inner::parse(packet) {
            Some(inner) if inner.destination.is_ipv4() && inner.destination.is_multicast() => inner,
            _ => return Fit::Whole,
        };
        // Routers do not tell senders of multicast (RFC 1112 7.2): the count is all that shows it.
        if is_whole_only(packet) && !self.treatment.clear_df {
            self.counts.too_big.fetch_add(1, Relaxed);
            return Fit::Dropped;
        }
        // Of its fragments only the first would match: it goes in outer ones.
        match self.outbound.load().is_whole_only(packet, &inner) {
            true => Fit::Whole,
            false => Fit::Pieces(mtu),
        }
    }

    /// Red to black: seals the inner packet at `buffer[HEADER_LEN..HEADER_LEN + len]` in place. `None`: dropped.
    pub(crate) fn seal(&self, buffer: &mut [u8], len: usize) -> Option<Sealed> {
        let policy = self.policies.load();
        let packet = buffer.get(HEADER_LEN..HEADER_LEN + len)?;
        let inner = Inner::parse(packet)?;
        let class = outer::encapsulate(outer::class_of(packet), self.treatment.copy_dscp);
        let way = policy.way(inner.destination);
        if way == Way::Noise {
            return None; // Not worth a count.
        }
        if !policy.admits_outbound(&inner) {
            return drop_as(&self.counts.spoofed);
        }
        if way == Way::Group && policy.is_left_to_another(inner.source) {
            return None; // A flow that was set up before it was left to another.
        }
        let outbound = self.outbound.load();
        let sender = match (outbound.flow_of(packet, &inner), way) {
            (Some(flow), _) => flow.sender.as_ref(),
            (None, Way::Group) => outbound.group.as_ref(),
            (None, Way::Router(member)) => outbound.unicast.get(&member),
            (None, Way::Nowhere | Way::Noise) => None,
        };
        let Some((Sender { sa, destination }, sequence)) =
            sender.and_then(|sender| Some((sender, sender.sa.next_sequence()?)))
        else {
            return drop_as(&self.counts.no_sa);
        };
        let header = Header { spi: sa.record.id.spi, sequence };
        let next_header = if inner.source.is_ipv4() { NEXT_IPV4 } else { NEXT_IPV6 };
        let Some(sealed) = sa.cipher.seal(header, next_header, buffer, inner.len) else {
            return drop_as(&self.counts.too_big);
        };
        sa.record.carried(inner.len);
        Some(Sealed { len: sealed, destination: *destination, class })
    }

    /// Black to red: as [`Sad::open_known`], where a packet without an SA is dropped.
    pub(crate) fn open<'a>(&self, destination: IpAddr, class: u8, datagram: &'a mut [u8]) -> Option<&'a [u8]> {
        match self.open_known(destination, class, datagram) {
            Opened::Inner(inner) => Some(inner),
            Opened::Unknown => drop_as(&self.counts.unknown_spi),
            Opened::Dropped => None,
        }
    }

    /// Black to red: checks and opens an ESP packet that came for `destination` with this outer class. Cheap checks
    /// first.
    pub(crate) fn open_known<'a>(&self, destination: IpAddr, class: u8, datagram: &'a mut [u8]) -> Opened<'a> {
        let Some(header) = Header::parse(datagram) else {
            self.counts.malformed.fetch_add(1, Relaxed);
            return Opened::Dropped;
        };
        let inbound = self.inbound.load();
        match inbound.get(&Lookup::of(SaId { destination, spi: header.spi })) {
            Some(sa) => self.open_with(sa, header, class, datagram).map_or(Opened::Dropped, Opened::Inner),
            None => Opened::Unknown,
        }
    }

    fn open_with<'a>(&self, sa: &Inbound, header: Header, class: u8, datagram: &'a mut [u8]) -> Option<&'a [u8]> {
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
        let payload = datagram.get_mut(opened.inner)?;
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
        let policy = self.policies.load();
        let origin = match &sa.record.selector {
            None => Origin::Sender(&sa.record.sender),
            Some(selector) => Origin::Flow(selector, NextLayer::of(payload.get(..inner.len)?)),
        };
        if !policy.admits_inbound(sa.record.kind, &origin, &inner) {
            let known = policy.is_from_own_lan(&origin, &inner);
            return if known { None } else { drop_as(&self.counts.spoofed) };
        }
        if !outer::decapsulate(payload, class) {
            return drop_as(&self.counts.ecn);
        }
        payload.get(..inner.len)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use muster_wire::MemberId;

    use super::*;
    use crate::esp::packet::Cipher;
    use crate::inner::tests::{packet_v4, packet_v6};
    use crate::policy::Policies;
    use crate::userspace::sad::Treatment;
    use crate::userspace::sad::tests::*;
    use crate::{Counters, Direction, Dropped, KeyLedger, Sa, SaKey, SaKind};

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
        a.policies.set_own_prefixes(nets(&["::/0"]));
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
        assert_eq!(a.counters().dropped, Dropped::default(), "noise is not counted");
        assert!(seal(&a, &packet_v6("2001:db8:a::1", "2001:db8:b::1", b"no route")).is_none());
        assert!(seal(&a, &packet_v6("2001:db8:c::1", "ff1e::1", b"x")).is_none());
        a.clear_outbound();
        assert!(seal(&a, &packet_v6("2001:db8:a::1", "ff1e::1", b"x")).is_none());
        assert_eq!(a.counters().dropped, Dropped { spoofed: 1, no_sa: 2, ..Dropped::default() });
    }

    /// RFC 4303 2.6 and 2.7: dummy packets vanish, traffic flow confidentiality padding is cut off.
    #[test]
    fn dummies_and_padding() {
        let (_, b) = pair();
        let cipher = Cipher::new(&SaKey::new(&[1; 36]), 0);
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
    fn sequence_numbers_never_wrap() {
        let (a, _) = pair();
        let inner = packet_v6("2001:db8:a::1", "ff1e::1", b"x");
        a.outbound.load().group.as_ref().unwrap().sa.sequence.store(u64::from(u32::MAX) - 1, Relaxed);
        let last = seal(&a, &inner).unwrap();
        assert_eq!(Header::parse(&last).unwrap().sequence, u32::MAX);
        assert!(seal(&a, &inner).is_none() && seal(&a, &inner).is_none());
        assert_eq!(a.counters().dropped.no_sa, 2);
        assert_eq!(a.sas()[0].sequence, u32::MAX.into());
    }

    const BOB: MemberId = MemberId([0xb; 32]);

    /// The same SA for its sender and its receiver.
    fn unicast(spi: u32, key: u8) -> Sa {
        Sa { kind: SaKind::Unicast, destination: "fd00::b".parse().unwrap(), epoch: 0, ..sa(spi, key) }
    }

    /// Alice's data plane and Bob's, with a unicast SA from her to him.
    fn unicast_pair() -> (Sad, Sad) {
        let (a, b) = (sad(&["2001:db8:a::/64", "10.1.0.0/16"]), sad(&["2001:db8:b::/64", "10.2.0.0/16"]));
        a.policies.set_routes(&BTreeMap::from([(BOB, nets(&["2001:db8:b::/64", "10.2.0.0/16"]))]));
        a.set_unicast(BOB, unicast(0x4000_0001, 1)).unwrap();
        b.install_inbound(vec![unicast(0x4000_0001, 1)]).unwrap();
        (a, b)
    }

    fn open_at(sad: &Sad, destination: &str, class: u8, packet: &[u8]) -> Option<Vec<u8>> {
        sad.open(destination.parse().unwrap(), class, &mut packet.to_vec()).map(<[u8]>::to_vec)
    }

    #[test]
    fn unicast_goes_to_the_router_before_its_destination() {
        let (a, b) = unicast_pair();
        for inner in [packet_v6("2001:db8:a::1", "2001:db8:b::1", b"six"), packet_v4("10.1.0.1", "10.2.0.1", b"four")] {
            let mut buffer = vec![0; HEADER_LEN + inner.len() + 64];
            buffer[HEADER_LEN..][..inner.len()].copy_from_slice(&inner);
            let sealed = a.seal(&mut buffer, inner.len()).unwrap();
            assert_eq!(sealed.destination, "fd00::b".parse::<IpAddr>().unwrap());
            // Whatever address of his it comes to; but not as the group's.
            assert_eq!(open(&b, &buffer[..sealed.len]), None);
            assert_eq!(open_at(&b, "fe80::b", 0, &buffer[..sealed.len]), Some(inner));
        }
        assert_eq!(b.counters().dropped, Dropped { unknown_spi: 2, ..Dropped::default() });
        let lines = a.sas();
        assert_eq!((lines[0].kind, lines[0].receiver, lines[0].packets), (SaKind::Unicast, Some(BOB), 2));
        assert_eq!((b.sas()[0].sender, b.sas()[0].packets), (ALICE, 2));

        // He moves: the same SA goes on.
        a.set_peer_address(&BOB, "fd00::bb".parse().unwrap());
        assert_eq!(a.sas()[0].destination, "fd00::bb".parse::<IpAddr>().unwrap());
        let packet = seal(&a, &packet_v6("2001:db8:a::1", "2001:db8:b::1", b"x")).unwrap();
        assert_eq!(Header::parse(&packet).unwrap().sequence, 3);
        assert!(a.export_keys().iter().any(|key| key.id == SaId { destination: a.sas()[0].destination, ..key.id }));

        // He is gone.
        a.policies.set_routes(&BTreeMap::new());
        assert!(seal(&a, &packet_v6("2001:db8:a::1", "2001:db8:b::1", b"x")).is_none());
        a.policies.set_routes(&BTreeMap::from([(BOB, nets(&["2001:db8:b::/64"]))]));
        a.clear_unicast(&BOB);
        assert!(seal(&a, &packet_v6("2001:db8:a::1", "2001:db8:b::1", b"x")).is_none());
        assert_eq!(a.counters().dropped, Dropped { no_sa: 2, ..Dropped::default() });
    }

    /// RFC 4301 5.2: an SA carries what it was made for, and nothing else.
    #[test]
    fn unicast_and_group_do_not_mix() {
        let (a, b) = unicast_pair();
        a.policies.set_own_prefixes(nets(&["::/0"]));
        let everywhere = BTreeMap::from([(BOB, nets(&["::/0"]))]);
        a.policies.set_routes(&everywhere);
        for (source, destination) in [
            ("2001:db8:c::1", "2001:db8:b::1"), // not the sender's
            ("2001:db8:b::2", "2001:db8:b::1"), // the receiver's own
            ("2001:db8:a::1", "2001:db8:c::1"), // not the receiver's
            ("2001:db8:a::1", "fd00::b"),       // its black address
        ] {
            let packet = seal(&a, &packet_v6(source, destination, b"x")).unwrap();
            assert_eq!(open_at(&b, "fd00::b", 0, &packet), None, "{source} to {destination}");
        }
        assert_eq!(b.counters().dropped, Dropped { spoofed: 4, ..Dropped::default() });

        // Multicast on a unicast SA, unicast on the group's.
        let raw = |key: u8, spi, inner: &[u8]| {
            let mut buffer = vec![0; packet::sealed_len(inner.len())];
            buffer[HEADER_LEN..][..inner.len()].copy_from_slice(inner);
            let header = Header { spi, sequence: 99 };
            Cipher::new(&SaKey::new(&[key; 36]), 0).seal(header, NEXT_IPV6, &mut buffer, inner.len()).unwrap();
            buffer
        };
        b.install_inbound(vec![sa(0x1000, 2)]).unwrap();
        let multicast = packet_v6("2001:db8:a::1", "ff1e::1", b"x");
        assert_eq!(open_at(&b, "fd00::b", 0, &raw(1, 0x4000_0001, &multicast)), None);
        let one = packet_v6("2001:db8:a::1", "2001:db8:b::1", b"x");
        assert_eq!(open(&b, &raw(2, 0x1000, &one)), None);
        assert_eq!(b.counters().dropped.spoofed, 6);
    }

    #[test]
    fn classes_cross_as_the_rfcs_say() {
        let (a, b) = unicast_pair();
        let mut inner = packet_v4("10.1.0.1", "10.2.0.1", b"four");
        inner[1] = 0xba;
        let seal = || {
            let mut buffer = vec![0; HEADER_LEN + inner.len() + 64];
            buffer[HEADER_LEN..][..inner.len()].copy_from_slice(&inner);
            let sealed = a.seal(&mut buffer, inner.len()).unwrap();
            (sealed.class, buffer[..sealed.len].to_vec())
        };
        let (class, packet) = seal();
        assert_eq!(class, 0xba);
        assert_eq!(open_at(&b, "fd00::b", class, &packet).unwrap()[1], 0xba);
        assert_eq!(open_at(&b, "fd00::b", 0x03, &seal().1).unwrap()[1], 0xbb, "congestion on black");
        inner[1] = 0xb8;
        let (_, packet) = {
            let mut buffer = vec![0; HEADER_LEN + inner.len() + 64];
            buffer[HEADER_LEN..][..inner.len()].copy_from_slice(&inner);
            let sealed = a.seal(&mut buffer, inner.len()).unwrap();
            (sealed.class, buffer[..sealed.len].to_vec())
        };
        assert_eq!(open_at(&b, "fd00::b", 0x03, &packet), None);
        assert_eq!(b.counters().dropped, Dropped { ecn: 1, ..Dropped::default() });
    }

    #[test]
    fn only_ipv4_multicast_is_cut_here() {
        let sizes = |clear_df| {
            let sad = Sad::new(
                Arc::new(Policies::new(vec![], vec![])),
                Treatment { copy_dscp: true, clear_df },
                KeyLedger::new(),
            );
            sad.set_mtu(1446);
            sad
        };
        let (keep, clear) = (sizes(false), sizes(true));
        let mut big = packet_v4("10.1.0.1", "239.10.0.1", &[0; 1427]);
        assert_eq!(keep.fit(&big), Fit::Pieces(1446));
        big[6] = 0x40;
        assert_eq!((keep.fit(&big), clear.fit(&big)), (Fit::Dropped, Fit::Pieces(1446)));
        assert_eq!((keep.counters().dropped.too_big, clear.counters().dropped.too_big), (1, 0));
        let others = [
            packet_v4("10.1.0.1", "239.10.0.1", &[0; 1426]),
            packet_v4("10.1.0.1", "10.2.0.1", &[0; 2000]),
            packet_v6("2001:db8:a::1", "ff1e::1", &[0; 2000]),
        ];
        assert!(others.iter().all(|packet| keep.fit(packet) == Fit::Whole));
    }
}
