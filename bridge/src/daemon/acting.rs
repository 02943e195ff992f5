//! What the engine wants is done: datagrams go out, keys and routes to the data plane, records to whoever follows.

use ipnet::IpNet;
use muster_wire::MemberId;
use tracing::warn;

use super::Daemon;
use crate::clock::{now, unix_millis};
use crate::engine::Action;
use crate::event::{EventKind, Record};
use crate::lists;
use crate::pairing::UnicastChange;
use crate::trust::Verdict;

impl Daemon {
    /// Does what the engine wants, until it wants nothing more.
    pub(super) fn act(&mut self) {
        loop {
            if let Some(action) = self.engine.poll_action() {
                self.carry_out(action);
                self.share();
            } else if let Some((port, transmit)) = self.engine.poll_transmit() {
                if let Err(error) = self.sockets.send(port, &transmit) {
                    self.unsent += 1;
                    if self.unsent.is_power_of_two() {
                        warn!(%error, count = self.unsent, to = ?transmit.to, "a datagram could not be sent");
                    }
                }
            } else {
                return;
            }
        }
    }

    /// Two routers on one LAN: one of them carries its multicast.
    pub(super) fn share(&mut self) {
        let me = self.settings.device.member;
        if let Some(left) = self.plane.share(me) {
            let list: Vec<String> = left.iter().map(IpNet::to_string).collect();
            let detail = if list.is_empty() { "nothing".into() } else { list.join(" ") };
            self.engine.record(EventKind::StandsBy, None, detail);
        }
    }

    pub(super) fn carry_out(&mut self, action: Action) {
        let done = match action {
            Action::Install(keys) => {
                let (header, epoch) = (keys.header, keys.epoch);
                self.note_members(&keys);
                let engine = &self.engine;
                let address_of = |member: &MemberId| Some(engine.name(member)?.address?.ip());
                let installed = self.plane.install(keys, address_of);
                if installed.is_ok() {
                    self.report(&Record { kind: EventKind::Installed, member: None, epoch, detail: String::new() });
                    self.engine.installed(now(), header);
                }
                installed
            }
            Action::Activate { header } => self.plane.activate(&header, Some(self.address)),
            Action::Retire { header } => self.plane.retire(&header),
            Action::Prefixes { member, prefixes } => {
                let organisation = self.engine.name(&member).map(|name| name.organisation.clone()).unwrap_or_default();
                let verdict = self.bounds.judge(member, &organisation, prefixes);
                self.accept(member, verdict);
                // What it has given up may be what another was refused.
                for (member, verdict) in self.bounds.review_refused() {
                    self.accept(member, verdict);
                }
                Ok(())
            }
            Action::Reach { member, address } => {
                self.plane.reach(member, address);
                Ok(())
            }
            Action::Unicast(change) => {
                let own = (self.engine.discovery().own_identity().member, self.address);
                let is_new = matches!(change, UnicastChange::Receive { .. } | UnicastChange::Send { .. });
                let changed = self.plane.unicast(change, own);
                if is_new && changed.is_err() {
                    // A neighbour that was forgotten and came back with the same key, or has another's address and SPI; or
                    // the kernel had no room: the next key gets another chance.
                    self.engine.renew_hello_key(now());
                }
                changed
            }
            Action::Record(record) => {
                self.report(&record);
                Ok(())
            }
            Action::Keep { issuer, list } => {
                let folder = self.settings.resolve(&self.settings.file.device.state_dir);
                if let Err(error) = lists::keep(&folder, &issuer, &list) {
                    // In force until this process ends; neighbours will bring it again.
                    warn!(%error, folder = %folder.display(), "a revocation list could not be kept");
                }
                Ok(())
            }
            Action::Left => {
                self.left = true;
                Ok(())
            }
            Action::Revoked => {
                self.revoked = true;
                Ok(())
            }
        };
        if let Err(error) = done {
            // Traffic under this epoch fails closed; the next one gets another chance.
            warn!(%error, "the data plane refused");
            self.engine.record(EventKind::Refused, None, format!("data plane: {error}"));
        }
    }

    /// Takes a verdict on what a member announces to the data plane.
    pub(super) fn accept(&mut self, member: MemberId, (accepted, refused): Verdict) {
        if !refused.is_empty() {
            let all: Vec<String> = refused.iter().map(|(prefix, why)| format!("{prefix}: {why}")).collect();
            self.engine.record_refusal(now(), member, format!("prefixes: {}", all.join("; ")));
        }
        self.plane.accept(member, accepted);
    }

    pub(super) fn note_members(&mut self, keys: &muster_keyagree::EpochKeys) {
        let at = unix_millis();
        self.epoch_since = at;
        let members: Vec<MemberId> = keys.members.iter().map(|(_, member)| *member).collect();
        self.member_since.retain(|member, _| members.contains(member));
        for member in members {
            self.member_since.entry(member).or_insert(at);
        }
    }
}
