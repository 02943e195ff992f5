//! The key server's cookies (RFC 2408 2.5.3), which hold what it would otherwise have to remember.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use muster_wire::Time;
use rand_core::CryptoRng;

use super::sa::Features;
use crate::crypto::{HashAlgorithm, SecretBytes};
use crate::isakmp::{Cookie, Identity};

/// A cookie is good for this long at least, for twice as long at most.
const PERIOD: Duration = Duration::from_secs(30);
/// First messages that are known by heart, at most. Fewer than [`UNFAMILIAR`].
const MOST_FAMILIAR: usize = 64;
/// Stands in a cookie whose exchange is in a table.
const UNFAMILIAR: u8 = 127;

/// What a first message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    /// The body of its SA payload.
    pub(super) offer: Vec<u8>,
    pub(super) features: Features,
}

/// Makes cookies and knows them again: 56 bits of an HMAC over the time, the peer's address and port, its cookie and its
/// offer, and one octet that says which offer and when.
///
/// Members of one kind all begin with the same words. Those with which an exchange was completed once are kept; the cookie
/// says which of them it was, so that an exchange that begins with them takes no memory before its third message, and a
/// flood of first messages from a member's address can neither fill anything nor push that member out. Each member keeps one
/// alone, that with which it came in last: who comes in with ever other ones takes no other member's away.
pub(super) struct Cookies {
    secret: SecretBytes,
    familiar: Vec<Familiar>,
    /// At which place each member's is.
    kept: BTreeMap<Identity, usize>,
}

struct Familiar {
    opening: Opening,
    /// How many members keep it.
    members: usize,
}

impl Cookies {
    pub(super) fn new(rng: &mut impl CryptoRng) -> Self {
        Cookies { secret: SecretBytes::generate(32, rng), familiar: Vec::new(), kept: BTreeMap::new() }
    }

    /// A cookie, and whether [`Cookies::recall`] will do, so that nothing must be remembered.
    pub(super) fn bake(&self, now: Time, peer: SocketAddr, theirs: Cookie, opening: &Opening) -> (Cookie, bool) {
        let place = self.place(opening);
        let mark = place.map_or(UNFAMILIAR, |place| place as u8) | ((period(now) & 1) as u8) << 7;
        (self.cookie(period(now), mark, peer, theirs, opening), place.is_some())
    }

    /// What the first message of an exchange said, if it was familiar and this is the cookie that it got.
    pub(super) fn recall(&self, now: Time, peer: SocketAddr, theirs: Cookie, ours: Cookie) -> Option<&Opening> {
        let mark = ours.0[7];
        let opening = &self.familiar.get(usize::from(mark & 0x7f))?.opening;
        let current = period(now);
        let then = if (current & 1) as u8 == mark >> 7 { current } else { current.checked_sub(1)? };
        let expected = SecretBytes::from(&self.cookie(then, mark, peer, theirs, opening).0[..]);
        expected.matches(&ours.0).then_some(opening)
    }

    /// An exchange of this member that began so was completed.
    pub(super) fn learn(&mut self, opening: &Opening, member: &Identity) {
        let known = self.place(opening);
        let before = self.kept.get(member).copied();
        if known.is_some() && before == known {
            return;
        }
        if let Some(place) = before {
            self.familiar[place].members -= 1;
        }
        let place = known.unwrap_or_else(|| self.make_room(opening));
        self.familiar[place].members += 1;
        self.kept.insert(member.clone(), place);
    }

    /// Puts one in that is not there: in place of the one that fewest keep, if there is no room.
    fn make_room(&mut self, opening: &Opening) -> usize {
        let new = Familiar { opening: opening.clone(), members: 0 };
        let least = self.familiar.iter().enumerate().min_by_key(|(_, known)| known.members);
        match least.filter(|(_, known)| known.members == 0 || self.familiar.len() >= MOST_FAMILIAR) {
            Some((place, _)) => {
                self.familiar[place] = new;
                self.kept.retain(|_, kept| *kept != place);
                place
            }
            None => {
                self.familiar.push(new);
                self.familiar.len() - 1
            }
        }
    }

    fn place(&self, opening: &Opening) -> Option<usize> {
        self.familiar.iter().position(|known| known.opening == *opening)
    }

    fn cookie(&self, period: u64, mark: u8, peer: SocketAddr, theirs: Cookie, opening: &Opening) -> Cookie {
        let address = match peer {
            SocketAddr::V4(peer) => peer.ip().to_ipv6_mapped(),
            SocketAddr::V6(peer) => *peer.ip(),
        };
        let parts: [&[u8]; 7] = [
            &period.to_be_bytes(),
            &[mark, u8::from(opening.features.liveness), u8::from(opening.features.fragments)],
            &[u8::from(peer.is_ipv4())],
            &address.octets(),
            &peer.port().to_be_bytes(),
            &theirs.0,
            &opening.offer,
        ];
        let mac = HashAlgorithm::Sha256.prf(self.secret.as_bytes(), &parts);
        let mut cookie = [mark; 8];
        cookie[..7].copy_from_slice(&mac.as_bytes()[..7]);
        Cookie(cookie)
    }
}

fn period(now: Time) -> u64 {
    now.0 / PERIOD.as_micros() as u64
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    use super::*;

    fn opening(number: u8) -> Opening {
        Opening { offer: vec![number; 40], features: Features { liveness: true, fragments: false } }
    }

    fn peer(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn member(number: u8) -> Identity {
        Identity::Address([192, 0, 2, number].into())
    }

    const THEIRS: Cookie = Cookie([1; 8]);

    #[test]
    fn recalls_only_what_it_gave_to_whom_it_gave_it_and_not_for_ever() {
        let mut cookies = Cookies::new(&mut ChaCha8Rng::seed_from_u64(1));
        let (at, from) = (Time(29_000_000), peer("192.0.2.1:848"));
        assert!(!cookies.bake(at, from, THEIRS, &opening(1)).1);
        cookies.learn(&opening(1), &member(1));
        cookies.learn(&opening(2), &member(2));
        let (cookie, is_familiar) = cookies.bake(at, from, THEIRS, &opening(2));
        assert!(is_familiar);
        assert_eq!(cookies.recall(at, from, THEIRS, cookie), Some(&opening(2)));
        assert_eq!(cookies.recall(Time(59_999_999), from, THEIRS, cookie), Some(&opening(2)));
        for late in [60_000_000, 90_000_000, 119_000_000, 1 << 50] {
            assert_eq!(cookies.recall(Time(late), from, THEIRS, cookie), None, "{late}");
        }
        for other in ["192.0.2.1:849", "192.0.2.2:848", "[::ffff:192.0.2.1]:848"] {
            assert_eq!(cookies.recall(at, peer(other), THEIRS, cookie), None);
        }
        assert_eq!(cookies.recall(at, from, Cookie([2; 8]), cookie), None);
        for bit in 0..64 {
            let mut changed = cookie;
            changed.0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(cookies.recall(at, from, THEIRS, changed), None, "bit {bit}");
        }
        let other = Cookies::new(&mut ChaCha8Rng::seed_from_u64(2));
        assert_eq!(other.recall(at, from, THEIRS, cookie), None);
    }

    fn knows(cookies: &Cookies, number: u8) -> bool {
        cookies.bake(Time(0), peer("192.0.2.1:848"), THEIRS, &opening(number)).1
    }

    #[test]
    fn learns_so_many_and_forgets_those_that_fewest_keep() {
        let mut cookies = Cookies::new(&mut ChaCha8Rng::seed_from_u64(1));
        [100, 101].iter().for_each(|number| cookies.learn(&opening(0), &member(*number)));
        for number in 1..70 {
            cookies.learn(&opening(number), &member(number));
            cookies.learn(&opening(number), &member(number));
        }
        assert_eq!((cookies.familiar.len(), cookies.kept.len()), (MOST_FAMILIAR, 65));
        assert_eq!((0..70).filter(|number| knows(&cookies, *number)).count(), 64);
        assert!(knows(&cookies, 0) && knows(&cookies, 69));
    }

    #[test]
    fn one_member_takes_one_place_whatever_it_comes_in_with() {
        let mut cookies = Cookies::new(&mut ChaCha8Rng::seed_from_u64(1));
        // It came in first with what all have, and leaves that to the others.
        [1, 2, 3].iter().for_each(|number| cookies.learn(&opening(0), &member(*number)));
        for number in 1..=200 {
            cookies.learn(&opening(number), &member(1));
            assert!(knows(&cookies, number) && knows(&cookies, 0), "{number}");
            assert_eq!((cookies.familiar.len(), cookies.kept.len()), (2, 3));
        }
        cookies.learn(&opening(0), &member(1));
        assert_eq!(cookies.familiar[0].members, 3);
    }
}
