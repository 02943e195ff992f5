//! The two protocols' datagrams in a capture.

use std::time::Duration;

use muster_netlab::Capture;
use muster_wire::{Envelope, Kind, Voucher};

/// A datagram to one of the daemons' ports.
#[derive(Debug, Clone)]
pub struct Datagram {
    /// When, since the Unix epoch.
    pub at: Duration,
    /// Bytes of its frame, from the Ethernet header on.
    pub on_wire: usize,
    /// To a group.
    pub multicast: bool,
    /// Destination port.
    pub port: u16,
    /// UDP payload.
    pub payload: Vec<u8>,
}

impl Datagram {
    /// What kind of message it is, with the names of the protocols' specifications.
    pub fn kind(&self) -> &'static str {
        let Ok(envelope) = Envelope::parse(Voucher::split(&self.payload).1) else { return "other" };
        match envelope.header().kind {
            Kind::Hello => "hello",
            Kind::Probe => "probe",
            Kind::ProbeAnswer => "probe answer",
            Kind::Prefixes => "prefixes",
            Kind::PrefixesAck => "prefixes acknowledged",
            Kind::Goodbye => "goodbye",
            Kind::Chunk => "chunk",
            Kind::Request => "request",
            Kind::Ack => "acknowledgement",
            Kind::Activate => "activate",
            Kind::Fills => "fills",
            _ => "other",
        }
    }
}

/// All that the capture holds, in order of arrival.
pub fn datagrams(capture: &Capture, ports: [u16; 2]) -> Vec<Datagram> {
    let read = |at: Duration, frame: &[u8]| {
        // Ethernet, IP without options or extension headers, UDP.
        let (header, protocol) = match frame.get(12..14)? {
            [0x86, 0xdd] => (14 + 40, frame.get(20)?),
            [0x08, 0x00] => (14 + 20, frame.get(23)?),
            _ => return None,
        };
        let port = u16::from_be_bytes([*frame.get(header + 2)?, *frame.get(header + 3)?]);
        let found = *protocol == 17 && ports.contains(&port);
        let multicast = frame[0] & 1 == 1;
        found.then(|| Datagram { at, on_wire: frame.len(), multicast, port, payload: frame[header + 8..].to_vec() })
    };
    capture.frames().iter().filter_map(|frame| read(frame.at, &frame.bytes)).collect()
}
