//! What goes unprotected: what the key server asks for, as far as the operator of this router allows it. The key server alone
//! must not be able to open it.

use std::collections::BTreeSet;

use ipnet::IpNet;
use muster_dataplane::{Dataplane, Error, Selector};
use muster_fmke::isakmp::TrafficSelector;

use super::flows::selector;

/// What is asked, and what comes of it.
#[derive(Default)]
pub(super) struct Bypass {
    /// Destinations, by `gcks.allow_bypass`.
    allowed: Vec<IpNet>,
    asked: BTreeSet<TrafficSelector>,
    /// What goes so now.
    granted: Vec<Selector>,
    /// What does not, and why.
    refused: Vec<(Selector, &'static str)>,
}

impl Bypass {
    pub(super) fn new(allowed: Vec<IpNet>) -> Self {
        Bypass { allowed, ..Bypass::default() }
    }

    pub(super) fn granted(&self) -> &[Selector] {
        &self.granted
    }

    pub(super) fn refused(&self) -> &[(Selector, &'static str)] {
        &self.refused
    }

    /// The key server asks for all this, and for nothing else any longer; `protect` is what is to go under SAs.
    ///
    /// # Errors
    /// The data plane's: nothing goes unprotected then.
    pub(super) fn ask(
        &mut self,
        asked: BTreeSet<TrafficSelector>,
        protect: &BTreeSet<TrafficSelector>,
        dataplane: &dyn Dataplane,
    ) -> Result<(), Error> {
        self.asked = asked;
        self.follow(protect, dataplane)
    }

    /// The operator allows these destinations, and no others any longer.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(super) fn allow(
        &mut self,
        allowed: Vec<IpNet>,
        protect: &BTreeSet<TrafficSelector>,
        dataplane: &dyn Dataplane,
    ) -> Result<(), Error> {
        self.allowed = allowed;
        self.follow(protect, dataplane)
    }

    fn follow(&mut self, protect: &BTreeSet<TrafficSelector>, dataplane: &dyn Dataplane) -> Result<(), Error> {
        let before = std::mem::take(&mut self.granted);
        self.refused.clear();
        for asked in &self.asked {
            match self.objection(asked, protect) {
                None => self.granted.push(selector(asked)),
                Some(why) => self.refused.push((selector(asked), why)),
            }
        }
        if self.granted == before {
            return Ok(());
        }
        dataplane.set_bypass(self.granted.clone()).inspect_err(|_| {
            let not_done = std::mem::take(&mut self.granted).into_iter();
            self.refused.extend(not_done.map(|selector| (selector, "the data plane could not do it")));
        })
    }

    fn objection(&self, asked: &TrafficSelector, protect: &BTreeSet<TrafficSelector>) -> Option<&'static str> {
        let (destination, _) = asked.destination;
        // It would come before the flow that is to protect that; an exception from a wider one may.
        let is_taken = |protect: &TrafficSelector| asked.overlaps(protect) && !asked.is_exception_of(protect);
        match () {
            () if destination.addr().is_multicast() => Some("multicast never goes unprotected"),
            () if !self.allowed.iter().any(|net| net.contains(&destination)) => {
                Some("gcks.allow_bypass does not have it")
            }
            () if protect.iter().any(is_taken) => Some("a flow is to protect the same packets"),
            () if selector(asked).check().is_err() => Some("it cannot be"),
            () => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_dataplane::{KeyLedger, Memory};

    use super::*;

    fn asked(destination: &str) -> TrafficSelector {
        let (source, destination) = ("10.1.0.0/16".parse().unwrap(), destination.parse().unwrap());
        TrafficSelector { protocol: 6, source: (source, 0), destination: (destination, 443) }
    }

    fn destinations(list: &[Selector]) -> Vec<String> {
        list.iter().map(|selector| selector.destination.to_string()).collect()
    }

    /// TCP from an own host to this address, port 443.
    fn packet(destination: [u8; 4]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 1, 0, 1];
        packet.extend(destination);
        packet.extend([0x30, 0x39, 0x01, 0xbb]);
        packet.resize(40, 0);
        packet
    }

    #[test]
    fn the_operator_has_the_last_word() {
        let plane = Memory::new(Vec::new(), vec!["10.1.0.0/16".parse().unwrap()], KeyLedger::new());
        let crosses = |destination| plane.crosses_in_clear(&packet(destination));
        let none = BTreeSet::new();
        let mut bypass = Bypass::new(vec!["198.51.100.0/24".parse().unwrap()]);
        let all = ["198.51.100.7/32", "198.51.0.0/16", "203.0.113.0/24"].map(asked);
        bypass.ask(all.into(), &none, &plane).unwrap();
        assert_eq!(destinations(bypass.granted()), ["198.51.100.7/32"], "not what is only partly allowed");
        assert_eq!(bypass.refused().len(), 2);
        assert!(bypass.refused().iter().all(|(_, why)| why.contains("allow_bypass")));
        assert!(crosses([198, 51, 100, 7]) && !crosses([198, 51, 100, 8]) && !crosses([203, 0, 113, 1]));
        bypass.allow(vec!["203.0.113.0/24".parse().unwrap()], &none, &plane).unwrap();
        assert!(!crosses([198, 51, 100, 7]) && crosses([203, 0, 113, 1]));
        bypass.ask(none.clone(), &none, &plane).unwrap();
        assert!(bypass.granted().is_empty() && bypass.refused().is_empty() && !crosses([203, 0, 113, 1]));
        bypass.ask(all.into(), &none, &plane).unwrap();
        bypass.allow(Vec::new(), &none, &plane).unwrap();
        assert!(bypass.granted().is_empty() && bypass.refused().len() == 3 && !crosses([203, 0, 113, 1]));
    }

    #[test]
    fn what_is_protected_and_what_is_multicast_is_refused_whatever_is_allowed() {
        let plane = Memory::new(Vec::new(), vec!["10.1.0.0/16".parse().unwrap()], KeyLedger::new());
        let mut bypass = Bypass::new(vec!["0.0.0.0/0".parse().unwrap()]);
        let vpn =
            TrafficSelector { protocol: 0, destination: ("10.2.0.0/16".parse().unwrap(), 0), ..asked("10.2.0.0/16") };
        let ports_of_none = TrafficSelector { protocol: 1, ..asked("198.51.100.0/24") };
        let wrong = [vpn, asked("10.0.0.0/8"), asked("239.1.1.1/32"), ports_of_none];
        bypass
            .ask([&wrong[..], &[asked("10.2.0.7/32")]].concat().into_iter().collect(), &[vpn].into(), &plane)
            .unwrap();
        assert_eq!(destinations(bypass.granted()), ["10.2.0.7/32"], "an exception");
        assert_eq!(bypass.refused().len(), wrong.len());
        assert!(plane.crosses_in_clear(&packet([10, 2, 0, 7])) && !plane.crosses_in_clear(&packet([10, 2, 0, 8])));
    }
}
