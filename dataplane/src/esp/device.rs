//! The TUN device: the red-facing end of the tunnel.

use std::os::fd::AsFd;

use tracing::debug;
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::forwarding::exempt_from_reverse_path_filter;
use crate::probe::check_tun;
use crate::{Error, sysctl};

/// IPv6 needs links of 1280 octets (RFC 8200 5). Below that the outer packet is fragmented instead.
pub(crate) const MIN_MTU: u16 = 1280;

/// As the device itself has it: more than any packet, for what is too big is told by the routes (IPv4) and by the
/// interface's own IPv6 MTU. The kernel drops IPv4 multicast above a device's MTU without a word; so it comes here.
const DEVICE_MTU: u16 = u16::MAX;

/// Makes the device, quiet and up. It vanishes when it is dropped.
pub(super) fn create(name: &str) -> Result<SyncDevice, Error> {
    check_tun().map_err(Error::Config)?;
    let what = || format!("making the device {name}; is it there already, or held by another process?");
    let device = DeviceBuilder::new().name(name).enable(false).build_sync().map_err(Error::io(what))?;
    let what = || format!("device {name}: setting its MTU and non-blocking mode");
    device.set_mtu(DEVICE_MTU).and_then(|()| device.set_nonblocking(true)).map_err(Error::io(what))?;

    quieten(name)?;
    device.enabled(true).map_err(Error::io(|| format!("device {name}: bringing it up")))?;
    debug!(device = name, fd = ?device.as_fd(), "tunnel device is up");
    Ok(device)
}

/// No address of its own making and no solicitations (IN6_ADDR_GEN_MODE_NONE); what the kernel says all the same, such as
/// MLD reports, is discarded after reading. Nor is it asked whether sources behind it have routes.
pub(crate) fn quieten(name: &str) -> Result<(), Error> {
    for (setting, value) in [("addr_gen_mode", "1"), ("accept_ra", "0"), ("router_solicitations", "0")] {
        if !sysctl::write(&format!("ipv6/conf/{name}/{setting}"), value)? {
            debug!(device = name, setting, "no such setting: IPv6 is off");
        }
    }
    exempt_from_reverse_path_filter(name)
}

/// The largest IPv6 packet that the kernel puts into the device, unicast or multicast; above it tells the sender.
pub(crate) fn set_ipv6_mtu(name: &str, mtu: u16) -> Result<(), Error> {
    sysctl::write(&format!("ipv6/conf/{name}/mtu"), &mtu.to_string()).map(drop)
}
