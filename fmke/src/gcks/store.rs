//! What the key server keeps: each change is stored before anything that comes of it is sent.
//!
//! | key | value |
//! |---|---|
//! | `format` | the number of this table |
//! | `signer` | the private key of phase 3's signatures |
//! | `excluded/CLIENT` | nothing: it may not connect |
//! | `client/CLIENT` | a digest of who it is |
//! | `certificate/CLIENT` | the certificates that it has shown, each with its length before it |
//! | `list/ISSUER` | of an authority's revocation list that is in force, or was: whose it is, its number, a digest |
//! | `restarted/GROUP/CLIENT`, `restarted/vpn VPN/CLIENT` | nothing: what it sends there is to have keys that it never used |
//! | `number/SPI` | the first number that was never used under this SA, which was put there by hand |
//! | `gone/SPI` | until when somebody may hold this SA of ESP, which was taken away |
//! | `vpn/VPN` | a digest of what its keys are for |
//! | `wanted/VPN` | nothing: it is to have new keys as soon as both ends can be told |
//! | `group/GROUP` | version and depth of its tree, since when and for how long its keys of ESP are (zeros: it has none), SPIs of its re-key SAs |
//! | `node/GROUP/ID` | a node of its tree |
//! | `place/GROUP/CLIENT` | where a member sits |
//! | `rekey/GROUP/SPI` | since when and for how long a re-key SA is, and its keys |
//! | `sent/GROUP/SPI/NUMBER` | a message that was, or is yet to be, multicast under it |
//! | `tek/GROUP/SPI`, `tek/vpn VPN/SPI` | the key of an SA of ESP, which SAs it took the place of, and whose; of a VPN also since when and for how long |
//!
//! Numbers in keys are in hexadecimal, of a fixed width. Values are in network order.

use std::net::IpAddr;

use muster_wire::Time;
use zeroize::Zeroizing;

use super::context::Calendar;
use super::group::GroupState;
use super::life::Life;
use super::profile::FlowSelector;
use super::tek::Tek;
use crate::lkh::{Node, NodeId, Place};
use crate::phase1::ListMark;
use crate::push::RekeyKeys;

/// Of the table above. Another one, of which a program with this number would make something else, has another number.
pub(super) const FORMAT: u32 = 1;

/// Octets of what is stored of an SA of ESP, at most: with its key, what it took the place of, three addresses and a name.
const MOST_TEK: usize = 256;

/// A value to be stored, or (`None`) a key to be removed. **Secret.**
pub struct Write {
    /// Of at most some 200 octets.
    pub key: String,
    /// What it is to hold.
    pub value: Option<Zeroizing<Vec<u8>>>,
}

impl Write {
    /// Its value, which has `len` octets, or less.
    fn set(key: String, len: usize, value: impl FnOnce(&mut Vec<u8>)) -> Self {
        // Room for all of it first: a vector that grows leaves its old content behind. When many come in at once, there are many.
        let mut octets = Zeroizing::new(Vec::with_capacity(len));
        value(&mut octets);
        debug_assert!(octets.len() <= len);
        Write { key, value: Some(octets) }
    }

    fn unset(key: String) -> Self {
        Write { key, value: None }
    }

    pub(super) fn format() -> Self {
        Self::set("format".into(), 4, |value| value.extend(FORMAT.to_be_bytes()))
    }

    pub(super) fn signer(algorithm: u16, secret: &[u8]) -> Self {
        Self::set("signer".into(), 2 + secret.len(), |value| {
            value.extend(algorithm.to_be_bytes());
            value.extend_from_slice(secret);
        })
    }

    pub(super) fn excluded(client: &str, is_excluded: bool) -> Self {
        let key = format!("excluded/{client}");
        if is_excluded { Self::set(key, 0, |_| ()) } else { Self::unset(key) }
    }

    pub(super) fn client(name: &str, digest: &[u8]) -> Self {
        Self::set(format!("client/{name}"), digest.len(), |value| value.extend_from_slice(digest))
    }

    pub(super) fn certificates(client: &str, chain: Vec<u8>) -> Self {
        Write { key: format!("certificate/{client}"), value: Some(Zeroizing::new(chain)) }
    }

    pub(super) fn no_certificates(client: &str) -> Self {
        Self::unset(format!("certificate/{client}"))
    }

    pub(super) fn list(mark: &ListMark) -> Self {
        let key = format!("list/{}", hex(&mark.issuer));
        Self::set(key, ListMark::BYTES, |value| value.extend(mark.to_bytes()))
    }

    /// `owner`: a group, or [`vpn_owner`].
    pub(super) fn restarted(owner: &str, client: &str, has: bool) -> Self {
        let key = format!("restarted/{owner}/{client}");
        if has { Self::set(key, 0, |_| ()) } else { Self::unset(key) }
    }

    pub(super) fn number(spi: &[u8; 16], free: u32) -> Self {
        Self::set(format!("number/{}", hex(spi)), 4, |value| value.extend(free.to_be_bytes()))
    }

    pub(super) fn gone(spi: u32, until: u64) -> Self {
        Self::set(format!("gone/{spi:08x}"), 8, |value| value.extend(until.to_be_bytes()))
    }

    pub(super) fn not_gone(spi: u32) -> Self {
        Self::unset(format!("gone/{spi:08x}"))
    }

    pub(super) fn vpn(name: &str, digest: &[u8]) -> Self {
        Self::set(format!("vpn/{name}"), digest.len(), |value| value.extend_from_slice(digest))
    }

    pub(super) fn no_vpn(name: &str) -> Self {
        Self::unset(format!("vpn/{name}"))
    }

    pub(super) fn wanted(vpn: &str, is_wanted: bool) -> Self {
        let key = format!("wanted/{vpn}");
        if is_wanted { Self::set(key, 0, |_| ()) } else { Self::unset(key) }
    }

    pub(super) fn no_entry(key: &str) -> Self {
        Self::unset(key.to_owned())
    }

    pub(super) fn group(name: &str, state: &GroupState, calendar: &Calendar) -> Self {
        let len = 4 + 1 + Life::BYTES + (16 + 8) * (1 + state.previous.len());
        Self::set(format!("group/{name}"), len, |value| {
            value.extend(state.tree.version().to_be_bytes());
            value.push(state.tree.depth());
            value.extend(state.teks_life.map_or([0; Life::BYTES], |life| life.to_bytes(calendar)));
            let current = state.current.as_ref().map(|rekey| (rekey, Time(0)));
            let previous = state.previous.iter().map(|(rekey, until)| (rekey, *until));
            for (rekey, until) in current.into_iter().chain(previous) {
                value.extend(rekey.keys.spi());
                value.extend(calendar.unix(until).to_be_bytes());
            }
        })
    }

    pub(super) fn no_group(name: &str) -> Self {
        Self::unset(format!("group/{name}"))
    }

    pub(super) fn node(group: &str, id: NodeId, node: Option<&Node>) -> Self {
        let key = format!("node/{group}/{:04x}", id.0);
        match node {
            Some(node) => Self::set(key, Node::BYTES, |value| value.extend_from_slice(node.to_bytes().as_slice())),
            None => Self::unset(key),
        }
    }

    pub(super) fn place(group: &str, client: &str, place: Place) -> Self {
        Self::set(format!("place/{group}/{client}"), 2, |value| value.extend(place.0.to_be_bytes()))
    }

    pub(super) fn no_place(group: &str, client: &str) -> Self {
        Self::unset(format!("place/{group}/{client}"))
    }

    pub(super) fn rekey(group: &str, keys: &RekeyKeys, life: [u8; Life::BYTES]) -> Self {
        Self::set(format!("rekey/{group}/{}", hex(&keys.spi())), Life::BYTES + RekeyKeys::LEN, |value| {
            value.extend(life);
            value.extend_from_slice(keys.to_bytes().as_bytes());
        })
    }

    pub(super) fn no_rekey(group: &str, spi: &[u8; 16]) -> Self {
        Self::unset(format!("rekey/{group}/{}", hex(spi)))
    }

    pub(super) fn sent(group: &str, spi: &[u8; 16], number: u32, datagram: &[u8]) -> Self {
        let value = Zeroizing::new(datagram.to_vec());
        Write { key: format!("sent/{group}/{}/{number:08x}", hex(spi)), value: Some(value) }
    }

    pub(super) fn not_sent(group: &str, spi: &[u8; 16], number: u32) -> Self {
        Self::unset(format!("sent/{group}/{}/{number:08x}", hex(spi)))
    }

    pub(super) fn tek(group: &str, (flow, sender): &(FlowSelector, String), tek: &Tek, calendar: &Calendar) -> Self {
        Self::set(format!("tek/{group}/{:08x}", tek.spi), MOST_TEK, |value| {
            put_tek(value, tek, calendar);
            value.push(flow.protocol);
            put_address(value, flow.source.0.addr());
            value.push(flow.source.0.prefix_len());
            value.extend(flow.source.1.to_be_bytes());
            put_address(value, flow.destination.0);
            value.extend(flow.destination.1.to_be_bytes());
            put_address(value, flow.outer);
            value.extend_from_slice(sender.as_bytes());
        })
    }

    pub(super) fn no_tek(owner: &str, spi: u32) -> Self {
        Self::unset(format!("tek/{owner}/{spi:08x}"))
    }

    /// `from`: which end sends.
    pub(super) fn vpn_tek(vpn: &str, from: usize, life: Life, tek: &Tek, calendar: &Calendar) -> Self {
        Self::set(format!("tek/{}/{:08x}", vpn_owner(vpn), tek.spi), MOST_TEK, |value| {
            put_tek(value, tek, calendar);
            value.push(from as u8);
            value.extend(life.to_bytes(calendar));
        })
    }
}

/// Under which the SAs of a VPN stand: no group has a blank in its name.
pub(super) fn vpn_owner(vpn: &str) -> String {
    format!("vpn {vpn}")
}

/// The key, and what it took the place of.
fn put_tek(value: &mut Vec<u8>, tek: &Tek, calendar: &Calendar) {
    value.extend_from_slice(tek.key.as_bytes());
    value.push(tek.before.len() as u8);
    for (spi, until) in &tek.before {
        value.extend(spi.to_be_bytes());
        value.extend(calendar.unix(*until).to_be_bytes());
    }
}

fn put_address(value: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            value.push(4);
            value.extend(address.octets());
        }
        IpAddr::V6(address) => {
            value.push(6);
            value.extend(address.octets());
        }
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
