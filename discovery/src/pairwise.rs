//! Keys that one pair of devices shares, from the X25519 keys in their hellos.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use hkdf::Hkdf;
use muster_wire::{GroupTag, MemberId};
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// Which way a key protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What we send to the neighbour.
    Out,
    /// What the neighbour sends to us.
    In,
}

/// One end of a pair.
#[derive(Clone, Copy)]
pub(crate) struct End {
    pub(crate) member: MemberId,
    pub(crate) startup: u64,
    pub(crate) public: [u8; 32],
}

/// Where hello keys come from. Each seed gives one secret and the next seed, and is erased: what memory holds tells
/// nothing of the keys before.
pub(crate) struct KeySource(Zeroizing<[u8; 32]>);

impl KeySource {
    /// From a seed that nothing else uses.
    pub(crate) fn new(seed: Zeroizing<[u8; 32]>) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> StaticSecret {
        let secret = StaticSecret::from(*derive(&self.0, b"muster 1 hello key"));
        self.0 = derive(&self.0, b"muster 1 next hello key");
        secret
    }
}

/// Our X25519 key, for a while. Erased when dropped; no `Debug`.
pub(crate) struct OwnKey {
    secret: StaticSecret,
    group: GroupTag,
    end: End,
}

impl OwnKey {
    /// The first key of a start.
    pub(crate) fn first(source: &mut KeySource, group: GroupTag, member: MemberId, startup: u64) -> Self {
        Self::new(source.next(), group, member, startup)
    }

    fn new(secret: StaticSecret, group: GroupTag, member: MemberId, startup: u64) -> Self {
        let public = PublicKey::from(&secret).to_bytes();
        Self { secret, group, end: End { member, startup, public } }
    }

    /// Another key in place of this one, which is erased.
    pub(crate) fn renew(&mut self, source: &mut KeySource) {
        let End { member, startup, .. } = self.end;
        *self = Self::new(source.next(), self.group, member, startup);
    }

    pub(crate) fn public(&self) -> [u8; 32] {
        self.end.public
    }

    /// `None` when the neighbour's key is of low order.
    pub(crate) fn pair(&self, neighbor: End) -> Option<Pair> {
        let shared = self.secret.diffie_hellman(&PublicKey::from(neighbor.public));
        if !shared.was_contributory() {
            return None;
        }
        let (root, _) = Hkdf::<Sha256>::extract(Some(Pair::LABEL), shared.as_bytes());
        Some(Pair { root: Zeroizing::new(root.into()), group: self.group, own: self.end, neighbor })
    }
}

/// What we share with one neighbour. Erased when dropped; no `Debug`.
pub(crate) struct Pair {
    root: Zeroizing<[u8; 32]>,
    group: GroupTag,
    own: End,
    neighbor: End,
}

/// The authentication failed.
#[derive(Debug)]
pub(crate) struct NotForUs;

impl Pair {
    const LABEL: &'static [u8] = b"muster 1 pair";
    const PREFIXES: &'static [u8] = b"muster 1 prefixes";

    /// A key for the use that `label` names. It depends on both ends' ids, startup stamps and public keys, and on the
    /// direction. At most 255 × 32 bytes.
    pub(crate) fn export(&self, direction: Direction, label: &[u8], context: &[&[u8]], key: &mut [u8]) -> bool {
        let (from, to) = self.ends(direction);
        let (from_startup, to_startup) = (from.startup.to_be_bytes(), to.startup.to_be_bytes());
        let fixed: [&[u8]; 8] =
            [label, &self.group.0, &from.member.0, &to.member.0, &from_startup, &to_startup, &from.public, &to.public];
        let mut info = Vec::new();
        // Each with its length, so that no two lists of inputs have the same bytes.
        for input in fixed.iter().chain(context) {
            info.extend_from_slice(&(input.len() as u64).to_be_bytes());
            info.extend_from_slice(input);
        }
        Hkdf::<Sha256>::from_prk(&*self.root).is_ok_and(|hkdf| hkdf.expand(&info, key).is_ok())
    }

    /// Seals prefixes for the neighbour. `sequence` is the envelope's, so that no nonce is used twice.
    pub(crate) fn seal(&self, sequence: u64, version: u32, mut list: Vec<u8>) -> Option<Vec<u8>> {
        let key = self.key(Direction::Out)?;
        let aad = Aad::from(self.associated(Direction::Out, version));
        key.seal_in_place_append_tag(nonce(sequence), aad, &mut list).ok()?;
        Some(list)
    }

    /// Opens what the neighbour sealed for us.
    pub(crate) fn open(&self, sequence: u64, version: u32, mut sealed: Vec<u8>) -> Result<Vec<u8>, NotForUs> {
        let key = self.key(Direction::In).ok_or(NotForUs)?;
        let aad = Aad::from(self.associated(Direction::In, version));
        let length = key.open_in_place(nonce(sequence), aad, &mut sealed).map_err(|_| NotForUs)?.len();
        sealed.truncate(length);
        Ok(sealed)
    }

    fn key(&self, direction: Direction) -> Option<LessSafeKey> {
        let mut key = Zeroizing::new([0; 32]);
        if !self.export(direction, Self::PREFIXES, &[], &mut *key) {
            return None;
        }
        UnboundKey::new(&AES_256_GCM, &*key).ok().map(LessSafeKey::new)
    }

    fn associated(&self, direction: Direction, version: u32) -> Vec<u8> {
        let (from, to) = self.ends(direction);
        let mut all = Vec::with_capacity(84);
        all.extend_from_slice(&from.member.0);
        all.extend_from_slice(&to.member.0);
        all.extend_from_slice(&from.startup.to_be_bytes());
        all.extend_from_slice(&to.startup.to_be_bytes());
        all.extend_from_slice(&version.to_be_bytes());
        all
    }

    pub(crate) fn neighbor(&self) -> End {
        self.neighbor
    }

    pub(crate) fn own(&self) -> End {
        self.own
    }

    fn ends(&self, direction: Direction) -> (&End, &End) {
        match direction {
            Direction::Out => (&self.own, &self.neighbor),
            Direction::In => (&self.neighbor, &self.own),
        }
    }
}

pub(crate) fn derive(seed: &[u8; 32], label: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    // 32 bytes are one block of the hash: it cannot be too long, and were it, the next line would show zeros.
    let derived = Hkdf::<Sha256>::new(None, seed).expand(label, &mut *key);
    debug_assert!(derived.is_ok());
    key
}

fn nonce(sequence: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 8..].copy_from_slice(&sequence.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(seed: u8, startup: u64) -> OwnKey {
        OwnKey::new(StaticSecret::from([seed; 32]), GroupTag([9; 16]), MemberId([seed; 32]), startup)
    }

    fn export(pair: &Pair, direction: Direction, label: &[u8]) -> [u8; 36] {
        let mut key = [0; 36];
        assert!(pair.export(direction, label, &[b"context"], &mut key));
        key
    }

    #[test]
    fn both_ends_have_the_same_key_each_way_and_nobody_else() {
        let (a, b, c) = (own(1, 10), own(2, 20), own(3, 30));
        let (ab, ba) = (a.pair(b.end).unwrap(), b.pair(a.end).unwrap());
        assert_eq!(export(&ab, Direction::Out, b"x"), export(&ba, Direction::In, b"x"));
        assert_eq!(export(&ab, Direction::In, b"x"), export(&ba, Direction::Out, b"x"));
        assert_ne!(export(&ab, Direction::In, b"x"), export(&ab, Direction::Out, b"x"));
        assert_ne!(export(&ab, Direction::Out, b"x"), export(&ab, Direction::Out, b"y"));

        let sealed = ab.seal(7, 1, b"prefixes".to_vec()).unwrap();
        assert_eq!(ba.open(7, 1, sealed.clone()).unwrap(), b"prefixes");
        assert!(ba.open(8, 1, sealed.clone()).is_err(), "another sequence number");
        assert!(ba.open(7, 2, sealed.clone()).is_err(), "another version");
        assert!(ab.open(7, 1, sealed.clone()).is_err(), "reflected");
        assert!(c.pair(a.end).unwrap().open(7, 1, sealed.clone()).is_err(), "a third device");
        let restarted = b.pair(own(1, 11).end).unwrap();
        assert!(restarted.open(7, 1, sealed).is_err(), "another start");
    }

    #[test]
    fn keys_of_low_order_are_refused() {
        let low = End { member: MemberId([4; 32]), startup: 1, public: [0; 32] };
        assert!(own(1, 10).pair(low).is_none());
    }
}
