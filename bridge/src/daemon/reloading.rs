//! The second phase of SIGHUP: what was read and checked is taken.

use std::io;

use ipnet::IpNet;
use tracing::{info, warn};

use super::{Daemon, own_prefixes, times_of};
use crate::addresses::networks;
use crate::check::warn_of;
use crate::clock::{now, unix_seconds};
use crate::metrics::Rebind;
use crate::reload::{Reload, ReloadError, prepare, told};
use crate::settings::File;

impl Daemon {
    /// Reads everything again and takes it, or says why not and stays as it is. The keys of what has changed.
    pub(super) async fn reload(&mut self) -> Result<Vec<&'static str>, String> {
        self.outside.notifier.reloading();
        let done = self.try_reload().await.map_err(|error| error.to_string());
        let (kind, detail) = told(&done);
        self.engine.record(kind, None, detail);
        self.outside.notifier.ready();
        done
    }

    /// The data plane, the block and the neighbours follow. Nothing has changed when it fails.
    pub(super) fn set_own_prefixes(&mut self, file: &File, own: Vec<IpNet>) -> io::Result<()> {
        if own == self.own_prefixes {
            return Ok(());
        }
        muster_discovery::check_prefixes(&own).map_err(io::Error::other)?;
        muster_dataplane::block(&file.block_config(own.clone())).map_err(io::Error::other)?;
        self.engine.set_prefixes(now(), own.clone()).map_err(io::Error::other)?;
        self.plane.set_own(own.clone());
        self.own_prefixes = own;
        Ok(())
    }

    /// Judges again what the members announce, by these bounds and the own prefixes.
    pub(super) fn review_bounds(&mut self, file: &File) {
        for (member, verdict) in
            self.bounds.replace(&file.trust, self.own_prefixes.clone(), networks(&file.black.interface))
        {
            self.accept(member, verdict);
        }
    }

    /// What can fail comes first; from `take` on nothing fails.
    async fn try_reload(&mut self) -> Result<Vec<&'static str>, ReloadError> {
        if self.leaving {
            return Err(ReloadError::Leaving);
        }
        let reload = prepare(&self.settings, unix_seconds())?;
        let metrics = self.outside.metrics.prepare(reload.settings.file.metrics.as_ref()).await;
        let metrics = metrics.map_err(ReloadError::Metrics)?;
        let own = own_prefixes(&reload.settings.file).map_err(|error| ReloadError::Red(io::Error::other(error)))?;
        self.set_own_prefixes(&reload.settings.file, own).map_err(ReloadError::Red)?;
        let changed = reload.changed.clone();
        self.take(reload, metrics);
        Ok(changed)
    }

    fn take(&mut self, reload: Reload, metrics: Rebind) {
        let Reload { settings, trust, changed, renewed } = reload;
        warn_of(&settings);
        let file = &settings.file;
        if changed.contains(&"log.level") {
            (self.outside.set_level)(&file.log.level);
        }
        self.outside.metrics.take(metrics);
        if renewed {
            // Another certificate is another member: this one leaves in order, and the other one joins.
            info!(member = %settings.device.member, "another certificate: leaving, to join under it");
            self.successor = Some(settings);
            self.leave();
            return;
        }
        let (discovery, keyagree) = times_of(file);
        if let Err(error) = self.engine.set_times(now(), &discovery, keyagree) {
            // The settings were checked for the same bounds.
            warn!(%error, "the times stay as they are");
        }
        self.review_bounds(&settings.file);
        if changed.iter().any(|key| ["device.trust_anchors", "device.crls"].contains(key)) {
            self.engine.set_trust(now(), trust);
        }
        self.settings = settings;
    }
}
