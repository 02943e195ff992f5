//! The key server's configuration is read again: all of it is taken, or nothing.

use muster_fmke::gcks::Client;
use tracing::warn;

use super::{Server, UNWRITABLE};
use crate::centralised::Named;
use crate::centralised::settings::GcksSettings;
use crate::clock::{now, unix_seconds};
use crate::reload::{followed, told};
use crate::settings::MetricsSection;

/// Of `[gcks]`, `[log]` and `[metrics]`, what can change while the key server runs, beside what the named files hold.
pub(super) const FOLLOWED: [&str; 2] = ["log.level", "metrics.listen"];

impl Server {
    /// Clients, groups, VPNs, certificates, the log's level and the address for metrics follow. What has changed.
    pub(super) async fn reload(&mut self) -> Result<Vec<&'static str>, String> {
        self.notifier.reloading();
        let done = self.read_again().await;
        let (kind, detail) = told(&done);
        self.tell(kind, detail);
        self.notifier.ready();
        done
    }

    async fn read_again(&mut self) -> Result<Vec<&'static str>, String> {
        let new = GcksSettings::load(&self.settings.path).map_err(|error| error.to_string())?;
        let mut keys = self.settings.gcks.differing(&new.gcks);
        keys.extend(self.settings.log.differing(&new.log));
        keys.extend(MetricsSection::differing_if_any(self.settings.metrics.as_ref(), new.metrics.as_ref()));
        let keys = followed(keys, &Named::KEYS, &FOLLOWED)?;
        let own = !new.known.certificates.shows_the_same(&self.settings.known.certificates);
        if own {
            new.known.certificates.check_time(unix_seconds()).map_err(|error| error.to_string())?;
        }
        let metrics = self.metrics.prepare(new.metrics.as_ref()).await.map_err(|error| error.to_string())?;
        let Some(working) = &mut self.working else {
            return Err(UNWRITABLE.into());
        };
        working.enforce(&new).map_err(|error| format!("gcks.crls: {error}"))?;
        // From here on nothing fails.
        let (was, now_wanted) = (&self.settings.profiles, &new.profiles);
        let mut changed = new.known.certificates.changes(&self.settings.known.certificates);
        for (key, differs) in [
            ("clients", was.clients != now_wanted.clients),
            ("groups", was.groups != now_wanted.groups),
            ("vpns", was.vpns != now_wanted.vpns),
        ] {
            changed.extend(differs.then_some(key));
        }
        changed.extend(keys);
        // Why one that is another now was refused is past.
        let same = |(name, client): &(&String, &Client)| was.clients.get(*name) == Some(client);
        now_wanted.clients.iter().filter(|one| !same(one)).for_each(|(name, _)| self.misfits.forget(name));
        working.machine.configure(now(), new.profiles.clone());
        if own {
            working.machine.present(new.credentials());
        }
        // It checks every client's signatures.
        if changed.iter().any(|key| matches!(*key, "gcks.trust_anchors" | "gcks.crls")) {
            working.review(&new);
        }
        (self.set_level)(&new.log.level);
        new.remarks().for_each(|remark| warn!("{remark}"));
        self.metrics.take(metrics);
        self.settings = new;
        Ok(changed)
    }
}
