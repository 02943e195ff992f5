//! Which inner source each sender may use (RFC 4301 5.2), by the kernel's packet filter.
//!
//! Policies cannot say it: the kernel's multicast forwarding passes them by, and two routers may have one prefix. So a table
//! of nf_tables, before routing, drops what comes out of the tunnel unless the number (`reqid`) of the SA that it was
//! decrypted under and its source are a pair of the set: one set for multicast, one for unicast. In nft's words:
//!
//! ```text
//! table inet muster0 {
//!   set group4 { type <reqid> . ipv4_addr; flags interval; }      # and unicast4, group6, unicast6
//!   chain in {
//!     type filter hook prerouting priority raw; policy accept;
//!     iifname "muster0" ip saddr OWN drop                          # for each own prefix
//!     iifname "muster0" ip daddr 224.0.0.0/4 ipsec in reqid . ip saddr @group4 accept
//!     …
//!     iifname "muster0" counter drop
//!   }
//! }
//! ```
//!
//! It is replaced as a whole, in one transaction.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use muster_wire::MemberId;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REQUEST};
use zeroize::Zeroizing;

use super::request::Request;
use super::socket::{BatchSocket, attributes};
use crate::policy::Policy;
use crate::{Error, SaKind};

/// NFNL_SUBSYS_NFTABLES, and messages of it.
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = 0;
const DEL_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const NEW_SET: u16 = 9;
const NEW_ELEMENTS: u16 = 12;
/// NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// NFPROTO_INET: both families in one table.
const INET: u8 = 1;

/// NFT_REG_VERDICT; NFT_REG_1, as the 16 octets of the old numbering; NFT_REG32_00 and the one after it.
const VERDICT: u32 = 0;
const FIRST: u32 = 1;
const REQID: u32 = 8;
const SOURCE: u32 = 9;

/// Elements in one message: their attribute's length is 16 bits wide.
const ELEMENTS: usize = 500;
/// NF_INET_PRE_ROUTING, NF_INET_FORWARD
const PRE_ROUTING: u32 = 0;
const FORWARD: u32 = 2;
const CHAIN: &str = "in";
const OUTWARD: &str = "out";
/// NFT_META_IIFNAME, NFT_META_OIFNAME
const FROM_DEVICE: u32 = 6;
const TO_DEVICE: u32 = 7;

/// NFT_CMP_…
#[derive(Clone, Copy)]
enum Compare {
    Equal = 0,
    Unequal = 1,
    Less = 2,
    AtLeast = 5,
}

/// One of the four sets.
struct Set {
    name: &'static str,
    kind: SaKind,
    ipv4: bool,
}

const SETS: [Set; 4] = [
    Set { name: "group4", kind: SaKind::Group, ipv4: true },
    Set { name: "unicast4", kind: SaKind::Unicast, ipv4: true },
    Set { name: "group6", kind: SaKind::Group, ipv4: false },
    Set { name: "unicast6", kind: SaKind::Unicast, ipv4: false },
];

/// The table of one instance; removed when this is dropped.
pub(super) struct Filter {
    socket: BatchSocket,
    table: String,
    device: String,
    /// IPv4 multicast that is too big is fragmented though its sender forbids it.
    clear_df: bool,
    /// Dropped under tables that were replaced.
    dropped: u64,
}

impl Filter {
    /// Lets nothing through from `device` until [`set`](Self::set). Takes the place of one that is there.
    pub(super) fn start(device: &str, instance: u8, clear_df: bool) -> Result<Self, Error> {
        let socket = Self::socket()?;
        let (table, device) = (format!("muster{instance}"), device.to_owned());
        let mut filter = Filter { socket, table, device, clear_df, dropped: 0 };
        filter.set(&Policy::default(), &HashMap::new())?;
        Ok(filter)
    }

    pub(super) fn socket() -> Result<BatchSocket, Error> {
        BatchSocket::open(
            netlink_sys::protocols::NETLINK_NETFILTER,
            "opening a netlink socket to nf_tables; does the kernel have it (modprobe nf_tables nft_xfrm)?",
        )
    }

    /// Lets through what `policy` says of senders, whose SAs bear these numbers.
    pub(super) fn set(&mut self, policy: &Policy, reqids: &HashMap<(MemberId, SaKind), u32>) -> Result<(), Error> {
        self.dropped = self.dropped();
        let mut messages = vec![batch(BATCH_BEGIN)];
        messages.extend(self.removal());
        messages.push(self.message(NEW_TABLE, Attributes::new().text(1, &self.table)));
        messages.push(self.chain(CHAIN, PRE_ROUTING, -300));
        for (id, set) in (1..).zip(&SETS) {
            messages.push(self.set_of(id, set));
            let elements: Vec<Attributes> =
                pairs(policy, reqids, set).map(|(reqid, net)| element(reqid, net)).collect();
            messages.extend(elements.chunks(ELEMENTS).map(|some| self.elements(id, set, some)));
        }
        for own in policy.own.iter().map(IpNet::trunc) {
            let expressions = self.out_of_device().and(family(&own)).and(source_in(&own)).and(verdict(false));
            messages.push(self.rule(CHAIN, expressions, "the own prefixes' rule"));
        }
        for (id, set) in (1..).zip(&SETS) {
            let expressions = self.out_of_device().and(self.admitted(id, set)).and(verdict(true));
            messages.push(self.rule(CHAIN, expressions, "a set's rule"));
        }
        let expressions = self.out_of_device().and(expression("counter", Attributes::new())).and(verdict(false));
        messages.push(self.rule(CHAIN, expressions, "the last rule"));
        if self.clear_df {
            messages.push(self.chain(OUTWARD, FORWARD, -150));
            let expressions =
                self.device(TO_DEVICE).and(is_family(libc::AF_INET)).and(is_multicast_v4()).and(clear_df());
            messages.push(self.rule(OUTWARD, expressions, "the rule that clears DF"));
        }
        messages.push(batch(BATCH_END));
        self.socket.transact(&messages)
    }

    /// What came from a source that its sender may not use.
    pub(super) fn dropped(&mut self) -> u64 {
        let attributes_of_the_chain = Attributes::new().text(1, &self.table).text(2, CHAIN);
        let request = self.message(GET_RULE, attributes_of_the_chain);
        let mut counted = 0;
        let read = self.socket.dump(&request, |_, payload| counted += counter(payload).unwrap_or(0));
        // There is no such table yet.
        read.map_or(self.dropped, |()| self.dropped + counted)
    }

    /// One that is not there is no error if it is made first.
    fn removal(&self) -> Vec<Request> {
        [NEW_TABLE, DEL_TABLE].map(|kind| self.message(kind, Attributes::new().text(1, &self.table))).into()
    }

    fn chain(&self, name: &str, hook: u32, priority: i32) -> Request {
        let hook = Attributes::new().number(1, hook).number(2, priority as u32);
        let attributes =
            Attributes::new().text(1, &self.table).text(3, name).nest(4, hook).number(5, 1).text(7, "filter");
        self.message(NEW_CHAIN, attributes)
    }

    /// An empty set of pairs of a number and a range of addresses.
    fn set_of(&self, id: u32, set: &Set) -> Request {
        let field = |len| Attributes::new().number(1, len);
        let fields = Attributes::new().nest(1, field(4)).nest(1, field(set.address_len()));
        let attributes = Attributes::new()
            .text(1, &self.table)
            .text(2, set.name)
            // NFT_SET_INTERVAL, NFT_SET_CONCAT
            .number(3, 0x4 | 0x80)
            // A type that is nft's own business.
            .number(4, 0)
            .number(5, 4 + set.address_len())
            .nest(9, Attributes::new().nest(2, fields))
            .number(10, id);
        self.message(NEW_SET, attributes)
    }

    fn elements(&self, id: u32, set: &Set, elements: &[Attributes]) -> Request {
        let all = elements.iter().fold(Attributes::new(), |all, element| all.nest_ref(1, element));
        let attributes = Attributes::new().text(1, &self.table).text(2, set.name).nest(3, all).number(4, id);
        self.message(NEW_ELEMENTS, attributes)
    }

    fn rule(&self, chain: &str, expressions: Attributes, what: &str) -> Request {
        let attributes = Attributes::new().text(1, &self.table).text(2, chain).nest(4, expressions);
        Request { what: format!("the packet filter {}: {what}", self.table), ..self.message(NEW_RULE, attributes) }
    }

    /// What came out of the tunnel.
    fn out_of_device(&self) -> Attributes {
        self.device(FROM_DEVICE)
    }

    fn device(&self, key: u32) -> Attributes {
        let mut name = [0; 16];
        // Checked to be shorter.
        name[..self.device.len()].copy_from_slice(self.device.as_bytes());
        expression("meta", Attributes::new().number(2, key).number(1, FIRST)).and(compare(Compare::Equal, &name))
    }

    /// Of the set's family and kind, and in it.
    fn admitted(&self, id: u32, set: &Set) -> Attributes {
        let (family, source_at, destination_at) =
            if set.ipv4 { (libc::AF_INET, 12, 16) } else { (libc::AF_INET6, 8, 24) };
        let destination = || payload(FIRST, destination_at, 1);
        let destination = match (set.kind, set.ipv4) {
            (SaKind::Group, true) => is_multicast_v4(),
            (SaKind::Group, false) => destination().and(compare(Compare::Equal, &[0xff])),
            (SaKind::Unicast, true) => destination().and(compare(Compare::Less, &[0xe0])),
            (SaKind::Unicast, false) => destination().and(compare(Compare::Unequal, &[0xff])),
        };
        // NFT_XFRM_KEY_REQID of the innermost transformation, inbound.
        let reqid = Attributes::new().number(2, 5).bytes(3, &[0]).number(4, 0).number(1, REQID);
        let lookup = Attributes::new().text(1, set.name).number(2, REQID).number(4, id);
        is_family(family)
            .and(destination)
            .and(expression("xfrm", reqid))
            .and(payload(SOURCE, source_at, set.address_len()))
            .and(expression("lookup", lookup))
    }

    fn message(&self, kind: u16, attributes: Attributes) -> Request {
        // struct nfgenmsg: family, version, resource.
        let body = [&[INET, 0, 0, 0][..], &attributes.0].concat();
        let create = [NEW_TABLE, NEW_CHAIN, NEW_RULE, NEW_SET, NEW_ELEMENTS].contains(&kind);
        Request {
            kind: SUBSYSTEM << 8 | kind,
            // A rule is appended where it is not said otherwise (NLM_F_APPEND).
            flags: NLM_F_REQUEST | if create { NLM_F_CREATE } else { 0 } | if kind == NEW_RULE { 0x800 } else { 0 },
            body: Zeroizing::new(body),
            what: format!("the packet filter {}", self.table),
        }
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        let messages: Vec<Request> =
            [vec![batch(BATCH_BEGIN)], self.removal(), vec![batch(BATCH_END)]].into_iter().flatten().collect();
        // What stays stops only what comes out of our device, and the next start removes it.
        let _ = self.socket.transact(&messages);
    }
}

impl Set {
    fn address_len(&self) -> u32 {
        if self.ipv4 { 4 } else { 16 }
    }
}

/// The elements of a set. The own prefixes are refused before.
fn pairs<'a>(
    policy: &'a Policy,
    reqids: &'a HashMap<(MemberId, SaKind), u32>,
    set: &'a Set,
) -> impl Iterator<Item = (u32, IpNet)> + 'a {
    policy.senders.iter().flat_map(move |(member, prefixes)| {
        let reqid = reqids.get(&(*member, set.kind)).copied();
        let prefixes = IpNet::aggregate(&prefixes.iter().map(IpNet::trunc).collect());
        let of_family = prefixes.into_iter().filter(|net| net.addr().is_ipv4() == set.ipv4);
        reqid.into_iter().flat_map(move |reqid| of_family.clone().map(move |net| (reqid, net)))
    })
}

/// A number and a range of addresses.
fn element(reqid: u32, net: IpNet) -> Attributes {
    let key = |address: IpAddr| Attributes::new().bytes(1, &[&reqid.to_ne_bytes()[..], &octets(address)].concat());
    Attributes::new().nest(1, key(net.network())).nest(10, key(net.broadcast()))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

fn family(net: &IpNet) -> Attributes {
    is_family(if net.addr().is_ipv4() { libc::AF_INET } else { libc::AF_INET6 })
}

fn is_family(family: i32) -> Attributes {
    // NFT_META_NFPROTO; the numbers of protocols are those of the families.
    expression("meta", Attributes::new().number(2, 15).number(1, FIRST)).and(compare(Compare::Equal, &[family as u8]))
}

/// 224.0.0.0/4, by the first octet of the destination.
fn is_multicast_v4() -> Attributes {
    payload(FIRST, 16, 1).and(compare(Compare::AtLeast, &[0xe0])).and(compare(Compare::Less, &[0xf0]))
}

/// DF, of the flags and the offset, and the header's checksum with it.
fn clear_df() -> Attributes {
    let data = |value: [u8; 2]| Attributes::new().bytes(1, &value);
    let mask = Attributes::new()
        .number(1, FIRST)
        .number(2, FIRST)
        .number(3, 2)
        .nest(4, data([0xbf, 0xff]))
        .nest(5, data([0, 0]));
    // NFT_PAYLOAD_CSUM_INET at offset 10.
    let write = Attributes::new().number(5, FIRST).number(2, 1).number(3, 6).number(4, 2).number(6, 1).number(7, 10);
    payload(FIRST, 6, 2).and(expression("bitwise", mask)).and(expression("payload", write))
}

fn source_in(net: &IpNet) -> Attributes {
    let (at, len) = if net.addr().is_ipv4() { (12, 4) } else { (8, 16) };
    let value = |address| Attributes::new().bytes(1, &octets(address));
    let range =
        Attributes::new().number(1, FIRST).number(2, 0).nest(3, value(net.network())).nest(4, value(net.broadcast()));
    payload(FIRST, at, len).and(expression("range", range))
}

/// Octets of the network header.
fn payload(register: u32, at: u32, len: u32) -> Attributes {
    expression("payload", Attributes::new().number(1, register).number(2, 1).number(3, at).number(4, len))
}

fn compare(how: Compare, with: &[u8]) -> Attributes {
    let data = Attributes::new().bytes(1, with);
    expression("cmp", Attributes::new().number(1, FIRST).number(2, how as u32).nest(3, data))
}

fn verdict(accept: bool) -> Attributes {
    let code = Attributes::new().nest(2, Attributes::new().number(1, accept.into()));
    expression("immediate", Attributes::new().number(1, VERDICT).nest(2, code))
}

/// An element of a rule's list of expressions.
fn expression(name: &str, data: Attributes) -> Attributes {
    Attributes::new().nest(1, Attributes::new().text(1, name).nest(2, data))
}

fn batch(kind: u16) -> Request {
    let body = [0, 0, 0, SUBSYSTEM as u8];
    let what = "a transaction with the packet filter".to_owned();
    Request { kind, flags: NLM_F_REQUEST, body: Zeroizing::new(body.into()), what }
}

/// Packets counted by a rule of a dump.
fn counter(payload: &[u8]) -> Option<u64> {
    const KIND: u16 = 0x3fff;
    let find = |bytes: &'_ [u8], wanted: u16| {
        attributes(bytes).find(|(kind, _)| kind & KIND == wanted).map(|(_, value)| value.to_vec())
    };
    let expressions = find(payload.get(4..)?, 4)?;
    attributes(&expressions).find_map(|(_, one)| {
        (find(one, 1)? == b"counter\0").then_some(())?;
        let packets = find(&find(one, 2)?, 2)?;
        Some(u64::from_be_bytes(*packets.first_chunk()?))
    })
}

/// Netlink attributes, numbers big-endian.
struct Attributes(Vec<u8>);

impl Attributes {
    fn new() -> Self {
        Attributes(Vec::new())
    }

    fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        // Every value here is far shorter than 64 KiB.
        let len = (4 + value.len()) as u16;
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// NLA_F_NESTED
    fn nest(self, kind: u16, inner: Attributes) -> Self {
        self.nest_ref(kind, &inner)
    }

    fn nest_ref(self, kind: u16, inner: &Attributes) -> Self {
        self.bytes(kind | 0x8000, &inner.0)
    }

    fn and(mut self, more: Attributes) -> Self {
        self.0.extend_from_slice(&more.0);
        self
    }
}
