//! What two looks at a daemon amount to: rows, and rates.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::show::{age, lines, milliseconds, short, text};

/// Packets that were counted before, by member, and in all.
type Counted = BTreeMap<String, u64>;

/// What the screen shows.
pub(super) struct Figures {
    /// Names and values at the top, in the order in which they stand.
    pub(super) head: Vec<(&'static str, String)>,
    /// One row a device: a member, or a neighbour that is none.
    pub(super) devices: Vec<[String; COLUMNS]>,
    /// The last things that happened, the newest first.
    pub(super) events: Vec<String>,
    counted: Counted,
}

/// Columns of a device's row.
pub(super) const COLUMNS: usize = 9;
/// What they are called.
pub(super) const HEADINGS: [&str; COLUMNS] =
    ["SLOT", "NAME", "ORGANISATION", "MEMBER", "ADDRESS", "STATE", "HEARD", "PACKETS/S", "PREFIXES"];
/// Under these the packets in all are counted.
const ALL: [&str; 2] = ["rx_packets", "tx_packets"];

impl Figures {
    /// From what the daemon says, and what it said some time before.
    pub(super) fn new(seen: Value, before: Option<(&Figures, Duration)>) -> Figures {
        let counted = count(&seen);
        let rate = |of: &str| {
            let (before, elapsed) = before?;
            // Counters of SAs that are gone are not there any more.
            let more = counted.get(of)?.saturating_sub(*before.counted.get(of)?);
            Some(format!("{:.0}", more as f64 / elapsed.as_secs_f64().max(0.001)))
        };
        let rate = |of: &str| rate(of).unwrap_or_else(|| "-".into());
        Figures {
            head: head(&seen["status"], &ALL.map(rate)),
            devices: devices(&seen, rate),
            events: lines(&seen["events"]).rev().map(crate::show::event).collect(),
            counted,
        }
    }
}

fn count(seen: &Value) -> Counted {
    let plane = &seen["status"]["dataplane"];
    let mut counted: Counted =
        ALL.iter().filter_map(|name| Some(((*name).to_owned(), plane[*name].as_u64()?))).collect();
    for sa in lines(&seen["sas"]).filter(|sa| sa["direction"] == "in") {
        *counted.entry(text(&sa["sender"])).or_default() += sa["packets"].as_u64().unwrap_or_default();
    }
    counted
}

/// With its organisation, if certificates say one.
fn device(status: &Value) -> String {
    let name = text(&status["device"]);
    status["organisation"].as_str().map_or(name.clone(), |organisation| format!("{name} ({organisation})"))
}

fn head(status: &Value, [received, sent]: &[String; 2]) -> Vec<(&'static str, String)> {
    let (group, plane) = (&status["group"], &status["dataplane"]);
    let dropped: u64 = plane["dropped"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
    let own =
        [("device", device(status)), ("state", text(&status["state"])), ("up", milliseconds(&status["uptime_ms"]))];
    let of_group = match group["mode"] == "centralised" {
        true => vec![
            ("key server", text(&status["gcks"])),
            ("connected", age(&status["connected_since_ms"])),
            ("groups", lines(&group["groups"]).count().to_string()),
            ("flows sent", text(&group["flows"])),
        ],
        false => vec![
            ("group", text(&group["name"])),
            ("members", text(&group["members"])),
            ("epoch", format!("{}, for {}", text(&group["epoch"]), age(&group["since_ms"]))),
            ("key", text(&group["key_fingerprint"])),
            ("manager", short(&group["transaction_manager"])),
        ],
    };
    let plane = [
        ("data plane", format!("{}, {} SAs", text(&plane["backend"]), text(&plane["sas"]))),
        ("received", format!("{} ({received}/s)", text(&plane["rx_packets"]))),
        ("sent", format!("{} ({sent}/s)", text(&plane["tx_packets"]))),
        ("dropped", dropped.to_string()),
    ];
    own.into_iter().chain(of_group).chain(plane).collect()
}

fn devices(seen: &Value, rate: impl Fn(&str) -> String) -> Vec<[String; COLUMNS]> {
    let neighbors: BTreeMap<String, &Value> =
        lines(&seen["neighbors"]).map(|neighbor| (text(&neighbor["member_id"]), neighbor)).collect();
    let members: BTreeMap<String, &Value> =
        lines(&seen["members"]).map(|member| (text(&member["member_id"]), member)).collect();
    let nothing = Value::Null;
    let row = |id: &String, member: Option<&Value>| {
        let (neighbor, of_group) = (neighbors.get(id).copied().unwrap_or(&nothing), member.unwrap_or(&nothing));
        let known = member.unwrap_or(neighbor);
        let state = match member {
            Some(member) if member["self"] == true => "self".to_owned(),
            _ => text(&neighbor["state"]),
        };
        let manages = if of_group["is_transaction_manager"] == true { ", manager" } else { "" };
        let prefixes: Vec<String> = lines(&of_group["prefixes"]).map(text).collect();
        [
            text(&of_group["slot"]),
            text(&known["name"]),
            text(&of_group["organisation"]),
            id.chars().take(12).collect(),
            text(&known["address"]),
            format!("{state}{manages}"),
            milliseconds(&neighbor["last_hello_ms"]),
            rate(id),
            // Of who is not in, why.
            if member.is_some() { prefixes.join(" ") } else { text(&neighbor["reason"]) },
        ]
    };
    let mut inside: Vec<&Value> = members.values().copied().collect();
    inside.sort_by_key(|member| member["slot"].as_u64());
    let inside = inside.into_iter().map(|member| row(&text(&member["member_id"]), Some(member)));
    let outside = neighbors.keys().filter(|id| !members.contains_key(*id)).map(|id| row(id, None));
    inside.chain(outside).collect()
}
