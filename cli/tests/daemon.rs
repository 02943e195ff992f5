//! Every command that talks to a daemon, on one that is alone in a namespace.

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Ran, muster, run, skip};
use muster_netlab::{BLACK_DEVICE, Coalition, Plan, Process, RED_DEVICE, wait_until};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::Signal;
use serde_json::Value;

struct Alone {
    daemon: Process,
    coalition: Coalition,
    config: PathBuf,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Alone {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let nation = path.to_str().unwrap();
        run(["pki", "init", nation, "--name", "Alpha"]).done();
        run(["pki", "issue", nation, "--name", "alpha-1"]).done();
        let config = path.join("muster.toml");
        let text = format!(
            "[device]\ncertificate = \"alpha-1.pem\"\nprivate_key = \"alpha-1.key\"\ntrust_anchors = [\"ca.pem\"]\n\
             control = \"control.sock\"\nstate_dir = \"state\"\n[black]\ninterface = \"{BLACK_DEVICE}\"\n\
             [red]\ninterfaces = [\"{RED_DEVICE}\"]\n"
        );
        fs::write(&config, text).unwrap();
        let coalition = Coalition::build(Plan::new(1, 1).unwrap()).unwrap();
        let mut command = muster();
        command.args(["run", "--config"]).arg(&config).stderr(Stdio::null());
        let daemon = coalition.routers()[0].namespace.spawn(command).unwrap();
        let socket = path.join("control.sock");
        let up = wait_until(Duration::from_secs(10), || ask(&socket, &["status"]).status == 0);
        assert!(up, "the daemon answers");
        Alone { daemon, coalition, config, socket, _folder: folder }
    }

    fn ask(&self, args: &[&str]) -> Ran {
        ask(&self.socket, args)
    }

    /// A command in the router's namespace.
    fn inside(&self, args: &[&str]) -> i32 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        command.args(args).arg("--config").arg(&self.config).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = self.coalition.routers()[0].namespace.spawn(command).unwrap();
        process.wait(Duration::from_secs(10)).unwrap().expect("it ends").code().unwrap()
    }
}

fn ask(socket: &Path, args: &[&str]) -> Ran {
    run(args.iter().copied().chain(["--control", socket.to_str().unwrap()]))
}

#[test]
fn everything_can_be_asked() {
    if skip("everything_can_be_asked") {
        return;
    }
    let mut alone = Alone::start();
    assert_eq!(alone.inside(&["check"]), 0);

    let status = alone.ask(&["status", "--json"]).json();
    assert_eq!((&status["device"], &status["state"]), (&"alpha-1".into(), &"alone".into()));
    assert_eq!(status["group"]["members"], 1);
    assert!(alone.ask(&["status"]).done().contains("alpha-1 (Alpha)"));
    let members = alone.ask(&["members", "--json"]).json();
    assert_eq!(members[0]["self"], true);
    let id = members[0]["member_id"].as_str().unwrap();
    let table = alone.ask(&["members"]).done();
    assert!(table.contains(&id[..12]) && !table.contains(&id[..13]), "{table}");
    for command in ["neighbors", "routes", "sas"] {
        assert!(alone.ask(&[command, "--json"]).json().is_array());
        assert_eq!(alone.ask(&[command]).status, 0);
    }
    alone.ask(&["sas", "--show-keys"]).failed(&["allow_key_export"]);

    let epoch = |alone: &Alone| alone.ask(&["status", "--json"]).json()["group"]["epoch"].as_u64().unwrap();
    let before = epoch(&alone);
    alone.ask(&["rekey"]).done();
    assert!(wait_until(Duration::from_secs(5), || epoch(&alone) > before), "a new epoch");

    let events = alone.ask(&["events", "--json"]).done();
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for name in ["started", "blocked", "hello_sent", "epoch", "installed", "activated"] {
        assert!(events.iter().any(|event| event["event"] == name && event["mono_us"].is_u64()), "{name}");
    }
    assert!(alone.ask(&["events"]).done().lines().count() >= events.len());

    // It follows what is to come, and says when the daemon has ended.
    let mut follow = muster();
    follow.args(["events", "--follow", "--json", "--control"]).arg(&alone.socket);
    let mut follow = follow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    for _ in 0..events.len() {
        lines.next().unwrap().unwrap();
    }
    assert_eq!(alone.inside(&["unblock"]), 1, "not while a daemon runs");
    alone.ask(&["leave"]).done();
    let status = alone.daemon.wait(Duration::from_secs(10)).unwrap().expect("it ends after leave");
    assert!(status.success());
    assert!(lines.any(|line| line.unwrap().contains("\"stopped\"")));
    common::ran(follow.wait_with_output().unwrap()).failed(&["the daemon has ended"]);
    alone.ask(&["status"]).failed(&["control.sock"]);
    assert_eq!(alone.inside(&["block"]), 0);
    assert_eq!(alone.inside(&["unblock"]), 0);
}

#[test]
fn top_fills_a_terminal_and_gives_it_back() {
    if skip("top_fills_a_terminal_and_gives_it_back") {
        return;
    }
    let alone = Alone::start();
    let socket = alone.socket.to_str().unwrap();
    run(["top", "--control", socket]).failed(&["top needs a terminal"]);
    let size = Winsize { ws_row: 30, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
    let OpenptyResult { master, slave } = openpty(&size, None).unwrap();
    let mut command = muster();
    command.args(["top", "--control", socket, "--interval", "100ms"]);
    let ends = [(); 3].map(|()| Stdio::from(slave.try_clone().unwrap()));
    let [input, output, errors] = ends;
    let mut top = command.stdin(input).stdout(output).stderr(errors).spawn().unwrap();
    // Only the command holds that end from here on: when it ends, reading does.
    drop((slave, command));
    let (mut screen, mut keys) = (File::from(master.try_clone().unwrap()), File::from(master));
    let mut shown = Vec::new();
    let mut read_until = |what: &[u8]| {
        let mut buffer = [0; 4096];
        while !shown.windows(what.len()).any(|part| part == what) {
            let count = screen.read(&mut buffer).expect("it goes on");
            shown.extend_from_slice(&buffer[..count]);
            assert!(shown.len() < 1 << 20, "{} does not come", String::from_utf8_lossy(what));
        }
    };
    // Only what differs from an empty screen is written: no spaces.
    read_until(b"(Alpha)");
    keys.write_all(b"q").unwrap();
    // The screen of before is shown again, with its cursor.
    read_until(b"\x1b[?1049l");
    assert!(top.wait().unwrap().success());
    let mut lines = muster();
    lines.args(["top", "--json", "--interval", "100ms", "--control", socket]);
    let mut lines = lines.stdout(Stdio::piped()).spawn().unwrap();
    let mut read = BufReader::new(lines.stdout.take().unwrap()).lines();
    let mut look = || serde_json::from_str::<Value>(&read.next().unwrap().unwrap()).unwrap();
    let seen = look();
    assert_eq!((&seen["status"]["group"]["epoch"], &seen["members"][0]["slot"]), (&1.into(), &0.into()), "{seen}");
    alone.ask(&["rekey"]).done();
    assert!((0..600).any(|_| look()["status"]["group"]["epoch"] != 1), "no other epoch");
    // Nobody reads any more.
    drop(read);
    assert_eq!(lines.wait().unwrap().code(), Some(1));
}

#[test]
fn a_daemon_that_is_told_to_end_ends_well() {
    if skip("a_daemon_that_is_told_to_end_ends_well") {
        return;
    }
    let mut alone = Alone::start();
    alone.daemon.signal(Signal::SIGTERM).unwrap();
    let status = alone.daemon.wait(Duration::from_secs(10)).unwrap().expect("it ends");
    assert!(status.success(), "{status}");
}
