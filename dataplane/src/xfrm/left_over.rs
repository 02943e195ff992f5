//! What a killed daemon has left in the kernel, taken away for one that does without the kernel's ESP.

use super::device::Device;
use super::filter::Filter;
use super::way_out::WayOut;
use super::{clear, if_id, only_one, xfrm_socket};
use crate::{Error, EspConfig, netlink};

/// Removes SAs, policies, interface, filter, rule and route of this instance, if any. A kernel without one of these holds
/// none of it.
///
/// # Errors
/// Another daemon of this instance runs on the kernel's ESP; or the kernel refuses.
pub(crate) fn remove_left_over(config: &EspConfig) -> Result<(), Error> {
    let _alone = only_one(config)?;
    let if_id = if_id(config);
    let Ok(mut socket) = xfrm_socket() else { return Ok(()) };
    clear(&mut socket, if_id)?;
    Device::remove_left_over(&config.device, if_id)?;
    // As if they were ours: dropping them removes them.
    drop(Filter::start(&config.device, config.instance, false));
    let link = netlink::run(async |handle| netlink::link(handle, &config.black_interface).await)?;
    if let Some(black) = link {
        WayOut::found(if_id, config.group_address, black.index)?;
    }
    Ok(())
}
