//! A group as its member sees it: the re-key SA, the way to the root of the key tree, and what came by multicast.

use std::net::IpAddr;
use std::time::Duration;

use muster_wire::Time;
use rand_core::Rng;

use super::machine::check;
use crate::crypto::rekey::{RekeyAlgorithm, RekeyVerifier};
use crate::isakmp::{
    Header, KeyDownload, Malformed, PROTO_SPD, RekeySa, kek_attribute, kek_key, key_type, kind, number,
};
use crate::lkh::{
    Download, Joins, LKH_CHAINED, LKH_COMPACT_UPDATE, LKH_DOWNLOAD_ARRAY, LKH_JOINS, LKH_VERSION, MemberPath,
    PathError, Update,
};
use crate::push::{Opened, Push, PushError, RekeyKeys, SILENCE};

use super::reception::{self, Reception};

/// A group that we are in.
pub(super) struct GroupView {
    keys: RekeyKeys,
    path: MemberPath,
    verifier: RekeyVerifier,
    reception: Reception,
    /// The highest number that the key server has said it used.
    last: u32,
    /// The message id with which it said so last: it rises, so that nobody can play the key server's voice from memory.
    told: u32,
    /// When it was heard last.
    heard: Time,
    /// When its KEK is no longer valid.
    expires: Time,
    /// Where re-key messages come from and negative acknowledgements go, and where they come to.
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
}

/// What a re-key SA that came brings about.
pub(super) enum Next {
    /// The keys of the group's next re-key SA.
    Replaced,
    /// It is for others, or of what we have.
    Nothing,
    /// Our keys do not lead to it: we have missed something, or are excluded.
    Lost,
}

impl GroupView {
    /// Of what came by phase 2: the SA, the keys from our leaf to the root, the key of signatures. `can_ask`: there is a return
    /// channel.
    pub(super) fn new(now: Time, sa: &RekeySa, keys: &KeyDownload, can_ask: bool) -> Result<Self, PushError> {
        if !sa.destination.0.is_multicast() {
            return Err(Malformed::Missing("a multicast destination").into());
        }
        let download = keys.packet(key_type::LKH, &sa.spi)?.key(LKH_DOWNLOAD_ARRAY, "LKH_DOWNLOAD_ARRAY")?;
        let download = Download::decode(download).map_err(|_| field("LKH_DOWNLOAD_ARRAY", 0))?;
        let algorithm = sa.attribute(kek_attribute::SIGNATURE, "SIG_ALGORITHM")?;
        let algorithm = u16::try_from(algorithm).ok().and_then(RekeyAlgorithm::from_number);
        let algorithm = algorithm.ok_or(field("SIG_ALGORITHM", 0))?;
        let key = keys.packet(key_type::KEK, &sa.spi)?.key(kek_key::SIGNATURE, "SIG_ALGORITHM_KEY")?;
        let verifier = RekeyVerifier::from_spki(algorithm, key)?;
        let path = MemberPath::new(download);
        let (next, version, lifetime) = read_attributes(sa)?;
        if version != path.version() {
            return Err(field("LKH version", version).into());
        }
        Ok(GroupView {
            keys: RekeyKeys::new(path.root().key(), sa.spi),
            path,
            verifier,
            reception: Reception::new(can_ask, next),
            last: next - 1,
            told: 0,
            heard: now,
            expires: now + lifetime,
            source: sa.source,
            destination: sa.destination,
        })
    }

    pub(super) fn spi(&self) -> [u8; 16] {
        self.keys.spi()
    }

    /// Where its re-key messages come to: it is the same for all its SAs, and no other group's.
    pub(super) fn destination(&self) -> (IpAddr, u16) {
        self.destination
    }

    /// Where negative acknowledgements go.
    pub(super) fn source(&self) -> (IpAddr, u16) {
        self.source
    }

    /// Whether it holds all changes of the group that `other` holds.
    pub(super) fn is_as_new_as(&self, other: &GroupView) -> bool {
        self.path.version() >= other.path.version()
    }

    pub(super) fn is_of(&self, header: &Header) -> bool {
        self.keys.is_of(header)
    }

    /// A message of phase 3: what it says, with what had waited for it, in order.
    pub(super) fn open(
        &mut self,
        now: Time,
        message: (&Header, &[u8], u8, &[u8]),
        doi: u32,
        rng: &mut impl Rng,
    ) -> Result<Vec<Push>, PushError> {
        let opened = self.keys.open(message, |signed, signature| self.verifier.verify(signed, signature))?;
        let before = self.reception.next();
        let pushes = self.take(now, message.0.message_id, &opened, doi)?;
        self.heard = now;
        self.reception.update(now, before, self.last, rng);
        Ok(pushes)
    }

    fn take(&mut self, now: Time, message_id: u32, opened: &Opened, doi: u32) -> Result<Vec<Push>, PushError> {
        let payloads = opened.payloads();
        if let [last] = payloads.as_slice()
            && last.kind == kind::LSEQ
        {
            // "the last counter value used by the GCKS to order its messages" (draft 7.1)
            let number = number(last.body)?;
            if message_id <= self.told {
                return Err(PushError::Number(number));
            }
            (self.told, self.last) = (message_id, self.last.max(number));
            return Ok(Vec::new());
        }
        let (number, push) = Push::parse(&payloads, doi)?;
        // It is one client's, so that all of a group are not told what one is to do.
        if push.policy.spd.is_some() {
            return Err(field("Protocol-ID", PROTO_SPD.into()).into());
        }
        // "In phase 3, there may be zero or one SAK Payload (for the considered group)" (draft 7.6.1). Where its messages come to
        // is not compared: an operator who moves a group says so under the SA that it has.
        if push.policy.rekey.len() > 1 {
            return Err(field("number of SAK payloads", push.policy.rekey.len() as u32).into());
        }
        check(&push)?;
        // "they delete all already received messages" (draft 4.1)
        if !self.reception.wants(number) {
            return Err(PushError::Number(number));
        }
        self.last = self.last.max(number);
        Ok(self.reception.take(now, number, push))
    }

    /// The next re-key SA of this group, told by multicast: what its key packets say, in order.
    pub(super) fn follow(&mut self, now: Time, sa: &RekeySa, keys: &KeyDownload) -> Result<Next, PushError> {
        let (next, version, lifetime) = read_attributes(sa)?;
        let packet = keys.packet(key_type::LKH, &sa.spi)?;
        for (class, octets) in &packet.keys {
            let done = match *class {
                LKH_COMPACT_UPDATE => {
                    let update = Update::decode(octets).map_err(|_| field("LKH update", 0))?;
                    self.path.apply(&update)
                }
                LKH_JOINS => {
                    let joins = Joins::decode(octets).map_err(|_| field("LKH joins", 0))?;
                    self.path.apply_joins(&joins)
                }
                other => return Err(field("LKH attribute", other.into()).into()),
            };
            match done {
                Ok(()) | Err(PathError::Elsewhere(_) | PathError::Known { .. }) => {}
                Err(_) => return Ok(Next::Lost),
            }
        }
        if self.path.version() != version {
            return Ok(Next::Nothing);
        }
        self.keys = RekeyKeys::new(self.path.root().key(), sa.spi);
        self.reception = self.reception.restart(next);
        (self.last, self.told, self.heard, self.source) = (next - 1, 0, now, sa.source);
        self.expires = now + lifetime;
        Ok(Next::Replaced)
    }

    /// When to ask [`due`](Self::due).
    pub(super) fn timeout(&self) -> Time {
        let end = self.end();
        self.reception.timeout().map_or(end, |due| due.min(end))
    }

    /// When there is no use in it any longer: it was not heard for too long, or not renewed within "the maximum time for which
    /// the KEK is valid" (draft 7.7.5).
    fn end(&self) -> Time {
        (self.heard + SILENCE).min(self.expires)
    }

    /// What is due by `now`.
    pub(super) fn due(&mut self, now: Time, rng: &mut impl Rng) -> Due {
        if self.end() <= now {
            return Due::Lost;
        }
        match self.reception.due(now, self.last, rng) {
            reception::Due::Nothing => Due::Nothing,
            // "in unicast to the GCKS, containing the missing sequence numbers" (draft 4.2)
            reception::Due::Ask(missing) => Due::Ask(self.keys.seal_missing(rng.next_u32().max(1), &missing)),
            reception::Due::Take(pushes) => Due::Take(pushes),
            reception::Due::Lost => Due::Lost,
        }
    }
}

/// What is to be done now.
pub(super) enum Due {
    /// Nothing yet.
    Nothing,
    /// Send this negative acknowledgement.
    Ask(Vec<u8>),
    /// Take these.
    Take(Vec<Push>),
    /// The key server does not answer, or is not heard.
    Lost,
}

/// The number of the next message, the version of the tree, and how long the KEK is valid.
fn read_attributes(sa: &RekeySa) -> Result<(u32, u32, Duration), Malformed> {
    let management = sa.attribute(kek_attribute::MANAGEMENT, "KEK_MANAGEMENT_ALGORITHM")?;
    if management != LKH_CHAINED {
        return Err(field("KEK_MANAGEMENT_ALGORITHM", management));
    }
    let algorithm = sa.attribute(kek_attribute::ALGORITHM, "KEK_ALGORITHM")?;
    // KEK_ALG_AES (draft 7.7.3), in CBC.
    if algorithm != 3 {
        return Err(field("KEK_ALGORITHM", algorithm));
    }
    let bits = sa.attribute(kek_attribute::KEY_LENGTH, "KEK_KEY_LENGTH")?;
    if bits != 256 {
        return Err(field("KEK_KEY_LENGTH", bits));
    }
    let lifetime = sa.attribute(kek_attribute::LIFETIME, "KEK_KEY_LIFETIME")?;
    if lifetime == 0 {
        return Err(field("KEK_KEY_LIFETIME", 0));
    }
    // "the authentication algorithm which are mentioned in the Re-key SA attributes" (draft 4.1): there is one, which the draft has
    // no number for. Who mentions one means another.
    if let Ok(hash) = sa.attribute(kek_attribute::HASH, "HASH_ALGORITHM") {
        return Err(field("HASH_ALGORITHM", hash));
    }
    // "the value of the sequence number which will be used in the next GCKS message" (draft 4.1)
    let next = sa.attribute(kek_attribute::NEXT_SEQUENCE, "NEXT_SEQ_NUMBER")?;
    if next == 0 {
        return Err(field("NEXT_SEQ_NUMBER", 0));
    }
    let version = sa.attribute(LKH_VERSION, "LKH version")?;
    Ok((next, version, Duration::from_secs(lifetime.into())))
}

fn field(field: &'static str, value: u32) -> Malformed {
    Malformed::Field { field, value }
}
