//! What the daemon holds, as JSON. The fields are a contract: they only grow.

use std::net::IpAddr;

use ipnet::IpNet;
use muster_dataplane::{ALGORITHM, Counters, Dataplane, Direction, Dropped, GroupStatus, Listening};
use muster_wire::MemberId;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::engine::Engine;
use crate::expiry::{ends_soon, rfc3339};
use crate::plane::Plane;

/// `muster status`
#[derive(Serialize)]
pub(crate) struct Status {
    pub(crate) device: String,
    pub(crate) organisation: String,
    pub(crate) member_id: String,
    pub(crate) version: &'static str,
    pub(crate) uptime_ms: u64,
    pub(crate) state: &'static str,
    /// `None`: there is none now.
    pub(crate) black_address: Option<IpAddr>,
    pub(crate) certificate: Certificate,
    pub(crate) group: Group,
    pub(crate) dataplane: DataplaneStatus,
    pub(crate) revocation_lists: Vec<List>,
    /// Datagrams of the two protocols that led to nothing, by reason.
    pub(crate) datagrams: Map<String, Value>,
}

/// The newest revocation list of a trust anchor.
#[derive(Serialize)]
pub(crate) struct List {
    organisation: String,
    number: u64,
}

#[derive(Serialize)]
pub(crate) struct Group {
    name: String,
    epoch: u64,
    members: usize,
    transaction_manager: String,
    key_fingerprint: String,
    state_tag: String,
    active: bool,
    since_ms: u64,
}

/// The own one.
#[derive(Serialize)]
pub(crate) struct Certificate {
    /// RFC 3339.
    not_after: String,
    /// Zero when it has ended.
    remaining_ms: u64,
    /// It ends within two weeks.
    expiring: bool,
}

#[derive(Serialize)]
pub(crate) struct DataplaneStatus {
    backend: &'static str,
    /// Why it is that one.
    backend_reason: String,
    pub(crate) sas: usize,
    pub(crate) rx_packets: u64,
    pub(crate) tx_packets: u64,
    pub(crate) dropped: Map<String, Value>,
    /// Own prefixes whose multicast another router of the LAN carries.
    stands_by: Vec<IpNet>,
    /// With dynamic membership: by red interface and protocol.
    listeners: Vec<Listeners>,
}

/// What hosts on a red interface listen to.
#[derive(Serialize)]
pub(crate) struct Listeners {
    interface: String,
    protocol: &'static str,
    /// `None`: this router.
    querier: Option<IpAddr>,
    groups: Vec<ListenedGroup>,
    /// Hosts' wishes for which there was no room.
    refused: u64,
}

#[derive(Serialize)]
struct ListenedGroup {
    group: IpAddr,
    /// `exclude`: all sources but these; `include`: these alone.
    mode: &'static str,
    sources: Vec<IpAddr>,
}

/// A line of `muster members`.
#[derive(Serialize)]
pub(crate) struct Member {
    name: String,
    organisation: String,
    member_id: String,
    slot: u32,
    address: Option<IpAddr>,
    is_transaction_manager: bool,
    #[serde(rename = "self")]
    own: bool,
    prefixes: Vec<IpNet>,
    since_ms: u64,
}

/// A line of `muster neighbors`.
#[derive(Serialize)]
pub(crate) struct Neighbor {
    name: String,
    member_id: String,
    address: IpAddr,
    state: String,
    reason: Option<String>,
    last_hello_ms: u64,
    hello_interval_ms: u64,
}

pub(crate) fn certificate(not_after: u64, unix: u64) -> Certificate {
    let remaining_ms = not_after.saturating_sub(unix).saturating_mul(1000);
    Certificate { not_after: rfc3339(not_after), remaining_ms, expiring: ends_soon(not_after, unix) }
}

pub(crate) fn group(engine: &Engine, name: &str, since_ms: u64) -> Group {
    let (keys, state) = (engine.keyagree().keys(), engine.keyagree().group_state());
    Group {
        name: name.to_owned(),
        epoch: state.epoch,
        members: keys.members.len(),
        transaction_manager: state.instance.tm.to_string(),
        key_fingerprint: keys.fingerprint(),
        state_tag: keys.state_tag(),
        active: state.active,
        since_ms,
    }
}

pub(crate) fn revocation_lists(engine: &Engine) -> Vec<List> {
    let lists = engine.discovery().revocation_lists();
    lists.map(|list| List { organisation: list.organisation.to_owned(), number: list.number }).collect()
}

/// `left`: own prefixes whose multicast another router carries.
pub(crate) fn dataplane(plane: &dyn Dataplane, reason: &str, left: &[IpNet]) -> DataplaneStatus {
    let Counters { rx_packets, tx_packets, dropped } = plane.counters();
    let Dropped { replay, auth, unknown_spi, spoofed, too_big, no_sa, malformed, ecn, io } = dropped;
    let dropped = json!({
        "replay": replay, "auth": auth, "unknown_spi": unknown_spi, "spoofed": spoofed, "too_big": too_big,
        "no_sa": no_sa, "malformed": malformed, "ecn": ecn, "io": io,
    });
    let Value::Object(dropped) = dropped else { unreachable!("an object literal") };
    let sas = plane.sas().len();
    let stands_by = left.to_vec();
    let (backend, backend_reason) = (plane.backend(), reason.to_owned());
    let listeners = plane.listening().into_iter().map(listeners).collect();
    DataplaneStatus { backend, backend_reason, sas, rx_packets, tx_packets, dropped, stands_by, listeners }
}

fn listeners(listening: Listening) -> Listeners {
    let Listening { interface, ipv4, querier, groups, refused } = listening;
    let group = |GroupStatus { group, exclude, sources }| {
        let mode = if exclude { "exclude" } else { "include" };
        ListenedGroup { group, mode, sources }
    };
    let protocol = if ipv4 { "igmp" } else { "mld" };
    Listeners { interface, protocol, querier, groups: groups.into_iter().map(group).collect(), refused }
}

/// Both machines' counters under names of their own.
pub(crate) fn datagrams(engine: &Engine) -> Map<String, Value> {
    datagrams_dropped(engine).map(|(protocol, reason, count)| (format!("{protocol}_{reason}"), count.into())).collect()
}

/// Datagrams that led to nothing: protocol, reason, how many.
pub(crate) fn datagrams_dropped(engine: &Engine) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
    let discovery = engine.discovery().counters().iter().map(|(reason, count)| ("discovery", reason.name(), count));
    let counters = engine.keyagree().counters();
    let keyagree = [
        ("malformed", counters.malformed),
        ("other_group", counters.other_group),
        ("reflected", counters.reflected),
        ("unknown", counters.unknown),
        ("replayed", counters.replayed),
        ("queue_full", counters.queue_full),
        ("signature", counters.signature),
        ("refused", counters.refused),
    ];
    discovery.chain(keyagree.map(|(reason, count)| ("keyagree", reason, count)))
}

/// What the key agreement has done since the start: name, explanation, how often.
pub(crate) fn work(engine: &Engine) -> [(&'static str, &'static str, u64); 10] {
    let counters = engine.keyagree().counters();
    [
        ("epochs", "Epochs entered", counters.epochs),
        ("commits", "Commits made as transaction manager", counters.commits),
        ("claims", "Claims to the place of a transaction manager that was gone", counters.claims),
        ("joins", "Members taken in by hand-overs", counters.joins),
        ("recoveries", "Snapshots that brought this device back", counters.recoveries),
        ("repairs", "Parts of messages asked for again", counters.repairs),
        ("fills", "Blank parents keyed between commits", counters.fills),
        ("disputes", "Fills that were contradicted", counters.disputes),
        ("refreshes", "Members' fresh leaves put into the tree", counters.refreshes),
        ("exposures", "Transaction managers caught with two headers for one epoch", counters.exposures),
    ]
}

pub(crate) fn members(
    engine: &Engine,
    plane: &Plane,
    own: (IpAddr, &[IpNet]),
    since: impl Fn(&MemberId) -> u64,
) -> Vec<Member> {
    let me = engine.discovery().own_identity().member;
    let tm = engine.keyagree().instance().tm;
    engine
        .keyagree()
        .members()
        .map(|(slot, member)| {
            let name = engine.name(&member);
            let is_own = member == me;
            let address = name.and_then(|name| Some(name.address?.ip()));
            Member {
                name: name.map(|name| name.name.clone()).unwrap_or_default(),
                organisation: name.map(|name| name.organisation.clone()).unwrap_or_default(),
                member_id: member.to_string(),
                slot,
                address: if is_own { Some(own.0) } else { address },
                is_transaction_manager: member == tm,
                own: is_own,
                prefixes: if is_own { own.1.to_vec() } else { plane.accepted(&member).to_vec() },
                since_ms: since(&member),
            }
        })
        .collect()
}

pub(crate) fn neighbors(engine: &Engine, now: muster_wire::Time) -> Vec<Neighbor> {
    engine
        .discovery()
        .neighbors(now)
        .map(|neighbor| Neighbor {
            name: neighbor.name,
            member_id: neighbor.member.to_string(),
            address: neighbor.address.ip(),
            state: neighbor.state.to_string(),
            reason: neighbor.reason.map(|reason| reason.to_string()),
            last_hello_ms: neighbor.last_hello.as_millis() as u64,
            hello_interval_ms: neighbor.interval.as_millis() as u64,
        })
        .collect()
}

/// The security associations; with their keys only when asked for, and only where the operator allows it.
pub(crate) fn sas(plane: &dyn Dataplane, own: IpAddr, show_keys: bool) -> Value {
    let keys = if show_keys { plane.export_keys() } else { Vec::new() };
    let lines = plane.sas().into_iter().map(|sa| {
        let mut line = json!({
            "direction": sa.direction.as_str(),
            "kind": sa.kind.as_str(),
            // What we send comes from the address that we have now, whatever it was when the SA was made.
            "source": if sa.direction == Direction::Out { Some(own) } else { sa.source },
            "destination": sa.destination,
            "spi": sa.spi,
            "epoch": sa.epoch,
            "sender": sa.sender.to_string(),
            "packets": sa.packets,
            "bytes": sa.bytes,
            "replay_drops": sa.replay_drops,
            "auth_failures": sa.auth_failures,
        });
        if let Some(receiver) = sa.receiver {
            line["receiver"] = json!(receiver.to_string());
        }
        if let Some(selector) = sa.selector {
            line["selector"] = json!(selector.to_string());
        }
        if let Some(key) = keys.iter().find(|key| key.id.spi == sa.spi && key.id.destination == sa.destination) {
            line["algorithm"] = json!(ALGORITHM);
            line["key"] = json!(key.key_hex.as_str());
        }
        line
    });
    Value::Array(lines.collect())
}

/// What lies behind which neighbour: where red unicast goes.
pub(crate) fn routes(engine: &Engine, plane: &Plane) -> Value {
    let routes = plane.routes().into_iter().flat_map(|(member, prefixes)| {
        let name = engine.name(&member).map(|name| name.name.clone()).unwrap_or_default();
        prefixes
            .into_iter()
            .map(move |prefix| json!({"prefix": prefix, "member": member.to_string(), "name": name.clone()}))
            .collect::<Vec<_>>()
    });
    Value::Array(routes.collect())
}
