//! What the operator was told that does not fit between us and a peer, so that it is told once in some minutes, however often it
//! happens, or somebody makes it seem to.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_wire::Time;

/// The same of the same peer is told once in so long, and forgotten when it has not happened for so long.
const PAUSE: Duration = Duration::from_secs(300);
/// So many peers are told of for one reason in that time. A list for each, so that what anybody can bring about by a forged address
/// keeps nothing back that takes more.
const MOST: usize = 128;

/// By reason and peer. `W` says more of it.
pub(super) struct Misfits<W>(BTreeMap<&'static str, BTreeMap<String, Seen<W>>>);

struct Seen<W> {
    told: Time,
    last: Time,
    what: W,
}

impl<W> Default for Misfits<W> {
    fn default() -> Self {
        Misfits(BTreeMap::new())
    }
}

impl<W: Copy> Misfits<W> {
    /// It has happened; whether the operator is to be told. `reason` is one of a few.
    pub(super) fn is_news(&mut self, at: Time, peer: &str, reason: &'static str, what: W) -> bool {
        let peers = self.0.entry(reason).or_default();
        if let Some(seen) = peers.get_mut(peer) {
            (seen.last, seen.what) = (at, what);
            let is_due = at.since(seen.told) >= PAUSE;
            if is_due {
                seen.told = at;
            }
            return is_due;
        }
        if peers.len() >= MOST {
            peers.retain(|_, seen| at.since(seen.last) < PAUSE);
        }
        let has_room = peers.len() < MOST;
        if has_room {
            peers.insert(peer.to_owned(), Seen { told: at, last: at, what });
        }
        has_room
    }

    /// What has happened last with a peer, if it is not long ago; of that, what `is_hard` to bring about from elsewhere before what is
    /// not.
    pub(super) fn last(&self, at: Time, peer: &str, is_hard: impl Fn(&W) -> bool) -> Option<W> {
        let of_peer = self.0.values().filter_map(|peers| peers.get(peer));
        let recent = of_peer.filter(|seen| at.since(seen.last) < PAUSE);
        recent.max_by_key(|seen| (is_hard(&seen.what), seen.last)).map(|seen| seen.what)
    }

    /// We and this peer fit: when they do not again, that is news.
    pub(super) fn forget(&mut self, peer: &str) {
        for peers in self.0.values_mut() {
            peers.remove(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000)
    }

    #[test]
    fn the_same_is_told_once_in_some_minutes() {
        let mut misfits = Misfits::default();
        assert!(misfits.is_news(at(0), "a", "identity", 1));
        assert!((1..300).all(|second| !misfits.is_news(at(second), "a", "identity", 2)));
        assert!(misfits.is_news(at(1), "b", "identity", 3) && misfits.is_news(at(2), "a", "certificate", 4));
        assert!(misfits.is_news(at(300), "a", "identity", 5), "it goes on");
        assert!(!misfits.is_news(at(301), "a", "identity", 6));
        let last = |misfits: &Misfits<i32>, second, peer| misfits.last(at(second), peer, |_| true);
        assert_eq!(["a", "b", "c"].map(|peer| last(&misfits, 302, peer)), [Some(6), None, None]);
        assert_eq!(misfits.last(at(301), "a", |what| *what == 4), Some(4), "what anybody brings about hides it not");
        assert_eq!(last(&misfits, 601, "a"), None, "it has ended");
        misfits.forget("a");
        assert_eq!(last(&misfits, 302, "a"), None);
        assert!(misfits.is_news(at(302), "a", "identity", 7), "they have fitted meanwhile");
    }

    /// Whoever forges the addresses of all clients fills no memory and no log, and hides nothing that he cannot bring about.
    #[test]
    fn a_flood_in_all_names_is_bounded() {
        let mut misfits = Misfits::default();
        let names: Vec<String> = (0..10_000).map(|name| name.to_string()).collect();
        for second in 0..300 {
            let news = names.iter().filter(|name| misfits.is_news(at(second), name, "no_proposal", ())).count();
            assert_eq!(news, if second == 0 { MOST } else { 0 });
        }
        assert!(misfits.is_news(at(299), "9999", "authentication", ()));
        assert_eq!(misfits.0.values().map(BTreeMap::len).sum::<usize>(), MOST + 1);
        // When it is over, the next one has room.
        assert!(misfits.is_news(at(700), "9999", "no_proposal", ()));
    }
}
