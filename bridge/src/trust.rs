//! What an organisation may announce.

use std::collections::BTreeMap;

use ipnet::IpNet;
use muster_wire::MemberId;

use crate::settings::TrustSection;

/// Judges announced prefixes: none that overlaps ours, or black's own networks: what the router itself has to say there would go
/// into the tunnel; within `[trust."ORG"]` where that is set, else none that overlaps
/// another organisation's. Two routers of one organisation may serve one LAN.
pub(crate) struct Bounds {
    /// Our own organisation.
    home: String,
    allowed: BTreeMap<String, Vec<IpNet>>,
    own: Vec<IpNet>,
    black: Vec<IpNet>,
    known: BTreeMap<MemberId, Known>,
}

/// What one member announces, and what of it is accepted.
struct Known {
    organisation: String,
    announced: Vec<IpNet>,
    accepted: Vec<IpNet>,
}

/// What is accepted, and what is not, with the reason.
pub(crate) type Verdict = (Vec<IpNet>, Vec<(IpNet, String)>);

impl Bounds {
    pub(crate) fn new(
        home: String,
        trust: &BTreeMap<String, TrustSection>,
        own: Vec<IpNet>,
        black: Vec<IpNet>,
    ) -> Self {
        Self { home, allowed: allowed(trust), own, black, known: BTreeMap::new() }
    }

    /// Divides what a member announces.
    pub(crate) fn judge(&mut self, member: MemberId, organisation: &str, announced: Vec<IpNet>) -> Verdict {
        let (mut accepted, mut refused) = (Vec::new(), Vec::new());
        self.known.remove(&member);
        for prefix in announced.iter().copied() {
            match self.objection(organisation, &prefix) {
                None => accepted.push(prefix),
                Some(why) => refused.push((prefix, why)),
            }
        }
        if !announced.is_empty() {
            let known = Known { organisation: organisation.to_owned(), announced, accepted: accepted.clone() };
            self.known.insert(member, known);
        }
        (accepted, refused)
    }

    /// Other bounds, own prefixes or networks on black: what is announced is judged again.
    pub(crate) fn replace(
        &mut self,
        trust: &BTreeMap<String, TrustSection>,
        own: Vec<IpNet>,
        black: Vec<IpNet>,
    ) -> Vec<(MemberId, Verdict)> {
        (self.allowed, self.own, self.black) = (allowed(trust), own, black);
        self.review()
    }

    /// Judges again what is announced, because space may have become free. Gives the members of whom something else is
    /// accepted now. Of two that overlap, the one accepted until now stays; of two that were refused, the lower member id
    /// has it.
    pub(crate) fn review(&mut self) -> Vec<(MemberId, Verdict)> {
        let before: Vec<(MemberId, Vec<IpNet>)> =
            self.known.iter().map(|(member, known)| (*member, known.accepted.clone())).collect();
        // What may not be at all takes nobody's place.
        let mut known = std::mem::take(&mut self.known);
        for Known { organisation, accepted, .. } in known.values_mut() {
            accepted.retain(|prefix| self.bar(organisation, prefix).is_none());
        }
        self.known = known;
        let mut changed = Vec::new();
        for (member, accepted) in before {
            let Some(known) = self.known.get(&member) else { continue };
            let (organisation, announced) = (known.organisation.clone(), known.announced.clone());
            let verdict = self.judge(member, &organisation, announced);
            if verdict.0 != accepted {
                changed.push((member, verdict));
            }
        }
        changed
    }

    /// The same for one place that may have become free: only those of whom something was refused can gain by it.
    pub(crate) fn review_refused(&mut self) -> Vec<(MemberId, Verdict)> {
        let refused = self.known.iter().filter(|(_, known)| known.accepted.len() < known.announced.len());
        let refused: Vec<MemberId> = refused.map(|(member, _)| *member).collect();
        let mut changed = Vec::new();
        for member in refused {
            let Some(known) = self.known.get(&member) else { continue };
            let (organisation, announced) = (known.organisation.clone(), known.announced.clone());
            let accepted = known.accepted.clone();
            let verdict = self.judge(member, &organisation, announced);
            if verdict.0 != accepted {
                changed.push((member, verdict));
            }
        }
        changed
    }

    fn objection(&self, organisation: &str, prefix: &IpNet) -> Option<String> {
        if let Some(bar) = self.bar(organisation, prefix) {
            return Some(bar);
        }
        if self.allowed.contains_key(organisation) {
            return None;
        }
        self.known
            .values()
            .filter(|other| other.organisation != organisation)
            .flat_map(|other| other.accepted.iter().map(move |known| (&other.organisation, known)))
            .find(|(_, known)| overlap(known, prefix))
            .map(|(other, known)| format!("overlaps {known} of {other}"))
    }

    /// What speaks against it whoever else is there.
    fn bar(&self, organisation: &str, prefix: &IpNet) -> Option<String> {
        if prefix.prefix_len() == 0 {
            return Some("a default route".into());
        }
        let own = self.own.iter().find(|own| overlap(own, prefix)).filter(|_| organisation != self.home);
        if let Some(own) = own {
            return Some(format!("overlaps {own}, which is ours"));
        }
        if let Some(black) = self.black.iter().find(|black| overlap(black, prefix)) {
            return Some(format!("overlaps {black}, which is black"));
        }
        let allowed = self.allowed.get(organisation)?;
        let inside = allowed.iter().any(|allowed| allowed.contains(prefix));
        (!inside).then(|| format!("not within what [trust.\"{organisation}\"] allows"))
    }
}

fn allowed(trust: &BTreeMap<String, TrustSection>) -> BTreeMap<String, Vec<IpNet>> {
    trust.iter().map(|(organisation, section)| (organisation.clone(), section.prefixes.clone())).collect()
}

pub(crate) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn of_ours(own: &str) -> String {
        format!("overlaps {own}, which is ours")
    }

    #[test]
    fn bounds_overlaps_and_default_routes() {
        let trust = BTreeMap::from([("Bravo".to_owned(), TrustSection { prefixes: nets(&["2001:db8:b::/48"]) })]);
        let mut bounds = Bounds::new("Alpha".into(), &trust, nets(&["2001:db8:a::/64"]), nets(&["192.0.2.0/24"]));
        let mut judge = |member: u8, organisation: &str, texts: &[&str]| {
            let (accepted, refused) = bounds.judge(MemberId([member; 32]), organisation, nets(texts));
            (accepted.len(), refused.len())
        };
        assert_eq!(judge(1, "Bravo", &["2001:db8:b:1::/64", "2001:db8:c::/64", "::/0"]), (1, 2));
        assert_eq!(judge(2, "Charlie", &["2001:db8:c::/64", "::/0", "2001:db8::/32", "0.0.0.0/0"]), (1, 3));
        assert_eq!(judge(3, "Delta", &["2001:db8:c::/65", "2001:db8:d::/64"]), (1, 1));
        assert_eq!(judge(5, "Delta", &["2001:db8:a::/64"]), (0, 1), "ours");
        assert_eq!(judge(6, "Alpha", &["2001:db8:a::/64"]), (1, 0), "another router of our LAN");
        assert_eq!(judge(5, "Delta", &["192.0.2.128/25", "192.0.0.0/16"]), (0, 2), "black");
        assert_eq!(judge(6, "Alpha", &["192.0.2.0/24"]), (0, 1), "not by our own organisation either");
        assert_eq!(judge(6, "Alpha", &[]), (0, 0));
        assert_eq!(judge(4, "Charlie", &["2001:db8:c::/65"]), (1, 0), "two routers of one organisation may share");
        assert_eq!(judge(2, "Charlie", &[]), (0, 0));
        assert_eq!(judge(4, "Charlie", &[]), (0, 0));
        assert_eq!(judge(3, "Delta", &["2001:db8:c::/65"]), (1, 0), "free again");
    }

    #[test]
    fn space_that_becomes_free_goes_to_who_was_refused() {
        let mut bounds = Bounds::new("Alpha".into(), &BTreeMap::new(), vec![], vec![]);
        let [bravo, charlie, delta] = [MemberId([1; 32]), MemberId([2; 32]), MemberId([3; 32])];
        let (one, two) = (nets(&["2001:db8:1::/64"]), nets(&["2001:db8:2::/64"]));
        let both = [one.clone(), two.clone()].concat();
        assert_eq!(bounds.judge(charlie, "Charlie", two.clone()).0, two);
        assert_eq!(bounds.judge(bravo, "Bravo", both.clone()).0, one);
        assert_eq!(bounds.judge(delta, "Delta", both.clone()).0, nets(&[]));
        assert!(bounds.review_refused().is_empty(), "nobody takes what another has");
        bounds.judge(charlie, "Charlie", vec![]);
        assert_eq!(bounds.review_refused(), [(bravo, (both, vec![]))], "the one with the lower member id");
        assert!(bounds.review_refused().is_empty());
    }

    #[test]
    fn other_bounds_are_other_verdicts() {
        let mut bounds = Bounds::new("Alpha".into(), &BTreeMap::new(), nets(&["2001:db8:a::/64"]), vec![]);
        let [bravo, charlie] = [MemberId([1; 32]), MemberId([2; 32])];
        let net = || nets(&["2001:db8:c::/64"]);
        assert_eq!(bounds.judge(charlie, "Charlie", net()).0, net());
        assert_eq!(bounds.judge(bravo, "Bravo", net()).0, vec![]);
        // Nothing else holds now: nothing changes, though Bravo would be asked first by its number.
        assert!(bounds.replace(&BTreeMap::new(), vec![], vec![]).is_empty());
        // Charlie's is ours now.
        let changed = bounds.replace(&BTreeMap::new(), nets(&["2001:db8:c::/48"]), vec![]);
        assert_eq!(changed.len(), 1);
        assert_eq!((changed[0].0, changed[0].1.0.len()), (charlie, 0));
        // Bravo's by the operator's word; Charlie loses nothing more. Even so not what is ours.
        let trust = BTreeMap::from([("Bravo".to_owned(), TrustSection { prefixes: nets(&["2001:db8:c::/48"]) })]);
        assert_eq!(bounds.replace(&trust, vec![], vec![]), [(bravo, (net(), vec![]))].into_iter().collect::<Vec<_>>());
        assert_eq!(
            bounds.replace(&trust, net(), vec![]),
            [(bravo, (vec![], vec![(net()[0], of_ours("2001:db8:c::/64"))]))]
        );
    }
}
