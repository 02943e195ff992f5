//! The TUN device: the red-facing end of the tunnel.

use std::io;
use std::os::fd::AsFd;

use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::link::LinkAttribute;
use tracing::debug;
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::Error;
use crate::netlink::{self, failed};
use crate::probe::check_tun;
use crate::tunnel::quieten;

/// As the device itself has it: more than any packet, for what is too big is told by the routes (IPv4) and by the
/// interface's own IPv6 MTU. The kernel drops IPv4 multicast above a device's MTU without a word; so it comes here.
const DEVICE_MTU: u16 = u16::MAX;

/// Segments that the device hands over as one packet. The kernel takes larger ones apart itself.
pub(super) const MOST_SEGMENTS: usize = 64;

/// Packets that wait for us: as many as come in a fiftieth of a second at 100,000 a second.
const QUEUE: u32 = 2000;

/// Makes the device, quiet and up, with so many queues, among which the kernel shares out the flows. It hands over many segments
/// as one packet, and takes them so. It vanishes when all queues are dropped.
pub(super) fn create(name: &str, queues: u8) -> Result<Vec<SyncDevice>, Error> {
    check_tun().map_err(Error::Config)?;
    let what = || format!("making the device {name}; is it there already, or held by another process?");
    let builder = DeviceBuilder::new().name(name).offload(true).enable(false).multi_queue(queues > 1);
    let device = builder.build_sync().map_err(Error::io(what))?;
    let what = || format!("device {name}: setting its MTU");
    device.set_mtu(DEVICE_MTU).map_err(Error::io(what))?;

    netlink::run(async |handle| {
        let index = netlink::existing_link(handle, name).await?.index;
        let limited = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::GsoMaxSegs(MOST_SEGMENTS as u32))
            .append_extra_attribute(LinkAttribute::TxQueueLen(QUEUE))
            .build();
        let done = handle.link().set(limited).execute().await;
        done.map_err(|error| failed(format!("device {name}: limiting its segments"), error))
    })?;
    quieten(name)?;
    device.enabled(true).map_err(Error::io(|| format!("device {name}: bringing it up")))?;
    debug!(device = name, fd = ?device.as_fd(), "tunnel device is up");
    let more = (1..queues).map(|_| device.try_clone());
    let all = more.collect::<io::Result<Vec<_>>>().map_err(Error::io(|| format!("device {name}: opening a queue")))?;
    let all: Vec<SyncDevice> = [device].into_iter().chain(all).collect();
    let what = || format!("device {name}: setting its non-blocking mode");
    all.iter().try_for_each(|queue| queue.set_nonblocking(true)).map_err(Error::io(what))?;
    Ok(all)
}
