//! Packets with headers of a test's choice.

use std::net::{IpAddr, SocketAddr};

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use super::lab::Ns;

/// Which part of a packet a fragment is: where it begins, in units of eight octets, and whether another follows.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub(crate) offset: u16,
    pub(crate) more: bool,
}

/// A packet of IPv4 or IPv6.
pub(crate) fn packet([from, to]: [IpAddr; 2], protocol: u8, payload: &[u8]) -> Vec<u8> {
    match from {
        IpAddr::V4(_) => ipv4([from, to], protocol, 0, payload),
        IpAddr::V6(_) => ipv6([from, to], protocol, payload),
    }
}

/// A fragment of one.
pub(crate) fn fragment(ends: [IpAddr; 2], protocol: u8, Part { offset, more }: Part, payload: &[u8]) -> Vec<u8> {
    match ends[0] {
        IpAddr::V4(_) => ipv4(ends, protocol, offset | u16::from(more) << 13, payload),
        IpAddr::V6(_) => {
            let place = (offset << 3 | u16::from(more)).to_be_bytes();
            ipv6(ends, 44, &[&[protocol, 0][..], &place, &[0, 0, 0x13, 0x37], payload].concat())
        }
    }
}

/// An ICMP echo request.
pub(crate) fn echo_request(ends: [IpAddr; 2], payload: &[u8]) -> Vec<u8> {
    let (protocol, kind) = if ends[0].is_ipv4() { (1, 8) } else { (58, 128) };
    let mut message = [&[kind, 0, 0, 0, 0x13, 0x37, 0, 1][..], payload].concat();
    let sum = match ends[0] {
        IpAddr::V4(_) => checksum(&message),
        IpAddr::V6(_) => checksum(&pseudo(ends, protocol, &message)),
    };
    message[2..4].copy_from_slice(&sum);
    packet(ends, protocol, &message)
}

/// A datagram of UDP from port 4000.
pub(crate) fn datagram(ends: [IpAddr; 2], port: u16, payload: &[u8]) -> Vec<u8> {
    let len = 8 + payload.len() as u16;
    let head = [4000_u16, port, len, 0].map(u16::to_be_bytes).concat();
    let mut datagram = [&head[..], payload].concat();
    let sum = checksum(&pseudo(ends, 17, &datagram));
    datagram[6..8].copy_from_slice(&sum);
    packet(ends, 17, &datagram)
}

/// A segment of TCP with these flags, between two ports.
pub(crate) fn segment(ends: [IpAddr; 2], ports: [u16; 2], flags: u8, payload: &[u8]) -> Vec<u8> {
    let head = [&ports.map(u16::to_be_bytes).concat()[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 4, 0, 0, 0, 0, 0]];
    let mut segment = [&head.concat()[..], payload].concat();
    let sum = checksum(&pseudo(ends, 6, &segment));
    segment[16..18].copy_from_slice(&sum);
    packet(ends, 6, &segment)
}

/// Sends packets from a namespace as they are.
pub(crate) fn send(ns: &Ns, packets: Vec<Vec<u8>>) {
    ns.run(move || {
        for packet in packets {
            let to: IpAddr = match packet[0] >> 4 {
                4 => (*packet[16..].first_chunk::<4>().unwrap()).into(),
                _ => (*packet[24..].first_chunk::<16>().unwrap()).into(),
            };
            let to = SocketAddr::new(to, 0);
            // IPPROTO_RAW: the header is ours.
            let raw = Some(Protocol::from(libc::IPPROTO_RAW));
            let socket = Socket::new(Domain::for_address(to), Type::RAW, raw).unwrap();
            assert_eq!(socket.send_to(&packet, &to.into()).unwrap(), packet.len());
        }
    });
}

/// Length and checksum are the kernel's.
fn ipv4(ends: [IpAddr; 2], protocol: u8, place: u16, payload: &[u8]) -> Vec<u8> {
    let head = [&[0x45, 0, 0, 0, 0x13, 0x37][..], &place.to_be_bytes(), &[64, protocol, 0, 0]].concat();
    [&head[..], &octets(ends), payload].concat()
}

fn ipv6(ends: [IpAddr; 2], next: u8, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0][..], &len, &[next, 64], &octets(ends), payload].concat()
}

fn octets(ends: [IpAddr; 2]) -> Vec<u8> {
    let of = |end| match end {
        IpAddr::V4(end) => std::net::Ipv4Addr::octets(&end).to_vec(),
        IpAddr::V6(end) => end.octets().to_vec(),
    };
    ends.map(of).concat()
}

/// What the checksum of a transport covers (RFC 8200 8.1, and the same of IPv4).
fn pseudo(ends: [IpAddr; 2], protocol: u8, message: &[u8]) -> Vec<u8> {
    let len = (message.len() as u32).to_be_bytes();
    [&octets(ends)[..], &len, &[0, 0, 0, protocol], message].concat()
}

fn checksum(octets: &[u8]) -> [u8; 2] {
    let words = octets.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes()
}
