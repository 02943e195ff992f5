//! Commands on a configuration: the daemon, the block, the check.

use std::os::unix::net::UnixStream;
use std::path::Path;

use muster_bridge::{File, Finding, SetLevel, Settings};
use serde_json::{Value, json};

use crate::args::Socket;
use crate::output::{Failure, because, say};
use crate::{client, log};

pub(crate) fn block(config: &Path) -> Result<(), Failure> {
    Ok(muster_bridge::block(&load(config)?.0)?)
}

/// Not under a running daemon: red would leave in the clear while it says that all is well. `instance`: whatever the
/// configuration says, which may not be readable; who runs is known by its claim, too (`muster_dataplane::Claim`).
pub(crate) fn unblock(config: &Path, instance: Option<u8>) -> Result<(), Failure> {
    if let Some(instance) = instance {
        return Ok(muster_bridge::unblock(instance)?);
    }
    // The block is to be removed all the same.
    let (file, _) = load(config).map_err(|failure| match failure {
        Failure::Because(why) => because(format!("{why}; muster unblock --instance 0 needs no configuration")),
        other => other,
    })?;
    let control = file.control(config);
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
    match file.is_centralised() {
        true => Ok(muster_bridge::run_client(config, file, set_level)?),
        false => Ok(muster_bridge::run(Settings::load(config)?, set_level)?),
    }
}

/// Has the daemon with a configuration, or else at the socket, read its files again.
pub(crate) fn reload(socket: Socket, config: Option<&Path>) -> Result<(), Failure> {
    match config {
        Some(config) => reload_at(&Socket { control: File::load(config)?.control(config) }),
        None => reload_at(&socket),
    }
}

/// Says what has changed.
pub(crate) fn reload_at(socket: &Socket) -> Result<(), Failure> {
    let answer = client::call(socket, "reload", json!({}))?;
    let changed = answer["changed"].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>();
    say(if changed.is_empty() { "nothing has changed".to_owned() } else { changed.join("\n") })
}

pub(crate) fn check(config: &Path, json: bool) -> Result<(), Failure> {
    tell(&muster_bridge::check(config), json)
}

/// What was looked at, and whether it will do.
pub(crate) fn tell(findings: &[Finding], json: bool) -> Result<(), Failure> {
    if json {
        let lines: Vec<_> = findings.iter().map(|Finding { ok, what }| json!({"ok": ok, "what": what})).collect();
        say(json!(lines))?;
    } else {
        for Finding { ok, what } in findings {
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
