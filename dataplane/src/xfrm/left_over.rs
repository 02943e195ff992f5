//! What a killed daemon has left in the kernel, taken away for one that does without the kernel's ESP, and by the block.

use super::device::Device;
use super::dump::clear;
use super::filter::Filter;
use super::way_out::WayOut;
use super::{if_id, xfrm_socket};
use crate::Error;

/// Removes SAs, policies, interface, filter, rule and routes of an instance of which no daemon runs, if any. A kernel
/// without one of these holds none of it.
///
/// # Errors
/// What the kernel refuses.
pub(crate) fn remove_left_over(instance: u8) -> Result<(), Error> {
    let if_id = if_id(instance);
    let Ok(mut socket) = xfrm_socket() else { return Ok(()) };
    clear(&mut socket, if_id)?;
    Device::remove_left_over(if_id)?;
    Filter::remove_left_over(instance);
    WayOut::remove_left_over(if_id)
}
