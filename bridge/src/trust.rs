//! What an organisation may announce.

use std::collections::BTreeMap;

use ipnet::IpNet;
use muster_wire::MemberId;

use crate::settings::TrustSection;

/// Judges announced prefixes: within `[trust."ORG"]` where that is set; else nothing that overlaps our own or another
/// organisation's.
pub(crate) struct Bounds {
    allowed: BTreeMap<String, Vec<IpNet>>,
    own: Vec<IpNet>,
    accepted: BTreeMap<MemberId, (String, Vec<IpNet>)>,
}

impl Bounds {
    pub(crate) fn new(trust: &BTreeMap<String, TrustSection>, own: Vec<IpNet>) -> Self {
        let allowed = trust.iter().map(|(organisation, section)| (organisation.clone(), section.prefixes.clone()));
        Self { allowed: allowed.collect(), own, accepted: BTreeMap::new() }
    }

    /// Divides what a member announces into what is accepted, and what is not, with the reason.
    pub(crate) fn judge(
        &mut self,
        member: MemberId,
        organisation: &str,
        announced: Vec<IpNet>,
    ) -> (Vec<IpNet>, Vec<(IpNet, String)>) {
        let (mut accepted, mut refused) = (Vec::new(), Vec::new());
        for prefix in announced {
            match self.objection(organisation, &prefix) {
                None => accepted.push(prefix),
                Some(why) => refused.push((prefix, why)),
            }
        }
        if accepted.is_empty() {
            self.accepted.remove(&member);
        } else {
            self.accepted.insert(member, (organisation.to_owned(), accepted.clone()));
        }
        (accepted, refused)
    }

    fn objection(&self, organisation: &str, prefix: &IpNet) -> Option<String> {
        if let Some(allowed) = self.allowed.get(organisation) {
            let inside = allowed.iter().any(|allowed| allowed.contains(prefix));
            return (!inside).then(|| format!("not within what [trust.\"{organisation}\"] allows"));
        }
        if prefix.prefix_len() == 0 {
            return Some("a default route".into());
        }
        if let Some(own) = self.own.iter().find(|own| overlap(own, prefix)) {
            return Some(format!("overlaps {own}, which is ours"));
        }
        self.accepted
            .values()
            .filter(|(other, _)| other != organisation)
            .flat_map(|(other, prefixes)| prefixes.iter().map(move |known| (other, known)))
            .find(|(_, known)| overlap(known, prefix))
            .map(|(other, known)| format!("overlaps {known} of {other}"))
    }
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn bounds_overlaps_and_default_routes() {
        let trust = BTreeMap::from([("Bravo".to_owned(), TrustSection { prefixes: nets(&["2001:db8:b::/48"]) })]);
        let mut bounds = Bounds::new(&trust, nets(&["2001:db8:a::/64"]));
        let mut judge = |member: u8, organisation: &str, texts: &[&str]| {
            let (accepted, refused) = bounds.judge(MemberId([member; 32]), organisation, nets(texts));
            (accepted.len(), refused.len())
        };
        assert_eq!(judge(1, "Bravo", &["2001:db8:b:1::/64", "2001:db8:c::/64", "::/0"]), (1, 2));
        assert_eq!(judge(2, "Charlie", &["2001:db8:c::/64", "::/0", "2001:db8::/32", "0.0.0.0/0"]), (1, 3));
        assert_eq!(judge(3, "Delta", &["2001:db8:c::/65", "2001:db8:d::/64"]), (1, 1));
        assert_eq!(judge(4, "Charlie", &["2001:db8:c::/65"]), (1, 0), "two routers of one organisation may share");
        assert_eq!(judge(2, "Charlie", &[]), (0, 0));
        assert_eq!(judge(4, "Charlie", &[]), (0, 0));
        assert_eq!(judge(3, "Delta", &["2001:db8:c::/65"]), (1, 0), "free again");
    }
}
