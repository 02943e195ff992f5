//! Of a router with a key server: what is true of it, in place of what a member of the mesh has.

use serde_json::Value;

use super::{age, dataplane, lines, milliseconds, or_dash, or_nothing, table, text, until};

/// Whether an answer is one of a router with a key server.
pub(super) fn is_one(answer: &Value) -> bool {
    answer["mode"] == "centralised"
}

/// Beside what every daemon has.
pub(super) fn status(status: &Value) -> Vec<(&'static str, String)> {
    let group = &status["group"];
    let at = |group: &Value| format!("{} port {}", text(&group["rekey_address"]), text(&group["rekey_port"]));
    let groups: Vec<String> = lines(&group["groups"]).map(at).collect();
    let without: Vec<String> = lines(&group["stopped"]).map(text).collect();
    let failure = &status["last_failure"];
    let mut rows = vec![
        ("device", text(&status["device"])),
        ("version", text(&status["version"])),
        ("up", milliseconds(&status["uptime_ms"])),
        ("black address", text(&status["black_address"])),
        ("state", text(&status["state"])),
        ("key server", format!("{}{}", text(&status["gcks"]), since(status))),
        (
            "last failure",
            match failure {
                Value::Null => "none".into(),
                failure => format!("{} ago: {}", age(&failure["at_ms"]), text(&failure["detail"])),
            },
        ),
        ("groups", format!("{}, new keys at {}", groups.len(), or_nothing(&groups))),
        ("new keys", format!("{} times since the start", text(&group["epoch"]))),
        ("flows sent", text(&group["flows"])),
    ];
    if status["certificate"].is_object() {
        rows.insert(3, ("certificate", until(&status["certificate"])));
    }
    rows.extend(dataplane(&status["dataplane"]));
    rows.extend([("without SAs", or_nothing(&without)), ("unprotected", unprotected(&status["bypass"]))]);
    rows
}

/// How long it is there, or was heard.
fn since(status: &Value) -> String {
    match (&status["connected_since_ms"], &status["heard_ms"]) {
        (Value::Null, Value::Null) => String::new(),
        (Value::Null, heard) => format!(", heard {} ago", milliseconds(heard)),
        (since, _) => format!(", for {}", age(since)),
    }
}

/// What goes to black as it is, and what the key server would have go so.
fn unprotected(bypass: &Value) -> String {
    let granted: Vec<String> = lines(&bypass["granted"]).map(text).collect();
    let refused = lines(&bypass["refused"]);
    let refused = refused.map(|one| format!("; refused {}: {}", text(&one["selector"]), text(&one["reason"])));
    or_nothing(&granted) + &refused.collect::<String>()
}

/// Itself, and who knows the others.
pub(super) fn members(members: &Value) -> String {
    let own = lines(members).map(|member| {
        let prefixes: Vec<String> = lines(&member["prefixes"]).map(text).collect();
        vec![text(&member["name"]), text(&member["address"]), "self".to_owned(), or_dash(prefixes.join(" "))]
    });
    let own = table(&["NAME", "ADDRESS", "ROLE", "PREFIXES"], own);
    format!("{own}\nThe key server alone knows the other members: there, muster gcks clients and muster gcks groups.")
}

/// What unicast goes to which router.
pub(super) fn routes(routes: &Value) -> String {
    table(
        &["PREFIX", "ROUTER", "FLOW"],
        lines(routes).map(|route| vec![text(&route["prefix"]), text(&route["address"]), text(&route["selector"])]),
    )
}
