//! Red prefixes: announced to each neighbour under the pair's key until it acknowledges, and checked on arrival.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use muster_wire::idp::{MAX_PREFIXES, Prefix, PrefixList, Prefixes, PrefixesAck};
use muster_wire::{Bytes, Destination, Envelope, Kind, List, MemberId, Time, codec};

use crate::Discovery;
use crate::config::{PREFIX_RETRY, PREFIX_RETRY_INTERVALS};
use crate::event::{Dropped, Event, PrefixError};

/// The own ones.
#[derive(Debug, Default)]
pub(crate) struct OwnPrefixes {
    version: u32,
    list: Vec<IpNet>,
}

impl OwnPrefixes {
    pub(crate) fn version(&self) -> u32 {
        self.version
    }
}

/// How far one neighbour is with ours.
#[derive(Debug)]
pub(crate) struct Announcing {
    /// `None`: acknowledged.
    next: Option<Time>,
    times: u32,
}

impl Announcing {
    /// At once, or after `wait` if nothing is heard from the neighbour before.
    pub(crate) fn new(now: Time, wait: Option<Duration>) -> Self {
        Self { next: Some(wait.map_or(now, |wait| now + wait)), times: 0 }
    }

    pub(crate) fn due(&self) -> Option<Time> {
        self.next
    }

    /// From the beginning: another version, or another key.
    pub(crate) fn restart(&mut self, now: Time) {
        *self = Self::new(now, None);
    }

    /// The neighbour has us up: no need to wait.
    fn hurry(&mut self, now: Time) {
        if self.times == 0 && self.next.is_some() {
            self.next = Some(now);
        }
    }

    fn sent(&mut self, now: Time, interval: Duration) {
        let wait = PREFIX_RETRY.min(interval).saturating_mul(1 << self.times.min(16));
        self.next = Some(now + wait.min(interval * PREFIX_RETRY_INTERVALS));
        self.times = self.times.saturating_add(1);
    }
}

/// What a neighbour announces.
#[derive(Clone, Debug)]
pub(crate) struct Announced {
    version: u32,
    list: Vec<IpNet>,
    /// Refused: none of them counts.
    refused: Option<PrefixError>,
}

impl Announced {
    pub(crate) fn accepted(&self) -> &[IpNet] {
        if self.refused.is_none() { &self.list } else { &[] }
    }
}

impl Discovery {
    /// The networks on the red side. A change is announced to every neighbour; an own network that a neighbour of
    /// another organisation announces, too, makes all of that neighbour's refused.
    pub fn set_prefixes(&mut self, now: Time, mut prefixes: Vec<IpNet>) -> Result<(), PrefixError> {
        prefixes.iter_mut().for_each(|net| *net = net.trunc());
        prefixes.sort_unstable();
        prefixes.dedup();
        if prefixes.len() > MAX_PREFIXES {
            return Err(PrefixError::TooMany);
        }
        prefixes.iter().try_for_each(allowed)?;
        if self.prefixes.version > 0 && prefixes == self.prefixes.list {
            return Ok(());
        }
        self.prefixes = OwnPrefixes { version: self.prefixes.version.saturating_add(1), list: prefixes };
        self.peers.ups_mut().for_each(|(_, up)| up.announcing.restart(now));
        let members: Vec<MemberId> = self.peers.ups().map(|(member, _)| member).collect();
        members.into_iter().for_each(|member| self.review_prefixes(member, false));
        Ok(())
    }

    pub(crate) fn announce_if_due(&mut self, now: Time) {
        let due: Vec<MemberId> = self
            .peers
            .ups()
            .filter(|(_, up)| up.announcing.due().is_some_and(|at| at <= now))
            .map(|(member, _)| member)
            .collect();
        for member in due {
            let list: Vec<Prefix> = self.prefixes.list.iter().map(to_wire).collect();
            let sequence = self.author.next_sequence();
            let version = self.prefixes.version;
            let Some(up) = self.peers.up_mut(&member) else { continue };
            up.announcing.sent(now, self.config.hello_interval);
            // None of these fails: the list has at most 64 prefixes, for which the message has room.
            let Some(list) = PrefixList::new(list) else { continue };
            let Ok(plain) = codec::encode(&list) else { continue };
            let Some(sealed) = up.pair.seal(sequence, version, plain).and_then(Bytes::new) else { continue };
            let to = Destination::Unicast(up.address);
            let Ok(bytes) = self.author.seal_as(sequence, &Prefixes { version, sealed }) else { continue };
            self.send_bytes(to, bytes);
        }
    }

    pub(crate) fn handle_prefixes(&mut self, now: Time, envelope: Envelope, prefixes: Prefixes) -> Result<(), Dropped> {
        let header = *envelope.header();
        let up = self.peers.up_mut(&header.sender).ok_or(Dropped::UnknownSender)?;
        up.identity.key.open(envelope).map_err(|_| Dropped::BadSignature)?;
        up.sign_of_life(now, Kind::Prefixes, header.sequence);
        // It has us up.
        up.announcing.hurry(now);

        let Prefixes { version, sealed } = prefixes;
        let known = up.announced.as_ref().map(|announced| announced.version);
        if known.is_some_and(|known| version < known) {
            return Err(Dropped::Replayed);
        }
        let plain = up.pair.open(header.sequence, version, sealed.into_vec()).map_err(|_| Dropped::BadPrefixes)?;
        // Also when it is not acceptable: repeating it would not make it better. Also again: the last may be lost.
        let to = Destination::Unicast(up.address);
        let ack = PrefixesAck { startup: header.startup, version };
        let mut result = Ok(());
        if known != Some(version) {
            let before = up.announced.take().is_some_and(|announced| !announced.accepted().is_empty());
            let (list, refused) = match from_wire(&plain) {
                Ok(list) => (list, None),
                Err(error) => (Vec::new(), Some(error)),
            };
            if refused.is_some() {
                result = Err(Dropped::BadPrefixes);
            }
            up.announced = Some(Announced { version, list, refused });
            self.judge_prefixes(header.sender);
            self.report_prefixes(header.sender, before);
        }
        self.send(to, &ack);
        result
    }

    pub(crate) fn handle_ack(&mut self, now: Time, envelope: Envelope, ack: PrefixesAck) -> Result<(), Dropped> {
        let header = *envelope.header();
        let up = self.peers.up_mut(&header.sender).ok_or(Dropped::UnknownSender)?;
        up.identity.key.open(envelope).map_err(|_| Dropped::BadSignature)?;
        up.sign_of_life(now, Kind::PrefixesAck, header.sequence);
        debug_assert_eq!(ack.version, self.prefixes.version);
        up.announcing.next = None;
        Ok(())
    }

    /// Looks again at what a neighbour announces, because our own networks have changed or it has come back.
    pub(crate) fn review_prefixes(&mut self, member: MemberId, back: bool) {
        if self.judge_prefixes(member) || back {
            self.report_prefixes(member, true);
        }
    }

    /// Whether a neighbour's list is acceptable beside our own networks; `true` when that has changed. Two routers of
    /// one organisation may serve one LAN.
    fn judge_prefixes(&mut self, member: MemberId) -> bool {
        let Some(up) = self.peers.up_mut(&member) else { return false };
        let same = up.identity.organisation == self.own.organisation;
        let Some(announced) = &mut up.announced else { return false };
        let refused = match &announced.refused {
            None | Some(PrefixError::Overlap(..)) if same => None,
            None | Some(PrefixError::Overlap(..)) => overlap(&announced.list, &self.prefixes.list),
            Some(other) => Some(other.clone()),
        };
        let changed = refused != announced.refused;
        announced.refused = refused;
        changed
    }

    /// `before`: a list was accepted until now, and not empty.
    fn report_prefixes(&mut self, member: MemberId, before: bool) {
        let Some(announced) = self.peers.up(&member).and_then(|up| up.announced.as_ref()) else { return };
        let prefixes = announced.accepted().to_vec();
        if let Some(reason) = announced.refused.clone() {
            self.events.push_back(Event::PrefixesRefused { member, reason });
            if !before {
                return;
            }
        }
        self.events.push_back(Event::PrefixesChanged { member, prefixes });
    }
}

/// Networks that no router may announce, nor anything that holds or lies in one of them.
const FORBIDDEN: [IpNet; 10] = [
    v4(Ipv4Addr::new(0, 0, 0, 0), 8),
    v4(Ipv4Addr::new(127, 0, 0, 0), 8),
    v4(Ipv4Addr::new(169, 254, 0, 0), 16),
    v4(Ipv4Addr::new(224, 0, 0, 0), 4),
    v4(Ipv4Addr::new(255, 255, 255, 255), 32),
    v6(Ipv6Addr::UNSPECIFIED, 128),
    v6(Ipv6Addr::LOCALHOST, 128),
    // IPv4 in IPv6: not on any wire.
    v6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    v6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

const fn v4(address: Ipv4Addr, length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(address, length))
}

const fn v6(address: Ipv6Addr, length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(address, length))
}

fn allowed(net: &IpNet) -> Result<(), PrefixError> {
    let forbidden = net.prefix_len() == 0 || FORBIDDEN.iter().any(|other| overlaps(net, other));
    if forbidden { Err(PrefixError::Forbidden(*net)) } else { Ok(()) }
}

fn overlap(theirs: &[IpNet], own: &[IpNet]) -> Option<PrefixError> {
    let pairs = theirs.iter().flat_map(|their| own.iter().map(move |own| (their, own)));
    let found = pairs.into_iter().find(|(their, own)| overlaps(their, own));
    found.map(|(their, own)| PrefixError::Overlap(*their, *own))
}

fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

fn from_wire(plain: &[u8]) -> Result<Vec<IpNet>, PrefixError> {
    let list: List<Prefix, MAX_PREFIXES> = codec::decode(plain).map_err(|_| PrefixError::Malformed)?;
    let nets = list.iter().map(net).collect::<Result<Vec<IpNet>, PrefixError>>()?;
    nets.iter().try_for_each(allowed)?;
    Ok(nets)
}

/// Strictly: known family, no bit set outside of the network's part.
fn net(prefix: &Prefix) -> Result<IpNet, PrefixError> {
    let Prefix { family, length, address } = *prefix;
    let wrong = PrefixError::NotAPrefix { family, length };
    let address = match (family, address) {
        (4, [a, b, c, d, rest @ ..]) if rest == [0; 12] => IpAddr::from([a, b, c, d]),
        (6, bytes) => IpAddr::from(bytes),
        _ => return Err(wrong),
    };
    match IpNet::new(address, length) {
        Ok(net) if net.network() == address => Ok(net),
        _ => Err(wrong),
    }
}

fn to_wire(net: &IpNet) -> Prefix {
    let mut address = [0; 16];
    let (family, length) = match net {
        IpNet::V4(net) => {
            address[..4].copy_from_slice(&net.network().octets());
            (4, net.prefix_len())
        }
        IpNet::V6(net) => {
            address = net.network().octets();
            (6, net.prefix_len())
        }
    };
    Prefix { family, length, address }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(family: u8, text: &str, length: u8) -> Result<Vec<IpNet>, PrefixError> {
        let mut address = [0; 16];
        match text.parse().unwrap() {
            IpAddr::V4(v4) => address[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => address = v6.octets(),
        }
        from_wire(&codec::encode(&PrefixList::new(vec![Prefix { family, length, address }]).unwrap()).unwrap())
    }

    #[test]
    fn only_networks_that_a_router_may_announce() {
        assert!(check(4, "192.0.2.0", 24).is_ok());
        assert!(check(4, "192.0.2.1", 32).is_ok());
        assert!(check(6, "2001:db8:a::", 64).is_ok());
        assert!(check(6, "fd00::", 8).is_ok());
        for (family, text, length) in [
            (4, "192.0.2.1", 24),
            (4, "192.0.2.0", 33),
            (5, "192.0.2.0", 24),
            (4, "2001:db8:1::", 32),
            (6, "2001:db8::1", 64),
            (6, "2001:db8::", 129),
        ] {
            assert_eq!(check(family, text, length), Err(PrefixError::NotAPrefix { family, length }), "{text}");
        }
        for (family, text, length) in [
            (4, "0.0.0.0", 0),
            (4, "0.0.0.0", 1),
            (4, "128.0.0.0", 1),
            (4, "127.0.0.0", 8),
            (4, "169.254.1.0", 24),
            (4, "239.10.0.0", 16),
            (6, "::", 0),
            (6, "::1", 128),
            (6, "fe80::", 64),
            (6, "ff1e::", 16),
            (6, "::ffff:192.0.2.0", 120),
        ] {
            assert!(matches!(check(family, text, length), Err(PrefixError::Forbidden(_))), "{text}/{length}");
        }
    }

    #[test]
    fn prefixes_come_back_from_the_wire() {
        for text in ["192.0.2.0/24", "10.0.0.0/8", "2001:db8:a::/64", "2001:db8::1/128"] {
            let prefix: IpNet = text.parse().unwrap();
            assert_eq!(net(&to_wire(&prefix)), Ok(prefix));
        }
    }
}
