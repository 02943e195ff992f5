//! The TUN device: the red-facing end of the tunnel.

use std::os::fd::AsFd;

use tracing::debug;
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::Error;
use crate::probe::check_tun;
use crate::tunnel::quieten;

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
