//! One daemon of the demo: its files, its process, its control socket.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use muster_bridge::control::{self, ControlError};
use muster_netlab::{Namespace, Process, RouterPlan};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::output::{Failure, because};

use super::timeline::Moment;
use super::view::{Event, Member, Status};

pub(crate) struct Router {
    pub(crate) plan: RouterPlan,
    folder: PathBuf,
    process: Option<Process>,
    /// When it was started last.
    pub(crate) started: Moment,
    /// Fingerprints of all group keys that it was seen to hold.
    pub(crate) keys: BTreeSet<String>,
}

impl Router {
    /// Not started yet; its files are in `folder`.
    pub(crate) fn new(plan: RouterPlan, folder: PathBuf) -> Self {
        Router { plan, folder, process: None, started: Moment(0), keys: BTreeSet::new() }
    }

    pub(crate) fn name(&self) -> String {
        self.plan.name()
    }

    /// Starts the daemon, for the first time or anew.
    pub(crate) fn start(&mut self, namespace: &Namespace) -> Result<(), Failure> {
        let log_path = self.folder.join(LOG);
        let log = OpenOptions::new().create(true).append(true).open(&log_path);
        let log = log.map_err(|error| because(format!("{}: {error}", log_path.display())))?;
        // This very program, also when another has been built in its place since.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("muster").arg("run").arg("--config").arg(self.folder.join(CONFIG));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Ctrl-C is for the demo alone.
        command.process_group(0);
        self.started = Moment::now()?;
        self.process = Some(namespace.spawn(command)?);
        Ok(())
    }

    /// Kills the daemon without a word to it.
    pub(crate) fn kill(&mut self) -> Result<(), Failure> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
        }
        Ok(())
    }

    pub(crate) fn status(&mut self) -> Result<Option<Status>, Failure> {
        let status: Option<Status> = self.ask("status")?;
        self.keys.extend(status.iter().map(|status| status.group.key_fingerprint.clone()));
        Ok(status)
    }

    pub(crate) fn members(&mut self) -> Result<Vec<Member>, Failure> {
        self.must("members")
    }

    pub(crate) fn events(&mut self) -> Result<Vec<Event>, Failure> {
        self.must("events")
    }

    pub(crate) fn rekey(&mut self) -> Result<(), Failure> {
        self.must("rekey").map(|_: serde_json::Value| ())
    }

    /// The last lines of its log, to be put behind a reason.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read(self.folder.join(LOG)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail: String =
            lines[lines.len().saturating_sub(TAIL)..].iter().map(|line| format!("\n    {line}")).collect();
        format!("; the end of the log of {}:{}", self.name(), if tail.is_empty() { " it is empty" } else { &tail })
    }

    /// `None`: it does not answer (yet), but runs.
    fn ask<T: DeserializeOwned>(&mut self, method: &str) -> Result<Option<T>, Failure> {
        match control::call(&self.folder.join(CONTROL), method, json!({})) {
            Ok(answer) => serde_json::from_value(answer)
                .map(Some)
                .map_err(|error| because(format!("{}: unexpected answer to {method}: {error}", self.name()))),
            Err(ControlError::Refused(why)) => Err(because(format!("{}: {method}: {why}", self.name()))),
            Err(_) => self.check_running().map(|()| None),
        }
    }

    fn must<T: DeserializeOwned>(&mut self, method: &str) -> Result<T, Failure> {
        let answer = self.ask(method)?;
        answer.ok_or_else(|| because(format!("{} does not answer to {method}{}", self.name(), self.log_tail())))
    }

    fn check_running(&mut self) -> Result<(), Failure> {
        let name = self.name();
        let Some(process) = &mut self.process else { return Ok(()) };
        match process.exited()? {
            None => Ok(()),
            Some(status) => Err(because(format!("the daemon of {name} has ended ({status}){}", self.log_tail()))),
        }
    }
}

/// Where a router's files are: names in its folder.
pub(crate) const CONFIG: &str = "muster.toml";
pub(crate) const CERTIFICATE: &str = "device.pem";
pub(crate) const KEY: &str = "device.key";
pub(crate) const CONTROL: &str = "control.sock";
pub(crate) const STATE: &str = "state";
const LOG: &str = "muster.log";
/// Lines of a log that are worth showing.
const TAIL: usize = 12;

/// A folder for a router's files.
pub(crate) fn folder(parent: &Path, plan: &RouterPlan) -> Result<PathBuf, Failure> {
    let folder = parent.join(plan.name());
    fs::create_dir(&folder).map_err(|error| because(format!("{}: {error}", folder.display())))?;
    Ok(folder)
}
