//! What is asked at the key server's control socket, and the answers.

use muster_fmke::gcks::{Client, Flow, Gcks};
use muster_fmke::phase1::Refused;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tracing::info;

use super::starting::Working;
use super::{Server, UNWRITABLE};
use crate::centralised::flows::selector;
use crate::centralised::misfits::Misfits;
use crate::clock::now;
use crate::control::Request;

impl Server {
    /// An order is answered when what came of it is on the disk.
    pub(super) async fn answer(&mut self, request: Request, answer: oneshot::Sender<Result<Value, String>>) {
        match self.respond(request).await {
            Ok((value, true)) => self.waiting.push((answer, value)),
            // Whoever asked may be gone.
            Ok((value, false)) => drop(answer.send(Ok(value))),
            Err(why) => drop(answer.send(Err(why))),
        }
    }

    /// The answer, and whether it is one to an order.
    async fn respond(&mut self, request: Request) -> Result<(Value, bool), String> {
        if request == Request::Reload {
            // It is in force whatever the disk does: what is stored is read again by the configuration that was taken.
            return self.reload().await.map(|changed| (json!({ "changed": changed }), false));
        }
        if request == Request::Events {
            let lines: Vec<_> = self.report.log.lines().collect();
            return serde_json::to_value(lines).map(|lines| (lines, false)).map_err(|error| error.to_string());
        }
        if request == Request::Status {
            return Ok((self.status(), false));
        }
        let Some(Working { machine, .. }) = &mut self.working else {
            return Err(UNWRITABLE.into());
        };
        match request {
            Request::Clients => Ok((clients(machine, &self.misfits), false)),
            Request::Groups => Ok((groups(machine), false)),
            Request::Vpns => Ok((vpns(machine), false)),
            Request::Push { group } => {
                if let Some(name) = group.as_ref().filter(|name| !machine.profiles().groups.contains_key(*name)) {
                    return Err(format!("there is no group {name:?}"));
                }
                machine.rekey(now(), group.as_deref());
                Ok((json!({}), true))
            }
            Request::Exclude { clients } => {
                check(machine, &clients)?;
                info!(clients = clients.join(" "), "excluded by command");
                machine.exclude(now(), &clients);
                Ok((json!({}), true))
            }
            Request::Admit { clients } => {
                check(machine, &clients)?;
                info!(clients = clients.join(" "), "admitted by command");
                clients.iter().for_each(|client| machine.admit(now(), client));
                Ok((json!({}), true))
            }
            _ => Err("this daemon is a key server".into()),
        }
    }

    fn status(&self) -> Value {
        let (machine, profiles) = (self.working.as_ref().map(|working| &working.machine), &self.settings.profiles);
        json!({
            "device": "key server",
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_ms": self.begun.elapsed().as_millis() as u64,
            "state": if machine.is_some() { "serving" } else { "failed" },
            "black_address": self.settings.gcks.address,
            "clients": profiles.clients.len(),
            "connected": machine.map_or(0, Gcks::connected),
            "groups": profiles.groups.len(),
            "vpns": profiles.vpns.len(),
            "refused": self.refused.total(),
            "transactions": self.transactions,
        })
    }
}

/// All are known; else nothing is done.
fn check(machine: &Gcks, clients: &[String]) -> Result<(), String> {
    match clients.iter().find(|client| !machine.profiles().clients.contains_key(*client)) {
        Some(stranger) => Err(format!("there is no client {stranger:?}")),
        None => Ok(()),
    }
}

/// Of a client.
pub(super) fn state_of(machine: &Gcks, name: &str, client: &Client) -> &'static str {
    match () {
        () if machine.is_excluded(name) => "excluded",
        () if client.one_way.is_some() => "one-way",
        () if machine.is_connected(name) => "connected",
        () if machine.lapsed(name).is_some() => "lapsed",
        () => "away",
    }
}

/// Why a client that should be there is not, or does not come in with what it shows now, as far as we know.
fn reason(machine: &Gcks, misfits: &Misfits<Refused>, name: &str, state: &str) -> Option<String> {
    match state {
        "lapsed" => machine.lapsed(name).map(|why| format!("its certificate: {why}")),
        // Anybody who forges the client's address can offer what nobody takes.
        "away" | "connected" => {
            let is_hard = |why: &Refused| !matches!(why, Refused::NoProposal | Refused::Notified(_));
            misfits.last(now(), name, is_hard).map(|why| format!("refused: {why}"))
        }
        _ => None,
    }
}

fn clients(machine: &Gcks, misfits: &Misfits<Refused>) -> Value {
    let profiles = machine.profiles();
    let lines = profiles.clients.iter().map(|(name, client)| {
        let state = state_of(machine, name, client);
        let groups: Vec<_> =
            profiles.groups.iter().filter(|(_, group)| group.members.contains(name)).map(|(name, _)| name).collect();
        let is_end = |ends: &[muster_fmke::gcks::End; 2]| ends.iter().any(|end| end.client == *name);
        let vpns: Vec<_> = profiles.vpns.iter().filter(|(_, vpn)| is_end(&vpn.ends)).map(|(name, _)| name).collect();
        let bypass: Vec<_> = client.bypass.iter().map(|one| selector(one).to_string()).collect();
        // Of one that cannot say what came: what was said to it last, and when.
        let told = machine
            .told(now(), name)
            .map(|(number, age)| json!({ "number": number, "age_ms": age.as_millis() as u64 }));
        json!({
            "name": name,
            "address": client.address,
            "state": state,
            "reason": reason(machine, misfits, name, state),
            "told": told,
            "groups": groups,
            "vpns": vpns,
            "bypass": bypass,
        })
    });
    Value::Array(lines.collect())
}

fn groups(machine: &Gcks) -> Value {
    let lines = machine.profiles().groups.iter().map(|(name, group)| {
        let (sas, age) = machine.group_sas(now(), name);
        let flow = |Flow { senders, selector }: &Flow| {
            json!({
                "senders": senders,
                "protocol": selector.protocol,
                "source": selector.source.0,
                "source_port": selector.source.1,
                "group": selector.destination.0,
                "port": selector.destination.1,
                "outer": selector.outer,
            })
        };
        json!({
            "name": name,
            "rekey": std::net::SocketAddr::from(group.rekey),
            "members": group.members,
            // Of them, who is to hold none.
            "excluded": group.members.iter().filter(|member| machine.is_excluded(member)).collect::<Vec<_>>(),
            // Who holds its keys now.
            "present": machine.members(name).collect::<Vec<_>>(),
            "sas": sas,
            "age_ms": age.as_millis() as u64,
            "flows": group.flows.iter().map(flow).collect::<Vec<_>>(),
        })
    });
    Value::Array(lines.collect())
}

fn vpns(machine: &Gcks) -> Value {
    let lines = machine.profiles().vpns.iter().map(|(name, vpn)| {
        let (sas, age) = machine.vpn_sas(now(), name);
        let ends = vpn.ends.each_ref().map(|end| json!({ "client": end.client, "net": end.net, "port": end.port }));
        json!({
            "name": name,
            "ends": ends,
            "protocol": vpn.protocol,
            "sas": sas,
            "age_ms": age.as_millis() as u64,
        })
    });
    Value::Array(lines.collect())
}
