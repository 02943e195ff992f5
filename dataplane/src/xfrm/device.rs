//! The xfrm interface: the red-facing end of the tunnel. What is routed into it is encrypted by the policies with its
//! number, or dropped; what is decrypted by SAs with its number comes out of it.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use netlink_packet_core::NLM_F_REQUEST;
use rtnetlink::packet_route::link::{InfoData, InfoXfrm, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkXfrm};
use tracing::debug;

use super::IF_IDS;
use crate::Error;
use crate::netlink::batch::{BatchSocket, Request, attributes};
use crate::netlink::{self, failed};
use crate::tunnel::quieten;

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
    /// Makes the interface, quiet and up. One that a killed predecessor has left goes first, whatever its name.
    ///
    /// # Errors
    /// Another instance serves the same group here: the kernel finds SAs by destination and SPI, and the numbers of both
    /// would meet in one table. What the kernel refuses.
    pub(super) fn create(name: &str, if_id: u32, group: Option<IpAddr>) -> Result<Self, Error> {
        let socket = BatchSocket::open(netlink_sys::protocols::NETLINK_ROUTE, "opening a netlink socket")?;
        Self::remove_left_over(if_id)?;
        let index = netlink::run(async |handle| {
            // Said to whoever looks, and to other instances.
            let alias = group.map(|group| format!("muster {group}"));
            let is_same = |other: &Ours| alias.is_some() && other.alias == alias;
            if let (Some(group), Some(other)) = (group, ours(handle).await?.into_iter().find(is_same)) {
                return Err(Error::Config(format!(
                    "group.address {group}: interface {} serves it by the kernel's ESP already; give each instance an \
                     address of its own, or use dataplane.backend = \"userspace\"",
                    other.name
                )));
            }
            // Over no other interface: black may be made anew, and `way_out` says where packets go.
            let link = LinkMessageBuilder::<LinkXfrm>::new(name).if_id(if_id).mtu(DEVICE_MTU).build();
            let what = || format!("making the xfrm interface {name}");
            let added = handle.link().add(link).execute().await;
            added.map_err(|error| not_made(failed(what(), error)))?;
            let made = netlink::link(handle, name).await?.ok_or_else(|| Error::Lost(what()))?.index;
            if let Some(alias) = alias {
                let alias = LinkAttribute::IfAlias(alias);
                let described = LinkUnspec::new_with_index(made).append_extra_attribute(alias).build();
                let done = handle.link().set(described).execute().await;
                done.map_err(|error| failed(format!("describing {name}"), error))?;
            }
            Ok(made)
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

    /// Removes the interface of this number that a killed predecessor has left.
    pub(super) fn remove_left_over(if_id: u32) -> Result<(), Error> {
        netlink::run(async |handle| {
            for old in ours(handle).await?.into_iter().filter(|old| old.number == if_id) {
                let removed = handle.link().del(old.index).execute().await;
                let what = || format!("removing the interface {} of an earlier run", old.name);
                removed.map_err(|error| failed(what(), error))?;
            }
            Ok(())
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
        Request { kind, flags: NLM_F_REQUEST, body: Vec::from(body).into(), what: what.into() }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Somebody may have deleted it; what stays, the next start removes.
        let _ = self.socket.ask([self.request(libc::RTM_DELLINK)]);
    }
}

/// Says so where the kernel does not know this kind of interface. Policies alone are no way round it: the kernel's multicast
/// forwarding passes them by.
fn not_made(error: Error) -> Error {
    match error {
        Error::Io { source, .. } if source.raw_os_error() == Some(libc::EOPNOTSUPP) => Error::Config(
            "the kernel has no xfrm interfaces (modprobe xfrm_interface), and policies alone do not protect red multicast; \
             dataplane.backend = \"userspace\" needs none"
                .into(),
        ),
        other => other,
    }
}

/// An xfrm interface of any instance.
struct Ours {
    index: u32,
    number: u32,
    name: String,
    alias: Option<String>,
}

async fn ours(handle: &Handle) -> Result<Vec<Ours>, Error> {
    let mut found = Vec::new();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await.map_err(|error| failed("reading the interfaces".into(), error))? {
        found.extend(number_of(&link).filter(|number| IF_IDS.contains(number)).map(|number| {
            let (mut name, mut alias) = (String::new(), None);
            for attribute in &link.attributes {
                match attribute {
                    LinkAttribute::IfName(text) => name.clone_from(text),
                    LinkAttribute::IfAlias(text) => alias = Some(text.clone()),
                    _ => {}
                }
            }
            Ours { index: link.header.index, number, name, alias }
        }));
    }
    Ok(found)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_xfrm_interfaces_is_told_from_a_name_that_is_taken() {
        let refused = |code| {
            let what = "making the xfrm interface muster0".to_owned();
            not_made(Error::Io { what, source: std::io::Error::from_raw_os_error(code) }).to_string()
        };
        assert!(refused(libc::EOPNOTSUPP).starts_with("the kernel has no xfrm interfaces (modprobe xfrm_interface), "));
        assert!(refused(libc::EEXIST).starts_with("making the xfrm interface muster0: File exists"));
    }
}
