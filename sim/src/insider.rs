//! A member in hostile hands: its process goes on, and somebody else signs with its key, too.

use muster_bridge::Port;
use muster_wire::idp::{GroupState, Hello};
use muster_wire::mike::{Chunk, MessageKind};
use muster_wire::{Destination, Envelope, Header, Instance, Kind, Transmit, Voucher};

use crate::devices::device;
use crate::forge::{Insider, Message};
use crate::world::Event;
use crate::{Fact, Input, Node, World};

/// Messages that it remembers.
const OVERHEARD: usize = 12;
/// Hand-overs at once.
const FLOOD: usize = 8;

/// Whole messages that were sent by anybody.
#[derive(Default)]
pub(crate) struct Overheard {
    /// Of the message that is being sent.
    chunks: Vec<Chunk>,
    messages: Vec<(Header, Message)>,
}

impl Overheard {
    pub(crate) fn listen(&mut self, datagram: &[u8]) {
        let Ok(envelope) = Envelope::parse(Voucher::split(datagram).1) else { return };
        let Ok(chunk) = envelope.decode::<Chunk>() else { return };
        if self.chunks.first().is_none_or(|first| first.message != chunk.message) || chunk.index == 0 {
            self.chunks.clear();
        }
        self.chunks.push(chunk);
        if let Some(message) = Message::of(&self.chunks) {
            if self.messages.len() >= OVERHEARD {
                self.messages.remove(0);
            }
            self.messages.push((*envelope.header(), message));
        }
    }
}

impl World {
    /// A device is taken over.
    pub(crate) fn take_over(&mut self, node: usize) {
        let device = device(self.plan.devices[node]);
        let insider = Insider { key: device.key.clone(), member: device.member, startup: 0, sequence: 0 };
        self.hostile.insert(node, insider);
        self.happened(Fact::TakenOver { node, member: device.member });
        self.put(self.now, Event::Mischief(node));
    }

    /// It is found out, and set up anew.
    pub(crate) fn win_back(&mut self, node: usize) {
        self.hostile.remove(&node);
        if self.nodes[node].is_running() {
            self.happened(Fact::Stopped { node });
        }
        self.start(node);
    }

    /// Something that is properly signed, and wrong.
    pub(crate) fn mischief(&mut self, node: usize) {
        let Some(mut insider) = self.hostile.remove(&node) else { return };
        insider.startup = self.nodes[node].startup();
        let noise: Vec<u8> = (0..4).flat_map(|_| self.mischief.seed()).collect();
        let mut input = Input::new(&noise);
        let to = match self.mischief.below(self.nodes.len() + 1) {
            all if all == self.nodes.len() => None,
            other => Some(other),
        };
        let forged = match input.below(5) {
            0 | 1 => self.forged_datagram(&mut insider, &mut input).into_iter().collect(),
            2 => self.forged_message(&mut insider, &mut input),
            3 => self.flood(&mut insider, to.unwrap_or(node), &mut input),
            _ => self.second_header(&mut insider, &mut input),
        };
        for (port, bytes) in forged {
            self.tally.totals.forgeries += 1;
            let to = to.map_or(Destination::Group, |other| Destination::Unicast(Node::address(other, port)));
            self.send(node, port, Transmit { to, bytes });
        }
        self.hostile.insert(node, insider);
        let pause = self.mischief.ms(10, 300);
        self.put(self.now + pause, Event::Mischief(node));
    }

    fn forged_datagram(&self, insider: &mut Insider, input: &mut Input<'_>) -> Option<(Port, Vec<u8>)> {
        let (_, (port, _, bytes)) = self.captured.get(input.below(self.captured.len()))?;
        Some((*port, insider.forge_datagram(bytes, input)?))
    }

    fn forged_message(&self, insider: &mut Insider, input: &mut Input<'_>) -> Vec<(Port, Vec<u8>)> {
        let messages = &self.overheard.messages;
        let Some((header, message)) = messages.get(input.below(messages.len())) else { return Vec::new() };
        let forged = insider.forge_message(header, message, input);
        forged.into_iter().map(|bytes| (Port::KeyAgreement, bytes)).collect()
    }

    /// A group of its own that it says it manages, handed over to a node's again and again, and snapshots that it has
    /// heard: each makes work.
    fn flood(&mut self, insider: &mut Insider, to: usize, input: &mut Input<'_>) -> Vec<(Port, Vec<u8>)> {
        let hello = |bytes: &[u8]| {
            let envelope = Envelope::parse(bytes).ok().filter(|envelope| envelope.header().sender == insider.member)?;
            Some((*envelope.header(), envelope.decode::<Hello>().ok()?))
        };
        let hello = self.captured.iter().rev().find_map(|(_, (_, _, bytes))| hello(bytes));
        let (Some((header, hello)), Some(view)) = (hello, self.nodes[to].view(self.now)) else { return Vec::new() };
        insider.sequence = insider.sequence.max(header.sequence);
        let from = Instance { tm: insider.member, startup: insider.startup, random: u64::from(input.word()) };
        let group = GroupState { instance: from, size: 1, ..hello.group };
        let says = insider.say(&header, &Hello { group, ..hello });
        let mut flood: Vec<_> = says.into_iter().map(|bytes| (Port::Discovery, bytes)).collect();
        for _ in 0..FLOOD {
            let public = self.mischief.seed();
            let handed_over = insider.hand_over(&header, from, view.instance, public);
            flood.extend(handed_over.into_iter().map(|bytes| (Port::KeyAgreement, bytes)));
        }
        let snapshots = self.overheard.messages.iter().filter(|(_, message)| message.kind == MessageKind::Snapshot);
        for (header, snapshot) in snapshots {
            let again = insider.repeat(header, snapshot);
            flood.extend(again.into_iter().map(|bytes| (Port::KeyAgreement, bytes)));
        }
        self.tally.totals.floods += 1;
        flood
    }

    /// A transaction manager that signs a second header for an epoch.
    fn second_header(&mut self, insider: &mut Insider, input: &mut Input<'_>) -> Vec<(Port, Vec<u8>)> {
        let own = |(header, message): &&(Header, Message)| {
            header.sender == insider.member && header.kind == Kind::Chunk && message.kind == MessageKind::Commit
        };
        let Some((header, message)) = self.overheard.messages.iter().rev().find(own).cloned() else {
            return Vec::new();
        };
        let forged = insider.equivocate(&header, &message, 1 + input.word() % 4095);
        self.tally.totals.equivocations += u64::from(!forged.is_empty());
        forged.into_iter().map(|bytes| (Port::KeyAgreement, bytes)).collect()
    }
}
