//! The xfrm interface: the red-facing end of the tunnel. What is routed into it is encrypted by the policies with its
//! number, or dropped; what is decrypted by SAs with its number comes out of it.

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{InfoData, InfoXfrm, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{Handle, LinkUnspec, LinkXfrm};
use tracing::debug;

use crate::Error;
use crate::esp::device::quieten;
use crate::netlink::failed;

/// As that of the TUN device: what is too big is told by the routes and by the interface's IPv6 MTU.
const DEVICE_MTU: u32 = 65535;

/// Makes the interface over `black`, quiet and up. One that a killed predecessor has left goes first.
pub(super) async fn create(handle: &Handle, name: &str, black: u32, if_id: u32) -> Result<(), Error> {
    remove(handle, name, if_id).await?;
    let link = LinkXfrm::new(name, black, if_id).mtu(DEVICE_MTU).build();
    let what = || format!("making the xfrm interface {name}; is it there already?");
    handle.link().add(link).execute().await.map_err(|error| failed(what(), error))?;
    quieten(name)?;
    handle
        .link()
        .set(LinkUnspec::new_with_name(name).up().build())
        .execute()
        .await
        .map_err(|error| failed(format!("bringing {name} up"), error))?;
    debug!(device = name, if_id, "xfrm interface is up");
    Ok(())
}

/// Takes the interface away, if it is one of XFRM's with this number; another's stays.
pub(super) async fn remove(handle: &Handle, name: &str, if_id: u32) -> Result<(), Error> {
    let found = handle.link().get().match_name(name.to_owned()).execute().try_next().await;
    let Ok(Some(link)) = found else { return Ok(()) };
    if number_of(&link) != Some(if_id) {
        return Ok(());
    }
    let removed = handle.link().del(link.header.index).execute().await;
    removed.map_err(|error| failed(format!("removing the interface {name}"), error))
}

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

/// Packets that came out of the interface and went into it.
pub(super) fn carried(name: &str) -> (u64, u64) {
    let count = |what: &str| {
        let text = std::fs::read_to_string(format!("/sys/class/net/{name}/statistics/{what}")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    (count("rx_packets"), count("tx_packets"))
}
