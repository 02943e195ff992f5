//! The key server's configuration is read again: all of it is taken, or nothing.

use tracing::{info, warn};

use super::Server;
use super::starting::Working;
use crate::centralised::settings::GcksSettings;
use crate::daemon::now;
use crate::event::EventKind;

impl Server {
    /// Clients, groups, VPNs and the log's level follow. What has changed.
    pub(super) fn reload(&mut self) -> Result<Vec<&'static str>, String> {
        self.notifier.reloading();
        let outcome = self.read_again();
        self.notifier.ready();
        match &outcome {
            Ok(changed) => {
                let changed = changed.join(" ");
                info!(changed, "the configuration was read again");
                self.tell(EventKind::Reloaded, changed);
            }
            Err(why) => {
                warn!("the configuration was read again and is not in force: {why}");
                self.tell(EventKind::ReloadRefused, why.clone());
            }
        }
        outcome
    }

    fn read_again(&mut self) -> Result<Vec<&'static str>, String> {
        let new = GcksSettings::load(&self.settings.path).map_err(|error| error.to_string())?;
        if new.gcks != self.settings.gcks {
            return Err("[gcks] has changed: that takes a restart".into());
        }
        let Some(Working { machine, .. }) = &mut self.working else {
            return Err("the store cannot be written: see the log".into());
        };
        let (was, now_wanted) = (&self.settings.profiles, &new.profiles);
        let mut changed = Vec::new();
        for (key, differs) in [
            ("clients", was.clients != now_wanted.clients),
            ("groups", was.groups != now_wanted.groups),
            ("vpns", was.vpns != now_wanted.vpns),
            ("log.level", self.settings.log.level != new.log.level),
        ] {
            changed.extend(differs.then_some(key));
        }
        machine.configure(now(), new.profiles.clone());
        (self.set_level)(&new.log.level);
        self.settings = new;
        Ok(changed)
    }
}
