//! Packets of one flow joined to one, as the kernel's own generic receive offload does it: forwarding and the receiver's stack
//! are then paid once for many. No I/O, and no octet is copied: the pieces are written as they lie.
//!
//! Only what the kernel takes apart again octet for octet is joined: segments of TCP that follow each other and differ in
//! nothing but sequence number, PSH of the last and length of the last; datagrams of UDP of one length, but for the last. Their
//! checksums must be right, for they are made anew. All else goes as it is, and in order with the rest of its flow.

use tun_rs::{
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP_L4, VIRTIO_NET_HDR_LEN, VirtioNetHdr,
};

use super::mmsg::{Buffer, MOST};
use crate::esp::checksum::{checksum, is_right, pseudo_header};

/// Of UDP no more are joined: a receiver's socket has to have room for all of them at once.
const MOST_DATAGRAMS: usize = 16;

const TCP: u8 = libc::IPPROTO_TCP as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// Where in a TCP header they are.
const FLAGS: usize = 13;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
/// Of `struct virtio_net_hdr`: the checksum is left to whoever reads.
pub(super) const VIRTIO_NET_HDR_F_NEEDS_CSUM: u8 = 1;

/// What of a batch goes together.
pub(crate) struct Joiner {
    trains: Vec<Train>,
    /// Of each packet, the one behind it in its train.
    next: [usize; MOST],
    /// Whether the device takes joined datagrams (Linux 6.2).
    udp: bool,
}

/// Packets that are written as one.
#[derive(Clone, Copy)]
pub(crate) struct Train {
    first: usize,
    last: usize,
    count: usize,
    /// Of the whole, with one of each header.
    len: usize,
    shape: Option<Shape>,
    /// Whether the last one is.
    pushed: bool,
    /// Nothing can come behind a short one, or one that is pushed.
    closed: bool,
}

/// Of a packet that may be joined with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    protocol: u8,
    ip_header: usize,
    headers: usize,
    payload: usize,
}

impl Joiner {
    pub(crate) fn new(udp: bool) -> Self {
        Joiner { trains: Vec::with_capacity(MOST), next: [0; MOST], udp }
    }

    /// Puts the packets into trains, and joins the headers of each; `at`: where in a buffer its packet begins, behind room for
    /// the header that is written before it. At most [`MOST`].
    pub(crate) fn join(&mut self, buffers: &mut [Buffer<'_>], at: usize) {
        self.trains.clear();
        for nth in 0..buffers.len() {
            self.take(nth, buffers, at);
        }
        for train in &self.trains {
            train.write_headers(&mut buffers[train.first], at);
        }
    }

    /// In the order in which they are to be written.
    pub(crate) fn trains(&self) -> &[Train] {
        &self.trains
    }

    /// Which packets a train has, in order, and how many octets of each, from the header that is written before the first on,
    /// do not count.
    pub(crate) fn packets(&self, train: &Train) -> impl Iterator<Item = (usize, usize)> {
        let headers = VIRTIO_NET_HDR_LEN + train.shape.map_or(0, |shape| shape.headers);
        let all = std::iter::successors(Some(train.first), |at| Some(self.next[*at])).take(train.count);
        all.enumerate().map(move |(nth, packet)| (packet, if nth == 0 { 0 } else { headers }))
    }

    fn take(&mut self, nth: usize, buffers: &[Buffer<'_>], at: usize) {
        let packet = |nth: usize| &buffers[nth].as_ref()[at..];
        let (new, shape) = (packet(nth), Shape::of(packet(nth), self.udp));
        // The last one of its flow, or of whatever may belong to it.
        let of_flow = |train: &&mut Train| is_one_flow((packet(train.first), train.shape), (new, shape));
        if let Some(train) = self.trains.iter_mut().rev().find(of_flow)
            && let Some(shape) = shape
            && train.admits(packet(train.first), new, shape)
        {
            self.next[train.last] = nth;
            train.append(nth, new, shape);
            return;
        }
        let pushed = shape.is_some_and(|shape| shape.is_pushed(new));
        self.trains.push(Train { first: nth, last: nth, count: 1, len: new.len(), shape, pushed, closed: pushed });
    }
}

impl Train {
    fn admits(&self, first: &[u8], new: &[u8], shape: Shape) -> bool {
        let Some(own) = self.shape else { return false };
        let most = if own.protocol == TCP { MOST } else { MOST_DATAGRAMS };
        !self.closed
            && self.count < most
            && Shape { payload: own.payload, ..shape } == own
            && shape.payload <= own.payload
            // As IPv4 and IPv6 can say it both.
            && self.len + shape.payload <= usize::from(u16::MAX)
            && is_next(first, new, own, self.count)
            && (self.count > 1 || own.has_right_checksum(first))
            && shape.has_right_checksum(new)
    }

    fn append(&mut self, nth: usize, new: &[u8], shape: Shape) {
        let full = self.shape.map_or(0, |own| own.payload);
        self.last = nth;
        self.count += 1;
        self.len += shape.payload;
        self.pushed = shape.is_pushed(new);
        self.closed = self.pushed || shape.payload < full;
    }

    /// Of a joined packet the headers say what the whole is, and the kernel what it is to be cut into.
    fn write_headers(&self, first: &mut Buffer<'_>, at: usize) {
        let header = match self.shape.filter(|_| self.count > 1) {
            Some(shape) => self.join_headers(&mut first.as_mut()[at..], shape),
            None => VirtioNetHdr::default(),
        };
        let before = &mut first.bytes[at - VIRTIO_NET_HDR_LEN..at];
        // It fails for a shorter place only.
        header.encode(before).expect("the header has its length");
    }

    fn join_headers(&self, packet: &mut [u8], shape: Shape) -> VirtioNetHdr {
        let Shape { protocol, ip_header, headers, payload } = shape;
        let ipv4 = is_ipv4(packet);
        let transport_len = self.len - ip_header;
        // `admits`: none of them is above 16 bits.
        if ipv4 {
            packet[2..4].copy_from_slice(&(self.len as u16).to_be_bytes());
            packet[10..12].fill(0);
            let sum = checksum(&packet[..ip_header]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            packet[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
        }
        let checksum_at = if protocol == TCP { 16 } else { 6 };
        let begun = pseudo_header(addresses(packet), protocol, transport_len);
        let transport = &mut packet[ip_header..];
        transport[checksum_at..checksum_at + 2].copy_from_slice(&begun.to_be_bytes());
        let gso_type = if protocol == UDP {
            transport[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
            VIRTIO_NET_HDR_GSO_UDP_L4
        } else {
            // The kernel leaves it to the last.
            transport[FLAGS] |= if self.pushed { PSH } else { 0 };
            if ipv4 { VIRTIO_NET_HDR_GSO_TCPV4 } else { VIRTIO_NET_HDR_GSO_TCPV6 }
        };
        VirtioNetHdr {
            flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
            gso_type,
            hdr_len: headers as u16,
            gso_size: payload as u16,
            csum_start: ip_header as u16,
            csum_offset: checksum_at as u16,
        }
    }
}

impl Shape {
    /// `None`: it goes alone.
    fn of(packet: &[u8], udp: bool) -> Option<Shape> {
        let (protocol, ip_header, len) = match packet.first()? {
            // Without options, a fragment of nothing.
            0x45 if packet.len() >= 20 && packet[6] & 0x3f == 0 && packet[7] == 0 && checksum(&packet[..20]) == 0 => {
                (packet[9], 20, usize::from(u16::from_be_bytes([packet[2], packet[3]])))
            }
            0x60..=0x6f if packet.len() >= 40 => {
                (packet[6], 40, 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])))
            }
            _ => return None,
        };
        let transport = packet.get(ip_header..)?;
        let header = match protocol {
            TCP if transport.len() > TCP_HEADER && transport[FLAGS] & !PSH == ACK => {
                usize::from(transport[12] >> 4) * 4
            }
            // Linux drops IPv4 multicast that is larger than an MTU, joined or not, if it forbids fragments.
            UDP if udp && transport.len() > UDP_HEADER && !is_multicast_v4(packet) => {
                let said = usize::from(u16::from_be_bytes([transport[4], transport[5]]));
                (said == transport.len() && transport[6..8] != [0, 0]).then_some(UDP_HEADER)?
            }
            _ => return None,
        };
        let least = if protocol == TCP { TCP_HEADER } else { UDP_HEADER };
        let payload = transport.len().checked_sub(header).filter(|payload| *payload > 0 && header >= least)?;
        (len == packet.len()).then_some(Shape { protocol, ip_header, headers: ip_header + header, payload })
    }

    fn is_pushed(&self, packet: &[u8]) -> bool {
        self.protocol == TCP && packet[self.ip_header + FLAGS] & PSH != 0
    }

    fn has_right_checksum(&self, packet: &[u8]) -> bool {
        let transport = &packet[self.ip_header..];
        is_right(pseudo_header(addresses(packet), self.protocol, transport.len()), transport)
    }
}

/// Whether two packets are of one flow, or may be: of one that cannot be joined only the addresses are looked at.
fn is_one_flow((one, one_shape): (&[u8], Option<Shape>), (other, other_shape): (&[u8], Option<Shape>)) -> bool {
    let flow = |packet: &[u8], shape: Shape| {
        let ports = packet[shape.ip_header..][..4].first_chunk::<4>().copied();
        (shape.protocol, ports)
    };
    let may_be = match (one_shape, other_shape) {
        (Some(shape), Some(other_shape)) => flow(one, shape) == flow(other, other_shape),
        _ => true,
    };
    may_be && addresses(one) == addresses(other)
}

/// Whether `new` differs from the packet `count` places before it in what it must, and in nothing else.
fn is_next(first: &[u8], new: &[u8], shape: Shape, count: usize) -> bool {
    let same =
        |ranges: &[std::ops::Range<usize>]| ranges.iter().all(|range| first[range.clone()] == new[range.clone()]);
    let ip = if is_ipv4(first) {
        let id = |packet: &[u8]| u16::from_be_bytes([packet[4], packet[5]]);
        // The kernel counts it up. Where fragments are forbidden it means nothing (RFC 6864 4.1).
        same(&[0..2, 6..10]) && (first[6] & 0x40 != 0 || id(new) == id(first).wrapping_add(count as u16))
    } else {
        same(&[0..4, 6..8])
    };
    let at = shape.ip_header;
    let transport = shape.protocol == UDP || {
        // `Shape::of`: both have a whole TCP header.
        let sequence = |packet: &[u8]| u32::from_be_bytes(*packet[at + 4..].first_chunk().expect("a header is there"));
        let carried = (count * shape.payload) as u32;
        // All but the flags, of which only PSH can differ, and the checksum; with the options.
        sequence(new) == sequence(first).wrapping_add(carried)
            && same(&[at + 8..at + FLAGS, at + FLAGS + 1..at + 16, at + 18..shape.headers])
    };
    ip && transport
}

fn is_ipv4(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first >> 4 == 4)
}

/// To 224.0.0.0/4.
fn is_multicast_v4(packet: &[u8]) -> bool {
    is_ipv4(packet) && packet[16] >> 4 == 0xe
}

/// Source and destination; empty if they are not all there.
fn addresses(packet: &[u8]) -> &[u8] {
    packet.get(if is_ipv4(packet) { 12..20 } else { 8..40 }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tun_rs::gso_split;

    /// Before a packet, as behind the headers of ESP.
    const AT: usize = 16;
    const ROOM: usize = 2000;

    /// A packet with right lengths and checksums.
    #[derive(Clone, Debug)]
    struct Packet {
        ipv4: bool,
        tcp: bool,
        flow: u8,
        id: u16,
        sequence: u32,
        flags: u8,
        window: u16,
        payload: Vec<u8>,
        right: bool,
    }

    impl Packet {
        fn bytes(&self) -> Vec<u8> {
            let Packet { ipv4, tcp, flow, id, sequence, flags, window, ref payload, right } = *self;
            let mut transport = vec![0x10, flow, 0x20, 0x20];
            if tcp {
                transport.extend(sequence.to_be_bytes());
                transport.extend([0, 0, 0, 9, 0x60, flags]);
                transport.extend(window.to_be_bytes());
                // An option without a meaning.
                transport.extend([0, 0, 0, 0, 1, 1, 1, 0]);
            } else {
                transport.extend(((8 + payload.len()) as u16).to_be_bytes());
                transport.extend([0, 0]);
            }
            transport.extend(payload);
            let (protocol, len) = (if tcp { TCP } else { UDP }, transport.len() as u16);
            let mut packet = if ipv4 {
                let mut header = [0; 20];
                header[0] = 0x45;
                header[2..4].copy_from_slice(&(20 + len).to_be_bytes());
                header[4..6].copy_from_slice(&id.to_be_bytes());
                header[8..10].copy_from_slice(&[60, protocol]);
                header[12..].copy_from_slice(&[10, 1, 0, 1, 10, 2, 0, 1]);
                let sum = checksum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                header.to_vec()
            } else {
                let mut header = [7; 40];
                header[..4].copy_from_slice(&[0x60, 0, 0, 1]);
                header[4..6].copy_from_slice(&len.to_be_bytes());
                header[6..8].copy_from_slice(&[protocol, 60]);
                header.to_vec()
            };
            let begun = pseudo_header(addresses(&packet), protocol, transport.len());
            let sum = checksum(&[&begun.to_be_bytes()[..], &transport].concat());
            let sum = if right { sum } else { sum ^ 0x0100 };
            let at = if tcp { 16 } else { 6 };
            transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            packet.extend(transport);
            packet
        }
    }

    fn sent(ipv4: bool, tcp: bool, payloads: &[usize]) -> Vec<Vec<u8>> {
        let (mut id, mut sequence) = (u16::MAX, u32::MAX - 100);
        let packet = |len: &usize| {
            let payload = vec![*len as u8; *len];
            let packet = Packet { ipv4, tcp, flow: 1, id, sequence, flags: ACK, window: 5, payload, right: true };
            (id, sequence) = (id.wrapping_add(1), sequence.wrapping_add(*len as u32));
            packet.bytes()
        };
        payloads.iter().map(packet).collect()
    }

    /// What is written to the device, as one piece each.
    fn joined(packets: &[Vec<u8>], udp: bool) -> Vec<Vec<u8>> {
        let mut memory = vec![0; MOST * ROOM];
        let mut buffers = Buffer::divide(&mut memory, ROOM);
        for (buffer, packet) in buffers.iter_mut().zip(packets) {
            buffer.bytes[AT..][..packet.len()].copy_from_slice(packet);
            buffer.len = AT + packet.len();
        }
        let mut joiner = Joiner::new(udp);
        joiner.join(&mut buffers[..packets.len()], AT);
        let piece = |(at, skipped): (usize, usize)| &buffers[at].as_ref()[AT - VIRTIO_NET_HDR_LEN + skipped..];
        joiner.trains().iter().map(|train| joiner.packets(train).flat_map(piece).copied().collect()).collect()
    }

    /// As the kernel takes it apart.
    fn cut(written: &[u8]) -> Vec<Vec<u8>> {
        let header = VirtioNetHdr::decode(written).unwrap();
        let mut packet = written[VIRTIO_NET_HDR_LEN..].to_vec();
        if header.gso_type == 0 {
            assert_eq!(written[..VIRTIO_NET_HDR_LEN], [0; VIRTIO_NET_HDR_LEN]);
            return vec![packet];
        }
        let (mut pieces, mut lens) = (vec![vec![0; ROOM]; MOST], vec![0; MOST]);
        let ipv6 = packet[0] >> 4 == 6;
        let count = gso_split(&mut packet, header, &mut pieces, &mut lens, 0, ipv6).unwrap();
        pieces.into_iter().zip(lens).take(count).map(|(piece, len)| piece[..len].to_vec()).collect()
    }

    fn lens_of(written: &[Vec<u8>]) -> Vec<usize> {
        written.iter().map(|written| cut(written).len()).collect()
    }

    #[test]
    fn what_follows_each_other_is_joined() {
        for (ipv4, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
            let packets = sent(ipv4, tcp, &[1000, 1000, 1000, 500, 1000, 1200]);
            let written = joined(&packets, true);
            assert_eq!(lens_of(&written), [4, 1, 1], "a short one is the last, a longer one the first; {ipv4} {tcp}");
            assert_eq!(written.iter().flat_map(|written| cut(written)).collect::<Vec<_>>(), packets);
        }
    }

    #[test]
    fn datagrams_go_alone_where_the_device_does_not_take_them_joined() {
        assert_eq!(lens_of(&joined(&sent(false, false, &[100; 3]), false)), [1, 1, 1]);
        assert_eq!(lens_of(&joined(&sent(false, true, &[100; 3]), false)), [3]);
    }

    /// Joined it would get a right one, and be let in.
    #[test]
    fn what_has_a_wrong_ipv4_checksum_goes_alone() {
        let mut packets = sent(true, true, &[100; 3]);
        packets[1][10] ^= 1;
        let written = joined(&packets, true);
        assert_eq!(written.iter().flat_map(|written| cut(written)).collect::<Vec<_>>(), packets);
        assert_eq!(lens_of(&written), [1, 1, 1]);
    }

    #[test]
    fn ipv4_multicast_goes_alone() {
        let mut packets = sent(true, false, &[100; 3]);
        packets.iter_mut().for_each(|packet| packet[16] = 239);
        assert_eq!(lens_of(&joined(&packets, true)), [1, 1, 1]);
    }

    /// Forty-seven full segments and these come to about the 65,535 octets that a header can say.
    #[test]
    fn no_more_is_joined_than_a_header_can_say() {
        for (ipv4, tail) in [true, false].into_iter().flat_map(|ipv4| (300..400).map(move |tail| (ipv4, tail))) {
            let packets = sent(ipv4, true, &[&[1386; 47][..], &[tail]].concat());
            let whole = packets[0].len() + 46 * 1386 + tail;
            let written = joined(&packets, true);
            let fits = whole <= usize::from(u16::MAX);
            assert_eq!(lens_of(&written), if fits { vec![48] } else { vec![47, 1] }, "{whole}");
            assert_eq!(written.iter().flat_map(|written| cut(written)).collect::<Vec<_>>(), packets);
        }
    }

    #[test]
    fn datagrams_of_a_burst_are_few() {
        assert_eq!(lens_of(&joined(&sent(false, false, &[100; 40]), true)), [16, 16, 8]);
    }

    /// Packets of a few flows, most of them such as can be joined.
    fn packets() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let step = (any::<[bool; 2]>(), 0_u8..3, prop_oneof![8 => Just(0), 1 => 1_u8..8], any::<bool>());
        let steps = proptest::collection::vec(step, 0..=MOST);
        (steps, any::<bool>()).prop_map(|(steps, alike)| {
            let mut flows = std::collections::HashMap::new();
            let mut all = Vec::new();
            for ([ipv4, tcp], flow, odd, pushed) in steps {
                let (ipv4, tcp) = if alike { (false, true) } else { (ipv4, tcp) };
                let (id, sequence) = flows.entry((ipv4, tcp, flow)).or_insert((u16::MAX - 3, u32::MAX - 3));
                let mut packet = Packet {
                    ipv4,
                    tcp,
                    flow,
                    id: *id,
                    sequence: *sequence,
                    flags: if pushed && odd == 1 { ACK | PSH } else { ACK },
                    window: 5,
                    payload: vec![flow; if odd == 2 { 7 } else { 9 }],
                    right: odd != 3,
                };
                match odd {
                    4 => packet.window = 6,
                    5 => packet.sequence = packet.sequence.wrapping_add(1),
                    6 => packet.flags |= 1,
                    7 => packet.payload.clear(),
                    _ => {}
                }
                *id = id.wrapping_add(1);
                *sequence = sequence.wrapping_add(packet.payload.len() as u32);
                all.push(packet.bytes());
            }
            all
        })
    }

    fn flow_of(packet: &[u8]) -> Vec<u8> {
        let at = if is_ipv4(packet) { 20 } else { 40 };
        [&[packet[0] >> 4, packet[if is_ipv4(packet) { 9 } else { 6 }]], addresses(packet), &packet[at..at + 4]]
            .concat()
    }

    proptest! {
        /// Whatever is joined, each flow's packets come out as they were and in order.
        #[test]
        fn the_kernel_cuts_out_what_came_in(packets in packets()) {
            let written = joined(&packets, true);
            let out: Vec<Vec<u8>> = written.iter().flat_map(|written| cut(written)).collect();
            let flows: std::collections::BTreeSet<Vec<u8>> = packets.iter().map(|packet| flow_of(packet)).collect();
            prop_assert_eq!(out.len(), packets.len());
            for flow in flows {
                let of = |packets: &[Vec<u8>]| packets.iter().filter(|packet| flow_of(packet) == flow).cloned().collect::<Vec<_>>();
                prop_assert_eq!(of(&out), of(&packets));
            }
        }

        #[test]
        fn random_bytes_never_panic(packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..100), 0..5)) {
            let out: Vec<Vec<u8>> = joined(&packets, true).iter().flat_map(|written| cut(written)).collect();
            prop_assert_eq!(out.len(), packets.len());
        }
    }
}
