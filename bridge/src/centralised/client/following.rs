//! The machine's addresses change, or its configuration.

use super::starting::{gcks_of, one_way};
use super::*;
use crate::addresses::{addresses, black_address};
use crate::centralised::Named;
use crate::daemon::own_prefixes;
use crate::reload::{followed, told};
use crate::settings::DeviceSection;

/// What can change while the client runs, beside what the named files hold.
const FOLLOWED: [&str; 4] = ["gcks.local_identity", "gcks.allow_bypass", "log.level", "metrics.listen"];

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

    /// What is in the files that `[gcks]` names and the keys in [`FOLLOWED`] follow, and what is not looked at may change; all else
    /// takes a restart, and is refused.
    pub(super) async fn reload(&mut self) -> Result<Vec<&'static str>, String> {
        self.outside.notifier.reloading();
        let done = self.read_again().await;
        let (kind, detail) = told(&done);
        self.tell(kind, detail);
        self.outside.notifier.ready();
        done
    }

    async fn read_again(&mut self) -> Result<Vec<&'static str>, String> {
        let new = File::load(&self.config).map_err(|error| error.to_string())?;
        let keys = followed(self.file.differing(&new), &files(), &FOLLOWED)?;
        let gcks = gcks_of(&self.config, &new).map_err(|error| error.to_string())?;
        let allowed = gcks.allow_bypass.clone();
        let shown = Shown::load(&self.config, gcks, self.address).map_err(|error| error.to_string())?;
        shown.certificates.follow(&self.shown.certificates)?;
        let metrics = self.outside.metrics.prepare(new.metrics.as_ref()).await.map_err(|error| error.to_string())?;
        let mut changed = shown.changes(&self.shown);
        if !shown.shows_the_same(&self.shown) {
            shown.certificates.check_time(unix_seconds()).map_err(|error| error.to_string())?;
            match self.numbers {
                None => self.member.present(now(), shown.credentials(), shown.secret.clone()),
                Some(_) => {
                    let taken = one_way(&self.config, &new, gcks, self.address, &shown);
                    let (settings, numbers) = taken.map_err(|error| error.to_string())?;
                    self.member.take_under(&settings);
                    self.numbers = Some(numbers);
                }
            }
        }
        self.shown = shown;
        // Who shares a secret now looks at no certificate.
        if self.shown.certificates.anchors().is_some()
            && changed.iter().any(|key| matches!(*key, "gcks.trust_anchors" | "gcks.crls"))
            && let Err(why) = self.member.review(now(), &self.shown.certificates)
        {
            warn!("the key server is not obeyed until it shows another certificate: {why}");
        }
        (self.outside.set_level)(&new.log.level);
        remarks(&new).iter().for_each(|remark| warn!("{remark}"));
        self.outside.metrics.take(metrics);
        if keys.contains(&"gcks.allow_bypass") {
            self.change_flows(|flows| Ok(flows.allow(allowed)?));
        }
        self.file = new;
        changed.extend(keys);
        Ok(changed)
    }
}

/// Keys that name files, and those that are not looked at (`check::remarks`).
fn files() -> Vec<&'static str> {
    [&Named::KEYS[..], &["gcks.secret_file"], &DeviceSection::OF_MESH, &["trust"]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{GcksAt, LogSection, MetricsSection};

    const NOW: &str = "[device]\n\n[black]\ninterface = \"black0\"\n\n[group]\nmode = \"centralised\"\n\n[gcks]\naddress = \"192.0.2.9\"\nsecret_file = \"a.psk\"\n";
    const CERTIFIED: &str =
        "certificate = \"a.pem\"\nprivate_key = \"a.key\"\ntrust_anchors = [\"ca.pem\"]\ncrls = [\"crl.pem\"]";

    #[test]
    fn what_follows_is_told_from_what_takes_a_restart() {
        let parse = |text: &str| File::parse("muster.toml".as_ref(), text).unwrap();
        let now = parse(NOW);
        for (was, is, restart) in [
            ("[gcks]", "[log]\nlevel = \"debug\"\n\n[gcks]", ""),
            ("[gcks]", "[metrics]\nlisten = \"127.0.0.1:1\"\n\n[gcks]", ""),
            ("[gcks]", "[gcks]\nallow_bypass = [\"198.51.100.0/24\"]", ""),
            ("a.psk", "b.psk", ""),
            ("secret_file = \"a.psk\"", CERTIFIED, ""),
            ("[device]", &format!("[device]\n{CERTIFIED}\n"), ""),
            ("[gcks]", "[gcks]\nlocal_identity = \"a.example\"", ""),
            ("[black]", "[trust.\"Alpha\"]\nprefixes = []\n\n[black]", ""),
            ("[gcks]", "[log]\nlevel = \"debug\"\nformat = \"json\"\n\n[gcks]", "log.format"),
            ("[gcks]", "[gcks]\nport = 849\nlegacy = true", "gcks.port, gcks.legacy"),
            ("black0", "black1", "black.interface"),
        ] {
            assert!(NOW.contains(was), "{was}");
            let new = parse(&NOW.replacen(was, is, 1));
            let refused = if restart.is_empty() { None } else { Some(format!("{restart}: needs a restart")) };
            assert_eq!(followed(now.differing(&new), &files(), &FOLLOWED).err(), refused, "{is}");
        }
    }

    #[test]
    fn what_is_followed_are_keys() {
        let keys = [DeviceSection::KEYS, GcksAt::KEYS, LogSection::KEYS, MetricsSection::KEYS, &["trust"]].concat();
        assert!(FOLLOWED.iter().chain(&files()).all(|key| keys.contains(key)));
    }
}
