//! strongSwan's ESP in user space: charon with its plugin kernel-libipsec, as Debian has it.
//!
//! All of it that charon reads and makes is in the laboratory's folder; nothing on the machine changes.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use muster_netlab::{Process, Router};
use muster_netns_tests::{Lab, wait_until};

use crate::contestant::{forward, is_there, tied};

const LIMIT: Duration = Duration::from_secs(30);

/// The routers' daemons, with the tunnel between them.
pub(crate) fn start(lab: &Lab, directions: [(&Router, &Router); 2]) -> Result<Vec<Process>, String> {
    let program = is_there("charon-systemd")?;
    is_there("swanctl")?;
    let (mut processes, mut folders) = (Vec::new(), Vec::new());
    for (near, far) in directions {
        forward(near);
        let folder = lab.path(&format!("{}-charon", near.plan.name()));
        write(&folder, near, far).map_err(|error| error.to_string())?;
        let mut command = tied(&program);
        command.env("STRONGSWAN_CONF", folder.join("strongswan.conf")).stdout(Stdio::null()).stderr(Stdio::null());
        processes.push(near.namespace.spawn(command).map_err(|error| error.to_string())?);
        if !wait_until(LIMIT, || UnixStream::connect(folder.join("vici")).is_ok()) {
            return Err(said(&folder));
        }
        swanctl(&folder, &["--load-all", "--file", &folder.join("swanctl.conf").display().to_string()])?;
        folders.push(folder);
    }
    swanctl(&folders[0], &["--initiate", "--child", "red"])?;
    Ok(processes)
}

fn write(folder: &Path, near: &Router, far: &Router) -> std::io::Result<()> {
    let (here, there) = (near.plan.black_v6().addr(), far.plan.black_v6().addr());
    let (red, beyond) = (near.plan.red_v6(), far.plan.red_v6());
    let place = folder.display();
    let daemon = format!(
        r#"charon-systemd {{
    load = random nonce openssl hmac kdf gcm kernel-libipsec kernel-netlink socket-default vici
    journal {{
        default = -1
    }}
    filelog {{
        log {{
            path = {place}/log
            flush_line = yes
        }}
    }}
    plugins {{
        vici {{
            socket = unix://{place}/vici
        }}
    }}
}}
"#
    );
    let tunnel = format!(
        r#"connections {{
    peer {{
        version = 2
        local_addrs = {here}
        remote_addrs = {there}
        proposals = aes256gcm16-prfsha256-ecp256
        local {{
            auth = psk
        }}
        remote {{
            auth = psk
        }}
        children {{
            red {{
                mode = tunnel
                local_ts = {red}
                remote_ts = {beyond}
                esp_proposals = aes256gcm16
            }}
        }}
    }}
}}
secrets {{
    ike {{
        secret = "of this laboratory"
    }}
}}
"#
    );
    fs::create_dir_all(folder)?;
    fs::write(folder.join("strongswan.conf"), daemon)?;
    fs::write(folder.join("swanctl.conf"), tunnel)
}

fn swanctl(folder: &Path, arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new("swanctl");
    command.args(arguments).args(["--uri", &format!("unix://{}/vici", folder.display())]);
    command.env("STRONGSWAN_CONF", folder.join("strongswan.conf")).env("SWANCTL_DIR", folder);
    let output = command.output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("swanctl: {} {}", String::from_utf8_lossy(&output.stderr).trim(), said(folder))),
    }
}

/// The end of a daemon's log.
fn said(folder: &Path) -> String {
    let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
    let tail: Vec<&str> = log.lines().rev().take(5).collect();
    format!("charon: {}", tail.into_iter().rev().collect::<Vec<_>>().join(" / "))
}
