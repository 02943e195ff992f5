//! Values that cannot be, each with its key.

use std::path::Path;
use std::time::Duration;

use muster_dataplane::MOST_WORKERS;

use super::SettingsError;
use super::sections::{File, GcksAt};
use crate::centralised::identity;

/// What is wrong with one of them, or with two together.
pub(super) fn check(path: &Path, file: &File) -> Result<(), SettingsError> {
    let value = |key, message: String| Err(SettingsError::Value { path: path.to_owned(), key, message });
    let (discovery, group) = (&file.discovery, &file.group);
    if !discovery.group.is_multicast() {
        return value("discovery.group", format!("{} is not a multicast address", discovery.group));
    }
    let address = file.group_address();
    if !address.is_multicast() || address.is_ipv4() != discovery.group.is_ipv4() {
        let family = if discovery.group.is_ipv4() { "IPv4" } else { "IPv6" };
        return value("group.address", format!("{address} is not an {family} multicast address"));
    }
    if address == discovery.group {
        return value("group.address", "must differ from discovery.group".into());
    }
    if file.black.address.is_some_and(|address| address.is_ipv4() != file.is_black_ipv4()) {
        let other = if file.is_centralised() { "gcks.address" } else { "discovery.group" };
        return value("black.address", format!("is not of the family of {other}"));
    }
    if discovery.port == 0 || discovery.port == u16::MAX {
        return value("discovery.port", "must be 1 to 65534: key agreement uses the next".into());
    }
    if !(Duration::from_millis(50)..=Duration::from_secs(60)).contains(&discovery.hello_interval) {
        return value("discovery.hello_interval", "must be 50ms to 60s".into());
    }
    if group.name.is_empty() || group.name.len() > 128 {
        return value("group.name", "must be 1 to 128 bytes long".into());
    }
    for (key, duration, least, most) in [
        ("group.batch_window", group.batch_window, 0, 10_000),
        ("group.activation_delay", group.activation_delay, 10, 60_000),
        ("group.deactivation_delay", group.deactivation_delay, 100, 600_000),
        ("group.lifetime", group.lifetime, 1_000, 7 * 86_400_000),
        ("group.leaf_refresh", group.leaf_refresh, 1_000, 7 * 86_400_000),
    ] {
        if !(Duration::from_millis(least)..=Duration::from_millis(most)).contains(&duration) {
            return value(key, format!("must be {least}ms to {}s", most / 1000));
        }
    }
    if file.dataplane.instance > 15 {
        return value("dataplane.instance", "must be 0 to 15".into());
    }
    if file.dataplane.hop_limit == 0 {
        return value("dataplane.hop_limit", "is 0: no packet would leave; use 64".into());
    }
    if !(1..=MOST_WORKERS).contains(&file.dataplane.workers) {
        return value("dataplane.workers", format!("must be 1 to {MOST_WORKERS}"));
    }
    let named = [("black.interface", &file.black.interface), ("dataplane.device", &file.dataplane.device)];
    let reds = file.red.interfaces.iter().map(|red| ("red.interfaces", red));
    for (key, name) in named.into_iter().chain(reds.clone()) {
        if let Err(error) = muster_dataplane::check_interface_name(name) {
            return value(key, error.to_string());
        }
    }
    for (key, name) in named.into_iter().skip(1).chain(reds) {
        if *name == file.black.interface {
            return value(key, format!("{name} is the black interface"));
        }
    }
    if let Err(error) = muster_discovery::check_prefixes(&file.red.prefixes) {
        return value("red.prefixes", error.to_string());
    }
    if file.red.multicast.iter().any(|net| !net.addr().is_multicast()) {
        return value("red.multicast", "holds a network that is not multicast".into());
    }
    if let Err((key, message)) = file.log.check() {
        return value(key, message);
    }
    if !matches!(file.red.membership.as_str(), "flood" | "dynamic") {
        return value("red.membership", "must be flood or dynamic".into());
    }
    if let Err((key, message)) = check_mode(file) {
        return value(key, message);
    }
    if file.dataplane.backend.parse::<muster_dataplane::Backend>().is_err() {
        return value("dataplane.backend", "must be auto, kernel or userspace".into());
    }
    if file.dataplane.backend == "kernel" && file.dataplane.hop_limit != 64 {
        return value("dataplane.hop_limit", "must be 64 with the kernel's ESP".into());
    }
    Ok(())
}

/// What is there in each mode, and what is not.
fn check_mode(file: &File) -> Result<(), (&'static str, String)> {
    match (file.group.mode.as_str(), &file.gcks) {
        ("agreement", Some(_)) => Err(("gcks", "is for group.mode = \"centralised\" alone".into())),
        ("agreement", None) => {
            let needed = file.device.of_mesh().filter(|(key, _)| *key != "device.crls");
            let missing = needed.into_iter().find(|(_, is_there)| !is_there);
            missing
                .map_or(Ok(()), |(key, _)| Err((key, "missing field: without a key server there must be one".into())))
        }
        ("centralised", None) => Err(("gcks", "is missing: the key server's address and secret_file".into())),
        ("centralised", Some(gcks)) => check_gcks(file, gcks),
        _ => Err(("group.mode", "must be agreement or centralised".into())),
    }
}

fn check_gcks(file: &File, gcks: &GcksAt) -> Result<(), (&'static str, String)> {
    if gcks.address.is_multicast() || gcks.address.is_unspecified() {
        return Err(("gcks.address", format!("{} is no key server's", gcks.address)));
    }
    for (key, port) in [("gcks.port", Some(gcks.port)), ("gcks.local_port", gcks.local_port)] {
        if port == Some(0) {
            return Err((key, "is 0".into()));
        }
    }
    gcks.named().check()?;
    match &gcks.secret_file {
        Some(path) if path.as_os_str().is_empty() => return Err(("gcks.secret_file", "is empty".into())),
        Some(_) if gcks.named().is_used() => {
            return Err(("gcks.secret_file", "and gcks.certificate: one of the two shows who we are".into()));
        }
        None if !gcks.named().is_used() => {
            let message = "is missing: it, or certificate, private_key and trust_anchors, shows who we are";
            return Err(("gcks.secret_file", message.into()));
        }
        _ => {}
    }
    for (key, text) in [("gcks.identity", &gcks.identity), ("gcks.local_identity", &gcks.local_identity)] {
        text.as_deref().map_or(Ok(()), |text| identity(text).map(drop)).map_err(|why| (key, why))?;
    }
    if gcks.allow_bypass.iter().any(|net| net.addr().is_multicast()) {
        return Err(("gcks.allow_bypass", "holds a network that is multicast, which never goes unprotected".into()));
    }
    let of_phase1 = [
        ("gcks.legacy", gcks.legacy),
        ("gcks.identity", gcks.identity.is_some()),
        ("gcks.local_identity", gcks.local_identity.is_some()),
        ("gcks.certificate", gcks.named().is_used()),
    ];
    if let Some((key, _)) = of_phase1.iter().find(|(_, is_there)| !gcks.return_channel && *is_there) {
        return Err((key, "is for phase 1, which there is none of without a return channel".into()));
    }
    if file.group.address.is_some() {
        return Err(("group.address", "the key server says where each flow goes: leave it out".into()));
    }
    Ok(())
}
