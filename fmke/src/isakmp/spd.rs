//! What a client is to do with what its LAN sends (RFC 4301 4.4.1): a SAT payload of a private kind, for the draft knows SAs
//! alone. An entry says what is protected, whether there is an SA for it now or not, and what may go unprotected.

use ipnet::IpNet;

use super::bytes::{Malformed, Reader};
use super::ends::{net_end, one_family, write_end};
use super::identity::Identity;

/// Among the Protocol-IDs of SAT payloads, of which 128 to 255 are for private use (draft 7.8).
pub(crate) const PROTO_SPD: u8 = 128;
/// Its list begins with this payload, and what was told before does not count any longer.
const FIRST: u8 = 1;
/// Its list ends with it, and is in force.
const LAST: u8 = 2;
/// Octets of an entry, at most: two networks of IPv6.
pub(crate) const LONGEST_ENTRY: usize = 2 + 2 * (4 + 32);

/// Which packets an entry is for (RFC 4301 4.4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrafficSelector {
    /// IP protocol; 0: any.
    pub protocol: u8,
    /// Inner source, and its port; 0: any.
    pub source: (IpNet, u16),
    /// Inner destination, and its port; 0: any.
    pub destination: (IpNet, u16),
}

/// What becomes of them (RFC 4301 4.4.1). The third of its answers, DISCARD, is that to what no entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum SpdAction {
    /// They go as they are.
    Bypass = 1,
    /// They go under an SA that is told for this selector, or not at all.
    Protect = 2,
}

/// The body of the payload: a list, or a part of one that is too long for one message. The parts follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpdPart {
    /// Nothing of the list stands before it.
    pub is_first: bool,
    /// Nothing comes behind it.
    pub is_last: bool,
    /// In any order: the more specific one comes first.
    pub entries: Vec<(TrafficSelector, SpdAction)>,
}

impl TrafficSelector {
    /// Whether there are packets that both are for.
    pub fn overlaps(&self, other: &Self) -> bool {
        let nets = |a: IpNet, b: IpNet| a.contains(&b) || b.contains(&a);
        let numbers = |a: u16, b: u16| a == 0 || b == 0 || a == b;
        numbers(self.protocol.into(), other.protocol.into())
            && nets(self.source.0, other.source.0)
            && nets(self.destination.0, other.destination.0)
            && numbers(self.source.1, other.source.1)
            && numbers(self.destination.1, other.destination.1)
    }

    /// Whether this one takes some packets from `other`, and is for no others.
    pub fn is_exception_of(&self, other: &Self) -> bool {
        self != other && self.is_within(other)
    }

    /// Whether `other` is for all packets that this one is for.
    fn is_within(&self, other: &Self) -> bool {
        let number = |inner: u16, outer: u16| outer == 0 || inner == outer;
        number(self.protocol.into(), other.protocol.into())
            && other.source.0.contains(&self.source.0)
            && other.destination.0.contains(&self.destination.0)
            && number(self.source.1, other.source.1)
            && number(self.destination.1, other.destination.1)
    }
}

impl SpdPart {
    pub(super) fn to_body(&self) -> Vec<u8> {
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let mut body = vec![PROTO_SPD, flag(self.is_first, FIRST) | flag(self.is_last, LAST)];
        for (TrafficSelector { protocol, source, destination }, action) in &self.entries {
            body.extend_from_slice(&[*action as u8, *protocol]);
            write_end(&mut body, &Identity::of_net(source.0), source.1);
            write_end(&mut body, &Identity::of_net(destination.0), destination.1);
        }
        body
    }

    /// From behind the Protocol-ID on.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let flags = reader.u8()?;
        if flags & !(FIRST | LAST) != 0 {
            return Err(Malformed::Field { field: "Flags", value: flags.into() });
        }
        let mut entries = Vec::new();
        while !reader.is_empty() {
            let action = match reader.u8()? {
                1 => SpdAction::Bypass,
                2 => SpdAction::Protect,
                other => return Err(Malformed::Field { field: "Action", value: other.into() }),
            };
            let protocol = reader.u8()?;
            let source = net_end(&mut reader, "SRC ID Type")?;
            let destination = net_end(&mut reader, "DST ID Type")?;
            one_family(source.0.addr(), destination.0.addr(), "DST ID Type")?;
            entries.push((TrafficSelector { protocol, source, destination }, action));
        }
        Ok(SpdPart { is_first: flags & FIRST != 0, is_last: flags & LAST != 0, entries })
    }
}
