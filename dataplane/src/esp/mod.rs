//! ESP in user space: packets go from the TUN device through the security associations to raw sockets, and back.

mod black;
mod device;
pub(crate) mod packet;
mod pump;
pub(crate) mod replay;

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;
use muster_wire::MemberId;
use tracing::info;

use crate::config::EspConfig;
use crate::mroute::Forwarding;
use crate::sad::{Sad, delegate_to_sad};
use crate::stop::Workers;
use crate::{Counters, Dataplane, Error, ExportedKey, Sa, SaId, SaStatus, netlink};
use black::Black;

/// RFC 4303 over a TUN device and raw sockets, with multicast forwarding to the red interfaces.
///
/// Dropping it ends its threads and takes the device, the forwarding entries and the keys away. The block stays.
pub struct Userspace {
    sad: Arc<Sad>,
    config: EspConfig,
    forwarding: Forwarding,
    workers: Workers,
}

impl Userspace {
    /// Makes the device, opens the sockets, starts the threads. From then on red multicast is carried as far as SAs
    /// and senders are set. Forwarding and the block are the caller's, before.
    ///
    /// # Errors
    /// A configuration that cannot work, an interface that is not there, a missing right or device: each by name.
    pub fn start(config: EspConfig) -> Result<Self, Error> {
        config.check()?;
        let link = netlink::run(async |handle| netlink::link(handle, &config.black_interface).await)?;
        let link = link.ok_or_else(|| Error::NoInterface { name: config.black_interface.clone() })?;
        let mtu = tunnel_mtu(link.mtu, config.black_address.is_ipv4());
        let black = Arc::new(Black::open(&config, link.index)?);
        let device = Arc::new(device::create(&config.device, mtu)?);

        let sad = Sad::new(config.red_multicast.clone(), config.own_prefixes.clone(), config.ledger.clone());
        let sad = Arc::new(sad);
        let mut workers = Workers::new()?;
        let forwarding = Forwarding::start(&config, &sad, &mut workers)?;
        let (d, b, s) = (device.clone(), black.clone(), sad.clone());
        workers.spawn("muster-encrypt", move |stop| pump::red_to_black(&d, &b, &s, stop))?;
        let s = sad.clone();
        workers.spawn("muster-decrypt", move |stop| pump::black_to_red(&device, &black, &s, stop))?;

        let EspConfig { device, black_interface, black_address, group_address, .. } = &config;
        info!(device, mtu, black_interface, %black_address, %group_address, "userspace ESP is running");
        Ok(Userspace { sad, config, forwarding, workers })
    }
}

impl Dataplane for Userspace {
    fn backend(&self) -> &'static str {
        "userspace"
    }

    fn set_outbound(&self, sa: Sa) -> Result<(), Error> {
        let (destination, black) = (sa.destination, self.config.black_address);
        if destination.is_ipv4() != black.is_ipv4() {
            return Err(Error::FamilyMismatch { destination, black });
        }
        self.sad.set_outbound(Sa { source: Some(black), ..sa })
    }

    fn set_own_prefixes(&self, prefixes: Vec<IpNet>) {
        self.sad.set_own_prefixes(prefixes);
        self.forwarding.forget();
    }

    fn failure(&self) -> Option<String> {
        self.workers.failure()
    }

    delegate_to_sad!(sad);
}

/// The largest inner packet whose outer one black takes whole.
fn tunnel_mtu(black: u32, outer_ipv4: bool) -> u16 {
    let black = u16::try_from(black).unwrap_or(u16::MAX);
    let inner = packet::largest_inner(black.into(), outer_ipv4);
    // No larger than `black`, which is 16 bits wide.
    device::MIN_MTU.max(inner as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnel_mtus() {
        assert_eq!(tunnel_mtu(1500, false), 1426);
        assert_eq!(tunnel_mtu(1500, true), 1446);
        assert_eq!(tunnel_mtu(1280, false), 1280);
        assert_eq!(tunnel_mtu(65536, true), 65478);
    }
}
