//! Whether the kernel has what its data plane needs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::sched::{CloneFlags, unshare};

use super::device::Device;
use super::filter::Filter;
use super::request::{Place, Progress};
use super::{FIRST_REQID, IF_IDS, xfrm_socket};
use crate::netlink::batch::{BatchSocket, Request};
use crate::nft::open_socket;
use crate::{ALGORITHM, Direction, Error, SaId, SaKey};

/// Whether the kernel has all that [`Kernel`](super::Kernel) needs, tried in a network namespace of its own; without the right to make one,
/// whether it has XFRM and nf_tables.
pub(crate) fn check() -> Result<(), Error> {
    let tried = || {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            return xfrm_socket().and_then(|_| open_socket()).map(drop);
        }
        let if_id = *IF_IDS.start();
        try_algorithm(&mut xfrm_socket()?, if_id, false)?;
        Device::create("muster-probe", if_id, None)?;
        Filter::try_out(if_id)
    };
    std::thread::scope(|scope| scope.spawn(tried).join())
        .unwrap_or_else(|_| Err(Error::Lost("the probe of the kernel's ESP".into())))
}

/// Adds an SA, to this machine itself, and takes it away again: whether the kernel has ESP and the algorithm would else show
/// at the first key, when it is too late to choose another data plane.
pub(super) fn try_algorithm(socket: &mut BatchSocket, if_id: u32, ipv4: bool) -> Result<(), Error> {
    let here: IpAddr = if ipv4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let id = SaId { destination: here, spi: 256 };
    let place = Place { direction: Direction::In, source: here, reqid: FIRST_REQID, if_id, copy_dscp: false };
    let tried = Request::add_sa(id, &SaKey::new(&[0; SaKey::LEN]), place, Progress::None);
    let add = Request { what: format!("adding an SA with {ALGORITHM}").into(), ..tried };
    match socket.ask([add])?.into_iter().next() {
        None => socket.demand([Request::delete_sa(id)], &[]),
        // Somebody else's: then the kernel has ESP.
        Some(refused) if refused.error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        Some(refused) => Err(refused.into()),
    }
}
