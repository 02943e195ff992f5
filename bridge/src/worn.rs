//! Outbound SAs that have carried so much that another is wanted: each makes one wish.

use std::collections::HashSet;

use muster_dataplane::{SaId, SaKind};

/// Those for which another has been asked.
///
/// One whose receiver does not follow (a silent neighbour's) stays in use, and would otherwise be asked for again and again,
/// of all others too.
#[derive(Default)]
pub(crate) struct Worn(HashSet<(SaKind, SaId)>);

impl Worn {
    /// Of the SAs that are worn now, those that were not when this was last called.
    pub(crate) fn news(&mut self, worn: Vec<(SaKind, SaId)>) -> Vec<(SaKind, SaId)> {
        let before = std::mem::replace(&mut self.0, worn.iter().copied().collect());
        worn.into_iter().filter(|one| !before.contains(one)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_news_once() {
        let sa = |kind, spi| (kind, SaId { destination: "2001:db8::1".parse().unwrap(), spi });
        let (one, other) = (sa(SaKind::Unicast, 1000), sa(SaKind::Unicast, 1001));
        let mut worn = Worn::default();
        assert_eq!(worn.news(vec![one]), [one]);
        assert_eq!(worn.news(vec![one]), []);
        assert_eq!(worn.news(vec![one, other]), [other]);
        assert_eq!(worn.news(vec![other]), []);
        assert_eq!(worn.news(vec![sa(SaKind::Group, 1001), other]), [sa(SaKind::Group, 1001)]);
        assert!(worn.0.len() == 2, "what is in use no longer is not remembered");
    }
}
