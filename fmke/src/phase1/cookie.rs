//! The key server's cookies (RFC 2408 2.5.3), which hold what it would otherwise have to remember.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use muster_wire::Time;
use rand_core::CryptoRng;

use super::sa::Features;
use crate::crypto::{HashAlgorithm, SecretBytes};
use crate::isakmp::Cookie;

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
/// flood of first messages from a member's address can neither fill anything nor push that member out.
pub(super) struct Cookies {
    secret: SecretBytes,
    familiar: VecDeque<Opening>,
    /// Where the next one goes when there is no room.
    next: usize,
}

impl Cookies {
    pub(super) fn new(rng: &mut impl CryptoRng) -> Self {
        Cookies { secret: SecretBytes::generate(32, rng), familiar: VecDeque::new(), next: 0 }
    }

    /// A cookie, and whether [`Cookies::recall`] will do, so that nothing must be remembered.
    pub(super) fn bake(&self, now: Time, peer: SocketAddr, theirs: Cookie, opening: &Opening) -> (Cookie, bool) {
        let place = self.familiar.iter().position(|known| known == opening);
        let mark = place.map_or(UNFAMILIAR, |place| place as u8) | ((period(now) & 1) as u8) << 7;
        (self.cookie(period(now), mark, peer, theirs, opening), place.is_some())
    }

    /// What the first message of an exchange said, if it was familiar and this is the cookie that it got.
    pub(super) fn recall(&self, now: Time, peer: SocketAddr, theirs: Cookie, ours: Cookie) -> Option<&Opening> {
        let mark = ours.0[7];
        let opening = self.familiar.get(usize::from(mark & 0x7f))?;
        let current = period(now);
        let then = if (current & 1) as u8 == mark >> 7 { current } else { current.checked_sub(1)? };
        let expected = SecretBytes::from(&self.cookie(then, mark, peer, theirs, opening).0[..]);
        expected.matches(&ours.0).then_some(opening)
    }

    /// An exchange that began so was completed.
    pub(super) fn learn(&mut self, opening: &Opening) {
        if self.familiar.contains(opening) {
            return;
        }
        if self.familiar.len() < MOST_FAMILIAR {
            self.familiar.push_back(opening.clone());
        } else {
            self.familiar[self.next] = opening.clone();
            self.next = (self.next + 1) % MOST_FAMILIAR;
        }
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

    const THEIRS: Cookie = Cookie([1; 8]);

    #[test]
    fn recalls_only_what_it_gave_to_whom_it_gave_it_and_not_for_ever() {
        let mut cookies = Cookies::new(&mut ChaCha8Rng::seed_from_u64(1));
        let (at, from) = (Time(29_000_000), peer("192.0.2.1:848"));
        assert!(!cookies.bake(at, from, THEIRS, &opening(1)).1);
        cookies.learn(&opening(1));
        cookies.learn(&opening(2));
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

    #[test]
    fn learns_so_many_and_forgets_the_oldest() {
        let mut cookies = Cookies::new(&mut ChaCha8Rng::seed_from_u64(1));
        for number in 0..70 {
            cookies.learn(&opening(number));
            cookies.learn(&opening(number));
        }
        assert_eq!(cookies.familiar.len(), MOST_FAMILIAR);
        let is_known = |number| cookies.bake(Time(0), peer("192.0.2.1:848"), THEIRS, &opening(number)).1;
        assert_eq!((0..70).filter(|number| is_known(*number)).count(), 64);
        assert!(!is_known(5) && is_known(6) && is_known(69));
    }
}
