//! Commands on a configuration: the daemon, the block, the check.

use std::os::unix::net::UnixStream;
use std::path::Path;

use muster_bridge::{File, Finding, SetLevel, Settings};
use serde_json::json;

use crate::log;
use crate::output::{Failure, because, say};

pub(crate) fn block(config: &Path) -> Result<(), Failure> {
    Ok(muster_bridge::block(&load(config)?.0)?)
}

/// Not under a running daemon: red would leave in the clear while it says that all is well. `instance`: whatever the
/// configuration says, which may not be readable.
pub(crate) fn unblock(config: &Path, instance: Option<u8>) -> Result<(), Failure> {
    if let Some(instance) = instance {
        return Ok(muster_bridge::unblock(instance)?);
    }
    let (file, _) = load(config)?;
    let control = config.parent().unwrap_or(Path::new(".")).join(&file.device.control);
    if UnixStream::connect(&control).is_ok() {
        let why = format!("a daemon answers at {}: end it first (muster leave)", control.display());
        return Err(because(why));
    }
    Ok(muster_bridge::unblock(file.dataplane.instance)?)
}

pub(crate) fn run(config: &Path) -> Result<(), Failure> {
    let (file, set_level) = load(config)?;
    // Fail closed before anything else; also when a certificate is missing.
    muster_bridge::block(&file)?;
    Ok(muster_bridge::run(Settings::load(config)?, set_level)?)
}

pub(crate) fn check(config: &Path, json: bool) -> Result<(), Failure> {
    let findings = muster_bridge::check(config);
    if json {
        let lines: Vec<_> = findings.iter().map(|Finding { ok, what }| json!({"ok": ok, "what": what})).collect();
        say(json!(lines))?;
    } else {
        for Finding { ok, what } in &findings {
            say(format_args!("{:6}  {what}", if *ok { "ok" } else { "not ok" }))?;
        }
    }
    if findings.iter().all(|finding| finding.ok) { Ok(()) } else { Err(Failure::Told) }
}

/// Reads the configuration, and starts the log that it asks for.
fn load(config: &Path) -> Result<(File, SetLevel), Failure> {
    let file = File::load(config)?;
    let set_level = log::start(&file.log)?;
    Ok((file, set_level))
}
