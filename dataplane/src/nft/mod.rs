//! Messages of nf_tables: objects of a table, and the expressions that rules are made of. Each instance has tables of its own,
//! and `monitor.rs` puts back what others have taken away.

mod monitor;

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REQUEST};

use crate::Error;
use crate::netlink::batch::{BatchSocket, Message, Request, attributes};
pub(crate) use monitor::{TableMonitor, Watched};

/// NFNL_SUBSYS_NFTABLES, and messages of it.
const SUBSYSTEM: u16 = 10;
pub(crate) const NEW_TABLE: u16 = 0;
const DEL_TABLE: u16 = 2;
pub(crate) const NEW_CHAIN: u16 = 3;
pub(crate) const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
pub(crate) const DEL_RULE: u16 = 8;
pub(crate) const NEW_SET: u16 = 9;
pub(crate) const NEW_ELEMENTS: u16 = 12;
pub(crate) const GET_ELEMENTS: u16 = 13;
pub(crate) const DEL_ELEMENTS: u16 = 14;
/// NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// NFPROTO_INET: both families in one table.
const INET: u8 = 1;

/// NFT_REG_VERDICT; NFT_REG_1, as the 16 octets of the old numbering; NFT_REG32_00 and the one after it.
const VERDICT: u32 = 0;
pub(crate) const FIRST: u32 = 1;
pub(crate) const PAIR: u32 = 8;
pub(crate) const PAIR_SECOND: u32 = 9;

/// NFT_JUMP
const JUMP: i32 = -3;

/// NFT_META_MARK, NFT_META_IIFNAME, NFT_META_OIFNAME, NFT_META_NFPROTO, NFT_META_L4PROTO
pub(crate) const MARK: u32 = 3;
pub(crate) const FROM_DEVICE: u32 = 6;
pub(crate) const TO_DEVICE: u32 = 7;
const NFPROTO: u32 = 15;
const L4PROTO: u32 = 16;

/// NFT_CMP_…
#[derive(Clone, Copy)]
pub(crate) enum Compare {
    Equal = 0,
    Unequal = 1,
    Less = 2,
    AtLeast = 5,
}

/// A socket to nf_tables.
pub(crate) fn open_socket() -> Result<BatchSocket, Error> {
    BatchSocket::open(
        netlink_sys::protocols::NETLINK_NETFILTER,
        "opening a netlink socket to nf_tables; does the kernel have it (modprobe nf_tables)?",
    )
}

/// These, all or none of them.
pub(crate) fn transaction(messages: impl IntoIterator<Item = Request>) -> Vec<Request> {
    let bound = |kind| {
        let body = [0, 0, 0, SUBSYSTEM as u8];
        let what = "a transaction with the packet filter".to_owned();
        Request { kind, flags: NLM_F_REQUEST, body: Vec::from(body).into(), what: what.into() }
    };
    [bound(BATCH_BEGIN)].into_iter().chain(messages).chain([bound(BATCH_END)]).collect()
}

/// As netlink has it.
pub(crate) fn kind_of(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}

pub(crate) fn message(kind: u16, attributes: Attributes) -> Request {
    // struct nfgenmsg: family, version, resource.
    let body = [&[INET, 0, 0, 0][..], &attributes.0].concat();
    let create = [NEW_TABLE, NEW_CHAIN, NEW_RULE, NEW_SET, NEW_ELEMENTS].contains(&kind);
    Request {
        kind: kind_of(kind),
        // A rule is appended where it is not said otherwise (NLM_F_APPEND).
        flags: NLM_F_REQUEST | if create { NLM_F_CREATE } else { 0 } | if kind == NEW_RULE { 0x800 } else { 0 },
        body: body.into(),
        what: "the packet filter".to_owned().into(),
    }
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

pub(crate) fn family(net: &IpNet) -> Attributes {
    is_family(if net.addr().is_ipv4() { libc::AF_INET } else { libc::AF_INET6 })
}

pub(crate) fn is_family(family: i32) -> Attributes {
    // The numbers of protocols are those of the families.
    meta(NFPROTO).and(compare(Compare::Equal, &[family as u8]))
}

pub(crate) fn is_protocol(protocol: i32) -> Attributes {
    meta(L4PROTO).and(compare(Compare::Equal, &[protocol as u8]))
}

/// In or out of the interface of this name.
pub(crate) fn interface(key: u32, name: &str) -> Attributes {
    meta(key).and(compare(Compare::Equal, &padded(name)))
}

pub(crate) fn interface_other_than(key: u32, name: &str) -> Attributes {
    meta(key).and(compare(Compare::Unequal, &padded(name)))
}

/// The name of an interface as the kernel compares it.
pub(crate) fn padded(name: &str) -> [u8; 16] {
    let mut padded = [0; 16];
    // Checked to be shorter.
    padded[..name.len()].copy_from_slice(name.as_bytes());
    padded
}

pub(crate) fn meta(key: u32) -> Attributes {
    expression("meta", Attributes::new().number(2, key).number(1, FIRST))
}

/// The name of the interface by which the source of a packet is reached, all zeros if it is not; before routing
/// (NFT_FIB_RESULT_OIFNAME, NFTA_FIB_F_SADDR).
pub(crate) fn way_back() -> Attributes {
    expression("fib", Attributes::new().number(1, FIRST).number(2, 2).number(3, 1))
}

/// The destination is no address of the interface that the packet came in by (NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR,
/// NFTA_FIB_F_IIF; RTN_LOCAL).
pub(crate) fn is_elsewhere() -> Attributes {
    let address_type = Attributes::new().number(1, FIRST).number(2, 3).number(3, 2 | 8);
    expression("fib", address_type).and(compare(Compare::Unequal, &u32::from(libc::RTN_LOCAL).to_ne_bytes()))
}

/// The next header of the fragment header (RFC 8200 4.5); what has none does not match.
pub(crate) fn fragment_of() -> Attributes {
    let header = [libc::IPPROTO_FRAGMENT as u8];
    expression("exthdr", Attributes::new().number(1, FIRST).bytes(2, &header).number(3, 0).number(4, 1))
}

/// 224.0.0.0/4, by the first octet of the destination.
pub(crate) fn is_multicast_v4() -> Attributes {
    payload(FIRST, 16, 1).and(compare(Compare::AtLeast, &[0xe0])).and(compare(Compare::Less, &[0xf0]))
}

/// The lower 20 bits of the first word (RFC 8200 3); no checksum covers it.
pub(crate) fn clear_flow_label() -> Attributes {
    let write = Attributes::new().number(5, FIRST).number(2, 1).number(3, 0).number(4, 4).number(6, 0).number(7, 0);
    payload(FIRST, 0, 4).and(masked(&[0xff, 0xf0, 0, 0])).and(expression("payload", write))
}

/// DF, of the flags and the offset, and the header's checksum with it.
pub(crate) fn clear_df() -> Attributes {
    // NFT_PAYLOAD_CSUM_INET at offset 10.
    let write = Attributes::new().number(5, FIRST).number(2, 1).number(3, 6).number(4, 2).number(6, 1).number(7, 10);
    payload(FIRST, 6, 2).and(masked(&[0xbf, 0xff])).and(expression("payload", write))
}

/// The first register, of which these bits stay.
pub(crate) fn masked(bits: &[u8]) -> Attributes {
    let data = |value: &[u8]| Attributes::new().bytes(1, value);
    let mask = Attributes::new().number(1, FIRST).number(2, FIRST).number(3, bits.len() as u32);
    expression("bitwise", mask.nest(4, data(bits)).nest(5, data(&vec![0; bits.len()])))
}

pub(crate) fn source_in(net: &IpNet) -> Attributes {
    address_in(net, if net.addr().is_ipv4() { 12 } else { 8 })
}

pub(crate) fn destination_in(net: &IpNet) -> Attributes {
    address_in(net, if net.addr().is_ipv4() { 16 } else { 24 })
}

/// The address at this octet of the header. As nft writes a prefix: compared octets cost the kernel less than a range.
fn address_in(net: &IpNet, at: u32) -> Attributes {
    let (network, len) = (octets(net.network()), usize::from(net.prefix_len()));
    match len % 8 {
        _ if len == 0 => Attributes::new(),
        0 => payload(FIRST, at, len as u32 / 8).and(compare(Compare::Equal, &network[..len / 8])),
        _ => {
            let bits = masked(&octets(net.netmask()));
            payload(FIRST, at, network.len() as u32).and(bits).and(compare(Compare::Equal, &network))
        }
    }
}

/// Octets of the network header.
pub(crate) fn payload(register: u32, at: u32, len: u32) -> Attributes {
    expression("payload", Attributes::new().number(1, register).number(2, 1).number(3, at).number(4, len))
}

/// Octets of the transport header, into the first register.
pub(crate) fn transport(at: u32, len: u32) -> Attributes {
    expression("payload", Attributes::new().number(1, FIRST).number(2, 2).number(3, at).number(4, len))
}

pub(crate) fn compare(how: Compare, with: &[u8]) -> Attributes {
    let data = Attributes::new().bytes(1, with);
    expression("cmp", Attributes::new().number(1, FIRST).number(2, how as u32).nest(3, data))
}

pub(crate) fn verdict(accept: bool) -> Attributes {
    ends_with(Attributes::new().number(1, accept.into()))
}

/// Goes on in that chain; what it does not decide comes back.
pub(crate) fn jump(chain: &str) -> Attributes {
    ends_with(Attributes::new().number(1, JUMP as u32).text(2, chain))
}

fn ends_with(verdict: Attributes) -> Attributes {
    let code = Attributes::new().nest(2, verdict);
    expression("immediate", Attributes::new().number(1, VERDICT).nest(2, code))
}

/// An element of a rule's list of expressions.
pub(crate) fn expression(name: &str, data: Attributes) -> Attributes {
    Attributes::new().nest(1, Attributes::new().text(1, name).nest(2, data))
}

/// To remove one that is not there is no error if it is made first.
pub(crate) fn removal(table: &str) -> [Request; 2] {
    [NEW_TABLE, DEL_TABLE].map(|kind| message(kind, Attributes::new().text(1, table)))
}

/// Whether a table has as many rules as these messages make.
pub(crate) fn has_rules_of(socket: &mut BatchSocket, table: &str, messages: &[Request]) -> bool {
    let wanted = messages.iter().filter(|message| message.kind == kind_of(NEW_RULE)).count();
    rules(socket, table).is_ok_and(|(found, _)| found == wanted)
}

/// How many rules a table has, and what they have counted.
pub(crate) fn rules(socket: &mut BatchSocket, table: &str) -> Result<(usize, u64), Error> {
    let (mut rules, mut counted) = (0, 0);
    socket.dump(&message(GET_RULE, Attributes::new().text(1, table)), |payload| {
        rules += 1;
        counted += counter(payload).unwrap_or(0);
    })?;
    Ok((rules, counted))
}

/// The kind of an attribute without its flags.
const KIND: u16 = 0x3fff;

/// Whether something of a table is announced: the first attribute of all objects is its name.
pub(crate) fn is_about(announced: &Message<'_>, table: &str) -> bool {
    let first = announced.payload.get(4..).and_then(|rest| attributes(rest).find(|(kind, _)| kind & KIND == 1));
    announced.kind >> 8 == SUBSYSTEM && first.and_then(|(_, name)| name.strip_suffix(&[0])) == Some(table.as_bytes())
}

/// Packets counted by a rule of a dump.
pub(crate) fn counter(payload: &[u8]) -> Option<u64> {
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

/// How many elements of a set a message of a dump tells of.
pub(crate) fn elements_in(payload: &[u8]) -> usize {
    let list = payload.get(4..).and_then(|rest| attributes(rest).find(|(kind, _)| kind & KIND == 3));
    list.map_or(0, |(_, elements)| attributes(elements).count())
}

/// Netlink attributes, numbers big-endian.
pub(crate) struct Attributes(pub(crate) Vec<u8>);

impl Attributes {
    pub(crate) fn new() -> Self {
        Attributes(Vec::new())
    }

    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        // Every value here is far shorter than 64 KiB.
        let len = (4 + value.len()) as u16;
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// NLA_F_NESTED
    pub(crate) fn nest(self, kind: u16, inner: Attributes) -> Self {
        self.nest_ref(kind, &inner)
    }

    pub(crate) fn nest_ref(self, kind: u16, inner: &Attributes) -> Self {
        self.bytes(kind | 0x8000, &inner.0)
    }

    pub(crate) fn and(mut self, more: Attributes) -> Self {
        self.0.extend_from_slice(&more.0);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn what_is_announced_is_about_a_table() {
        let is_ours = |kind: u16, attributes: Attributes, len: usize| {
            let payload = [vec![INET, 0, 0, 0], attributes.0].concat();
            let payload = &payload[..len.min(payload.len())];
            is_about(&Message { kind, sequence: 1, port: 2, payload }, "muster1")
        };
        let rule = |table| Attributes::new().text(1, table).text(2, "in");
        assert!(
            is_ours(kind_of(DEL_RULE), rule("muster1"), 1000) && is_ours(kind_of(DEL_TABLE), rule("muster1"), 1000)
        );
        assert!(
            !is_ours(kind_of(DEL_RULE), rule("muster11"), 1000) && !is_ours(kind_of(DEL_RULE), rule("muster"), 1000)
        );
        assert!(!is_ours(kind_of(DEL_RULE), Attributes::new().text(2, "muster1"), 1000), "another attribute");
        assert!(!is_ours(1 << 8 | DEL_RULE, rule("muster1"), 1000), "another subsystem");
        // The header, and the first attribute with its length.
        assert!((0..4 + 4 + 8).all(|len| !is_ours(kind_of(DEL_RULE), rule("muster1"), len)), "cut off");
    }

    #[test]
    fn elements_of_a_dump_are_counted() {
        let element = || Attributes::new().nest(1, Attributes::new().bytes(1, &[7; 8]));
        let told = |list: Attributes| {
            [vec![INET, 0, 0, 0], Attributes::new().text(1, "muster0").text(2, "group4").nest(3, list).0].concat()
        };
        assert_eq!(elements_in(&told(Attributes::new().nest(1, element()).nest(1, element()))), 2);
        assert_eq!(elements_in(&told(Attributes::new())), 0);
        assert_eq!(elements_in(&[INET, 0, 0, 0]), 0);
    }
}
