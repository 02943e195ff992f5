//! The xfrm interface: the red-facing end of the tunnel. What is routed into it is encrypted by the policies with its
//! number, or dropped; what is decrypted by SAs with its number comes out of it.

use futures_util::TryStreamExt;
use netlink_packet_core::NLM_F_REQUEST;
use rtnetlink::packet_route::link::{InfoData, InfoXfrm, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkXfrm};
use tracing::debug;
use zeroize::Zeroizing;

use super::request::Request;
use super::socket::{BatchSocket, attributes};
use crate::Error;
use crate::esp::device::quieten;
use crate::netlink::{self, failed};

/// As that of the TUN device: what is too big is told by the routes and by the interface's IPv6 MTU.
const DEVICE_MTU: u32 = 65535;

/// `struct ifinfomsg`, and where its interface's number stands.
const LINK_LEN: usize = 16;
const IFLA_STATS64: u16 = 23;

/// The interface of one instance; removed when it is dropped.
pub(super) struct Device {
    /// Of the network namespace that it was made in, whoever asks later.
    socket: BatchSocket,
    index: u32,
}

/// Of the interface, since it was made.
#[derive(Clone, Copy, Default)]
pub(super) struct Carried {
    pub(super) rx_packets: u64,
    pub(super) tx_packets: u64,
    pub(super) tx_errors: u64,
    pub(super) tx_carrier_errors: u64,
}

impl Device {
    /// Makes the interface, quiet and up. One that a killed predecessor has left goes first.
    pub(super) fn create(name: &str, if_id: u32) -> Result<Self, Error> {
        let socket = BatchSocket::open(netlink_sys::protocols::NETLINK_ROUTE, "opening a netlink socket")?;
        Self::remove_left_over(name, if_id)?;
        let index = netlink::run(async |handle| {
            let what = || {
                format!("making the xfrm interface {name}; is one there already, and has the kernel xfrm interfaces?")
            };
            // Over no other interface: black may be made anew, and `way_out` says where packets go.
            let link = LinkMessageBuilder::<LinkXfrm>::new(name).if_id(if_id).mtu(DEVICE_MTU).build();
            handle.link().add(link).execute().await.map_err(|error| failed(what(), error))?;
            find(handle, name).await?.map(|link| link.header.index).ok_or_else(|| Error::Config(what()))
        })?;
        let device = Device { socket, index };
        quieten(name)?;
        netlink::run(async |handle| {
            let up = LinkUnspec::new_with_index(index).up().build();
            let done = handle.link().set(up).execute().await;
            done.map_err(|error| failed(format!("bringing {name} up"), error))
        })?;
        debug!(device = name, if_id, "xfrm interface is up");
        Ok(device)
    }

    /// Removes the one of this name and number that a killed predecessor has left.
    pub(super) fn remove_left_over(name: &str, if_id: u32) -> Result<(), Error> {
        netlink::run(async |handle| {
            let old = find(handle, name).await?.filter(|link| number_of(link) == Some(if_id));
            let Some(old) = old else { return Ok(()) };
            let removed = handle.link().del(old.header.index).execute().await;
            removed.map_err(|error| failed(format!("removing the interface {name} of an earlier run"), error))
        })
    }

    /// What it has carried; `None`: it is gone.
    pub(super) fn carried(&mut self) -> Option<Carried> {
        let mut found = None;
        let request = self.request(libc::RTM_GETLINK);
        let read = self.socket.get(&request, |payload| {
            let stats = attributes(payload.get(LINK_LEN..).unwrap_or_default()).find(|(kind, _)| *kind == IFLA_STATS64);
            let Some((_, stats)) = stats else { return };
            // struct rtnl_link_stats64: rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, …; the 18th is
            // tx_carrier_errors.
            let count = |nth: usize| stats.get(8 * nth..)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes));
            let count = |nth| count(nth).unwrap_or(0);
            found = Some(Carried {
                rx_packets: count(0),
                tx_packets: count(1),
                tx_errors: count(5),
                tx_carrier_errors: count(17),
            });
        });
        read.ok().and(found)
    }

    fn request(&self, kind: u16) -> Request {
        let mut body = [0; LINK_LEN];
        body[4..8].copy_from_slice(&self.index.to_ne_bytes());
        let what = format!("interface {}", self.index);
        Request { kind, flags: NLM_F_REQUEST, body: Zeroizing::new(body.into()), what }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Somebody may have deleted it; what stays, the next start removes.
        let _ = self.socket.ask(&[self.request(libc::RTM_DELLINK)]);
    }
}

async fn find(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, Error> {
    match handle.link().get().match_name(name.to_owned()).execute().try_next().await {
        Ok(found) => Ok(found),
        Err(error) if netlink::errno(&error) == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(failed(format!("looking for interface {name}"), error)),
    }
}

/// The number of an xfrm interface.
fn number_of(link: &LinkMessage) -> Option<u32> {
    let infos = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    })?;
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Xfrm(data)) => Some(data),
        _ => None,
    })?;
    data.iter().find_map(|one| match one {
        InfoXfrm::IfId(number) => Some(*number),
        _ => None,
    })
}
