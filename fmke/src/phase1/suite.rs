//! What is offered in messages 1 and 2, and chosen (RFC 2409 5 and Appendix A).

use std::time::Duration;

use crate::crypto::dh::Group;
use crate::crypto::signature::Method;
use crate::crypto::{Cipher, HashAlgorithm};
use crate::isakmp::{Attribute, Malformed, Transform, phase1_attribute as class, write_proposal};

/// `Life Type` seconds (RFC 2409 Appendix A).
const SECONDS: u16 = 1;
/// Authentication method (RFC 2409 Appendix A).
const PRE_SHARED_KEY: u16 = 1;
/// Octets of the offer that a key server keeps of each exchange, at most: 32 transforms of ours have 1,172.
pub(super) const MOST_OFFER: usize = 2048;

/// How the two show who they are (RFC 2409 Appendix A, RFC 4754).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Authentication {
    /// By a secret that both know, which the peer's address selects (RFC 2409 5.4).
    PreSharedKey,
    /// By signatures with the keys of certificates (RFC 2409 5.1).
    Signature(Method),
}

/// All that protects one SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Suite {
    /// Of messages 5 and 6 and all that follows.
    pub cipher: Cipher,
    /// Of the prf too, as HMAC.
    pub hash: HashAlgorithm,
    /// Who is who.
    pub authentication: Authentication,
    /// Of Diffie-Hellman.
    pub group: Group,
}

/// What one end offers or accepts, each list best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposals {
    /// Ciphers.
    pub ciphers: Vec<Cipher>,
    /// Hashes.
    pub hashes: Vec<HashAlgorithm>,
    /// Ways to authenticate.
    pub authentications: Vec<Authentication>,
    /// Groups of Diffie-Hellman.
    pub groups: Vec<Group>,
    /// Allows what is known to be weak: groups 1 and 2, DES, 3DES, AES-128, AES-192, MD5, SHA-1. Without it they are neither offered nor
    /// accepted, even where a list names them.
    pub legacy: bool,
    /// How long an SA lives: at most this, and at most what the other end says.
    pub lifetime: Duration,
}

impl Default for Proposals {
    /// AES-256 with SHA-256, SHA-384 or SHA-512 over the groups 31, 19 and 14, by a pre-shared key, for a day.
    fn default() -> Self {
        Proposals {
            ciphers: vec![Cipher::Aes256],
            hashes: vec![HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512],
            authentications: vec![Authentication::PreSharedKey],
            groups: vec![Group::Curve25519, Group::P256, Group::Modp2048],
            legacy: false,
            lifetime: Duration::from_secs(86_400),
        }
    }
}

/// What the key server chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice<'a> {
    pub(super) suite: Suite,
    pub(super) lifetime: Duration,
    pub(super) transform: Transform<'a>,
}

impl Proposals {
    /// Every suite, best first. ECDSA goes with the one hash alone whose output it signs.
    pub fn suites(&self) -> impl Iterator<Item = Suite> {
        let groups = self.groups.iter().flat_map(|&group| self.hashes.iter().map(move |&hash| (group, hash)));
        groups
            .flat_map(|(group, hash)| {
                self.authentications.iter().map(move |&authentication| (group, hash, authentication))
            })
            .flat_map(|(group, hash, authentication)| {
                self.ciphers.iter().map(move |&cipher| Suite { cipher, hash, authentication, group })
            })
            .filter(|suite| suite.is_allowed(self.legacy))
    }

    /// The body of the SA payload of message 1. Suites beyond the 32 that a reader takes are left out.
    pub(super) fn offer(&self, doi: u32) -> Vec<u8> {
        let lists: Vec<Vec<u8>> = self.suites().take(32).map(|suite| suite.attributes(self.lifetime)).collect();
        let transforms: Vec<Transform<'_>> =
            (1..).zip(&lists).map(|(number, attributes)| Transform { proposal: 1, number, attributes }).collect();
        write_proposal(doi, &transforms)
    }

    /// Of what was offered, the suite that stands first in our own order and that `fits` the peer.
    pub(super) fn choose<'a>(&self, offered: &[Transform<'a>], fits: impl Fn(Suite) -> bool) -> Option<Choice<'a>> {
        let readable: Vec<Choice<'a>> = offered.iter().filter_map(|transform| self.read(*transform)).collect();
        self.suites()
            .filter(|suite| fits(*suite))
            .find_map(|suite| readable.iter().find(|choice| choice.suite == suite).copied())
    }

    /// What the transform that came back means, if its suite is one of those that were offered. Its octets may be others:
    /// strongSwan writes the attributes anew, in its own order and with its own lifetime. Nothing authenticates that lifetime: whoever changes it on the way can make it shorter,
    /// as he could make the exchange fail, but never longer.
    pub(super) fn accept<'a>(&self, offer: &[u8], answer: &[Transform<'a>]) -> Option<Choice<'a>> {
        //= RFC 2408 4.2: "the initiator MUST verify that the Security Association payload received from the responder matches
        //= one of the proposals sent initially"
        let [transform] = answer else { return None };
        let choice = self.read(*transform)?;
        let (_, offered) = Transform::offer(offer).ok()?;
        offered.iter().filter_map(|offered| self.read(*offered)).any(|it| it.suite == choice.suite).then_some(choice)
    }

    fn read<'a>(&self, transform: Transform<'a>) -> Option<Choice<'a>> {
        let (suite, lifetime) = Suite::read(&transform).ok().flatten()?;
        let lifetime = lifetime.map_or(self.lifetime, |theirs| theirs.min(self.lifetime));
        suite.is_allowed(self.legacy).then_some(Choice { suite, lifetime, transform })
    }
}

impl Suite {
    fn is_allowed(self, legacy: bool) -> bool {
        let weak = self.cipher != Cipher::Aes256 || self.hash.is_legacy() || self.group.is_legacy();
        (legacy || !weak) && self.authentication.signature().is_none_or(|method| method.hash(self.hash) == self.hash)
    }

    fn attributes(self, lifetime: Duration) -> Vec<u8> {
        let mut list = vec![
            Attribute::basic(class::ENCRYPTION, self.cipher.number()),
            Attribute::basic(class::HASH, self.hash.number()),
            Attribute::basic(class::AUTHENTICATION, self.authentication.number()),
            Attribute::basic(class::GROUP, self.group.number()),
            Attribute::basic(class::LIFE_TYPE, SECONDS),
            Attribute::number(class::LIFE_DURATION, u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX)),
        ];
        list.extend(self.cipher.key_bits().map(|bits| Attribute::basic(class::KEY_LENGTH, bits)));
        let mut bytes = Vec::with_capacity(32);
        list.iter().for_each(|attribute| attribute.write(&mut bytes));
        bytes
    }

    /// None for a transform with anything in it that is not known here, or that says something twice.
    fn read(transform: &Transform<'_>) -> Result<Option<(Suite, Option<Duration>)>, Malformed> {
        let mut values: [Option<u16>; 15] = [None; 15];
        let mut duration = None;
        for attribute in transform.attributes()? {
            //= RFC 2409 Appendix A: "Attributes described as basic MUST NOT be encoded as variable."
            let number = match attribute.class {
                class::LIFE_DURATION => attribute.to_number()?,
                _ => attribute.to_basic()?.into(),
            };
            let is_repeated =
                match (attribute.class, values.get_mut(usize::from(attribute.class)), u16::try_from(number)) {
                    (class::LIFE_DURATION, ..) => duration.replace(number).is_some(),
                    (_, Some(value), Ok(number)) => value.replace(number).is_some(),
                    _ => return Ok(None),
                };
            if is_repeated {
                return Ok(None);
            }
        }
        let taken =
            [class::ENCRYPTION, class::HASH, class::AUTHENTICATION, class::GROUP, class::LIFE_TYPE, class::KEY_LENGTH]
                .map(|class| values[usize::from(class)].take());
        let is_known = values.iter().all(Option::is_none);
        let [Some(cipher), Some(hash), Some(authentication), Some(group), life_type, bits] = taken else {
            return Ok(None);
        };
        let lifetime = match (life_type, duration) {
            (None, None) => Some(None),
            (Some(SECONDS), Some(seconds)) if seconds > 0 => Some(Some(Duration::from_secs(u64::from(seconds)))),
            _ => None,
        };
        let known = (
            Cipher::from_attributes(cipher, bits),
            HashAlgorithm::from_number(hash),
            Authentication::from_number(authentication),
            Group::from_number(group),
            lifetime,
        );
        let (Some(cipher), Some(hash), Some(authentication), Some(group), Some(lifetime)) = known else {
            return Ok(None);
        };
        Ok(is_known.then_some((Suite { cipher, hash, authentication, group }, lifetime)))
    }
}

impl Authentication {
    /// The method that signs.
    pub fn signature(self) -> Option<Method> {
        match self {
            Authentication::PreSharedKey => None,
            Authentication::Signature(method) => Some(method),
        }
    }

    fn number(self) -> u16 {
        self.signature().map_or(PRE_SHARED_KEY, Method::number)
    }

    fn from_number(number: u16) -> Option<Self> {
        match number {
            PRE_SHARED_KEY => Some(Authentication::PreSharedKey),
            _ => Method::from_number(number).map(Authentication::Signature),
        }
    }
}
