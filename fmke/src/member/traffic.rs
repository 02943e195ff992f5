//! A member's SAs of ESP: new ones come before old ones go (RFC 5374 4.2.1).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use muster_wire::Time;

use crate::crypto::SecretBytes;
use crate::isakmp::{Delays, TrafficSa, TrafficSelector};
use crate::push::Spd;

/// SAs that a member holds, at most: what a key server that has gone mad can make it keep.
const MOST_SAS: usize = 4096;

/// What the SAs of one flow, which follow each other, have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKey {
    /// IP protocol; 0: any.
    pub protocol: u8,
    /// Inner source, and its port; 0: any.
    pub source: (IpNet, u16),
    /// Inner destination, and its port; 0: any.
    pub destination: (IpNet, u16),
    /// Outer source and destination.
    pub tunnel: (IpAddr, IpAddr),
}

/// What the data plane is to do.
pub enum Change {
    /// Receive under this SA, too.
    Receive {
        /// Its flow.
        flow: FlowKey,
        /// Its SPI.
        spi: u32,
        /// Key and salt.
        key: SecretBytes,
    },
    /// Send the flow under this SA from now on.
    Send {
        /// Which.
        flow: FlowKey,
        /// The SPI of the SA.
        spi: u32,
        /// Key and salt.
        key: SecretBytes,
    },
    /// Send nothing more of the flow: there is no SA for it any longer.
    Stop {
        /// Which.
        flow: FlowKey,
    },
    /// Receive no longer under this SA.
    Forget {
        /// Its outer destination.
        destination: IpAddr,
        /// Its SPI.
        spi: u32,
    },
    /// Protect this, SA or no SA, and let that go unprotected which the operator allows. It counts until another comes.
    Follow(Spd),
}

/// Which way a member uses an SA: it sends under those whose tunnel begins at its own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Sender,
    Receiver,
}

/// All SAs of ESP.
#[derive(Default)]
pub(crate) struct Traffic {
    sas: BTreeMap<(FlowKey, u32), Held>,
    /// How often one was told.
    told: u64,
}

struct Held {
    role: Role,
    /// The one that was told last is what the flow is on, or will be.
    told: u64,
    /// Of a sender that is still under the SA before: when it takes this one, and the key.
    pending: Option<(Time, SecretBytes)>,
    /// When its lifetime is over.
    expires: Time,
    /// When it goes: replaced, or old.
    ends: Time,
}

impl FlowKey {
    /// Which packets it is for.
    pub fn selector(&self) -> TrafficSelector {
        let FlowKey { protocol, source, destination, .. } = *self;
        TrafficSelector { protocol, source, destination }
    }

    fn of(sa: &TrafficSa) -> Self {
        let TrafficSa { protocol, source, destination, tunnel, .. } = *sa;
        FlowKey { protocol, source, destination, tunnel }
    }
}

impl Traffic {
    /// Takes an SA. The first of its flow is used at once; a further one is received under at once, sent under after the
    /// activation delay, and then those before it go, after the deactivation delay. One that is here is told again when what
    /// was told since was older, and came late: then it is the last one again.
    pub(crate) fn install(&mut self, now: Time, role: Role, sa: &TrafficSa, key: &[u8], delays: Delays) -> Vec<Change> {
        let id = (FlowKey::of(sa), sa.spi);
        if !self.sas.contains_key(&id) && self.sas.len() >= MOST_SAS {
            return Vec::new();
        }
        self.told += 1;
        let seconds = |seconds: u16| Duration::from_secs(seconds.into());
        let switch = now + seconds(delays.activation);
        let replaced = match role {
            Role::Sender => switch,
            Role::Receiver => switch + seconds(delays.deactivation),
        };
        let was_told = self.sas.get(&id).map(|held| held.told);
        let mut is_first = true;
        for (_, held) in self.of_flow(id.0).filter(|((_, spi), held)| *spi != id.1 && held.role == role) {
            is_first = false;
            let is_overtaken = held.pending.is_some() && was_told.is_some_and(|was_told| was_told < held.told);
            held.ends = held.ends.min(if is_overtaken { now } else { replaced });
        }
        let told = self.told;
        if let Some(held) = self.sas.get_mut(&id) {
            (held.told, held.ends) = (told, held.expires);
            return self.due(now);
        }
        let (flow, spi, key) = (id.0, id.1, SecretBytes::from(key));
        let (change, pending) = match role {
            Role::Receiver => (Some(Change::Receive { flow, spi, key }), None),
            Role::Sender if is_first => (Some(Change::Send { flow, spi, key }), None),
            Role::Sender => (None, Some((switch, key))),
        };
        let expires = now + Duration::from_secs(sa.lifetime.into());
        self.sas.insert(id, Held { role, told, pending, expires, ends: expires });
        change.into_iter().collect()
    }

    /// Takes the SAs with these SPIs away, all at once: a flow does not go on under one that goes, too.
    pub(crate) fn delete(&mut self, spis: &BTreeSet<u32>) -> Vec<Change> {
        self.remove(|(_, spi), _| spis.contains(spi))
    }

    /// When to ask [`due`](Self::due).
    pub(crate) fn timeout(&self) -> Option<Time> {
        self.sas.values().map(|held| held.pending.as_ref().map_or(held.ends, |(at, _)| held.ends.min(*at))).min()
    }

    /// What changes by `now`.
    pub(crate) fn due(&mut self, now: Time) -> Vec<Change> {
        // Of several whose time has come, the flow is on the one that was told last.
        let mut sends: BTreeMap<FlowKey, (u64, Change)> = BTreeMap::new();
        for ((flow, spi), held) in &mut self.sas {
            if let Some((_, key)) = held.pending.take_if(|(at, _)| *at <= now)
                && held.ends > now
                && sends.get(flow).is_none_or(|(told, _)| *told < held.told)
            {
                sends.insert(*flow, (held.told, Change::Send { flow: *flow, spi: *spi, key }));
            }
        }
        let mut changes: Vec<Change> = sends.into_values().map(|(_, change)| change).collect();
        changes.extend(self.remove(|_, held| held.ends <= now));
        changes
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.sas.len()
    }

    /// Takes away what is meant. A flow whose SA was among it goes on under the next one, before its time: the data plane is not to
    /// send under one that is no more.
    fn remove(&mut self, is_meant: impl Fn(&(FlowKey, u32), &Held) -> bool) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut sent = BTreeSet::new();
        self.sas.retain(|id, held| {
            let ((flow, spi), goes) = (*id, is_meant(id, held));
            match held.role {
                _ if !goes => {}
                Role::Receiver => changes.push(Change::Forget { destination: flow.tunnel.1, spi }),
                Role::Sender => _ = sent.insert(flow),
            }
            !goes
        });
        changes.extend(sent.into_iter().filter_map(|flow| self.go_on(flow)));
        changes
    }

    /// What a flow is sent under when some of its SAs are gone.
    fn go_on(&mut self, flow: FlowKey) -> Option<Change> {
        let left = self.of_flow(flow).filter(|(_, held)| held.role == Role::Sender);
        // That without a time is sent under.
        let next = left.min_by_key(|(_, held)| held.pending.as_ref().map(|(at, _)| (*at, held.told)));
        let Some(((_, spi), held)) = next else { return Some(Change::Stop { flow }) };
        held.pending.take().map(|(_, key)| Change::Send { flow, spi: *spi, key })
    }

    fn of_flow(&mut self, flow: FlowKey) -> impl Iterator<Item = (&(FlowKey, u32), &mut Held)> {
        self.sas.range_mut((flow, 0)..=(flow, u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isakmp::PreservedAddress;

    const SECOND: u64 = 1_000_000;
    const DELAYS: Delays = Delays { activation: 2, deactivation: 3 };

    fn sa(spi: u32) -> TrafficSa {
        TrafficSa {
            protocol: 0,
            source: ("10.1.0.0/16".parse().unwrap(), 0),
            destination: ("239.1.1.1/32".parse().unwrap(), 0),
            tunnel: ("192.0.2.1".parse().unwrap(), "239.1.1.1".parse().unwrap()),
            spi,
            lifetime: 100,
            preserved: PreservedAddress::Destination,
        }
    }

    fn told(changes: &[Change]) -> Vec<String> {
        let text = |change: &Change| match change {
            Change::Receive { spi, key, .. } => format!("receive {spi} {}", key.as_bytes()[0]),
            Change::Send { spi, key, .. } => format!("send {spi} {}", key.as_bytes()[0]),
            Change::Stop { .. } => "stop".into(),
            Change::Forget { spi, .. } => format!("forget {spi}"),
            Change::Follow(_) => "follow".into(),
        };
        changes.iter().map(text).collect()
    }

    #[test]
    fn a_sender_switches_after_the_activation_delay() {
        let mut traffic = Traffic::default();
        assert_eq!(told(&traffic.install(Time(0), Role::Sender, &sa(300), &[1; 36], DELAYS)), ["send 300 1"]);
        assert_eq!(told(&traffic.install(Time(0), Role::Sender, &sa(300), &[1; 36], DELAYS)), [""; 0], "told again");
        assert_eq!(told(&traffic.install(Time(SECOND), Role::Sender, &sa(301), &[2; 36], DELAYS)), [""; 0]);
        assert_eq!(traffic.timeout(), Some(Time(3 * SECOND)));
        assert_eq!(told(&traffic.due(Time(3 * SECOND - 1))), [""; 0]);
        assert_eq!(told(&traffic.due(Time(3 * SECOND))), ["send 301 2"]);
        assert_eq!(traffic.len(), 1, "the one before is gone");
        assert_eq!(told(&traffic.due(Time(101 * SECOND))), ["stop"], "its lifetime is over");
        assert_eq!(traffic.timeout(), None);
    }

    #[test]
    fn a_receiver_keeps_the_one_before_for_a_while() {
        let mut traffic = Traffic::default();
        assert_eq!(told(&traffic.install(Time(0), Role::Receiver, &sa(300), &[1; 36], DELAYS)), ["receive 300 1"]);
        assert_eq!(told(&traffic.install(Time(SECOND), Role::Receiver, &sa(301), &[2; 36], DELAYS)), ["receive 301 2"]);
        assert_eq!(told(&traffic.due(Time(5 * SECOND))), [""; 0]);
        assert_eq!(told(&traffic.due(Time(6 * SECOND))), ["forget 300"]);
        assert_eq!(told(&traffic.delete(&[301].into())), ["forget 301"]);
        assert_eq!(told(&traffic.delete(&[301].into())), [""; 0]);
    }

    #[test]
    fn a_third_in_a_hurry_does_not_lose_the_flow() {
        let mut traffic = Traffic::default();
        for (at, spi) in [(0, 300), (1, 301), (2, 302)] {
            traffic.install(Time(at * SECOND), Role::Sender, &sa(spi), &[spi as u8; 36], DELAYS);
        }
        // 301's turn comes at 3 s, 302's at 4 s, at which 300 and 301 are gone.
        assert_eq!(told(&traffic.due(Time(3 * SECOND))), ["send 301 45"]);
        assert_eq!(told(&traffic.due(Time(4 * SECOND))), ["send 302 46"]);
        assert_eq!(traffic.len(), 1);
        assert_eq!(told(&traffic.delete(&[302].into())), ["stop"]);
    }

    /// Its lifetime is over, or the key server takes it away, while those that follow it wait for their time.
    #[test]
    fn what_is_gone_is_not_sent_under_until_the_next_ones_time_comes() {
        for is_deleted in [false, true] {
            let mut traffic = Traffic::default();
            for (at, spi) in [(0, 300), (99, 302), (99, 301)] {
                traffic.install(Time(at * SECOND), Role::Sender, &sa(spi), &[spi as u8; 36], DELAYS);
            }
            let changes = match is_deleted {
                true => traffic.delete(&[300].into()),
                false => traffic.due(Time(100 * SECOND)),
            };
            assert_eq!(told(&changes), ["send 302 46"], "{is_deleted}");
            assert_eq!(told(&traffic.due(Time(101 * SECOND))), ["send 301 45"], "in its own time {is_deleted}");
            assert_eq!(traffic.len(), 1);
        }
        // One that waits goes, and the flow stays where it is; then two at once.
        let mut traffic = Traffic::default();
        for spi in 300..304 {
            traffic.install(Time(0), Role::Sender, &sa(spi), &[spi as u8; 36], DELAYS);
        }
        assert_eq!(told(&traffic.delete(&[301].into())), [""; 0]);
        assert_eq!(told(&traffic.delete(&[300, 302].into())), ["send 303 47"]);
    }

    #[test]
    fn of_two_at_once_the_flow_is_on_the_last() {
        for spis in [[300, 301, 302], [302, 301, 300], [301, 300, 302]] {
            let mut traffic = Traffic::default();
            spis.iter()
                .for_each(|spi| drop(traffic.install(Time(0), Role::Sender, &sa(*spi), &[*spi as u8; 36], DELAYS)));
            let last = spis[2];
            assert_eq!(told(&traffic.due(Time(2 * SECOND))), [format!("send {last} {}", last as u8)]);
            assert_eq!(traffic.len(), 1);
        }
    }

    /// The second is multicast; the first, told again by phase 2, comes late; then the second is told again.
    #[test]
    fn what_is_told_last_counts_though_something_older_came_late() {
        let mut traffic = Traffic::default();
        for (role, told_first) in [(Role::Sender, "send 300 44"), (Role::Receiver, "receive 300 44")] {
            assert_eq!(told(&traffic.install(Time(0), role, &sa(300), &[44; 36], DELAYS)), [told_first]);
            traffic.install(Time(SECOND), role, &sa(301), &[45; 36], DELAYS);
            traffic.install(Time(SECOND + 1), role, &sa(300), &[44; 36], DELAYS);
            traffic.install(Time(SECOND + 2), role, &sa(301), &[45; 36], DELAYS);
            let expected: &[&str] = if role == Role::Sender { &["send 301 45"] } else { &["forget 300"] };
            assert_eq!(told(&traffic.due(Time(90 * SECOND))), expected);
            traffic.delete(&[301].into());
        }
    }

    #[test]
    fn a_mad_server_fills_no_memory() {
        let mut traffic = Traffic::default();
        for spi in 256..6000 {
            traffic.install(Time(0), Role::Receiver, &sa(spi), &[0; 36], DELAYS);
        }
        assert_eq!(traffic.len(), MOST_SAS);
        assert_eq!(traffic.due(Time(100 * SECOND)).len(), MOST_SAS);
    }
}
