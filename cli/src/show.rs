//! The daemon's answers as tables for people. What is missing in an answer shows as `-`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

mod client;

/// A table of lines and columns, aligned; `columns` marks those of numbers with a leading `>`.
pub(crate) fn table(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(columns.iter().map(|name| name.trim_start_matches('>')));
    // Names come from others: no control character reaches the terminal.
    let clean = |cell: String| cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    for row in rows {
        table.add_row(row.into_iter().map(clean));
    }
    for (column, name) in table.column_iter_mut().zip(columns) {
        column.set_padding((0, 2));
        if name.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// Names and values, one a line.
pub(crate) fn list(rows: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let rows: Vec<_> = rows.into_iter().collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let lines: Vec<String> = rows.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect();
    lines.join("\n")
}

pub(crate) fn status(status: &Value) -> String {
    let (group, plane) = (&status["group"], &status["dataplane"]);
    if client::is_one(group) {
        return list(client::status(status));
    }
    let lists: Vec<String> = lines(&status["revocation_lists"])
        .map(|list| format!("{} {}", text(&list["organisation"]), text(&list["number"])))
        .collect();
    let rows = [
        ("device", format!("{} ({})", text(&status["device"]), text(&status["organisation"]))),
        ("member id", short(&status["member_id"])),
        ("version", text(&status["version"])),
        ("up", milliseconds(&status["uptime_ms"])),
        ("certificate", until(&status["certificate"])),
        ("black address", text(&status["black_address"])),
        ("state", text(&status["state"])),
        ("group", text(&group["name"])),
        ("members", text(&group["members"])),
        ("epoch", format!("{}, for {}", text(&group["epoch"]), age(&group["since_ms"]))),
        ("key", text(&group["key_fingerprint"])),
        ("manager", short(&group["transaction_manager"])),
    ];
    let alone = [
        ("stands by", stands_by(plane)),
        ("revocations", if lists.is_empty() { "no lists".into() } else { lists.join(", ") }),
    ];
    list(rows.into_iter().chain(dataplane(plane)).chain(alone))
}

/// What carries the traffic.
fn dataplane(plane: &Value) -> [(&'static str, String); 4] {
    let dropped: Vec<String> = plane["dropped"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, count)| count.as_u64() != Some(0))
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    let (backend, reason) = (text(&plane["backend"]), text(&plane["backend_reason"]));
    [
        ("data plane", format!("{backend} ({reason}), {} SAs", text(&plane["sas"]))),
        ("packets", format!("{} received, {} sent", text(&plane["rx_packets"]), text(&plane["tx_packets"]))),
        ("dropped", if dropped.is_empty() { "none".into() } else { dropped.join(", ") }),
        ("listened to", listeners(plane)),
    ]
}

fn or_nothing(words: &[String]) -> String {
    if words.is_empty() { "nothing".into() } else { words.join(", ") }
}

fn until(certificate: &Value) -> String {
    let ended = certificate["remaining_ms"] == 0;
    let warning = if certificate["expiring"] == true { ", soon" } else { "" };
    let (verb, warning) = if ended { ("ended", "") } else { ("ends", warning) };
    let advice = if certificate["expiring"] == true { ": put another one in its place" } else { "" };
    format!("{verb} {}{warning}{advice}", text(&certificate["not_after"]))
}

/// For which own prefixes another router of the LAN carries the multicast.
fn stands_by(plane: &Value) -> String {
    let prefixes: Vec<String> = lines(&plane["stands_by"]).map(text).collect();
    if prefixes.is_empty() { "no".into() } else { format!("for multicast of {}", prefixes.join(" ")) }
}

/// How many groups hosts listen to, by interface.
fn listeners(plane: &Value) -> String {
    let links: Vec<String> = lines(&plane["listeners"])
        .map(|link| {
            let asks = if link["querier"].is_null() {
                String::new()
            } else {
                format!(", asked by {}", text(&link["querier"]))
            };
            format!(
                "{} groups by {} on {}{asks}",
                lines(&link["groups"]).count(),
                text(&link["protocol"]),
                text(&link["interface"])
            )
        })
        .collect();
    if links.is_empty() { "all groups, whoever listens".into() } else { links.join("; ") }
}

pub(crate) fn members(members: &Value) -> String {
    if client::is_one(&members[0]) {
        return client::members(members);
    }
    let columns = [">SLOT", "NAME", "ORGANISATION", "MEMBER", "ADDRESS", "SINCE", "ROLE", "PREFIXES"];
    table(
        &columns,
        lines(members).map(|member| {
            let roles = [("is_transaction_manager", "manager"), ("self", "self")];
            let role: Vec<_> = roles.iter().filter(|(key, _)| member[*key] == true).map(|(_, role)| *role).collect();
            let prefixes: Vec<String> = lines(&member["prefixes"]).map(text).collect();
            vec![
                text(&member["slot"]),
                text(&member["name"]),
                text(&member["organisation"]),
                short(&member["member_id"]),
                text(&member["address"]),
                age(&member["since_ms"]),
                or_dash(role.join(", ")),
                or_dash(prefixes.join(" ")),
            ]
        }),
    )
}

pub(crate) fn neighbors(neighbors: &Value) -> String {
    let columns = ["NAME", "MEMBER", "ADDRESS", "STATE", ">LAST HELLO", ">INTERVAL", "REASON"];
    table(
        &columns,
        lines(neighbors).map(|neighbor| {
            vec![
                text(&neighbor["name"]),
                short(&neighbor["member_id"]),
                text(&neighbor["address"]),
                text(&neighbor["state"]),
                milliseconds(&neighbor["last_hello_ms"]),
                milliseconds(&neighbor["hello_interval_ms"]),
                text(&neighbor["reason"]),
            ]
        }),
    )
}

pub(crate) fn sas(sas: &Value, show_keys: bool) -> String {
    let mut columns = vec![
        "DIRECTION",
        "KIND",
        "SOURCE",
        "DESTINATION",
        "SPI",
        ">EPOCH",
        "SENDER",
        ">PACKETS",
        ">BYTES",
        ">REPLAYED",
        ">FORGED",
    ];
    if show_keys {
        columns.extend(["ALGORITHM", "KEY"]);
    }
    table(
        &columns,
        lines(sas).map(|sa| {
            let mut row = vec![
                text(&sa["direction"]),
                text(&sa["kind"]),
                text(&sa["source"]),
                text(&sa["destination"]),
                sa["spi"].as_u64().map_or("-".into(), |spi| format!("0x{spi:08x}")),
                text(&sa["epoch"]),
                short(&sa["sender"]),
                text(&sa["packets"]),
                text(&sa["bytes"]),
                text(&sa["replay_drops"]),
                text(&sa["auth_failures"]),
            ];
            if show_keys {
                row.extend([text(&sa["algorithm"]), text(&sa["key"])]);
            }
            row
        }),
    )
}

pub(crate) fn routes(routes: &Value) -> String {
    // Which mode it is in shows in the first.
    if lines(routes).next().is_none() {
        return "no routes".to_owned();
    }
    if routes[0]["selector"].is_string() {
        return client::routes(routes);
    }
    table(
        &["PREFIX", "NAME", "MEMBER"],
        lines(routes).map(|route| vec![text(&route["prefix"]), text(&route["name"]), short(&route["member"])]),
    )
}

/// One line; they come one by one, so the columns have fixed widths.
pub(crate) fn event(event: &Value) -> String {
    let (time, what, member) = (text(&event["time"]), text(&event["event"]), short(&event["member"]));
    let detail = event["detail"].as_str().unwrap_or_default().replace(char::is_control, " ");
    format!("{time}  {what:10}  {member:12}  {:>5}  {detail}", text(&event["epoch"])).trim_end().to_owned()
}

/// `2h 5m`: two units say enough.
pub(crate) fn duration(duration: Duration) -> String {
    let rounded = match duration.as_secs() {
        0 => Duration::from_millis(duration.as_millis() as u64),
        seconds => Duration::from_secs(seconds),
    };
    let text = humantime::format_duration(rounded).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

pub(crate) fn lines(array: &Value) -> impl DoubleEndedIterator<Item = &Value> {
    array.as_array().into_iter().flatten()
}

pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => or_dash(text.clone()),
        other => other.to_string(),
    }
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}

/// The first twelve hexadecimal digits are enough to tell members apart. With a key server there are none, which are all 0.
pub(crate) fn short(id: &Value) -> String {
    match text(id) {
        id if id.bytes().all(|digit| digit == b'0') => "-".into(),
        id => id.chars().take(12).collect(),
    }
}

pub(crate) fn milliseconds(value: &Value) -> String {
    value.as_u64().map_or("-".into(), |ms| duration(Duration::from_millis(ms)))
}

/// Since a time in Unix milliseconds.
pub(crate) fn age(value: &Value) -> String {
    let Some(since) = value.as_u64().filter(|since| *since > 0) else { return "-".into() };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    duration(now.saturating_sub(Duration::from_millis(since)))
}

#[cfg(test)]
mod tests;
