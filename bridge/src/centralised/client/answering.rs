//! What is asked at a client's control socket, and the answers.

use serde_json::{Value, json};

use super::{Client, EventKind, now, unix_seconds};
use crate::centralised::flows::{member_of, selector};
use crate::control::Request;
use crate::status;

impl Client {
    pub(super) async fn answer(&mut self, request: &Request) -> Result<Value, String> {
        match request {
            Request::Status => self.status(),
            Request::Sas { show_keys } if *show_keys && !self.file.dataplane.allow_key_export => {
                Err("keys are not shown: dataplane.allow_key_export is false in the configuration".into())
            }
            Request::Sas { show_keys } => Ok(status::sas(self.flows.dataplane(), self.address, *show_keys)),
            Request::Events => {
                let lines: Vec<_> = self.outside.report.log.lines().collect();
                serde_json::to_value(lines).map_err(|error| error.to_string())
            }
            Request::Reload => self.reload().await.map(|changed| json!({ "changed": changed })),
            Request::Leave => Ok(json!({})),
            Request::Members => Ok(self.members()),
            Request::Neighbors => Ok(self.neighbors()),
            Request::Routes => Ok(self.routes()),
            Request::Rekey => Err("the key server changes keys: muster gcks push".into()),
            _ => Err("this daemon is no key server".into()),
        }
    }

    /// Ourselves: who else is a member the key server alone knows.
    fn members(&self) -> Value {
        json!([{
            "mode": "centralised",
            "name": self.file.device.name,
            "organisation": null,
            "member_id": member_of(self.address).to_string(),
            "slot": null,
            "address": self.address,
            "is_transaction_manager": false,
            "self": true,
            "prefixes": self.own_prefixes,
            "since_ms": null,
        }])
    }

    /// The key server.
    fn neighbors(&self) -> Value {
        json!([{
            "name": "key server",
            "member_id": member_of(self.server.ip()).to_string(),
            "address": self.server.ip(),
            "state": if self.is_told() { "up" } else { "suspect" },
            "reason": if self.is_told() { Value::Null } else { self.connection.last_failure()["detail"].take() },
            "last_hello_ms": null,
            "hello_interval_ms": null,
        }])
    }

    /// Whether the key server is there, as far as we can know.
    pub(super) fn is_told(&self) -> bool {
        self.member.is_connected() || self.member.heard().is_some()
    }

    fn state(&self) -> &'static str {
        match (self.numbers.is_some(), self.is_told()) {
            (false, true) => "connected",
            (false, false) => "connecting",
            // Without a return channel.
            (true, true) => "receiving",
            (true, false) => "waiting",
        }
    }

    /// What red unicast goes to which router.
    fn routes(&self) -> Value {
        let unicast = self.flows.sent().filter(|flow| !flow.tunnel.1.is_multicast());
        let routes = unicast.map(|flow| {
            json!({
                "prefix": flow.destination.0,
                "member": member_of(flow.tunnel.1).to_string(),
                "name": null,
                "address": flow.tunnel.1,
                "selector": selector(&flow.selector()).to_string(),
            })
        });
        Value::Array(routes.collect())
    }

    /// What goes unprotected, and what the key server would have go so.
    fn bypass(&self) -> Value {
        let bypass = &self.flows.bypass;
        let granted: Vec<String> = bypass.granted().iter().map(ToString::to_string).collect();
        let refused = bypass.refused().iter();
        let refused = refused.map(|(selector, why)| json!({ "selector": selector.to_string(), "reason": why }));
        json!({ "granted": granted, "refused": refused.collect::<Vec<_>>() })
    }

    fn status(&self) -> Result<Value, String> {
        let running = &self.flows.running;
        let dataplane = status::dataplane(self.flows.dataplane(), &running.reason, &[]);
        let groups =
            self.member.listens_to().map(|(address, port)| json!({ "rekey_address": address, "rekey_port": port }));
        Ok(json!({
            "device": self.file.device.name,
            "organisation": null,
            "member_id": member_of(self.address).to_string(),
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_ms": self.outside.begun.elapsed().as_millis() as u64,
            "state": self.state(),
            "black_address": self.address,
            "gcks": self.server,
            "connected_since_ms": self.connection.since_ms,
            // Without a return channel: how long ago it said something new to us.
            "heard_ms": self.member.heard().map(|heard| now().since(heard).as_millis() as u64),
            "last_failure": self.connection.last_failure(),
            "certificate": self.shown.certificates.end().map(|end| status::certificate(end, unix_seconds())),
            "group": {
                "name": self.file.group.name,
                "mode": "centralised",
                // How often the key server has changed keys since the start.
                "epoch": self.outside.report.counts.get(&EventKind::Rekeyed).copied().unwrap_or_default(),
                "members": null,
                "groups": groups.collect::<Vec<_>>(),
                "flows": self.flows.sent().len(),
                // What is to be protected, and has no SA now.
                "stopped": self.flows.stopped().map(|one| selector(one).to_string()).collect::<Vec<_>>(),
            },
            "bypass": self.bypass(),
            "dataplane": serde_json::to_value(dataplane).map_err(|error| error.to_string())?,
            "datagrams": { "refused": self.refused.total() },
        }))
    }
}
