//! Three routers with a data plane and a stranger on one black network: addresses, SAs, and what may be sent on them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use muster_dataplane::{
    BlockConfig, Blocked, Dataplane, EspConfig, FlowId, KeyLedger, Sa, SaKey, SaKind, Selector, block,
    enable_forwarding,
};
use muster_wire::MemberId;

use super::lab::{Ns, cable, multicast, start};
use super::tunnel::{ALICE, BOB, CAROL, MARKER, nets};

const MEMBERS: [MemberId; 3] = [ALICE, BOB, CAROL];

/// Addresses of one router and the host behind it, IPv6 before IPv4.
pub(crate) struct Place {
    pub(crate) black: [&'static str; 2],
    pub(crate) red: [&'static str; 2],
    pub(crate) host: [&'static str; 2],
    pub(crate) prefixes: [&'static str; 2],
}

pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;
pub(crate) const C: usize = 2;
pub(crate) const PLACES: [Place; 3] = [
    Place {
        black: ["fd00::a/64", "192.0.2.1/24"],
        red: ["2001:db8:a::1/64", "10.1.0.1/24"],
        host: ["2001:db8:a::2/64", "10.1.0.2/24"],
        prefixes: ["2001:db8:a::/64", "10.1.0.0/24"],
    },
    Place {
        black: ["fd00::b/64", "192.0.2.2/24"],
        red: ["2001:db8:b::1/64", "10.2.0.1/24"],
        host: ["2001:db8:b::2/64", "10.2.0.2/24"],
        prefixes: ["2001:db8:b::/64", "10.2.0.0/24"],
    },
    Place {
        black: ["fd00::c/64", "192.0.2.3/24"],
        red: ["2001:db8:c::1/64", "10.3.0.1/24"],
        host: ["2001:db8:c::2/64", "10.3.0.2/24"],
        prefixes: ["2001:db8:c::/64", "10.3.0.0/24"],
    },
];
/// Somebody on black.
pub(crate) const OUTSIDE: [&str; 2] = ["fd00::99", "192.0.2.99"];

pub(crate) fn address(cidr: &'static str) -> &'static str {
    cidr.split_once('/').unwrap().0
}

pub(crate) fn at(address: &str, port: u16) -> String {
    SocketAddr::new(address.parse().unwrap(), port).to_string()
}

/// Three routers and a stranger on one black network, a host behind each router.
pub(crate) struct Net {
    _switch: Ns,
    pub(crate) outside: Ns,
    pub(crate) routers: Vec<Ns>,
    pub(crate) hosts: Vec<Ns>,
    pub(crate) planes: Vec<Arc<dyn Dataplane>>,
    black_ipv4: bool,
}

impl Net {
    pub(crate) fn new(black_ipv4: bool) -> Self {
        let (switch, outside) = (Ns::new(), Ns::new());
        switch.bridge("bridge");
        cable((&outside, "eth0", &["fd00::99/64", "192.0.2.99/24"]), (&switch, "port3", &[]));
        switch.attach("port3", "bridge");
        for gateway in PLACES[A].black {
            outside.default_route(address(gateway));
        }
        let (mut routers, mut hosts, mut planes) = (Vec::new(), Vec::new(), Vec::new());
        for (nth, port) in ["port0", "port1", "port2"].into_iter().enumerate() {
            let (router, host, place) = (Ns::new(), Ns::new(), &PLACES[nth]);
            cable((&router, "black", &place.black), (&switch, port, &[]));
            switch.attach(port, "bridge");
            cable((&router, "red0", &place.red), (&host, "eth0", &place.host));
            place.red.iter().for_each(|gateway| host.default_route(address(gateway)));
            // What is not stopped follows these, onto black.
            OUTSIDE.iter().for_each(|gateway| router.default_route(gateway));
            let config = move || config(nth, black_ipv4);
            assert_eq!(router.run(move || block(&block_config(&config())).unwrap()), Blocked::default());
            router.run(|| enable_forwarding("black").unwrap());
            planes.push(Arc::from(router.run(move || start(config()).unwrap())));
            routers.push(router);
            hosts.push(host);
        }
        Net { _switch: switch, outside, routers, hosts, planes, black_ipv4 }
    }

    /// Ends a router's data plane, and starts it again after `meanwhile`.
    pub(crate) fn restart(&mut self, router: usize, meanwhile: impl FnOnce(&Ns)) {
        drop(self.planes.remove(router));
        meanwhile(&self.routers[router]);
        let config = config(router, self.black_ipv4);
        self.planes.insert(router, Arc::from(self.routers[router].run(move || start(config).unwrap())));
    }

    /// An outer destination in black's family: `group` itself where it is, else one that stands for it.
    pub(crate) fn outer(&self, group: &str) -> IpAddr {
        let group: IpAddr = group.parse().unwrap();
        let other = if self.black_ipv4 { "239.10.255.1" } else { "ff1e::255" };
        if group.is_ipv4() == self.black_ipv4 { group } else { other.parse().unwrap() }
    }

    /// An SA of `from`'s; its number is in its key, too.
    pub(crate) fn sa(&self, from: usize, number: u32, destination: IpAddr, selector: Selector) -> Sa {
        let mut key = [from as u8; 36];
        key[..4].copy_from_slice(&number.to_be_bytes());
        Sa {
            spi: 0x1000 * (1 + from as u32) + number,
            kind: if destination.is_multicast() { SaKind::Group } else { SaKind::Unicast },
            source: None,
            destination,
            epoch: 0,
            sender: MEMBERS[from],
            selector: Some(selector),
            key: SaKey::new(&key),
        }
    }

    /// Sets a multicast flow of `from`'s, under an SA with this number, for `members`.
    pub(crate) fn multicast(
        &self,
        from: usize,
        (flow, number): (u32, u32),
        group: &str,
        selector: Selector,
        members: &[usize],
    ) {
        let sa = || self.sa(from, number, self.outer(group), selector);
        members.iter().for_each(|member| self.planes[*member].install_inbound(vec![sa()]).unwrap());
        self.planes[from].set_flow(FlowId(flow), selector, sa()).unwrap();
    }

    /// The same of unicast from one router to another.
    pub(crate) fn unicast(&self, from: usize, to: usize, (flow, number): (u32, u32), selector: Selector) {
        let destination = address(PLACES[to].black[usize::from(self.black_ipv4)]).parse().unwrap();
        let sa = || self.sa(from, number, destination, selector);
        self.planes[to].install_inbound(vec![sa()]).unwrap();
        self.planes[from].set_flow(FlowId(flow), selector, sa()).unwrap();
    }

    pub(crate) fn host(&self, of: usize, group: &str, port: u16) -> UdpSocket {
        multicast(&self.hosts[of], "eth0", group, port)
    }

    /// Whether a router is in this group on black.
    pub(crate) fn is_member(&self, router: usize, group: IpAddr) -> bool {
        self.memberships(router, group.is_ipv4()).contains(&group)
    }

    pub(crate) fn memberships(&self, router: usize, ipv4: bool) -> BTreeSet<IpAddr> {
        self.routers[router].run(move || match ipv4 {
            false => {
                let all = std::fs::read_to_string("/proc/thread-self/net/igmp6").unwrap();
                let words = all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
                let on_black = words.filter(|words| words[1] == "black");
                on_black.map(|words| u128::from_str_radix(words[2], 16).unwrap().to_be_bytes().into()).collect()
            }
            true => {
                let all = std::fs::read_to_string("/proc/thread-self/net/igmp").unwrap();
                let (mut on_black, mut groups) = (false, BTreeSet::new());
                for line in all.lines().skip(1) {
                    match line.starts_with('\t') {
                        false => on_black = line.split_whitespace().nth(1) == Some("black"),
                        true if !on_black => {}
                        true => {
                            let word = line.split_whitespace().next().unwrap();
                            groups.insert(u32::from_str_radix(word, 16).unwrap().to_ne_bytes().into());
                        }
                    }
                }
                groups
            }
        })
    }
}

pub(crate) fn config(nth: usize, black_ipv4: bool) -> EspConfig {
    let Place { black, prefixes, .. } = &PLACES[nth];
    EspConfig {
        device: "muster0".into(),
        black_interface: "black".into(),
        black_address: address(black[usize::from(black_ipv4)]).parse().unwrap(),
        group_address: None,
        hop_limit: 64,
        copy_dscp: true,
        clear_df: false,
        reds: vec!["red0".into()],
        red_multicast: nets(&["ff1e::/16", "239.10.0.0/16"]),
        dynamic_membership: false,
        own_prefixes: nets(prefixes),
        instance: 3,
        workers: 2,
        ledger: KeyLedger::new(),
    }
}

pub(crate) fn block_config(config: &EspConfig) -> BlockConfig {
    let EspConfig { device, black_interface, reds, own_prefixes, instance, .. } = config.clone();
    BlockConfig { instance, black: black_interface, reds, device, own_prefixes }
}

pub(crate) fn selector(source: &str, destination: &str) -> Selector {
    Selector::new(source.parse().unwrap(), destination.parse().unwrap())
}

pub(crate) fn to_port(port: u16, selector: Selector) -> Selector {
    Selector { protocol: Some(17), destination_port: Some(port), ..selector }
}

pub(crate) fn clear_text(frames: &[Vec<u8>]) -> bool {
    frames.iter().any(|frame| frame.windows(16).any(|bytes| bytes == MARKER))
}
