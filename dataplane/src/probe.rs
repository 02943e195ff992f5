//! What this machine offers, for `muster check`.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;

/// Each is `Ok`, or says what is missing and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// /dev/net/tun can be opened: the userspace data plane has its device.
    pub tun: Result<(), String>,
    /// ESP by the kernel: AES-GCM, xfrm interfaces, nf_tables. Without the right to make a network namespace to try them in,
    /// only whether XFRM and nf_tables answer.
    pub kernel: Result<(), String>,
    /// CAP_NET_ADMIN: rules, routes, multicast forwarding.
    pub net_admin: Result<(), String>,
    /// CAP_NET_RAW: sockets of protocol 50.
    pub net_raw: Result<(), String>,
}

/// Looks, and changes nothing.
pub fn probe() -> Probe {
    Probe {
        tun: check_tun(),
        kernel: crate::xfrm::probe().map_err(|error| error.to_string()),
        net_admin: check_capability("CAP_NET_ADMIN", 12),
        net_raw: check_capability("CAP_NET_RAW", 13),
    }
}

pub(crate) fn check_tun() -> Result<(), String> {
    let advice = match OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => return Ok(()),
        Err(e) => match (e.kind(), e.raw_os_error()) {
            (ErrorKind::NotFound, _) | (_, Some(libc::ENODEV | libc::ENXIO)) => {
                format!("{e}; load the module (modprobe tun), or hand the device to the container")
            }
            (ErrorKind::PermissionDenied, _) => format!("{e}; run as root, or make it writable for this user"),
            _ => e.to_string(),
        },
    };
    Err(format!("/dev/net/tun: {advice}"))
}

/// `bit`: number of the capability in `linux/capability.h`.
fn check_capability(name: &str, bit: u32) -> Result<(), String> {
    let status =
        fs::read_to_string("/proc/thread-self/status").map_err(|e| format!("/proc/thread-self/status: {e}"))?;
    match effective_capabilities(&status) {
        Some(set) if set >> bit & 1 == 1 => Ok(()),
        Some(_) => Err(format!("{name} is missing: run as root, or grant it to the service")),
        None => Err("/proc/thread-self/status: no line CapEff".into()),
    }
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_of_a_status_file() {
        assert_eq!(effective_capabilities("Name:\tx\nCapEff:\t0000000000003000\n"), Some(0x3000));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
        assert_eq!(effective_capabilities("CapEff:\tnonsense\n"), None);
    }
}
