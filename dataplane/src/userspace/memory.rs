//! A data plane without devices, for tests of the daemon: packets are handed in and out by calls.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use muster_wire::MemberId;

use crate::bypass;
use crate::esp::packet::{HEADER_LEN, sealed_len};
use crate::inner::Inner;
use crate::inner::NextLayer;
use crate::policy::Policies;
use crate::selector::Selector;
use crate::userspace::sad::{Sad, Treatment};
use crate::{Counters, Dataplane, Error, ExportedKey, FlowId, KeyLedger, Sa, SaId, SaStatus};

/// The real tables, ciphers and checks of the userspace data plane, with nothing around them.
pub struct Memory {
    sad: Sad,
    policies: Arc<Policies>,
    bypass: Mutex<Vec<Selector>>,
}

impl Memory {
    /// Carries the red groups `red_multicast` for the own prefixes `own_prefixes`.
    pub fn new(red_multicast: Vec<IpNet>, own_prefixes: Vec<IpNet>, ledger: KeyLedger) -> Self {
        let treatment = Treatment { copy_dscp: true, clear_df: false };
        let policies = Arc::new(Policies::new(red_multicast, own_prefixes));
        Memory { sad: Sad::new(policies.clone(), treatment, ledger), policies, bypass: Mutex::default() }
    }

    /// Takes an inner packet from red: the outer destination and the ESP packet, or `None` if it was dropped.
    pub fn seal(&self, inner: &[u8]) -> Option<(IpAddr, Vec<u8>)> {
        let mut buffer = vec![0; sealed_len(inner.len())];
        buffer[HEADER_LEN..][..inner.len()].copy_from_slice(inner);
        let sealed = self.sad.seal(&mut buffer, inner.len())?;
        buffer.truncate(sealed.len);
        self.sad.counts.tx_packets.fetch_add(1, Relaxed);
        Some((sealed.destination, buffer))
    }

    /// Takes an ESP packet from black: the inner packet for red, or `None` if it was dropped.
    pub fn open(&self, destination: IpAddr, esp: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = esp.to_vec();
        let inner = self.sad.open(destination, 0, &mut buffer)?.to_vec();
        self.sad.counts.rx_packets.fetch_add(1, Relaxed);
        Some(inner)
    }

    /// Whether an inner packet from red crosses to black in clear.
    pub fn crosses_in_clear(&self, inner: &[u8]) -> bool {
        let Some(header) = Inner::parse(inner) else { return false };
        let next = NextLayer::of(&inner[..header.len]);
        let matches = |selector: &Selector| selector.matches(&header, &next);
        bypass::admits(&self.bypass(), &self.policies.load().own, matches, header.destination)
    }

    fn bypass(&self) -> MutexGuard<'_, Vec<Selector>> {
        // Replaced whole.
        self.bypass.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dataplane for Memory {
    fn backend(&self) -> &'static str {
        "memory"
    }

    fn set_outbound(&self, sa: Sa) -> Result<(), Error> {
        self.sad.set_outbound(sa)
    }

    fn set_unicast(&self, peer: MemberId, sa: Sa) -> Result<(), Error> {
        self.sad.set_unicast(peer, sa)
    }

    fn install_inbound(&self, sas: Vec<Sa>) -> Result<(), Error> {
        self.sad.install_inbound(sas)
    }

    fn remove_inbound(&self, ids: &[SaId]) -> Result<(), Error> {
        self.sad.remove_inbound(ids);
        Ok(())
    }

    fn set_flow(&self, flow: FlowId, selector: Selector, sa: Sa) -> Result<(), Error> {
        self.sad.set_flow(flow, selector, sa)
    }

    fn stop_flow(&self, flow: FlowId, selector: Selector) -> Result<(), Error> {
        self.sad.stop_flow(flow, selector)
    }

    fn clear_flow(&self, flow: FlowId) -> Result<(), Error> {
        self.sad.clear_flow(flow);
        Ok(())
    }

    fn set_bypass(&self, selectors: Vec<Selector>) -> Result<(), Error> {
        bypass::check(&selectors)?;
        *self.bypass() = selectors;
        Ok(())
    }

    fn set_routes(&self, routes: BTreeMap<MemberId, Vec<IpNet>>) {
        self.policies.set_routes(&routes);
    }

    fn set_black_address(&self, _: IpAddr) -> Result<(), Error> {
        Ok(())
    }

    fn leave_to_another(&self, prefixes: Vec<IpNet>) {
        self.policies.leave_to_another(prefixes);
    }

    fn set_own_prefixes(&self, prefixes: Vec<IpNet>) {
        self.policies.set_own_prefixes(prefixes);
    }

    fn clear_outbound(&self) -> Result<(), Error> {
        self.sad.clear_outbound();
        Ok(())
    }

    fn set_peer_address(&self, peer: &MemberId, address: IpAddr) {
        self.sad.set_peer_address(peer, address);
    }

    fn clear_unicast(&self, peer: &MemberId) -> Result<(), Error> {
        self.sad.clear_unicast(peer);
        Ok(())
    }

    fn set_senders(&self, senders: HashMap<MemberId, Vec<IpNet>>) {
        self.policies.set_senders(senders);
    }

    fn sas(&self) -> Vec<SaStatus> {
        self.sad.sas()
    }

    fn export_keys(&self) -> Vec<ExportedKey> {
        self.sad.export_keys()
    }

    fn counters(&self) -> Counters {
        self.sad.counters()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inner::tests::packet_v6;
    use crate::inner::tests::udp;
    use crate::selector::tests::selector;
    use crate::{Dropped, SaKey, SaKind};

    #[test]
    fn two_of_them_talk() {
        let nets = |net: &str| vec![net.parse().unwrap()];
        let a = Memory::new(nets("ff1e::/16"), nets("2001:db8:a::/64"), KeyLedger::new());
        let b = Memory::new(nets("ff1e::/16"), nets("2001:db8:b::/64"), KeyLedger::new());
        let (sender, destination) = (MemberId([1; 32]), "ff05::6d76".parse().unwrap());
        let sa = || Sa {
            spi: 0x1000,
            kind: SaKind::Group,
            source: None,
            destination,
            epoch: 1,
            sender,
            selector: None,
            key: SaKey::new(&[7; 36]),
        };
        a.set_outbound(sa()).unwrap();
        b.install_inbound(vec![sa()]).unwrap();
        b.set_senders(HashMap::from([(sender, nets("2001:db8:a::/64"))]));
        let inner = packet_v6("2001:db8:a::1", "ff1e::1", b"hello");
        let (to, esp) = a.seal(&inner).unwrap();
        assert_eq!(b.open(to, &esp), Some(inner));
        assert_eq!((a.counters().tx_packets, b.counters().rx_packets), (1, 1));
        assert_eq!(a.worn(), []);
        // Of all that it could count to, a quarter.
        a.sad.wear_out_group();
        a.seal(&packet_v6("2001:db8:a::1", "ff1e::1", b"hello")).unwrap();
        assert_eq!((a.worn(), b.worn()), (vec![(SaKind::Group, sa().id())], vec![]));
    }
    const ALICE: MemberId = MemberId([1; 32]);
    const HERE: &str = "10.1.0.0/16";

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    /// Alice's data plane and Bob's: `HERE` and 2001:db8:a::/64, 10.2.0.0/16 and 2001:db8:b::/64.
    fn routers() -> (Memory, Memory) {
        let plane = |own: &[&str]| Memory::new(nets(&["ff1e::/16", "239.0.0.0/8"]), nets(own), KeyLedger::new());
        (plane(&[HERE, "2001:db8:a::/64"]), plane(&["10.2.0.0/16", "2001:db8:b::/64"]))
    }

    /// An SA of Alice's for what a selector is for; its number is in its key, too.
    fn sa(number: u8, destination: &str, selector: Option<Selector>) -> Sa {
        let destination: IpAddr = destination.parse().unwrap();
        Sa {
            spi: 0x1000 + u32::from(number),
            kind: if destination.is_multicast() { SaKind::Group } else { SaKind::Unicast },
            source: None,
            destination,
            epoch: 0,
            sender: ALICE,
            selector,
            key: SaKey::new(&[number; 36]),
        }
    }

    fn to_port(port: u16, selector: Selector) -> Selector {
        Selector { protocol: Some(17), destination_port: Some(port), ..selector }
    }

    /// Sets a flow of Alice's whose SA Bob has.
    fn flow((a, b): (&Memory, &Memory), id: u32, number: u8, destination: &str, selector: Selector) {
        b.install_inbound(vec![sa(number, destination, Some(selector))]).unwrap();
        a.set_flow(FlowId(id), selector, sa(number, destination, None)).unwrap();
    }

    /// The number of the SA that carries a packet to Bob, who gets it.
    fn carried((a, b): (&Memory, &Memory), packet: &[u8]) -> Option<u32> {
        let (to, esp) = a.seal(packet)?;
        assert_eq!(b.open(to, &esp).as_deref(), Some(packet));
        Some(u32::from_be_bytes(*esp.first_chunk().unwrap()) - 0x1000)
    }

    #[test]
    fn the_first_flow_that_is_for_a_packet_carries_it() {
        let (a, b) = routers();
        let both = (&a, &b);
        let group = selector(HERE, "239.1.1.1/32");
        flow(both, 30, 3, "239.1.1.1", group);
        flow(both, 10, 1, "239.1.1.1", to_port(5001, group));
        flow(both, 20, 2, "239.1.1.1", to_port(5002, group));
        flow(both, 40, 4, "192.0.2.2", selector("10.0.0.0/8", "0.0.0.0/0"));
        flow(both, 50, 5, "192.0.2.2", selector("2001:db8:a::/64", "2001:db8:b::/64"));
        let to = |group: &str, port| carried(both, &udp("10.1.0.1", group, [9, port]));
        assert_eq!([5001, 5002, 5003].map(|port| to("239.1.1.1", port)), [Some(1), Some(2), Some(3)]);
        // Unicast goes on a unicast SA, and multicast never does.
        assert_eq!((to("10.2.0.1", 5001), to("239.1.1.2", 5001)), (Some(4), None));
        assert_eq!(carried(both, &udp("2001:db8:a::1", "2001:db8:b::1", [9, 1])), Some(5));
        // Of a later fragment the ports are not seen.
        let mut fragment = udp("10.1.0.1", "239.1.1.1", [9, 5001]);
        fragment[7] = 1;
        assert_eq!(carried(both, &fragment), Some(3));
        // Nothing is for these.
        assert_eq!(carried(both, &udp("2001:db8:a::1", "ff1e::1", [9, 1])), None);
        assert_eq!(a.counters().dropped, Dropped { no_sa: 2, ..Dropped::default() });
        assert_eq!(carried(both, &udp("10.9.0.1", "239.1.1.1", [9, 1])), None);
        assert_eq!(a.counters().dropped.spoofed, 1, "not from here, though the flow would take it");

        let flows: Vec<_> = a.sas().iter().map(|sa| (sa.flow.unwrap().0, sa.kind, sa.selector.unwrap())).collect();
        assert_eq!(flows.iter().map(|flow| flow.0).collect::<Vec<_>>(), [10, 20, 30, 40, 50]);
        assert_eq!((flows[2].1, flows[2].2, flows[3].1), (SaKind::Group, group, SaKind::Unicast));
        assert_eq!(a.export_keys().len(), 5);
        // Without an SA the first one still keeps the third from its packets, and from nothing else.
        let before = a.counters().dropped.no_sa;
        a.stop_flow(FlowId(10), to_port(5001, group)).unwrap();
        assert_eq!([5001, 5002, 5003].map(|port| to("239.1.1.1", port)), [None, Some(2), Some(3)]);
        assert_eq!((a.counters().dropped.no_sa, a.sas().len(), a.export_keys().len()), (before + 1, 4, 4));
        flow(both, 10, 6, "239.1.1.1", to_port(5001, group));
        assert_eq!(to("239.1.1.1", 5001), Some(6));
        // It comes before all of the mesh's ways, too; and what cannot be changes nothing.
        a.set_outbound(sa(7, "239.1.1.1", None)).unwrap();
        a.stop_flow(FlowId(10), to_port(5001, group)).unwrap();
        assert!(a.stop_flow(FlowId(10), selector(HERE, "ff1e::1/128")).is_err());
        assert_eq!(to("239.1.1.1", 5001), None);
        a.clear_outbound().unwrap();
        // Forgotten, it leaves its packets to the third.
        a.clear_flow(FlowId(10)).unwrap();
        a.clear_flow(FlowId(11)).unwrap();
        assert_eq!(to("239.1.1.1", 5001), Some(3));
        a.clear_flow(FlowId(30)).unwrap();
        assert_eq!(to("239.1.1.1", 5001), None);
    }

    #[test]
    fn a_flow_changes_its_sa_and_its_selector_at_once() {
        let (a, b) = routers();
        let both = (&a, &b);
        let group = selector(HERE, "239.1.1.1/32");
        flow(both, 7, 1, "239.1.1.1", group);
        let packet = |port| udp("10.1.0.1", "239.1.1.1", [9, port]);
        let (to, late) = a.seal(&packet(1)).unwrap();
        flow(both, 7, 2, "239.1.1.1", group);
        assert_eq!(carried(both, &packet(2)), Some(2));
        assert_eq!(b.open(to, &late), Some(packet(1)), "the old SA still receives");
        flow(both, 7, 3, "239.1.1.1", to_port(5, group));
        assert_eq!([4, 5].map(|port| carried(both, &packet(port))), [None, Some(3)]);
        let again = a.set_flow(FlowId(8), group, sa(3, "239.1.1.1", None));
        assert!(matches!(again, Err(Error::KeyReused { .. })));
    }

    /// RFC 4301 5.2: what comes out is what its SA is for, whoever has the key.
    #[test]
    fn an_sa_delivers_what_its_selector_is_for() {
        let (a, b) = routers();
        let wide = selector("0.0.0.0/0", "239.0.0.0/8");
        a.set_flow(FlowId(1), wide, sa(1, "239.1.1.1", None)).unwrap();
        b.install_inbound(vec![sa(1, "239.1.1.1", Some(to_port(5, selector(HERE, "239.1.1.1/32"))))]).unwrap();
        // Senders' prefixes do not count here.
        b.set_senders(HashMap::new());
        a.set_own_prefixes(nets(&["0.0.0.0/0"]));
        let deliver = |packet: &[u8]| a.seal(packet).and_then(|(_, esp)| b.open("239.1.1.1".parse().unwrap(), &esp));
        let good = udp("10.1.0.1", "239.1.1.1", [9, 5]);
        assert_eq!(deliver(&good), Some(good.clone()));
        let mut fragment = good.clone();
        fragment[7] = 1;
        let wrong = [
            udp("10.1.0.1", "239.1.1.1", [9, 6]),
            udp("10.3.0.1", "239.1.1.1", [9, 5]),
            udp("10.1.0.1", "239.1.1.2", [9, 5]),
            fragment,
        ];
        for (packet, nth) in wrong.iter().zip(1..) {
            assert_eq!(deliver(packet), None, "{nth}");
            assert_eq!(b.counters().dropped, Dropped { spoofed: nth, ..Dropped::default() });
        }
        // What comes from an own prefix is another router's of this LAN, and no forgery; it is not delivered twice.
        b.set_own_prefixes(nets(&[HERE]));
        assert_eq!((deliver(&good), b.counters().dropped.spoofed), (None, 4));
        assert_eq!((deliver(&wrong[1]), b.counters().dropped.spoofed), (None, 5));
    }

    #[test]
    fn unicast_comes_to_the_own_prefixes_alone() {
        let (a, b) = routers();
        flow((&a, &b), 1, 1, "192.0.2.2", selector("0.0.0.0/0", "0.0.0.0/0"));
        let deliver = |to: &str| {
            let (outer, esp) = a.seal(&udp("10.1.0.1", to, [9, 9])).unwrap();
            b.open(outer, &esp).is_some()
        };
        assert!(deliver("10.2.0.1"));
        assert!(!deliver("10.3.0.1") && !deliver("192.0.2.2"));
        assert_eq!(b.counters().dropped, Dropped { spoofed: 2, ..Dropped::default() });
    }

    #[test]
    fn what_cannot_be_is_refused_and_changes_nothing() {
        let (a, _) = routers();
        let group = selector(HERE, "239.1.1.1/32");
        let refused = |selector, sa| a.set_flow(FlowId(1), selector, sa).unwrap_err().to_string();
        assert_eq!(
            refused(group, sa(1, "192.0.2.2", None)),
            "selector 10.1.0.0/16 → 239.1.1.1/32: its SA is for unicast"
        );
        assert!(refused(selector(HERE, "10.2.0.0/16"), sa(1, "239.1.1.1", None)).contains("is for multicast"));
        assert!(refused(selector(HERE, "0.0.0.0/0"), sa(1, "239.1.1.1", None)).contains("is for multicast"));
        let wrong = Sa { kind: SaKind::Unicast, ..sa(1, "239.1.1.1", None) };
        assert_eq!(refused(group, wrong), "a unicast SA cannot go to 239.1.1.1");
        assert!(refused(selector(HERE, "ff1e::1/128"), sa(1, "239.1.1.1", None)).contains("two families"));
        assert!(refused(group, Sa { spi: 255, ..sa(1, "239.1.1.1", None) }).contains("reserved"));
        let wrong = Sa { kind: SaKind::Group, ..sa(1, "192.0.2.2", None) };
        assert!(matches!(a.install_inbound(vec![wrong]), Err(Error::KindMismatch { .. })));
        assert_eq!(a.sas(), []);
        // Its key was not taken for used.
        a.set_flow(FlowId(1), group, sa(1, "239.1.1.1", None)).unwrap();
    }

    #[test]
    fn what_crosses_in_clear_comes_from_here() {
        let (a, _) = routers();
        let wide = selector("10.0.0.0/8", "198.51.100.0/24");
        a.set_bypass(vec![to_port(53, wide)]).unwrap();
        assert!(a.crosses_in_clear(&udp("10.1.0.1", "198.51.100.1", [9, 53])));
        for (source, destination, port) in
            [("10.1.0.1", "198.51.100.1", 54), ("10.2.0.1", "198.51.100.1", 53), ("10.1.0.1", "10.2.0.1", 53)]
        {
            assert!(!a.crosses_in_clear(&udp(source, destination, [9, port])), "{source} {destination} {port}");
        }
        let multicast = a.set_bypass(vec![selector(HERE, "239.1.1.1/32")]).unwrap_err().to_string();
        assert!(multicast.contains("only unicast"), "{multicast}");
        assert!(a.crosses_in_clear(&udp("10.1.0.1", "198.51.100.1", [9, 53])), "as before");
        a.set_bypass(vec![selector("0.0.0.0/0", "0.0.0.0/0")]).unwrap();
        assert!(!a.crosses_in_clear(&udp("10.1.0.1", "239.1.1.1", [9, 53])));
        a.set_bypass(vec![]).unwrap();
        assert!(!a.crosses_in_clear(&udp("10.1.0.1", "198.51.100.1", [9, 53])));
    }
}
