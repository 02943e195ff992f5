//! Messages larger than a datagram: cut into chunks, put together again, repaired.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use muster_wire::codec::MAX_MESSAGE;
use muster_wire::mike::{CHUNK_LEN, Chunk, MAX_MISSING, MessageKind};
use muster_wire::{Bytes, Hash, MemberId, Time};

use crate::Refusal;
use crate::secret::hash;

/// Messages that are being put together at once.
const MAX_PARTIAL: usize = 32;
/// Messages of our own that can be repaired.
const MAX_SENT: usize = 8;
/// How long after the last chunk the missing ones are asked for.
const REPAIR_AFTER: Duration = Duration::from_millis(30);
/// How often; then the message is given up.
const MAX_REPAIRS: u32 = 5;

/// A message whole.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) hash: Hash,
    pub(crate) kind: MessageKind,
    /// Of the header that it belongs to.
    pub(crate) header: Hash,
    pub(crate) bytes: Vec<u8>,
}

impl Message {
    pub(crate) fn new(kind: MessageKind, header: Hash, bytes: Vec<u8>) -> Self {
        let number = match kind {
            MessageKind::Commit => 0,
            MessageKind::Snapshot => 1,
            MessageKind::Handover => 2,
        };
        Self { hash: hash("message", &[&[number], &header.0, &bytes]), kind, header, bytes }
    }

    /// All chunks, or those named.
    pub(crate) fn chunks<'a>(&'a self, only: Option<&'a [u16]>) -> impl Iterator<Item = Chunk> + 'a {
        self.bytes
            .chunks(CHUNK_LEN)
            .enumerate()
            .filter(move |(index, _)| only.is_none_or(|only| only.contains(&(*index as u16))))
            .filter_map(|(index, data)| {
                Some(Chunk {
                    message: self.hash,
                    kind: self.kind,
                    header: self.header,
                    length: self.bytes.len() as u32,
                    index: index as u16,
                    data: Bytes::new(data.to_vec())?,
                })
            })
    }
}

/// The newest messages of our own, for those who miss a part.
#[derive(Default)]
pub(crate) struct Sent(VecDeque<Message>);

impl Sent {
    pub(crate) fn remember(&mut self, message: Message) {
        if self.get(&message.hash).is_some() {
            return;
        }
        if self.0.len() >= MAX_SENT {
            self.0.pop_front();
        }
        self.0.push_back(message);
    }

    pub(crate) fn get(&self, hash: &Hash) -> Option<&Message> {
        self.0.iter().find(|message| message.hash == *hash)
    }
}

/// Messages of others of which parts are missing.
#[derive(Default)]
pub(crate) struct Assembly {
    partial: BTreeMap<(MemberId, Hash), Partial>,
}

struct Partial {
    kind: MessageKind,
    header: Hash,
    length: usize,
    parts: Vec<Option<Bytes<CHUNK_LEN>>>,
    repair_at: Time,
    repairs: u32,
}

impl Assembly {
    /// Takes a verified chunk; gives the message when it is whole.
    pub(crate) fn add(&mut self, now: Time, sender: MemberId, chunk: Chunk) -> Result<Option<Message>, Refusal> {
        const SHAPE: Refusal = Refusal::Rule("a chunk fits its message");
        let length = chunk.length as usize;
        let (index, count) = (usize::from(chunk.index), length.div_ceil(CHUNK_LEN));
        let expected = if index + 1 == count { length - index * CHUNK_LEN } else { CHUNK_LEN };
        if length == 0 || length > MAX_MESSAGE || index >= count || chunk.data.len() != expected {
            return Err(SHAPE);
        }
        let key = (sender, chunk.message);
        if !self.partial.contains_key(&key) {
            self.make_room(&sender);
        }
        let partial = self.partial.entry(key).or_insert_with(|| Partial {
            kind: chunk.kind,
            header: chunk.header,
            length,
            parts: vec![None; count],
            repair_at: now + REPAIR_AFTER,
            repairs: 0,
        });
        if partial.kind != chunk.kind || partial.length != length || partial.header != chunk.header {
            return Err(SHAPE);
        }
        partial.parts[index] = Some(chunk.data);
        partial.repair_at = now + REPAIR_AFTER;
        if partial.parts.iter().any(Option::is_none) {
            return Ok(None);
        }
        let (kind, header) = (partial.kind, partial.header);
        let bytes = partial.parts.iter().flatten().flat_map(|part| part.iter().copied()).collect();
        self.partial.remove(&key);
        let message = Message::new(kind, header, bytes);
        if message.hash != chunk.message {
            return Err(Refusal::Rule("a message has the hash that its chunks name"));
        }
        Ok(Some(message))
    }

    /// The messages for whose missing parts it is time to ask: from whom, which, what.
    pub(crate) fn repairs(&mut self, now: Time) -> Vec<(MemberId, Hash, Vec<u16>)> {
        self.partial.retain(|_, partial| partial.repairs < MAX_REPAIRS || partial.repair_at > now);
        let mut repairs = Vec::new();
        for ((sender, hash), partial) in self.partial.iter_mut().filter(|(_, partial)| partial.repair_at <= now) {
            partial.repairs += 1;
            partial.repair_at = now + REPAIR_AFTER * 2_u32.pow(partial.repairs);
            let missing = partial.parts.iter().enumerate().filter(|(_, part)| part.is_none());
            repairs.push((*sender, *hash, missing.map(|(index, _)| index as u16).take(MAX_MISSING).collect()));
        }
        repairs
    }

    /// When [`Assembly::repairs`] has something to do.
    pub(crate) fn next_repair(&self) -> Option<Time> {
        self.partial.values().map(|partial| partial.repair_at).min()
    }

    /// One sender takes at most a quarter of the places; among the rest the one longest silent goes.
    fn make_room(&mut self, sender: &MemberId) {
        let own = self.partial.keys().filter(|(from, _)| from == sender).count();
        let victims = self.partial.iter().filter(|((from, _), _)| own < MAX_PARTIAL / 4 || from == sender);
        if own >= MAX_PARTIAL / 4 || self.partial.len() >= MAX_PARTIAL {
            let oldest = victims.min_by_key(|(_, partial)| partial.repair_at).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                self.partial.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SENDER: MemberId = MemberId([7; 32]);

    fn message(length: usize) -> Message {
        let bytes = (0..length).map(|n| (n % 251) as u8).collect();
        Message::new(MessageKind::Snapshot, Hash([1; 32]), bytes)
    }

    proptest! {
        #[test]
        fn any_order_with_duplicates_gives_the_message(
            length in 1_usize..20_000,
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..200),
        ) {
            let message = message(length);
            let chunks: Vec<_> = message.chunks(None).collect();
            let mut assembly = Assembly::default();
            let mut got = None;
            for index in order.iter().map(|index| index.index(chunks.len())).chain(0..chunks.len()) {
                if let Some(whole) = assembly.add(Time(0), SENDER, chunks[index].clone()).unwrap() {
                    got = Some(whole);
                    break;
                }
            }
            prop_assert_eq!(got.unwrap().bytes, message.bytes);
        }
    }

    #[test]
    fn what_is_missing_is_asked_for_and_repaired() {
        let message = message(5 * CHUNK_LEN);
        let mut assembly = Assembly::default();
        for chunk in message.chunks(Some(&[0, 2, 4])) {
            assert!(assembly.add(Time(0), SENDER, chunk).unwrap().is_none());
        }
        assert!(assembly.repairs(Time(0)).is_empty());
        let at = assembly.next_repair().unwrap();
        let (from, hash, missing) = assembly.repairs(at).remove(0);
        assert_eq!((from, hash, missing.as_slice()), (SENDER, message.hash, [1, 3].as_slice()));
        let mut repaired = message.chunks(Some(&missing));
        assert!(assembly.add(at, SENDER, repaired.next().unwrap()).unwrap().is_none());
        assert!(assembly.add(at, SENDER, repaired.next().unwrap()).unwrap().is_some());
    }

    #[test]
    fn an_unanswered_repair_is_given_up() {
        let mut assembly = Assembly::default();
        assembly.add(Time(0), SENDER, message(5000).chunks(None).next().unwrap()).unwrap();
        let mut asked = 0;
        while let Some(at) = assembly.next_repair() {
            asked += assembly.repairs(at).len();
        }
        assert_eq!(asked, MAX_REPAIRS as usize);
    }

    #[test]
    fn malformed_chunks_are_refused_and_floods_are_bounded() {
        let mut assembly = Assembly::default();
        let good = message(2 * CHUNK_LEN + 100).chunks(None).next().unwrap();
        for bad in [
            Chunk { length: 0, ..good.clone() },
            Chunk { index: 3, ..good.clone() },
            Chunk { index: 2, ..good.clone() },
            Chunk { length: u32::MAX, ..good.clone() },
        ] {
            assert!(assembly.add(Time(0), SENDER, bad).is_err());
        }
        for n in 0..1000_u32 {
            let chunk = Chunk { message: Hash([(n % 256) as u8; 32]), ..good.clone() };
            let _ = assembly.add(Time(u64::from(n)), MemberId([(n / 256) as u8; 32]), chunk);
        }
        assert!(assembly.partial.len() <= MAX_PARTIAL);
    }
}
