//! Commands on a configuration: the daemon, the block, the check.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::str::FromStr;

use muster_bridge::{Finding, Settings};
use serde_json::json;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::output::{Failure, because, say};

pub(crate) fn block(config: &Path) -> Result<(), Failure> {
    Ok(muster_bridge::block(&load(config)?)?)
}

pub(crate) fn unblock(config: &Path) -> Result<(), Failure> {
    Ok(muster_bridge::unblock(&load(config)?)?)
}

pub(crate) fn run(config: &Path) -> Result<(), Failure> {
    Ok(muster_bridge::run(load(config)?)?)
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
fn load(config: &Path) -> Result<Settings, Failure> {
    let settings = Settings::load(config)?;
    let level = LevelFilter::from_str(&settings.file.log.level)
        .map_err(|error| because(format!("{}: log.level: {error}", config.display())))?;
    // Other crates' chatter may hold what must not be logged: netlink messages carry keys.
    let ours = Targets::new().with_default(LevelFilter::WARN.min(level)).with_target("muster", level);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    tracing_subscriber::registry().with(lines).with(ours).init();
    Ok(settings)
}
