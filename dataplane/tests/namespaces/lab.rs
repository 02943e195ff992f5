//! Network namespaces for these tests: each is held by a thread of its own and vanishes with it.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use muster_dataplane::{Dataplane, Error, EspConfig};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};
use socket2::{Domain, Protocol, Socket, Type};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Why these tests cannot run here, said on the real standard error; the harness would swallow a `println`.
pub(crate) fn skip() -> bool {
    let tried = thread::spawn(|| nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)).join();
    let reason = match tried {
        Ok(Ok(())) => match std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
            Ok(_) => return false,
            Err(e) => format!("/dev/net/tun: {e}"),
        },
        other => format!("no network namespace can be made ({other:?}); run as root"),
    };
    say_skipped(&reason)
}

/// The same of what only the kernel's ESP has.
pub(crate) fn skip_userspace() -> bool {
    !is_kernel() && say_skipped("of the kernel's ESP, which the kernel lab tests")
}

pub(crate) fn say_skipped(reason: &str) -> bool {
    let line = format!("SKIP {}: {reason}\n", thread::current().name().unwrap_or("test"));
    let _ = io::stderr().write_all(line.as_bytes());
    true
}

/// Whether the kernel's own ESP is tested.
pub(crate) fn is_kernel() -> bool {
    std::env::var("MUSTER_BACKEND").is_ok_and(|name| name == "kernel")
}

/// A data plane of the back end that MUSTER_BACKEND names, which is `userspace` without it: the same tests hold for all.
pub(crate) fn start(config: EspConfig) -> Result<Box<dyn Dataplane>, Error> {
    let name = std::env::var("MUSTER_BACKEND").unwrap_or_else(|_| "userspace".into());
    let backend = name.parse().expect("MUSTER_BACKEND: userspace or kernel");
    muster_dataplane::start(backend, config).map(|running| running.dataplane)
}

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace without a name. All in it runs on its thread, or on threads which that one starts.
pub(crate) struct Ns {
    jobs: mpsc::Sender<Job>,
    file: OwnedFd,
}

impl Ns {
    pub(crate) fn new() -> Ns {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (send_file, file) = mpsc::channel();
        thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            // No waiting for duplicate address detection.
            for which in ["all", "default"] {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/accept_dad"), "0").unwrap();
            }
            send_file.send(std::fs::File::open("/proc/thread-self/ns/net").unwrap().into()).unwrap();
            inbox.into_iter().for_each(|job| job());
        });
        let ns = Ns { jobs, file: file.recv().unwrap() };
        ns.up("lo");
        ns
    }

    /// Runs `work` in the namespace and waits for it.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, result) = mpsc::channel();
        let job = move || {
            let _ = send.send(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)));
        };
        self.jobs.send(Box::new(job)).unwrap();
        result.recv().unwrap().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn netlink<T: Send + 'static>(&self, work: impl AsyncFnOnce(Handle) -> T + Send + 'static) -> T {
        self.run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
            runtime.block_on(async {
                let (connection, handle, _messages) = rtnetlink::new_connection().unwrap();
                tokio::spawn(connection);
                work(handle).await
            })
        })
    }

    pub(crate) fn up(&self, name: &'static str) {
        self.netlink(async move |handle| {
            handle.link().set(LinkUnspec::new_with_name(name).up().build()).execute().await.unwrap();
        });
    }

    pub(crate) fn down(&self, name: &'static str) {
        self.netlink(async move |handle| {
            handle.link().set(LinkUnspec::new_with_name(name).down().build()).execute().await.unwrap();
        });
    }

    /// Makes a bridge.
    pub(crate) fn bridge(&self, name: &'static str) {
        self.netlink(async move |handle| handle.link().add(LinkBridge::new(name).build()).execute().await.unwrap());
        self.up(name);
    }

    /// Makes an interface a port of a bridge.
    pub(crate) fn attach(&self, name: &'static str, bridge: &'static str) {
        let controller = self.index(bridge);
        self.netlink(async move |handle| {
            let port = LinkUnspec::new_with_name(name).controller(controller).build();
            handle.link().set(port).execute().await.unwrap();
        });
    }

    /// Adds a rule of IPv4.
    pub(crate) fn rule(&self, say: impl FnOnce(&mut RuleMessage) + Send + 'static) {
        self.netlink(async move |handle| {
            let mut request = handle.rule().add().v4();
            say(request.message_mut());
            request.execute().await.unwrap();
        });
    }

    /// Whether a rule asks for the protocol, so that the kernel looks for it in each packet that it routes.
    pub(crate) fn looks_for_protocols(&self) -> bool {
        self.netlink(async move |handle| {
            let of =
                async |version| handle.rule().get(version).execute().try_collect::<Vec<RuleMessage>>().await.unwrap();
            let rules = [of(IpVersion::V4).await, of(IpVersion::V6).await].concat();
            let mut attributes = rules.iter().flat_map(|rule| &rule.attributes);
            attributes.any(|attribute| matches!(attribute, RuleAttribute::IpProtocol(_)))
        })
    }

    pub(crate) fn delete(&self, name: &'static str) {
        let index = self.index(name);
        self.netlink(async move |handle| handle.link().del(index).execute().await.unwrap());
    }

    pub(crate) fn mtu(&self, name: &'static str, mtu: u32) {
        self.netlink(async move |handle| {
            handle.link().set(LinkUnspec::new_with_name(name).mtu(mtu).build()).execute().await.unwrap();
        });
    }

    pub(crate) fn rename(&self, old: &'static str, new: &'static str) {
        let index = self.index(old);
        self.netlink(async move |handle| {
            handle.link().set(LinkUnspec::new_with_index(index).name(new).build()).execute().await.unwrap();
        });
    }

    pub(crate) fn address(&self, name: &'static str, address: &'static str) {
        let index = self.index(name);
        self.netlink(async move |handle| {
            let net: ipnet::IpNet = address.parse().unwrap();
            handle.address().add(index, net.addr(), net.prefix_len()).execute().await.unwrap();
        });
    }

    pub(crate) fn without_address(&self, name: &'static str, address: &'static str) {
        let index = self.index(name);
        self.netlink(async move |handle| {
            let net: ipnet::IpNet = address.parse().unwrap();
            let mut message = AddressMessage::default();
            message.header.family = if net.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            (message.header.index, message.header.prefix_len) = (index, net.prefix_len());
            message.attributes.push(AddressAttribute::Local(net.addr()));
            handle.address().del(message).execute().await.unwrap();
        });
    }

    pub(crate) fn default_route(&self, gateway: &'static str) {
        self.netlink(async move |handle| {
            let message: RouteMessage = match gateway.parse().unwrap() {
                IpAddr::V4(via) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(via).build(),
                IpAddr::V6(via) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(via).build(),
            };
            handle.route().add(message).execute().await.unwrap();
        });
    }

    /// A route to what is said to be on the link.
    pub(crate) fn on_link(&self, name: &'static str, prefix: &'static str) {
        let index = self.index(name);
        self.netlink(async move |handle| {
            let net: ipnet::IpNet = prefix.parse().unwrap();
            let message =
                RouteMessageBuilder::<IpAddr>::new().destination_prefix(net.addr(), net.prefix_len()).unwrap();
            handle
                .route()
                .add(message.output_interface(index).scope(RouteScope::Link).build())
                .execute()
                .await
                .unwrap();
        });
    }

    pub(crate) fn index(&self, name: &'static str) -> u32 {
        self.run(move || nix::net::if_::if_nametoindex(name).unwrap())
    }

    pub(crate) fn has(&self, name: &'static str) -> bool {
        self.run(move || nix::net::if_::if_nametoindex(name).is_ok())
    }
}

/// A cable: `name` in `a`, `peer` in `b`, with their addresses, up.
pub(crate) fn cable(a: (&Ns, &'static str, &[&'static str]), b: (&Ns, &'static str, &[&'static str])) {
    let (name, peer, fd) = (a.1, b.1, b.0.file.as_raw_fd());
    a.0.netlink(async move |handle| {
        handle.link().add(LinkVeth::new(name, "peer").build()).execute().await.unwrap();
        handle.link().set(LinkUnspec::new_with_name("peer").setns_by_fd(fd).build()).execute().await.unwrap();
    });
    b.0.rename("peer", peer);
    for (ns, name, addresses) in [a, b] {
        addresses.iter().for_each(|address| ns.address(name, address));
        ns.up(name);
    }
    for (ns, _, addresses) in [a, b] {
        for address in addresses {
            let address = address.parse::<ipnet::IpNet>().unwrap().addr();
            until("the address is usable", || ns.run(move || UdpSocket::bind((address, 0)).is_ok()));
        }
    }
}

/// Calls `ready` until it is; fails after the deadline.
pub(crate) fn until(what: &str, mut ready: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !ready() {
        assert!(Instant::now() < end, "still not so: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A UDP socket in `ns`, bound to `address`, that waits for at most a moment.
pub(crate) fn udp(ns: &Ns, address: &str) -> UdpSocket {
    let address: SocketAddr = address.parse().unwrap();
    let socket = ns.run(move || UdpSocket::bind(address).unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    socket
}

/// A host's multicast socket on its interface `name`: sends with TTL 8 and has joined `group`.
pub(crate) fn multicast(ns: &Ns, name: &'static str, group: &str, port: u16) -> UdpSocket {
    let (group, index): (IpAddr, u32) = (group.parse().unwrap(), ns.index(name));
    let socket = ns.run(move || {
        let domain = if group.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_recv_buffer_size(4 << 20).unwrap();
        match group {
            IpAddr::V4(group) => {
                let interface = socket2::InterfaceIndexOrAddress::Index(index);
                socket.bind(&SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port).into()).unwrap();
                socket.join_multicast_v4_n(&group, &interface).unwrap();
                socket.bind_device(Some(name.as_bytes())).unwrap();
                socket.set_multicast_ttl_v4(8).unwrap();
                socket.set_multicast_loop_v4(false).unwrap();
            }
            IpAddr::V6(group) => {
                socket.bind(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0).into()).unwrap();
                socket.join_multicast_v6(&group, index).unwrap();
                socket.set_multicast_if_v6(index).unwrap();
                socket.set_multicast_hops_v6(8).unwrap();
                socket.set_multicast_loop_v6(false).unwrap();
            }
        }
        UdpSocket::from(socket)
    });
    socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    socket
}

/// A host's multicast sender with a source address of its choice.
pub(crate) fn multicast_from(ns: &Ns, name: &'static str, source: &str) -> UdpSocket {
    let socket = udp(ns, source);
    socket2::SockRef::from(&socket).set_multicast_if_v6(ns.index(name)).unwrap();
    socket2::SockRef::from(&socket).set_multicast_hops_v6(8).unwrap();
    socket
}

/// What arrives on `socket` within a moment.
pub(crate) fn receive(socket: &UdpSocket) -> Option<Vec<u8>> {
    receive_from(socket).map(|(payload, _)| payload)
}

pub(crate) fn receive_from(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; 2048];
    socket.recv_from(&mut buffer).ok().map(|(len, from)| (buffer[..len].to_vec(), from))
}

/// Whether what this socket sends by IPv4 may be fragmented.
pub(crate) fn set_df(socket: &UdpSocket, forbid: bool) {
    let value: i32 = if forbid { nix::libc::IP_PMTUDISC_DO } else { nix::libc::IP_PMTUDISC_DONT };
    let (fd, pointer) = (socket.as_raw_fd(), (&raw const value).cast());
    // SAFETY: the pointer is to a live c_int of the stated size, which the kernel reads during the call.
    let done = unsafe { nix::libc::setsockopt(fd, nix::libc::IPPROTO_IP, nix::libc::IP_MTU_DISCOVER, pointer, 4) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Sees every frame that comes or goes on an interface.
pub(crate) struct Capture(Socket);

impl Capture {
    pub(crate) fn new(ns: &Ns, name: &'static str) -> Capture {
        const ETH_P_ALL: u16 = 3;
        let index = ns.index(name);
        Capture(ns.run(move || {
            let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).unwrap();
            socket.set_recv_buffer_size(8 << 20).unwrap();
            let address = nix::libc::sockaddr_ll {
                sll_family: nix::libc::AF_PACKET as u16,
                sll_protocol: ETH_P_ALL.to_be(),
                sll_ifindex: index as i32,
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 0,
                sll_addr: [0; 8],
            };
            // SAFETY: the storage is large enough for and gets a sockaddr_ll of the stated length.
            let ((), address) = unsafe {
                socket2::SockAddr::try_init(|storage, len| {
                    storage.cast::<nix::libc::sockaddr_ll>().write(address);
                    *len = size_of::<nix::libc::sockaddr_ll>() as u32;
                    Ok(())
                })
                .unwrap()
            };
            socket.bind(&address).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        }))
    }

    /// All frames seen since the last call.
    pub(crate) fn frames(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; 65536];
        while let Ok(len) = nix::sys::socket::recv(self.0.as_raw_fd(), &mut buffer, nix::sys::socket::MsgFlags::empty())
        {
            frames.push(buffer[..len].to_vec());
        }
        frames
    }
}

/// Source of the IP packet in an Ethernet frame.
pub(crate) fn source(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [0x08, 0x00] => frame[26..].first_chunk::<4>().map(|octets| (*octets).into()),
        [0x86, 0xdd] => frame[22..].first_chunk::<16>().map(|octets| (*octets).into()),
        _ => None,
    }
}

/// Protocol of the IP packet in an Ethernet frame (behind a hop-by-hop header, for MLD).
pub(crate) fn protocol(frame: &[u8]) -> Option<u8> {
    match frame.get(12..14)? {
        [0x08, 0x00] => frame.get(14 + 9).copied(),
        [0x86, 0xdd] => match frame.get(14 + 6).copied()? {
            0 => frame.get(14 + 40).copied(),
            next => Some(next),
        },
        _ => None,
    }
}

/// As `nft flush ruleset` does.
pub(crate) fn flush_ruleset() {
    const BATCH_BEGIN: u16 = 16;
    const BATCH_END: u16 = 17;
    const NFTABLES: u16 = 10;
    const DELETE_TABLE: u16 = NFTABLES << 8 | 2;
    let message = |kind: u16, flags: u16, number: u32, body: [u8; 4]| {
        let header = [&20_u32.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &number.to_ne_bytes()];
        [&header.concat()[..], &[0; 4], &body].concat()
    };
    let begin = [0, 0, 0, NFTABLES as u8];
    // NLM_F_REQUEST, and NLM_F_ACK.
    let bytes =
        [message(BATCH_BEGIN, 1, 1, begin), message(DELETE_TABLE, 5, 2, [0; 4]), message(BATCH_END, 1, 3, begin)];
    let mut socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_NETFILTER).unwrap();
    socket.bind_auto().unwrap();
    socket.send_to(&bytes.concat(), &netlink_sys::SocketAddr::new(0, 0), 0).unwrap();
    let (answer, _) = socket.recv_from_full().unwrap();
    assert_eq!(answer[16..20], [0; 4], "flushed");
}
