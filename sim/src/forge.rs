//! What attackers do to bytes: those without a key, and insiders, who sign what they like.

use muster_certs::SigningKey;
use muster_wire::mike::{CHUNK_LEN, Chunk, Commit, EpochHeader, Handover, Leaf, MessageKind, Snapshot};
use muster_wire::{Body, Bytes, Envelope, Hash, Header, Instance, Kind, List, MemberId, Signed, Voucher, codec};
use sha2::{Digest, Sha256};

use crate::Input;

/// Changes bytes here and there.
pub fn scramble(bytes: &mut Vec<u8>, input: &mut Input<'_>) {
    for _ in 0..=input.below(3) {
        let at = input.below(bytes.len());
        match input.below(7) {
            0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (at % 8)),
            1 => bytes.iter_mut().skip(at).zip(input.bytes(1)).for_each(|(byte, new)| *byte = *new),
            2 => bytes.iter_mut().skip(at).zip(input.bytes(8)).for_each(|(byte, new)| *byte = *new),
            3 => {
                let value =
                    [0, 1, u64::from(u16::MAX), u64::from(u32::MAX), 1 << 32, 1 << 63, u64::MAX][input.below(7)];
                bytes.iter_mut().skip(at).zip(value.to_be_bytes()).for_each(|(byte, new)| *byte = new);
            }
            4 => bytes.truncate(at),
            5 => {
                let new = input.bytes(16).to_vec();
                bytes.splice(at..at, new);
            }
            // One place's content at another: keys and names that exist.
            _ => {
                let from = input.below(bytes.len());
                let copied: Vec<u8> = bytes.iter().skip(from).take(32).copied().collect();
                bytes.iter_mut().skip(at).zip(copied).for_each(|(byte, new)| *byte = new);
            }
        }
    }
}

/// A value with its encoding changed; as it was if that does not decode.
macro_rules! scrambled {
    ($value:expr, $input:expr) => {{
        let mut bytes = codec::encode($value).unwrap_or_default();
        scramble(&mut bytes, $input);
        codec::decode(&bytes).unwrap_or_else(|_| $value.clone())
    }};
}

/// A certified device with the key in the attacker's hands.
pub struct Insider {
    /// Its certificate's.
    pub key: SigningKey,
    /// Who it is.
    pub member: MemberId,
    /// Its process's stamp.
    pub startup: u64,
    /// The highest sequence number that it has used.
    pub sequence: u64,
}

impl Insider {
    /// A datagram like `model`, in the insider's name and properly signed.
    pub fn forge_datagram(&mut self, model: &[u8], input: &mut Input<'_>) -> Option<Vec<u8>> {
        let envelope = Envelope::parse(Voucher::split(model).1).ok()?;
        let mut header = Header { sender: self.member, startup: self.startup, ..*envelope.header() };
        let own = header.sender == envelope.header().sender;
        if own {
            self.sequence = self.sequence.max(header.sequence);
        }
        if !own || input.flag() {
            self.sequence = self.sequence.saturating_add(1);
            header.sequence = self.sequence;
        }
        match input.below(12) {
            0 => header.kind = Kind::ALL[input.below(Kind::ALL.len())],
            1 => header.startup = header.startup.wrapping_add_signed(i64::from(input.byte() as i8)),
            2 => header.sequence = u64::MAX - u64::from(input.byte()),
            _ => {}
        }
        let mut body = envelope.body().to_vec();
        scramble(&mut body, input);
        self.key.seal(&header, &body).ok()
    }

    /// A message like `model`, changed where the insider can sign again, in datagrams of its own.
    pub fn forge_message(&mut self, header: &Header, model: &Message, input: &mut Input<'_>) -> Vec<Vec<u8>> {
        let changed = match model.kind {
            MessageKind::Commit => self.forge_commit(&model.bytes, input),
            MessageKind::Snapshot => self.forge_snapshot(&model.bytes, input),
            MessageKind::Handover => self.forge_handover(&model.bytes, input),
        };
        let bytes = changed.unwrap_or_else(|| {
            let mut bytes = model.bytes.clone();
            scramble(&mut bytes, input);
            bytes
        });
        self.send(header, Message { kind: model.kind, header: model.header, bytes })
    }

    /// The same commit of the insider's own under another header: only the SPI tag differs, so all else fits.
    pub fn equivocate(&mut self, header: &Header, commit: &Message, tag: u16) -> Vec<Vec<u8>> {
        let second = || {
            let mut commit: Commit = codec::decode(&commit.bytes).ok()?;
            let epoch = EpochHeader { spi_tag: tag, ..commit.header.decode().ok()? };
            commit.header = self.key.sign_value(&epoch).ok()?;
            let header = hash("header", &[commit.header.signed_bytes()]);
            Some(Message { kind: MessageKind::Commit, header, bytes: codec::encode(&commit).ok()? })
        };
        second().map(|message| self.send(header, message)).unwrap_or_default()
    }

    /// Anything, in the insider's name.
    pub fn say<T: Body>(&mut self, model: &Header, body: &T) -> Option<Vec<u8>> {
        self.seal(model, T::KIND, &codec::encode(body).ok()?)
    }

    /// A hand-over of a group in which it is alone, right in all but that it holds no secret to its leaf.
    pub fn hand_over(&mut self, model: &Header, from: Instance, target: Instance, public: [u8; 32]) -> Vec<Vec<u8>> {
        let handover = || {
            let (member, startup, generation) = (self.member, self.startup, self.sequence.saturating_add(1 << 32));
            let leaf = Leaf { mode: 1, group: model.group, member, startup, generation, public };
            let leaves = List::new(vec![self.key.sign_value(&leaf).ok()?])?;
            let header = Hash(public);
            let handover =
                Handover { group: model.group, from, epoch: 1, header, target, tags: List::default(), leaves };
            let bytes = codec::encode(&self.key.sign_value(&handover).ok()?).ok()?;
            Some(Message { kind: MessageKind::Handover, header, bytes })
        };
        handover().map(|message| self.send(model, message)).unwrap_or_default()
    }

    /// A message of somebody else under a name that nobody has handled yet.
    pub fn repeat(&mut self, model: &Header, message: &Message) -> Vec<Vec<u8>> {
        let header = hash("repeated", &[&self.sequence.to_be_bytes()]);
        self.send(model, Message { header, ..message.clone() })
    }

    fn send(&mut self, model: &Header, message: Message) -> Vec<Vec<u8>> {
        message.chunks().into_iter().filter_map(|chunk| self.say(model, &chunk)).collect()
    }

    fn seal(&mut self, model: &Header, kind: Kind, body: &[u8]) -> Option<Vec<u8>> {
        self.sequence = self.sequence.saturating_add(1);
        let header =
            Header { kind, group: model.group, sender: self.member, startup: self.startup, sequence: self.sequence };
        self.key.seal(&header, body).ok()
    }

    fn forge_commit(&self, bytes: &[u8], input: &mut Input<'_>) -> Option<Vec<u8>> {
        let mut commit: Commit = codec::decode(bytes).ok()?;
        let mut header = commit.header.decode().ok()?;
        match input.below(6) {
            0 => header = scrambled!(&header, input),
            1 => commit.body = scrambled!(&commit.body, input),
            2 => commit.body.leaf = Some(self.forge_leaf(commit.body.leaf.as_ref()?, input)?),
            3 => commit.body.removed = List::new(input.bytes(4).iter().map(|slot| u32::from(*slot)).collect())?,
            4 => {
                let mut handovers = commit.handovers.to_vec();
                let copied = handovers.first()?.clone();
                handovers.push(copied);
                commit.handovers = List::new(handovers)?;
            }
            // The header alone is signed again.
            _ => {}
        }
        header.body = hash("commit body", &[&codec::encode(&commit.body).ok()?]);
        if !commit.handovers.is_empty() {
            let parts: Vec<Vec<u8>> = commit.handovers.iter().filter_map(|h| codec::encode(h).ok()).collect();
            header.handovers = hash("hand-overs", &parts.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        if input.flag() {
            header.instance.tm = self.member;
        }
        if input.flag() {
            header.epoch = header.epoch.wrapping_add(u64::from(input.byte() % 4));
        }
        commit.header = self.key.sign_value(&header).ok()?;
        codec::encode(&commit).ok()
    }

    fn forge_snapshot(&self, bytes: &[u8], input: &mut Input<'_>) -> Option<Vec<u8>> {
        let mut snapshot: Snapshot = codec::decode(bytes).ok()?;
        if input.flag() {
            let mut header = snapshot.header.decode().ok()?;
            header.instance.tm = self.member;
            header = scrambled!(&header, input);
            snapshot.header = self.key.sign_value(&header).ok()?;
        } else {
            snapshot = scrambled!(&snapshot, input);
        }
        codec::encode(&snapshot).ok()
    }

    fn forge_handover(&self, bytes: &[u8], input: &mut Input<'_>) -> Option<Vec<u8>> {
        let signed: Signed<Handover> = codec::decode(bytes).ok()?;
        let mut handover = signed.decode().ok()?;
        match input.below(3) {
            0 => handover = scrambled!(&handover, input),
            1 => {
                let mut leaves = handover.leaves.to_vec();
                let forged = self.forge_leaf(leaves.first()?, input)?;
                leaves.push(forged);
                handover.leaves = List::new(leaves)?;
            }
            _ => {}
        }
        if input.flag() {
            handover.from.tm = self.member;
        }
        codec::encode(&self.key.sign_value(&handover).ok()?).ok()
    }

    fn forge_leaf(&self, model: &Signed<Leaf>, input: &mut Input<'_>) -> Option<Signed<Leaf>> {
        let mut leaf = model.decode().ok()?;
        if input.flag() {
            leaf.member = self.member;
        }
        leaf = match input.below(3) {
            // Of low order.
            0 => Leaf { public: [0; 32], ..leaf },
            1 => Leaf { generation: leaf.generation.wrapping_add(u64::from(input.byte())), ..leaf },
            _ => scrambled!(&leaf, input),
        };
        self.key.sign_value(&leaf).ok()
    }
}

/// A chunked message, whole.
#[derive(Clone)]
pub struct Message {
    /// What it is.
    pub kind: MessageKind,
    /// Of the epoch's header.
    pub header: Hash,
    /// Encoded.
    pub bytes: Vec<u8>,
}

impl Message {
    /// From the chunks of one sender in order; `None` if one is missing.
    pub fn of(chunks: &[Chunk]) -> Option<Message> {
        let first = chunks.first()?;
        let bytes: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.data.iter().copied()).collect();
        (bytes.len() == first.length as usize).then_some(Message { kind: first.kind, header: first.header, bytes })
    }

    fn chunks(&self) -> Vec<Chunk> {
        let message = hash("message", &[&[self.kind as u8], &self.header.0, &self.bytes]);
        let chunk = |(index, data): (usize, &[u8])| {
            Some(Chunk {
                message,
                kind: self.kind,
                header: self.header,
                length: u32::try_from(self.bytes.len()).ok()?,
                index: u16::try_from(index).ok()?,
                data: Bytes::new(data.to_vec())?,
            })
        };
        self.bytes.chunks(CHUNK_LEN).enumerate().filter_map(chunk).collect()
    }
}

/// SHA-256 over a label and parts, each with its length (MIKE's SPEC).
fn hash(label: &str, parts: &[&[u8]]) -> Hash {
    let mut digest = Sha256::new();
    for part in std::iter::once(label.as_bytes()).chain(parts.iter().copied()) {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    Hash(digest.finalize().into())
}
