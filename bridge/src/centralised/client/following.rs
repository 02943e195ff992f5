//! The machine's addresses change, or its configuration.

use super::starting::{gcks_of, shown};
use super::*;
use crate::addresses::{addresses, black_address};
use crate::daemon::own_prefixes;

impl Client {
    /// Something about interfaces or addresses has changed. Whether the client is to start anew: its tunnels begin and end at
    /// its black address, by which the key server knows it.
    pub(super) fn follow_addresses(&mut self) -> bool {
        let black = &self.file.black;
        let all = addresses(&black.interface).unwrap_or_default();
        let index = interface_index(&black.interface).ok();
        let ipv4 = self.address.is_ipv4();
        let address = index.and_then(|_| black_address(&all, black.address, ipv4, Some(self.address)));
        if address != Some(self.address) || index != Some(self.index) {
            let told = address.map_or("none now".to_owned(), |address| address.to_string());
            warn!(was = %self.address, is = told, "the address on black has changed: starting anew");
            self.tell(EventKind::Address, told);
            return true;
        }
        self.follow_red();
        false
    }

    /// The own prefixes follow the red interfaces' addresses, unless they are configured.
    fn follow_red(&mut self) {
        let own = match own_prefixes(&self.file) {
            Ok(own) if own != self.own_prefixes => own,
            _ => return,
        };
        let list = own.iter().map(IpNet::to_string).collect::<Vec<_>>().join(" ");
        match muster_dataplane::block(&self.file.block_config(own.clone())) {
            Ok(_) => {
                self.flows.dataplane().set_own_prefixes(own.clone());
                self.own_prefixes = own;
                self.tell(EventKind::Prefixes, list);
            }
            Err(error) => warn!(prefixes = list, "the red interfaces' prefixes are not taken: {error}"),
        }
    }

    /// What is in the files of certificates, the log's level and what may go unprotected follow; all else takes a restart, and is
    /// refused.
    pub(super) fn reload(&mut self) -> Result<Vec<&'static str>, String> {
        let outcome = self.read_again();
        match &outcome {
            Ok(changed) => self.tell(EventKind::Reloaded, changed.join(" ")),
            Err(why) => self.tell(EventKind::ReloadRefused, why.clone()),
        }
        outcome
    }

    fn read_again(&mut self) -> Result<Vec<&'static str>, String> {
        let new = File::load(&self.config).map_err(|error| error.to_string())?;
        let allowed = |file: &File| file.gcks.as_ref().map(|gcks| gcks.allow_bypass.clone()).unwrap_or_default();
        let mut same = File { log: self.file.log.clone(), ..new.clone() };
        same.gcks.iter_mut().for_each(|gcks| gcks.allow_bypass = allowed(&self.file));
        if same != self.file {
            return Err("more than [log] and gcks.allow_bypass has changed: that takes a restart".into());
        }
        let gcks = gcks_of(&self.config, &new).map_err(|error| error.to_string())?;
        let (certificates, credentials) = shown(&self.config, gcks, self.address).map_err(|error| error.to_string())?;
        let mut changed = certificates.changes(&self.certificates);
        if !certificates.shows_the_same(&self.certificates) {
            certificates.check_time(unix_seconds()).map_err(|error| error.to_string())?;
            self.member.present(now(), credentials);
        }
        self.certificates = certificates;
        changed.extend((new.log.level != self.file.log.level).then_some("log.level"));
        (self.outside.set_level)(&new.log.level);
        if allowed(&new) != allowed(&self.file) {
            changed.push("gcks.allow_bypass");
            self.change_bypass(|flows| Ok(flows.allow(allowed(&new))?));
        }
        self.file = new;
        Ok(changed)
    }
}
