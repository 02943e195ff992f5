//! The way back out of the store, after a restart or a crash at any moment.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use muster_wire::Time;
use thiserror::Error;
use zeroize::Zeroizing;

use super::context::{Calendar, Context};
use super::group::{AFTERLIFE, GroupState};
use super::life::Life;
use super::lists::Lists;
use super::oneway::Numbers;
use super::profile::{FlowSelector, Profiles, Vpn};
use super::rekey::Rekey;
use super::store::{FORMAT, Write, vpn_owner};
use super::tek::{KEY_LEN, Tek};
use super::vpn::VpnState;
use crate::crypto::SecretBytes;
use crate::isakmp::Reader;
use crate::lkh::{KeyTree, Node, NodeId, Place};
use crate::phase1::ListMark;
use crate::push::RekeyKeys;

/// What was stored cannot have been stored by this program.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Another program of this name has stored it, an earlier or a later one.
    #[error(
        "the store has {}, this program's is {FORMAT}: it goes on with the program that wrote it; without it all begins anew, and \
         nobody is excluded",
        format_name(*.0)
    )]
    Format(Option<u32>),
    /// No program has.
    #[error("the store is damaged: {key}: {message}")]
    Damaged {
        /// Which entry.
        key: String,
        /// What is wrong with it.
        message: String,
    },
}

fn format_name(number: Option<u32>) -> String {
    number.map_or("no format number, as the first ones".to_owned(), |number| format!("format {number}"))
}

/// All that is stored, by key.
pub(super) struct Stored(pub(super) BTreeMap<String, Zeroizing<Vec<u8>>>);

impl Stored {
    /// What is stored there.
    pub(super) fn value(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(|value| value.as_slice())
    }

    /// Whether it is of this program's format: what is to be stored of that, in one that is empty.
    pub(super) fn check_format(&self) -> Result<Option<Write>, StoreError> {
        let number = self.value("format").map(|value| value.try_into().ok().map(u32::from_be_bytes));
        match number {
            Some(Some(FORMAT)) => Ok(None),
            None if self.0.is_empty() => Ok(Some(Write::format())),
            Some(None) => Err(damaged("format", "its length")),
            other => Err(StoreError::Format(other.flatten())),
        }
    }

    /// Entries whose key begins so, by the rest of the key.
    pub(super) fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let from = self.0.range(prefix.to_owned()..);
        from.map_while(move |(key, value)| Some((key.strip_prefix(prefix)?, value.as_slice())))
    }

    /// A group; `None` if it never was.
    pub(super) fn group(&self, now: Time, name: &str, ctx: &mut Context<'_>) -> Result<Option<GroupState>, StoreError> {
        let key = format!("group/{name}");
        let Some(value) = self.0.get(&key) else { return Ok(None) };
        let calendar = ctx.calendar;
        let read = || {
            let mut reader = Reader::new(value);
            let (version, depth, life) = (reader.u32()?, reader.u8()?, Life::read(&mut reader, &calendar)?);
            let mut rekeys = Vec::new();
            while !reader.is_empty() {
                rekeys.push((reader.array::<16>()?, u64::from_be_bytes(reader.array()?)));
            }
            Ok((version, depth, life, rekeys))
        };
        let (version, depth, life, rekeys) = read().map_err(|error: crate::isakmp::Malformed| damaged(&key, error))?;
        let mut state = GroupState::new();
        state.tree = self.tree(name, version, depth)?;
        for (client, value) in self.below(&format!("place/{name}/")) {
            let octets = value.try_into().map_err(|_| damaged(&format!("place/{name}/{client}"), "its length"))?;
            state.places.insert(client.to_owned(), Place(u16::from_be_bytes(octets)));
        }
        if state.places.len() != state.tree.members() {
            return Err(damaged(&key, "it has other members than its tree"));
        }
        let mut rekeys = rekeys.into_iter().map(|(spi, until)| Ok((self.rekey(now, name, spi, ctx)?, until)));
        // Without members there is none.
        if state.tree.members() > 0 {
            state.current = rekeys.next().transpose()?.map(|(rekey, _)| rekey);
        }
        // Whoever missed how it ended while the key server was away asks now.
        let previous = rekeys.map(|entry| entry.map(|(rekey, _)| (rekey, now + AFTERLIFE)));
        state.previous = previous.collect::<Result<_, _>>()?;
        for (spi, value) in self.below(&format!("tek/{name}/")) {
            let key = format!("tek/{name}/{spi}");
            let (id, tek) = read_flow_tek(spi, value, calendar).ok_or_else(|| damaged(&key, "its form"))?;
            ctx.spis.insert(tek.spi);
            state.teks.insert(id, tek);
        }
        state.teks_life = (!state.teks.is_empty()).then_some(life);
        for (client, _) in self.below(&format!("restarted/{name}/")) {
            // Who is out since then is not let in by it.
            if state.places.contains_key(client) {
                state.began_anew(now, client);
            }
        }
        Ok(Some(state))
    }

    /// By SAs that were put there by hand, the first numbers that were never used.
    pub(super) fn numbers(&self) -> Result<Numbers, StoreError> {
        let entry = |(spi, value): (&str, &[u8])| {
            let free = value.try_into().ok().map(u32::from_be_bytes);
            let octets = u128::from_str_radix(spi, 16).ok().map(u128::to_be_bytes);
            octets.zip(free).ok_or_else(|| damaged(&format!("number/{spi}"), "its form"))
        };
        self.below("number/").map(entry).collect()
    }

    /// Revocation lists that are, or were, in force.
    pub(super) fn lists(&self) -> Result<Lists, StoreError> {
        let read = |(issuer, value): (&str, &[u8])| {
            let mark = ListMark::from_bytes(value).map_err(|error| damaged(&format!("list/{issuer}"), error))?;
            Ok((mark.issuer, mark))
        };
        self.below("list/").map(read).collect()
    }

    /// SAs of ESP that were taken away.
    pub(super) fn gone(&self, calendar: Calendar) -> Result<BTreeMap<u32, Time>, StoreError> {
        let mut gone = BTreeMap::new();
        for (spi, value) in self.below("gone/") {
            let until = value.try_into().ok().map(u64::from_be_bytes);
            let entry = u32::from_str_radix(spi, 16).ok().zip(until);
            let (spi, until) = entry.ok_or_else(|| damaged(&format!("gone/{spi}"), "its form"))?;
            gone.insert(spi, calendar.later(until));
        }
        Ok(gone)
    }

    /// What belongs to groups and VPNs that there are no longer: their keys of the store, and the SPIs of their SAs and of those
    /// that these took the place of.
    ///
    /// # Errors
    /// An SA whose form is not of this program.
    pub(super) fn orphans(&self, profiles: &Profiles, calendar: Calendar) -> Result<(Vec<&str>, Vec<u32>), StoreError> {
        let is_group = |name: &str| profiles.groups.contains_key(name);
        let is_vpn = |name: &str| profiles.vpns.contains_key(name);
        let mut keys = Vec::new();
        let mut spis = Vec::new();
        for (key, value) in &self.0 {
            let mut parts = key.split('/');
            let (kind, owner) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let stays = match kind {
                "group" | "node" | "place" | "rekey" | "sent" => is_group(owner),
                "vpn" | "wanted" => is_vpn(owner),
                "tek" | "restarted" => owner.strip_prefix("vpn ").map_or_else(|| is_group(owner), is_vpn),
                _ => true,
            };
            if !stays {
                keys.push(key.as_str());
                if kind == "tek" {
                    let spi = parts.next().unwrap_or_default();
                    let tek = read_tek(spi, &mut Reader::new(value), calendar);
                    let tek = tek.ok_or_else(|| damaged(key, "its form"))?;
                    spis.extend(tek.before.iter().map(|(spi, _)| *spi).chain([tek.spi]));
                }
            }
        }
        Ok((keys, spis))
    }

    /// A VPN, with its SAs, if there are any.
    pub(super) fn vpn(&self, name: &str, vpn: &Vpn, ctx: &mut Context<'_>) -> Result<VpnState, StoreError> {
        let prefix = format!("tek/{}/", vpn_owner(name));
        let mut list = Vec::new();
        for (spi, value) in self.below(&prefix) {
            let read = || {
                let mut reader = Reader::new(value);
                let tek = read_tek(spi, &mut reader, ctx.calendar)?;
                let (from, life) = (reader.u8().ok()?, Life::read(&mut reader, &ctx.calendar).ok()?);
                (from < 2 && reader.is_empty()).then_some((usize::from(from), life, tek))
            };
            let (from, life, tek) = read().ok_or_else(|| damaged(&format!("{prefix}{spi}"), "its form"))?;
            ctx.spis.insert(tek.spi);
            list.push((from, life, tek));
        }
        let restarted = format!("restarted/{}/", vpn_owner(name));
        let ends =
            self.below(&restarted).filter_map(|(client, _)| vpn.ends.iter().position(|end| end.client == client));
        Ok(VpnState::restore(list, ends.collect(), self.value(&format!("wanted/{name}")).is_some()))
    }

    fn tree(&self, name: &str, version: u32, depth: u8) -> Result<KeyTree, StoreError> {
        let prefix = format!("node/{name}/");
        let mut nodes = Vec::new();
        for (id, value) in self.below(&prefix) {
            let octets: Option<&[u8; Node::BYTES]> = value.try_into().ok();
            let node = u16::from_str_radix(id, 16).ok().zip(octets);
            let (id, octets) = node.ok_or_else(|| damaged(&format!("{prefix}{id}"), "its form"))?;
            nodes.push((NodeId(id), Node::from_bytes(octets)));
        }
        KeyTree::from_nodes(version, depth, nodes).map_err(|error| damaged(&format!("group/{name}"), error))
    }

    /// A re-key SA with all that was to be sent under it: it may not have been.
    fn rekey(&self, now: Time, name: &str, spi: [u8; 16], ctx: &Context<'_>) -> Result<Rekey, StoreError> {
        let hex: String = spi.iter().map(|octet| format!("{octet:02x}")).collect();
        let key = format!("rekey/{name}/{hex}");
        let value = self.0.get(&key).ok_or_else(|| damaged(&key, "it is missing"))?;
        let mut reader = Reader::new(value);
        let life = Life::read(&mut reader, &ctx.calendar).map_err(|error| damaged(&key, error))?;
        let keys = reader.rest().try_into().map_err(|_| damaged(&key, "its length"))?;
        let mut rekey = Rekey::with_keys(now, RekeyKeys::from_bytes(keys), life);
        for (number, datagram) in self.below(&format!("sent/{name}/{hex}/")) {
            if number != format!("{:08x}", rekey.sender.next_number()) {
                return Err(damaged(&format!("sent/{name}/{hex}/{number}"), "one before it is missing"));
            }
            rekey.sender.resume(now, datagram.to_vec());
        }
        Ok(rekey)
    }
}

fn read_tek(spi: &str, reader: &mut Reader<'_>, calendar: Calendar) -> Option<Tek> {
    let spi = u32::from_str_radix(spi, 16).ok()?;
    let key = SecretBytes::from(reader.bytes(KEY_LEN).ok()?);
    let mut before = Vec::new();
    for _ in 0..reader.u8().ok()? {
        before.push((reader.u32().ok()?, calendar.later(u64::from_be_bytes(reader.array().ok()?))));
    }
    Some(Tek { spi, key, before })
}

fn read_flow_tek(spi: &str, value: &[u8], calendar: Calendar) -> Option<((FlowSelector, String), Tek)> {
    let mut reader = Reader::new(value);
    let tek = read_tek(spi, &mut reader, calendar)?;
    let protocol = reader.u8().ok()?;
    let source = IpNet::new(address(&mut reader)?, reader.u8().ok()?).ok()?;
    let source = (source, reader.u16().ok()?);
    let destination = (address(&mut reader)?, reader.u16().ok()?);
    let outer = address(&mut reader)?;
    let sender = std::str::from_utf8(reader.rest()).ok()?.to_owned();
    Some(((FlowSelector { protocol, source, destination, outer }, sender), tek))
}

fn address(reader: &mut Reader<'_>) -> Option<IpAddr> {
    match reader.u8().ok()? {
        4 => Some(IpAddr::from(reader.array::<4>().ok()?)),
        6 => Some(IpAddr::from(reader.array::<16>().ok()?)),
        _ => None,
    }
}

pub(super) fn damaged(key: &str, message: impl ToString) -> StoreError {
    StoreError::Damaged { key: key.to_owned(), message: message.to_string() }
}
