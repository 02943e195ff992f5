//! Links, addresses and routes of a namespace.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::{Namespace, Result, readiness};

/// Bridges get interface numbers from here on, all else stays below: so the capture's filter can tell them apart.
pub(crate) const FIRST_BRIDGE_INDEX: u32 = 1_000_000;

/// One end of a pair of virtual Ethernet devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethEnd {
    /// Name of the device in its namespace, at most 15 bytes.
    pub device: String,
    /// Hardware address; random if absent.
    pub mac: Option<[u8; 6]>,
}

impl From<&str> for VethEnd {
    fn from(device: &str) -> Self {
        VethEnd { device: device.to_owned(), mac: None }
    }
}

impl Namespace {
    /// Creates a bridge that floods all multicast (no snooping) and forwards at once (no spanning tree), and sets it
    /// up. Devices created in this namespace afterwards have no IPv6 of their own: they are ports.
    ///
    /// # Errors
    /// When the name is taken or the kernel has no bridges.
    pub fn add_bridge(&self, bridge: &str) -> Result<()> {
        static NEXT: AtomicU32 = AtomicU32::new(FIRST_BRIDGE_INDEX);
        self.netlink(&format!("create bridge {bridge}"), async |handle| {
            // A fixed address: by default it follows the ports' addresses, and would change under the neighbours.
            let index = NEXT.fetch_add(1, Ordering::Relaxed);
            let [_, a, b, c] = index.to_be_bytes();
            let message = LinkBridge::new(bridge)
                .index(index)
                .address(vec![0x02, 0xb1, 0xac, a, b, c])
                .mcast_snooping(false)
                .forward_delay(0)
                .up()
                .build();
            handle.link().add(message).execute().await.map_err(io_error)
        })?;
        self.sysctl("ipv6/conf/default/disable_ipv6", "1")
    }

    /// Creates a pair of devices, `near` in this namespace and `far` in `peer`, both up. Use
    /// [`Namespace::wait_for_link`] on both before sending.
    ///
    /// # Errors
    /// When a name is taken or the kernel has no veth.
    pub fn add_veth(&self, near: &VethEnd, peer: &Namespace, far: &VethEnd) -> Result<()> {
        self.add_pair(near, None, peer, far)
    }

    /// As [`Namespace::add_veth`], with `near` as a port of `bridge` in this namespace.
    ///
    /// # Errors
    /// As there, and when there is no such bridge.
    pub fn add_port(&self, near: &VethEnd, bridge: &str, peer: &Namespace, far: &VethEnd) -> Result<()> {
        self.add_pair(near, Some(bridge), peer, far)
    }

    fn add_pair(&self, near: &VethEnd, bridge: Option<&str>, peer: &Namespace, far: &VethEnd) -> Result<()> {
        let what = format!("create link {} to {} (namespace {})", near.device, far.device, peer.name());
        self.netlink(&what, async |handle| {
            let far_message = with_mac(LinkMessageBuilder::<LinkUnspec>::new().name(far.device.clone()), far)
                .setns_by_fd(peer.file.as_raw_fd())
                .build();
            let pair = LinkVeth::new(&near.device, "").set_info_data(InfoData::Veth(InfoVeth::Peer(far_message)));
            let mut message = with_mac(pair, near).up();
            if let Some(bridge) = bridge {
                message = message.controller(if_nametoindex(bridge)?);
            }
            handle.link().add(message.build()).execute().await.map_err(io_error)
        })?;
        // Not in the same request: the kernel refuses to raise an end that has no other end yet (ENOTCONN).
        peer.set_up(&far.device, true)
    }

    /// Waits until a device carries and all its addresses, the link-local one among them, receive. The kernel works
    /// off carrier changes and new IPv6 addresses in the background, and until then drops what is sent.
    ///
    /// # Errors
    /// When there is no such device, or it is not ready after half a minute.
    pub fn wait_for_link(&self, device: &str) -> Result<()> {
        self.try_run(&format!("wait for link {device}"), || {
            let deadline = Instant::now() + READY_LIMIT;
            while let Some(missing) = readiness::missing(device)? {
                if Instant::now() > deadline {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, missing));
                }
                // On a thread of its own: nobody else is held up.
                std::thread::sleep(READY_POLL);
            }
            Ok(())
        })
    }

    /// Moves a port to another bridge of this namespace.
    ///
    /// # Errors
    /// When there is no such port or bridge.
    pub fn set_bridge(&self, port: &str, bridge: &str) -> Result<()> {
        let message = |index| Ok(LinkUnspec::new_with_index(index).controller(if_nametoindex(bridge)?));
        self.change(&format!("move port {port} to bridge {bridge}"), port, message)
    }

    /// Takes a port off its bridge.
    ///
    /// # Errors
    /// When there is no such port.
    pub fn leave_bridge(&self, port: &str) -> Result<()> {
        self.change(&format!("take port {port} off its bridge"), port, |index| {
            Ok(LinkUnspec::new_with_index(index).nocontroller())
        })
    }

    /// Sets a device up or down. The other end of a pair loses its carrier with it.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn set_up(&self, device: &str, up: bool) -> Result<()> {
        let what = format!("set link {device} {}", if up { "up" } else { "down" });
        self.change(&what, device, |index| {
            let message = LinkUnspec::new_with_index(index);
            Ok(if up { message.up() } else { message.down() })
        })
    }

    /// Sets the largest packet, in bytes.
    ///
    /// # Errors
    /// When there is no such device or the size is outside its limits.
    pub fn set_mtu(&self, device: &str, bytes: u32) -> Result<()> {
        self.change(&format!("set the MTU of {device} to {bytes}"), device, |index| {
            Ok(LinkUnspec::new_with_index(index).mtu(bytes))
        })
    }

    fn change(
        &self,
        what: &str,
        device: &str,
        message: impl FnOnce(u32) -> io::Result<LinkMessageBuilder<LinkUnspec>> + Send,
    ) -> Result<()> {
        self.netlink(what, async |handle| {
            let message = message(if_nametoindex(device)?)?;
            handle.link().set(message.build()).execute().await.map_err(io_error)
        })
    }

    /// Deletes a device, and with it the other end of its pair.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn delete_link(&self, device: &str) -> Result<()> {
        self.netlink(&format!("delete link {device}"), async |handle| {
            handle.link().del(if_nametoindex(device)?).execute().await.map_err(io_error)
        })
    }

    /// The interface number of a device.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn index(&self, device: &str) -> Result<u32> {
        self.try_run(&format!("find device {device}"), || Ok(if_nametoindex(device)?))
    }

    /// Adds an address with its prefix length, to be used at once; packets to it are received after
    /// [`Namespace::wait_for_link`].
    ///
    /// # Errors
    /// When there is no such device or the address is there already.
    pub fn add_address(&self, device: &str, address: IpNet) -> Result<()> {
        self.netlink(&format!("add address {address} to {device}"), async |handle| {
            let mut request = handle.address().add(if_nametoindex(device)?, address.addr(), address.prefix_len());
            if address.addr().is_ipv6() {
                request.message_mut().header.flags = AddressHeaderFlags::Nodad;
            }
            request.execute().await.map_err(io_error)
        })
    }

    /// Removes an address.
    ///
    /// # Errors
    /// When there is no such device or address.
    pub fn remove_address(&self, device: &str, address: IpNet) -> Result<()> {
        self.netlink(&format!("remove address {address} from {device}"), async |handle| {
            let mut message = AddressMessage::default();
            message.header.family = if address.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            message.header.index = if_nametoindex(device)?;
            message.header.prefix_len = address.prefix_len();
            message.attributes.push(AddressAttribute::Local(address.addr()));
            handle.address().del(message).execute().await.map_err(io_error)
        })
    }

    /// Adds a route to `destination` through the router `via`.
    ///
    /// # Errors
    /// When `via` is not reachable directly, the families differ, or the route is there already.
    pub fn add_route(&self, destination: IpNet, via: IpAddr) -> Result<()> {
        self.netlink(&format!("add route to {destination} via {via}"), async |handle| {
            let message = RouteMessageBuilder::<IpAddr>::new()
                .destination_prefix(destination.network(), destination.prefix_len())
                .and_then(|route| route.gateway(via))
                .map_err(io::Error::other)?
                .build();
            handle.route().add(message).execute().await.map_err(io_error)
        })
    }

    /// Tells the hardware addresses of neighbours, for good: none of them is asked for on the wire.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn add_neighbours(&self, device: &str, neighbours: &[(IpAddr, [u8; 6])]) -> Result<()> {
        self.netlink(&format!("add {} neighbours to {device}", neighbours.len()), async |handle| {
            let index = if_nametoindex(device)?;
            for (address, mac) in neighbours {
                let request = handle.neighbours().add(index, *address).link_layer_address(mac);
                request.execute().await.map_err(io_error)?;
            }
            Ok(())
        })
    }

    /// Runs netlink requests: a netlink socket belongs to the namespace in which it was opened.
    fn netlink<T: Send>(&self, what: &str, work: impl AsyncFnOnce(Handle) -> io::Result<T> + Send) -> Result<T> {
        self.try_run(what, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection()?;
                tokio::spawn(connection);
                work(handle).await
            })
        })
    }
}

/// Long, since a loaded machine that takes down hundreds of namespaces keeps the kernel's one network lock for seconds.
const READY_LIMIT: Duration = Duration::from_secs(30);
const READY_POLL: Duration = Duration::from_millis(1);

fn with_mac<T>(message: LinkMessageBuilder<T>, end: &VethEnd) -> LinkMessageBuilder<T> {
    match end.mac {
        Some(mac) => message.address(mac.to_vec()),
        None => message,
    }
}

fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
