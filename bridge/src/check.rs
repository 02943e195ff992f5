//! What is wrong with a configuration, and whether this machine can run it.

use std::net::IpAddr;
use std::path::Path;

use muster_dataplane::Probe;
use muster_fmke::gcks::Profiles;
use muster_fmke::isakmp::Identity;
use muster_fmke::phase1::ManualKey;
use tracing::warn;

use crate::addresses::{addresses, black_address, duplicates, interface_index, networks};
use crate::centralised::{Certificates, GcksSettings, SHORT_KEY, identity, read_secret, remark_on_port};
use crate::clock::unix_seconds;
use crate::expiry::rfc3339;
use crate::lists;
use crate::settings::{File, GcksAt, Settings, resolve};
use crate::trust::overlap;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Nothing stands in the way.
    pub ok: bool,
    /// What was looked at, and what is to be done.
    pub what: String,
}

/// Looks at everything and changes nothing.
pub fn check(path: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Ok(file) = File::load(path)
        && file.is_centralised()
    {
        return check_client(path, &file);
    }
    let settings = match Settings::load(path) {
        Ok(settings) => settings,
        Err(error) => return vec![Finding { ok: false, what: error.to_string() }],
    };
    let mut add = |ok, what: String| findings.push(Finding { ok, what });
    add(true, format!("{}: understood", path.display()));
    let file = &settings.file;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let state_dir = settings.resolve(&file.device.state_dir);
    let validated = settings.trust().map(|mut trust| {
        lists::restore(&state_dir, &mut trust);
        trust.validate(&settings.device.chain, now)
    });
    match validated {
        Ok(Ok(identity)) => add(true, format!("certificate of {} ({})", identity.name, identity.organisation)),
        Ok(Err(error)) => add(false, format!("{}: {error}", file.device.certificate.display())),
        Err(error) => add(false, error.to_string()),
    }
    strangers(&settings).into_iter().for_each(|what| add(false, what));
    if let Some(why) = settings.key_exposure {
        add(false, format!("{}: {why}", settings.resolve(&file.device.private_key).display()));
    }
    findings.extend(interfaces(file));
    findings.extend(machine(file));
    findings
}

/// A client of a key server.
fn check_client(path: &Path, file: &File) -> Vec<Finding> {
    let mut findings = vec![Finding { ok: true, what: format!("{}: understood", path.display()) }];
    if let Some(gcks) = &file.gcks {
        findings.extend(match &gcks.secret_file {
            Some(secret) => vec![secret_shared(&resolve(path, secret), gcks)],
            None => certificates_shown(path, file, gcks),
        });
    }
    findings.extend(remarks(file).into_iter().map(|what| Finding { ok: true, what }));
    findings.extend(interfaces(file));
    findings.extend(machine(file));
    findings
}

/// The same of a key server.
pub fn check_gcks(path: &Path) -> Vec<Finding> {
    let loaded = GcksSettings::load(path).and_then(|settings| {
        settings.known.certificates.check_time(unix_seconds())?;
        Ok(settings)
    });
    let settings = match loaded {
        Ok(settings) => settings,
        Err(error) => return vec![Finding { ok: false, what: error.to_string() }],
    };
    let mut findings = vec![Finding { ok: true, what: format!("{}: understood", path.display()) }];
    findings.extend(settings.remarks().map(|what| Finding { ok: true, what }));
    let gcks = &settings.gcks;
    findings.push(black("gcks", &gcks.interface, Some(gcks.address), gcks.address.is_ipv4()));
    let ends = settings.known.certificates.validities().map(|(path, (_, end))| {
        let what = format!("{}: shown to clients, until {}", path.display(), rfc3339(end));
        Finding { ok: true, what }
    });
    findings.extend(ends);
    let Profiles { clients, groups, vpns } = &settings.profiles;
    let what = format!("clients: {}, groups: {}, VPNs: {}", clients.len(), groups.len(), vpns.len());
    findings.push(Finding { ok: true, what });
    findings
}

fn secret_shared(secret: &Path, gcks: &GcksAt) -> Finding {
    let server = gcks.address;
    match read_secret(secret) {
        Ok(octets) if !gcks.return_channel && ManualKey::new(octets.clone()).is_err() => {
            Finding { ok: false, what: format!("{}: {SHORT_KEY}", secret.display()) }
        }
        Ok(_) => {
            Finding { ok: true, what: format!("{}: the secret shared with the key server {server}", secret.display()) }
        }
        Err(error) => Finding { ok: false, what: error.to_string() },
    }
}

fn certificates_shown(path: &Path, file: &File, gcks: &GcksAt) -> Vec<Finding> {
    // Without an address on black, which is told of below, what is said of the certificate is all but whether it bears it.
    let black = addresses(&file.black.interface).unwrap_or_default();
    let black = black_address(&black, file.black.address, file.is_black_ipv4(), None);
    let identity = match (&gcks.local_identity, black) {
        (Some(text), _) => identity(text).ok(),
        (None, address) => address.map(Identity::Address),
    };
    let checked = Certificates::load(path, gcks.named()).and_then(|certificates| {
        identity.map_or(Ok(()), |identity| certificates.check_identity(&identity))?;
        certificates.check_time(unix_seconds())?;
        Ok(certificates)
    });
    match checked {
        Err(error) => vec![Finding { ok: false, what: error.to_string() }],
        Ok(certificates) => {
            let ends = certificates.validities().map(|(path, (_, end))| {
                let what =
                    format!("{}: shown to the key server {}, until {}", path.display(), gcks.address, rfc3339(end));
                Finding { ok: true, what }
            });
            ends.collect()
        }
    }
}

/// What stands in no client's way, and its operator is to know.
pub(crate) fn remarks(file: &File) -> Vec<String> {
    let ports =
        file.gcks.iter().flat_map(|gcks| [("gcks.port", Some(gcks.port)), ("gcks.local_port", gcks.local_port)]);
    let remark = |(key, port): (&str, Option<u16>)| Some(format!("{key}: {}", remark_on_port(port?)?));
    let trust = file.trust.keys().map(|organisation| {
        format!("[trust.{organisation:?}] bounds nobody: the key server says what goes where, and no router announces anything")
    });
    let of_mesh = file.device.of_mesh().filter(|(_, is_there)| *is_there).map(|(key, _)| {
        let here = key.replace("device.", "gcks.");
        format!("{key} is not looked at: with a key server it is {here}, if there is no gcks.secret_file")
    });
    ports.filter_map(remark).chain(trust).chain(of_mesh).collect()
}

/// The interface in this section, and the address that is wanted of it.
fn black(section: &str, interface: &str, wanted: Option<IpAddr>, ipv4: bool) -> Finding {
    let found = interface_index(interface).and_then(|_| addresses(interface));
    let (ok, what) = match found {
        Err(error) => (false, format!("{section}.interface {interface}: {error}")),
        Ok(all) => match black_address(&all, wanted, ipv4, None) {
            Some(address) => (true, format!("black address {address} on {interface}")),
            None => {
                let why = duplicates(&all).map(|why| format!(": {why}")).unwrap_or_default();
                let family = if ipv4 { "IPv4" } else { "IPv6" };
                let wanted = wanted.map_or(format!("{family} address"), |address| format!("address {address}"));
                (false, format!("{section}.interface {interface} has no usable {wanted} yet{why}"))
            }
        },
    };
    Finding { ok, what }
}

fn interfaces(file: &File) -> Vec<Finding> {
    let mut findings = vec![black("black", &file.black.interface, file.black.address, file.is_black_ipv4())];
    let mut add = |ok, what: String| findings.push(Finding { ok, what });
    for red in &file.red.interfaces {
        match interface_index(red) {
            Ok(_) => add(true, format!("red interface {red}")),
            Err(error) => add(false, format!("red.interfaces {red}: {error}")),
        }
    }
    for prefix in file.red.prefixes.iter() {
        if let Some(black) = networks(&file.black.interface).iter().find(|black| overlap(black, prefix)) {
            add(false, format!("red.prefixes {prefix}: overlaps {black}, which is black: the others will refuse it"));
        }
    }
    if file.red.interfaces.is_empty() {
        add(true, "red.interfaces: none; this router protects no LAN".into());
    }
    findings
}

/// What the kernel has and we may.
fn machine(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |ok, what: String| findings.push(Finding { ok, what });
    let Probe { tun, kernel, net_admin, net_raw } = muster_dataplane::probe();
    let esp = match (file.dataplane.backend.as_str(), kernel) {
        ("kernel", kernel) => ("the kernel's ESP", kernel),
        ("auto", Ok(())) if file.dataplane.hop_limit == 64 => ("the kernel's ESP", Ok(())),
        _ => ("/dev/net/tun, for ESP in user space", tun),
    };
    for (what, result) in [esp, ("CAP_NET_ADMIN", net_admin), ("CAP_NET_RAW", net_raw)] {
        match result {
            Ok(()) => add(true, what.to_owned()),
            Err(why) => add(false, why),
        }
    }
    findings
}

/// What a daemon does without, and its operator is to know.
pub(crate) fn warn_of(settings: &Settings) {
    strangers(settings).into_iter().for_each(|what| warn!("{what}"));
    if let Some(why) = settings.key_exposure {
        warn!("{}: {why}", settings.resolve(&settings.file.device.private_key).display());
    }
}

/// Organisations with bounds and without a trust anchor: a slip of the pen leaves another one without its bounds.
fn strangers(settings: &Settings) -> Vec<String> {
    let Ok(trust) = settings.trust() else { return Vec::new() };
    let is_known = |organisation: &str| trust.organisations().any(|known| known == organisation);
    let unknown = settings.file.trust.keys().filter(|organisation| !is_known(organisation));
    unknown
        .map(|organisation| format!("[trust.{organisation:?}] bounds nobody: no trust anchor is of that organisation"))
        .collect()
}
