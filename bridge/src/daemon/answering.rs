//! What is asked at the control socket, and the answers.

use muster_wire::MemberId;
use serde_json::{Value, json};

use super::Daemon;
use crate::clock::{now, unix_seconds};
use crate::control::Request;
use crate::status::{self, Status};

impl Daemon {
    pub(super) async fn answer(&mut self, request: &Request) -> Result<Value, String> {
        let json = |value: Result<Value, serde_json::Error>| value.map_err(|error| error.to_string());
        match request {
            Request::Status => json(serde_json::to_value(self.status())),
            Request::Members => {
                let since = |member: &MemberId| self.member_since.get(member).copied().unwrap_or_default();
                let own = (self.address, self.own_prefixes.as_slice());
                json(serde_json::to_value(status::members(&self.engine, &self.plane, own, since)))
            }
            Request::Neighbors => json(serde_json::to_value(status::neighbors(&self.engine, now()))),
            Request::Sas { show_keys } if *show_keys && !self.settings.file.dataplane.allow_key_export => {
                Err("keys are not shown: dataplane.allow_key_export is false in the configuration".into())
            }
            Request::Sas { show_keys } => Ok(status::sas(self.plane.dataplane(), self.address, *show_keys)),
            Request::Routes => Ok(status::routes(&self.engine, &self.plane)),
            Request::Events => json(serde_json::to_value(self.outside.report.log.lines().collect::<Vec<_>>())),
            Request::Reload => self.reload().await.map(|changed| json!({ "changed": changed })),
            Request::Rekey => {
                self.engine.rekey(now());
                Ok(json!({}))
            }
            Request::Leave => {
                self.successor = None;
                self.leave();
                Ok(json!({}))
            }
            _ => Err("this daemon is no key server".into()),
        }
    }

    pub(super) fn status(&self) -> Status {
        let own = self.engine.discovery().own_identity();
        let members = self.engine.keyagree().members().count();
        Status {
            device: own.name.clone(),
            organisation: own.organisation.clone(),
            member_id: own.member.to_string(),
            version: env!("CARGO_PKG_VERSION"),
            uptime_ms: self.outside.begun.elapsed().as_millis() as u64,
            state: match members {
                _ if self.engine.keyagree().is_joining() => "joining",
                1 => "alone",
                _ => "member",
            },
            black_address: (!self.adrift).then_some(self.address),
            certificate: status::certificate(own.not_after, unix_seconds()),
            group: status::group(&self.engine, &self.settings.file.group.name, self.epoch_since),
            dataplane: status::dataplane(self.plane.dataplane(), self.plane.reason(), self.plane.left()),
            revocation_lists: status::revocation_lists(&self.engine),
            datagrams: status::datagrams(&self.engine),
        }
    }
}
