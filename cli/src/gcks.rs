//! The key server: run it, look at it, command it.

use std::path::Path;

use muster_bridge::GcksFile;
use serde_json::{Value, json};

use crate::args::{GcksCommand, GcksReadArgs, GcksSocket, ReadArgs, Socket};
use crate::output::{Failure, say};
use crate::show::{self, lines, list, milliseconds, table, text};
use crate::{client, daemon, log};

pub(crate) fn run(command: GcksCommand) -> Result<(), Failure> {
    match command {
        GcksCommand::Run { config } => serve(&config),
        GcksCommand::Check { config, json } => daemon::tell(&muster_bridge::check_gcks(&config), json),
        GcksCommand::Status(args) => read(&args, "status", status),
        GcksCommand::Clients(args) => read(&args, "clients", clients),
        GcksCommand::Groups(args) => read(&args, "groups", groups),
        GcksCommand::Vpns(args) => read(&args, "vpns", vpns),
        GcksCommand::Events { args, follow } => {
            client::events(&ReadArgs { socket: at(args.socket), json: args.json }, follow)
        }
        GcksCommand::Push { group, socket } => order(socket, "push", json!({ "group": group })),
        GcksCommand::Reload { config: Some(config), .. } => {
            daemon::reload_at(&Socket { control: GcksFile::load(&config)?.control(&config) })
        }
        GcksCommand::Reload { socket, config: None } => daemon::reload_at(&at(socket)),
        GcksCommand::Exclude { clients, socket } => order(socket, "exclude", json!({ "clients": clients })),
        GcksCommand::Admit { clients, socket } => order(socket, "admit", json!({ "clients": clients })),
    }
}

fn serve(config: &Path) -> Result<(), Failure> {
    let set_level = log::start(&GcksFile::load(config)?.log)?;
    Ok(muster_bridge::run_gcks(config, set_level)?)
}

fn at(socket: GcksSocket) -> Socket {
    Socket { control: socket.control }
}

fn order(socket: GcksSocket, method: &str, params: Value) -> Result<(), Failure> {
    client::call(&at(socket), method, params).map(drop)
}

fn read(args: &GcksReadArgs, method: &str, table: impl Fn(&Value) -> String) -> Result<(), Failure> {
    let answer = client::call(&Socket { control: args.socket.control.clone() }, method, json!({}))?;
    if args.json { say(answer) } else { say(table(&answer)) }
}

fn status(status: &Value) -> String {
    list([
        ("version", text(&status["version"])),
        ("up", milliseconds(&status["uptime_ms"])),
        ("state", text(&status["state"])),
        ("address", text(&status["black_address"])),
        ("clients", format!("{}, {} connected", text(&status["clients"]), text(&status["connected"]))),
        ("groups", text(&status["groups"])),
        ("vpns", text(&status["vpns"])),
        ("refused", format!("{} datagrams", text(&status["refused"]))),
    ])
}

fn clients(clients: &Value) -> String {
    table(
        &["NAME", "ADDRESS", "STATE", "TOLD", "GROUPS", "VPNS", "UNPROTECTED", "REASON"],
        lines(clients).map(|client| {
            // Who is out is in none, whatever its profile says.
            let is_out = client["state"] == "excluded" || client["state"] == "lapsed";
            let shown = |what: &str| if is_out { "-".into() } else { words(&client[what]) };
            let (groups, vpns) = (shown("groups"), shown("vpns"));
            let bypass: Vec<String> = lines(&client["bypass"]).map(text).collect();
            let bypass = if bypass.is_empty() { "-".into() } else { bypass.join("; ") };
            vec![
                text(&client["name"]),
                text(&client["address"]),
                text(&client["state"]),
                told(client),
                groups,
                vpns,
                bypass,
                text(&client["reason"]),
            ]
        }),
    )
}

/// When something was said last to a client without a return channel.
fn told(client: &Value) -> String {
    match &client["told"] {
        Value::Null => "-".into(),
        told => format!("{} ago", milliseconds(&told["age_ms"])),
    }
}

fn groups(groups: &Value) -> String {
    table(
        &["NAME", "REKEY", ">MEMBERS", ">PRESENT", ">SAS", ">AGE", "FLOWS"],
        lines(groups).map(|group| {
            let flows: Vec<String> = lines(&group["flows"]).map(flow).collect();
            let members = lines(&group["members"]).count() - lines(&group["excluded"]).count();
            vec![
                text(&group["name"]),
                text(&group["rekey"]),
                members.to_string(),
                lines(&group["present"]).count().to_string(),
                text(&group["sas"]),
                milliseconds(&group["age_ms"]),
                if flows.is_empty() { "-".into() } else { flows.join("; ") },
            ]
        }),
    )
}

fn flow(flow: &Value) -> String {
    format!("{} from {}", text(&flow["group"]), words(&flow["senders"]))
}

fn vpns(vpns: &Value) -> String {
    let end = |end: &Value| format!("{} {}", text(&end["client"]), text(&end["net"]));
    table(
        &["NAME", "END", "OTHER END", ">SAS", ">AGE"],
        lines(vpns).map(|vpn| {
            let (one, other) = (end(&vpn["ends"][0]), end(&vpn["ends"][1]));
            vec![text(&vpn["name"]), one, other, text(&vpn["sas"]), milliseconds(&vpn["age_ms"])]
        }),
    )
}

fn words(array: &Value) -> String {
    let words: Vec<String> = lines(array).map(show::text).collect();
    if words.is_empty() { "-".into() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_is_not_there_says_why() {
        let shown = clients(&json!([
            {"name": "a", "state": "lapsed", "reason": "its certificate: revoked"},
            {"name": "b", "state": "one-way", "reason": null, "told": {"number": 1_796_000_000, "age_ms": 5000}},
        ]));
        assert!(shown.contains("lapsed") && shown.contains("its certificate: revoked"), "{shown}");
        assert!(shown.contains("5s ago") && !shown.contains("1796000000"), "{shown}");
    }

    #[test]
    fn who_is_out_is_in_no_group_and_no_vpn() {
        for (state, is_in) in [("connected", true), ("away", true), ("excluded", false), ("lapsed", false)] {
            let shown = clients(&json!([{"name": "a", "state": state, "groups": ["video"], "vpns": ["hub-a"]}]));
            assert_eq!((shown.contains("video"), shown.contains("hub-a")), (is_in, is_in), "{shown}");
        }
    }

    #[test]
    fn who_is_excluded_is_no_member() {
        let group = json!({"name": "one", "members": ["a", "b", "c"], "excluded": ["b"], "present": ["a"]});
        let shown = groups(&json!([group]));
        let row: Vec<&str> = shown.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row[2..4], ["2", "1"], "{shown}");
    }
}
