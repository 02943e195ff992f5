//! Which inner source each sender may use (RFC 4301 5.2), by the kernel's packet filter.
//!
//! Policies cannot say it: the kernel's multicast forwarding passes them by, and two routers may have one prefix. So a table
//! of nf_tables, before routing, drops what comes out of the tunnel unless the number (`reqid`) of the SA that it was
//! decrypted under and its source are a pair of the set: one set for multicast, one for unicast. SAs with a selector have a
//! number a selector, and a rule that says the rest. In nft's words:
//!
//! ```text
//! table inet muster0 {
//!   set group4 { type mark . ipv4_addr; flags interval; }      # and unicast4, group6, unicast6
//!   chain in {
//!     type filter hook prerouting priority -450; policy accept;      # before fragments are put together
//!     iifname BLACK jump black
//!     iifname != "muster0" accept
//!     ip saddr OWN drop                                            # for each own prefix
//!     ip daddr 224.0.0.0/4 ipsec in reqid . ip saddr @group4 accept
//!     …
//!     ipsec in reqid FLOW ip saddr … ip daddr … udp sport … udp dport … accept      # for each selector
//!     counter drop
//!   }
//!   chain black {
//!     meta l4proto esp accept
//!     icmpv6 type packet-too-big, not about TCP drop
//!     icmp frag-needed, not about TCP drop
//!     frag nexthdr != { tcp, udp, esp } drop
//!     icmp in a fragment drop
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
//! `black`: the kernel would believe anybody who says that a packet of ours was too big somewhere. About ESP the SPI must be
//! right, which black shows; about a ping, or UDP of an open port, nothing must, and what is believed of the way to a peer then
//! holds for its ESP, too. Only of TCP the sequence number is looked at (RFC 5927 7.2). In a fragment nobody sees what an ICMP message is about. `encrypted`: the kernel copies the inner flow
//! label, which hosts choose, to the outer header. Each packet passes `in`, many of them twice: what comes from red leaves it at
//! the second rule, and what is still encrypted at the first of `black`.
//!
//! Changes are made in place, each in one transaction: elements come and go, and the rules of `in` are replaced where an own
//! prefix or a selector does. A table that is replaced as a whole drops what comes meanwhile, for a set made in a transaction shows its
//! elements a moment after the rules that look into it.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use tracing::debug;

use super::spd::Carries;
use crate::config::EspConfig;
use crate::netlink::batch::{BatchSocket, Request};
use crate::nft::{
    Attributes, Compare, DEL_ELEMENTS, DEL_RULE, FIRST, FROM_DEVICE, GET_ELEMENTS, MARK, NEW_CHAIN, NEW_ELEMENTS,
    NEW_RULE, NEW_SET, NEW_TABLE, PAIR, PAIR_SECOND, TO_DEVICE, Watched, clear_df, clear_flow_label, compare,
    destination_in, elements_in, expression, family, fragment_of, has_rules_of, interface, interface_other_than,
    is_family, is_multicast_v4, is_protocol, jump, masked, message, meta, octets, open_socket, payload, removal, rules,
    source_in, transaction, transport, verdict,
};
use crate::policy::Policy;
use crate::{Error, SaKind, Selector};

/// Elements in one message: their attribute's length is 16 bits wide.
const ELEMENTS: usize = 500;
/// NF_INET_PRE_ROUTING, NF_INET_FORWARD, NF_INET_POST_ROUTING
const PRE_ROUTING: u32 = 0;
const FORWARD: u32 = 2;
const POST_ROUTING: u32 = 4;
/// NF_IP_PRI_RAW_BEFORE_DEFRAG: connection tracking puts fragments together, and the whole counts as the first one's sender's.
const BEFORE_DEFRAGMENTATION: i32 = -450;
/// NF_IP_PRI_MANGLE, as nft's `mangle`.
const MANGLE: i32 = -150;
/// NFT_SET_INTERVAL, NFT_SET_CONCAT: ranges of addresses, behind a number.
const RANGES: u32 = 0x4;
const CONCATENATED: u32 = 0x80;
const CHAIN: &str = "in";
const FROM_BLACK: &str = "black";
const OUTWARD: &str = "out";
const ENCRYPTED: &str = "encrypted";

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
    /// Dropped under rules that were replaced.
    dropped: u64,
    /// What the kernel was told, once it was.
    content: Option<Content>,
}

/// What of the table changes.
#[derive(Clone, PartialEq, Eq)]
struct Content {
    own: Vec<IpNet>,
    /// Of each of [`SETS`]: a sender's number and a prefix of it.
    pairs: [BTreeSet<(u32, IpNet)>; SETS.len()],
    /// The number of SAs, and what they may carry.
    flows: BTreeSet<(u32, Selector)>,
}

impl Filter {
    /// Lets nothing through from the device until [`set`](Self::set). Takes the place of one that is there.
    pub(super) fn start(config: &EspConfig, mark: u32) -> Result<Self, Error> {
        let EspConfig { device, black_interface: black, instance, clear_df, .. } = config;
        let (table, device, black, clear_df) = (name_of(*instance), device.clone(), black.clone(), *clear_df);
        let mut filter =
            Filter { socket: open_socket()?, table, device, black, mark, clear_df, dropped: 0, content: None };
        filter.set(&Policy::default(), &HashMap::new())?;
        Ok(filter)
    }

    /// Sets one up that stops nothing and takes it away again.
    pub(super) fn try_out(mark: u32) -> Result<(), Error> {
        let (table, device, black) = (name_of(0), "muster-probe".to_owned(), "black".to_owned());
        let mut filter =
            Filter { socket: open_socket()?, table, device, black, mark, clear_df: true, dropped: 0, content: None };
        filter.set(&Policy::default(), &HashMap::new())
    }

    /// Removes the table that a killed predecessor of this instance has left.
    pub(super) fn remove_left_over(instance: u8) {
        if let Ok(mut socket) = open_socket() {
            remove(&mut socket, &name_of(instance));
        }
    }

    /// Lets through what `policy` says of senders, whose SAs bear these numbers. What stays as it was is not touched.
    pub(super) fn set(&mut self, policy: &Policy, reqids: &HashMap<Carries, u32>) -> Result<(), Error> {
        let wanted = Content::of(policy, reqids);
        if self.content.as_ref() == Some(&wanted) {
            return Ok(());
        }
        // Until the kernel has said so, what it has is not known.
        let Some(content) = self.content.take() else { return self.set_all(wanted) };
        let (changes, rules_stay) = (self.changes(&content, &wanted), content.has_rules_of(&wanted));
        // What rules that are replaced have counted goes with them.
        let counted = if rules_stay { self.dropped } else { self.dropped() };
        match self.socket.transact(&transaction(changes)) {
            Ok(()) => (self.dropped, self.content) = (counted, Some(wanted)),
            Err(error) => {
                debug!(%error, "the packet filter cannot be changed in place; it is set as a whole");
                self.set_all(wanted)?;
            }
        }
        Ok(())
    }

    /// As [`set`](Self::set), whatever the kernel still has of the table.
    pub(super) fn set_again(&mut self, policy: &Policy, reqids: &HashMap<Carries, u32>) -> Result<(), Error> {
        self.set_all(Content::of(policy, reqids))
    }

    fn set_all(&mut self, wanted: Content) -> Result<(), Error> {
        self.content = None;
        let counted = self.dropped();
        self.socket.transact(&transaction(self.all(&wanted)))?;
        (self.dropped, self.content) = (counted, Some(wanted));
        Ok(())
    }

    /// The whole table, in the place of any that is there.
    fn all(&self, content: &Content) -> Vec<Request> {
        let mut messages: Vec<Request> = removal(&self.table).into();
        messages.push(message(NEW_TABLE, self.named()));
        messages.push(message(NEW_CHAIN, self.named().text(3, FROM_BLACK)));
        messages.extend(self.rules_of_black());
        messages.push(self.chain(CHAIN, PRE_ROUTING, BEFORE_DEFRAGMENTATION));
        for (id, (set, pairs)) in (1..).zip(SETS.iter().zip(&content.pairs)) {
            messages.push(self.set_of(id, set));
            messages.extend(self.elements(NEW_ELEMENTS, set, pairs));
        }
        messages.extend(self.rules(content));
        if self.clear_df {
            messages.push(self.chain(OUTWARD, FORWARD, MANGLE));
            let expressions =
                interface(TO_DEVICE, &self.device).and(is_family(libc::AF_INET)).and(is_multicast_v4()).and(clear_df());
            messages.push(self.rule(OUTWARD, expressions, "the rule that clears DF"));
        }
        messages.push(self.chain(ENCRYPTED, POST_ROUTING, MANGLE));
        let expressions = interface(TO_DEVICE, &self.black)
            .and(is_family(libc::AF_INET6))
            .and(meta(MARK))
            .and(compare(Compare::Equal, &self.mark.to_ne_bytes()))
            .and(clear_flow_label());
        messages.push(self.rule(ENCRYPTED, expressions, "the rule that clears flow labels"));
        messages
    }

    /// From one content to another.
    fn changes(&self, from: &Content, to: &Content) -> Vec<Request> {
        let mut messages = Vec::new();
        for (set, (from, to)) in SETS.iter().zip(from.pairs.iter().zip(&to.pairs)) {
            // First what goes: a prefix that comes may cover it, and elements must not overlap.
            messages.extend(self.elements(DEL_ELEMENTS, set, &(from - to)));
            messages.extend(self.elements(NEW_ELEMENTS, set, &(to - from)));
        }
        if !from.has_rules_of(to) {
            messages.push(message(DEL_RULE, self.named().text(2, CHAIN)));
            messages.extend(self.rules(to));
        }
        messages
    }

    /// Of the chain `in`.
    fn rules(&self, content: &Content) -> Vec<Request> {
        let black = interface(FROM_DEVICE, &self.black).and(jump(FROM_BLACK));
        let others = interface_other_than(FROM_DEVICE, &self.device).and(verdict(true));
        let own = content.own.iter().map(|own| family(own).and(source_in(own)).and(verdict(false)));
        let admitted = SETS.iter().map(|set| self.admitted(set).and(verdict(true)));
        let flows = content.flows.iter().map(|(reqid, flow)| of_flow(*reqid, flow).and(verdict(true)));
        let rest = expression("counter", Attributes::new()).and(verdict(false));
        let all = [black, others].into_iter().chain(own).chain(admitted).chain(flows).chain([rest]);
        all.map(|rule| self.rule(CHAIN, rule, "a rule for what comes in")).collect()
    }

    /// Of the chain `black`.
    fn rules_of_black(&self) -> Vec<Request> {
        let encrypted = is_protocol(libc::IPPROTO_ESP).and(verdict(true));
        let none_of = |protocols: [i32; 3]| {
            let unequal = protocols.map(|protocol| compare(Compare::Unequal, &[protocol as u8]));
            unequal.into_iter().fold(Attributes::new(), Attributes::and)
        };
        // The IPv6 header that a message is about begins after 8 octets; its next header is the seventh.
        let not_tcp = || compare(Compare::Unequal, &[libc::IPPROTO_TCP as u8]);
        let too_big_v6 = is_protocol(libc::IPPROTO_ICMPV6)
            .and(transport(0, 1))
            .and(compare(Compare::Equal, &[2]))
            .and(transport(8 + 6, 1))
            .and(not_tcp());
        let too_big_v4 = is_protocol(libc::IPPROTO_ICMP)
            .and(transport(0, 2))
            .and(compare(Compare::Equal, &[3, 4]))
            .and(transport(8 + 9, 1))
            .and(not_tcp());
        let fragment = fragment_of().and(none_of([libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_ESP]));
        // Of those only the first has a header to look at. Any bit but DF: more to come, or an offset.
        let fragment_v4 = is_family(libc::AF_INET)
            .and(is_protocol(libc::IPPROTO_ICMP))
            .and(payload(FIRST, 6, 2))
            .and(masked(&[0x3f, 0xff]))
            .and(compare(Compare::Unequal, &[0, 0]));
        let refused = [too_big_v6, too_big_v4, fragment, fragment_v4].map(|rule| rule.and(verdict(false)));
        let all = [encrypted].into_iter().chain(refused);
        all.map(|rule| self.rule(FROM_BLACK, rule, "a rule for what comes from black")).collect()
    }

    /// It is restored when somebody has changed it; until then the SAs let through what it stops.
    pub(super) fn watched(&self, restore: impl FnMut() -> Result<(), Error> + Send + 'static) -> Watched {
        Watched::new(self.table.clone(), &self.socket, restore)
    }

    /// Whether all rules and elements are there.
    pub(super) fn stands(&mut self) -> bool {
        let Some(content) = &self.content else { return false };
        let (all, pairs) = (self.all(content), content.pairs.each_ref().map(BTreeSet::len));
        has_rules_of(&mut self.socket, &self.table, &all)
            && SETS.iter().zip(pairs).all(|(set, pairs)| self.count(set).is_ok_and(|found| found == pairs))
    }

    /// What came from a source that its sender may not use.
    pub(super) fn dropped(&mut self) -> u64 {
        // There is no such table yet.
        rules(&mut self.socket, &self.table).map_or(self.dropped, |(_, counted)| self.dropped + counted)
    }

    /// How many elements a set has.
    fn count(&mut self, set: &Set) -> Result<usize, Error> {
        let mut elements = 0;
        self.socket.dump(&message(GET_ELEMENTS, self.named().text(2, set.name)), |payload| {
            elements += elements_in(payload);
        })?;
        Ok(elements)
    }

    /// The first attribute of every message.
    fn named(&self) -> Attributes {
        Attributes::new().text(1, &self.table)
    }

    fn chain(&self, name: &str, hook: u32, priority: i32) -> Request {
        let hook = Attributes::new().number(1, hook).number(2, priority as u32);
        let attributes = self.named().text(3, name).nest(4, hook).number(5, 1).text(7, "filter");
        message(NEW_CHAIN, attributes)
    }

    /// An empty set of pairs of a number and a range of addresses.
    fn set_of(&self, id: u32, set: &Set) -> Request {
        let field = |len| Attributes::new().number(1, len);
        let fields = Attributes::new().nest(1, field(4)).nest(1, field(set.address_len()));
        let attributes = Attributes::new()
            .text(1, &self.table)
            .text(2, set.name)
            .number(3, RANGES | CONCATENATED)
            .number(4, set.key_type())
            .number(5, 4 + set.address_len())
            .nest(9, Attributes::new().nest(2, fields))
            .number(10, id);
        message(NEW_SET, attributes)
    }

    fn elements(&self, kind: u16, set: &Set, pairs: &BTreeSet<(u32, IpNet)>) -> Vec<Request> {
        let elements: Vec<Attributes> = pairs.iter().map(|(reqid, net)| element(*reqid, *net)).collect();
        let message = |some: &[Attributes]| {
            let all = some.iter().fold(Attributes::new(), |all, element| all.nest_ref(1, element));
            message(kind, self.named().text(2, set.name).nest(3, all))
        };
        elements.chunks(ELEMENTS).map(message).collect()
    }

    fn rule(&self, chain: &str, expressions: Attributes, what: &str) -> Request {
        let attributes = self.named().text(2, chain).nest(4, expressions);
        Request { what: format!("the packet filter {}: {what}", self.table).into(), ..message(NEW_RULE, attributes) }
    }

    /// Of the set's family and kind, and in it.
    fn admitted(&self, set: &Set) -> Attributes {
        let (family, source_at) = if set.ipv4 { (libc::AF_INET, 12) } else { (libc::AF_INET6, 8) };
        let lookup = Attributes::new().text(1, set.name).number(2, PAIR);
        is_family(family)
            .and(is_of(set.kind, set.ipv4))
            .and(reqid_into(PAIR))
            .and(payload(PAIR_SECOND, source_at, set.address_len()))
            .and(expression("lookup", lookup))
    }
}

/// A destination of this kind.
fn is_of(kind: SaKind, ipv4: bool) -> Attributes {
    let destination = || payload(FIRST, if ipv4 { 16 } else { 24 }, 1);
    match (kind, ipv4) {
        (SaKind::Group, true) => is_multicast_v4(),
        (SaKind::Group, false) => destination().and(compare(Compare::Equal, &[0xff])),
        (SaKind::Unicast, true) => destination().and(compare(Compare::Less, &[0xe0])),
        (SaKind::Unicast, false) => destination().and(compare(Compare::Unequal, &[0xff])),
    }
}

/// NFT_XFRM_KEY_REQID of the innermost transformation, inbound.
fn reqid_into(register: u32) -> Attributes {
    expression("xfrm", Attributes::new().number(2, 5).bytes(3, &[0]).number(4, 0).number(1, register))
}

/// Under SAs with this number, and what the selector is for. What is no first fragment has no ports to look at.
fn of_flow(reqid: u32, flow: &Selector) -> Attributes {
    let kind = if flow.is_multicast() { SaKind::Group } else { SaKind::Unicast };
    let mut rule = family(&flow.source)
        .and(is_of(kind, flow.source.addr().is_ipv4()))
        .and(reqid_into(FIRST))
        .and(compare(Compare::Equal, &reqid.to_ne_bytes()))
        .and(source_in(&flow.source.trunc()))
        .and(destination_in(&flow.destination.trunc()));
    if let Some(protocol) = flow.protocol {
        rule = rule.and(is_protocol(protocol.into()));
    }
    for (port, at) in [(flow.source_port, 0), (flow.destination_port, 2)] {
        if let Some(port) = port {
            rule = rule.and(transport(at, 2)).and(compare(Compare::Equal, &port.to_be_bytes()));
        }
    }
    rule
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
    let _ = socket.transact(&transaction(removal(table)));
}

impl Set {
    fn address_len(&self) -> u32 {
        if self.ipv4 { 4 } else { 16 }
    }

    /// What nft lists elements by: `mark . ipv4_addr`, or `ipv6_addr`; it has no other name for a number of 32 bits. To the
    /// kernel it says nothing, but without it nft 1.0.6 crashes, whatever it is asked.
    fn key_type(&self) -> u32 {
        const TYPE_MARK: u32 = 19;
        const TYPE_BITS: u32 = 6;
        TYPE_MARK << TYPE_BITS | if self.ipv4 { 7 } else { 8 }
    }
}

impl Content {
    fn of(policy: &Policy, reqids: &HashMap<Carries, u32>) -> Self {
        let own = policy.own.iter().map(IpNet::trunc).collect();
        let flow = |(carries, reqid): (&Carries, &u32)| match carries {
            Carries::Flow(selector) => Some((*reqid, *selector)),
            Carries::Of(..) => None,
        };
        let flows = reqids.iter().filter_map(flow).collect();
        Content { own, pairs: SETS.each_ref().map(|set| pairs(policy, reqids, set).collect()), flows }
    }

    /// Whether the rules are the same, and only elements may differ.
    fn has_rules_of(&self, other: &Self) -> bool {
        self.own == other.own && self.flows == other.flows
    }
}

/// The elements of a set. The own prefixes are refused before.
fn pairs<'a>(
    policy: &'a Policy,
    reqids: &'a HashMap<Carries, u32>,
    set: &'a Set,
) -> impl Iterator<Item = (u32, IpNet)> + 'a {
    policy.senders.iter().flat_map(move |(member, prefixes)| {
        let reqid = reqids.get(&Carries::Of(*member, set.kind)).copied();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::batch::attributes;
    use crate::xfrm::spd::tests::{ALICE, BOB, nets};

    #[test]
    fn pairs_are_of_one_family_and_of_who_has_a_number() {
        let senders = HashMap::from([
            (ALICE, nets(&["2001:db8::/65", "2001:db8::8000:0:0:0/65", "10.1.0.0/16"])),
            (BOB, nets(&["2001:db8:b::/64"])),
        ]);
        let policy = Policy { senders, ..Policy::default() };
        let reqids = HashMap::from([
            (Carries::Of(ALICE, SaKind::Group), 7),
            (Carries::Of(BOB, SaKind::Unicast), 8),
            (Carries::Flow(Selector::new("10.9.0.0/16".parse().unwrap(), "10.2.0.0/16".parse().unwrap())), 9),
        ]);
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
}
