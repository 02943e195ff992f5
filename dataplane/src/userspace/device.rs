//! The TUN device: the red-facing end of the tunnel.

use std::io;
use std::os::fd::AsRawFd;

use futures_util::TryStreamExt;
use rtnetlink::packet_core::Nla;
use rtnetlink::packet_route::link::{InfoData, InfoTun, LinkAttribute, LinkInfo};
use rtnetlink::{Handle, LinkUnspec};
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

nix::ioctl_write_int_bad!(
    /// TUNSETOWNER
    set_owner,
    nix::request_code_write!(b'T', 204, size_of::<libc::c_int>())
);

/// Makes the device, quiet and up, with so many queues, among which the kernel shares out the flows. It hands over many
/// segments as one packet, and takes them so. It vanishes when all queues are dropped.
pub(super) fn create(name: &str, queues: u8) -> Result<Vec<SyncDevice>, Error> {
    check_tun().map_err(Error::Config)?;
    // One that may have several queues would be joined, not made.
    if netlink::run(async |handle| netlink::link(handle, name).await)?.is_some() {
        return Err(Error::Config(format!("dataplane.device: there is an interface {name} already")));
    }
    let what = || format!("making the device {name}; is it held by another process?");
    let builder = DeviceBuilder::new().name(name).offload(true).enable(false).multi_queue(queues > 1);
    let device = builder.build_sync().map_err(Error::io(what))?;
    // Else any user could open a queue of it.
    own(&device).map_err(Error::io(|| format!("device {name}: making it ours")))?;
    let what = || format!("device {name}: setting its MTU");
    device.set_mtu(DEVICE_MTU).map_err(Error::io(what))?;
    let more = (1..queues).map(|_| device.try_clone());
    let more = more.collect::<io::Result<Vec<_>>>().map_err(Error::io(|| format!("device {name}: opening a queue")))?;

    netlink::run(async |handle| {
        let index = netlink::existing_link(handle, name).await?.index;
        if queues > 1 && open_queues(handle, name).await? != Some(queues.into()) {
            return Err(Error::Config(format!("device {name}: another process has opened a queue of it")));
        }
        let limited = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::GsoMaxSegs(MOST_SEGMENTS as u32))
            .append_extra_attribute(LinkAttribute::TxQueueLen(QUEUE))
            .build();
        let done = handle.link().set(limited).execute().await;
        done.map_err(|error| failed(format!("device {name}: limiting its segments"), error))
    })?;
    quieten(name)?;
    let all: Vec<SyncDevice> = [device].into_iter().chain(more).collect();
    let what = || format!("device {name}: setting its non-blocking mode");
    all.iter().try_for_each(|queue| queue.set_nonblocking(true)).map_err(Error::io(what))?;
    all[0].enabled(true).map_err(Error::io(|| format!("device {name}: bringing it up")))?;
    debug!(device = name, queues, "tunnel device is up");
    Ok(all)
}

/// From now on nobody but this user, or who may administer the network, opens a queue of it.
fn own(device: &SyncDevice) -> io::Result<()> {
    let user = nix::unistd::geteuid().as_raw() as libc::c_int;
    // SAFETY: TUNSETOWNER takes a number, no pointer, and the descriptor is open.
    unsafe { set_owner(device.as_raw_fd(), user) }.map(drop).map_err(io::Error::from)
}

/// Queues that are open, of whichever process; `None`: the kernel does not say.
async fn open_queues(handle: &Handle, name: &str) -> Result<Option<u32>, Error> {
    /// IFLA_TUN_NUM_QUEUES, IFLA_TUN_NUM_DISABLED_QUEUES
    const OPEN: [u16; 2] = [8, 9];
    let found = handle.link().get().match_name(name.to_owned()).execute().try_next().await;
    let message = found.map_err(|error| failed(format!("device {name}: counting its queues"), error))?;
    let infos = message.into_iter().flat_map(|message| message.attributes).filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let tun = infos.flatten().find_map(|info| match info {
        LinkInfo::Data(InfoData::Tun(attributes)) => Some(attributes),
        _ => None,
    });
    let counts = tun.map(|attributes| {
        let open = attributes.iter().filter(|one| OPEN.contains(&one.kind()) && one.value_len() == 4);
        let number = |one: &InfoTun| {
            let mut value = [0; 4];
            one.emit_value(&mut value);
            u32::from_ne_bytes(value)
        };
        open.map(number).sum()
    });
    Ok(counts)
}
