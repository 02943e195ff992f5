//! The demo as an ordinary user, in a user namespace.

mod common;

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::ran;
use nix::fcntl::AT_FDCWD;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, makedev, mknod};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;

/// Nobody's.
const USER: u32 = 65534;

fn skip(test: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIP {test}: {reason}");
}

/// Starts the demo as a user without any right, in `folder`, with a `/dev/net/tun` of this mode, where only it sees
/// it. `None` with a line that says why: this machine does not let us, or not let users make namespaces.
fn start(test: &str, folder: &Path, tun: u32, arguments: &[&str]) -> Option<Child> {
    if !geteuid().is_root() {
        skip(test, "needs root, to become somebody else");
        return None;
    }
    fs::set_permissions(folder, Permissions::from_mode(0o777)).unwrap();
    // Where the tests are built nobody else may look.
    let program = folder.join("muster");
    // Not by ourselves: what another test starts meanwhile would have the file open for writing until it is another program, and
    // the kernel starts none that somebody may write to (ETXTBSY).
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_muster")).arg(&program).status().unwrap();
    assert!(copied.success());
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let command = |program: &Path| {
        let mut command = Command::new(program);
        command.current_dir(folder).env_clear().env("PATH", "/usr/bin:/bin").env("TMPDIR", folder);
        command.uid(USER).gid(USER).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    // A namespace is an attribute of a thread; what this one starts has it, and the rest of the test has not.
    std::thread::scope(|scope| {
        let inside = || {
            if let Err(error) = tun_of_our_own(tun) {
                skip(test, &format!("no /dev/net/tun of our own: {error}"));
                return None;
            }
            let allowed = command(Path::new("unshare")).args(["--user", "--net", "true"]).output();
            match allowed {
                Ok(output) if output.status.success() => {}
                Ok(output) => {
                    skip(test, &format!("no namespaces for users: {}", String::from_utf8_lossy(&output.stderr).trim()));
                    return None;
                }
                Err(error) => {
                    skip(test, &format!("unshare (util-linux): {error}"));
                    return None;
                }
            }
            Some(command(&program).args(arguments).spawn().unwrap())
        };
        scope.spawn(inside).join().unwrap()
    })
}

/// Covers `/dev/net`, for this thread alone.
fn tun_of_our_own(mode: u32) -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    mount(Some("tmpfs"), "/dev/net", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    mknod("/dev/net/tun", SFlag::S_IFCHR, Mode::empty(), makedev(10, 200))?;
    fchmodat(AT_FDCWD, "/dev/net/tun", Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink)
}

#[test]
fn an_ordinary_user_can_run_it() {
    let folder = tempfile::tempdir().unwrap();
    let Some(demo) = start("an_ordinary_user_can_run_it", folder.path(), 0o666, &["demo", "--routers", "3", "--json"])
    else {
        return;
    };
    let report = ran(demo.wait_with_output().unwrap()).json();
    assert_eq!(report["ok"], true, "{report}");
    assert_eq!(report["multicast"]["received_min"], report["multicast"]["sent"]);
    assert_eq!((&report["black"]["cleartext"], &report["leave"]["excluded"]), (&Value::from(0), &Value::from(true)));
    only_the_program_is_left(folder.path());
}

#[test]
fn without_the_tunnel_device_it_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let Some(demo) = start("without_the_tunnel_device_it_is_one_line", folder.path(), 0o600, &["demo"]) else { return };
    ran(demo.wait_with_output().unwrap()).failed(&["/dev/net/tun"]);
    only_the_program_is_left(folder.path());
}

#[test]
fn an_interrupted_user_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let test = "an_interrupted_user_leaves_nothing_behind";
    let Some(mut demo) = start(test, folder.path(), 0o666, &["demo", "--routers", "3"]) else { return };
    let mut told = String::new();
    while !told.contains("daemons started") {
        let mut byte = [0];
        assert_eq!(demo.stdout.as_mut().unwrap().read(&mut byte).unwrap(), 1, "{told}");
        told.push(byte[0].into());
    }
    let begun = Instant::now();
    kill(Pid::from_raw(demo.id() as i32), Signal::SIGINT).unwrap();
    let demo = ran(demo.wait_with_output().unwrap());
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(demo.out.ends_with("not ok: interrupted\n"), "{}", demo.out);
    only_the_program_is_left(folder.path());
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let of_user = |process: &fs::DirEntry| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(folder.path().to_str().unwrap())
    };
    assert!(!processes.into_iter().any(|process| of_user(&process)), "a daemon runs");
}

fn only_the_program_is_left(folder: &Path) {
    let left: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["muster"]);
}
