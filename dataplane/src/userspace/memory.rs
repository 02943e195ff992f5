//! A data plane without devices, for tests of the daemon: packets are handed in and out by calls.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use ipnet::IpNet;
use muster_wire::MemberId;

use crate::esp::packet::{HEADER_LEN, sealed_len};
use crate::policy::Policies;
use crate::userspace::sad::{Sad, Treatment, delegate_to_sad};
use crate::{Counters, Dataplane, Error, ExportedKey, KeyLedger, Sa, SaId, SaStatus};

/// The real tables, ciphers and checks of the userspace data plane, with nothing around them.
pub struct Memory {
    sad: Sad,
    policies: Arc<Policies>,
}

impl Memory {
    /// Carries the red groups `red_multicast` for the own prefixes `own_prefixes`.
    pub fn new(red_multicast: Vec<IpNet>, own_prefixes: Vec<IpNet>, ledger: KeyLedger) -> Self {
        let treatment = Treatment { copy_dscp: true, clear_df: false };
        let policies = Arc::new(Policies::new(red_multicast, own_prefixes));
        Memory { sad: Sad::new(policies.clone(), treatment, ledger), policies }
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

    delegate_to_sad!(sad);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::packet_v6;
    use crate::{SaKey, SaKind};

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
            key: SaKey::new(&[7; 36]),
        };
        a.set_outbound(sa()).unwrap();
        b.install_inbound(vec![sa()]).unwrap();
        b.set_senders(HashMap::from([(sender, nets("2001:db8:a::/64"))]));
        let inner = packet_v6("2001:db8:a::1", "ff1e::1", b"hello");
        let (to, esp) = a.seal(&inner).unwrap();
        assert_eq!(b.open(to, &esp), Some(inner));
        assert_eq!((a.counters().tx_packets, b.counters().rx_packets), (1, 1));
        assert!(!a.wants_rekey(SaKind::Group) && !a.wants_rekey(SaKind::Unicast));
    }
}
