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
//!     iifname BLACK icmpv6 type packet-too-big, about neither TCP, UDP nor ICMP drop
//!     iifname BLACK icmp frag-needed, about ESP drop
//!     iifname BLACK frag nexthdr != { tcp, udp, esp } drop
//!   }
//!   chain out {                                                    # clear_df
//!     type filter hook forward priority mangle; policy accept;
//!     oifname "muster0" ip daddr 224.0.0.0/4 ip frag-off set ip frag-off & 0xbfff
//!   }
//!   chain encrypted {
//!     type filter hook postrouting priority mangle; policy accept;
//!     oifname BLACK meta mark IF_ID ip6 flowlabel set 0
//!   }
//! }
//! ```
//!
//! The last ones of `in`: the kernel would believe anybody who says that ESP of ours was too big somewhere, if only the SPI
//! is right, which black shows, and in a fragment nobody sees what an ICMP message is about. `encrypted`: the kernel copies
//! the inner flow label, which hosts choose, to the outer header.
//!
//! It is replaced as a whole, in one transaction.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use muster_wire::MemberId;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REQUEST};
use zeroize::Zeroizing;

use crate::config::EspConfig;
use crate::netlink::batch::{BatchSocket, Request, attributes};
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
/// NF_INET_PRE_ROUTING, NF_INET_FORWARD, NF_INET_POST_ROUTING
const PRE_ROUTING: u32 = 0;
const FORWARD: u32 = 2;
const POST_ROUTING: u32 = 4;
/// NF_IP_PRI_RAW_BEFORE_DEFRAG: connection tracking puts fragments together, and the whole counts as the first one's sender's.
const BEFORE_DEFRAGMENTATION: i32 = -450;
const CHAIN: &str = "in";
const OUTWARD: &str = "out";
const ENCRYPTED: &str = "encrypted";
/// NFT_META_MARK, NFT_META_IIFNAME, NFT_META_OIFNAME, NFT_META_NFPROTO, NFT_META_L4PROTO
const MARK: u32 = 3;
const FROM_DEVICE: u32 = 6;
const TO_DEVICE: u32 = 7;
const NFPROTO: u32 = 15;
const L4PROTO: u32 = 16;

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
    black: String,
    /// What the kernel has encrypted bears it.
    mark: u32,
    /// IPv4 multicast that is too big is fragmented though its sender forbids it.
    clear_df: bool,
    /// Dropped under tables that were replaced.
    dropped: u64,
    /// How many it has.
    rules: usize,
}

impl Filter {
    /// Lets nothing through from the device until [`set`](Self::set). Takes the place of one that is there.
    pub(super) fn start(config: &EspConfig, mark: u32) -> Result<Self, Error> {
        let EspConfig { device, black_interface: black, instance, clear_df, .. } = config;
        let (table, device, black, clear_df) = (name_of(*instance), device.clone(), black.clone(), *clear_df);
        let socket = Self::socket()?;
        let mut filter = Filter { socket, table, device, black, mark, clear_df, dropped: 0, rules: 0 };
        filter.set(&Policy::default(), &HashMap::new())?;
        Ok(filter)
    }

    /// Sets one up that stops nothing and takes it away again.
    pub(super) fn try_out(mark: u32) -> Result<(), Error> {
        let (table, device, black) = (name_of(0), "muster-probe".to_owned(), "black".to_owned());
        let mut filter =
            Filter { socket: Self::socket()?, table, device, black, mark, clear_df: true, dropped: 0, rules: 0 };
        filter.set(&Policy::default(), &HashMap::new())
    }

    /// Removes the table that a killed predecessor of this instance has left.
    pub(super) fn remove_left_over(instance: u8) {
        if let Ok(mut socket) = Self::socket() {
            remove(&mut socket, &name_of(instance));
        }
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
        messages.extend(removal(&self.table));
        messages.push(message(NEW_TABLE, Attributes::new().text(1, &self.table)));
        messages.push(self.chain(CHAIN, PRE_ROUTING, BEFORE_DEFRAGMENTATION));
        for (id, set) in (1..).zip(&SETS) {
            messages.push(self.set_of(id, set));
            let elements: Vec<Attributes> =
                pairs(policy, reqids, set).map(|(reqid, net)| element(reqid, net)).collect();
            messages.extend(elements.chunks(ELEMENTS).map(|some| self.elements(id, set, some)));
        }
        let rules = self.rules(policy);
        let count = rules.len() + usize::from(self.clear_df) + 1;
        messages.extend(rules.into_iter().map(|rule| self.rule(CHAIN, rule, "a rule for what comes in")));
        if self.clear_df {
            messages.push(self.chain(OUTWARD, FORWARD, -150));
            let expressions =
                interface(TO_DEVICE, &self.device).and(is_family(libc::AF_INET)).and(is_multicast_v4()).and(clear_df());
            messages.push(self.rule(OUTWARD, expressions, "the rule that clears DF"));
        }
        messages.push(self.chain(ENCRYPTED, POST_ROUTING, -150));
        let expressions = interface(TO_DEVICE, &self.black)
            .and(is_family(libc::AF_INET6))
            .and(meta(MARK))
            .and(compare(Compare::Equal, &self.mark.to_ne_bytes()))
            .and(clear_flow_label());
        messages.push(self.rule(ENCRYPTED, expressions, "the rule that clears flow labels"));
        messages.push(batch(BATCH_END));
        self.socket.transact(&messages)?;
        self.rules = count;
        Ok(())
    }

    /// Of the chain `in`.
    fn rules(&self, policy: &Policy) -> Vec<Attributes> {
        let from_device = || interface(FROM_DEVICE, &self.device);
        let from_black = || interface(FROM_DEVICE, &self.black);
        let own = policy.own.iter().map(IpNet::trunc);
        let own = own.map(|own| from_device().and(family(&own)).and(source_in(&own)).and(verdict(false)));
        let admitted = (1..).zip(&SETS).map(|(id, set)| from_device().and(self.admitted(id, set)).and(verdict(true)));
        let rest = from_device().and(expression("counter", Attributes::new())).and(verdict(false));
        let none_of = |protocols: [i32; 3]| {
            let unequal = protocols.map(|protocol| compare(Compare::Unequal, &[protocol as u8]));
            unequal.into_iter().fold(Attributes::new(), Attributes::and)
        };
        // The IPv6 header that a message is about begins after 8 octets; its next header is the seventh.
        let too_big_v6 = from_black()
            .and(is_protocol(libc::IPPROTO_ICMPV6))
            .and(transport(0, 1))
            .and(compare(Compare::Equal, &[2]))
            .and(transport(8 + 6, 1))
            .and(none_of([libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_ICMPV6]));
        let too_big_v4 = from_black()
            .and(is_protocol(libc::IPPROTO_ICMP))
            .and(transport(0, 2))
            .and(compare(Compare::Equal, &[3, 4]))
            .and(transport(8 + 9, 1))
            .and(compare(Compare::Equal, &[libc::IPPROTO_ESP as u8]));
        let fragment =
            from_black().and(fragment_of()).and(none_of([libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_ESP]));
        // Of those only the first has a header to look at. Any bit but DF: more to come, or an offset.
        let fragment_v4 = from_black()
            .and(is_family(libc::AF_INET))
            .and(is_protocol(libc::IPPROTO_ICMP))
            .and(payload(FIRST, 6, 2))
            .and(masked([0x3f, 0xff]))
            .and(compare(Compare::Unequal, &[0, 0]));
        let refused = [too_big_v6, too_big_v4, fragment, fragment_v4].map(|rule| rule.and(verdict(false)));
        own.chain(admitted).chain([rest]).chain(refused).collect()
    }

    /// Whether all rules are there.
    pub(super) fn stands(&mut self) -> bool {
        self.read().is_ok_and(|(rules, _)| rules == self.rules)
    }

    /// What came from a source that its sender may not use.
    pub(super) fn dropped(&mut self) -> u64 {
        // There is no such table yet.
        self.read().map_or(self.dropped, |(_, counted)| self.dropped + counted)
    }

    /// How many rules there are, and what they have counted.
    fn read(&mut self) -> Result<(usize, u64), Error> {
        let request = message(GET_RULE, Attributes::new().text(1, &self.table));
        let (mut rules, mut counted) = (0, 0);
        self.socket.dump(&request, |payload| {
            rules += 1;
            counted += counter(payload).unwrap_or(0);
        })?;
        Ok((rules, counted))
    }

    fn chain(&self, name: &str, hook: u32, priority: i32) -> Request {
        let hook = Attributes::new().number(1, hook).number(2, priority as u32);
        let attributes =
            Attributes::new().text(1, &self.table).text(3, name).nest(4, hook).number(5, 1).text(7, "filter");
        message(NEW_CHAIN, attributes)
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
        message(NEW_SET, attributes)
    }

    fn elements(&self, id: u32, set: &Set, elements: &[Attributes]) -> Request {
        let all = elements.iter().fold(Attributes::new(), |all, element| all.nest_ref(1, element));
        let attributes = Attributes::new().text(1, &self.table).text(2, set.name).nest(3, all).number(4, id);
        message(NEW_ELEMENTS, attributes)
    }

    fn rule(&self, chain: &str, expressions: Attributes, what: &str) -> Request {
        let attributes = Attributes::new().text(1, &self.table).text(2, chain).nest(4, expressions);
        Request { what: format!("the packet filter {}: {what}", self.table), ..message(NEW_RULE, attributes) }
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
}

impl Drop for Filter {
    fn drop(&mut self) {
        remove(&mut self.socket, &self.table);
    }
}

fn name_of(instance: u8) -> String {
    format!("muster{instance}")
}

/// What stays stops only what comes out of our device, or what nobody needs; and the next start removes it.
fn remove(socket: &mut BatchSocket, table: &str) {
    let [create, delete] = removal(table);
    let _ = socket.transact(&[batch(BATCH_BEGIN), create, delete, batch(BATCH_END)]);
}

/// To remove one that is not there is no error if it is made first.
fn removal(table: &str) -> [Request; 2] {
    [NEW_TABLE, DEL_TABLE].map(|kind| message(kind, Attributes::new().text(1, table)))
}

fn message(kind: u16, attributes: Attributes) -> Request {
    // struct nfgenmsg: family, version, resource.
    let body = [&[INET, 0, 0, 0][..], &attributes.0].concat();
    let create = [NEW_TABLE, NEW_CHAIN, NEW_RULE, NEW_SET, NEW_ELEMENTS].contains(&kind);
    Request {
        kind: SUBSYSTEM << 8 | kind,
        // A rule is appended where it is not said otherwise (NLM_F_APPEND).
        flags: NLM_F_REQUEST | if create { NLM_F_CREATE } else { 0 } | if kind == NEW_RULE { 0x800 } else { 0 },
        body: Zeroizing::new(body),
        what: "the packet filter".to_owned(),
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
    // The numbers of protocols are those of the families.
    meta(NFPROTO).and(compare(Compare::Equal, &[family as u8]))
}

fn is_protocol(protocol: i32) -> Attributes {
    meta(L4PROTO).and(compare(Compare::Equal, &[protocol as u8]))
}

/// In or out of the interface of this name.
fn interface(key: u32, name: &str) -> Attributes {
    let mut padded = [0; 16];
    // Checked to be shorter.
    padded[..name.len()].copy_from_slice(name.as_bytes());
    meta(key).and(compare(Compare::Equal, &padded))
}

fn meta(key: u32) -> Attributes {
    expression("meta", Attributes::new().number(2, key).number(1, FIRST))
}

/// The next header of the fragment header (RFC 8200 4.5); what has none does not match.
fn fragment_of() -> Attributes {
    let header = [libc::IPPROTO_FRAGMENT as u8];
    expression("exthdr", Attributes::new().number(1, FIRST).bytes(2, &header).number(3, 0).number(4, 1))
}

/// 224.0.0.0/4, by the first octet of the destination.
fn is_multicast_v4() -> Attributes {
    payload(FIRST, 16, 1).and(compare(Compare::AtLeast, &[0xe0])).and(compare(Compare::Less, &[0xf0]))
}

/// The lower 20 bits of the first word (RFC 8200 3); no checksum covers it.
fn clear_flow_label() -> Attributes {
    let write = Attributes::new().number(5, FIRST).number(2, 1).number(3, 0).number(4, 4).number(6, 0).number(7, 0);
    payload(FIRST, 0, 4).and(masked([0xff, 0xf0, 0, 0])).and(expression("payload", write))
}

/// DF, of the flags and the offset, and the header's checksum with it.
fn clear_df() -> Attributes {
    // NFT_PAYLOAD_CSUM_INET at offset 10.
    let write = Attributes::new().number(5, FIRST).number(2, 1).number(3, 6).number(4, 2).number(6, 1).number(7, 10);
    payload(FIRST, 6, 2).and(masked([0xbf, 0xff])).and(expression("payload", write))
}

/// The first register, of which these bits stay.
fn masked<const N: usize>(bits: [u8; N]) -> Attributes {
    let data = |value: [u8; N]| Attributes::new().bytes(1, &value);
    let mask = Attributes::new().number(1, FIRST).number(2, FIRST).number(3, N as u32);
    expression("bitwise", mask.nest(4, data(bits)).nest(5, data([0; N])))
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

/// Octets of the transport header, into the first register.
fn transport(at: u32, len: u32) -> Attributes {
    expression("payload", Attributes::new().number(1, FIRST).number(2, 2).number(3, at).number(4, len))
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
pub(super) fn counter(payload: &[u8]) -> Option<u64> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xfrm::spd::tests::{ALICE, BOB, nets};

    #[test]
    fn pairs_are_of_one_family_and_of_who_has_a_number() {
        let senders = HashMap::from([
            (ALICE, nets(&["2001:db8::/65", "2001:db8::8000:0:0:0/65", "10.1.0.0/16"])),
            (BOB, nets(&["2001:db8:b::/64"])),
        ]);
        let policy = Policy { senders, ..Policy::default() };
        let reqids = HashMap::from([((ALICE, SaKind::Group), 7), ((BOB, SaKind::Unicast), 8)]);
        let of = |nth: usize| pairs(&policy, &reqids, &SETS[nth]).collect::<Vec<_>>();
        assert_eq!(of(0), [(7, "10.1.0.0/16".parse().unwrap())]);
        assert_eq!(of(1), []);
        // Neighbouring prefixes are one: intervals of a set must not touch.
        assert_eq!(of(2), [(7, "2001:db8::/64".parse().unwrap())]);
        assert_eq!(of(3), [(8, "2001:db8:b::/64".parse().unwrap())]);
    }

    #[test]
    fn an_element_is_a_number_and_the_ends_of_a_prefix() {
        let Attributes(bytes) = element(7, "10.1.0.0/16".parse().unwrap());
        let nested: Vec<(u16, Vec<u8>)> = attributes(&bytes).map(|(kind, value)| (kind, value.to_vec())).collect();
        let number = 7_u32.to_ne_bytes();
        let key = |address: [u8; 4]| [&12_u16.to_ne_bytes()[..], &1_u16.to_ne_bytes(), &number, &address].concat();
        assert_eq!(nested, [(0x8001, key([10, 1, 0, 0])), (0x800a, key([10, 1, 255, 255]))]);
    }

    #[test]
    fn a_rule_has_counted_what_its_counter_says() {
        let told = |packets: u64| {
            let counted = Attributes::new().bytes(1, &[0; 8]).bytes(2, &packets.to_be_bytes());
            let expressions = meta(MARK).and(expression("counter", counted)).and(verdict(false));
            // struct nfgenmsg, then the rule.
            [vec![INET, 0, 0, 0], Attributes::new().text(1, "muster0").nest(4, expressions).0].concat()
        };
        assert_eq!(counter(&told(5)), Some(5));
        let without = [vec![INET, 0, 0, 0], Attributes::new().nest(4, verdict(true)).0].concat();
        assert_eq!(counter(&without), None);
        let whole = told(5);
        assert!((0..whole.len()).all(|len| counter(&whole[..len]).is_none()), "cut off");
    }
}
